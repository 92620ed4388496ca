"""The stand-in as a module named cupy: `install` puts it where `import cupy` finds it, `uninstall` takes it away."""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType
from typing import Any

import numpy as np

from . import arithmetic, cuda, functions
from .ndarray import ndarray

VERSION = "14.2.0"
NAMES = ("cupy", "cupy.cuda", "cupy.cuda.runtime", "cupyx")


def _is_own(name: str, made: Any) -> bool:
    return not name.startswith("_") and getattr(made, "__module__", "") == functions.__name__


FUNCTIONS: dict[str, Any] = {
    **{name: made for name, made in vars(functions).items() if _is_own(name, made)},
    **arithmetic.UFUNCS,
    **arithmetic.REDUCTIONS,
    **{function.__name__: function for function in (arithmetic.allclose, arithmetic.array_equal, arithmetic.clip,
                                                    arithmetic.dot, arithmetic.matmul)},
}  # fmt: skip

_before: dict[str, ModuleType | None] | None = None


def install() -> ModuleType:
    """Put the stand-in in the place of CuPy, and give it."""
    global _before
    if _before is None:
        _before = {name: sys.modules.get(name) for name in list(sys.modules) if name.split(".")[0] in ("cupy", "cupyx")}
        for name in _before:
            del sys.modules[name]
        sys.modules.update(_modules())
    return sys.modules["cupy"]


def uninstall() -> None:
    """Put back what `install` found."""
    global _before
    if _before is not None:
        for name in NAMES:
            sys.modules.pop(name, None)
        sys.modules.update(_before)
        _before = None


def _modules() -> dict[str, ModuleType]:
    made = {name: ModuleType(name) for name in NAMES}
    for name, module in made.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=name in ("cupy", "cupy.cuda"))
        module.__path__ = []
    cupy, runtime = made["cupy"], made["cupy.cuda.runtime"]
    vars(cupy).update(FUNCTIONS)
    vars(cupy).update(_constants())
    cupy.ndarray, cupy.ufunc, cupy.RawModule = ndarray, arithmetic.ufunc, cuda.RawModule
    cupy.get_default_memory_pool = lambda: cuda.default_pool
    cupy.is_available = lambda: True
    for name in ("Stream", "Graph", "Event", "MemoryPool", "Device", "using_allocator", "set_allocator",
                 "get_elapsed_time", "get_current_stream", "alloc_pinned_memory"):  # fmt: skip
        setattr(made["cupy.cuda"], name, getattr(cuda, name))
    runtime.CUDARuntimeError = cuda.CUDARuntimeError
    runtime.getDeviceCount = lambda: 1
    runtime.getDeviceProperties = lambda device: {"name": b"stand-in on the CPU", "totalGlobalMem": 2**30}
    runtime.streamCaptureModeThreadLocal, runtime.streamCaptureModeGlobal, runtime.streamCaptureModeRelaxed = 1, 0, 2
    made["cupyx"].empty_pinned = np.empty
    cupy.cuda, made["cupy.cuda"].runtime = made["cupy.cuda"], runtime
    return made


def _constants() -> dict[str, Any]:
    types = "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 dtype generic"
    same = {name: getattr(np, name) for name in (*types.split(), "inf", "nan", "pi", "e", "newaxis", "result_type",
                                                 "can_cast", "isscalar")}  # fmt: skip
    return {**same, "__version__": VERSION}
