"""Which algorithm computes a convolution: NPCONV_CONV, or the cheapest by a model of what each one costs.

The model counts what an algorithm does on one core, and PRICES says how many nanoseconds each of these takes:

    cost = sum of PRICES[what] * counts[what]

The counts follow from the algorithms: how many numbers are multiplied, unfolded and moved, in how many pieces. A price
holds all that goes along with what it counts: that of a column's number is for copying it and for bringing it into the
order in which the BLAS multiplies. The prices were fitted to times measured on a grid of shapes by
benchmarks/algorithms.py; tests/backends/test_choice.py holds the model against these times.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import NamedTuple

from ..geometry import ConvGeometry
from .frame import BLOCK_BYTES, blocks
from .thin import PLANE_BYTES
from .winograd import TILE_BYTES

ALGORITHMS = ("auto", "im2col", "unfold", "winograd2", "winograd4", "thin", "differences")
THIN_OUTPUTS = 8
ITEM_BYTES = 4
SMALL_PRODUCT = 1e6  # multiplications; up to here OpenBLAS reorders nothing, where it has AVX-512

# Nanoseconds. "Number": of an array.
PRICES = {
    "multiply": 0.0188,  # a multiplication and addition in a matrix product
    "column": 0.286,  # a number of the columns of im2col: copied, reordered by the BLAS
    "column, in place": 0.154,  # the same where it is multiplied as it lies: by a vector, or in a small product
    "run": 5.2,  # a stretch of a column that lies in one piece in the image
    "frame": 0.1,  # a number of the image with zeros around
    "output": 0.43,  # a number of the output: stored, its bias added; or of its gradient: reordered
    "sum": 0.136,  # a number of a block's share of the kernel's gradient
    "unfold block": 9600.0,
    "tile matrix": 0.152,  # a number of the matrix that transforms a tile, for each tile
    "tile matrix, one channel": 0.108,
    "tile run": 21.5,  # a row of a tile, copied
    "tile": 0.158,  # a number of the transformed tiles
    "tile weight": 0.224,  # a number of the transformed weights, or of their gradient, for each block
    "transform weights": 0.071,  # a multiplication and addition
    "winograd block": 21000.0,
    "plane read": 0.83,  # a number of the image, reordered by the BLAS
    "plane, one channel": 0.96,  # a number of the products where they are those of two vectors
    "plane add": 0.235,  # a number of the products, added to its plane
    "plane output": 0.285,  # a number of the output, stored
    "plane call": 2360.0,
}


class Work(NamedTuple):
    """A convolution to compute: n images of height x width output pixels, c channels in and o out."""

    n: int
    height: int
    width: int
    c: int
    o: int
    geometry: ConvGeometry


def chosen_algorithm() -> str:
    """NPCONV_CONV, "auto" if it is not set; ValueError for an unknown one."""
    name = os.environ.get("NPCONV_CONV") or "auto"
    if name not in ALGORITHMS:
        raise ValueError(f"NPCONV_CONV (={name!r}) must be one of {', '.join(ALGORITHMS)}")
    return name


def applicable(work: Work, kernel: bool = False) -> list[str]:
    """The algorithms that can compute this convolution's output, or the gradient of its kernel."""
    geometry, names = work.geometry, ["unfold"]
    if geometry.stride == (1, 1):
        if geometry.kernel == (3, 3) and geometry.dilation == (1, 1):
            names += ["winograd2", "winograd4"]
        if work.o <= THIN_OUTPUTS and not kernel:
            names.append("thin")
    return names


def for_output(forced: str, work: Work) -> str:
    """The algorithm for a convolution's output (or an input gradient, which is one too)."""
    return _picked(forced, work, False)


def for_kernel(forced: str, work: Work) -> str:
    """The algorithm for the gradient of a convolution's kernel."""
    return _picked(forced, work, True)


@lru_cache(maxsize=4096)
def _picked(forced: str, work: Work, kernel: bool) -> str:
    names = applicable(work, kernel)
    if forced != "auto":
        return forced if forced in names else "unfold"
    return min(names, key=lambda name: cost(name, work, kernel))


def cost(name: str, work: Work, kernel: bool = False, transform: bool = True) -> float:
    """Predicted nanoseconds on one core: for the output, or for the gradient of the kernel.

    `transform`: whether the output's weights are still to be transformed. A training step does that once for all its
    parts, but each worker begins with it; so the choice counts it in.
    """
    return sum(PRICES[what] * number for what, number in counts(name, work, kernel, transform).items())


def counts(name: str, work: Work, kernel: bool = False, transform: bool = True) -> dict[str, float]:
    """How often each of PRICES is to be paid."""
    if name == "unfold":
        return _unfold(work, kernel)
    if name == "thin":
        return _thin(work)
    return _winograd(int(name[-1]), work, kernel, transform)


def _unfold(work: Work, kernel: bool) -> dict[str, float]:
    n, height, width, c, o, geometry = work
    (kh, kw), pixels, depth = geometry.kernel, n * height * width, geometry.taps * c
    # With dilation, each tap is a stretch of its own; else a row of taps is one. 1x1: the image is its own columns.
    stretches = 0 if geometry.taps == 1 else kh * kw if geometry.dilation[1] > 1 else kh
    cuts = len(blocks(n, slice(0, height), width * depth * ITEM_BYTES, BLOCK_BYTES))
    reordered = o > 1 and pixels * depth * o > cuts * SMALL_PRODUCT
    return {
        "multiply": pixels * depth * o if o > 1 else 0,
        "column" if reordered else "column, in place": pixels * depth,
        "run": pixels * stretches,
        "frame": _framed(work, n) * c if geometry.taps > 1 else 0,
        "output": pixels * o,
        "sum": cuts * depth * o if kernel else 0,
        "unfold block": cuts,
    }


def _thin(work: Work) -> dict[str, float]:
    n, height, width, c, o, geometry = work
    rows = geometry.taps * o
    line = (width + geometry.extent[1] - 1) * rows * ITEM_BYTES
    cuts = len(blocks(n, slice(0, height), line, PLANE_BYTES))
    framed = _framed(work, max(n, cuts))
    return {
        "multiply": framed * c * rows if rows > 1 else 0,
        "plane read" if rows > 1 else "column, in place": framed * c,
        "frame": framed * c if geometry.taps > 1 else 0,
        "plane, one channel": framed * rows if c == 1 and rows > 1 else 0,
        "plane add": framed * rows,
        "plane output": n * height * width * o,
        "plane call": cuts * (geometry.taps + o),
    }


def _winograd(m: int, work: Work, kernel: bool, transform: bool) -> dict[str, float]:
    n, height, width, c, o, _ = work
    positions, across = (m + 2) ** 2, math.ceil(width / m)
    tiles = n * math.ceil(height / m) * across
    line = across * positions * max(c, o) * ITEM_BYTES / m
    cuts = len(blocks(n, slice(0, height), line, TILE_BYTES, m))
    into, out = tiles * positions**2, tiles * positions * m * m  # the sizes of the transforms
    return {
        "multiply": tiles * positions * c * o + (into * c if c > 1 else 0) + (out * o if o > 1 else 0),
        "tile matrix": (into if c > 1 else 0) + (out if o > 1 else 0),
        "tile matrix, one channel": (into if c == 1 else 0) + (out if o == 1 else 0),
        "tile run": tiles * (2 * m + 2),
        "tile": tiles * positions * (c + o),
        "tile weight": cuts * positions * c * o,
        "transform weights": 9 * positions * c * o if kernel or transform else 0,
        "frame": _framed(work, n) * c,
        "winograd block": cuts,
    }


def _framed(work: Work, bands: int) -> int:
    """Pixels that the windows see, zeros included, when the output's lines are computed in so many pieces."""
    rows, columns = (extent - 1 for extent in work.geometry.extent)
    return (work.n * work.height + bands * rows) * (work.width + columns)
