"""Losses as kernels: two passes over the device's memory; the host waits only for a loss that it asks for."""

from __future__ import annotations

import numpy as np

from ..base import Array
from .grid import VECTOR, Grid, computable, images
from .launching import THREADS

SQUARED, ABSOLUTE = 0, 1  # as loss.cu numbers them
MOST_PARTS = 1024  # partial sums: enough blocks to fill any device, few enough for one block to add up


class LossOps(Grid):
    """mse and l1: arrays without axes, for which nobody has waited."""

    def mse_forward(self, prediction: Array, target: Array) -> Array:
        if not _has_mean(prediction, target):
            difference = prediction - target
            return self.xp.mean(difference * difference, dtype=self.xp.float64)
        return self._mean(prediction, target, SQUARED)

    def mse_backward(self, prediction: Array, target: Array) -> Array:
        if not _has_mean(prediction, target):
            return super().mse_backward(prediction, target)
        return self._gradient(prediction, target, SQUARED, 2 / prediction.size)

    def l1_forward(self, prediction: Array, target: Array) -> Array:
        if not _has_mean(prediction, target):
            return self.xp.mean(self.xp.abs(prediction - target), dtype=self.xp.float64)
        return self._mean(prediction, target, ABSOLUTE)

    def l1_backward(self, prediction: Array, target: Array) -> Array:
        if not _has_mean(prediction, target):
            return super().l1_backward(prediction, target)
        return self._gradient(prediction, target, ABSOLUTE, 1 / prediction.size)

    def _mean(self, prediction: Array, target: Array, loss: int) -> Array:
        _, p, t = self._flattened(prediction, target)
        lanes, size = self.lanes(0, p, t), np.int64(p.size)
        # As many as the size asks for, whatever the device: the same numbers give the same bits everywhere.
        parts = min(-(-p.size * p.dtype.itemsize // (THREADS * VECTOR * 4)), MOST_PARTS)
        partial = self.xp.empty(parts, dtype=self.xp.float64)
        mean = self.xp.empty((), dtype=self.xp.float64)
        first = self.launcher.kernel("loss", "loss_partial", p.dtype, LANES=lanes)
        second = self.launcher.kernel("loss", "loss_mean", p.dtype, LANES=lanes)
        first(parts, THREADS, size, p, t, partial, loss)
        second(1, THREADS, parts, partial, mean, size)
        return mean

    def _gradient(self, prediction: Array, target: Array, loss: int, factor: float) -> Array:
        last, p, t = self._flattened(prediction, target)
        grad = self.xp.empty(p.shape, dtype=p.dtype)
        self.over_elements("loss", "loss_backward", (p, t, grad), factor, loss)
        if not last:
            return grad.reshape(prediction.shape)
        n, c, h, w = prediction.shape
        return images(grad.reshape(n, h, w, c))

    def _flattened(self, prediction: Array, target: Array) -> tuple[bool, Array, Array]:
        """Both as flat memory in one order, and whether that is channels-last."""
        both = (prediction, target)
        last = prediction.ndim == 4 and not all(array.flags.c_contiguous for array in both)
        p, t = (self.pixels(array) if last else self.xp.ascontiguousarray(array) for array in both)
        return last, p.reshape(-1), t.reshape(-1)


def _has_mean(prediction: Array, target: Array) -> bool:
    return computable(prediction, target) and prediction.size > 0
