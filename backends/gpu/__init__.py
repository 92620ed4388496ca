"""The CuPy backend: the reference operations on a GPU.

`import cupy` succeeds without a driver or a GPU, so that CuPy can be imported and that it can be used are asked
apart, and each failure is named with its fix.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from ..base import Array
from ..reference import Reference

Result = TypeVar("Result")

INSTALL = "pip install 'npconv[cuda12]' or 'npconv[cuda13]' (the CUDA version that nvidia-smi shows)"


def unusable_because() -> str | None:
    """Why CuPy cannot be used here, with the fix; None if it can."""
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed; {INSTALL}"
    try:
        import cupy
    except Exception as error:  # a broken installation can fail in any way
        return f"CuPy is installed but cannot be imported ({error}); reinstall it: {INSTALL}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"there is no usable CUDA driver ({error}); install NVIDIA's driver, and check that nvidia-smi works"
    if count < 1:
        return "there is no CUDA device; check that nvidia-smi lists one and that CUDA_VISIBLE_DEVICES allows it"
    try:
        cupy.zeros(1).sum().get()
    except Exception as error:  # the first allocation and the first kernel show what the counts do not
        return f"the GPU cannot be used ({error}); check the driver with nvidia-smi, and the CUDA toolkit: {INSTALL}"
    return None


class CupyBackend(Reference):
    """CuPy arrays on the current device; one worker, because the device is parallel by itself."""

    name = "cupy"

    def __init__(self) -> None:
        reason = unusable_because()
        if reason is not None:
            raise RuntimeError(
                f"the cupy backend cannot be used: {reason}. NPCONV_BACKEND=numpy, or unset, computes on the CPU."
            )
        import cupy

        self.xp = cupy

    def owns(self, x: object) -> bool:
        return isinstance(x, self.xp.ndarray)

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        return self.xp.asarray(x, dtype=dtype)

    def to_numpy(self, x: Array) -> Any:
        return self.xp.asnumpy(x)

    def images(self, x: Array, dtype: Any = None) -> Array:
        return self.xp.ascontiguousarray(x.transpose(0, 2, 3, 1), dtype=dtype).transpose(0, 3, 1, 2)

    def describe(self) -> str:
        properties = self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.Device().id)
        memory = properties["totalGlobalMem"] / 2**30
        return f"CuPy {self.xp.__version__} on {properties['name'].decode()}, {memory:.0f} GiB"

    @property
    def workers(self) -> int:
        return 1

    def serially(self, task: Callable[[], Result]) -> Result:
        return task()

    def release_memory(self) -> None:
        self.xp.get_default_memory_pool().free_all_blocks()

    @property
    def can_fork(self) -> bool:
        return False  # a CUDA context does not survive a fork

    def constant_weights(self) -> AbstractContextManager[None]:
        return nullcontext()

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        return [task() for task in tasks]


__all__ = ["CupyBackend", "unusable_because"]
