"""What goes wrong in a worker reaches the caller with its traceback and leaves nothing behind; the next step works."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import small_training
from small_training import batch, state

import npconv as nc
from npconv import processes, training
from npconv.backends.cpu.workers import WorkerPool, processes_allowed, thread_count
from npconv.replica import Replica

pytestmark = pytest.mark.cpu


@pytest.fixture(autouse=True)
def shared_work(monkeypatch: pytest.MonkeyPatch, set_workers: Callable[[int], None]) -> None:
    set_workers(2)
    for name in ("THREAD_WORK", "PROCESS_WORK", "STEPS_BY_THREADS"):
        monkeypatch.setattr(training, name, getattr(training, name))
    small_training.share_smallest()


def open_files() -> list[str]:
    files = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the list's own
            files.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(files)


def frames_of(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


class Failing(nc.Module):
    """Raises `error` in a worker thread, at `place`, once; the calling thread waits until it has."""

    def __init__(self, error: BaseException, place: str) -> None:
        self.error, self.place = error, place
        self.raised = threading.Event()

    def __deepcopy__(self, memo: Any) -> Failing:  # a network is copied to look at what its modules do
        return Failing(self.error, "nowhere")

    def at(self, place: str) -> None:
        if self.place != place or self.raised.is_set():
            return
        if threading.current_thread() is threading.main_thread():
            assert self.raised.wait(20)
            return
        self.raised.set()
        raise self.error

    def forward(self, x: Any) -> Any:
        self.at("forward")
        return x

    def backward(self, grad_output: Any) -> Any:
        self.at("backward")
        return grad_output


class FailingLoss(nc.MSE):
    """MSE that asks a `Failing` first."""

    def __init__(self, failing: Failing) -> None:
        super().__init__()
        self.failing = failing

    def evaluate(self, prediction: Any, target: Any) -> Any:
        self.failing.at("loss")
        return super().evaluate(prediction, target)


ERRORS = [ValueError, MemoryError, KeyboardInterrupt, SystemExit]


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("place", ["forward", "backward", "loss"])
def test_an_error_in_a_worker_thread_reaches_the_caller(place: str, kind: type[BaseException]) -> None:
    error = kind("the layer's own")
    failing = Failing(error, place)
    network = nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), failing, nc.Conv2d(4, 3, 1))
    model, rng = nc.Model(network, FailingLoss(failing), nc.SGD(network.parameters(), lr=0.1)), np.random.default_rng(0)
    nc.backend().run([lambda: time.sleep(0.01)] * 2)  # the threads are there
    threads = set(threading.enumerate())
    with pytest.raises(kind) as caught:
        model.train_batch(*batch(rng))
    # A container says again, with the place, what is a ValueError.
    assert (caught.value.__cause__ or caught.value) is error and "train_batch" in frames_of(caught.value)
    assert frames_of(error)[-2:] == [{"loss": "evaluate"}.get(place, place), "at"]
    assert set(threading.enumerate()) <= threads | {t for t in threading.enumerate() if t.name == "npconv-blas"}
    assert nc.backend()._pool.parts == 2 and nc.is_grad_enabled()
    twin = nc.Model(network, nc.MSE(), nc.SGD(network.parameters(), lr=0.1))
    assert np.isfinite(model.train_batch(*batch(rng))) and np.isfinite(twin.train_batch(*batch(rng)))


def test_an_error_is_gone_when_its_handler_is(set_workers: Callable[[int], None]) -> None:
    """No cycle keeps it, and with it the arrays of its frames, until garbage is looked for."""
    pool = WorkerPool(2)

    class Own(Exception):
        pass

    def fail() -> None:
        raise Own

    def failed() -> weakref.ref[Own]:
        try:
            pool.run([fail, lambda: None, fail])
        except Own as error:
            return weakref.ref(error)
        raise AssertionError

    gc.collect()
    gc.disable()
    try:
        found = failed()
        pool.run([lambda: None] * 2)  # the worker has let go of the group
        assert found() is None
    finally:
        gc.enable()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers that interrupt")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what a finalizer swallows
def test_interrupts_at_any_moment_leave_no_task_behind() -> None:
    """Ctrl-C between any two instructions: `run` still waits for its workers, and never waits for nobody."""
    pool, running = WorkerPool(3), set()
    rng = np.random.default_rng(0)
    pool.run([lambda: time.sleep(0.01)] * 3)  # the threads are there, and the BLAS is known

    def task() -> None:
        if threading.current_thread() is not threading.main_thread():
            running.add(threading.get_ident())
            time.sleep(0.0005)
            running.discard(threading.get_ident())

    def compute(wait: float) -> None:
        """A function, since Python 3.13 leaves the jump at the end of a loop out of the `try` around it."""
        signal.setitimer(signal.ITIMER_REAL, wait)
        until = time.monotonic() + 1
        while time.monotonic() < until:  # by then it has been lost
            pool.run([task] * 3)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    interrupts = 0
    try:
        for _ in range(400):
            try:
                compute(float(rng.uniform(1e-5, 1.5e-3)))
            except KeyboardInterrupt:
                interrupts += 1
                assert not running
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts >= 300  # the others came within a finalizer, where Python throws them away
    assert pool.run([lambda: 1, lambda: 2, lambda: 3]) == [1, 2, 3]


def test_where_no_thread_can_be_had_the_caller_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    results = []
    for patched in (False, True):
        nc.manual_seed(0)
        model, rng = nc.Model(small_training.network(0)), np.random.default_rng(0)
        monkeypatch.setattr(nc.backend(), "_pool", WorkerPool(3))
        if patched:
            monkeypatch.setattr(threading.Thread, "start", refused)
            monkeypatch.setattr(nc.backend()._pool._blas, "_before", None)
        model.train_batch(*batch(rng))
        results.append(state(model))
    assert results[0] == results[1] and not nc.backend()._pool._threads


# ---- worker processes ----
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="worker processes are forked, on Linux only")


def with_team(monkeypatch: pytest.MonkeyPatch, steps: int = 4) -> tuple[nc.Model, np.random.Generator]:
    monkeypatch.delenv("NPCONV_PROCESSES", raising=False)
    nc.manual_seed(0)
    model, rng = nc.Model(small_training.network(0)), np.random.default_rng(0)
    for _ in range(steps):
        model.train_batch(*batch(rng))
    return model, rng


def by_threads(monkeypatch: pytest.MonkeyPatch, steps: int) -> bytes:
    monkeypatch.setenv("NPCONV_PROCESSES", "0")
    nc.manual_seed(0)
    model, rng = nc.Model(small_training.network(0)), np.random.default_rng(0)
    for _ in range(steps):
        model.train_batch(*batch(rng))
    return state(model)


@on_linux
@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_in_a_worker_process_reaches_the_caller(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, compute, files = os.getpid(), Replica.gradients, open_files()

    def fails_there(self: Replica, *arguments: Any) -> Any:
        if os.getpid() != ours:
            raise kind("its own")
        return compute(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Replica, "gradients", fails_there)
        with pytest.raises(kind, match="(?s)its own.*in a worker process:.*Traceback.*in fails_there") as caught:
            with_team(monkeypatch)
    del caught
    gc.collect()
    assert open_files() == files
    model, _ = with_team(monkeypatch)
    team = model._crew._team
    assert team is not None and team.alive
    model._crew.close()
    assert open_files() == files and not os.path.exists(f"/proc/{team._processes[0].pid}")
    assert state(model) == by_threads(monkeypatch, 4)


@on_linux
def test_a_process_that_does_not_answer_is_replaced_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one would that waits for a lock which another thread held when it was forked."""
    with monkeypatch.context() as patch:
        patch.setattr(processes, "FIRST_ANSWER", 0.1)
        patch.setattr(processes, "_serve", lambda *arguments: time.sleep(60))
        model, _ = with_team(monkeypatch, 3)
    assert not model._crew._team.alive and not os.path.exists(f"/proc/{model._crew._team._processes[0].pid}")
    assert state(model) == by_threads(monkeypatch, 3)


@on_linux
def test_processes_that_die_again_and_again_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rng = with_team(monkeypatch, 0)
    killed = []
    for _ in range(30):
        model.train_batch(*batch(rng))
        team = model._crew._team
        if team is not None and team.alive:
            killed.append(team._processes[0].pid)
            os.kill(killed[-1], signal.SIGKILL)
    assert len(killed) == training.MOST_LOST and not any(os.path.exists(f"/proc/{pid}") for pid in killed)
    assert state(model) == by_threads(monkeypatch, 30)


@on_linux
def test_processes_are_not_forked_while_another_thread_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, over = threading.Event(), threading.Event()

    def compute() -> None:
        inside.set()
        assert over.wait(20)

    thread = threading.Thread(target=lambda: nc.backend().run([compute]))
    thread.start()
    assert inside.wait(20)
    model, rng = with_team(monkeypatch)
    assert model._crew._team is None
    over.set()
    thread.join()
    for _ in range(3):
        model.train_batch(*batch(rng))
    assert model._crew._team is not None and model._crew._team.alive


# ---- the environment ----
NO_NUMBERS = ["0", "-1", "two", "1.5", "1e3", " 2", "2 ", "+2", "0x2", "²", "٣", "1025", "9" * 5000, "inf", "None"]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value[:10]))
def test_npconv_threads_must_be_a_number_of_threads(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPCONV_THREADS", value)
    with pytest.raises(ValueError, match=r"NPCONV_THREADS \(='.*'\) must be a whole number from 1 to 1024") as caught:
        thread_count()
    assert repr(value[:80]) in str(caught.value) and len(str(caught.value)) < 150


@pytest.mark.parametrize("value", ["2", "-1", "no", "true", "0.0", " 0", "00"])
def test_npconv_processes_must_be_0_or_1(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPCONV_PROCESSES", value)
    with pytest.raises(ValueError, match=rf"NPCONV_PROCESSES \(='{value}'\) must be 0 or 1"):
        processes_allowed()


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPCONV_THREADS", "")
    monkeypatch.setenv("NPCONV_PROCESSES", "")
    assert thread_count() >= 1 and processes_allowed()
    monkeypatch.setenv("NPCONV_THREADS", "1024")
    assert thread_count() == 1024
