"""Ctrl-C anywhere in what must be taken back: a fork, the number of the BLAS's threads, held signals."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import small_training

import npconv as nc
from npconv import forked, held_signals, processes, training
from npconv.backends import cpu
from npconv.backends.cpu import blas, workers
from npconv.cli.termination import Terminated, terminable
from npconv.forked import Forked
from npconv.held_signals import HeldSignals

pytestmark = [pytest.mark.cpu, pytest.mark.usefixtures("ctrl_c")]
on_posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


class Library:
    """A BLAS with four threads."""

    def __init__(self) -> None:
        self.count = 4

    def get_num_threads(self) -> int:
        return self.count

    def set_num_threads(self, count: int) -> None:
        self.count = count


def interrupted_at(number: int, work: Callable[[], Any], *files: str) -> KeyboardInterrupt | None:
    """The KeyboardInterrupt that was raised in `work`, at the place with this number in the code of the files.

    Python looks for signals where a function begins, and after each function in C.
    """
    left, process = number, os.getpid()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        nonlocal left
        if event in ("call", "c_return") and frame.f_code.co_filename in files and os.getpid() == process:
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        work()
    except KeyboardInterrupt as error:
        return error
    finally:
        sys.setprofile(None)
    return None


def test_the_blas_gets_its_threads_back_wherever_an_interrupt_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    number, library = 1, Library()
    threads = blas.BlasThreads()
    threads._libraries = [library]

    def compute() -> None:
        with threads.limited():
            assert library.count == 1

    while interrupted_at(number, compute, blas.__file__):
        with threads.paused():
            assert threads.idle, f"asked for ever after place {number}"
        number += 1
    assert number > 12
    compute()
    assert library.count == 4


# Where an interrupt may come while others are kept from computing. The error is kept, and what its traceback refers to.
PAUSING = [contextlib.__file__, blas.__file__, workers.__file__, cpu.__file__, processes.__file__]


def test_a_pause_that_is_interrupted_anywhere_is_over() -> None:
    pool, number = workers.WorkerPool(1), 1

    def pause() -> None:
        with pool.paused():
            assert pool.idle and pool._blas._lock.locked()

    while error := interrupted_at(number, pause, *PAUSING, __file__):
        assert not pool._blas._lock.locked(), f"kept after place {number}"
        del error
        number += 1
    assert number > 8


@pytest.mark.skipif(sys.platform != "linux", reason="worker processes are forked, on Linux only")
def test_processes_whose_start_is_interrupted_anywhere_keep_nobody_from_computing(
    set_workers: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_workers(2)
    for name in ("THREAD_WORK", "PROCESS_WORK", "STEPS_BY_THREADS"):
        monkeypatch.setattr(training, name, getattr(training, name))  # put back at the end
    small_training.share_smallest()
    model, (x, target) = nc.Model(small_training.network(0)), small_training.batch(np.random.default_rng(0))
    model.train_batch(x, target)
    before, number = children(), 1
    teams: list[processes.Team] = []

    def start() -> None:
        teams.append(processes.Team(model.network, model._crew._replicas[:2], x, target, 3))

    while error := interrupted_at(number, start, *PAUSING):
        assert not nc.backend()._pool._blas._lock.locked(), f"kept after place {number}"
        del error
        number += 1
    assert len(teams) == 1
    teams[0].close()
    gc.collect()
    assert number > 30 and children() == before
    assert np.isfinite(model.train_batch(x, target))


@pytest.mark.skipif(sys.platform != "linux", reason="worker processes are forked, on Linux only")
def test_a_fork_that_is_interrupted_anywhere_leaves_no_process() -> None:
    """Blocked signals may reach another thread, and then come in this one all the same."""
    read, write = os.pipe()
    number, before, known = 1, children(), []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    while interrupted_at(number, lambda: Forked(lambda: os.read(read, 1), read, known), forked.__file__):
        for child in known:
            child.kill()
        assert children() == before, f"left at place {number}"
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask, f"blocked at place {number}"
        number += 1
    assert number > 5 and children() == before | {known[-1].pid}
    known[-1].kill()
    os.close(read), os.close(write)
    assert children() == before


def children() -> set[int]:
    """The processes that this one has begun and not waited for."""
    return {int(pid) for pid in Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()}


# ---- signals that come twice ----
def ended_by(signals: list[int], during_the_end: list[int], handled: list[Any]) -> BaseException | None:
    """What ends work on which `signals` fall while they are held, and others while it ends."""

    def end(number: int, _: object) -> None:
        handled.append(number)
        raise Terminated(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with HeldSignals() as guard:
            try:
                with guard.held():
                    for number in signals:
                        signal.raise_signal(number)
                    handled.append("step")
            finally:
                for number in during_the_end:
                    signal.raise_signal(number)
    except BaseException as error:
        return error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return None


@on_posix
def test_a_request_to_end_that_comes_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """timeout(1) sends SIGTERM to a process and to its group; systemd may send SIGHUP after SIGTERM."""
    term, hang_up, handled = signal.SIGTERM, signal.SIGHUP, []
    clock = iter(range(100))
    monkeypatch.setattr(held_signals, "now", lambda: 0.01 * next(clock))
    assert ended_by([term, term, hang_up], [term, hang_up, term], handled).status == 128 + term
    assert handled == ["step", term]
    handled.clear()
    assert type(ended_by([term, term], [signal.SIGINT], handled)) is KeyboardInterrupt  # a person means it
    monkeypatch.setattr(held_signals, "now", lambda: 3.0 * next(clock))  # much later it is another request
    handled.clear()
    assert ended_by([term], [hang_up], handled).status == 128 + hang_up and handled == ["step", term, hang_up]
    handled.clear()
    assert ended_by([term, term], [], handled).status == 128 + term and handled == [term]  # and does not wait


@on_posix
def test_a_signal_that_ends_nothing_is_handled_each_time() -> None:
    handled: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, _: handled.append(number))
    try:
        with HeldSignals() as guard:
            for _ in range(3):
                signal.raise_signal(signal.SIGHUP)
            with guard.held():
                signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert handled == [signal.SIGHUP] * 4


@on_posix
def test_a_command_is_terminated_once() -> None:
    ended = []
    with terminable():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Terminated as error:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
            ended.append(error.status)
    assert ended == [143]
