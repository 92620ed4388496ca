"""What ends a training from outside, Ctrl-C or a signal, wherever it comes, and the checkpoint that it leaves."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_cases import Case, OwnPairs, images, plain, result

import npconv as nc


def at(moment: str, action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options with which `action` is called once: in the fourth call of something, or the first of what is rare."""
    count = 0

    def once(*_: object) -> None:
        nonlocal count
        count += 1
        if count == (1 if moment in ("validation", "callback") else 4):
            action()

    places = {"step": (nc.Model, "_step"), "draw": (OwnPairs, "_take"), "validation": (nc.Model, "validate")}
    if moment in places:
        owner, method = places[moment]
        original = getattr(owner, method)
        monkeypatch.setattr(owner, method, lambda *a: (once(), original(*a))[1])
    return {moment: once} if moment in ("callback", "batch_callback") else {}


def signalled(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


OWN = Case(lambda: plain(nc.Dropout(0.3)), source=lambda _: (OwnPairs(),), validation=(images(4), images(4)))
pytestmark = pytest.mark.usefixtures("ctrl_c")
needs_kill = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@needs_kill
@pytest.mark.parametrize("moment", ["step", "draw", "validation", "callback", "batch_callback"])
def test_ctrl_c_leaves_a_checkpoint(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone, stopped = OWN.model(), OWN.model()
    OWN.train(alone, tmp_path)
    path, handler = tmp_path / "c.h5", signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        options = at(moment, signalled(signal.SIGINT), patch)
        OWN.train(stopped, tmp_path, checkpoint=path, checkpoint_every=100, **options)
    assert signal.getsignal(signal.SIGINT) is handler and sorted(tmp_path.iterdir()) == [path]
    progress = nc.checkpoints.file.read(path).state["progress"]
    steps = {"step": 4, "draw": 2, "validation": 3, "callback": 3, "batch_callback": 4}[moment]
    assert 3 * progress["done"] + (progress["epoch"] or {"steps": 0})["steps"] == steps
    for model in (stopped, OWN.model()):  # a step that had begun was ended: the model in memory fits
        OWN.train(model, tmp_path, resume_from=path)
        assert result(model) == result(alone)


@needs_kill
@pytest.mark.parametrize("step", [2, 6])
def test_ctrl_c_while_an_object_ends_is_not_lost(step: int, tmp_path: Path) -> None:
    """What a handler raises then Python prints, and throws away."""
    count, printed, before = itertools.count(1), [], sys.unraisablehook

    class Ending:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    class Other:
        def __del__(self) -> None:
            raise ZeroDivisionError

    def callback(*_: Any) -> None:
        if next(count) == step:
            Other()
            Ending()

    alone, stopped, path = OWN.model(), OWN.model(), tmp_path / "c.h5"
    OWN.train(alone, tmp_path)
    sys.unraisablehook = hook = lambda what: printed.append(what.exc_type)
    try:
        with pytest.raises(KeyboardInterrupt):
            OWN.train(stopped, tmp_path, checkpoint=path, checkpoint_every=100, batch_callback=callback)
        assert sys.unraisablehook is hook and printed == [ZeroDivisionError]
    finally:
        sys.unraisablehook = before
    state = nc.checkpoints.file.read(path).state
    assert not state["finished"] and next(count) == step + 1
    model = OWN.model()
    OWN.train(model, tmp_path, resume_from=path)
    assert result(model) == result(alone)


@needs_kill
def test_a_second_ctrl_c_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path, ended = OWN.model(), tmp_path / "c.h5", []

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert len(str(sum(range(1000)))) > 0  # some bytecode, for the handler to run
        os.kill(os.getpid(), signal.SIGINT)
        ended.append(len(str(sum(range(1000)))))

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        OWN.train(model, tmp_path, checkpoint=path, checkpoint_every=100, **at("step", twice, patch))
    progress = nc.checkpoints.file.read(path).state["progress"]
    assert ended == [] and progress["epoch"] is None  # the one of the beginning: half a step is none


@needs_kill
def test_handlers_of_ones_own_are_called_after_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before = tmp_path / "c.h5", signal.getsignal(signal.SIGTERM)

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        with monkeypatch.context() as patch, pytest.raises(SystemExit, match="143"):
            OWN.train(OWN.model(), tmp_path, checkpoint=path, **at("step", signalled(signal.SIGTERM), patch))
        assert signal.getsignal(signal.SIGTERM) is leave
    finally:
        signal.signal(signal.SIGTERM, before)
    assert nc.checkpoints.file.read(path).state["progress"]["epoch"]["steps"] == 1


def test_in_a_thread(tmp_path: Path) -> None:
    alone, model = OWN.model(), OWN.model()
    OWN.train(alone, tmp_path)
    nc.manual_seed(0)
    thread = threading.Thread(target=OWN.train, args=(model, tmp_path), kwargs={"checkpoint": tmp_path / "c.h5"})
    thread.start()
    thread.join()
    assert result(model) == result(alone) and (tmp_path / "c.h5").is_file()


@pytest.mark.cpu
def test_in_several_threads_at_once(tmp_path: Path) -> None:
    case = Case(validation=(images(4), images(4)), num_epochs=8)
    models = [case.model() for _ in range(3)]
    case.train(models[0], tmp_path)
    threads = []
    for number, model in enumerate(models[1:]):
        options = {"checkpoint": tmp_path / f"{number}.h5", "checkpoint_every": "1 step"}
        threads.append(threading.Thread(target=case.train, args=(model, tmp_path), kwargs=options))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert result(models[1]) == result(models[2]) == result(models[0])
    for number in range(2):
        model = case.model()
        case.train(model, tmp_path, resume_from=tmp_path / f"{number}.h5")
        assert result(model) == result(models[0])
