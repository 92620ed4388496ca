"""Padding and its adjoint as kernels, both axes at once."""

from __future__ import annotations

from ..base import Array
from ..geometry import Sides
from .grid import Grid, computable, images

MODES = {"zeros": 0, "reflect": 1, "replicate": 2, "circular": 3}  # as padding.cu numbers them
NO_PADDING = ((0, 0), (0, 0))


class PaddingOps(Grid):
    """pad2d."""

    def pad2d_forward(self, x: Array, padding: Sides, mode: str) -> Array:
        if padding == NO_PADDING or not computable(x):
            return super().pad2d_forward(x, padding, mode)
        n, c, h, w = x.shape
        (top, bottom), (left, right) = padding
        source = self.pixels(x)
        padded = self.xp.empty((n, h + top + bottom, w + left + right, c), dtype=x.dtype)
        lanes = self.lanes(c, source, padded)
        self.over_rows(
            "padding", "pad_forward", x.dtype, n * padded.shape[1], padded.shape[2] * c // lanes, source, padded,
            h, w, padded.shape[1], c // lanes, top, left, MODES[mode], LANES=lanes,
        )  # fmt: skip
        return images(padded)

    def pad2d_backward(self, grad: Array, shape: tuple[int, ...], padding: Sides, mode: str) -> Array:
        if padding == NO_PADDING or not computable(grad):
            return super().pad2d_backward(grad, shape, padding, mode)
        n, c, h, w = shape
        (top, _), (left, _) = padding
        source, x_grad = self.pixels(grad), self.xp.empty((n, h, w, c), dtype=grad.dtype)
        lanes = self.lanes(c, source, x_grad)
        self.over_rows(
            "padding", "pad_backward", grad.dtype, n * h, w * c // lanes, source, x_grad, h, w, *source.shape[1:3],
            c // lanes, top, left, MODES[mode], LANES=lanes,
        )  # fmt: skip
        return images(x_grad)
