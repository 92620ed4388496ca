"""Signals that wait while a step is being taken, so that what they interrupt is a network between two steps.

Ctrl-C in the midst of a step would leave some parameters updated and others not; that state belongs to no training.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SAME_REQUEST = 2.0  # seconds within which a request to end may come again, meaning the same
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # those that a system has
now = time.monotonic


class Requests:
    """Tells a second request to end from one that has come twice.

    timeout(1) sends SIGTERM to a process and then to its group, ssh and systemd SIGHUP and SIGTERM: all mean the same.
    Who presses Ctrl-C a second time means more than that.
    """

    def __init__(self) -> None:
        self._first: float | None = None

    def note(self) -> None:
        """The first one is there."""
        self._first = now()

    def repeated(self, number: int) -> bool:
        """Whether a signal says what has just been said."""
        return number != signal.SIGINT and self._first is not None and now() - self._first < SAME_REQUEST


class HeldSignals:
    """As a context manager: signals with a handler in Python (Ctrl-C has one) wait while `held`, and come after it.

    A second Ctrl-C does not wait. Once a handler has raised, other signals than Ctrl-C are dropped for two seconds:
    what it has raised is ending the program already, and may still be writing. Python throws away what is raised while
    it ends an object (`__del__`, weakref callbacks), where a signal may arrive like anywhere: that is raised once more
    at the next chance. Elsewhere than in the main thread, where no signals arrive, it does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._holding = False
        self._waiting: list[tuple[int, FrameType | None]] = []
        self._held, self._ending = Requests(), Requests()
        self._raised: BaseException | None = None  # by a handler
        self._lost: BaseException | None = None  # of that, what Python has thrown away
        self._unraisable: Callable[[Any], Any] = sys.unraisablehook

    def __enter__(self) -> HeldSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._arrived)
            self._unraisable, sys.unraisablehook = sys.unraisablehook, self._thrown_away
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if sys.unraisablehook == self._thrown_away:
            sys.unraisablehook = self._unraisable
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._arrived:  # unless someone has set another one meanwhile
                signal.signal(number, handler)
        self._handlers = {}
        if kind is None:
            self._raise_lost()
        self._raised = self._lost = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """What arrives meanwhile is handled when this context ends; not if it ends with an error, which comes first."""
        self._raise_lost()
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
            arrived, self._waiting = self._waiting, []
        for each in arrived:
            self._handle(*each)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._ending.repeated(number):
            return
        if not self._holding:
            self._handle(number, frame)
        elif not self._waiting:
            self._held.note()
            self._waiting.append((number, frame))
        elif not self._held.repeated(number):
            self._handle(number, frame)
        elif number not in (other for other, _ in self._waiting):
            self._waiting.append((number, frame))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        try:
            self._handlers[number](number, frame)
        except BaseException as error:
            self._ending.note()
            self._raised = error
            raise

    def _thrown_away(self, what: Any) -> None:
        """In place of `sys.unraisablehook`, which would print it."""
        if what.exc_value is not None and what.exc_value is self._raised:
            self._lost = self._raised
        else:
            self._unraisable(what)

    def _raise_lost(self) -> None:
        if self._lost is not None:
            lost, self._lost = self._lost, None
            self._ending.note()
            raise lost.with_traceback(None)
