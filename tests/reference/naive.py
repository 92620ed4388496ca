"""Windows, convolutions, padding and pooling straight from their definitions: loops, no NumPy tricks.

Each is written from the formula that its docstring has, and not from the library's code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from npconv.backends import ConvGeometry


def indices(*counts: int) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, counts))


def output_size(size: tuple[int, int], geometry: ConvGeometry) -> tuple[int, int]:
    """Count the positions, one by one, at which the whole window is inside the padded image."""
    counts = []
    for axis in (0, 1):
        length = size[axis] + sum(geometry.padding[axis])
        last_tap = geometry.dilation[axis] * (geometry.kernel[axis] - 1)
        starts = range(0, length, geometry.stride[axis])
        counts.append(sum(start + last_tap < length for start in starts))
    return counts[0], counts[1]


def source(geometry: ConvGeometry, output: tuple[int, int], tap: tuple[int, int]) -> tuple[int, int]:
    """The pixel (may be outside the image) that a tap of the window at `output` sees."""
    row, column = (
        output[axis] * geometry.stride[axis] + tap[axis] * geometry.dilation[axis] - geometry.padding[axis][0]
        for axis in (0, 1)
    )
    return row, column


def sources(geometry: ConvGeometry, counts: tuple[int, int]) -> tuple[list[list[int]], list[list[int]]]:
    """`source` of all windows and taps: rows[i][k] and columns[j][m]."""
    rows = [[source(geometry, (i, 0), (k, 0))[0] for k in range(geometry.kernel[0])] for i in range(counts[0])]
    columns = [[source(geometry, (0, j), (0, m))[1] for m in range(geometry.kernel[1])] for j in range(counts[1])]
    return rows, columns


def pixel(x: np.ndarray, n: int, c: int, row: int, column: int) -> float:
    """x[n, c, row, column], 0 outside."""
    inside = 0 <= row < x.shape[2] and 0 <= column < x.shape[3]
    return float(x[n, c, row, column]) if inside else 0.0


def im2col(x: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """A row per output pixel, a column per tap and channel."""
    n, c, h, w = x.shape
    oh, ow = output_size((h, w), geometry)
    rows = [
        [pixel(x, image, channel, *source(geometry, (i, j), tap)) for *tap, channel in indices(*geometry.kernel, c)]
        for image, i, j in indices(n, oh, ow)
    ]
    return np.array(rows, dtype="float64").reshape(n * oh * ow, geometry.taps * c)


def conv2d(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, geometry: ConvGeometry) -> np.ndarray:
    """y[n, o, i, j] = b[o] + sum over c, k, l of W[o, c, k, l] x[n, c, row, column]: the seven loops."""
    o, per_group, kh, kw = weight.shape
    size = oh, ow = output_size((x.shape[2], x.shape[3]), geometry)
    y = np.zeros((len(x), o, oh, ow))
    images, kernels, (rows, columns) = x.tolist(), weight.tolist(), sources(geometry, size)  # lists: ten times faster
    height, width = x.shape[2:]
    for n, out, i, j in indices(len(x), o, oh, ow):
        total = 0.0 if bias is None else float(bias[out])
        first = out // (o // geometry.groups) * per_group  # the first channel of the group that `out` is in
        for c, k in indices(per_group, kh):
            inside, line = 0 <= rows[i][k] < height, rows[i][k]
            for m, column in enumerate(columns[j]):
                value = images[n][first + c][line][column] if inside and 0 <= column < width else 0.0
                total += kernels[out][c][k][m] * value
        y[n, out, i, j] = total
    return y


def conv_transpose2d(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, geometry: ConvGeometry, size: tuple[int, int]
) -> np.ndarray:
    """Each pixel of x puts a copy of the kernel, times its value, into the output."""
    channels, per_group, kh, kw = weight.shape
    y = np.zeros((len(x), per_group * geometry.groups, *size))
    if bias is not None:
        y += bias.reshape(1, -1, 1, 1)
    images, kernels, sums, (rows, columns) = x.tolist(), weight.tolist(), y.tolist(), sources(geometry, x.shape[2:])
    for n, c, i, j, o, k in indices(*x.shape, per_group, kh):
        row, out = rows[i][k], c // (channels // geometry.groups) * per_group + o
        if 0 <= row < size[0]:
            line, value, taps = sums[n][out][row], images[n][c][i][j], kernels[c][o][k]
            for m, column in enumerate(columns[j]):
                if 0 <= column < size[1]:
                    line[column] += value * taps[m]
    return np.array(sums).reshape(y.shape)


def max_pool2d(x: np.ndarray, geometry: ConvGeometry) -> tuple[np.ndarray, np.ndarray]:
    """The largest value of each window, and, for a gradient of ones, how often each pixel was the (first) largest."""
    n, c, h, w = x.shape
    size = output_size((h, w), geometry)
    y, wins = np.zeros((n, c, *size)), np.zeros(x.shape)
    for image, channel, i, j in indices(n, c, *size):
        best, winner = -math.inf, (-1, -1)
        for tap in indices(*geometry.kernel):
            row, column = source(geometry, (i, j), tap)
            inside = 0 <= row < h and 0 <= column < w
            if inside and x[image, channel, row, column] > best:
                best, winner = float(x[image, channel, row, column]), (row, column)
        y[image, channel, i, j] = best
        wins[image, channel][winner] += 1
    return y, wins


def window_sums(x: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """The sum of each window, 0 outside the image."""
    n, c, h, w = x.shape
    size = output_size((h, w), geometry)
    y = np.zeros((n, c, *size))
    for image, channel, i, j in indices(n, c, *size):
        taps = [pixel(x, image, channel, *source(geometry, (i, j), tap)) for tap in indices(*geometry.kernel)]
        y[image, channel, i, j] = math.fsum(taps)
    return y


def padded_index(position: int, length: int, mode: str) -> int | None:
    """Where the padded position (counted from the image's first pixel) is copied from; None is a zero.

    Walks in from the outside, a step at a time: reflect turns round on the border pixel, circular jumps over.
    """
    if mode == "zeros":
        return position if 0 <= position < length else None
    if mode == "replicate":
        while position < 0:
            position += 1
        while position >= length:
            position -= 1
        return position
    if mode == "circular":
        return (list(range(length)) * 3)[position + length]
    mirrored = [*range(length - 1, 0, -1), *range(length), *range(length - 2, -1, -1)]
    return mirrored[position + length - 1]


def pad2d(x: np.ndarray, padding: tuple[tuple[int, int], tuple[int, int]], mode: str) -> np.ndarray:
    n, c, h, w = x.shape
    (top, bottom), (left, right) = padding
    y = np.zeros((n, c, h + top + bottom, w + left + right))
    for i, j in indices(*y.shape[2:]):
        row, column = padded_index(i - top, h, mode), padded_index(j - left, w, mode)
        if row is not None and column is not None:
            y[:, :, i, j] = x[:, :, row, column]
    return y
