"""The CuPy backend: kernels of our own over the reference operations.

    kernels/*.cu, launching.py      CUDA sources, compiled at first use
    grid.py and the operations      a file for each family, as in reference/: which kernel, over which grid
    conv.py, implicit_gemm.py, ...  convolutions
    graph.py                        a whole training step in one launch

`import cupy` succeeds without a driver or a GPU, so that CuPy can be imported and that it can be used are asked
apart, and each failure is named with its fix.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np

from ..base import Array
from .activation import ActivationOps
from .conv import FUSED, ConvOps, Settings
from .graph import StepRecorder
from .launching import Launcher
from .loss import LossOps
from .normalization import NormalizationOps
from .padding import PaddingOps
from .pooling import PoolingOps
from .resampling import ResamplingOps
from .update import UpdateOps
from .windows import WindowOps

Result = TypeVar("Result")

TENSOR_CAPABILITY = 80  # of the first GPUs whose tensor cores take TF32
INSTALL = 'pip install "npconv[cuda12]" or "npconv[cuda13]" (the CUDA version that nvidia-smi shows)'


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


class CupyBackend(
    ConvOps,
    WindowOps,
    PoolingOps,
    ResamplingOps,
    PaddingOps,
    ActivationOps,
    LossOps,
    NormalizationOps,
    UpdateOps,
):
    """CuPy arrays on the current device, channels-last in memory; one worker, because the device is parallel by itself.

    The environment is read when it is made: NPCONV_GPU_CONV and NPCONV_TF32 (see conv.py), and NPCONV_GPU_GRAPHS=0,
    which takes every training step eagerly. ValueError for what they cannot be.
    """

    name = "cupy"

    def __init__(self) -> None:
        reason = unusable_because()
        if reason is not None:
            raise RuntimeError(
                f"the cupy backend cannot be used: {reason}. NPCONV_BACKEND=numpy, or unset, computes on the CPU."
            )
        import cupy

        self.xp = cupy
        self.launcher = Launcher(cupy)
        self.conv_settings = Settings.read()
        graphs = os.environ.get("NPCONV_GPU_GRAPHS") or "1"
        if graphs not in ("0", "1"):
            raise ValueError(f"NPCONV_GPU_GRAPHS (={graphs!r}) must be 0 or 1")
        self._graphs = graphs == "1"
        self._constants: dict[Hashable, Array] = {}  # never given up: graphs know where they are
        self._check_tf32()

    def _check_tf32(self) -> None:
        if not self.conv_settings.tf32:
            return
        if self.conv_settings.algorithm == "im2col":
            raise ValueError("NPCONV_TF32 (=1) needs kernels of our own: NPCONV_GPU_CONV must not be im2col")
        capability = self.xp.cuda.Device().compute_capability
        if int(capability) < TENSOR_CAPABILITY:
            raise ValueError(
                f"NPCONV_TF32 (=1) needs a GPU of compute capability 8.0 or later, this one has "
                f"{capability[:-1]}.{capability[-1]}"
            )

    def constant(self, key: Hashable, make: Callable[[], Any]) -> Array:
        if key not in self._constants:
            self._constants[key] = self.asarray(make())
        return self._constants[key]

    def owns(self, x: object) -> bool:
        return isinstance(x, self.xp.ndarray)

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        if not isinstance(x, np.ndarray) or x.ndim < 2 or x.flags.c_contiguous:
            return self.xp.asarray(x, dtype=dtype)
        # CuPy would bring it into C order; images and kernels are to lie on the device as they lay on the host.
        axes = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
        there = self.xp.asarray(np.ascontiguousarray(x.transpose(axes)), dtype=dtype)
        return there.transpose([axes.index(axis) for axis in range(x.ndim)])

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

    @property
    def updates_flat(self) -> bool:
        return True

    @property
    def fused_activations(self) -> frozenset[str]:
        return frozenset(FUSED) - {"none"}

    def step_recorder(self) -> StepRecorder | None:
        return StepRecorder(self) if self._graphs else None

    def serially(self, task: Callable[[], Result]) -> Result:
        return task()

    def release_memory(self) -> None:
        self.xp.get_default_memory_pool().free_all_blocks()

    @property
    def can_fork(self) -> bool:
        return False  # a CUDA context does not survive a fork

    def paused(self) -> AbstractContextManager[object]:
        return nullcontext()

    @property
    def idle(self) -> bool:
        return False  # a device is never known to be

    def constant_weights(self) -> AbstractContextManager[None]:
        return nullcontext()

    def training_step(self) -> AbstractContextManager[None]:
        return nullcontext()

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        return [task() for task in tasks]


__all__ = ["CupyBackend", "unusable_because"]
