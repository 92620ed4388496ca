"""im2col and col2im as kernels; col2im is a gather, so that no two threads add to one pixel."""

from __future__ import annotations

from ..base import Array
from ..geometry import ConvGeometry
from .grid import Grid, computable, images


class WindowOps(Grid):
    """im2col and col2im."""

    def im2col(self, x: Array, geometry: ConvGeometry) -> Array:
        if not computable(x):
            return super().im2col(x, geometry)
        n, c, h, w = x.shape
        oh, ow = geometry.output_size((h, w))
        source, columns = self.pixels(x), self.xp.empty((n * oh * ow, geometry.taps * c), dtype=x.dtype)
        lanes = self.lanes(c, source, columns)
        vectors = c // lanes
        self.over_rows(
            "windows", "im2col", x.dtype, n * oh, ow * geometry.taps * vectors, source, columns, h, w, oh, vectors,
            geometry.taps, geometry.kernel[1], *geometry.stride, geometry.padding[0][0], geometry.padding[1][0],
            *geometry.dilation, LANES=lanes,
        )  # fmt: skip
        return columns

    def col2im(self, columns: Array, shape: tuple[int, ...], geometry: ConvGeometry) -> Array:
        if not computable(columns):
            return super().col2im(columns, shape, geometry)
        n, c, h, w = shape
        oh, ow = geometry.output_size((h, w))
        columns, x = self.xp.ascontiguousarray(columns), self.xp.empty((n, h, w, c), dtype=columns.dtype)
        lanes = self.lanes(c, columns, x)
        vectors = c // lanes
        self.over_rows(
            "windows", "col2im", x.dtype, n * h, w * vectors, columns, x, h, oh, ow, vectors, *geometry.kernel,
            *geometry.stride, geometry.padding[0][0], geometry.padding[1][0], *geometry.dilation, LANES=lanes,
        )  # fmt: skip
        return images(x)
