"""Batch normalization (Ioffe and Szegedy, 2015), per channel: axis 1 of (N, C, H, W).

Sums run in float64: over a million pixels, float32 would lose three of its seven digits.
"""

from __future__ import annotations

from typing import Any

from ..base import Array, Backend


class NormalizationOps(Backend):
    """batch_norm and the random mask of dropout."""

    def batch_norm_statistics(self, x: Array) -> tuple[Array, Array]:
        mean = x.mean(axis=(0, 2, 3), dtype=self.xp.float64)
        centred = x - _channels(mean.astype(x.dtype))
        # The rounding of the mean to x's dtype is taken back: var(x) = mean(c^2) - mean(c)^2.
        square, rest = self._channel_mean(centred * centred), self._channel_mean(centred) ** 2
        var = self.xp.where(square == self.xp.inf, square, square - rest)  # not NaN where the squares have overflowed
        return mean.astype(x.dtype), var.astype(x.dtype)

    def batch_norm_forward(
        self, x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float
    ) -> Array:
        y = (x - _channels(mean)) * _channels(self._inverse_deviation(var, eps))
        if weight is not None:
            y *= _channels(weight)
        if bias is not None:
            y += _channels(bias)
        return y

    def batch_norm_backward(
        self, grad: Array, x: Array, mean: Array, var: Array, weight: Array | None, eps: float, batch: bool
    ) -> tuple[Array, Array, Array]:
        inverse, count = self._inverse_deviation(var, eps), x.shape[0] * x.shape[2] * x.shape[3]
        centred = x - _channels(mean)
        # The order of the products is PyTorch's: so both overflow for the same numbers.
        product, bias_grad = (a.sum(axis=(0, 2, 3), dtype=self.xp.float64) for a in (centred * grad, grad))
        x_grad = grad
        if batch:
            # The mean and the variance move with x: equation block 3.1 of the paper, collected.
            slope = product.astype(x.dtype) * inverse * inverse / count
            x_grad = grad - _channels((bias_grad / count).astype(x.dtype)) - centred * _channels(slope)
        x_grad = x_grad * _channels(inverse)
        if weight is not None:
            x_grad *= _channels(weight)
        return x_grad, (product * inverse).astype(x.dtype), bias_grad.astype(x.dtype)

    def keep_mask(self, x: Array, probability: float, generator: Any) -> Array:
        if x.ndim == 4:  # drawn channels-last, as images lie in memory
            n, c, h, w = x.shape
            kept = (generator.random((n, h, w, c), dtype="float32") < probability).transpose(0, 3, 1, 2)
        else:
            kept = generator.random(x.shape, dtype="float32") < probability
        mask = kept.astype(x.dtype) / x.dtype.type(probability or 1.0)
        return self.asarray(mask)

    def _channel_mean(self, x: Array) -> Array:
        return x.mean(axis=(0, 2, 3), dtype=self.xp.float64)

    def _inverse_deviation(self, var: Array, eps: float) -> Array:
        return (1 / self.xp.sqrt(var.astype(self.xp.float64) + eps)).astype(var.dtype)


def _channels(values: Array) -> Array:
    """(C,) -> (C, 1, 1), to stand beside (N, C, H, W)."""
    return values[:, None, None]
