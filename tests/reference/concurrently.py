"""Calls in several threads at once, and threads that change places all the time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls that begin at the same time, a thread each; raises what one of them raised."""
    gate = threading.Barrier(len(calls))

    def begin(call: Callable[[], Any]) -> Any:
        gate.wait(20)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(60) for future in [pool.submit(begin, call) for call in calls]]


@contextmanager
def hasty_threads() -> Iterator[None]:
    """Threads change places after nearly every instruction."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
