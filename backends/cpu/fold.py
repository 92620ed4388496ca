"""fold: the adjoint of unfolding and multiplying, for gradients of inputs and for transposed convolutions.

    y[i s + t d] += x[i] W[t]        for every pixel i and every tap t, stride s, dilation d

Written so, each tap scatters short strided runs. Instead, write the target row as i s + t d = (i + a) s + r with
0 <= r < s: taps that share the shift a go together in one matrix product, and its result is added to a buffer of
shape (N, H/s, W/s, s, s, C), shifted by whole pixels of x, in long rows. A last copy sorts the s x s phases into
place (a pixel shuffle) and crops the padding. The sums start at the bias, so adding it costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry
from .memory import empty

BLOCK_BYTES = 1 << 20  # the phase buffer of one block of images


class Shift(NamedTuple):
    """Taps along one axis whose target is `shift` pixels of x further: they fill phases from `phase` on."""

    shift: int
    phase: int
    taps: slice


def pixels(x: Array) -> Array:
    """(N, C, H, W) -> (N H W, C), without a copy if x is channels-last."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(-1, x.shape[1])


def shifts(kernel: int, stride: int, dilation: int) -> list[Shift]:
    """The taps of one axis, grouped by shift."""
    if dilation == 1:
        starts = range(0, kernel, stride)
        return [Shift(t // stride, 0, slice(t, min(t + stride, kernel))) for t in starts]
    targets = [(t * dilation, t) for t in range(kernel)]
    return [Shift(target // stride, target % stride, slice(t, t + 1)) for target, t in targets]


def fold(x: Array, weight: Array, geometry: ConvGeometry, shape: tuple[int, ...], bias: Array | None = None) -> Array:
    """x (N, I, H, W) and weight (I, C, KH, KW) -> an image of `shape` (N, C, OH, OW), bias added."""
    n, c, oh, ow = shape
    out = empty((n, oh, ow, c), x.dtype)
    h, w = x.shape[2:]
    rows = shifts(geometry.kernel[0], geometry.stride[0], geometry.dilation[0])
    columns = shifts(geometry.kernel[1], geometry.stride[1], geometry.dilation[1])
    # One more phase row than the last shift needs, where padding asks for pixels beyond it.
    size = [
        max(length + axis[-1].shift, -(-(end + sides[0]) // stride))
        for length, axis, end, sides, stride in zip(
            (h, w), (rows, columns), (oh, ow), geometry.padding, geometry.stride, strict=True
        )
    ]
    per_image = size[0] * size[1] * geometry.stride[0] * geometry.stride[1] * c * x.dtype.itemsize
    count = max(1, BLOCK_BYTES // max(1, per_image))
    matrices = [(i, j, _matrix(weight, i, j)) for i in rows for j in columns]
    for start in range(0, n, count):
        block = slice(start, min(start + count, n))
        phases = empty((block.stop - start, *size, *geometry.stride, c), x.dtype)
        _start_at(phases, bias)
        _add_products(x[block], matrices, phases)
        if min(geometry.padding[0][0], geometry.padding[1][0]) < 0:
            _start_at(out[block], bias)  # there are pixels that no tap reaches
        _shuffle(phases, out[block], geometry)
    return out.transpose(0, 3, 1, 2)


def _matrix(weight: Array, i: Shift, j: Shift) -> Array:
    """(I, C, KH, KW) -> (I, RH RW C), for the taps of a pair of shifts."""
    part = weight[:, :, i.taps, j.taps].transpose(0, 2, 3, 1)
    return np.ascontiguousarray(part).reshape(weight.shape[0], -1)


def _start_at(sums: Array, bias: Array | None) -> None:
    """Fill contiguous (..., C) sums with the bias (C,), or with zero."""
    if bias is None:
        sums.fill(0)
        return
    rows = sums.reshape(-1, sums.shape[-2] * bias.size)
    rows[...] = np.tile(bias, sums.shape[-2])


def _add_products(x: Array, matrices: list[tuple[Shift, Shift, Array]], total: Array) -> None:
    """total (N, HB, WB, SH, SW, C) += x times the kernel, shift by shift."""
    n, _, h, w = x.shape
    rows = pixels(x)
    for i, j, matrix in matrices:
        # (N H W, I) @ (I, RH RW C) -> (N H W, RH RW C)
        product = np.matmul(rows, matrix, out=empty((rows.shape[0], matrix.shape[1]), x.dtype))
        rh, rw = i.taps.stop - i.taps.start, j.taps.stop - j.taps.start
        target = total[:, i.shift : i.shift + h, j.shift : j.shift + w]
        target = target[:, :, :, i.phase : i.phase + rh, j.phase : j.phase + rw]
        target += product.reshape(n, h, w, rh, rw, total.shape[-1])


def _shuffle(phases: Array, out: Array, geometry: ConvGeometry) -> None:
    """Sort the phases into rows and columns of `out` (N, OH, OW, C), and crop the padding."""
    n, hb, wb, sh, sw, c = phases.shape
    (top, _), (left, _) = geometry.padding
    large = phases.transpose(0, 1, 3, 2, 4, 5)
    if geometry.stride != (1, 1):
        large = np.ascontiguousarray(large)
    large = large.reshape(n, hb * sh, wb * sw, c)
    bottom, right = max(0, out.shape[1] + top), max(0, out.shape[2] + left)
    inside = large[:, max(0, top) : bottom, max(0, left) : right]
    row, column = max(0, -top), max(0, -left)
    out[:, row : row + inside.shape[1], column : column + inside.shape[2]] = inside
