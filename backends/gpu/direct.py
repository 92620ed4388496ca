"""Convolutions whose matrix product would be mostly padding: few channels (direct.cu), a group each (depthwise.cu)."""

from __future__ import annotations

import numpy as np

from ..base import Array
from .conv_work import Finish, Gather, Work, pixel_ranges, quads, sum_partials
from .grid import Grid
from .launching import FREE_SHARED_MEMORY, THREADS

FEW_SOURCES, FEW_TARGETS = 4, 8  # at most so many channels on one side
PIXELS, OCTET = 4, 8  # of a thread in direct.cu
DEPTHWISE_TAPS = 9  # of a thread in depthwise.cu


class Direct:
    """Few channels on one side, one group; arrays and kernels as for ImplicitGemm."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def applies_to_gather(self, work: Work, itemsize: int, adjoint: bool) -> bool:
        """Whether one side has few channels, and the kernel fits into shared memory."""
        gather = work.gather(adjoint)
        if work.geometry.groups > 1 or not (gather.targets <= FEW_TARGETS or gather.sources <= FEW_SOURCES):
            return False
        return gather.phases <= 65535 and _shared(work, gather, itemsize) <= FREE_SHARED_MEMORY

    def applies_to_kernel(self, work: Work) -> bool:
        """Whether one side has few channels."""
        return work.geometry.groups == 1 and (work.channels <= FEW_SOURCES or work.out_channels <= FEW_TARGETS)

    def gather(self, source: Array, kernel: Array, work: Work, finish: Finish, adjoint: bool) -> Array:
        """The convolution of `source`, or its adjoint."""
        gather = work.gather(adjoint)
        target = self.grid.xp.empty(gather.shape, dtype=source.dtype)
        across, to_few = _across(gather), gather.targets <= FEW_TARGETS
        down = THREADS // across
        if to_few:
            name, channels, blocks_down = f"{gather.name}_to_few", gather.targets, gather.phases
            vectors = quads(self.grid, (gather.sources,), source)
        else:
            name, channels = f"{gather.name}_from_few", gather.sources
            blocks_down = -(-gather.targets // (OCTET * across)) * gather.phases
            vectors = quads(self.grid, (gather.targets,), target)
        function = self.grid.launcher.kernel("direct", name, source.dtype, CHANNELS=channels, VECTORS=int(vectors))
        function(
            (-(-gather.positions // (down * PIXELS)), blocks_down), (across, down), source, kernel, finish.bias, target,
            finish.activation, float(finish.slope), *work.arguments,
            shared=_shared(work, gather, source.dtype.itemsize),
        )  # fmt: skip
        return target

    def kernel_gradient(self, x: Array, grad: Array, work: Work) -> Array:
        """dW (KH, KW, C, O) from x and the upstream gradient."""
        if work.out_pixels == 0:
            return self.grid.xp.zeros(work.kernel_shape, dtype=x.dtype)
        items = work.geometry.taps * work.channels * -(-work.out_channels // OCTET)
        blocks = -(-items // THREADS)
        across = -(-items // (32 * blocks)) * 32
        down = THREADS // across
        ranges, run = pixel_ranges(work.out_pixels, blocks, down)
        partials = self.grid.xp.empty((ranges, *work.kernel_shape), dtype=x.dtype)
        vectors = quads(self.grid, (work.out_channels,), grad)
        # CHANNELS is of no account here: that of a gather of the same layer, so that nothing more is compiled
        channels = work.out_channels if work.out_channels <= FEW_TARGETS else work.channels
        function = self.grid.launcher.kernel(
            "direct", "kernel_gradient", x.dtype, CHANNELS=channels, VECTORS=int(vectors)
        )
        function((blocks, ranges), (across, down), x, grad, partials, np.int64(run), *work.arguments)
        return sum_partials(self.grid, partials)


def _across(gather: Gather) -> int:
    """Threads of a block that share pixels: over quads of source channels, or over octets of target channels."""
    count = -(-gather.sources // 4) if gather.targets <= FEW_TARGETS else -(-gather.targets // OCTET)
    return min(1 << (count - 1).bit_length(), 8)


def _shared(work: Work, gather: Gather, itemsize: int) -> int:
    """Bytes of shared memory for the kernel, as direct.cu lays it out."""
    if gather.targets <= FEW_TARGETS:
        return work.geometry.taps * -(-gather.sources // 4) * 4 * gather.targets * itemsize
    return work.geometry.taps * gather.sources * _across(gather) * OCTET * itemsize


class Depthwise:
    """A group for each channel; arrays and kernels as for ImplicitGemm."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    def applies(self, work: Work) -> bool:
        """Whether each input channel is a group, and the grid is one that a device takes."""
        blocks = -(-max(work.channels, work.out_channels) // 32) * work.phases
        return 1 < work.channels == work.geometry.groups and blocks <= 65535

    def gather(self, source: Array, kernel: Array, work: Work, finish: Finish, adjoint: bool) -> Array:
        """The convolution of `source`, or its adjoint."""
        gather = work.gather(adjoint)
        target = self.grid.xp.empty(gather.shape, dtype=source.dtype)
        alike = work.channels == work.out_channels
        lanes = 4 if alike and quads(self.grid, (work.channels,), source, kernel, target) else 1
        vectors = gather.targets // lanes
        across = min(1 << (vectors - 1).bit_length(), 32)
        down = THREADS // across
        function = self.grid.launcher.kernel("depthwise", gather.name, source.dtype, LANES=lanes)
        function(
            (-(-gather.positions // down), -(-vectors // across) * gather.phases), (across, down), source, kernel,
            finish.bias, target, finish.activation, float(finish.slope), *work.arguments,
        )  # fmt: skip
        return target

    def kernel_gradient(self, x: Array, grad: Array, work: Work) -> Array:
        """dW (KH, KW, 1, O) from x and the upstream gradient."""
        if work.out_pixels == 0:
            return self.grid.xp.zeros(work.kernel_shape, dtype=x.dtype)
        columns, chunks = -(-work.out_channels // 32), -(-work.geometry.taps // DEPTHWISE_TAPS)
        ranges, run = pixel_ranges(work.out_pixels, columns * chunks, 8)
        partials = self.grid.xp.empty((ranges, *work.kernel_shape), dtype=x.dtype)
        function = self.grid.launcher.kernel("depthwise", "kernel_gradient", x.dtype, LANES=1)
        function((columns, ranges, chunks), (32, 8), x, grad, partials, np.int64(run), *work.arguments)
        return sum_partials(self.grid, partials)
