"""Worker threads. NumPy releases the interpreter's lock while it copies and multiplies, so threads share a batch.

While workers run, the BLAS gets one thread: two pools of threads on the same cores only wait for each other.
"""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

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


class WorkerPool:
    """Runs tasks on `size` threads; started at first use.

    Where NPCONV_THREADS bounds the workers, it bounds the BLAS of the process too: outside workers, a matrix product
    has as many threads as there would be workers.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        if size < usable_cores():
            self._libraries.limit(limits=size, user_api="blas")

    @cached_property
    def _executor(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.size, thread_name_prefix="npconv-worker")

    @cached_property
    def _libraries(self) -> Any:
        return ThreadpoolController()

    def blas(self) -> str:
        """The BLAS libraries that NumPy uses, in words."""
        libraries = [library for library in self._libraries.info() if library["user_api"] == "blas"]
        found = [f"{library['internal_api']} {library.get('version') or ''}".strip() for library in libraries]
        return "BLAS: " + (", ".join(found) or "not recognised by threadpoolctl")

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run the tasks at the same time; the first exception (in the order of tasks) is raised after all end."""
        if len(tasks) == 1:
            return [tasks[0]()]
        with self._libraries.limit(limits=1, user_api="blas"):
            # A thread starts with an empty context: hand it this one, so that no_grad() reaches the workers.
            futures = [self._executor.submit(contextvars.copy_context().run, task) for task in tasks]
            for future in futures:
                future.exception()
        return [future.result() for future in futures]
