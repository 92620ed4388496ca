"""What the convolution kernels are told: sizes, what follows the sum, and into how many parts a long sum is cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry, Pair
from .grid import VECTOR, Grid

ENOUGH_BLOCKS = 512  # of a launch: about four for each processor of a large device. Never asked of the device itself,
# because where a sum is cut decides its bits
LEAST_RANGE = 256  # pixels of a partial sum, so that adding the parts up stays small beside them
MOST_RANGE = 1 << 30  # pixels of a partial sum: the kernels count them in an int


@dataclass(frozen=True)
class Work:
    """A convolution from `images` of (N, *size, channels) to (N, *out_size, out_channels), all channels-last."""

    images: int
    size: Pair
    channels: int
    out_size: Pair
    out_channels: int
    geometry: ConvGeometry

    @cached_property
    def arguments(self) -> tuple[int, ...]:
        """The sizes, in the order in which every kernel takes them (`Sizes` in indices.cuh)."""
        g = self.geometry
        return (
            self.images, *self.size, self.channels, *self.out_size, self.out_channels, *g.kernel, *g.stride,
            g.padding[0][0], g.padding[1][0], *g.dilation, g.groups,
        )  # fmt: skip

    @property
    def out_pixels(self) -> int:
        return self.images * self.out_size[0] * self.out_size[1]

    @property
    def phases(self) -> int:
        return self.geometry.stride[0] * self.geometry.stride[1]

    @cached_property
    def per_group(self) -> Pair:
        """The channels of one group, on both sides."""
        return self.channels // self.geometry.groups, self.out_channels // self.geometry.groups

    @property
    def kernel_shape(self) -> tuple[int, int, int, int]:
        """The kernel as it lies in memory: (KH, KW, C / groups, O)."""
        return (*self.geometry.kernel, self.per_group[0], self.out_channels)

    def gather(self, adjoint: bool) -> Gather:
        """The convolution, or its adjoint, as the kernels see it."""
        inputs, outputs = self.per_group
        if not adjoint:
            shape = (self.images, *self.out_size, self.out_channels)
            return Gather("forward", inputs, outputs, self.channels, self.out_pixels, 1, shape)
        down, across = (-(-self.size[axis] // self.geometry.stride[axis]) for axis in (0, 1))
        shape = (self.images, *self.size, self.channels)
        return Gather("adjoint", outputs, inputs, self.out_channels, self.images * down * across, self.phases, shape)


class Gather(NamedTuple):
    """One direction of a convolution, from a source to a target."""

    name: str
    per_source: int  # channels of a group
    per_target: int
    sources: int  # channels of all groups
    positions: int  # of the largest phase
    phases: int
    shape: tuple[int, int, int, int]  # of the target (N, H, W, C)

    @property
    def targets(self) -> int:
        """Channels of all groups."""
        return self.shape[3]


class Finish(NamedTuple):
    """What follows the sum: a bias, and an activation as kernels/elements.cuh numbers them."""

    bias: Array | None = None
    activation: int = 0
    slope: float = 0.0


def quads(grid: Grid, channels: tuple[int, ...], *arrays: Array) -> bool:
    """Whether four neighbouring channels can be moved at once."""
    return not any(c % 4 for c in channels) and not any(grid.address(array) % VECTOR for array in arrays)


def pixel_ranges(pixels: int, tiles: int, multiple: int) -> tuple[int, int]:
    """Into how many ranges, of how many pixels (a multiple of `multiple`), a sum over pixels is cut for `tiles` tiles.

    As many as give the device enough blocks; by the sizes alone, so that the same convolution has the same bits always.
    """
    count = max(1, min(ENOUGH_BLOCKS // tiles, pixels // LEAST_RANGE), -(-pixels // MOST_RANGE))
    run = -(-pixels // (count * multiple)) * multiple
    return -(-pixels // run), run


def sum_partials(grid: Grid, partials: Array) -> Array:
    """The sum over the first axis, in order."""
    if partials.shape[0] == 1:
        return partials[0]
    out = grid.xp.empty(partials.shape[1:], dtype=partials.dtype)
    kernel = grid.launcher.kernel("partial_sums", "add_partials", out.dtype)
    kernel(-(-out.size // 32), (32, 8), partials, out, np.int64(out.size), np.int64(partials.shape[0]))
    return out


def is_tensor_dtype(dtype: Any) -> bool:
    """Whether the tensor cores' TF32 stands for this type: float32 only."""
    return bool(np.dtype(dtype) == np.float32)
