"""How a CUDA kernel is compiled, kept and launched.

Kernels are the files `kernels/*.cu`, one family a file. NVRTC compiles them at first use, for one element type (the
macro REAL) and one set of constants (further macros), and CuPy keeps what it made on disk. `common.cuh` is put in
front as text, so that NVRTC needs no include path.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

KERNELS = Path(__file__).with_name("kernels")
REALS = {"float32": "float", "float64": "double"}
THREADS = 256  # of a block, where a kernel leaves the choice open
BLOCKS_PER_PROCESSOR = 32  # a grid-stride loop has at most this many: four rounds of what a processor holds
FREE_SHARED_MEMORY = 48 * 1024  # a block may have so many bytes without asking
_INCLUDE = re.compile(r'\s*#\s*include\s+"([^"]+)"')
LARGEST_GRID, LARGEST_BLOCK = (2**31 - 1, 65535, 65535), 1024


class Kernel:
    """One kernel, compiled for one element type: call it with grid, block and arguments."""

    def __init__(self, name: str, function: Any, real: type[np.floating[Any]]) -> None:
        self.name = name
        self._function = function
        self._real = real
        self._shared = FREE_SHARED_MEMORY

    def __call__(self, grid: int | tuple[int, ...], block: int | tuple[int, ...], *args: Any, shared: int = 0) -> None:
        """Launch on the current stream; a grid of no blocks has nothing to do.

        Arrays go as pointers, in whatever layout they have; None is a null pointer. A Python int goes as `int`, a
        Python float as REAL, NumPy's scalars as they are (np.int64 as `long long`). ValueError, with the kernel's
        name, for an int beyond 32 bits and for a grid or a block that no device takes.
        """
        grid, block = _sizes(grid), _sizes(block)
        if any(size == 0 for size in grid):
            return
        self._check_sizes(grid, block)
        if shared > self._shared:
            self._function.max_dynamic_shared_size_bytes = self._shared = shared
        self._function(grid, block, tuple([self._argument(value) for value in args]), shared_mem=shared)

    def _argument(self, value: Any) -> Any:
        if value is None:
            return np.uint64(0)
        if isinstance(value, np.generic):  # first, because np.float64 is a float as well
            return value
        if isinstance(value, int):
            if not -(2**31) <= value < 2**31:
                raise ValueError(f"kernel {self.name}: argument {value} does not fit 32 bits; pass np.int64")
            return np.int32(value)
        return self._real(value) if isinstance(value, float) else value

    def _check_sizes(self, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
        if any(not 0 < size <= largest for size, largest in zip(grid, LARGEST_GRID, strict=True)):
            raise ValueError(f"kernel {self.name}: no device takes the grid {grid}; the largest is {LARGEST_GRID}")
        threads = block[0] * block[1] * block[2]
        if min(block) < 1 or block[2] > 64 or threads > LARGEST_BLOCK:
            raise ValueError(f"kernel {self.name}: no device takes the block {block}; it has 1 to 1024 threads")


class Launcher:
    """The kernels of one device, each compiled once; `xp` is CuPy."""

    def __init__(self, xp: ModuleType | Any) -> None:
        self.xp = xp
        self._modules: dict[tuple[Any, ...], Any] = {}
        self._kernels: dict[tuple[Any, ...], Kernel] = {}
        self._most_blocks: int | None = None

    def kernel(self, family: str, name: str, dtype: Any, **defines: int | str) -> Kernel:
        """The kernel `name` of kernels/<family>.cu for arrays of `dtype`, with `defines` as macros."""
        key = (family, name, dtype, *defines.items())
        found = self._kernels.get(key)
        if found is None:
            real = np.dtype(dtype)
            found = Kernel(name, self._module(family, real.name, defines).get_function(name), real.type)
            self._kernels[key] = found
        return found

    def over(self, kernel: Kernel, count: int, *args: Any) -> None:
        """Launch a kernel that walks over `count` elements with a grid-stride loop; its first argument is the count.

        The kernel's first parameter is a `long long`; see GRID_STRIDE in common.cuh.
        """
        if self._most_blocks is None:
            self._most_blocks = BLOCKS_PER_PROCESSOR * self.xp.cuda.Device().attributes["MultiProcessorCount"]
        kernel(min(-(-count // THREADS), self._most_blocks), THREADS, np.int64(count), *args)

    def _module(self, family: str, dtype: str, defines: dict[str, int | str]) -> Any:
        if dtype not in REALS:
            raise ValueError(f"the kernels compute in float32 and float64, not in {dtype}")
        options = compile_options(REALS[dtype], defines)
        key = (family, options)
        if key not in self._modules:
            self._modules[key] = self.xp.RawModule(code=source(family), options=options)
        return self._modules[key]


def compile_options(real: str, defines: dict[str, int | str]) -> tuple[str, ...]:
    """The compiler's options for one element type and set of macros, in one order."""
    return ("-std=c++17", f"-DREAL={real}", *(f"-D{name}={defines[name]}" for name in sorted(defines)))


@cache
def source(family: str) -> str:
    """The text of kernels/<family>.cu behind that of common.cuh, with the files it includes, each once."""
    seen: set[str] = set()
    return "\n".join((_text("common.cuh", seen), _text(f"{family}.cu", seen)))


def _text(name: str, seen: set[str]) -> str:
    """A file of kernels/ with its lines `#include "..."` replaced; the compiler's messages name its own lines."""
    if name in seen:
        return ""
    seen.add(name)
    parts = [f'#line 1 "{name}"']
    for number, line in enumerate((KERNELS / name).read_text(encoding="utf-8").splitlines(), 1):
        included = _INCLUDE.match(line)
        parts += [_text(included[1], seen), f'#line {number + 1} "{name}"'] if included else [line]
    return "\n".join(parts)


def _sizes(size: int | tuple[int, ...]) -> tuple[int, ...]:
    """A grid or a block as three numbers."""
    sizes = size if isinstance(size, tuple) else (size,)
    return (*sizes, 1, 1)[: max(3, len(sizes))]
