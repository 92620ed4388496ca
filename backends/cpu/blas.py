"""The number of threads of NumPy's BLAS: one while any worker computes, and until none has for a while.

Two pools of threads on the same cores only wait for each other. And a product that several threads share out is rounded
otherwise: with one thread, results do not depend on what else runs in the process.
"""

from __future__ import annotations

import contextlib
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any


class BlasThreads:
    """Lowers the number for whoever asks, in any thread, and raises it again for all of them.

    Raising the number wakes the threads of OpenBLAS, which then wait for work by turning in circles for some hundredths
    of a second, on the cores where our workers compute. A training loop that lowered and raised it at every step
    would compete with them all the time. So it is raised again by a thread that waits for a pause.

    An OpenBLAS that is built with OpenMP has a number for each thread that calls it. There, each thread lowers its own
    and raises it again itself: those of workers never do.
    """

    PAUSE = 0.5  # seconds without work after which the BLAS gets its threads back

    def __init__(self) -> None:
        try:
            from threadpoolctl import ThreadpoolController  # here, so that npconv can be imported without it
        except ImportError as error:
            need = "npconv shares the cores with NumPy's BLAS by means of threadpoolctl"
            raise ImportError(f"{need} ({error}): pip install threadpoolctl") from error
        self._find: Callable[[], Any] = ThreadpoolController
        self._libraries: list[Any] | None = None  # that have one number of threads for the whole process
        self._by_thread: list[Any] = []  # that have one for each thread
        self._problem: str | None = None  # why they were not found, until it is told
        self._before: list[int] | None = None  # the numbers of threads to go back to, while lowered
        self._restorer = False  # whether a thread waits to go back to them
        self._asking: dict[int, weakref.ref[_Limited]] = {}  # who asks for one thread now, by id
        self._last = 0.0
        self._lock = threading.Lock()

    def _found(self) -> list[Any]:
        if self._libraries is None:
            found = []
            try:
                found = self._find().lib_controllers
            except Exception as error:  # each system has a search of its own, by what the system has
                self._problem = f"{type(error).__name__}: {error}"
            blas = [library for library in found if library.user_api == "blas"]
            self._by_thread = [library for library in blas if _has_one_by_thread(library)]
            self._libraries = [library for library in blas if not _has_one_by_thread(library)]
        return self._libraries

    def _tell_problem(self) -> None:
        """Warn, once, that libraries were not found; not within the lock, for who is warned may compute."""
        problem, self._problem = self._problem, None
        if problem is not None:
            told = "the threads of NumPy's BLAS are not found, and may get in the way of npconv's"
            warnings.warn(f"{told} ({problem})", RuntimeWarning, stacklevel=4)

    def set(self, count: int) -> None:
        """So many threads; of libraries that have a number for each thread, for this one."""
        for library in self._found():
            _set(library, count)
        for library in self._by_thread:
            library.set_num_threads(count)
        self._tell_problem()

    @property
    def has_by_thread(self) -> bool:
        """Whether there are libraries that have a number of threads for each thread."""
        return bool(self._by_thread)

    def lower_here(self) -> list[int]:
        """One thread for what this thread calls, of libraries that have a number for each; the numbers before."""
        before = [library.get_num_threads() for library in self._by_thread]
        for library, count in zip(self._by_thread, before, strict=True):
            if count > 1:
                library.set_num_threads(1)
        return before

    def restore_here(self, before: list[int]) -> None:
        """Go back to what `lower_here` gave, in the same thread."""
        for library, count in zip(self._by_thread, before, strict=False):
            if count > 1:
                library.set_num_threads(count)

    def limited(self) -> _Limited:
        """A context within which there is one thread, however long it takes."""
        return _Limited(self)

    def paused(self) -> AbstractContextManager[object]:
        """A context within which nobody enters `limited`; whether anybody is, `idle` says there.

        It is the lock itself: an interrupt cannot come between its being taken and the `with` block, nor keep it from
        being given back. In a context manager written in Python it could.
        """
        return self._lock

    @property
    def idle(self) -> bool:
        """Whether nobody is within `limited`; to be asked within `paused`."""
        return not self._asked()

    def lower(self, who: _Limited) -> None:
        with self._lock:
            if self._before is None:
                try:
                    self._lower()
                except BaseException:  # half of it may be done
                    self._restore()
                    raise
            self._asking[id(who)] = weakref.ref(who)
        if self._problem is not None:
            self._tell_problem()

    def leave(self, who: _Limited) -> None:
        with self._lock:
            self.forget(who)
            self._last = time.monotonic()
            if max(self._before or [1]) > 1 and not self._restorer and not self._asked():
                self._restore()

    def forget(self, who: _Limited) -> None:
        """It does not ask any more; without a lock, which an interrupt could keep it from getting."""
        self._asking.pop(id(who), None)  # in a child forked within, it is not there

    def _asked(self) -> bool:
        for number, who in list(self._asking.items()):
            if who() is None:
                self._asking.pop(number, None)
        return bool(self._asking)

    def _lower(self) -> None:
        self._before = [library.get_num_threads() for library in self._found()]
        if max(self._before, default=1) > 1:
            for library in self._found():
                _set(library, 1)
            with contextlib.suppress(RuntimeError):  # too many threads, or an interpreter that ends
                threading.Thread(target=self._restore_later, name="npconv-blas", daemon=True).start()
                self._restorer = True

    def _restore(self) -> None:
        for library, count in zip(self._libraries or [], self._before or [], strict=False):
            _set(library, count)
        self._before, self._restorer = None, False

    def _restore_later(self) -> None:
        while True:
            time.sleep(self.PAUSE)
            with self._lock:
                if not self._asked() and time.monotonic() - self._last >= self.PAUSE:
                    self._restore()
                    return

    def forked(self) -> None:
        """In a forked child: the thread that would have raised the number again is not there."""
        self._lock, self._asking = threading.Lock(), {}
        self._restore()

    def describe(self) -> str:
        libraries = [library.info() for library in (*self._found(), *self._by_thread)]
        found = [f"{library['internal_api']} {library.get('version') or ''}".strip() for library in libraries]
        return "BLAS: " + (", ".join(found) or "not recognised by threadpoolctl")


def _has_one_by_thread(library: Any) -> bool:
    return library.internal_api == "openblas" and library.threading_layer == "openmp"


def _set(library: Any, count: int) -> None:
    """So many threads for the whole process, whichever thread asks.

    Since 3.8 threadpoolctl lets only the thread set the number of an OpenBLAS which has set it first, for as long as it
    lives, and does nothing in others, without a word. npconv lowers it in one thread and raises it in another.
    """
    clear = getattr(library, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
    library.set_num_threads(count)
    if clear is not None:
        clear(force=True)


class _Limited:
    """The context of `BlasThreads.limited`: a class, for it is entered for every operation that is called by hand.

    An interrupt may come anywhere, even before the first instruction of `__exit__`, which then does not run: so an
    object that is no more does not ask any more.
    """

    __slots__ = ("__weakref__", "_here", "_of")

    def __init__(self, of: BlasThreads) -> None:
        self._of = of
        self._here: list[int] | None = None

    def __enter__(self) -> None:
        try:
            self._of.lower(self)
            if self._of.has_by_thread:
                self._here = self._of.lower_here()
        except BaseException:  # it may have come when all was done
            self._of.forget(self)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._here is not None:
                self._of.restore_here(self._here)
            self._of.leave(self)
        except BaseException:
            self._of.forget(self)
            raise
