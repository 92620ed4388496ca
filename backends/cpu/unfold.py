"""Convolution by blocks of im2col: the reference's product, cut so that the columns stay in the cache.

    columns of a block of output pixels   (P, KH KW C)      copied in runs of KW C numbers
    forward                               Y = columns @ W + b           (P, K C) @ (K C, O) -> (P, O)
    gradient of the kernel                dW = sum of columns^T @ dY    (K C, P) @ (P, O) -> (K C, O)

Columns are never stored, only multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry
from .frame import BLOCK_BYTES, blocks, input_frame, windows
from .memory import empty
from .prepared import prepared


def kernel_matrix(weight: Array) -> Array:
    """(O, C, KH, KW) -> (KH KW C, O); without a copy if the kernel lies so in memory, as those of our layers do."""
    return prepared(weight, "matrix", lambda: weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0]))


def column_blocks(
    x: Array, geometry: ConvGeometry, lines: slice, out_width: int
) -> Iterator[tuple[slice, slice, Array]]:
    """Blocks of im2col of x (N, H, W, C) for the output rows `lines`: which images, which rows, and their columns."""
    n, c = x.shape[0], x.shape[3]
    for images, rows in blocks(n, lines, out_width * geometry.taps * c * x.dtype.itemsize, BLOCK_BYTES):
        framed = input_frame(x[images], geometry, rows, out_width)
        height = rows.stop - rows.start
        view = windows(framed, geometry.kernel, geometry.stride, geometry.dilation, (height, out_width))
        pixels = framed.shape[0] * height * out_width
        if geometry.taps == 1 and view.flags.c_contiguous:
            yield images, rows, view.reshape(pixels, c)  # 1x1: the image is its own columns
            continue
        columns = empty((pixels, geometry.taps * c), x.dtype)
        np.copyto(columns.reshape(view.shape), view)
        yield images, rows, columns


def forward(
    x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array, images: slice, lines: slice
) -> None:
    """Fill y[images, lines] (N, OH, OW, O) from x (N, H, W, C) and weight (O, C, KH, KW)."""
    matrix, y = kernel_matrix(weight), y[images]
    for part, rows, columns in column_blocks(x[images], geometry, lines, y.shape[2]):
        multiply_into(y[part, rows], columns, matrix, bias)


def weight_gradient(x: Array, grad: Array, geometry: ConvGeometry, images: slice, lines: slice) -> Array:
    """The kernel's gradient (KH, KW, C, O) from x (N, H, W, C) and grad (N, OH, OW, O), of these images and rows."""
    shape, grad = (*geometry.kernel, x.shape[3], grad.shape[3]), grad[images]
    total: Array | None = None
    for part, rows, columns in column_blocks(x[images], geometry, lines, grad.shape[2]):
        total = add_product(total, columns.T, as_rows(grad[part, rows]))
    return np.zeros(shape, x.dtype) if total is None else total.reshape(shape)


def both(x: Array, weight: Array, other: Array, geometry: ConvGeometry, y: Array, images: slice, lines: slice) -> Array:
    """From one im2col of x: `forward` without bias into y, and the gradient of the kernel that took x to `other`.

    With x the upstream gradient of a transposed convolution, and `other` its input, these are its two gradients.
    """
    shape, matrix = (*geometry.kernel, x.shape[3], other.shape[3]), kernel_matrix(weight)
    y, other = y[images], other[images]
    total: Array | None = None
    for part, rows, columns in column_blocks(x[images], geometry, lines, y.shape[2]):
        multiply_into(y[part, rows], columns, matrix, None)
        total = add_product(total, columns.T, as_rows(other[part, rows]))
    return np.zeros(shape, x.dtype) if total is None else total.reshape(shape)


def multiply_into(target: Array, columns: Array, matrix: Array, bias: Array | None) -> None:
    """target (N, rows, OW, O) = columns (P, K C) @ matrix (K C, O) + bias."""
    shape = (columns.shape[0], matrix.shape[1])
    direct = target.flags.c_contiguous
    product = target.reshape(shape) if direct else empty(shape, target.dtype)
    np.matmul(columns, matrix, out=product)
    if bias is not None:
        add_bias(product, bias)
    if not direct:
        target[...] = product.reshape(target.shape)


def as_rows(grad: Array) -> Array:
    """(N, rows, OW, O) -> (P, O)."""
    return np.ascontiguousarray(grad).reshape(-1, grad.shape[3])


def add_product(total: Array | None, a: Array, b: Array) -> Array:
    """total + a @ b, in place; a new array if there is no total yet."""
    if total is None:
        return np.matmul(a, b, out=empty((*a.shape[:-1], b.shape[-1]), a.dtype))
    total += np.matmul(a, b, out=empty(total.shape, total.dtype))
    return total


def add_bias(rows: Array, bias: Array) -> None:
    """rows (P, O) += bias, a few pixels at a time: NumPy's inner loop over 3 channels is slower than a product."""
    repeat = next((r for r in (16, 8, 4, 2) if rows.shape[0] % r == 0), 1) if bias.size < 64 else 1
    long = rows.reshape(rows.shape[0] // repeat, repeat * bias.size)
    long += repeated(bias, repeat)


def repeated(bias: Array, count: int) -> Array:
    """(O,) -> (count O,)."""

    def make() -> Array:
        rows = np.empty((count, bias.size), bias.dtype)
        rows[...] = bias  # np.tile, in a third of its time
        return rows.reshape(-1)

    return prepared(bias, count, make)
