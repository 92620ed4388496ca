"""Trainings to be killed and resumed, each a function of the folder that it is in; see kills.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from same_bits import differences, lost

import npconv as nc
from npconv import data
from npconv.checkpoints import file as checkpoint_file
from npconv.checkpoints.file import Checkpoint
from npconv.cli import main as npconv_main

SIZES = ("--network", "strided", "--channels", "4", "--patches", "96", "--validation-pairs", "8", "--batch-size", "8",
         "--patch-size", "16", "--noise", "gaussian:25", "--optimizer", "adam", "--lr", "0.01",
         "--checkpoint-every", "4 steps")  # fmt: skip
OPTIONS = (*SIZES, "--epochs", "3")


@dataclass
class Training:
    """One kind of them.

    train: begins in a folder, or goes on with what is there (True); its exit status. judge: what was lost, of the run
    in the second folder: beside the first, which was left alone, or of the checkpoint that it went on from.
    """

    name: str
    train: Callable[[Path, bool], int]
    judge: Callable[[Path, Path, Checkpoint | None], list[str]]
    same_bits: bool = True


def all_of(folder: Path, options: list[str], seconds: float) -> list[Training]:
    """`npconv train` by epochs, with these `options` if there are any and then alone; by layers; by time."""
    photos = folder / "photos"
    photos.mkdir()
    for i, image in enumerate(data.dead_leaves(4, 64, 72, np.random.default_rng(0))):
        data.write_image(photos / f"{i}.png", image)
    by_epochs = _command("epochs", photos, [*OPTIONS, *options])
    if options:
        return [by_epochs]
    by_time = _command("time", photos, [*SIZES, "--time", str(seconds)])
    by_time.judge, by_time.same_bits = (lambda _, run, held: lost(held, run, seconds)), False
    return [by_epochs, Training("layers", _train_layers, _same), by_time]


def _command(name: str, photos: Path, options: list[str]) -> Training:
    def train(run: Path, resumed: bool) -> int:
        anew = ["--data", str(photos), *options, "-o", str(run), "--overwrite"]
        return npconv_main(["train", *(["--resume", str(run)] if resumed else anew)])

    return Training(name, train, _same)


def _same(alone: Path, run: Path, _: Checkpoint | None) -> list[str]:
    return differences(alone, run)


def _train_layers(run: Path, resumed: bool) -> int:
    """A network with batch normalisation, whose averages go on from step to step, and Dropout, which draws numbers."""
    run.mkdir(exist_ok=True)
    nc.manual_seed(0)
    ends = nc.Conv2d(3, 8, 3, padding=1, bias=False), nc.Conv2d(8, 3, 3, padding=1)
    network = nc.Sequential(ends[0], nc.BatchNorm2d(8), nc.ReLU(), nc.Dropout(0.2), ends[1])
    model = nc.Model(network, optimizer=nc.Adam(network.parameters(), lr=0.01, amsgrad=True))
    photos = data.ArrayPhotos(data.dead_leaves(6, 48, 48, np.random.default_rng(0)))
    pairs = data.PatchPairs(photos, data.Gaussian(0, 50), 96, 16)
    held_out = pairs.take(8, np.random.default_rng(1))
    file = run / "checkpoint.h5"
    where = {"resume_from": file} if resumed else {"checkpoint": file}
    schedule = nc.CosineAnnealingLR(model.optimizer, 4 * 12)
    model.train(pairs, num_epochs=4, batch_size=8, validation=held_out, schedule=schedule, schedule_every="batch",
                checkpoint_every="3 steps", **where)  # fmt: skip
    model.save(run / "model.h5")
    return 0


def place(run: Path) -> tuple[str, Checkpoint | None]:
    """Where a killed training can go on, in words, and its checkpoint; None if it had not even begun."""
    file = run / "checkpoint.h5"
    if not file.is_file():
        return "nothing had begun", None
    held = checkpoint_file.read(file)
    progress = held.state["progress"]
    steps = 0 if progress["epoch"] is None else progress["epoch"]["steps"]
    litter = sum(path.name.startswith(".") for path in run.iterdir())
    left = f", {litter} part left" if litter else ""
    return f"epoch {progress['done'] + 1}, after step {steps}{left}", held
