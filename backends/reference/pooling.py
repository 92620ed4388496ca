"""Maximum and average pooling, tap by tap over the window."""

from __future__ import annotations

from ..base import Array, Backend
from ..geometry import ConvGeometry
from .windows import tap_slices


class PoolingOps(Backend):
    """max_pool2d and avg_pool2d."""

    def max_pool2d_forward(self, x: Array, geometry: ConvGeometry) -> tuple[Array, Array]:
        xp = self.xp
        out = geometry.output_size(x.shape[2:])
        padded = self.pad2d_forward(x, geometry.padding, "zeros")
        inside = self.pad2d_forward(xp.ones((1, 1, *x.shape[2:]), dtype=bool), geometry.padding, "zeros")
        best = xp.full((*x.shape[:2], *out), -xp.inf, dtype=x.dtype)
        winners, found = xp.zeros(best.shape, dtype=xp.int32), xp.zeros((1, 1, *out), dtype=bool)
        for i, j, (rows, columns) in tap_slices(geometry, out):
            values, there = padded[:, :, rows, columns], inside[:, :, rows, columns]
            # Padding never wins, not even over minus infinity: the first pixel inside does. NaN wins, as in PyTorch.
            better = there & ((values > best) | xp.isnan(values) | ~found)
            best = xp.where(better, values, best)
            winners = xp.where(better, xp.int32(i * geometry.kernel[1] + j), winners)
            found = found | there
        return self.images(best), self.images(winners)

    def max_pool2d_backward(self, grad: Array, winners: Array, shape: tuple[int, ...], geometry: ConvGeometry) -> Array:
        padded = self._padded_zeros(shape, geometry, grad.dtype)
        for i, j, (rows, columns) in tap_slices(geometry, (grad.shape[2], grad.shape[3])):
            won = winners == i * geometry.kernel[1] + j
            padded[:, :, rows, columns] += self.xp.where(won, grad, grad.dtype.type(0))
        return self.pad2d_backward(padded, shape, geometry.padding, "zeros")

    def avg_pool2d_forward(self, x: Array, divisor: Array, geometry: ConvGeometry) -> Array:
        n, c, h, w = x.shape
        oh, ow = geometry.output_size((h, w))
        padded = self.pad2d_forward(x, geometry.padding, "zeros")
        total = self.xp.zeros((n, oh, ow, c), dtype=x.dtype).transpose(0, 3, 1, 2)
        for _, _, (rows, columns) in tap_slices(geometry, (oh, ow)):
            total += padded[:, :, rows, columns]
        return total / divisor.astype(x.dtype)

    def avg_pool2d_backward(self, grad: Array, divisor: Array, shape: tuple[int, ...], geometry: ConvGeometry) -> Array:
        share = grad / divisor.astype(grad.dtype)
        padded = self._padded_zeros(shape, geometry, grad.dtype)
        for _, _, (rows, columns) in tap_slices(geometry, (grad.shape[2], grad.shape[3])):
            padded[:, :, rows, columns] += share
        return self.pad2d_backward(padded, shape, geometry.padding, "zeros")

    def _padded_zeros(self, shape: tuple[int, ...], geometry: ConvGeometry, dtype: object) -> Array:
        n, c, h, w = shape
        return self.xp.zeros((n, *geometry.padded_size((h, w)), c), dtype=dtype).transpose(0, 3, 1, 2)
