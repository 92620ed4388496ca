"""Convolution and transposed convolution as matrix products with the columns of im2col.

With columns U = im2col(x), a row per output pixel, and the kernel as a matrix W, a column per output channel:

    forward               Y = U W + b
    gradient of kernel    dW = U^T dY           gradient of bias    db = sum of dY over pixels
    gradient of input     dx = col2im(dY W^T)

A transposed convolution is the adjoint, so it is the same three lines with forward and gradient of input exchanged.
With groups, channels fall into G blocks that do not see each other: G products, stacked.
"""

from __future__ import annotations

from ..base import Array, Backend
from ..geometry import ConvGeometry, Pair


class ConvOps(Backend):
    """conv2d, conv_transpose2d and upsample_conv2d through im2col and col2im."""

    def conv2d_forward(self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry) -> Array:
        columns = self._grouped_columns(x, geometry)
        # (G, P, K Cg) @ (G, K Cg, Og) -> (G, P, Og), P = N OH OW pixels, K = KH KW taps
        y = self.xp.matmul(columns, _kernel_matrix(weight, geometry.groups))
        y = _image(_join(y), x.shape[0], geometry.output_size(x.shape[2:]))
        return y if bias is None else y + bias[:, None, None]

    def conv2d_backward(
        self, grad: Array, x: Array, weight: Array, geometry: ConvGeometry, input_gradient: bool = True
    ) -> tuple[Array | None, Array, Array]:
        columns = self._grouped_columns(x, geometry)
        rows = _split(_pixels(grad), geometry.groups)
        # (G, K Cg, P) @ (G, P, Og) -> (G, K Cg, Og)
        weight_grad = self.xp.matmul(columns.transpose(0, 2, 1), rows)
        x_grad = self._spread(rows, weight, x.shape, geometry) if input_gradient else None
        return x_grad, _kernel(weight_grad, weight.shape), self._bias_gradient(grad)

    def conv_transpose2d_forward(self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry) -> Array:
        channels, size = weight.shape[1] * geometry.groups, geometry.transposed_size(x.shape[2:])
        rows = _split(_pixels(x), geometry.groups)
        y = self._spread(rows, weight, (x.shape[0], channels, *size), geometry)
        return y if bias is None else y + bias[:, None, None]

    def conv_transpose2d_backward(
        self, grad: Array, x: Array, weight: Array, geometry: ConvGeometry, input_gradient: bool = True
    ) -> tuple[Array | None, Array, Array]:
        columns = self._grouped_columns(grad, geometry)
        rows = _split(_pixels(x), geometry.groups)
        weight_grad = self.xp.matmul(columns.transpose(0, 2, 1), rows)
        x_grad = None
        if input_gradient:
            x_rows = self.xp.matmul(columns, _kernel_matrix(weight, geometry.groups))
            x_grad = _image(_join(x_rows), x.shape[0], (x.shape[2], x.shape[3]))
        return x_grad, _kernel(weight_grad, weight.shape), self._bias_gradient(grad)

    def upsample_conv2d_forward(
        self, x: Array, weight: Array, bias: Array | None, scale: Pair, geometry: ConvGeometry
    ) -> Array:
        large = self.upsample_nearest_forward(x, *_nearest(x.shape, scale))
        return self.conv2d_forward(large, weight, bias, geometry)

    def upsample_conv2d_backward(
        self,
        grad: Array,
        x: Array,
        weight: Array,
        scale: Pair,
        geometry: ConvGeometry,
        input_gradient: bool = True,
    ) -> tuple[Array | None, Array, Array]:
        indices = _nearest(x.shape, scale)
        large = self.upsample_nearest_forward(x, *indices)
        large_grad, weight_grad, bias_grad = self.conv2d_backward(grad, large, weight, geometry, input_gradient)
        x_grad = None
        if large_grad is not None:
            x_grad = self.upsample_nearest_backward(large_grad, x.shape, *indices)
        return x_grad, weight_grad, bias_grad

    def _grouped_columns(self, x: Array, geometry: ConvGeometry) -> Array:
        """im2col(x), with the channels of each group apart: (G, P, K Cg)."""
        columns = self.im2col(x, geometry)
        p, groups = columns.shape[0], geometry.groups
        # (P, K G Cg) -> (P, K, G, Cg) -> (G, P, K, Cg) -> (G, P, K Cg)
        parts = columns.reshape(p, geometry.taps, groups, x.shape[1] // groups).transpose(2, 0, 1, 3)
        return parts.reshape(groups, p, geometry.taps * (x.shape[1] // groups))

    def _spread(self, rows: Array, weight: Array, shape: tuple[int, ...], geometry: ConvGeometry) -> Array:
        """col2im of rows (G, P, Og) times the transposed kernel: an image of `shape`."""
        # (G, P, Og) @ (G, Og, K Cg) -> (G, P, K Cg)
        columns = self.xp.matmul(rows, _kernel_matrix(weight, geometry.groups).transpose(0, 2, 1))
        groups, p, _ = columns.shape
        # (G, P, K, Cg) -> (P, K, G, Cg) -> (P, K G Cg)
        parts = columns.reshape(groups, p, geometry.taps, weight.shape[1]).transpose(1, 2, 0, 3)
        return self.col2im(parts.reshape(p, geometry.taps * groups * weight.shape[1]), shape, geometry)

    def _bias_gradient(self, grad: Array) -> Array:
        return grad.sum(axis=(0, 2, 3))


def _nearest(shape: tuple[int, ...], scale: Pair) -> tuple[list[int], list[int]]:
    rows = [i // scale[0] for i in range(shape[2] * scale[0])]
    return rows, [j // scale[1] for j in range(shape[3] * scale[1])]


def _pixels(x: Array) -> Array:
    """(N, C, H, W) -> (N H W, C)."""
    n, c, h, w = x.shape
    return x.transpose(0, 2, 3, 1).reshape(n * h * w, c)


def _image(pixels: Array, n: int, size: Pair) -> Array:
    """(N H W, C) -> (N, C, H, W), channels-last in memory."""
    return pixels.reshape(n, *size, pixels.shape[1]).transpose(0, 3, 1, 2)


def _split(pixels: Array, groups: int) -> Array:
    """(P, G Og) -> (G, P, Og)."""
    p, channels = pixels.shape
    return pixels.reshape(p, groups, channels // groups).transpose(1, 0, 2)


def _join(parts: Array) -> Array:
    """(G, P, Og) -> (P, G Og)."""
    groups, p, channels = parts.shape
    return parts.transpose(1, 0, 2).reshape(p, groups * channels)


def _kernel_matrix(weight: Array, groups: int) -> Array:
    """(G Og, Cg, KH, KW) -> (G, KH KW Cg, Og)."""
    o, c, kh, kw = weight.shape
    parts = weight.reshape(groups, o // groups, c, kh, kw).transpose(0, 3, 4, 2, 1)
    return parts.reshape(groups, kh * kw * c, o // groups)


def _kernel(matrix: Array, shape: tuple[int, ...]) -> Array:
    """(G, KH KW Cg, Og) -> (G Og, Cg, KH, KW): undoes `_kernel_matrix`."""
    o, c, kh, kw = shape
    groups = matrix.shape[0]
    return matrix.reshape(groups, kh, kw, c, o // groups).transpose(0, 4, 3, 1, 2).reshape(shape)
