"""im2col and col2im by hand, with a convolution's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import checks
from .arithmetic import quiet
from .backends import backend
from .backends.base import Array
from .backends.geometry import ConvGeometry, IntOrPair


def im2col(
    x: Array,
    kernel_size: IntOrPair,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
) -> Array:
    """(N, C, H, W), or (C, H, W), as the matrix (N OH OW, KH KW C) that turns a convolution into a product.

    A row per output pixel, a column per kernel element and channel, channels fastest: conv(x) = im2col(x) @ W with
    W = weight.transpose(2, 3, 1, 0).reshape(-1, out_channels). Raises ValueError for arguments that do not fit x.
    """
    checks.array(x, "the input of im2col")
    if x.ndim not in (3, 4):
        raise ValueError(f"the input of im2col, of shape {x.shape}, must be (N, C, H, W) or (C, H, W)")
    geometry = ConvGeometry.parse(kernel_size, stride, padding, dilation)
    return backend().im2col(x if x.ndim == 4 else x[None], geometry)


@quiet
def col2im(
    columns: Array,
    input_shape: Sequence[int],
    kernel_size: IntOrPair,
    stride: IntOrPair = 1,
    padding: IntOrPair | str = 0,
    dilation: IntOrPair = 1,
) -> Array:
    """The adjoint of `im2col` for an input of `input_shape`: values are added up where windows overlap.

    <im2col(x), c> = <x, col2im(c)> for all x and c; it is not the inverse. Raises ValueError if `columns` has not the
    shape that im2col gives.
    """
    checks.array(columns, "the columns of col2im")
    if not isinstance(input_shape, Sequence) or len(input_shape) not in (3, 4):
        raise ValueError(f"input_shape (={input_shape!r}) must be (N, C, H, W) or (C, H, W)")
    shape = tuple(checks.integer(length, "input_shape", 0) for length in input_shape)
    batch: Any = shape if len(shape) == 4 else (1, *shape)
    geometry = ConvGeometry.parse(kernel_size, stride, padding, dilation)
    rows, width = geometry.output_size((batch[2], batch[3])), geometry.taps * batch[1]
    expected = (batch[0] * rows[0] * rows[1], width)
    if columns.shape != expected:
        raise ValueError(f"columns of shape {columns.shape} must have the shape {expected} for an input of {shape}")
    x = backend().col2im(columns, batch, geometry)
    return x if len(shape) == 4 else x[0]
