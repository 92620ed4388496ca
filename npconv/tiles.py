"""Cutting an image into tiles: what each one sees of the image, and which part of the output it is for.

    image       |---- seen ----|                          mirrored at the right and the bottom up to a whole
                    |--made--|                            multiple of the network's strides
    output          |--made--|---------|---------|        each pixel is made once

What a tile sees begins at a multiple of `network.size_multiple`, so that strides fall where they fall in the whole
image, and has all that `input_range` says its outputs depend on; a border of the image is a border of the tiles there.
A tile sees a little more than that, by `slack`, for the sake of rounding. Winograd's convolutions compute blocks of
4 x 4 pixels, from the first row and column on: a pixel that has another place in its block, or a neighbour in it that
is not the one of the whole image, is rounded otherwise. So tiles begin where blocks do, and see a block more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import checks, receptive
from .backends import backend
from .backends.base import Array
from .module import Module

Pair = tuple[int, int]
BLOCK = 4  # pixels a side of the largest blocks that Winograd's convolutions compute at a time
MOST_SLACK = 32  # pixels


@dataclass(frozen=True)
class Span:
    """A tile along one axis: the pixels that it sees, and the first and last of the output that it is for.

    `made.stop` is None at the end of the axis: up to the last pixel there is.
    """

    seen: slice
    made: slice


def padded_length(length: int, multiple: int) -> int:
    """`length` rounded up to a multiple."""
    return -(-length // multiple) * multiple


def slack(network: Module, axis: int) -> int:
    """How many pixels more than its margins a tile sees on each side, and a multiple of what it begins at.

    0 for strides by which that would be too many: there, the rounding of the smallest images may differ.
    """
    more = BLOCK * network.size_multiple[axis]
    return more if more <= MOST_SLACK else 0


def margins(network: Module, axis: int) -> Pair:
    """How many pixels before and after a tile its outputs depend on; ValueError for a network that is not local."""
    multiple, scale = network.size_multiple[axis], network.scale[axis]
    first = 1000 * multiple  # far from the border
    found = receptive.input_range(network, axis, int(first * scale), max(int((first + multiple) * scale), 1))
    if found is None:
        raise ValueError("the network has a module that may see the whole image: it cannot go through in tiles")
    before, after = first - found[0], found[1] - first - multiple
    return padded_length(max(0, before), multiple), padded_length(max(0, after), multiple)


def cut(network: Module, axis: int, length: int, tile: int) -> list[Span]:
    """Tiles of about `tile` pixels, at least one multiple of the strides, along an axis of `length` pixels."""
    multiple, scale = network.size_multiple[axis], network.scale[axis]
    padded = padded_length(length, multiple)
    count = -(-padded // max(multiple, tile // multiple * multiple))
    if tile >= length or count == 1:
        return [Span(slice(0, padded), slice(0, None))]
    step = padded_length(-(-padded // count), multiple)
    before, after = margins(network, axis)
    further = slack(network, axis) if before or after else 0
    aligned = max(multiple, further)
    spans = []
    for start in range(0, padded, step):
        stop = min(start + step, padded)
        first = max(0, start - before - further) // aligned * aligned
        seen = slice(first, min(padded, stop + after + further))
        spans.append(Span(seen, slice(int(start * scale), int(stop * scale) if stop < padded else None)))
    return spans


def mirrored(read: Any, size: Pair, rows: slice, columns: slice) -> Array:
    """read(rows, columns) of an image of `size` that is mirrored beyond its bottom and right borders."""
    places = [_source(part, length) for part, length in zip((rows, columns), size, strict=True)]
    block = read(*(part for part, _ in places))
    for axis, (_, order) in zip((-2, -1), places, strict=True):
        if order is not None:
            block = block.take(backend().xp.asarray(order) if backend().owns(block) else order, axis=axis)
    return block


def _source(part: slice, length: int) -> tuple[slice, np.ndarray | None]:
    """Where the pixels `part` of a mirrored axis lie, and in what order among these; None if as they are."""
    if part.stop <= length:
        return part, None
    places = np.arange(part.start, part.stop) % (2 * length)
    places = np.minimum(places, 2 * length - 1 - places)
    return slice(int(places.min()), int(places.max()) + 1), places - places.min()


def edge(network: Module, axis: int) -> int:
    """How many more pixels a tile sees than it makes, at most."""
    found, more = sum(margins(network, axis)), slack(network, axis)
    return found + 3 * more - network.size_multiple[axis] if found and more else found


def tile_pair(tile: Any) -> Pair:
    """`tile` (an integer or a pair, in pixels of the input) as a pair (height, width)."""
    height, width = checks.pair(tile, "tile", 1)
    return height, width


def total_size(outputs: Sequence[int], seen: Sequence[int], whole: Sequence[int], network: Module) -> Pair:
    """The size of the output of the whole image, from that of a tile: padding adds the same to both."""
    height, width = (
        out + math.floor((length - part) * scale)
        for out, part, length, scale in zip(outputs, seen, whole, network.scale, strict=True)
    )
    return height, width
