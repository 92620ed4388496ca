"""Losses: the mean over every element, or over the weighted ones, and its gradient with respect to the prediction."""

from __future__ import annotations

from ..base import Array, Backend


class LossOps(Backend):
    """mse, l1 and masked mse; sums run in float64."""

    def mse_forward(self, prediction: Array, target: Array) -> float:
        difference = prediction - target
        return float(self.xp.mean(difference * difference, dtype=self.xp.float64))

    def mse_backward(self, prediction: Array, target: Array) -> Array:
        return (prediction - target) * (2 / prediction.size)

    def l1_forward(self, prediction: Array, target: Array) -> float:
        return float(self.xp.mean(self.xp.abs(prediction - target), dtype=self.xp.float64))

    def l1_backward(self, prediction: Array, target: Array) -> Array:
        # The sign is 0 also where the difference is NaN, as in PyTorch.
        difference = prediction - target
        sign = (difference > 0).astype(prediction.dtype) - (difference < 0).astype(prediction.dtype)
        return sign * (1 / prediction.size)

    def masked_mse_forward(self, prediction: Array, target: Array, weight: Array) -> Array:
        difference = prediction - target
        difference *= difference
        difference *= weight
        return self.xp.mean(self._image_sums(difference) / self._weight_sums(weight))

    def masked_mse_backward(self, prediction: Array, target: Array, weight: Array) -> Array:
        grad = prediction - target
        grad *= weight
        factors = (2 / len(prediction) / self._weight_sums(weight)).astype(prediction.dtype)
        grad *= factors.reshape(-1, *[1] * (prediction.ndim - 1))
        return grad

    def _weight_sums(self, weight: Array) -> Array:
        """Each image's sum of weights; 1 where it is zero, and so is all that is divided by it."""
        sums = self._image_sums(weight)
        return self.xp.where(sums > 0, sums, 1.0)

    def _image_sums(self, x: Array) -> Array:
        return x.sum(axis=tuple(range(1, x.ndim)), dtype=self.xp.float64)
