"""Nearest upsampling through tables that stay on the device, and pixel shuffle, as kernels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ..base import Array
from .grid import Grid, computable, images


class ResamplingOps(Grid):
    """upsample_nearest, pixel_shuffle and pixel_unshuffle."""

    def upsample_nearest_forward(self, x: Array, rows: Sequence[int], columns: Sequence[int]) -> Array:
        if not computable(x):
            return super().upsample_nearest_forward(x, rows, columns)
        n, c, h, w = x.shape
        source, large = self.pixels(x), self.xp.empty((n, len(rows), len(columns), c), dtype=x.dtype)
        lanes = self.lanes(c, source, large)
        self.over_rows(
            "resampling", "nearest_forward", x.dtype, n * len(rows), len(columns) * c // lanes, source,
            self._table(tuple(rows)), self._table(tuple(columns)), large, h, w, len(rows), c // lanes, LANES=lanes,
        )  # fmt: skip
        return images(large)

    def upsample_nearest_backward(
        self, grad: Array, shape: tuple[int, ...], rows: Sequence[int], columns: Sequence[int]
    ) -> Array:
        if not computable(grad):
            return super().upsample_nearest_backward(grad, shape, rows, columns)
        n, c, h, w = shape
        source, x_grad = self.pixels(grad), self.xp.empty((n, h, w, c), dtype=grad.dtype)
        lanes = self.lanes(c, source, x_grad)
        self.over_rows(
            "resampling", "nearest_backward", grad.dtype, n * h, w * c // lanes, source,
            self._starts(tuple(rows), h), self._starts(tuple(columns), w), x_grad, h, len(rows), len(columns),
            c // lanes, LANES=lanes,
        )  # fmt: skip
        return images(x_grad)

    def pixel_shuffle(self, x: Array, factor: int) -> Array:
        if not computable(x):
            return super().pixel_shuffle(x, factor)
        n, deep, h, w = x.shape
        c = deep // factor**2
        large = self.xp.empty((n, h * factor, w * factor, c), dtype=x.dtype)
        self.over_rows(
            "resampling", "pixel_shuffle", x.dtype, n * h * factor, w * factor * c, self.pixels(x), large,
            h * factor, w, c, factor,
        )  # fmt: skip
        return images(large)

    def pixel_unshuffle(self, x: Array, factor: int) -> Array:
        if not computable(x):
            return super().pixel_unshuffle(x, factor)
        n, c, large_h, large_w = x.shape
        h, w = large_h // factor, large_w // factor
        small = self.xp.empty((n, h, w, c * factor**2), dtype=x.dtype)
        self.over_rows(
            "resampling", "pixel_unshuffle", x.dtype, n * h, w * c * factor**2, self.pixels(x), small, h, w, c, factor
        )
        return images(small)

    # Tables are never given up: they are small, few, and a captured graph may read them.
    @cached_property
    def _tables(self) -> dict[tuple[int, ...], Array]:
        return {}

    @cached_property
    def _start_tables(self) -> dict[tuple[tuple[int, ...], int], Array]:
        return {}

    def _table(self, values: tuple[int, ...]) -> Array:
        """The numbers on the device; uploaded once."""
        found = self._tables.get(values)
        if found is None:
            found = self._tables[values] = self.xp.asarray(np.array(values, dtype=np.int32))
        return found

    def _starts(self, sources: tuple[int, ...], length: int) -> Array:
        """Where the copies of each of `length` pixels begin, and where the last ones end."""
        found = self._start_tables.get((sources, length))
        if found is None:
            starts = tuple(bisect_left(sources, source) for source in range(length + 1))
            found = self._start_tables[sources, length] = self._table(starts)
        return found
