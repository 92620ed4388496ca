"""Which algorithm computes a convolution: NPCONV_CONV, or the cheapest by a model of what each one costs.

The model counts what an algorithm multiplies and copies, on one core, in nanoseconds:

    product (m, k) @ (k, n)     2 m k n / rate;  rate = PEAK n / (n + N_HALF) k / (k + K_HALF): thin products are slow
    copy                        COPY a number, and RUN for each stretch of numbers that lie side by side
    call                        CALL for each NumPy call

Its constants were fitted to measured times over a grid of shapes (benchmarks/algorithms.py); only ratios matter, and
those change little from one machine to the next.
"""

from __future__ import annotations

import math
import os
from functools import lru_cache
from typing import NamedTuple

from ..geometry import ConvGeometry

ALGORITHMS = ("auto", "im2col", "unfold", "winograd2", "winograd4", "thin")

PEAK, N_HALF, K_HALF = 110.0, 9.0, 6.0  # multiplications and additions in a nanosecond
COPY, RUN, ADD, CALL = 0.08, 6.0, 0.16, 1500.0  # nanoseconds
THIN_OUTPUTS = 8


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


def applicable(work: Work) -> list[str]:
    """The algorithms that can compute this convolution's output."""
    geometry, names = work.geometry, ["unfold"]
    if geometry.stride == (1, 1):
        if geometry.kernel == (3, 3) and geometry.dilation == (1, 1):
            names += ["winograd2", "winograd4"]
        if work.o <= THIN_OUTPUTS:
            names.append("thin")
    return names


def for_output(forced: str, work: Work) -> str:
    """The algorithm for a convolution's output (or an input gradient, which is one too)."""
    return _forced(forced, applicable(work)) or _cheapest(work, False)


def for_kernel(forced: str, work: Work) -> str:
    """The algorithm for the gradient of a convolution's kernel."""
    return _forced(forced, [name for name in applicable(work) if name != "thin"]) or _cheapest(work, True)


def _forced(name: str, names: list[str]) -> str | None:
    if name == "auto":
        return None
    return name if name in names else "unfold"


@lru_cache(maxsize=4096)
def _cheapest(work: Work, kernel: bool) -> str:
    names = [name for name in applicable(work) if not (kernel and name == "thin")]
    return min(names, key=lambda name: cost(name, work, kernel))


def cost(name: str, work: Work, kernel: bool = False) -> float:
    """Predicted nanoseconds on one core: for the output, or for the gradient of the kernel."""
    if name == "unfold":
        return _unfold(work, kernel)
    if name == "thin":
        return _thin(work)
    return _winograd(int(name[-1]), work, kernel)


def product(m: float, k: float, n: float) -> float:
    """Nanoseconds of (m, k) @ (k, n)."""
    return 2 * m * (k + K_HALF) * (n + N_HALF) / PEAK  # 2 m k n / rate


def _unfold(work: Work, kernel: bool) -> float:
    pixels, (kh, kw) = work.n * work.height * work.width, work.geometry.kernel
    width = kh * kw * work.c
    copied = 0.0
    if width > work.c:  # a 1x1 kernel copies nothing
        # With dilation, each tap is a stretch of its own; else a row of taps is one.
        stretches = kh * (kw if work.geometry.dilation[1] > 1 else 1)
        copied = pixels * (width * COPY + stretches * RUN)
    calls = 4 * math.ceil(4 * pixels * width / (1 << 19))
    multiplied = product(width, pixels, work.o) if kernel else product(pixels, width, work.o)
    return copied + multiplied + calls * CALL


def _thin(work: Work) -> float:
    pixels, taps = work.n * work.height * work.width, work.geometry.taps
    rows = taps * work.o
    added = pixels * (rows * ADD + work.o * 1.2)
    calls = (taps + work.o + 3) * math.ceil(4 * pixels * rows / (1 << 19))
    return 1.4 * product(pixels, work.c, rows) + added + calls * CALL


def _winograd(m: int, work: Work, kernel: bool) -> float:
    positions, c, o = (m + 2) ** 2, work.c, work.o
    across = math.ceil(work.width / m)
    tiles = work.n * math.ceil(work.height / m) * across
    into = tiles * (positions * c * COPY + (m + 2) * RUN) + tiles * product(positions, positions, c)
    out = tiles * (m * m * o * COPY + m * RUN) + tiles * product(m * m, positions, o)
    middle = positions * (product(c, tiles, o) if kernel else product(tiles, c, o))
    weights = product(positions, 9, c * o) + 9 * c * o * COPY
    blocks = math.ceil(4 * positions * tiles * max(c, o) / (1 << 20))
    summed = positions * c * o * ADD * (blocks - 1) if kernel else 0.0
    return into + out + middle + weights + summed + 9 * blocks * CALL
