"""Convolution with dilation and stride 1 as plain convolutions, one for each phase of the output's pixels.

Along one axis, output pixel o and tap t see input pixel o - p + d t. The outputs of phase a = 0..d-1 are o = a + d v.
Write a - p = r - d q with 0 <= r < d, so r = (a - p) mod d and q = (p - a + r) / d, a whole number. Then

    y[a + d v] = sum over t of x[r + d (v + t - q)] W[t]

which is a convolution without dilation, with padding q (cropping if negative), of every d-th pixel of x from r on. So
an algorithm that has no dilation computes it on views of x and y, of every d-th row and column; the phases differ in
size by one pixel at most. The gradient of the kernel is the sum over the phases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry, Pair
from . import choice, grouped
from .winograd import Split, Winograd

PHASE = 2e5  # nanoseconds, of all workers together: fitted to shapes with 4 to 256 phases


class Phase(NamedTuple):
    """Along one axis: the pixels of the output, those of the input that they see, and the padding of these."""

    outputs: slice
    inputs: slice
    before: int


@lru_cache(maxsize=1024)
def phases(size: int, padding: int, dilation: int) -> tuple[Phase, ...]:
    """All that have outputs among `size` pixels."""
    found = []
    for a in range(min(size, dilation)):
        turns, r = divmod(a - padding, dilation)  # q is -turns
        found.append(Phase(slice(a, None, dilation), slice(r, None, dilation), -turns))
    return tuple(found)


@lru_cache(maxsize=4096)
def for_phases(forced: str, work: choice.Work, groups: int, kernel: bool) -> str | None:
    """The algorithm that is to compute the phases of `work`; None if it is to be computed at once.

    Only Winograd gains by it. `work` is that of one group; `forced` as in choice.for_output; `kernel`: for the gradient
    of the kernel.
    """
    geometry, plain = work.geometry, replace(work.geometry, dilation=(1, 1))
    if geometry.dilation == (1, 1) or geometry.stride != (1, 1):
        return None
    names = [name for name in choice.applicable(work._replace(geometry=plain), kernel) if name.startswith("winograd")]
    if forced != "auto":
        return forced if forced in names else None
    at_once = min(grouped.cost(name, work, groups, kernel) for name in choice.applicable(work, kernel))
    found = min(names, key=lambda name: cost(name, work, groups, kernel), default=None)
    return found if found is not None and cost(found, work, groups, kernel) < at_once else None


def cost(name: str, work: choice.Work, groups: int, kernel: bool) -> float:
    """Predicted nanoseconds on one core for all phases of all groups."""
    heights, widths = (Counter(_sizes(*axis)) for axis in zip(work[1:3], work.geometry.dilation, strict=True))
    plain, total = replace(work.geometry, dilation=(1, 1)), 0.0
    for (height, down), (width, across) in product(heights.items(), widths.items()):
        part = work._replace(height=height, width=width, geometry=plain)
        if not total:
            total = grouped.cost(name, part, groups, kernel) - grouped.cost(name, part, groups, kernel, False)
        total += down * across * (grouped.cost(name, part, groups, kernel, False) + PHASE)
    # Pixels of a phase lie apart, in the input and in the output.
    return total + 2 * work.n * work.height * work.width * choice.PRICES["run"]  # of all groups together


def _sizes(size: int, dilation: int) -> list[int]:
    """Of the phases, the largest first."""
    return [len(range(a, size, dilation)) for a in range(min(size, dilation))]


class Dilated:
    """An algorithm for convolutions without dilation, applied to each phase."""

    def __init__(self, algorithm: Winograd) -> None:
        self.algorithm = algorithm

    def prepare(self, weight: Array, split: Split) -> None:
        """What the phases need of the weights, made by all workers."""
        self.algorithm.prepare(weight, split)

    def forward(
        self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array, images: slice, lines: slice
    ) -> None:
        """Fill y[images, lines] (N, OH, OW, O) from x (N, H, W, C) and weight (O, C / groups, KH, KW)."""
        for part, target, plain, rows in _views(x, y, geometry, lines):
            self.algorithm.forward(part, weight, bias, plain, target, images, rows)

    def weight_gradient(self, x: Array, grad: Array, geometry: ConvGeometry, images: slice, lines: slice) -> Array:
        """The kernel's gradient (KH, KW, C / groups, O) from x (N, H, W, C) and grad (N, OH, OW, O), of these rows."""
        total = np.zeros((*geometry.kernel, x.shape[3] // geometry.groups, grad.shape[3]), x.dtype)
        for part, upstream, plain, rows in _views(x, grad, geometry, lines):
            total += self.algorithm.weight_gradient(part, upstream, plain, images, rows)
        return total


def rows_together(algorithm: object, geometry: ConvGeometry) -> int:
    """Of the output's rows, how many should stay with one worker: a row of tiles, or one of each phase."""
    return 4 * geometry.dilation[0] if isinstance(algorithm, Dilated) else 4


def _views(
    x: Array, y: Array, geometry: ConvGeometry, lines: slice
) -> Iterator[tuple[Array, Array, ConvGeometry, slice]]:
    """For each phase: what of x it sees, its part of y, its geometry, and those of its rows that lie in `lines`."""
    (top, _), (left, _) = geometry.padding
    for down in phases(y.shape[1], top, geometry.dilation[0]):
        first, last = (_before(end, down.outputs.start, geometry.dilation[0]) for end in (lines.start, lines.stop))
        if first == last:
            continue
        for across in phases(y.shape[2], left, geometry.dilation[1]):
            part, target = x[:, down.inputs, across.inputs], y[:, down.outputs, across.outputs]
            yield (
                part,
                target,
                _plain(geometry, (down.before, across.before), part.shape, target.shape),
                slice(first, last),
            )


def _before(end: int, start: int, step: int) -> int:
    """How many of start, start + step, .. are less than `end`."""
    return max(0, -(-(end - start) // step))


def _plain(geometry: ConvGeometry, before: Pair, shape: tuple[int, ...], size: tuple[int, ...]) -> ConvGeometry:
    """The convolution of a phase of `shape` (N, H, W, C) to one of `size`."""
    after = [size[1 + i] + geometry.kernel[i] - 1 - shape[1 + i] - before[i] for i in (0, 1)]
    return replace(geometry, padding=((before[0], after[0]), (before[1], after[1])), dilation=(1, 1))
