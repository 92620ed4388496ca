"""Convolution with groups: each block of channels is a convolution of its own, and a worker computes them all in turn.

So the workers share images or rows, once for all groups, and not each group by itself. Winograd transforms the tiles of
all channels together, and only its products over channels are grouped. (With a group for each channel there is no
product over channels at all: see depthwise.py.)
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry
from . import choice, phases, unfold
from .memory import empty
from .prepared import prepared
from .transformed import Transformed
from .winograd import Winograd, _planes, finite

Group = tuple[slice, slice, ConvGeometry]


@lru_cache(maxsize=1024)
def group_channels(channels_in: int, channels_out: int, geometry: ConvGeometry) -> tuple[Group, ...]:
    """Channels in, channels out and the geometry of each group."""
    single, ins, outs = replace(geometry, groups=1), channels_in // geometry.groups, channels_out // geometry.groups
    return tuple(
        (slice(g * ins, (g + 1) * ins), slice(g * outs, (g + 1) * outs), single) for g in range(geometry.groups)
    )


@lru_cache(maxsize=4096)
def algorithm(forced: str, work: choice.Work, groups: int, kernel: bool) -> str:
    """The algorithm for a convolution with groups, of which `work` is one; arguments as in choice.for_output."""
    if forced != "auto" or groups == 1:
        return (choice.for_kernel if kernel else choice.for_output)(forced, work)
    return min(choice.applicable(work, kernel), key=lambda name: cost(name, work, groups, kernel))


def cost(name: str, work: choice.Work, groups: int, kernel: bool, transform: bool = True) -> float:
    """Predicted nanoseconds on one core for all groups; arguments as in choice.cost."""
    counts = {what: groups * count for what, count in choice.counts(name, work, kernel, transform).items()}
    if name.startswith("winograd"):
        # Each number is multiplied and transformed as often; but it is moved in the pieces of all channels together.
        together = choice.counts(name, work._replace(c=groups * work.c, o=groups * work.o), kernel)
        kept = {what: counts[what] for what in ("multiply", "transform weights")}
        counts = together | kept | {"tile weight": together["tile weight"] / groups}
    return sum(choice.PRICES[what] * count for what, count in counts.items())


class Grouped:
    """An algorithm, applied to each group."""

    def __init__(self, algorithm: Any) -> None:
        self.algorithm = algorithm

    def forward(
        self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array, images: slice, lines: slice
    ) -> None:
        """Fill y[images, lines] (N, OH, OW, O) from x (N, H, W, C) and weight (O, C / groups, KH, KW)."""
        weights = _parts(weight, geometry.groups)
        for part, (ins, outs, single) in zip(weights, _of(x, y, geometry), strict=True):
            offset = None if bias is None else bias[outs]
            self.algorithm.forward(x[..., ins], part, offset, single, y[..., outs], images, lines)

    def weight_gradient(self, x: Array, grad: Array, geometry: ConvGeometry, images: slice, lines: slice) -> Array:
        """The kernel's gradient (KH, KW, C / groups, O) from x (N, H, W, C) and grad (N, OH, OW, O), of these rows."""
        found = [
            self.algorithm.weight_gradient(x[..., ins], grad[..., outs], single, images, lines)
            for ins, outs, single in _of(x, grad, geometry)
        ]
        return np.concatenate(found, axis=3)

    def both(
        self, x: Array, weight: Array, other: Array, geometry: ConvGeometry, y: Array, images: slice, lines: slice
    ) -> Array:
        """As unfold.both."""
        weights = _parts(weight, geometry.groups)
        found = [
            self.algorithm.both(x[..., ins], part, other[..., outs], single, y[..., outs], images, lines)
            for part, (ins, outs, single) in zip(weights, _of(x, other, geometry), strict=True)
        ]
        return np.concatenate(found, axis=3)


class GroupedWinograd(Winograd):
    """F(m x m, 3 x 3) with groups; weights (O, C / groups, 3, 3), and U (P, C / groups, O)."""

    plain = Grouped(unfold)

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
        """Fill y[images, lines] (N, OH, OW, O) from x (N, H, W, C)."""
        x, y, aa, u = x[images], y[images], self.matrices[x.dtype][2], self.prepare(weight)
        for part, rows in self._blocks(x, lines, y.shape[2], max(x.shape[3], y.shape[3])):
            grid = self._grid(part, rows, y.shape[2])
            v = self._inputs(x[part], geometry, rows, grid)
            products, groups = _planes(v.shape[0], v.shape[1], u.shape[2], x.dtype), geometry.groups
            # (P, groups, T, C / groups) @ (P, groups, C / groups, O / groups)
            np.matmul(_split(v, groups), _split(u, groups), out=_split(products, groups))
            if bias is not None:
                products[self.window + 1] += bias
            tiles = empty((v.shape[1], self.m**2, u.shape[2]), x.dtype)
            np.matmul(aa, products.transpose(1, 0, 2), out=tiles)
            if finite(tiles):
                self._lay(tiles.reshape(*grid, self.m, self.m, -1), y[part, rows])
            else:
                self.plain.forward(x[part], weight, bias, geometry, y[part], slice(None), rows)
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
        """The kernel's gradient (3, 3, C / groups, O) from x (N, H, W, C) and grad (N, OH, OW, O), of these rows."""
        shape = (x.shape[3] // geometry.groups, grad.shape[3])
        total = np.zeros((self.window**2, *shape), x.dtype)
        for part, rows in self._blocks(x[images], lines, grad.shape[2], max(x.shape[3], grad.shape[3])):
            grid = self._grid(part, rows, grad.shape[2])
            v = None if kept is None else kept.pop(self._block(geometry, images, part, rows))
            if v is None:
                v = self._inputs(x[images][part], geometry, rows, grid)
            z = self._upstream(grad[images][part, rows], grid)
            # (P, groups, C / groups, T) @ (P, groups, T, O / groups)
            left, right = _split(v, geometry.groups).swapaxes(2, 3), _split(z, geometry.groups)
            product = empty(total.shape, x.dtype)
            np.matmul(left, right, out=_split(product, geometry.groups))
            total += product
        found = np.matmul(self.matrices[x.dtype][1].T, total.reshape(total.shape[0], -1)).reshape(3, 3, *shape)
        return found if finite(found) else self.plain.weight_gradient(x, grad, geometry, images, lines)


def _split(a: Array, groups: int) -> Array:
    """(P, rows, columns) -> (P, groups, rows, columns / groups), a view."""
    return a.reshape(*a.shape[:2], groups, a.shape[2] // groups).swapaxes(1, 2)


def adjoint(
    grad: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array, images: slice, lines: slice
) -> None:
    """Fill y[images, lines] (N, H, W, C) with the adjoint of a convolution that has a stride."""
    if geometry.groups == 1:
        phases.forward(grad, weight, bias, geometry, y, images, lines)
        return
    grad, y = grad[images], y[images]
    weights = _parts(weight, geometry.groups)
    for part, (ins, outs, single) in zip(weights, _of(grad, y, geometry), strict=True):
        # Whole rows of pixels are written at a time: they must be adjacent.
        target = empty((*y.shape[:3], outs.stop - outs.start), y.dtype)
        offset = None if bias is None else bias[outs]
        phases.forward(grad[..., ins], part, offset, single, target, slice(0, len(y)), lines)
        y[:, lines, :, outs] = target[:, lines]


def _of(x: Array, y: Array, geometry: ConvGeometry) -> tuple[Group, ...]:
    return group_channels(x.shape[3], y.shape[3], geometry)


def _parts(weight: Array, groups: int) -> list[Array]:
    """The weights of each group: the same arrays within a step, so that what is made from them is made once."""
    size = len(weight) // groups
    return prepared(weight, groups, lambda: [weight[g * size : (g + 1) * size] for g in range(groups)])
