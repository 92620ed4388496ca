"""`npconv train --resume`: from any data a run goes on as if it had never stopped; and with which options."""

from __future__ import annotations

import json
import os
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from train_runs import SMALL, few_leaves, make_data, plain_pictures, resume, run, signal_in_step

import npconv
from npconv.checkpoints.file import read
from npconv.cli import main
from npconv.cli.run_folder import FILES
from npconv.cli.train import Training
from npconv.model import Model

pytest.importorskip("matplotlib")
if os.name != "posix":
    pytest.skip("signals of POSIX", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

from same_bits import differences  # the benchmarks are scripts, not a package


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def small_and_quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    few_leaves(monkeypatch)
    if "[folder]" not in request.node.name:
        plain_pictures(monkeypatch)


# ---- the same bits, from all kinds of data ----
DATA = {
    "folder": ("--data", "photos"),
    "HDF5 photographs": ("--data", "photos.h5", "--noise", "gaussian:0-50", "--target", "clean"),
    "ready-made pairs": ("--data", "pairs.h5"),
    "dead leaves": ("--leaves", "--noise", "gaussian:25"),
    "single noisy images": ("--data", "photos", "--target", "self"),
    "noise drawn once": ("--data", "photos", "--target", "self", "--noise", "gaussian:25", "--no-augment"),
    "one image": ("--data", "photos/0.png", "--target", "self"),
    "a broken photograph": ("--data", "broken", "--corrupt", "skip", "--noise", "poisson:30"),
    "given validation": ("--data", "photos", "--validation", "photos.h5", "--noise", "gaussian:25"),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.filterwarnings("default::UserWarning")  # of the broken photograph
def test_it_ends_as_if_never_stopped(name: str, folder: Path, tmp_path: Path) -> None:
    options = [str(folder / o) if (folder / o).exists() else o for o in DATA[name]]
    if name == "folder":  # with pictures
        options += ["--epochs", "1"]
    if "pairs" in name:
        patches = [SMALL.index(option) for option in ("--patches", "--patch-size")]
        without = [o for i, o in enumerate(SMALL) if i not in {*patches, *(p + 1 for p in patches)}]
        alone = lambda out: main(["train", *options, *without, "-o", str(out)])  # noqa: E731
    else:
        alone = lambda out: run(folder, out, *options)  # noqa: E731
    assert alone(tmp_path / "alone") == 0
    out = tmp_path / "run"
    with signal_in_step(4 if name in ("folder", "ready-made pairs") else 8):
        assert alone(out) == 130
    assert resume(out) == 0
    assert differences(tmp_path / "alone", out) == []
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    "options",
    [
        ("--network", "unet", "--channels", "4", "--depth", "1", "--noise", "gaussian:25"),
        ("--network", "dncnn", "--channels", "4", "--depth", "3", "--optimizer", "sgd", "--schedule", "one-cycle"),
        ("--network", "ffdnet", "--channels", "4", "--depth", "3", "--schedule", "exponential", "--seed", "7"),
    ],
)
def test_other_networks(options: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path / "alone", *options) == 0
    with signal_in_step(7):
        assert run(folder, tmp_path / "run", *options) == 130
    assert resume(tmp_path / "run") == 0
    assert differences(tmp_path / "alone", tmp_path / "run") == []


def test_a_run_by_time_goes_on_counting(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timed = [o for o in SMALL if o not in ("--epochs", "2")]
    command = ["train", "--data", str(folder / "photos"), *timed, "--time", "1", "-o", str(tmp_path / "run")]
    with signal_in_step(2):
        assert main(command) == 130
    passed = read(tmp_path / "run" / "checkpoint.h5").state["progress"]["clock"]["passed"]
    started = time.perf_counter()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert passed > 0 and time.perf_counter() - started < 1 - passed + 3
    state = read(tmp_path / "run" / "checkpoint.h5").state
    assert state["finished"] and 0.6 < state["progress"]["clock"]["passed"] < 4
    assert "resumed      " in capsys.readouterr().out


def test_the_arrays_of_the_checkpoint_are_not_held(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the run goes on, it has network, optimizer and the best network, and no further copy of them."""
    assert run(folder, tmp_path / "run", "--epochs", "1") == 0
    held, alive, batch_done = [], [], Training._batch_done

    def watched(where: Any) -> npconv.checkpoints.file.Checkpoint:
        contents = read(where)
        for group in ("parameters", "optimizer"):
            held.extend(map(weakref.ref, contents.arrays[group].values()))
        return contents

    def count(self: Training, *values: Any) -> None:
        batch_done(self, *values)
        alive.append(sum(reference() is not None for reference in held))

    monkeypatch.setattr(npconv.checkpoints.file, "read", watched)
    monkeypatch.setattr(Training, "_batch_done", count)
    assert resume(tmp_path / "run", "--epochs", "2") == 0
    assert held and alive == [0] * 6


# ---- how it is told ----
def test_what_is_shown(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my run"
    with signal_in_step(9):
        assert run(folder, out) == 130
    shown = capsys.readouterr()
    command = f"npconv train --resume '{out}'"
    assert shown.out == "" and len(shown.err.splitlines()) == 1
    assert f"interrupted: {out / 'model.h5'} holds the best epoch, 1 (" in shown.err
    assert shown.err.endswith(f"; {command} goes on\n")
    assert run(folder, out) == 2 and f"; {command} goes on with its run" in capsys.readouterr().err

    assert main(["train", "--resume", str(out), "--epochs", "3"]) == 0
    lines = capsys.readouterr().out
    assert f"resumed      {out / 'checkpoint.h5'}, after 1 epoch and 3 steps\n" in lines
    assert "changed      --epochs (=3), not 2\n" in lines and "\n    2  0." in lines and "\n    3  0." in lines
    assert json.loads((out / "options.json").read_text())["epochs"] == 3

    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(["train", "--resume", str(out)]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{out}: this run is finished after 3 epochs, the best one ")
    assert told.endswith("nothing to do; with more --epochs it would go on\n")
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_in_another_folder(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path / "alone") == 0
    with signal_in_step(9):
        assert run(folder, tmp_path / "run") == 130
    (tmp_path / "run" / "model.h5").unlink()  # the checkpoint has it too
    moved = folder / "moved"
    (folder / "photos").rename(moved)
    try:
        assert main(["train", "--resume", str(tmp_path / "run"), "--quiet"]) == 2  # photos/ is gone
        command = ["train", "--resume", str(tmp_path / "run"), "--data", str(moved), "-o", str(tmp_path / "other")]
        assert main([*command, "--quiet", "--checkpoint-every", "1 step"]) == 0
    finally:
        moved.rename(folder / "photos")
    assert differences(tmp_path / "alone", tmp_path / "other") == []
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name == "model.h5"] == []


def test_a_model_that_has_come_after_the_checkpoint_is_taken_back(folder: Path, tmp_path: Path) -> None:
    """As where a kill comes between an epoch's files and its checkpoint."""
    assert run(folder, tmp_path / "alone") == 0
    out = tmp_path / "run"
    with signal_in_step(9):
        assert run(folder, out) == 130
    Model(npconv.networks.strided(channels=4)).save(out / "model.h5")
    with signal_in_step(1):
        assert main(["train", "--resume", str(out)]) == 130
    with h5py.File(out / "model.h5") as model, h5py.File(out / "checkpoint.h5") as checkpoint:
        for name, array in model["parameters"].items():
            np.testing.assert_array_equal(array, checkpoint["best.parameters"][name])
    assert main(["train", "--resume", str(out), "--quiet"]) == 0
    assert differences(tmp_path / "alone", out) == []


# ---- options ----
@pytest.fixture(scope="module")
def stopped(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "run"
    with signal_in_step(2):
        assert run(folder, out) == 130
    return out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lr", "0.1", "--network", "unet"), "--lr (=0.1), not 0.5"),
        (("--network", "unet"), "the options it has, but was given:\n  --network (=unet), not strided"),
        (("--batch-size", "3"), "--batch-size (=3), not 8"),
        (("--noise", "gaussian:5"), "--noise (=gaussian:5), not pixel-sampling:5-8"),
        (("--no-augment",), "--no-augment, which it has not"),
        (("--seed", "1"), "--seed (=1), not 0"),
        (("--epochs", "1"), "--epochs (=1) must be at least that of the run: --epochs 2"),
        (("--time", "5m"), "--time (=300.0) cannot go on with a run of --epochs 2"),
        (("--data", "PAIRS"), "the options it has"),
        (("--checkpoint-every", "never"), "--checkpoint-every never does not go with --resume: the run goes on in its"),
        (("--checkpoint-every", "never", "-o", "OTHER"), "--checkpoint-every never does not go with --resume"),
    ],
)
def test_other_options_are_refused(
    options: tuple[str, ...], message: str, stopped: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = (stopped / "checkpoint.h5").read_bytes()
    places = {"PAIRS": str(folder / "pairs.h5"), "OTHER": str(stopped.parent / "other")}
    given = [places.get(option, option) for option in options]
    assert main(["train", "--resume", str(stopped), *given]) == 2
    error = capsys.readouterr().err
    if "PAIRS" in options:
        message = "holds ready-made pairs: --noise, --target, --patch-size, --patches would have no effect"
    assert error.startswith("npconv train: error: ") and message in error, error
    assert (stopped / "checkpoint.h5").read_bytes() == contents and not (stopped.parent / "other").exists()


def test_the_same_options_may_be_given_again(stopped: Path, folder: Path, tmp_path: Path) -> None:
    options = [*SMALL, "--data", str(folder / "photos"), "-o", str(tmp_path / "run"), "--checkpoint-every", "90s"]
    before = (stopped / "checkpoint.h5").read_bytes()
    assert main(["train", "--resume", str(stopped), *options]) == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(FILES)
    assert (stopped / "checkpoint.h5").read_bytes() == before


def test_other_data_in_the_same_place_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "photos"
    place.mkdir()
    for i in range(3):
        (place / f"{i}.png").write_bytes((folder / "photos" / f"{i}.png").read_bytes())
    out = tmp_path / "run"
    with signal_in_step(8):
        assert run(folder, out, "--data", str(place)) == 130
    (place / "1.png").write_bytes((folder / "photos" / "3.png").read_bytes())
    capsys.readouterr()
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()}
    assert len(before) == len(FILES) and resume(out) == 1
    told = capsys.readouterr().err
    assert told.startswith("npconv train: error: ") and "does not fit this training:\n  training data: mean " in told
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.iterdir()} == before


def test_what_is_no_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*command: str) -> str:
        assert main(["train", *command]) == 2
        return capsys.readouterr().err

    assert "must be the folder of a run: there is none" in error("--resume", str(tmp_path / "nowhere"))
    assert f"there is no checkpoint.h5 in {str(tmp_path)!r}: nothing to resume" in error("--resume", str(tmp_path))
    assert run(folder, tmp_path / "run", "--checkpoint-every", "never", "--epochs", "1") == 0
    assert ", only model.h5, the best epoch of a run without" in error("--resume", str(tmp_path / "run"))
    (tmp_path / "checkpoint.h5").write_bytes(b"nothing of the kind")
    assert "is damaged or not an HDF5 file" in error("--resume", str(tmp_path))
    model = Model(npconv.networks.strided(channels=4))
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)
    model.train(images, images, 1, checkpoint=tmp_path / "checkpoint.h5")
    assert "was not written by npconv train: go on with it in Python" in error("--resume", str(tmp_path))
    assert "argument --checkpoint-every: checkpoint_every (='x') must be" in error("--checkpoint-every", "x")


@pytest.mark.parametrize("options", [{"help": True}, {"resume": "x"}, {"nonsense": 1}, {"lr": "fast"}, {"network": 5},
                                     {"epochs": [1, 2]}, {"betas": {}}, {"noise": "--quiet"}])  # fmt: skip
def test_hostile_options(
    options: dict[str, Any], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = {"command": "train", "options": {"network": "strided", "data": str(folder / "photos"), **options}}
    model = Model(npconv.networks.strided(channels=4))
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)
    file = npconv.checkpoints.CheckpointFile(tmp_path / "checkpoint.h5", notes)
    model.train(images, images, 1, checkpoint=file)
    assert main(["train", "--resume", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "checkpoint.h5 has options that npconv train does not take: " in shown.err


def test_overwriting_replaces_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with signal_in_step(2):
        assert run(folder, out) == 130
    assert run(folder, out) == 2
    with signal_in_step(1):
        assert run(folder, out, "--overwrite", "--seed", "5") == 130
    contents = (out / "checkpoint.h5").read_bytes()
    assert read(out / "checkpoint.h5").state["fit"]["seed"] == 5
    with signal_in_step(3):
        assert run(folder, out, "--overwrite", "--checkpoint-every", "never") == 130
    assert (out / "checkpoint.h5").read_bytes() == contents  # nothing has taken its place
    assert run(folder, out, "--overwrite", "--checkpoint-every", "never") == 0
    assert not (out / "checkpoint.h5").exists()
