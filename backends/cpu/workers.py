"""Worker threads. NumPy releases the interpreter's lock while it copies and multiplies, so threads share the work.

Two ways to share it:
- `run` gives each worker a task: the trainer and `predict`, which cut a batch and take each part through the whole
  network. Inside a task everything is serial.
- `split` cuts the work of one operation: for a layer that is called by hand, or a network whose images belong together.

NumPy's warnings about infinities and NaN are off in both: a BLAS pads its blocks with what lay there before, and an
infinity there, which touches no result, would warn all the same.

The calling thread is the first worker. While any of them work, and for half a second after, the BLAS has one thread:
two pools of threads on the same cores only wait for each other.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

Result = TypeVar("Result")


def thread_count() -> int:
    """NPCONV_THREADS, or all cores that this process may use; ValueError if it is not a positive integer."""
    text = os.environ.get("NPCONV_THREADS", "")
    if not text:
        return usable_cores()
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"NPCONV_THREADS (={text!r}) must be a whole number of at least 1")
    return int(text)


def usable_cores() -> int:
    """The cores this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Group:
    """Tasks that belong together. Every thread that joins takes the next one until none is left."""

    def __init__(self, tasks: Sequence[Callable[[], Any]]) -> None:
        self.tasks = tasks
        self.results: list[Any] = [None] * len(tasks)
        self.errors: list[BaseException | None] = [None] * len(tasks)
        self._next = itertools.count()  # next() and append are atomic
        self._ended: list[int] = []
        self._all_ended = threading.Lock()
        self._all_ended.acquire()

    def join(self) -> None:
        """Run tasks until none is left to begin."""
        for index in iter(self._next.__next__, None):
            if index >= len(self.tasks):
                return
            try:
                self.results[index] = self.tasks[index]()
            except BaseException as error:  # whatever it is, it belongs to the caller
                self.errors[index] = error
            self._ended.append(index)
            if len(self._ended) == len(self.tasks):
                with contextlib.suppress(RuntimeError):  # two threads may see the last task end
                    self._all_ended.release()

    def wait(self) -> None:
        """Until every task has ended, whatever interrupts: they compute with what the next step computes with."""
        interrupt: BaseException | None = None
        while True:
            try:
                self._all_ended.acquire()
                break
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


class WorkerPool:
    """`size` workers: the calling thread and threads that are started at first use.

    Where NPCONV_THREADS bounds the workers, it bounds the BLAS of the process too: outside workers, a matrix product
    has as many threads as there would be workers.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._blas = _BlasThreads()
        self._inside = threading.local()
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        if size < usable_cores():
            self._blas.set(size)
        if hasattr(os, "register_at_fork"):
            forked = weakref.WeakMethod(self._forked)
            os.register_at_fork(after_in_child=lambda: (forked() or _nothing)())

    def blas(self) -> str:
        """The BLAS libraries that NumPy uses, in words."""
        return self._blas.describe()

    @property
    def parts(self) -> int:
        """How many workers an operation may be split over here: one, inside a task."""
        return 1 if self._is_inside() else self.size

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run the tasks at the same time; the first exception (in the order of tasks) is raised after all end."""
        if len(tasks) <= 1:
            with np.errstate(all="ignore"):
                return [task() for task in tasks]
        self._start()
        group = _Group(tasks)
        with self._blas.limited():
            for _ in range(min(self.size, len(tasks)) - 1):
                # A thread starts with an empty context: hand it this one, so that no_grad() reaches the workers.
                self._calls.put(partial(contextvars.copy_context().run, self._join, group))
            self._join(group)
            group.wait()
        for error in group.errors:
            if error is not None:
                raise error
        return group.results

    def split(self, count: int, work: Callable[[slice], Result], least: int = 1) -> list[Result]:
        """Call `work` with slices that cover range(count), one a worker, each of at least `least` (but all of it)."""
        if self._is_inside():
            return [work(slice(0, count))]
        parts = min(self.size, count // max(1, least))
        if parts <= 1:
            self._blas.lower()
            with np.errstate(all="ignore"):
                return [work(slice(0, count))]
        bounds = [count * i // parts for i in range(parts + 1)]
        return self.run([partial(work, slice(a, b)) for a, b in zip(bounds[:-1], bounds[1:], strict=True)])

    def serially(self, task: Callable[[], Result]) -> Result:
        """Run a task in this thread as one of several workers would: nothing in it is split."""
        before, self._inside.task = self._is_inside(), True
        try:
            with self._blas.limited(), np.errstate(all="ignore"):
                return task()
        finally:
            self._inside.task = before

    def _is_inside(self) -> bool:
        return getattr(self._inside, "task", False)

    def _join(self, group: _Group) -> None:
        before, self._inside.task = self._is_inside(), True
        try:
            with np.errstate(all="ignore"):
                group.join()
        finally:
            self._inside.task = before

    def _forked(self) -> None:
        """A forked child has none of its parent's threads, and the locks as they happened to be."""
        self._threads, self._calls, self._lock = [], SimpleQueue(), threading.Lock()
        self._inside = threading.local()
        self._blas.forked()

    def _start(self) -> None:
        if len(self._threads) >= self.size - 1:
            return
        with self._lock:
            while len(self._threads) < self.size - 1:
                name = f"npconv-worker-{len(self._threads) + 1}"
                thread = threading.Thread(target=_serve, args=(self._calls,), name=name, daemon=True)
                thread.start()
                self._threads.append(thread)


def _nothing() -> None:
    """What is left to do for a pool that is gone."""


def _serve(calls: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        call = calls.get()
        call()
        del call  # or its arrays would live until the next one


class _BlasThreads:
    """The number of threads of NumPy's BLAS: one while anyone wants it so, and until nobody has for a while.

    Raising the number wakes the threads of OpenBLAS, which then wait for work by turning in circles for some hundredths
    of a second, on the cores where our workers compute. A training loop that lowered and raised it at every step
    would compete with them all the time. So it is raised again by a thread that waits for a pause.
    """

    PAUSE = 0.5  # seconds without work after which the BLAS gets its threads back

    def __init__(self) -> None:
        self._controller: ThreadpoolController | None = None
        self._libraries: list[Any] = []
        self._before: list[int] | None = None  # the numbers of threads to go back to, while lowered
        self._wanted = 0
        self._last = 0.0
        self._lock = threading.Lock()

    def _found(self) -> list[Any]:
        if self._controller is None:
            self._controller = ThreadpoolController()
            self._libraries = [lib for lib in self._controller.lib_controllers if lib.user_api == "blas"]
        return self._libraries

    def set(self, count: int) -> None:
        for library in self._found():
            library.set_num_threads(count)

    def lower(self) -> None:
        """One thread from now on, until there is a pause."""
        self._last = time.monotonic()
        if self._before is None:
            with self._lock:
                self._lower()

    @contextmanager
    def limited(self) -> Iterator[None]:
        """One thread within this context, however long it takes."""
        with self._lock:
            self._wanted += 1
            self._lower()
        try:
            yield
        finally:
            with self._lock:
                self._wanted = max(0, self._wanted - 1)  # in a child forked within, it began at zero
                self._last = time.monotonic()

    def _lower(self) -> None:
        if self._before is not None:
            return
        self._before = [library.get_num_threads() for library in self._found()]
        if max(self._before, default=1) > 1:
            self.set(1)
            threading.Thread(target=self._restore_later, name="npconv-blas", daemon=True).start()

    def _restore_later(self) -> None:
        while True:
            time.sleep(self.PAUSE)
            with self._lock:
                if self._wanted == 0 and time.monotonic() - self._last >= self.PAUSE:
                    for library, count in zip(self._libraries, self._before or [], strict=False):
                        library.set_num_threads(count)
                    self._before = None
                    return

    def forked(self) -> None:
        """In a forked child: the thread that would have raised the number again is not there."""
        self._lock, self._wanted = threading.Lock(), 0
        for library, count in zip(self._libraries, self._before or [], strict=False):
            library.set_num_threads(count)
        self._before = None

    def describe(self) -> str:
        libraries = [library.info() for library in self._found()]
        found = [f"{library['internal_api']} {library.get('version') or ''}".strip() for library in libraries]
        return "BLAS: " + (", ".join(found) or "not recognised by threadpoolctl")
