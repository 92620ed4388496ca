"""`npconv train` on tiny folders: what it writes, what it refuses, and how it ends when it is stopped."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import os
import subprocess
import sys

import h5py
import numpy as np
import on_backend
import pytest
from train_runs import plain_pictures

import npconv
from npconv import data
from npconv.cli import main, run_folder, sources
from npconv.cli.files import quoted
from npconv.cli.progress import Bar
from npconv.cli.recipe import PRESETS
from npconv.model import Model

pytest.importorskip("matplotlib")

COLUMNS = ["epoch", "loss", "validation_mse", "psnr_mean", "psnr_pooled", "seconds", "lr"]
SMALL = ("--network", "strided", "--channels", "4", "--patches", "64", "--validation-pairs", "8", "--epochs", "2",
         "--patch-size", "16")  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three small pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(data.dead_leaves(3, 96, 100, np.random.default_rng(0))):
        data.write_image(folder / f"{i}.png", image)
    return folder


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    if not {"test_a_run_writes_its_folder", "test_gray_transposed_adam_and_a_schedule"} & {request.node.name}:
        plain_pictures(monkeypatch)


@pytest.fixture
def train(photos, tmp_path):
    """Runs `npconv train` on the photos with small sizes, into tmp_path/run; returns the exit status."""

    def run(*options: str) -> int:
        where = () if "--data" in options else ("--data", str(photos))
        return main(["train", *where, *SMALL, "-o", str(tmp_path / "run"), *options])

    return run


def rows(folder) -> list[dict[str, str]]:
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def only_error(capsys, status: int, expected_status: int = 2) -> str:
    """The one line on stderr of a command that failed."""
    lines = capsys.readouterr().err.splitlines()
    assert status == expected_status and len(lines) == 1, lines
    return lines[0]


# ---- what it writes ----
def test_a_run_writes_its_folder(train, tmp_path, capsys):
    run = tmp_path / "my run"  # the command that is printed quotes it
    assert train("--noise", "gaussian:25", "-o", str(run)) == 0
    assert sorted(p.name for p in run.iterdir()) == sorted(
        ["model.h5", "history.csv", "curves.png", "examples.png", "options.json", "checkpoint.h5"]
    )
    history = rows(run)
    assert list(history[0]) == COLUMNS
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert all(float(row["seconds"]) > 0 for row in history)
    assert float(history[0]["lr"]) == pytest.approx(0.5 / 1.2)  # trapezoid over 4 steps: a warmup of 0.2 steps
    for row in history:  # the pooled PSNR is a function of the MSE; see npconv.metrics
        pooled = -10 * np.log10(float(row["validation_mse"]) + 1e-8)
        assert float(row["psnr_pooled"]) == pytest.approx(pooled, abs=1e-4)
    out = capsys.readouterr().out
    assert "2 images of" in out and "1 image of" in out and "gaussian:25; 64 patches of 16 x 16 an epoch" in out
    assert "strided, 4 channels: " in out and f"next: npconv denoise IMAGE --model {quoted(run / 'model.h5')}\n" in out


def test_the_model_is_that_of_the_best_epoch(train, photos, tmp_path):
    # So large a learning rate makes the PSNR go up and down.
    assert train("--epochs", "6", "--lr", "8", "--momentum", "0", "--schedule", "none", "--seed", "1") == 0
    history = rows(tmp_path / "run")
    best = max(history, key=lambda row: float(row["psnr_mean"]))
    assert best["epoch"] != "6"
    _, others = data.open_photos(photos).split(sources.HELD_OUT, np.random.default_rng(sources.VALIDATION_SEED))
    pairs = sources.validation_pairs(others, data.parse_noise("pixel-sampling"), 16, 8, sources.VALIDATION_SEED)
    mse, mean, pooled = Model.load(tmp_path / "run" / "model.h5").validate(*pairs)
    assert mean == pytest.approx(float(best["psnr_mean"]), abs=1e-4)
    assert mse == pytest.approx(float(best["validation_mse"]), rel=1e-4)
    assert pooled == pytest.approx(float(best["psnr_pooled"]), abs=1e-4)


def test_without_arguments_it_learns_from_dead_leaves(tmp_path, monkeypatch, capsys):
    if on_backend.chosen() == "standin":
        pytest.skip("32 channels take minutes where a CPU emulates the threads of a GPU")
    monkeypatch.chdir(tmp_path)
    for name, value in {"LEAVES": 3, "LEAVES_TO_VALIDATE": 2, "LEAVES_SIDE": 160}.items():
        monkeypatch.setattr(sources, name, value)
    assert PRESETS["unet"].seconds == 120  # what the help and the README promise
    monkeypatch.setitem(PRESETS, "unet", dataclasses.replace(PRESETS["unet"], seconds=0.5, patches=64))
    assert main(["train", "--validation-pairs", "8"]) == 0
    assert (tmp_path / "npconv-run" / "model.h5").is_file()
    options = json.loads((tmp_path / "npconv-run" / "options.json").read_text())
    assert options["network"] == "unet" and options["target"] == "noisy" and options["optimizer"] == "adam"
    assert (options["lr"], options["momentum"], options["noise"]) == (2e-3, None, "pixel-sampling:5-8")
    assert (options["time"], options["epochs"]) == (0.5, None)
    assert "dead leaves" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_history(train, tmp_path):
    def history(*options: str) -> list[list[str]]:
        assert train("--overwrite", "--quiet", *options) == 0
        return [[row[name] for name in COLUMNS if name != "seconds"] for row in rows(tmp_path / "run")]

    first = history("--seed", "3")
    assert history("--seed", "3") == first
    assert history("--seed", "4") != first


def test_quiet_prints_nothing(train, capsys):
    assert train("--quiet", "--epochs", "1") == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_gray_transposed_adam_and_a_schedule(train, tmp_path, capsys):
    options = ("--network", "strided-transposed", "--image-channels", "1", "--target", "clean")
    assert train(*options, "--noise", "poisson:30", "--optimizer", "adam", "--schedule", "cosine") == 0
    model = Model.load(tmp_path / "run" / "model.h5")
    assert isinstance(model.optimizer, npconv.Adam)
    kinds = [type(layer) for layer in model.network]
    assert kinds.count(npconv.ConvTranspose2d) == 2 and model.network[0].in_channels == 1
    lrs = [float(row["lr"]) for row in rows(tmp_path / "run")]
    assert lrs == pytest.approx([1e-3, 5e-4])  # half of the cosine after half of the epochs
    assert "clean targets" in capsys.readouterr().out


def test_defaults_depend_on_the_network(photos, tmp_path):
    options = ["--data", str(photos), "--network", "strided-transposed", *SMALL[4:], "--epochs", "1"]
    assert main(["train", *options, "-o", str(tmp_path / "run")]) == 0
    written = json.loads((tmp_path / "run" / "options.json").read_text())
    assert (written["channels"], written["lr"], written["momentum"]) == (48, 5.0, 0.0)
    assert Model.load(tmp_path / "run" / "model.h5").network[0].out_channels == 48


# ---- other data ----
def test_ready_made_pairs(train, tmp_path, capsys):
    pairs = np.random.default_rng(0).integers(0, 255, (2, 40, 3, 16, 16), dtype=np.uint8)
    data.write_pairs(tmp_path / "pairs.h5", *pairs)
    arguments = ["train", "--data", str(tmp_path / "pairs.h5"), "--channels", "4", "--epochs", "1"]
    assert main([*arguments, "-o", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "36 pairs of" in out and "4 of the pairs, held out; against their targets as they are, noisy or clean" in out
    assert "on 4 validation pairs" in out

    status = main([*arguments, "--noise", "gaussian:5", "--patches", "3", "-o", str(tmp_path / "other")])
    error = only_error(capsys, status)
    assert "holds ready-made pairs: --noise, --patches would have no effect" in error
    status = main([*arguments, "--no-augment", "-o", str(tmp_path / "other")])
    assert "holds ready-made pairs: --no-augment would have no effect" in only_error(capsys, status)
    assert not (tmp_path / "other").exists()


def test_hdf5_photos_and_validation_of_ones_own(train, photos, tmp_path, capsys):
    images = data.dead_leaves(2, 96, 96, np.random.default_rng(5), channels=1)
    data.write_images(tmp_path / "gray.h5", images)
    assert train("--data", str(tmp_path / "gray.h5"), "--validation", str(photos)) == 0
    assert Model.load(tmp_path / "run" / "model.h5").network[0].in_channels == 1
    assert f"validation   3 images of {photos}" in capsys.readouterr().out

    clean = images[:, :, :16, :16].astype(np.float32)
    data.write_pairs(tmp_path / "pairs.h5", clean + 10, clean)
    assert train("--data", str(tmp_path / "gray.h5"), "--validation", str(tmp_path / "pairs.h5"), "--overwrite") == 0
    out = capsys.readouterr().out
    assert "noisy input  PSNR 28.13 dB mean of images, 28.13 dB pooled, on 2 validation pairs" in out  # 20 lg 25.5


# ---- what it refuses, before it has made a folder ----
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--noise", "gauss"), "there is no noise named 'gauss'; choices: pixel-sampling"),
        (("--lr", "nan"), r"lr (=nan) must be finite"),
        (("--lr", "-1"), r"lr (=-1.0) must be at least 0"),
        (("--momentum", "0.5", "--optimizer", "adam"), "--momentum (=0.5) goes with --optimizer sgd only"),
        (("--epochs", "0"), "argument --epochs: '0' must be at least 1"),
        (("--batch-size", "x"), "argument --batch-size: 'x' must be a whole number"),
        (("--data", "nowhere"), "there is no folder or file 'nowhere'"),
        (("--validation", "nowhere"), "there is no folder or file 'nowhere'"),
        (("--patch-size", "32"), "'0.png' and 2 more"),
        (
            ("--patch-size", "18", "--noise", "gaussian:5"),
            "(=18 x 18) must be divisible by 4 for --network strided: choose --patch-size 20",
        ),
        (("--network", "vnet"), "invalid choice: 'vnet'"),
        (("--patch", "3"), "unrecognized arguments: --patch 3"),
        (("--seed", "-1"), "argument --seed: '-1' must be at least 0"),
    ],
)
def test_wrong_arguments_are_one_line(train, tmp_path, capsys, options, message):
    error = only_error(capsys, train(*options))
    assert error.startswith("npconv train: error: ") and message in error
    assert not (tmp_path / "run").exists()


def test_a_broken_photo_is_named(photos, train, tmp_path, capsys):
    folder = tmp_path / "broken"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        (folder / name).write_bytes((photos / "0.png").read_bytes())
    (folder / "b.png").write_bytes(b"not a picture")
    assert "b.png" in only_error(capsys, train("--data", str(folder)))


def test_one_photo_cannot_be_split(photos, train, tmp_path, capsys):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "a.png").write_bytes((photos / "0.png").read_bytes())
    assert "has one photo only: give others to validate on with --validation" in only_error(
        capsys, train("--data", str(folder))
    )
    assert train("--data", str(folder), "--validation", str(photos), "--epochs", "1") == 0


def test_a_folder_with_a_model_needs_overwrite(train, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.h5").write_bytes(b"precious")
    assert "exists already: choose another folder with -o, or give --overwrite" in only_error(capsys, train())
    assert (tmp_path / "run" / "model.h5").read_bytes() == b"precious"
    assert train("--overwrite", "--epochs", "1") == 0
    assert isinstance(Model.load(tmp_path / "run" / "model.h5"), Model)


def test_an_output_that_is_a_file_is_an_error(train, tmp_path, capsys):
    (tmp_path / "run").write_text("a file")
    assert str(tmp_path / "run") in only_error(capsys, train())


def test_ready_made_pairs_of_0_to_1_are_refused(train, tmp_path, capsys):
    images = np.random.default_rng(0).uniform(0, 1, (20, 3, 16, 16)).astype(np.float32)
    with h5py.File(tmp_path / "lab.h5", "w") as file:
        file["input"] = file["target"] = images
    error = only_error(capsys, main(["train", "--data", str(tmp_path / "lab.h5"), "-o", str(tmp_path / "run")]))
    assert "data set 'input' of lab.h5 has values in 0..1 (largest: " in error
    assert not (tmp_path / "run").exists()


def test_matplotlib_is_asked_for_at_the_start(train, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert 'pip install "npconv[app]"' in only_error(capsys, train())
    assert not (tmp_path / "run").exists()


def test_tqdm_may_be_missing(train, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert train("--epochs", "1") == 0
    assert "best epoch: 1" in capsys.readouterr().out


def test_a_bar_with_loss_and_psnr_on_a_terminal(train, capsys, monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, mininterval=0))  # these epochs are short
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "150")
    assert train("--batch-size", "16") == 0
    err = capsys.readouterr().err
    assert "epoch 1/2" in err and "epoch 2/2" in err and "loss 0." in err and " dB" in err


def test_the_bar_has_room_for_loss_and_psnr_in_80_columns(capsys, monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, mininterval=0))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    with Bar("epoch 100/100", 10000) as bar:
        bar.advance(9999, "loss 0.01234, PSNR 24.52 dB")
    shown = [line for line in capsys.readouterr().err.split("\r") if "9999/10000" in line]
    assert shown
    for line in shown:
        assert len(line) < 80 and line.startswith("epoch 100/100, loss 0.01234, PSNR 24.52 dB 100%|")


# ---- how it ends ----
STEP = "train_batch" if npconv.backend().shares_batch else "_step"  # a device need not wait for the loss


def interrupt_in_epoch(monkeypatch, number: int, error: BaseException | None = None) -> None:
    """Ctrl-C, or an error, during the epoch with this number."""
    original = getattr(Model, STEP)

    def train_batch(self, x, t):
        if len(self.history) + 1 == number:
            raise error or KeyboardInterrupt
        return original(self, x, t)

    monkeypatch.setattr(Model, STEP, train_batch)


def test_ctrl_c_keeps_the_best_model(train, tmp_path, capsys, monkeypatch):
    interrupt_in_epoch(monkeypatch, 2)
    error = only_error(capsys, train(), 130)
    run = tmp_path / "run"
    assert error.startswith(f"npconv train: interrupted: {run / 'model.h5'} holds the best epoch, 1 (")
    assert len(rows(run)) == 1
    assert isinstance(Model.load(run / "model.h5"), Model)


def test_ctrl_c_in_the_first_epoch_says_that_nothing_was_saved(train, tmp_path, capsys, monkeypatch):
    interrupt_in_epoch(monkeypatch, 1)
    error = only_error(capsys, train(), 130)
    command = f"npconv train --resume {tmp_path / 'run'}"
    assert error == f"npconv train: interrupted: no epoch had ended, so nothing was saved; {command} goes on"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint.h5"]  # from before the first step


def test_ctrl_c_while_a_picture_is_written_leaves_whole_files(train, tmp_path, capsys, monkeypatch):
    """All of them, as they are after that epoch."""
    curves, presses = run_folder.pictures.curves, iter([KeyboardInterrupt])

    def interrupted(*arguments):
        for press in presses:
            raise press
        curves(*arguments)

    monkeypatch.setattr(run_folder.pictures, "curves", interrupted)
    error = only_error(capsys, train(), 130)
    assert "holds the best epoch, 1" in error
    assert len(rows(tmp_path / "run")) == 1 and isinstance(Model.load(tmp_path / "run" / "model.h5"), Model)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(run_folder.FILES)


def test_a_collapse_reaches_the_user_in_plain_words(train, tmp_path, capsys):
    error = only_error(capsys, train("--lr", "1e6"), 1)
    assert "training has collapsed: the " in error and "Train again with a smaller learning rate" in error
    assert "So far no epoch had ended, so nothing was saved." in error
    assert not (tmp_path / "run" / "model.h5").exists()


def test_an_error_on_the_way_says_what_the_folder_holds(train, tmp_path, capsys, monkeypatch):
    interrupt_in_epoch(monkeypatch, 2, MemoryError("of the second epoch"))
    status = train("--lr", "0")
    first, second = capsys.readouterr().err.splitlines()
    assert status == 1 and first.startswith(
        f"npconv train: stopped by an error: {tmp_path / 'run' / 'model.h5'} holds the"
    )
    assert "best epoch, 1 (" in first and second == "npconv train: error: of the second epoch"


def test_an_error_before_training_is_one_line(train, capsys, monkeypatch):
    def unreadable(*_):
        raise ValueError("cannot read a.png")

    monkeypatch.setattr(data.PatchPairs, "take", unreadable)
    assert only_error(capsys, train(), 1) == "npconv train: error: cannot read a.png"


def test_unexpected_errors_keep_their_traceback(train, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Model, STEP, broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        train()


def test_the_console_entry(photos, tmp_path):
    options = ["--data", str(photos), *SMALL, "--epochs", "1", "-o", "run"]
    command = [sys.executable, "-m", "npconv.cli", "train", *options]
    backend = {"NPCONV_BACKEND": "cupy"} if on_backend.chosen() == "cupy" else {}
    environment = {**os.environ, **backend}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "best epoch: 1" in done.stdout
    assert (tmp_path / "run" / "model.h5").is_file()
