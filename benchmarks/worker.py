"""The worker process: one contender, which does what it is told, a line of JSON a request.

    python worker.py CONTENDER THREADS

Requests are {"do": METHOD, ...arguments}, answers the method's result, or {"error": message, "trace": ...}.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from contenders import CONTENDERS
from library import Library, Work


class Requests:
    """The requests that a worker answers, for one contender and one case at a time."""

    def __init__(self, make: Callable[[], Library]) -> None:
        self._make = make
        self._library: Library | None = None
        self._work: Work | None = None

    def start(self) -> dict[str, Any]:
        """Import the library."""
        self._library = self._make()
        return {"versions": self._library.versions()}

    def build(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Make a case."""
        self._work = None  # first, so that two cases are never in memory together
        self._work = self._started().build(spec)
        return {}

    def results(self, path: str) -> dict[str, Any]:
        """Write what comes out of the case to a file of arrays."""
        np.savez(path, **self._ready().results())  # type: ignore[arg-type]  # numpy's stub takes names for options
        return {}

    def time(self, steps: int, warm: int) -> dict[str, Any]:
        """Seconds for one run: the mean of `steps`, after `warm` that are not timed. Waits only before and after."""
        run, wait = self._ready().run, self._started().wait
        for _ in range(warm):
            run()
        loss: Any = None
        wait()
        started = time.perf_counter()
        for _ in range(steps):
            loss = run()
        wait()
        seconds = (time.perf_counter() - started) / steps
        if loss is not None and not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {float(loss)} after the timed steps")
        return {"seconds": seconds}

    def memory(self, steps: int, warm_images: int) -> dict[str, Any]:
        """Extra memory of the case, after one step on a few images has made what is made once."""
        work = self._ready()
        if work.small is None:
            raise ValueError("only a training step has its memory measured")
        work.small(warm_images)
        extra, method = self._started().extra_memory(work.run, steps)
        return {"bytes": extra, "method": method}

    def forget(self) -> dict[str, Any]:
        """Drop the case, and its memory."""
        self._work = None
        self._started().release()
        return {}

    def _started(self) -> Library:
        if self._library is None:
            raise RuntimeError("the first request must be 'start'")
        return self._library

    def _ready(self) -> Work:
        if self._work is None:
            raise RuntimeError("there must be a 'build' before this request")
        return self._work


def answer(requests: Requests, request: dict[str, Any]) -> dict[str, Any]:
    """What the request returns, or its error, which the driver raises again."""
    try:
        reply: dict[str, Any] = getattr(requests, request.pop("do"))(**request)
        return reply
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}


def main(contenders: Mapping[str, type[Library]] = CONTENDERS) -> None:
    """Answer requests until there are no more."""
    name, threads = sys.argv[1], int(sys.argv[2])
    # A library that prints must not get between the answers: standard output becomes standard error.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    requests = Requests(lambda: contenders[name](threads))
    for line in sys.stdin:
        print(json.dumps(answer(requests, json.loads(line))), file=channel, flush=True)


if __name__ == "__main__":
    main()
