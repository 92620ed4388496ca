"""Images as rows of numbers: what pooling, resampling and normalization share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..base import Array
from ..geometry import Pair
from .memory import empty


def pixels(x: Array) -> Array:
    """(N, C, H, W) as (N, H, W, C), contiguous; a copy only if it lies otherwise in memory."""
    x = x.transpose(0, 2, 3, 1)
    if x.flags.c_contiguous:
        return x
    dense = empty(x.shape, x.dtype)
    np.copyto(dense, x)
    return dense


def images(x: Array) -> Array:
    """(N, H, W, C) as (N, C, H, W)."""
    return x.transpose(0, 3, 1, 2)


def enlarge(x: Array, factors: Pair, out: Array) -> None:
    """Repeat every pixel of x (N, H, W, C) in `out` (N, H a, W b, C): along the rows first, then whole rows."""
    (n, h, w, c), (a, b) = x.shape, factors
    wide = out.reshape(n, h, a, w, b, c)
    wide[:, :, 0] = x[:, :, :, None]
    rows = out.reshape(n, h, a, w * b * c)
    rows[:, :, 1:] = rows[:, :, :1]


def add_up(parts: Sequence[Array], out: Array) -> None:
    """The sum of the parts, in their order."""
    if len(parts) == 1:
        np.copyto(out, parts[0])
        return
    np.add(parts[0], parts[1], out=out)
    for part in parts[2:]:
        out += part


def taps(kernel: int, stride: int, dilation: int, windows: int) -> Iterator[slice]:
    """For each kernel element along one axis: the positions it sees, one per window."""
    for i in range(kernel):
        yield slice(i * dilation, i * dilation + (windows - 1) * stride + 1, stride)
