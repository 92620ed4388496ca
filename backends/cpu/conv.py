"""Convolutions on the CPU: the reference's matrix products, cut into blocks that stay in the cache.

`unfold` walks over blocks of output pixels and gives the im2col columns of each, in a scratch buffer; they are
multiplied while they are still in the cache, and never stored. `fold` (in fold.py) is its adjoint, sorted so that
all additions run over long rows. An upsampling and a convolution become one transposed convolution (upsample.py).

NPCONV_CONV=im2col turns all of this off and leaves the reference. Grouped convolutions use the reference.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry, Pair
from ..reference import Reference
from .fold import fold, pixels
from .scratch import scratch
from .upsample import enlarged_kernel, kernel_gradient, transposed_geometry

ALGORITHMS = ("auto", "im2col")
BLOCK_BYTES = 1 << 19  # columns of one block: they, the kernel and the product fit into a core's L2 cache


def chosen_algorithm() -> str:
    """NPCONV_CONV, "auto" if it is not set; ValueError for an unknown one."""
    name = os.environ.get("NPCONV_CONV") or "auto"
    if name not in ALGORITHMS:
        raise ValueError(f"NPCONV_CONV (={name!r}) must be one of {', '.join(ALGORITHMS)}")
    return name


class BlockedConvOps(Reference):
    """conv2d, conv_transpose2d and upsample_conv2d by blocks."""

    def __init__(self) -> None:
        self.algorithm = chosen_algorithm()

    def conv2d_forward(self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry) -> Array:
        if not self._blocked(geometry):
            return super().conv2d_forward(x, weight, bias, geometry)
        out = geometry.output_size(x.shape[2:])
        y = np.empty((x.shape[0] * out[0] * out[1], weight.shape[0]), dtype=x.dtype)
        matrix = kernel_matrix(weight)
        for rows, columns in unfold(x, geometry):
            np.matmul(columns, matrix, out=y[rows])
            if bias is not None:
                add_bias(y[rows], bias)
        return image(y, x.shape[0], out)

    def conv2d_backward(
        self, grad: Array, x: Array, weight: Array, geometry: ConvGeometry, input_gradient: bool = True
    ) -> tuple[Array | None, Array, Array]:
        if not self._blocked(geometry):
            return super().conv2d_backward(grad, x, weight, geometry, input_gradient)
        grad_rows = pixels(grad)
        matrix = np.zeros((geometry.taps * x.shape[1], weight.shape[0]), dtype=x.dtype)
        for rows, columns in unfold(x, geometry):
            matrix += np.matmul(columns.T, grad_rows[rows], out=scratch("partial", matrix.shape, x.dtype))
        x_grad = fold(grad, weight, geometry, x.shape) if input_gradient else None
        return x_grad, kernel(matrix, weight.shape), channel_sum(grad_rows)

    def conv_transpose2d_forward(self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry) -> Array:
        if not self._blocked(geometry):
            return super().conv_transpose2d_forward(x, weight, bias, geometry)
        size = geometry.transposed_size(x.shape[2:])
        return fold(x, weight, geometry, (x.shape[0], weight.shape[1], *size), bias)

    def conv_transpose2d_backward(
        self, grad: Array, x: Array, weight: Array, geometry: ConvGeometry, input_gradient: bool = True
    ) -> tuple[Array | None, Array, Array]:
        if not self._blocked(geometry):
            return super().conv_transpose2d_backward(grad, x, weight, geometry, input_gradient)
        x_rows, weights = pixels(x), kernel_matrix(weight)
        matrix = np.zeros((geometry.taps * grad.shape[1], x.shape[1]), dtype=x.dtype)
        x_grad = np.empty_like(x_rows) if input_gradient else None
        for rows, columns in unfold(grad, geometry):
            matrix += np.matmul(columns.T, x_rows[rows], out=scratch("partial", matrix.shape, x.dtype))
            if x_grad is not None:
                np.matmul(columns, weights, out=x_grad[rows])
        bias_grad = channel_sum(pixels(grad))
        if x_grad is not None:
            x_grad = image(x_grad, x.shape[0], (x.shape[2], x.shape[3]))
        return x_grad, kernel(matrix, weight.shape), bias_grad

    def upsample_conv2d_forward(
        self, x: Array, weight: Array, bias: Array | None, scale: Pair, geometry: ConvGeometry
    ) -> Array:
        if not self._blocked(geometry) or geometry.stride != (1, 1):
            return super().upsample_conv2d_forward(x, weight, bias, scale, geometry)
        size = geometry.output_size((x.shape[2] * scale[0], x.shape[3] * scale[1]))
        large = enlarged_kernel(weight, scale, geometry)
        adjoint = transposed_geometry(x.shape, scale, geometry, size)
        return self.conv_transpose2d_forward(x, large, bias, adjoint)

    def upsample_conv2d_backward(
        self,
        grad: Array,
        x: Array,
        weight: Array,
        scale: Pair,
        geometry: ConvGeometry,
        input_gradient: bool = True,
    ) -> tuple[Array | None, Array, Array]:
        if not self._blocked(geometry) or geometry.stride != (1, 1):
            return super().upsample_conv2d_backward(grad, x, weight, scale, geometry, input_gradient)
        large = enlarged_kernel(weight, scale, geometry)
        adjoint = transposed_geometry(x.shape, scale, geometry, (grad.shape[2], grad.shape[3]))
        x_grad, large_grad, bias_grad = self.conv_transpose2d_backward(grad, x, large, adjoint, input_gradient)
        return x_grad, kernel_gradient(large_grad, weight.shape, scale, geometry), bias_grad

    def _blocked(self, geometry: ConvGeometry) -> bool:
        return self.algorithm == "auto" and geometry.groups == 1


def unfold(x: Array, geometry: ConvGeometry) -> Iterator[tuple[slice, Array]]:
    """Blocks of im2col(x): the rows of the matrix that a block stands for, and the block (valid until the next)."""
    n, c, h, w = x.shape
    oh, ow = geometry.output_size((h, w))
    windows = window_view(padded_pixels(x, geometry), geometry, (oh, ow))
    width = geometry.taps * c
    lines = max(1, BLOCK_BYTES // (ow * width * x.dtype.itemsize))  # output lines in a block
    if geometry.taps == 1 and windows.flags.c_contiguous:
        yield slice(0, n * oh * ow), windows.reshape(n * oh * ow, c)  # 1x1: the image is its own columns
        return
    for block in _blocks(n, oh, lines):
        view = windows[block]
        columns = scratch("columns", (view.shape[0] * view.shape[1] * ow, width), x.dtype)
        np.copyto(columns.reshape(view.shape), view)
        start = (block[0].start * oh + block[1].start) * ow
        yield slice(start, start + columns.shape[0]), columns


def _blocks(n: int, oh: int, lines: int) -> Iterator[tuple[slice, slice]]:
    """Whole images while one fits into `lines` output lines, else parts of one image."""
    if lines >= oh:
        count = lines // oh
        for i in range(0, n, count):
            yield slice(i, min(i + count, n)), slice(0, oh)
        return
    for i in range(n):
        for line in range(0, oh, lines):
            yield slice(i, i + 1), slice(line, min(line + lines, oh))


def padded_pixels(x: Array, geometry: ConvGeometry) -> Array:
    """x, zero padded (or cropped), as a contiguous (N, H, W, C) array: a scratch buffer if anything is padded."""
    nhwc = x.transpose(0, 2, 3, 1)
    if geometry.padding == ((0, 0), (0, 0)):
        return np.ascontiguousarray(nhwc)
    n, h, w, c = nhwc.shape
    (top, _), (left, _) = geometry.padding
    size = geometry.padded_size((h, w))
    padded = scratch("padded", (n, *size, c), x.dtype)
    padded.fill(0)
    inside = nhwc[:, max(0, -top) : max(0, size[0] - top), max(0, -left) : max(0, size[1] - left)]
    row, column = max(0, top), max(0, left)
    padded[:, row : row + inside.shape[1], column : column + inside.shape[2]] = inside
    return padded


def window_view(padded: Array, geometry: ConvGeometry, out: Pair) -> Array:
    """(N, H, W, C) -> (N, OH, OW, KH, KW, C), without a copy."""
    n, h, w, c = padded.strides
    (sh, sw), (dh, dw) = geometry.stride, geometry.dilation
    shape = (padded.shape[0], *out, *geometry.kernel, padded.shape[3])
    strides = (n, h * sh, w * sw, h * dh, w * dw, c)
    return np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False)


def kernel_matrix(weight: Array) -> Array:
    """(O, C, KH, KW) -> (KH KW C, O)."""
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def kernel(matrix: Array, shape: tuple[int, ...]) -> Array:
    """(KH KW C, O) -> (O, C, KH, KW)."""
    o, c, kh, kw = shape
    return np.ascontiguousarray(matrix.reshape(kh, kw, c, o).transpose(3, 2, 0, 1))


def image(rows: Array, n: int, size: Pair) -> Array:
    """(N H W, C) -> (N, C, H, W), channels-last in memory."""
    return rows.reshape(n, *size, rows.shape[1]).transpose(0, 3, 1, 2)


def add_bias(rows: Array, bias: Array) -> None:
    """rows += bias, a few pixels at a time: NumPy's inner loop over 3 channels is slower than the product was."""
    repeat = next((r for r in (16, 8, 4, 2) if rows.shape[0] % r == 0), 1) if bias.size < 64 else 1
    long = rows.reshape(rows.shape[0] // repeat, repeat * bias.size)
    long += np.tile(bias, repeat)


def channel_sum(rows: Array) -> Array:
    """The sum over pixels: BLAS adds up 64 partial sums a channel, and float64 those, so that few digits are lost."""
    channels, whole = rows.shape[1], rows.shape[0] // 64 * 64
    long = rows[:whole].reshape(whole // 64, 64 * channels)
    partial = np.ones(long.shape[0], dtype=rows.dtype) @ long
    total = partial.reshape(64, channels).sum(axis=0, dtype=np.float64)
    return (total + rows[whole:].sum(axis=0, dtype=np.float64)).astype(rows.dtype)
