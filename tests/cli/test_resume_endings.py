"""How a run of `npconv train` ends, by signals, kills and at its end, and that it goes on from there."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from train_runs import SMALL, few_leaves, make_data, plain_pictures, resume, run, signal_in_step

from npconv import epochs
from npconv.checkpoints import file as checkpoint_file
from npconv.checkpoints.file import read
from npconv.cli import main, train
from npconv.cli.run_folder import FILES, RunFolder
from npconv.cli.sources import open_source
from npconv.cli.termination import terminable
from npconv.model import Model

pytest.importorskip("matplotlib")
if os.name != "posix":
    pytest.skip("signals and processes of POSIX", allow_module_level=True)

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from same_bits import differences  # noqa: E402  # the benchmarks are scripts, not a package

pytestmark = pytest.mark.usefixtures("ctrl_c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    few_leaves(monkeypatch)
    plain_pictures(monkeypatch)


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        plain_pictures(patch)
        assert run(folder, out) == 0
    return out


# ---- a run that is over ----
def test_a_finished_run_goes_into_another_folder_too(finished: Path, tmp_path: Path) -> None:
    assert resume(finished, "-o", str(tmp_path / "other")) == 0
    assert differences(finished, tmp_path / "other") == []
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", ["model.h5", "history.csv"])
def test_what_has_gone_of_a_finished_run_is_written_again(
    name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert resume(finished, "-o", str(tmp_path / "run")) == 0
    (tmp_path / "run" / name).unlink()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "nothing to do" not in capsys.readouterr().out
    assert differences(finished, tmp_path / "run") == []
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "is finished after 2 epochs, " in capsys.readouterr().out


# ---- by time ----
@pytest.mark.cpu
def test_a_run_by_time_that_validates_on_a_part_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a clock on which a step takes a second, and so does the validation of an image."""
    clock = 0.0

    def taking(method: str, seconds: Any) -> None:
        original = getattr(Model, method)

        def slow(model: Model, x: Any, t: Any) -> Any:
            nonlocal clock
            clock += seconds(x)
            return original(model, x, t)

        monkeypatch.setattr(Model, method, slow)

    taking("train_batch", lambda _: 1)
    taking("validate", len)
    monkeypatch.setattr(epochs, "now", lambda: clock)
    monkeypatch.setattr(epochs, "LEAST", 2)
    monkeypatch.setattr(epochs, "VALIDATION", 0)
    timed = [o for o in SMALL if o not in ("--epochs", "2", "--quiet")]
    command = ["train", "--data", str(folder / "photos"), *timed, "--time", "60", "-o", str(tmp_path / "run")]
    with signal_in_step(35):
        assert main(command) == 130
    stopped = read(tmp_path / "run" / "checkpoint.h5").state
    assert stopped["history"] and {epoch["validated"] for epoch in stopped["history"]} == {2}
    assert capsys.readouterr().out.count("validation is on 2 of the 8 pairs") == 1
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    state = read(tmp_path / "run" / "checkpoint.h5").state
    assert state["history"][: len(stopped["history"])] == stopped["history"] and state["finished"] and clock <= 62
    assert capsys.readouterr().out.count("validation is on 2 of the 8 pairs") == 1


# ---- signals ----
@contextmanager
def handled(number: int, how: Any) -> Iterator[None]:
    """Within it the signal is handled so, whoever started the tests: nohup has it ignored."""
    before = signal.signal(number, how)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_what_nohup_has_ignored_stays_ignored(folder: Path, tmp_path: Path) -> None:
    with handled(signal.SIGHUP, signal.SIG_IGN), signal_in_step(3, signal.SIGHUP):
        assert run(folder, tmp_path / "run") == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert read(tmp_path / "run" / "checkpoint.h5").state["finished"]


CTRL_BREAK = 21  # its number on Windows


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (CTRL_BREAK, 149)])
def test_a_signal_ends_it_like_ctrl_c(
    number: int,
    status: int,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And once, though it comes twice: the last checkpoint is written, and the message."""
    monkeypatch.setattr(signal, "SIGBREAK", CTRL_BREAK, raising=False)
    written, kept = checkpoint_file.whole_file, train.Training._kept

    def write_again(path: Path) -> Any:
        if path.exists():
            signal.raise_signal(number)
        return written(path)

    def tell_again(training: Any) -> str:
        signal.raise_signal(number)
        return kept(training)

    monkeypatch.setattr(checkpoint_file, "whole_file", write_again)
    monkeypatch.setattr(train.Training, "_kept", tell_again)
    with handled(number, signal.SIG_DFL), terminable():
        assert callable(signal.getsignal(number))  # or what comes now would end the tests
    with handled(number, signal.SIG_DFL), signal_in_step(3, number):
        assert run(folder, tmp_path / "run") == status
        assert signal.getsignal(number) is signal.SIG_DFL
    assert capsys.readouterr().err.startswith("npconv train: terminated: no epoch had ended, so nothing was saved; ")
    assert read(tmp_path / "run" / "checkpoint.h5").state["progress"]["epoch"]["steps"] == 3


def test_whatever_fails_after_ctrl_c_it_is_ctrl_c_that_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    word = train.in_one_word

    def no_memory(self: RunFolder) -> None:
        raise MemoryError

    def then(interrupt: KeyboardInterrupt) -> str:
        monkeypatch.setattr(RunFolder, "write", no_memory)
        return word(interrupt)

    monkeypatch.setattr(train, "in_one_word", then)
    with signal_in_step(3):
        assert run(folder, tmp_path / "run") == 130
    assert capsys.readouterr().err.startswith("npconv train: interrupted: ")


def test_ctrl_c_while_the_last_checkpoint_is_written_comes_after_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = checkpoint_file.write

    def interrupted(path: Path, state: dict[str, Any], *rest: Any) -> None:
        if state["finished"]:
            signal.raise_signal(signal.SIGINT)
        original(path, state, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_file, "write", interrupted)
        assert run(folder, tmp_path / "run") == 130
    assert read(tmp_path / "run" / "checkpoint.h5").state["finished"]
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0 and "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("elsewhere", [False, True])
def test_interrupted_while_it_loads_it_says_that_nothing_has_changed(
    elsewhere: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with signal_in_step(9):
        assert run(folder, out) == 130
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    where = ("-o", str(tmp_path / "other")) if elsewhere else ()
    capsys.readouterr()

    def interrupted() -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "open_source", lambda args: dataclasses.replace(open_source(args), load=interrupted))
        assert resume(out, *where) == 130
    told = f"npconv train: interrupted: {out} is as it was; npconv train --resume {out} goes on\n"
    assert capsys.readouterr().err == told
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with signal_in_step(1):
        assert resume(out, *where) == 130
    told, place = capsys.readouterr().err, tmp_path / "other" if elsewhere else out
    assert told.startswith(f"npconv train: interrupted: {place / 'model.h5'} holds the best epoch, 1 (")
    assert told.endswith(f"; npconv train --resume {place} goes on\n")


# ---- processes ----
@pytest.mark.cpu
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_to_all_processes(number: int, status: int, folder: Path, tmp_path: Path) -> None:
    """As a terminal's Ctrl-C, or a service manager: the workers get it too, and must neither complain nor stay."""
    options = ("--network", "dncnn", "--channels", "16", "--depth", "4", "--no-batch-norm", "--epochs", "1000",
               "--patches", "80000", "--checkpoint-every", "1 step", "-o", str(tmp_path / "run"))  # fmt: skip
    command = [sys.executable, "-m", "npconv.cli", "train", "--data", str(folder / "photos"), *SMALL, *options]
    environment = {**os.environ, "NPCONV_THREADS": "2"}
    child = subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, start_new_session=True)
    assert child.stderr is not None
    until, workers = time.monotonic() + 30, Path(f"/proc/{child.pid}/task/{child.pid}/children")
    while child.poll() is None and time.monotonic() < until:
        if (tmp_path / "run" / "checkpoint.h5").exists() and (sys.platform != "linux" or workers.read_text()):
            break
        time.sleep(0.02)
    os.killpg(child.pid, number)
    if number == signal.SIGTERM:  # as timeout(1) does
        os.killpg(child.pid, number)
    try:
        error = child.communicate(timeout=30)[1]
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # or it would train for hours beside the other tests
        raise
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert child.returncode == status and len(error.splitlines()) == 1, error
    assert error.startswith(f"npconv train: {word}: ") and error.endswith(" goes on\n")
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)
    state = read(tmp_path / "run" / "checkpoint.h5").state
    assert state["progress"]["epoch"]["steps"] >= (12 if sys.platform == "linux" else 1) and not state["finished"]


@pytest.mark.cpu
def test_some_kills() -> None:
    """The short form of `python benchmarks/kills.py`: each kind of training, and once while a checkpoint is written."""
    options = ("--kills", "4", "--seed", "3", "--seconds", "0.5", "--no-pictures")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "kills.py"), *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = ": 3 ended with the same bits, 1 in time with all that their checkpoints held; 0 lost\n"
    assert done.stdout.endswith(told), done.stdout
