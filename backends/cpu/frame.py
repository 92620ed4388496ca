"""Images as the CPU computes on them: contiguous (N, H, W, C) arrays, parts of them with zeros around, and windows."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry, Pair
from .memory import empty

BLOCK_BYTES = 1 << 20  # of the largest temporary of one block: the L2 cache of a core


def pixels_last(x: Array) -> Array:
    """(N, C, H, W) -> contiguous (N, H, W, C); a copy only if x is not channels-last."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def frame(x: Array, top: int, left: int, height: int, width: int) -> Array:
    """x[:, top : top + height, left : left + width] of (N, H, W, C), with zeros where that lies outside the image.

    A view if nothing lies outside, else a copy.
    """
    n, h, w, c = x.shape
    overlap = _overlap(h, w, top, left, height, width)
    if overlap is None:
        return x[:, top : top + height, left : left + width]
    (rows, columns), (above, below, before, after) = overlap
    framed = empty((n, height, width, c), x.dtype)
    if framed.size <= 1 << 18 or c < 8 or above >= below:
        framed.fill(0)  # one call; the four edges are four
    else:
        framed[:, :above], framed[:, below:] = 0, 0
        framed[:, above:below, :before], framed[:, above:below, after:] = 0, 0
    framed[:, above:below, before:after] = x[:, rows, columns]
    return framed


@lru_cache(maxsize=4096)
def _overlap(
    h: int, w: int, top: int, left: int, height: int, width: int
) -> tuple[tuple[slice, slice], tuple[int, int, int, int]] | None:
    """Which rows and columns of an h x w image lie in the frame, and where there; None if the frame is inside."""
    bottom, right = top + height, left + width
    if top >= 0 and left >= 0 and bottom <= h and right <= w:
        return None
    rows, columns = slice(max(top, 0), min(bottom, h)), slice(max(left, 0), min(right, w))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return (slice(0, 0), slice(0, 0)), (0, 0, 0, 0)
    above, before = rows.start - top, columns.start - left
    return (rows, columns), (above, above + rows.stop - rows.start, before, before + columns.stop - columns.start)


def windows(x: Array, size: Pair, stride: Pair, dilation: Pair, count: Pair) -> Array:
    """(N, H, W, C) -> (N, count, count, size, size, C): windows of `size` pixels, `stride` apart; a view."""
    n, h, w, c = x.strides
    shape = (x.shape[0], *count, *size, x.shape[3])
    strides = (n, h * stride[0], w * stride[1], h * dilation[0], w * dilation[1], c)
    if x.flags.c_contiguous:
        return np.ndarray(shape, x.dtype, x, 0, strides)  # as_strided, in a tenth of its time
    return np.lib.stride_tricks.as_strided(x, shape, strides)


def input_frame(x: Array, geometry: ConvGeometry, lines: slice, out_width: int) -> Array:
    """What the windows of the output rows `lines` see of x (N, H, W, C), zero padding included."""
    (sh, sw), (eh, ew) = geometry.stride, geometry.extent
    (top, _), (left, _) = geometry.padding
    height = (lines.stop - lines.start - 1) * sh + eh
    return frame(x, lines.start * sh - top, -left, height, (out_width - 1) * sw + ew)


def blocks(n: int, lines: slice, line_bytes: float, budget: int, multiple: int = 1) -> tuple[tuple[slice, slice], ...]:
    """Cut n images of the rows `lines` so that a block has about `budget` bytes: whole images, or rows of one image.

    Rows are cut at multiples of `multiple`, counted from the first.
    """
    return _blocks(n, lines.start, lines.stop, line_bytes, budget, multiple)


@lru_cache(maxsize=4096)
def _blocks(
    n: int, start: int, stop: int, line_bytes: float, budget: int, multiple: int
) -> tuple[tuple[slice, slice], ...]:
    height = stop - start
    most = max(multiple, int(budget / max(1, line_bytes)) // multiple * multiple)
    if most >= height:
        count = max(1, most // max(1, height))
        return tuple((slice(i, min(i + count, n)), slice(start, stop)) for i in range(0, n, count))
    parts = [slice(first, min(first + most, stop)) for first in range(start, stop, most)]
    return tuple((slice(i, i + 1), part) for i in range(n) for part in parts)
