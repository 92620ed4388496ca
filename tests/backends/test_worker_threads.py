"""The threads of a pool of workers end when nobody refers to the pool any more, whatever happened in it."""

from __future__ import annotations

import contextvars
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from npconv.backends.cpu.workers import WorkerPool

pytestmark = pytest.mark.cpu
FEW = 3


def started(size: int = FEW) -> WorkerPool:
    """A pool whose threads are there and have worked."""
    pool, gate = WorkerPool(size), threading.Barrier(size)
    pool.run([lambda: gate.wait(20)] * size)
    assert len(pool._threads) == size - 1
    return pool


def ended(threads: list[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


def test_the_threads_of_a_dropped_pool_end() -> None:
    pool = started()
    threads = list(pool._threads)
    assert pool.run([lambda: 1] * FEW) == [1] * FEW and all(thread.is_alive() for thread in threads)
    gc.disable()  # it needs no search for garbage: nothing refers to itself
    try:
        del pool
        assert ended(threads)
    finally:
        gc.enable()


def test_a_pool_that_refers_to_itself_ends_as_garbage() -> None:
    pool = started()
    threads = list(pool._threads)
    pool.itself = pool  # type: ignore[attr-defined]
    del pool
    gc.collect()
    assert ended(threads)


def test_a_pool_without_threads_is_dropped_in_silence() -> None:
    before = threading.active_count()
    for size in (1, FEW):
        WorkerPool(size)
        assert WorkerPool(size).run([lambda: 5]) == [5]
    assert threading.active_count() <= before + 1  # the BLAS's


@pytest.mark.parametrize("kind", [ValueError, MemoryError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["in the caller", "in a worker"])
def test_they_end_after_an_error_as_soon_as_its_traceback_is_gone(where: str, kind: type[BaseException]) -> None:
    pool, main, raised = started(), threading.current_thread(), threading.Event()
    threads = list(pool._threads)

    def task() -> None:
        if (threading.current_thread() is main) == (where == "in the caller"):
            raised.set()
            raise kind("the task's own")
        assert raised.wait(20)

    with pytest.raises(kind, match="own") as caught:
        pool.run([task] * FEW)
    del pool
    time.sleep(0.01)
    assert all(thread.is_alive() for thread in threads)  # the traceback's frames refer to the pool
    del caught
    gc.collect()  # of pytest's cycles
    assert ended(threads)


def test_calls_that_other_threads_have_begun_or_queued_end_first() -> None:
    """A pool that is dropped here lives on in the calls of it; its only helper is busy with the first one."""
    pool, inside, over, results = started(2), threading.Semaphore(0), threading.Event(), []
    threads = list(pool._threads)

    def wait() -> int:
        inside.release()
        assert over.wait(20)
        return 7

    def call(run: Callable[..., Any]) -> None:
        results.append(run([wait] * 2))

    # The first call has the helper and its own thread within a task, the second its own thread alone.
    callers = [threading.Thread(target=call, args=(pool.run,)) for _ in range(2)]
    for caller, tasks in zip(callers, (2, 1), strict=True):
        caller.start()
        for _ in range(tasks):
            assert inside.acquire(timeout=20)
    assert pool._calls.qsize() == 1
    del pool
    gc.collect()
    assert all(thread.is_alive() for thread in threads)
    over.set()
    for caller in callers:
        caller.join(20)
    assert results == [[7, 7]] * 2 and ended(threads)


def test_a_worker_that_drops_its_own_pool_ends() -> None:
    """It lets go of the caller's context last, which is the last to refer to the pool."""
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default=None)
    for _ in range(30):
        pool = started()
        threads, context = list(pool._threads), contextvars.Context()
        context.run(variable.set, pool)
        context.run(pool.run, [lambda: None] * FEW)
        del pool, context
        assert ended(threads)


def test_a_pool_ends_also_where_its_locks_are_held() -> None:
    """A search for garbage may begin anywhere, also in a thread that holds a lock."""
    pools, dropped = [started()], threading.Event()
    threads, locks = list(pools[0]._threads), (pools[0]._lock, pools[0]._blas._lock)

    def drop() -> None:
        with locks[0], locks[1]:
            pools.clear()
            dropped.set()

    threading.Thread(target=drop, daemon=True).start()
    assert dropped.wait(10) and ended(threads)


def test_the_number_of_threads_is_flat_over_many_pools() -> None:
    before, numbers = threading.active_count(), []
    for number in range(100):
        pool = started(2 + number % 3)
        if number % 4 == 0:
            with pytest.raises(ZeroDivisionError):
                pool.run([lambda: 1 // 0] * 3)
        numbers.append(threading.active_count())
    last = list(pool._threads)
    del pool
    gc.collect()
    assert ended(last)
    until = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)  # the threads that raise the number of the BLAS's wait for half a second
    assert threading.active_count() <= before
    assert max(numbers) < before + 150, "each pool has one more for half a second, and keeps none"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
@pytest.mark.parametrize("uses", [False, True])
def test_a_pool_that_was_inherited_by_a_fork_ends_there_and_lives_on_here(uses: bool) -> None:
    pool = started()
    threads = list(pool._threads)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            theirs = []
            if uses:
                gate = threading.Barrier(FEW)
                pool.run([lambda: gate.wait(20)] * FEW)
                theirs = list(pool._threads)
            assert len(theirs) == (FEW - 1 if uses else 0) and all(thread.is_alive() for thread in theirs)
            del pool
            gc.collect()
            code = 0 if ended(theirs) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    gate = threading.Barrier(FEW)
    assert sorted(pool.run([lambda: gate.wait(20)] * FEW)) == list(range(FEW)) and pool._threads == threads
    del pool
    assert ended(threads)


def test_an_interpreter_that_ends_with_pools_of_every_kind_says_nothing() -> None:
    """One that is kept and computes at exit, some that were dropped, and one that the end itself drops."""
    program = """
import atexit, os
from npconv.backends.cpu.workers import WorkerPool
kept = WorkerPool(3)
for pool in [WorkerPool(2), WorkerPool(3), kept]:
    assert pool.run([lambda: 1] * 3) == [1] * 3
atexit.register(lambda: kept.run([lambda: os.write(1, b"at exit ")] * 3))
pool.itself = pool
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "at exit " * 3, "")
