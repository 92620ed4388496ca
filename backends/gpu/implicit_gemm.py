"""Convolutions of any shape as implicit matrix products: kernels/implicit_gemm.cu, and its twin for TF32.

TF32 rounds what is multiplied, activations, weights and gradients, from 24 bits of precision to 11 (a relative error of
up to 2^-11 = 5e-4 each); products are exact and sums are float32. A sum of K such products is then off by about 3e-4 of
its terms' root mean square times sqrt(K), against 1e-7 or so without. Training rarely notices; a comparison of
gradients does. It is PyTorch's default for convolutions (torch.backends.cudnn.allow_tf32), and off here unless
NPCONV_TF32=1.
"""

from __future__ import annotations

import numpy as np

from ..base import Array
from .conv_work import ENOUGH_BLOCKS, Finish, Work, is_tensor_dtype, pixel_ranges, quads, sum_partials
from .grid import Grid

Tile = tuple[int, int]
LARGE, SMALL = (128, 64), (64, 32)
TERMS = 16  # of the sum, in one tile
TENSOR_THREADS = 128
LEAST_CHANNELS = 16  # of a group, on both sides, for tensor cores to be worth their padding
MOST_DOWN = 65535  # the largest grid in y and z


class ImplicitGemm:
    """The three products. Arrays are contiguous (N, H, W, C); kernels (KH, KW, C / groups, O)."""

    def __init__(self, grid: Grid, tf32: bool = False) -> None:
        self.grid = grid
        self.tf32 = tf32

    def applies(self, work: Work) -> bool:
        """Whether groups and phases fit into a grid."""
        return work.geometry.groups * work.phases <= MOST_DOWN

    def gather(self, source: Array, kernel: Array, work: Work, finish: Finish, adjoint: bool) -> Array:
        """The convolution of `source`, or its adjoint."""
        gather = work.gather(adjoint)
        target = self.grid.xp.empty(gather.shape, dtype=source.dtype)
        rows = work.geometry.groups * gather.phases
        family = self._family(source.dtype, work)
        blocks = -(-gather.positions // LARGE[0]) * -(-gather.per_target // LARGE[1]) * rows
        tile = _tile(source.dtype, gather.per_target > SMALL[1] and blocks >= ENOUGH_BLOCKS // 2)
        vectors = quads(self.grid, work.per_group, source, kernel, target)
        function = self.grid.launcher.kernel(
            family, gather.name, source.dtype, TILE_M=tile[0], TILE_N=tile[1], VECTORS=int(vectors)
        )
        blocks = -(-gather.positions // tile[0]) * -(-gather.per_target // tile[1])
        function(
            (blocks, rows), _threads(family, tile), source, kernel, finish.bias, target, finish.activation,
            float(finish.slope), *work.arguments,
        )  # fmt: skip
        return target

    def kernel_gradient(self, x: Array, grad: Array, work: Work) -> Array:
        """dW (KH, KW, C / groups, O) from x and the upstream gradient."""
        if work.out_pixels == 0:
            return self.grid.xp.zeros(work.kernel_shape, dtype=x.dtype)
        terms, outputs = work.geometry.taps * work.per_group[0], work.per_group[1]
        family = self._family(x.dtype, work)
        tile = _tile(x.dtype, terms > SMALL[0] and outputs > SMALL[1])
        tiles = -(-terms // tile[0]) * -(-outputs // tile[1])
        ranges, run = pixel_ranges(work.out_pixels, tiles * work.geometry.groups, TERMS)
        partials = self.grid.xp.empty((ranges, *work.kernel_shape), dtype=x.dtype)
        vectors = quads(self.grid, work.per_group, x, grad, partials)
        function = self.grid.launcher.kernel(
            family, "kernel_gradient", x.dtype, TILE_M=tile[0], TILE_N=tile[1], VECTORS=int(vectors)
        )
        function(
            (tiles, work.geometry.groups, ranges), _threads(family, tile), x, grad, partials, np.int64(run),
            *work.arguments,
        )  # fmt: skip
        return sum_partials(self.grid, partials)

    def _family(self, dtype: np.dtype, work: Work) -> str:
        tensor = self.tf32 and is_tensor_dtype(dtype) and min(work.per_group) >= LEAST_CHANNELS
        return "implicit_gemm_tf32" if tensor else "implicit_gemm"


def _tile(dtype: np.dtype, filled: bool) -> Tile:
    """The larger tile where its blocks fill a device and are not mostly padding; in float64 always the smaller."""
    return LARGE if filled and dtype.itemsize == 4 else SMALL


def _threads(family: str, tile: Tile) -> int:
    return TENSOR_THREADS if family == "implicit_gemm_tf32" else tile[0] // 8 * tile[1] // 4
