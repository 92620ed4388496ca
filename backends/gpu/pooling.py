"""Maximum and average pooling as kernels; the backward passes are gathers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry
from .grid import Grid, computable, images


class PoolingOps(Grid):
    """max_pool2d and avg_pool2d."""

    def max_pool2d_forward(self, x: Array, geometry: ConvGeometry) -> tuple[Array, Array]:
        if not computable(x):
            return super().max_pool2d_forward(x, geometry)
        n, c, h, w = x.shape
        out = geometry.output_size((h, w))
        source, best = self.pixels(x), self.xp.empty((n, *out, c), dtype=x.dtype)
        # One byte holds the number of a tap of any usual window: a quarter of the memory to read and to keep.
        winners = self.xp.empty(best.shape, dtype=np.uint8 if geometry.taps <= 256 else np.int32)
        lanes = self.lanes(c, source, best)
        self.over_rows(
            "pooling", "max_pool_forward", x.dtype, n * out[0], out[1] * c // lanes, source, best, winners,
            *_sizes((h, w), out, c // lanes, geometry), LANES=lanes, WINNER_BYTES=winners.dtype.itemsize,
        )  # fmt: skip
        return images(best), images(winners)

    def max_pool2d_backward(self, grad: Array, winners: Array, shape: tuple[int, ...], geometry: ConvGeometry) -> Array:
        if not computable(grad) or winners.dtype.char not in "Bi":
            return super().max_pool2d_backward(grad, winners, shape, geometry)
        n, c, h, w = shape
        source, chosen = self.pixels(grad), self.pixels(winners)
        x_grad = self.xp.empty((n, h, w, c), dtype=grad.dtype)
        lanes = self.lanes(c, source, x_grad)
        if self.address(chosen) % (lanes * chosen.dtype.itemsize):
            lanes = 1
        self.over_rows(
            "pooling", "max_pool_backward", grad.dtype, n * h, w * c // lanes, source, chosen, x_grad,
            *_sizes((h, w), source.shape[1:3], c // lanes, geometry), LANES=lanes, WINNER_BYTES=chosen.dtype.itemsize,
        )  # fmt: skip
        return images(x_grad)

    def avg_pool2d_forward(self, x: Array, divisor: Array, geometry: ConvGeometry) -> Array:
        if not computable(x):
            return super().avg_pool2d_forward(x, divisor, geometry)
        n, c, h, w = x.shape
        out = geometry.output_size((h, w))
        source, y = self.pixels(x), self.xp.empty((n, *out, c), dtype=x.dtype)
        lanes = self.lanes(c, source, y)
        self.over_rows(
            "pooling", "avg_pool_forward", x.dtype, n * out[0], out[1] * c // lanes, source,
            self._divisor(divisor, x.dtype, out), y, *_sizes((h, w), out, c // lanes, geometry), LANES=lanes,
        )  # fmt: skip
        return images(y)

    def avg_pool2d_backward(self, grad: Array, divisor: Array, shape: tuple[int, ...], geometry: ConvGeometry) -> Array:
        if not computable(grad):
            return super().avg_pool2d_backward(grad, divisor, shape, geometry)
        n, c, h, w = shape
        source, x_grad = self.pixels(grad), self.xp.empty((n, h, w, c), dtype=grad.dtype)
        out = source.shape[1:3]
        lanes = self.lanes(c, source, x_grad)
        self.over_rows(
            "pooling", "avg_pool_backward", grad.dtype, n * h, w * c // lanes, source,
            self._divisor(divisor, grad.dtype, out), x_grad, *_sizes((h, w), out, c // lanes, geometry), LANES=lanes,
        )  # fmt: skip
        return images(x_grad)

    def _divisor(self, divisor: Array, dtype: Any, out: tuple[int, int]) -> Array:
        """A contiguous (OH, OW) of the image's dtype."""
        return self.xp.ascontiguousarray(self.xp.broadcast_to(divisor.astype(dtype, copy=False), out))


def _sizes(size: tuple[int, int], out: tuple[int, int], vectors: int, geometry: ConvGeometry) -> tuple[int, ...]:
    """The kernels' GEOMETRY."""
    (top, _), (left, _) = geometry.padding
    return (*size, *out, vectors, *geometry.kernel, *geometry.stride, top, left, *geometry.dilation)
