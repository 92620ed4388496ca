"""What the CPU's operations share: the reference under them, and workers to split over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..reference import Reference
from .workers import WorkerPool

Result = TypeVar("Result")

WORTH_SPLITTING = 1 << 19  # elements for each worker: waking one takes as long as a pass over about so many


class CpuOperations(Reference):
    """The reference, with workers: each family of faster operations is a subclass in a file of its own."""

    _pool: WorkerPool

    def split(self, count: int, work: Callable[[slice], Result], least: int = 1) -> list[Result]:
        """`work` for slices that cover range(count), one a worker, of at least `least` each; in order.

        Within a worker's task, or where there is too little work, it is one call with all of it.
        """
        return self._pool.split(count, work, least)
