"""Winograd's minimal filtering, F(m x m, 3 x 3): Lavin and Gray, "Fast algorithms for convolutional neural networks".

A tile of m x m outputs of a 3x3 convolution needs (m + 2)^2 inputs d. With three small constant matrices,

    y = A^T [ (G g G^T) * (B^T d B) ] A          * multiplies number by number

so each tile and pair of channels costs (m + 2)^2 multiplications and not 9 m^2: for m = 4, 36 and not 144. Summed over
the input channels, the multiplications at one of the (m + 2)^2 positions are a matrix product over tiles. Written over
tiles as rows, with the Kronecker products BB = B^T x B^T, GG = G x G and AA = A^T x A^T, everything is products:

    V[p] = sum over q of BB[p, q] d[q]      (P, P) @ (P, C) for each tile, P = (m + 2)^2; stored as (P, T, C)
    U    = GG @ W                           (P, 9) @ (9, C O), once a step
    M[p] = V[p] @ U[p]                      (T, C) @ (C, O)
    y[t] = AA @ M[., t]                     (m m, P) @ (P, O)

Each of these is small enough for the BLAS to run without packing, near its peak. The gradient of the input is the same
convolution of dY with the kernel turned by 180 degrees. The gradient of the kernel is the adjoint in W:

    dW = GG^T @ dU,  dU[p] = V[p]^T @ Z[p],  Z[., t] = AA^T @ dY[t]

Rounding errors grow with m: in float32 about 1e-6 of the largest value for m = 2, and 1e-5 for m = 4. Stride 1 and
dilation 1 only.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry
from . import unfold
from .frame import blocks, frame, windows
from .memory import empty
from .prepared import prepared
from .transformed import Transformed

Matrix = list[list[float]]
Split = Callable[[int, Callable[[slice], Any], int], Any]

B2: Matrix = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
G2: Matrix = [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]
A2: Matrix = [[1, 1, 1, 0], [0, 1, -1, -1]]
B4: Matrix = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
G4: Matrix = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
A4: Matrix = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
TILE_BYTES = 1 << 20  # of the transformed tiles V of one block: the L2 cache of a core
STAGGER = 16  # numbers between planes: planes a power of two apart fall into the same lines of the cache


def once(count: int, work: Callable[[slice], Any], least: int) -> None:
    """All of it in one call: a split over one worker."""
    work(slice(0, count))


class Winograd:
    """F(m x m, 3 x 3)."""

    def __init__(self, m: int) -> None:
        transforms = {2: (B2, G2, A2), 4: (B4, G4, A4)}[m]
        self.m, self.window, self.name = m, m + 2, f"winograd{m}"
        squares = [np.kron(matrix, matrix) for matrix in map(np.array, transforms)]
        # (P, P), (P, 9) and (m m, P), for each dtype
        self.matrices = {t: [np.ascontiguousarray(s, t) for s in squares] for t in map(np.dtype, ("f4", "f8"))}

    def forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        geometry: ConvGeometry,
        y: Array,
        images: slice,
        lines: slice,
        kept: Transformed | None = None,
    ) -> None:
        """Fill y[images, lines] (N, OH, OW, O) from x (N, H, W, C) and weight (O, C, 3, 3).

        The transformed x goes into `kept`, if given, for `weight_gradient`.
        """
        aa, u = self.matrices[x.dtype][2], self.prepare(weight)
        for part, rows in self._blocks(x[images], lines, y.shape[2], max(weight.shape[:2])):
            grid = self._grid(part, rows, y.shape[2])
            v = self._inputs(x[images][part], geometry, rows, grid)
            products = np.matmul(v, u, out=_planes(v.shape[0], v.shape[1], u.shape[2], x.dtype))
            if bias is not None:
                products[self.window + 1] += bias  # position (1, 1), which A^T . A copies to every output of the tile
            outputs = empty((v.shape[1], self.m**2, u.shape[2]), x.dtype)
            np.matmul(aa, products.transpose(1, 0, 2), out=outputs)
            if not finite(outputs):
                # An infinity, or an overflow of B^T d B, is all over its tile: the plain sum says where it belongs.
                unfold.forward(x[images][part], weight, bias, geometry, y[images][part], slice(0, len(y)), rows)
            else:
                self._lay(outputs.reshape(*grid, self.m, self.m, -1), y[images][part, rows])
            if kept is not None:
                kept.put(self._block(geometry, images, part, rows), v)

    def weight_gradient(
        self,
        x: Array,
        grad: Array,
        geometry: ConvGeometry,
        images: slice,
        lines: slice,
        kept: Transformed | None = None,
    ) -> Array:
        """The kernel's gradient (3, 3, C, O) from x (N, H, W, C) and grad (N, OH, OW, O), of these images and rows.

        `kept`: what forward has put there of x.
        """
        _, gg, _ = self.matrices[x.dtype]
        channels = (x.shape[3], grad.shape[3])
        total: Array | None = None
        for part, rows in self._blocks(x[images], lines, grad.shape[2], max(channels)):
            grid = self._grid(part, rows, grad.shape[2])
            v = None if kept is None else kept.pop(self._block(geometry, images, part, rows))
            if v is None:
                v = self._inputs(x[images][part], geometry, rows, grid)
            z = self._upstream(grad[images][part, rows], grid)
            product = np.matmul(v.transpose(0, 2, 1), z, out=empty((v.shape[0], *channels), x.dtype))
            if total is None:
                total = product
            else:
                total += product
        if total is None:
            return np.zeros((3, 3, *channels), x.dtype)
        found = np.matmul(gg.T, total.reshape(total.shape[0], -1)).reshape(3, 3, *channels)
        return found if finite(found) else unfold.weight_gradient(x, grad, geometry, images, lines)

    def prepare(self, weight: Array, split: Split = once) -> Array:
        """U (P, C, O) of weight (O, C, 3, 3), its positions shared out by `split`."""

        def make() -> Array:
            gg, (o, c) = self.matrices[weight.dtype][1], weight.shape[:2]
            flat = weight.transpose(2, 3, 1, 0).reshape(9, c * o)
            u = empty((len(gg), c * o), weight.dtype)
            split(len(gg), lambda part: np.matmul(gg[part], flat, out=u[part]), -(-(1 << 17) // (c * o)))
            return u.reshape(-1, c, o)

        return prepared(weight, self.name, make)

    def _blocks(self, x: Array, lines: slice, out_width: int, channels: int) -> tuple[tuple[slice, slice], ...]:
        """Blocks of whole rows of tiles."""
        tile_bytes = self.window**2 * channels * x.dtype.itemsize
        line_bytes = -(-out_width // self.m) * tile_bytes / self.m
        return blocks(x.shape[0], lines, line_bytes, TILE_BYTES, self.m)

    def _grid(self, images: slice, rows: slice, out_width: int) -> tuple[int, int, int]:
        """How many tiles there are: (images, down, across)."""
        return images.stop - images.start, -(-(rows.stop - rows.start) // self.m), -(-out_width // self.m)

    def _block(self, geometry: ConvGeometry, images: slice, part: slice, rows: slice) -> Hashable:
        """What V depends on besides x: the images `part` of `images`, the output rows, and how tiles lie on x."""
        return self.m, geometry.padding, images.start + part.start, images.start + part.stop, rows.start, rows.stop

    def _inputs(self, x: Array, geometry: ConvGeometry, rows: slice, grid: tuple[int, int, int]) -> Array:
        """V (P, T, C) of the tiles of output rows `rows`."""
        bb, (_, down, across) = self.matrices[x.dtype][0], grid
        (top, _), (left, _) = geometry.padding
        framed = frame(x, rows.start - top, -left, down * self.m + 2, across * self.m + 2)
        view = windows(framed, (self.window, self.window), (self.m, self.m), (1, 1), (down, across))
        tiles = empty((x.shape[0] * down * across, self.window**2, x.shape[3]), x.dtype)
        np.copyto(tiles.reshape(view.shape), view)
        v = _planes(self.window**2, tiles.shape[0], x.shape[3], x.dtype)
        np.matmul(bb, tiles, out=v.transpose(1, 0, 2))
        return v

    def _upstream(self, grad: Array, grid: tuple[int, int, int]) -> Array:
        """Z (P, T, O) of grad (N, rows, OW, O)."""
        aa, (n, down, across) = self.matrices[grad.dtype][2], grid
        framed = frame(grad, 0, 0, down * self.m, across * self.m)
        # (N, down, m, across, m, O) -> (N, down, across, m, m, O)
        view = framed.reshape(n, down, self.m, across, self.m, -1).transpose(0, 1, 3, 2, 4, 5)
        tiles = empty((n * down * across, self.m**2, grad.shape[3]), grad.dtype)
        np.copyto(tiles.reshape(view.shape), view)
        z = _planes(self.window**2, tiles.shape[0], grad.shape[3], grad.dtype)
        np.matmul(aa.T, tiles, out=z.transpose(1, 0, 2))
        return z

    def _lay(self, tiles: Array, y: Array) -> None:
        """Lay tiles (N, down, across, m, m, O) onto y (N, rows, OW, O), cutting those that reach over its edge."""
        for down, rows in _whole_and_rest(y.shape[1], self.m):
            for across, columns in _whole_and_rest(y.shape[2], self.m):
                target = y[:, rows, columns]
                n, height, width, o = target.shape
                high, wide = height // (down.stop - down.start), width // (across.stop - across.start)
                target = target.reshape(n, height // high, high, width // wide, wide, o).transpose(0, 1, 3, 2, 4, 5)
                np.copyto(target, tiles[:, down, across, :high, :wide])


def finite(x: Array) -> bool:
    """Whether no number of x is infinite or NaN, and none so large that the sum of squares overflows."""
    flat = x.reshape(-1)
    return bool(np.isfinite(np.dot(flat, flat)))


def _planes(count: int, rows: int, columns: int, dtype: np.dtype) -> Array:
    """An array (count, rows, columns) whose planes do not begin a power of two apart."""
    return empty((count, rows * columns + STAGGER), dtype)[:, : rows * columns].reshape(count, rows, columns)


def _whole_and_rest(length: int, m: int) -> list[tuple[slice, slice]]:
    """(tiles, pixels) of the tiles that fit into `length` pixels, and of the one that does not."""
    whole = length // m
    parts = [(slice(0, whole), slice(0, whole * m))] if whole else []
    return parts + ([(slice(whole, whole + 1), slice(whole * m, length))] if length % m else [])
