"""Batch normalization over long rows: several pixels side by side, and the channels' numbers tiled to match.

Sums over pixels are BLAS products with a row of ones, whose many partial sums are then added up in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..base import Array
from .elementwise import LARGEST, ROW, Elementwise, suits
from .memory import empty
from .operations import WORTH_SPLITTING
from .pixels import images, pixels

Result = TypeVar("Result")

# Where no channel's mean is more standard deviations than this from zero, sums need no centring: at most a few units
# in the last place are lost.
NEAR = 4


class NormalizationOps(Elementwise):
    """batch_norm; dropout's mask is the reference's."""

    def batch_norm_statistics(self, x: Array) -> tuple[Array, Array]:
        if not suits(x) or x.size == 0:
            return super().batch_norm_statistics(x)
        rows = _rows(x)

        def moments(part: slice, centre: Array | None = None) -> Array:
            values, squares = rows[part], empty(rows[part].shape, x.dtype)
            if centre is not None:
                values = with_channels(np.subtract, values, centre, squares)
            first = channel_sums(values)
            return np.stack([first, channel_sums(np.square(values, out=squares))])

        mean, square = sum(self._split_rows(rows, moments)) / len(rows)
        rounded, var = mean.astype(x.dtype), square - mean**2
        if not (mean**2 <= NEAR**2 * var).all():  # far from zero, the difference has no digit left
            # The rounding of the mean to x's dtype is taken back: var(x) = mean(c^2) - mean(c)^2.
            first, square = sum(self._split_rows(rows, lambda part: moments(part, rounded))) / len(rows)
            rounded, var = (rounded + first).astype(x.dtype), square - first**2
        if not _are_moderate(rounded, var):
            return super().batch_norm_statistics(x)
        return rounded, var.astype(x.dtype)

    def batch_norm_forward(
        self, x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float
    ) -> Array:
        if not suits(x):
            return super().batch_norm_forward(x, mean, var, weight, bias, eps)
        rows, inverse = _rows(x), self._inverse_deviation(var, eps)
        y = empty(rows.shape, x.dtype)
        scale = inverse if weight is None else inverse * weight
        shift = np.zeros_like(mean) if bias is None else bias
        centre = None
        if (abs(mean * inverse) <= NEAR).all() or not _are_moderate(mean, var, inverse, scale):
            shift = shift - mean * scale  # where numbers are extreme, this form overflows for those of PyTorch's
        else:
            centre = mean

        def normalize(part: slice) -> None:
            values, out = rows[part], y[part]
            if centre is not None:
                values = with_channels(np.subtract, values, centre, out)
            with_channels(np.multiply, values, scale, out)
            with_channels(np.add, out, shift, out)

        self._split_rows(rows, normalize)
        return _images(y, x.shape)

    def batch_norm_backward(
        self, grad: Array, x: Array, mean: Array, var: Array, weight: Array | None, eps: float, batch: bool
    ) -> tuple[Array, Array, Array]:
        if not suits(grad, x) or x.size == 0:
            return super().batch_norm_backward(grad, x, mean, var, weight, eps, batch)
        rows, values = _rows(grad), _rows(x)
        x_grad, inverse = empty(rows.shape, x.dtype), self._inverse_deviation(var, eps)
        near = bool((abs(mean * inverse) <= NEAR).all())
        centred = values if near else empty(rows.shape, x.dtype)

        def sums(part: slice) -> Array:
            if not near:
                with_channels(np.subtract, values[part], mean, centred[part])
            products = np.multiply(centred[part], rows[part], out=x_grad[part])
            return np.stack([channel_sums(products), channel_sums(rows[part])])

        product, bias_grad = sum(self._split_rows(rows, sums))
        scale = inverse if weight is None else inverse * weight
        if not _are_moderate(mean, var, inverse, scale, product, bias_grad):
            return super().batch_norm_backward(grad, x, mean, var, weight, eps, batch)
        if near:
            product = product - mean * bias_grad
        weight_grad = product * inverse
        # The mean and the variance move with x: equation block 3.1 of the paper, collected per channel into
        # x_grad = scale grad - slope x + shift
        slope = scale * weight_grad * inverse / len(rows)
        shift = (mean * slope if near else 0) - scale * bias_grad / len(rows)

        def combine(part: slice) -> None:
            out = x_grad[part]
            with_channels(np.multiply, rows[part], scale, out)
            if batch:
                out -= with_channels(np.multiply, centred[part], slope.astype(x.dtype), empty(out.shape, x.dtype))
                with_channels(np.add, out, shift.astype(x.dtype), out)

        self._split_rows(rows, combine)
        return _images(x_grad, x.shape), weight_grad.astype(x.dtype), bias_grad.astype(x.dtype)

    def _split_rows(self, rows: Array, work: Callable[[slice], Result]) -> list[Result]:
        return self.split(len(rows), work, -(-WORTH_SPLITTING // rows.shape[1]))


def _are_moderate(*channels: Array) -> bool:
    """Whether these numbers of channels (C,) are finite, and so small that products of two are as well.

    Elsewhere the order of operations decides what overflows; the reference's is that of PyTorch.
    """
    largest = LARGEST[channels[0].dtype.char]
    return all(np.dot(values, values) < largest for values in channels)  # not so where one is NaN


def channel_sums(rows: Array) -> Array:
    """(P, C) -> (C,) in float64: 64 pixels or more are a long row, over which BLAS adds up."""
    channels = rows.shape[1]
    group = max(64, ROW // channels)
    whole = len(rows) // group * group
    total = rows[whole:].sum(axis=0, dtype=np.float64)
    if whole:
        long = rows[:whole].reshape(whole // group, group * channels)
        partial = np.ones(len(long), rows.dtype) @ long
        total += partial.reshape(group, channels).sum(axis=0, dtype=np.float64)
    return total


def with_channels(ufunc: Any, rows: Array, values: Array, out: Array) -> Array:
    """`ufunc(rows, values, out=out)` for rows (P, C), values (C,)."""
    channels = rows.shape[1]
    group = max(1, ROW // channels)
    whole = len(rows) // group * group
    tile = np.tile(values, group)
    if whole:
        shape = whole // group, group * channels
        ufunc(rows[:whole].reshape(shape), tile, out=out[:whole].reshape(shape))
    if whole < len(rows):
        rest = (len(rows) - whole) * channels
        ufunc(rows[whole:].reshape(-1), tile[:rest], out=out[whole:].reshape(-1))
    return out


def _rows(x: Array) -> Array:
    """(N, C, H, W) -> (N H W, C)."""
    return pixels(x).reshape(-1, x.shape[1])


def _images(rows: Array, shape: tuple[int, ...]) -> Array:
    n, c, h, w = shape
    return images(rows.reshape(n, h, w, c))
