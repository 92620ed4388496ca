"""How the memory-bound kernels see arrays: channels-last pixels, vectors of channels, and grids of threads.

The other half is kernels/grid.cuh, which every such kernel begins with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..base import Array
from ..reference import Reference
from .launching import THREADS, Launcher

VECTOR = 16  # bytes that one instruction of a thread moves at most
MOST_BLOCKS = 1 << 14  # of a grid: some ten rounds of what the largest device holds; beyond, threads loop
MOST_DOWN = 65535  # the largest grid in y that any device takes


class Grid(Reference):
    """What the kernels' wrappers share; the backend sets `launcher`."""

    launcher: Launcher
    channel_sum: Callable[[Array], Array]  # normalization.py's
    bias_activation: Callable[..., Array]  # activation.py's

    def pixels(self, x: Array) -> Array:
        """x (N, C, H, W) as a contiguous (N, H, W, C); a copy only where it is not."""
        return self.xp.ascontiguousarray(x.transpose(0, 2, 3, 1))

    def address(self, x: Array) -> int:
        """Where the array's memory begins."""
        return int(x.data.ptr)

    def lanes(self, channels: int, *arrays: Array) -> int:
        """How many neighbouring elements one thread moves at once, for contiguous arrays of one dtype."""
        most = VECTOR // arrays[0].dtype.itemsize
        if channels % most or any(self.address(array) % VECTOR for array in arrays):
            return 1
        return most

    def over_rows(
        self, family: str, name: str, dtype: Any, rows: int, width: int, *args: Any, **defines: int | str
    ) -> None:
        """Launch a kernel over `rows` rows of `width` vectors; these two are its first arguments."""
        if rows == 0 or width == 0:
            return
        across = _power_of_two(width, THREADS)
        columns, down = -(-width // across), -(-rows // (THREADS // across))
        grid = columns, min(down, max(1, MOST_BLOCKS // columns), MOST_DOWN)
        kernel = self.launcher.kernel(family, name, dtype, **defines)
        kernel(grid, (across, THREADS // across), np.int64(rows), width, *args)

    def over_elements(self, family: str, name: str, flat: tuple[Array, ...], *args: Any, **defines: int | str) -> None:
        """Launch a kernel over all elements of flat arrays of one size; its first arguments are the size and they.

        None stands for an array that the kernel does not read.
        """
        x, given = flat[0], [array for array in flat if array is not None]
        lanes = self.lanes(0, *given)
        kernel = self.launcher.kernel(family, name, x.dtype, LANES=lanes, **defines)
        blocks = min(-(-x.size // (THREADS * lanes)), MOST_BLOCKS)
        kernel(blocks, THREADS, np.int64(x.size), *flat, *args)


def computable(x: Array, *others: Array) -> bool:
    """Whether kernels take the arrays: all float32 or all float64, and of one shape."""
    return x.dtype.char in "fd" and all(other.dtype == x.dtype and other.shape == x.shape for other in others)


def images(pixels: Array) -> Array:
    """(N, H, W, C) seen as (N, C, H, W)."""
    return pixels.transpose(0, 3, 1, 2)


def column_block(channels: int, rows: int, threads: int) -> tuple[int, int]:
    """A block for sums over rows: (channels side by side, rows at a time). 32 channels fill a warp's access."""
    across = _power_of_two(channels, 32)
    return across, _power_of_two(rows, threads // across)


def parts_of(pixels: int, channels: int) -> tuple[int, int]:
    """Into how many parts, of how many pixels, a sum over pixels is cut: the same for the same shape, always."""
    across, down = column_block(channels, pixels, THREADS)
    tiles = -(-channels // across)
    most = max(1, 1024 // tiles)
    run = max(32 * down, -(-pixels // most))
    return -(-pixels // run), run


def _power_of_two(least: int, most: int) -> int:
    """The smallest power of two that is at least `least`, but at most `most`."""
    return min(1 << (least - 1).bit_length(), most)
