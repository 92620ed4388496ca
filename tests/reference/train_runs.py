"""Small runs of `npconv train`, from data of every kind, that a signal stops in the middle of a step."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npconv
from npconv import data
from npconv.cli import main, run_folder, sources
from npconv.model import Model

SMALL = ("--network", "strided", "--channels", "4", "--patches", "48", "--validation-pairs", "8", "--epochs", "2",
         "--patch-size", "16", "--batch-size", "8", "--quiet")  # fmt: skip
STEP = "train_batch" if npconv.backend().shares_batch else "_step"


def make_data(place: Path) -> Path:
    """All kinds of data."""
    images = data.dead_leaves(4, 88, 92, np.random.default_rng(0))
    (place / "photos").mkdir()
    for i, image in enumerate(images):
        data.write_image(place / "photos" / f"{i}.png", image)
    data.write_images(place / "photos.h5", images)
    small = images[:, :, :16, :16].repeat(5, axis=0)
    data.write_pairs(place / "pairs.h5", small, small[::-1])
    (place / "broken").mkdir()
    for name in ("a.png", "c.png", "d.png"):
        (place / "broken" / name).write_bytes((place / "photos" / "0.png").read_bytes())
    (place / "broken" / "b.png").write_bytes((place / "photos" / "1.png").read_bytes()[:900])
    return place


def few_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no data is given."""
    for name, value in {"LEAVES": 3, "LEAVES_TO_VALIDATE": 2, "LEAVES_SIDE": 48}.items():
        monkeypatch.setattr(sources, name, value)


def plain_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with what would be drawn stand for the pictures, which takes longer."""

    def curves(history: list[npconv.Epoch], path: Path, noisy: Any) -> None:
        path.write_text(repr([(e.epoch, e.loss, e.psnr, e.psnr_pooled, noisy) for e in history]))

    def examples(*images: Any, captions: bool) -> None:
        images[-1].write_bytes(b"".join(np.ascontiguousarray(each).tobytes() for each in images[:-1]))

    monkeypatch.setattr(run_folder.pictures, "curves", curves)
    monkeypatch.setattr(run_folder.pictures, "examples", examples)


def run(folder: Path, out: Path, *options: str) -> int:
    """The exit status of a small run on the photographs of `folder`, or on other --data, or on --leaves."""
    where = () if "--data" in options or "--leaves" in options else ("--data", str(folder / "photos"))
    return main(["train", *where, *SMALL, "-o", str(out), *(o for o in options if o != "--leaves")])


def resume(out: Path, *options: str) -> int:
    """The exit status of going on with the run in `out`, saying nothing but errors."""
    return main(["train", "--resume", str(out), "--quiet", *options])


@contextlib.contextmanager
def signal_in_step(number: int, which: int = signal.SIGINT) -> Any:
    """A signal to this process in the middle of step `number`."""
    original, count = getattr(Model, STEP), iter(range(1, 10**6))

    def step(self: Model, x: Any, t: Any) -> Any:
        if next(count) == number:
            os.kill(os.getpid(), which)
        return original(self, x, t)

    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored by what runs in the background
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Model, STEP, step)
            yield
    finally:
        signal.signal(signal.SIGINT, before)
