"""The number of threads of NumPy's BLAS: one while anyone computes, whichever thread lowers and raises it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import threadpoolctl
from concurrently import at_once, hasty_threads

from npconv.backends.cpu.blas import BlasThreads
from npconv.backends.cpu.workers import WorkerPool

pytestmark = pytest.mark.cpu


class Library:
    """A BLAS with a number of threads, as threadpoolctl shows it."""

    user_api, internal_api, threading_layer = "blas", "openblas", "pthreads"

    def __init__(self, count: int) -> None:
        self.count = count

    def get_num_threads(self) -> int:
        return self.count

    def set_num_threads(self, count: int) -> None:
        self.count = count


def becomes(count: int, number: Callable[[], int]) -> bool:
    """Whether it does, within ten seconds."""
    until = time.monotonic() + 10
    while number() != count and time.monotonic() < until:
        time.sleep(0.005)
    return number() == count


def test_the_blas_has_one_thread_while_anyone_computes_and_its_own_number_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(BlasThreads, "PAUSE", 0.0005)  # raised again between any two
    blas, library = BlasThreads(), Library(4)
    blas._libraries = [library]

    def compute() -> set[int]:
        seen = set()
        for i in range(300):
            with blas.limited():
                seen.add(library.count)
                if i % 50 == 0:
                    time.sleep(0.002)
                seen.add(library.count)
        return seen

    with hasty_threads():
        assert at_once(*[compute] * 4) == [{1}] * 4
    assert becomes(4, lambda: library.count)


@pytest.mark.parametrize("broken", [False, True])
def test_a_blas_that_is_not_found_is_left_alone(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """threadpoolctl does not know all of them, such as Apple's Accelerate."""

    class Found:
        def __init__(self) -> None:
            if broken:
                raise AttributeError("no such function in this system's library")
            self.lib_controllers: list[Library] = []

    monkeypatch.setattr("threadpoolctl.ThreadpoolController", Found)
    blas, computed = BlasThreads(), []
    with contextlib.ExitStack() as stack:
        if broken:
            told = r"threads of NumPy's BLAS are not found.*\(AttributeError: no such function"
            stack.enter_context(pytest.warns(RuntimeWarning, match=told))
        for _ in range(2):
            with blas.limited():
                computed.append(True)
    with blas.limited(), blas.limited():  # warned of once
        computed.append(True)
    assert len(computed) == 3 and blas.describe() == "BLAS: not recognised by threadpoolctl"


# ---- as threadpoolctl has it ----
@pytest.fixture
def openblas() -> Iterator[Any]:
    """The OpenBLAS of this process, with two threads; as it was after the test."""
    found = [
        library
        for library in threadpoolctl.ThreadpoolController().lib_controllers
        if library.internal_api == "openblas" and library.threading_layer == "pthreads"
    ]
    if not found:
        pytest.skip("NumPy has another BLAS here")
    (before,) = {library.get_num_threads() for library in found[:1]}
    try:
        freed(found[0]).set_num_threads(2)
        yield freed(found[0])
    finally:
        freed(found[0]).set_num_threads(before)
        freed(found[0])


def freed(library: Any) -> Any:
    """The library; any thread may set its number next."""
    if hasattr(library, "clear_controlling_thread"):
        library.clear_controlling_thread(force=True)
    return library


def test_the_number_comes_back_though_another_thread_brings_it(openblas: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer versions of threadpoolctl do nothing, without a word, in all threads but the first one that sets it."""
    monkeypatch.setattr(BlasThreads, "PAUSE", 0.001)
    blas = BlasThreads()
    with blas.limited():
        assert openblas.get_num_threads() == 1
    assert becomes(2, openblas.get_num_threads)
    openblas.set_num_threads(2)  # this thread controls it from now on

    def compute() -> int:
        with blas.limited():
            return int(openblas.get_num_threads())

    assert at_once(compute, compute) == [1, 1]
    assert becomes(2, openblas.get_num_threads)
    at_once(partial(openblas.set_num_threads, 1))  # nor does npconv keep the control of it
    assert openblas.get_num_threads() == 1


# ---- built with OpenMP ----
class ByThread(Library):
    """A BLAS that has a number for each thread that calls it."""

    threading_layer = "openmp"

    def __init__(self, count: int) -> None:
        self._own, self._count = threading.local(), count

    @property
    def count(self) -> int:
        return int(getattr(self._own, "count", self._count))

    def set_num_threads(self, count: int) -> None:
        self._own.count = count

    def info(self) -> dict[str, Any]:
        return {"internal_api": "openblas", "version": "0.3"}


def test_a_blas_that_has_a_number_for_each_thread_is_lowered_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ByThread(8)

    class Found:
        lib_controllers = (library,)

    monkeypatch.setattr("threadpoolctl.ThreadpoolController", Found)
    pool, gate = WorkerPool(3), threading.Barrier(3)
    library.set_num_threads(8)  # NPCONV_THREADS bounds it, where there are fewer workers than cores

    def task() -> tuple[bool, int]:
        gate.wait(20)
        return threading.current_thread() is threading.main_thread(), library.count

    for _ in range(2):
        assert sorted(pool.run([task] * 3)) == [(False, 1), (False, 1), (True, 1)]
        assert library.count == 8  # at once: nobody waits for work by turning in circles
    with pytest.raises(ZeroDivisionError):
        pool.serially(lambda: 1 / 0)
    assert library.count == 8 and pool.blas() == "BLAS: openblas 0.3"
    with pool._blas.limited(), pool._blas.limited():
        assert library.count == 1
    assert library.count == 8
