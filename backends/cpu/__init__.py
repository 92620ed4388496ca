"""The NumPy backend: the reference operations, with faster ones where they apply, and worker threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import numpy as np

from . import memory, prepared, transformed
from .activation import ActivationOps
from .choice import chosen_algorithm
from .conv import ConvOps
from .cores import quota_cores, runnable_cores
from .loss import LossOps
from .normalization import NormalizationOps
from .pooling import PoolingOps
from .resampling import ResamplingOps
from .update import UpdateOps
from .workers import WorkerPool, processes_allowed, thread_count

Result = TypeVar("Result")


class NumpyBackend(ActivationOps, NormalizationOps, PoolingOps, ResamplingOps, LossOps, UpdateOps, ConvOps):
    """NumPy arrays on the host, channels-last in memory."""

    name = "numpy"
    xp = np

    def __init__(self) -> None:
        self.algorithm = chosen_algorithm()
        processes_allowed()  # raises for nonsense now, rather than in the first training
        self._pool = WorkerPool(thread_count())

    def owns(self, x: object) -> bool:
        return isinstance(x, np.ndarray)

    def asarray(self, x: Any, dtype: Any = None) -> np.ndarray:
        if hasattr(x, "get") and type(x).__module__.partition(".")[0] == "cupy":
            x = x.get()
        return np.asarray(x, dtype=dtype)

    def to_numpy(self, x: Any) -> np.ndarray:
        return self.asarray(x)

    def images(self, x: np.ndarray, dtype: Any = None) -> np.ndarray:
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1), dtype=dtype).transpose(0, 3, 1, 2)

    def describe(self) -> str:
        python = ".".join(map(str, sys.version_info[:3]))
        threads = f"{self.workers} worker thread(s)"
        cores = runnable_cores()
        if not os.environ.get("NPCONV_THREADS") and self.workers == quota_cores() and self.workers < cores:
            threads += f" (the container's quota of CPU time; it may run on {cores} cores)"
        return f"NumPy {np.__version__} on Python {python}, {threads}, {self._pool.blas()}"

    @property
    def workers(self) -> int:
        return self._pool.size

    def serially(self, task: Callable[[], Result]) -> Result:
        return self._pool.serially(task)

    def release_memory(self) -> None:
        memory.release()

    @property
    def shares_batch(self) -> bool:
        return True

    @property
    def can_fork(self) -> bool:
        return hasattr(os, "fork")

    def paused(self) -> AbstractContextManager[object]:
        return self._pool.paused()

    @property
    def idle(self) -> bool:
        return self._pool.idle

    def constant_weights(self) -> AbstractContextManager[None]:
        return prepared.constant_weights()

    @contextmanager
    def training_step(self) -> Iterator[None]:
        with prepared.constant_weights(), transformed.training_step():
            yield

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        return self._pool.run(tasks)


__all__ = ["NumpyBackend"]
