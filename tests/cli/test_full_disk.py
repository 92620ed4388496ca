"""A disk that does not take what an epoch of `npconv train` has given: the training goes on, and writes it later.

Four epochs of which the second is the best one, beside a run that nothing has disturbed.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_disks import fill, mounted, remount
from train_runs import SMALL, make_data, plain_pictures, signal_in_step

from npconv import pictures, whole_file
from npconv.checkpoints.file import read
from npconv.cli import main, run_folder
from npconv.cli.run_folder import FILES, RunFolder
from npconv.model import Model
from npconv.weights import read_arrays

pytest.importorskip("matplotlib")

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

from same_bits import differences  # the benchmarks are scripts, not a package

pytestmark = pytest.mark.usefixtures("ctrl_c")

Actions = dict[int, Callable[[], object]]  # by the number of the epoch

FOUR = ("--epochs", "4", "--noise", "gaussian:25", "--seed", "3")
PSNRS = (20.0, 30.0, 25.0, 22.0)  # of the epochs
OFTEN = ("--checkpoint-every", "1 step")
STEPS = 6  # of an epoch
WARNING = "npconv: warning: training goes on, and tries again later: "
ALL = "model.h5, examples.png, options.json, curves.png, history.csv"
LATER = ALL.replace("options.json, ", "")  # after the first epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def command(*arguments: Any) -> int:
    """The exit status of `npconv train`, where a warning is none but printed, as is usual."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        return main(["train", *map(str, arguments)])


def run(data: Path, out: Path, *options: str) -> int:
    return command("--data", data / "photos", *SMALL, *FOUR, "-o", out, *options)


def resume(out: Path) -> int:
    return command("--resume", out, "--quiet")


def best_is_the_second(patch: pytest.MonkeyPatch) -> None:
    original = Model.validate

    def validate(model: Model, *images: Any) -> Any:
        mse, _, pooled = original(model, *images)
        return mse, PSNRS[len(model.history)], pooled

    patch.setattr(Model, "validate", validate)


def whole_pictures(patch: pytest.MonkeyPatch) -> None:
    """Those of `plain_pictures`, written as the pictures are."""
    plain_pictures(patch)
    for name in ("curves", "examples"):
        plain = getattr(pictures, name)

        def draw(*arguments: Any, plain: Any = plain, **options: Any) -> None:
            with whole_file.whole_file(arguments[-1] if isinstance(arguments[-1], Path) else arguments[1]) as part:
                plain(*(part if isinstance(each, Path) else each for each in arguments), **options)

        patch.setattr(run_folder.pictures, name, draw)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    best_is_the_second(monkeypatch)
    whole_pictures(monkeypatch)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        best_is_the_second(patch)
        whole_pictures(patch)
        assert run(data, out) == 0
    return out


@pytest.fixture
def at_epochs(monkeypatch: pytest.MonkeyPatch) -> Callable[[Actions], None]:
    """Does something when an epoch has ended and nothing of it is written yet."""
    record = RunFolder.record

    def set_actions(actions: Actions) -> None:
        def act_and_record(folder: RunFolder, epoch: Any, *rest: Any) -> bool:
            actions.get(epoch.epoch, lambda: None)()
            return record(folder, epoch, *rest)

        monkeypatch.setattr(RunFolder, "record", act_and_record)

    return set_actions


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """The lines on stderr since the last time."""
    return lambda: capsys.readouterr().err.splitlines()


class Disk:
    """While `full` it names no files of a run's folder, and removes no parts of them, but takes checkpoints.

    `brief`: the next checkpoint finds it no longer full.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.full = self.brief = False
        self.refused = FILES[1:]  # all but the checkpoint
        self._replace, self._unlink = os.replace, Path.unlink
        patch.setattr(os, "replace", self.replace)
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: self.unlink(path, missing_ok))

    def replace(self, part: Any, path: Any) -> None:
        if self.full and Path(path).name in self.refused:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.full = self.full and not self.brief
        self._replace(part, path)

    def unlink(self, path: Path, missing_ok: bool) -> None:
        if self.full and ".part" in path.name:
            raise OSError(errno.EROFS, "Read-only file system")
        self._unlink(path, missing_ok)

    def set(self, full: bool) -> None:
        self.full = full


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def no_litter(folder: Path) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(FILES)


# ---- in earnest ----
@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "size=3m"):
        yield place


def test_a_disk_that_is_full_for_an_epoch(mount: Path, alone: Path, data: Path, at_epochs: Any, told: Any) -> None:
    """It is told once, and what is written at last is what would have been, the best model of the full epoch too."""
    there: list[bool] = []

    def look_and_free() -> None:
        there.append(bool(read_arrays(mount / "run" / "model.h5")) and no_litter(mount / "run"))
        (mount / "filler").unlink()

    at_epochs({2: lambda: fill(mount), 3: look_and_free})
    assert run(data, mount / "run") == 0
    (line,) = told()
    reason = "[Errno 28] No space left on device; the earlier ones stay"
    assert line.startswith(WARNING + "model.h5, ")
    assert line.endswith(f"history.csv in {mount / 'run'} cannot be written: {reason}") and there == [True]
    assert differences(alone, mount / "run") == [] and no_litter(mount / "run")


def test_a_disk_that_is_read_only_for_an_epoch(mount: Path, alone: Path, data: Path, at_epochs: Any, told: Any) -> None:
    actions = {1: lambda: remount(mount, "ro"), 3: lambda: remount(mount, "rw")}
    at_epochs(actions)
    assert run(data, mount / "run") == 0
    (line,) = told()
    assert line.startswith(f"{WARNING}{ALL} in {mount / 'run'} cannot be written: [Errno 30] Read-only file system: ")
    assert differences(alone, mount / "run") == [] and no_litter(mount / "run")


def test_a_disk_that_stays_full(mount: Path, alone: Path, data: Path, at_epochs: Any, told: Any) -> None:
    """The checkpoint of the end is what fails first; the one from before stays, and the run goes on from it."""
    out = mount / "run"
    at_epochs({2: lambda: fill(mount)})
    assert run(data, out) == 1
    _, first, second = told()
    held = f"{out / 'model.h5'} holds epoch 1 (20.00 dB), the best one, 2 (30.00 dB), could not be written"
    assert first == f"npconv train: stopped by an error: {held}; npconv train --resume {out} goes on"
    assert second.startswith(
        f"npconv train: error: the checkpoint {out / 'checkpoint.h5'} cannot be written: [Errno 28]"
    )
    (mount / "filler").unlink()
    at_epochs({})
    assert resume(out) == 0
    assert differences(alone, out) == [] and no_litter(out)


# ---- what the system refuses ----
def test_the_folder_vanishes_and_comes_back(tmp_path: Path, alone: Path, data: Path, at_epochs: Any, told: Any) -> None:
    """Empty: what had been written before is written again too."""
    out = tmp_path / "run"
    at_epochs({3: lambda: shutil.rmtree(out), 4: out.mkdir})
    assert run(data, out) == 0
    (line,) = told()
    assert line.startswith(f"{WARNING}{ALL} in {out} cannot be written: [Errno 2] No such file or directory: ")
    assert differences(alone, out) == [] and no_litter(out)


def test_it_is_written_after_the_next_checkpoint(
    disk: Disk, tmp_path: Path, alone: Path, data: Path, at_epochs: Any, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    """An epoch may take hours: the next one's end is not waited for. Each time that it is full is told once."""
    out, there = tmp_path / "run", []

    def full_again() -> None:
        disk.full = disk.brief = True

    at_epochs({1: lambda: disk.set(True), 3: lambda: disk.set(True), 4: full_again})
    done = Model.train

    def train(model: Model, *arguments: Any, batch_callback: Any, **options: Any) -> Any:
        def look(step: int, *rest: Any) -> None:
            if step == 3:  # of 6
                there.append((len(model.history), (out / "model.h5").is_file(), disk.full))
                disk.set(False)
            batch_callback(step, *rest)
            if step == 5:
                there.append((len(model.history), (out / "model.h5").is_file(), disk.full))

        return done(model, *arguments, batch_callback=look, **options)

    monkeypatch.setattr(Model, "train", train)
    assert run(data, out, *OFTEN) == 0
    assert there[2:4] == [(1, False, True), (1, True, False)]
    refused = "cannot be written: [Errno 28] No space left on device"
    assert told() == [
        f"{WARNING}{ALL} in {out} {refused}",
        *[f"{WARNING}curves.png, history.csv in {out} {refused}; the earlier ones stay"] * 2,
    ]
    assert differences(alone, out) == [] and no_litter(out)


def test_resumed_before_it_could_be_written(
    disk: Disk, tmp_path: Path, alone: Path, data: Path, at_epochs: Any, told: Any
) -> None:
    """The best model is in the checkpoint: it is written by the run that goes on."""
    out = tmp_path / "run"
    at_epochs({2: lambda: disk.set(True)})
    with signal_in_step(2 * STEPS + 2):
        assert run(data, out, *OFTEN) == 130
    warning, line = told()
    reason = "[Errno 28] No space left on device; the earlier ones stay"
    assert warning == f"{WARNING}{LATER} in {out} cannot be written: {reason}"
    held = f"{out / 'model.h5'} holds epoch 1 (20.00 dB), the best one, 2 (30.00 dB), could not be written"
    assert line == f"npconv train: interrupted: {held}; npconv train --resume {out} goes on"
    disk.set(False)
    assert resume(out) == 0
    assert differences(alone, out) == [] and no_litter(out)


def test_what_is_missing_at_the_end_is_an_error(
    disk: Disk, tmp_path: Path, alone: Path, data: Path, at_epochs: Any, capsys: Any, told: Any
) -> None:
    """The finished run's checkpoint has it: --resume writes it, and only then there is nothing to do."""
    out = tmp_path / "run"
    at_epochs({2: lambda: disk.set(True)})
    assert run(data, out) == 1
    refused = f" in {out} cannot be written: [Errno 28] No space left on device; the earlier ones stay"
    has_it = f"{out / 'checkpoint.h5'} has it all, and npconv train --resume {out} writes it"
    finished = f"npconv train: error: training is finished, but %s{refused}; {has_it}"
    assert told() == [WARNING + LATER + refused, finished % LATER]
    assert read(out / "checkpoint.h5").state["finished"]
    assert resume(out) == 1 and told() == [finished % ALL]
    disk.set(False)
    assert main(["train", "--resume", str(out)]) == 0
    assert "nothing to do" not in capsys.readouterr().out
    assert differences(alone, out) == [] and no_litter(out)
    assert main(["train", "--resume", str(out)]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_a_picture_alone_that_is_missing_at_the_end(
    disk: Disk, tmp_path: Path, alone: Path, data: Path, at_epochs: Any, told: Any
) -> None:
    """The history waits for it: by it --resume sees whether there is something to do."""
    out = tmp_path / "run"
    disk.refused = ("curves.png",)
    at_epochs({4: lambda: disk.set(True)})
    assert run(data, out) == 1
    assert told()[1].startswith("npconv train: error: training is finished, but curves.png, history.csv in ")
    disk.set(False)
    assert resume(out) == 0
    assert differences(alone, out) == [] and no_litter(out)


def test_without_checkpoints(disk: Disk, tmp_path: Path, alone: Path, data: Path, at_epochs: Any, told: Any) -> None:
    """That of the run which is overwritten goes with the first model of the new one."""
    out, never = tmp_path / "run", ("--checkpoint-every", "never", "--overwrite")
    shutil.copytree(alone, out)
    at_epochs({2: lambda: disk.set(True)})
    assert run(data, out, *never) == 1
    held = f"{out / 'model.h5'} holds epoch 1 (20.00 dB), the best one, 2 (30.00 dB), could not be written"
    assert told()[1].endswith(f"; {held}")
    assert not (out / "checkpoint.h5").exists()
    shutil.copy(alone / "checkpoint.h5", out)
    assert run(data, out, *never) == 1
    older = f"{out / 'model.h5'} is an older one"
    assert told()[1].endswith(f"; the best epoch, 2 (30.00 dB), could not be written; {older}")
    assert (out / "checkpoint.h5").exists()  # as does the older model
    disk.set(False)
    at_epochs({n: lambda n=n: disk.set(n == 2) for n in range(1, 5)})
    assert run(data, out, *never) == 0
    shutil.copy(alone / "checkpoint.h5", out)
    assert differences(alone, out) == [] and no_litter(out)


# ---- a log on the same disk ----
class Log:
    """A stream that takes so many lines, and then raises."""

    encoding, errors = "utf-8", "strict"

    def __init__(self, most: int, error: OSError) -> None:
        self.text, self._most, self._error = "", most, error

    def write(self, text: str) -> int:
        if self.text.count("\n") >= self._most:
            raise self._error
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def fileno(self) -> int:
        raise OSError("none")


@pytest.mark.parametrize(
    ("error", "epochs"), [(OSError(errno.ENOSPC, "No space left on device"), 4), (BrokenPipeError(errno.EPIPE, ""), 1)]
)
def test_a_log_that_takes_no_more(
    error: OSError, epochs: int, tmp_path: Path, data: Path, at_epochs: Any, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    """The training comes to its end, and the loss is told then; who has closed a pipe wants no more."""
    out, log = tmp_path / "run", Log(100, error)
    at_epochs({1: lambda: setattr(log, "_most", 0)})
    monkeypatch.setattr(sys, "stdout", log)
    loud = [option for option in SMALL if option != "--quiet"]
    assert command("--data", data / "photos", *loud, *FOUR, "-o", out) == 1
    monkeypatch.undo()
    rows = (out / "history.csv").read_text().splitlines()
    assert len(rows) == 1 + epochs
    said = told()
    if epochs == 4:
        lost = "cannot write to stdout: No space left on device"
        assert said == [
            f"npconv: warning: training goes on, but no more of it is shown: {lost}",
            f"npconv: error: {lost}",
        ]
        assert read(out / "checkpoint.h5").state["finished"]
    else:
        assert said[0].startswith("npconv train: stopped by an error: ")
