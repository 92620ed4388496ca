"""Worker threads. NumPy releases the interpreter's lock while it copies and multiplies, so threads share the work.

Two ways to share it:
- `run` gives each worker a task: the trainer and `predict`, which cut a batch and take each part through the whole
  network. Inside a task everything is serial.
- `split` cuts the work of one operation: for a layer that is called by hand, or a network whose images belong together.

NumPy's warnings about infinities and NaN are off in both: a BLAS pads its blocks with what lay there before, and an
infinity there, which touches no result, would warn all the same.

The calling thread is the first worker, and the only one that has to be there: it begins every task that nobody else has
begun. So any number of threads may call at once, also from within a task, and none waits for a worker that another one
keeps. While any of them work, and for half a second after, the BLAS has one thread (blas.py).

The threads hold no reference to their pool, and end when nobody refers to it any more.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

from ..forking import after_fork
from .blas import BlasThreads
from .cores import runnable_cores, usable_cores

Result = TypeVar("Result")

MOST_THREADS = 1024  # that NPCONV_THREADS may ask for: more is a slip of the keyboard


def thread_count() -> int:
    """NPCONV_THREADS, or all cores that this process may use, as many as a container's quota of their time is worth.

    Raises ValueError unless it is a whole number, 1 to 1024.
    """
    text = os.environ.get("NPCONV_THREADS", "")
    if not text:
        return usable_cores()
    if not (text.isascii() and text.isdigit()) or len(text) > 9 or not 1 <= int(text) <= MOST_THREADS:
        raise ValueError(f"NPCONV_THREADS (={text[:80]!r}) must be a whole number from 1 to {MOST_THREADS}")
    return int(text)


def processes_allowed() -> bool:
    """NPCONV_PROCESSES: whether worker processes may share a batch; ValueError if it is neither 0 nor 1."""
    text = os.environ.get("NPCONV_PROCESSES") or "1"
    if text not in ("0", "1"):
        raise ValueError(f"NPCONV_PROCESSES (={text[:80]!r}) must be 0 or 1")
    return text == "1"


class _Group:
    """Tasks that belong together. Every thread that joins takes the next one until none is left.

    The caller's `finish` is over when no helper is inside, rather than when every task has ended: an interrupt may
    reach the caller between any two of its instructions, and then nobody knows which task it had taken.
    """

    def __init__(self, tasks: Sequence[Callable[[], Any]], helpers: int) -> None:
        self.tasks = tasks
        self.results: list[Any] = [None] * len(tasks)
        self.errors: dict[int, BaseException] = {}
        self._next = itertools.count()  # next() is atomic
        # A thread starts with an empty context: it gets the caller's, so that no_grad() reaches the workers.
        self._contexts = [contextvars.copy_context() for _ in range(helpers)]
        self._lock = threading.Lock()
        self._helpers = 0
        self._closed = self._stopped = False
        self._left = threading.Lock()  # released by the last helper that leaves after `finish` has begun
        self._left.acquire()

    def help(self, inside: threading.local) -> None:
        """In a worker thread: run tasks until none is left to begin."""
        with self._lock:
            if self._closed or not self._contexts:
                return
            context = self._contexts.pop()
            self._helpers += 1
        try:
            context.run(_alone, inside, self.work)
        finally:
            with self._lock:
                self._helpers -= 1
                if self._closed and self._helpers == 0:
                    self._left.release()

    def work(self) -> None:
        while not self._stopped:
            index = next(self._next)
            if index >= len(self.tasks):
                return
            try:
                self.results[index] = self.tasks[index]()
            except BaseException as error:  # whatever it is, it belongs to the caller
                self.errors[index] = error
                self._stopped = self._stopped or not isinstance(error, Exception)

    def finish(self, stop: bool) -> None:
        """Wait for the helpers, whatever interrupts: they compute with what the next step computes with.

        `stop`: begin no further task.
        """
        self._stopped = self._stopped or stop
        interrupt: BaseException | None = None
        while True:
            try:
                with self._lock:
                    self._closed = True
                    if self._helpers == 0:
                        break
                self._left.acquire()
            except BaseException as error:
                interrupt, self._stopped = error, True
        self._contexts.clear()
        self.tasks = ()  # a worker that comes too late may hold this group for a while, but nothing large
        if stop:
            self.errors.clear()
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                interrupt = None


class WorkerPool:
    """`size` workers: the calling thread and threads that are started at first use.

    Where NPCONV_THREADS or a quota bounds the workers, it bounds the BLAS of the process too: outside workers, a matrix
    product has as many threads as there would be workers. The BLAS itself knows of no quota.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._blas = BlasThreads()
        self._begin()
        if size < runnable_cores():
            self._blas.set(size)
        forked = weakref.WeakMethod(self._forked)
        after_fork(lambda: (forked() or _nothing)())

    def blas(self) -> str:
        """The BLAS libraries that NumPy uses, in words; of one that nobody can bound, what comes of it."""
        text = self._blas.describe()
        if text.endswith("not recognised by threadpoolctl"):
            text += ": npconv cannot bound its threads, so speed, and the last bits of results, may depend on them"
        return text

    def paused(self) -> AbstractContextManager[object]:
        """No thread begins to work within this context."""
        return self._blas.paused()

    @property
    def idle(self) -> bool:
        """Whether no thread is at work; to be asked within `paused`."""
        return self._blas.idle

    @property
    def parts(self) -> int:
        """How many workers an operation may be split over here: one, inside a task."""
        return 1 if self._is_inside() else self.size

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run the tasks at the same time; the first exception (in the order of tasks) is raised after all end.

        After one that is no error (KeyboardInterrupt, SystemExit) no further task begins.
        """
        if len(tasks) <= 1:
            with self._blas.limited(), np.errstate(all="ignore"):
                return [task() for task in tasks]
        helpers = self._start(min(self.size, len(tasks)) - 1)
        group = _Group(tasks, helpers)
        with self._blas.limited():
            stop = True
            try:
                for _ in range(helpers):
                    self._calls.put(group)
                _alone(self._inside, group.work)
                stop = False
            finally:
                group.finish(stop)
        if group.errors:
            error = group.errors[min(group.errors)]
            group.errors.clear()  # or the error would hold, through its traceback, the group that holds it
            try:
                raise error
            finally:
                del error
        return group.results

    def split(self, count: int, work: Callable[[slice], Result], least: int = 1) -> list[Result]:
        """Call `work` with slices that cover range(count), one a worker, each of at least `least` (but all of it)."""
        if self._is_inside():
            return [work(slice(0, count))]
        parts = min(self.size, count // max(1, least))
        if parts <= 1:
            with self._blas.limited(), np.errstate(all="ignore"):
                return [work(slice(0, count))]
        bounds = [count * i // parts for i in range(parts + 1)]
        return self.run([partial(work, slice(a, b)) for a, b in zip(bounds[:-1], bounds[1:], strict=True)])

    def serially(self, task: Callable[[], Result]) -> Result:
        """Run a task in this thread as one of several workers would: nothing in it is split."""
        with self._blas.limited():
            return _alone(self._inside, task)

    def _is_inside(self) -> bool:
        return getattr(self._inside, "task", False)

    def _begin(self) -> None:
        self._inside = threading.local()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._calls: SimpleQueue[_Group | None] = SimpleQueue()
        # This put takes no lock that the code could hold which the end of the pool interrupts: it is reentrant.
        self._end = weakref.finalize(self, self._calls.put, None)
        self._end.atexit = False  # what else runs at exit may still compute; the threads are daemons

    def _forked(self) -> None:
        """A forked child has none of its parent's threads, and the locks as they happened to be."""
        self._end.detach()
        self._begin()
        self._blas.forked()

    def _start(self, count: int) -> int:
        """Start threads until there are `count`, or the system gives no more; how many there are to help."""
        if len(self._threads) < count:
            with self._lock, contextlib.suppress(RuntimeError):  # too many threads, or an interpreter that ends
                while len(self._threads) < count:
                    name = f"npconv-worker-{len(self._threads) + 1}"
                    served = self._calls, self._inside, self._blas  # not the pool, which they would keep
                    thread = threading.Thread(target=_serve, args=served, name=name, daemon=True)
                    thread.start()
                    self._threads.append(thread)
        return min(count, len(self._threads))


def _nothing() -> None:
    """What is left to do for a pool that is gone."""


def _alone(inside: threading.local, work: Callable[[], Result]) -> Result:
    """What is computed within this call is a worker's: nothing in it is split.

    A call rather than a context: an interrupt in the code of a context manager could leave `inside` as it is here.
    """
    before = getattr(inside, "task", False)
    try:
        inside.task = True
        with np.errstate(all="ignore"):
            return work()
    finally:
        inside.task = before


def _serve(calls: SimpleQueue[_Group | None], inside: threading.local, blas: BlasThreads) -> None:
    lowered = False
    while (group := calls.get()) is not None:
        with contextlib.suppress(Exception):  # no memory even to begin: the caller does what is left
            if not lowered:  # the libraries are known now
                blas.lower_here()
                lowered = True
            group.help(inside)
        del group  # or its arrays would live until the next one
    calls.put(None)  # for the next thread: who ends the pool need not know how many there are
