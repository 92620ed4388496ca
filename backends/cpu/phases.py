"""Transposed convolution with a stride, gathered by phases: no product is ever scattered.

Along one axis, input pixel i and tap t reach output u = i s + t - p. Write u + p = s v + r with the phase r = 0..s-1:
then t = r + s q and i = v - q, so

    y[s v + r - p] = sum over q of x[v - q] W[r + s q],        q < Q_r = ceil((k - r) / s)

which is, for each phase, a convolution with stride 1 over the same windows of Q = ceil(k / s) pixels of x (a 4x4 kernel
with stride 2: windows of 2x2 and four phases of four taps). With both axes:

    columns of the windows        (P, Q Q I)                                            as in im2col, once
    rows of phase r               (P, Q_r Q I) @ (Q_r Q I, s O) -> (P, s O)             for each vertical phase
    y[s v + r]                    = those rows, with the bias: s phases of a pixel row lie side by side already

Kernels are given as a transposed convolution's weight, (I, O, KH, KW). Dilation 1 only.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry, Pair
from .fold import fold
from .frame import BLOCK_BYTES, blocks, frame, windows
from .memory import empty
from .prepared import prepared
from .unfold import repeated
from .winograd import finite


class Reach(NamedTuple):
    """Along one axis: window positions v from `first`, so many, each of `taps` pixels."""

    first: int
    positions: int
    taps: int

    @classmethod
    @lru_cache(maxsize=4096)
    def of(cls, start: int, stop: int, before: int, kernel: int, stride: int) -> Reach:
        """For the output pixels start..stop, with padding `before`."""
        first, last = (start + before) // stride, (stop - 1 + before) // stride
        return cls(first, last - first + 1, -(-kernel // stride))


def forward(
    x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array, images: slice, lines: slice
) -> None:
    """Fill y[images, lines] (N, OH, OW, O) with the transposed convolution of x (N, H, W, I)."""
    x, y, stride = x[images], y[images], geometry.stride
    across = Reach.of(0, y.shape[2], geometry.padding[1][0], geometry.kernel[1], stride[1])
    per_position = -(-geometry.kernel[0] // stride[0]) * across.taps * weight.shape[0]
    line_bytes = across.positions * per_position * x.dtype.itemsize / stride[0]
    for part, rows in blocks(x.shape[0], lines, line_bytes, BLOCK_BYTES, stride[0]):
        down = Reach.of(rows.start, rows.stop, geometry.padding[0][0], geometry.kernel[0], stride[0])
        top, left = down.first - down.taps + 1, across.first - across.taps + 1
        framed = frame(x[part], top, left, down.positions + down.taps - 1, across.positions + across.taps - 1)
        _lay_rows(framed, weight, bias, geometry, y[part, rows], (down, across), rows.start)
        if geometry.kernel[1] % stride[1] and not finite(y[part, rows]):
            # The kernel was filled up to whole phases: an infinity has met zeros where the kernel has no tap.
            shape = (part.stop - part.start, y.shape[3], *y.shape[1:3])
            exact = fold(x[part].transpose(0, 3, 1, 2), weight, geometry, shape, bias)
            y[part, rows] = exact.transpose(0, 2, 3, 1)[:, rows]


def _lay_rows(
    framed: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array, reach: tuple[Reach, Reach],
    start: int,
) -> None:  # fmt: skip
    """y (N, rows, OW, O) from the windows of `framed`, one product for each vertical phase."""
    down, across = reach
    (n, height, out_width, o), (sh, sw) = y.shape, geometry.stride
    view = windows(framed, (down.taps, across.taps), (1, 1), (1, 1), (down.positions, across.positions))
    columns = empty(view.shape, y.dtype)
    np.copyto(columns, view)
    columns = columns.reshape(n, down.positions, across.positions, -1)
    matrices = prepared(weight, ("phases", geometry.stride), lambda: _phase_matrices(weight, geometry.stride))
    row = None if bias is None else repeated(bias, out_width)
    left = (geometry.padding[1][0] - across.first * sw) * o
    for phase, matrix in enumerate(matrices):
        picked, target = _rows_of_phase(phase, sh, start, height, geometry.padding[0][0], down.first)
        count = picked.stop - picked.start
        if not count:
            continue
        rows = y[:, target].reshape(n, count, out_width * o)
        if not len(matrix):
            rows[...] = 0 if row is None else row  # stride beyond the kernel: no tap reaches this phase
            continue
        used = columns[:, picked, :, columns.shape[3] - len(matrix) :]
        product = empty((n, count * across.positions, sw * o), y.dtype)
        np.matmul(used.reshape(n, count * across.positions, -1), matrix, out=product)
        source = product.reshape(n, count, -1)[:, :, left : left + out_width * o]
        if row is None:
            np.copyto(rows, source)
        else:
            np.add(source, row, out=rows)


@lru_cache(maxsize=4096)
def _rows_of_phase(phase: int, stride: int, start: int, length: int, before: int, first: int) -> tuple[slice, slice]:
    """Window positions (counted from `first`) and the output rows (counted from `start`) of a phase."""
    target = (phase - start - before) % stride
    position = (start + target + before) // stride - first
    count = len(range(target, length, stride))
    return slice(position, position + count), slice(target, length, stride)


def _phase_matrices(weight: Array, stride: Pair) -> list[Array]:
    """For each vertical phase r, (Q_r Q I, s O).

    Rows by tap, the last q first, because windows run upwards; columns by horizontal phase.
    """
    padded = _whole_phases(weight, stride)  # (Q, s, Q, s, I, O)
    kernel, matrices = weight.shape[2], []
    for phase in range(stride[0]):
        taps = max(0, -(-(kernel - phase) // stride[0]))
        part = padded[:taps, phase][::-1, ::-1]  # (Q_r, Q, s, I, O)
        part = np.ascontiguousarray(part.transpose(0, 1, 3, 2, 4))  # (Q_r, Q, I, s, O)
        matrices.append(part.reshape(taps * part.shape[1] * part.shape[2], stride[1] * weight.shape[1]))
    return matrices


def _whole_phases(weight: Array, stride: Pair) -> Array:
    """(I, O, KH, KW) -> (Q, s, Q, s, I, O): taps by q and phase, zeros where the kernel ends earlier."""
    i, o, kh, kw = weight.shape
    down, across = -(-kh // stride[0]), -(-kw // stride[1])
    if (kh, kw) == (down * stride[0], across * stride[1]):
        return weight.transpose(2, 3, 0, 1).reshape(down, stride[0], across, stride[1], i, o)
    padded = np.zeros((down * stride[0], across * stride[1], i, o), weight.dtype)
    padded[:kh, :kw] = weight.transpose(2, 3, 0, 1)
    return padded.reshape(down, stride[0], across, stride[1], i, o)
