"""Nearest upsampling by whole factors: copies and sums of rows, in place of a gather for every pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..base import Array
from ..geometry import Pair
from .elementwise import Elementwise, least_images
from .memory import empty
from .pixels import add_up, enlarge, images, pixels


class ResamplingOps(Elementwise):
    """upsample_nearest; the rest of resampling is the reference's."""

    def upsample_nearest_forward(self, x: Array, rows: Sequence[int], columns: Sequence[int]) -> Array:
        factors = _factors(x.shape, rows, columns)
        if factors is None:
            return super().upsample_nearest_forward(x, rows, columns)
        small = pixels(x)
        n, h, w, c = small.shape
        large = empty((n, h * factors[0], w * factors[1], c), x.dtype)
        self.split(n, lambda part: enlarge(small[part], factors, large[part]), least_images(large))
        return images(large)

    def upsample_nearest_backward(
        self, grad: Array, shape: tuple[int, ...], rows: Sequence[int], columns: Sequence[int]
    ) -> Array:
        factors = _factors(shape, rows, columns)
        if factors is None:
            return super().upsample_nearest_backward(grad, shape, rows, columns)
        n, c, h, w = shape
        large, small = pixels(grad), empty((n, h, w, c), grad.dtype)
        self.split(n, lambda part: _gather(large[part], factors, small[part]), least_images(large))
        return images(small)


def _factors(shape: tuple[int, ...], rows: Sequence[int], columns: Sequence[int]) -> Pair | None:
    """How often each row and each column comes, if all come equally often."""
    factors = len(rows) // shape[2], len(columns) // shape[3]
    for indices, length, factor in zip((rows, columns), shape[2:], factors, strict=True):
        if not np.array_equal(indices, np.repeat(np.arange(length), factor)):
            return None
    return factors


def _gather(large: Array, factors: Pair, small: Array) -> None:
    """Add up the copies of each pixel: whole rows first, then along them."""
    (n, h, w, c), (a, b) = small.shape, factors
    lines = large.reshape(n, h, a, w * b, c)
    total = lines[:, :, 0]
    if a > 1:
        total = empty((n, h, w * b, c), small.dtype)
        add_up([lines[:, :, i] for i in range(a)], total)
    copies = total.reshape(n, h, w, b, c)
    add_up([copies[:, :, :, j] for j in range(b)], small)
