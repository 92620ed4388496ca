"""Losses: the difference in blocks, summed in float64."""

from __future__ import annotations

import math

import numpy as np

from ..base import Array
from .elementwise import LARGEST, Elementwise, flattened, suits
from .memory import empty


class LossOps(Elementwise):
    """mse and l1."""

    def mse_forward(self, prediction: Array, target: Array) -> float:
        if not suits(prediction, target):
            return super().mse_forward(prediction, target)
        _, (p, t) = flattened((prediction, target))
        return _mean(sum(self.over_blocks(lambda part: _square(p[part], t[part]), p.size)), p)

    def mse_backward(self, prediction: Array, target: Array) -> Array:
        if not suits(prediction, target):
            return super().mse_backward(prediction, target)
        factor = 2 / prediction.size

        def gradient(p: Array, t: Array, out: Array) -> None:
            np.subtract(p, t, out=out)
            out *= factor

        return self.elementwise(gradient, (prediction, target))

    def l1_forward(self, prediction: Array, target: Array) -> float:
        if not suits(prediction, target):
            return super().l1_forward(prediction, target)
        _, (p, t) = flattened((prediction, target))
        return _mean(sum(self.over_blocks(lambda part: _absolute(p[part], t[part]), p.size)), p)

    def l1_backward(self, prediction: Array, target: Array) -> Array:
        if not suits(prediction, target):
            return super().l1_backward(prediction, target)
        factor = prediction.dtype.type(1 / prediction.size)

        def gradient(p: Array, t: Array, out: Array) -> None:
            # (p > t) - (p < t): 0 also where the difference is NaN, as in PyTorch.
            difference = np.subtract(p, t, out=out)
            sign = np.greater(difference, 0, out=empty(p.shape, np.bool_)).view(np.int8)
            sign -= np.less(difference, 0, out=empty(p.shape, np.bool_)).view(np.int8)
            np.multiply(sign, factor, out=out)

        return self.elementwise(gradient, (prediction, target))


def _mean(total: float, x: Array) -> float:
    """`total` over the elements of x; infinite where it is too large for the dtype of x, as in PyTorch."""
    return math.inf if total > LARGEST[x.dtype.char] else total / x.size


def _difference(p: Array, t: Array) -> Array:
    return np.subtract(p, t, out=empty(p.shape, p.dtype))


def _square(p: Array, t: Array) -> float:
    """sum((p - t)^2): the difference rounded to its dtype, all else in float64."""
    difference = empty(p.shape, np.float64)
    np.copyto(difference, _difference(p, t))
    return float(np.dot(difference, difference))


def _absolute(p: Array, t: Array) -> float:
    difference = _difference(p, t)
    return float(np.abs(difference, out=difference).sum(dtype=np.float64))
