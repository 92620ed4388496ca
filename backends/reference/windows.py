"""im2col and col2im: a sliding window as a matrix, and its adjoint. They are under every convolution."""

from __future__ import annotations

from collections.abc import Iterator

from ..base import Array, Backend
from ..geometry import ConvGeometry, Pair


def tap_slices(geometry: ConvGeometry, out: Pair) -> Iterator[tuple[int, int, tuple[slice, slice]]]:
    """For each kernel element (i, j): the rows and columns of the padded image that it sees, one per window."""
    (sh, sw), (dh, dw) = geometry.stride, geometry.dilation
    for i in range(geometry.kernel[0]):
        for j in range(geometry.kernel[1]):
            rows = slice(i * dh, i * dh + (out[0] - 1) * sh + 1, sh)
            columns = slice(j * dw, j * dw + (out[1] - 1) * sw + 1, sw)
            yield i, j, (rows, columns)


class WindowOps(Backend):
    """im2col and col2im, tap by tap."""

    def im2col(self, x: Array, geometry: ConvGeometry) -> Array:
        n, c, h, w = x.shape
        kh, kw = geometry.kernel
        oh, ow = geometry.output_size((h, w))
        padded = self.pad2d_forward(x, geometry.padding, "zeros")
        columns = self.xp.empty((n, oh, ow, kh, kw, c), dtype=x.dtype)
        for i, j, (rows, cols) in tap_slices(geometry, (oh, ow)):
            # (N, C, OH, OW) -> (N, OH, OW, C)
            columns[:, :, :, i, j] = padded[:, :, rows, cols].transpose(0, 2, 3, 1)
        return columns.reshape(n * oh * ow, kh * kw * c)

    def col2im(self, columns: Array, shape: tuple[int, ...], geometry: ConvGeometry) -> Array:
        n, c, h, w = shape
        oh, ow = geometry.output_size((h, w))
        columns = columns.reshape(n, oh, ow, *geometry.kernel, c)
        padded = self.xp.zeros((n, *geometry.padded_size((h, w)), c), dtype=columns.dtype)
        padded = padded.transpose(0, 3, 1, 2)
        for i, j, (rows, cols) in tap_slices(geometry, (oh, ow)):
            # (N, OH, OW, C) -> (N, C, OH, OW), added where windows overlap
            padded[:, :, rows, cols] += columns[:, :, :, i, j].transpose(0, 3, 1, 2)
        return self.pad2d_backward(padded, shape, geometry.padding, "zeros")
