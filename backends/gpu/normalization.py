"""Batch normalization as kernels, and the sum over pixels that a convolution's bias needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base import Array
from .grid import Grid, column_block, computable, images, parts_of
from .launching import THREADS

TOTALLERS = 1024  # threads of a block of the second pass of a sum, as in normalization.cu


class NormalizationOps(Grid):
    """batch_norm and channel_sum; dropout's mask is the reference's."""

    def channel_sum(self, x: Array) -> Array:
        """The sum of x (N, C, H, W) over images and pixels: (C,); in float64, then rounded."""
        if not computable(x) or x.size == 0:
            return x.sum(axis=(0, 2, 3))
        pixels, total = self.pixels(x), self.xp.empty(x.shape[1], dtype=x.dtype)
        self._two_passes("channel_sum", 1, (pixels,), (total,))
        return total

    def batch_norm_statistics(self, x: Array) -> tuple[Array, Array]:
        if not computable(x) or x.size == 0:
            return super().batch_norm_statistics(x)
        pixels, c = self.pixels(x), x.shape[1]
        mean, var = self.xp.empty(c, dtype=x.dtype), self.xp.empty(c, dtype=x.dtype)
        self._two_passes("moments", 3, (pixels,), (mean, var))
        return mean, var

    def batch_norm_forward(
        self, x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float
    ) -> Array:
        if not _suits(x, mean, var, weight, bias):
            return super().batch_norm_forward(x, mean, var, weight, bias, eps)
        pixels, c = self.pixels(x), x.shape[1]
        y = self.xp.empty(pixels.shape, dtype=x.dtype)
        lanes = self.lanes(c, pixels, y)
        self.over_rows(
            "normalization", "batch_norm_forward", x.dtype, pixels.size // c, c // lanes, pixels, mean, var, weight,
            bias, y, np.float64(eps), LANES=lanes,
        )  # fmt: skip
        return images(y)

    def batch_norm_backward(
        self, grad: Array, x: Array, mean: Array, var: Array, weight: Array | None, eps: float, batch: bool
    ) -> tuple[Array, Array, Array]:
        if not computable(grad, x) or x.size == 0 or not _suits(x, mean, var, weight):
            return super().batch_norm_backward(grad, x, mean, var, weight, eps, batch)
        rows, pixels, c = self.pixels(grad), self.pixels(x), x.shape[1]
        weight_grad, bias_grad = self.xp.empty(c, dtype=x.dtype), self.xp.empty(c, dtype=x.dtype)
        means = self.xp.empty((2, c), dtype=x.dtype)
        epsilon = np.float64(eps)
        self._two_passes("batch_norm_sums", 2, (pixels, rows, mean, var), (weight_grad, bias_grad, means), epsilon)
        x_grad = self.xp.empty(rows.shape, dtype=x.dtype)
        lanes = self.lanes(c, rows, pixels, x_grad)
        self.over_rows(
            "normalization", "batch_norm_backward", x.dtype, pixels.size // c, c // lanes, rows, pixels, mean, var,
            weight, means, x_grad, epsilon, int(batch), LANES=lanes,
        )  # fmt: skip
        return images(x_grad), weight_grad, bias_grad

    def _two_passes(
        self, name: str, sums: int, read: tuple[Array, ...], written: tuple[Array, ...], *options: Any
    ) -> None:
        """Sum over the pixels of `read[0]` (N, H, W, C): `name`_partial into (sums, parts, C), then `name`_total."""
        x = read[0]
        c = x.shape[3]
        count = x.size // c
        parts, run = parts_of(count, c)
        partial = self.xp.empty((sums, parts, c), dtype=self.xp.float64)
        sizes = np.int64(count), c, np.int64(run)
        for step, threads, deep, rows in (("partial", THREADS, run, parts), ("total", TOTALLERS, parts, 1)):
            across, down = column_block(c, deep, threads)
            arguments = (*read, partial, *options) if step == "partial" else (parts, partial, *written)
            kernel = self.launcher.kernel("normalization", f"{name}_{step}", x.dtype)
            kernel((-(-c // across), rows), (across, down), *sizes, *arguments)


def _suits(x: Array, *channels: Array | None) -> bool:
    """Whether kernels take x with these arrays (C,), or None."""
    given = [values for values in channels if values is not None]
    return computable(x) and all(v.dtype == x.dtype and v.flags.c_contiguous for v in given)
