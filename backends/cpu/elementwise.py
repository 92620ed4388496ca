"""Elementwise work over the flat memory of arrays, in blocks that stay in a core's cache, split over the workers.

Images arrive channels-last or in C order. Either way their memory is one dense run, and an elementwise operation does
not care which element lies where, as long as all its arrays agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..base import Array
from .memory import empty, empty_images
from .operations import WORTH_SPLITTING, CpuOperations

Result = TypeVar("Result")

# Elements of a block. Shorter ones would lie in the cache from one pass to the next, but cost more than they save: at
# each call, a thread gives the interpreter's lock away and waits for it.
BLOCK = 1 << 19
LARGEST = {char: float(np.finfo(char).max) for char in "fd"}  # number of a dtype
ROW = 1 << 13  # NumPy's maximum of an array and a number is three times slower than that of rows and a row


class Elementwise(CpuOperations):
    """What the operations on single elements share."""

    def elementwise(self, work: Callable[..., None], arrays: tuple[Array, ...], out: Array | None = None) -> Array:
        """Call `work(*blocks, out_block)` on 1-D blocks of all arrays, of one shape and dtype; returns `out`.

        `out` is a new array if it is None; it may be one of the arrays.
        """
        channels_last, flat = flattened(arrays)
        if out is None:
            out = (empty_images if channels_last else empty)(arrays[0].shape, arrays[0].dtype)
        target = _view(out, channels_last)
        if target is None:  # in neither order: compute elsewhere, then copy
            out[...] = self.elementwise(work, arrays)
            return out
        self.over_blocks(lambda part: work(*(a[part] for a in flat), target[part]), target.size)
        return out

    def over_blocks(self, work: Callable[[slice], Result], size: int) -> list[Result]:
        """The results of `work` on slices that cover range(size), each at most BLOCK long, shared by the workers."""

        if size <= WORTH_SPLITTING:
            return [work(slice(0, size))]

        def share(part: slice) -> list[Result]:
            starts = range(part.start, part.stop, BLOCK)
            return [work(slice(start, min(start + BLOCK, part.stop))) for start in starts]

        return [result for results in self.split(size, share, WORTH_SPLITTING) for result in results]


def suits(*arrays: Array) -> bool:
    """Whether the arrays are float32 or float64, all the same, and of one shape: what `elementwise` takes."""
    x = arrays[0]
    return x.dtype.char in "fd" and all(a.dtype == x.dtype and a.shape == x.shape for a in arrays[1:])


def least_images(x: Array) -> int:
    """How many images of `x` (N, ...) are worth a worker."""
    return -(-WORTH_SPLITTING * len(x) // max(1, x.size))


def flattened(arrays: tuple[Array, ...]) -> tuple[bool, list[Array]]:
    """Whether the order is channels-last (else it is C), and the arrays' elements in it: a copy where they are not."""
    channels_last = arrays[0].ndim == 4 and not all(array.flags.c_contiguous for array in arrays)
    return channels_last, [_flat(array, channels_last) for array in arrays]


def bits(x: Array) -> Array:
    """The same memory, seen as integers."""
    return x.view(np.int32 if x.dtype.itemsize == 4 else np.int64)


def with_row(ufunc: Any, x: Array, row: Array, out: Array) -> None:
    """`ufunc(x, row, out=out)` for 1-D x, the row of ROW equal elements repeated as often as needed."""
    whole = x.size // ROW * ROW
    if whole:
        ufunc(x[:whole].reshape(-1, ROW), row, out=out[:whole].reshape(-1, ROW))
    if whole < x.size:
        ufunc(x[whole:], row[: x.size - whole], out=out[whole:])


def _flat(x: Array, channels_last: bool) -> Array:
    view = _view(x, channels_last)
    if view is not None:
        return view
    x = x.transpose(0, 2, 3, 1) if channels_last else x
    dense = empty(x.shape, x.dtype)
    np.copyto(dense, x)
    return dense.reshape(-1)


def _view(x: Array, channels_last: bool) -> Array | None:
    x = x.transpose(0, 2, 3, 1) if channels_last else x
    return x.reshape(-1) if x.flags.c_contiguous else None
