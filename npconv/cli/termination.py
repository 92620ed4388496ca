"""Being asked to end: SIGTERM, SIGHUP, and Ctrl-Break, as exceptions, so that a run ends as it does with Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..held_signals import Requests

INTERRUPTED = 130  # the exit status of what Ctrl-C has ended, by the convention 128 + the signal's number
_NAMES = ("SIGTERM", "SIGHUP", "SIGBREAK")  # those that a system has; on Windows the last is Ctrl-Break


class Terminated(KeyboardInterrupt):
    """A signal has asked this process to end; `status` is the exit status that says so."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.status = 128 + number


@contextmanager
def terminable() -> Iterator[None]:
    """Within this context the signals of `_NAMES` raise `Terminated`, unless someone has set a handler or ignores them.

    Once: what comes within two seconds of the first is the same request. Elsewhere than in the main thread, where no
    signals arrive, it does nothing.
    """
    ours, requests = [], Requests()

    def terminate(number: int, _: FrameType | None) -> None:
        if not requests.repeated(number):
            requests.note()
            raise Terminated(number)

    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in _NAMES if hasattr(signal, name)):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, terminate)
                ours.append(number)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def status_of(interrupt: KeyboardInterrupt) -> int:
    """The exit status of a command that was ended so."""
    return interrupt.status if isinstance(interrupt, Terminated) else INTERRUPTED


def in_one_word(interrupt: KeyboardInterrupt) -> str:
    """What has happened."""
    return "terminated" if isinstance(interrupt, Terminated) else "interrupted"
