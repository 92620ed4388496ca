"""How images go through a network: in which tiles, how many at a time, and what the workers keep of freed memory.

network, shape of the images, limits  ->  make_plan  ->  Plan
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import tiles
from .backends import backend
from .backends.cpu.memory import KEPT_BYTES
from .footprint import BLOCKS, Footprint, footprint, parse_bytes, text_of
from .module import Module
from .receptive import is_local
from .tiles import Pair, Span

PREDICT_PIXELS = 1 << 18  # pixels that one worker takes through the network at a time
# An image of up to so many pixels goes through in one piece, and a larger one in tiles of about this side: measured as
# the fastest on the CPU, where fresh memory costs more than margins. A device is kept busy by larger ones.
WHOLE_PIXELS, TILE = 1 << 20, 512
DEVICE_WHOLE_PIXELS, DEVICE_TILE = 1 << 22, 1024
WIDE = 4  # a tile that is so many times as wide as its margins computes little twice
USUAL_MEMORY = 10**9  # bytes for all workers together, where nobody says how much
LEAST_KEPT = BLOCKS  # bytes; with less, each block of a convolution would be computed in fresh memory
MUCH = 3  # times the work of the image in one piece: more is warned about

Spans = tuple[list[Span], list[Span]]


@dataclass(frozen=True)
class Plan:
    """Which tiles, how many images at a time, how many of these at the same time, and the bytes that a worker keeps."""

    rows: list[Span]
    columns: list[Span]
    images: int
    workers: int
    keeps: int = KEPT_BYTES

    @property
    def is_tiled(self) -> bool:
        return len(self.rows) * len(self.columns) > 1


@dataclass(frozen=True)
class _Limit:
    """What all workers may take together, where each keeps up to `keeps` bytes of freed memory for later arrays."""

    need: Footprint
    budget: int
    keeps: int = KEPT_BYTES

    def bytes(self, pixels: int, workers: int) -> int:
        return workers * self.need.bytes(pixels, self.keeps)

    def allows(self, pixels: int, workers: int) -> bool:
        return self.bytes(pixels, workers) <= self.budget

    def keeping(self, keeps: int) -> _Limit:
        return _Limit(self.need, self.budget, min(self.keeps, keeps))


def make_plan(network: Module, shape: Sequence[int], tile: Any = None, max_memory: Any = None) -> Plan:
    """How images of `shape` (N, C, H, W) go through `network`; `tile` and `max_memory` as for `Model.predict`.

    Raises ValueError if a tile is asked for of a network that may see the whole image, and if the memory does not
    suffice for the smallest tile; TypeError and ValueError for wrong arguments. Warns where tiles as small as the
    memory demands make the work much more.
    """
    count, channels, *size = shape
    wanted = None if tile is None else tiles.tile_pair(tile)
    budget = None if max_memory is None else parse_bytes(max_memory)
    local = is_local(network)
    if wanted is not None and not local:
        tiles.margins(network, 0), tiles.margins(network, 1)  # raises
    if wanted is not None or not local:
        spans = _spans(network, size, wanted or size)
        if budget is None:
            return _with_images(spans, count, None)
        what = "tiles of this size" if wanted else "the whole image, which this network may see"
        return _of_these_tiles(spans, count, _Limit(footprint(network, channels), budget), what)
    if budget is None:
        return _usual(network, count, channels, size)
    limit = _Limit(footprint(network, channels), budget)
    plan = _largest(network, (count, *size), limit)
    _check(plan, limit.keeping(plan.keeps), "the smallest tile of this network")
    _warn_of_much_work(plan, size, budget)
    return plan


def _usual(network: Module, count: int, channels: int, size: Sequence[int]) -> Plan:
    """The plan for a network that can be cut, where nobody has said how."""
    pixels = size[0] * size[1]
    if max(1, count) * pixels <= PREDICT_PIXELS:
        return _with_images(_spans(network, size, size), count, None)
    try:
        need = footprint(network, channels)
    except ValueError:  # it takes no image as small as the one that would show
        return _with_images(
            _spans(network, size, size if pixels <= _whole_pixels() else _usual_tile(network)), count, None
        )
    return _largest(network, (count, *size), _Limit(need, USUAL_MEMORY))


def _whole_pixels() -> int:
    return WHOLE_PIXELS if backend().shares_batch else DEVICE_WHOLE_PIXELS


def _usual_tile(network: Module) -> Pair:
    side = TILE if backend().shares_batch else DEVICE_TILE
    height, width = (max(side, WIDE * tiles.edge(network, axis)) for axis in (0, 1))
    return height, width


def _spans(network: Module, size: Sequence[int], tile: Sequence[int]) -> Spans:
    return tiles.cut(network, 0, size[0], tile[0]), tiles.cut(network, 1, size[1], tile[1])


def _pixels(spans: Spans) -> int:
    """Of the largest tile, margins and all."""
    height, width = (max(span.seen.stop - span.seen.start for span in axis) for axis in spans)
    return height * width


def _with_images(spans: Spans, count: int, limit: _Limit | None, workers: int | None = None) -> Plan:
    """The plan for these tiles: as many images at a time as are worth it, and as many workers as there is room for."""
    pixels, workers = _pixels(spans), workers or backend().workers
    tiled = len(spans[0]) * len(spans[1]) > 1
    images = 1 if tiled else max(1, min(PREDICT_PIXELS // pixels, math.ceil(count / workers)))
    if limit is None:
        return Plan(*spans, images, workers)
    while images > 1 and not limit.allows(images * pixels, workers):
        images //= 2
    while workers > 1 and not limit.allows(images * pixels, workers):
        workers -= 1
    return Plan(*spans, images, workers, limit.keeps)


def _of_these_tiles(spans: Spans, count: int, limit: _Limit, what: str) -> Plan:
    """The plan for tiles that are given; ValueError if they need more than is allowed even if little is kept."""
    plan = _with_images(spans, count, limit)
    if not limit.allows(plan.images * _pixels(spans), plan.workers):
        limit = limit.keeping(LEAST_KEPT)
        plan = _with_images(spans, count, limit)
    _check(plan, limit, what)
    return plan


def _check(plan: Plan, limit: _Limit, what: str) -> None:
    least = limit.bytes(plan.images * _pixels((plan.rows, plan.columns)), plan.workers)
    if least > limit.budget:
        raise ValueError(f"max_memory (={text_of(limit.budget)}) is not enough for {what}: it needs {text_of(least)}")


def _largest(network: Module, shape: Sequence[int], limit: _Limit) -> Plan:
    """The plan with the largest tiles that fit, up to the usual ones.

    Where tiles would be little but margin, workers keep less of what was freed, then fewer compute at a time; the last
    resort are tiles that do not fit.
    """
    count, *size = shape
    multiples = network.size_multiple
    edges = [tiles.edge(network, axis) for axis in (0, 1)]
    padded = [tiles.padded_length(length, multiple) for length, multiple in zip(size, multiples, strict=True)]
    first = max(padded if padded[0] * padded[1] <= _whole_pixels() else _usual_tile(network))

    def tile(side: int) -> list[int]:
        return [
            min(length, max(multiple, side // multiple * multiple))
            for length, multiple in zip(padded, multiples, strict=True)
        ]

    def fits(side: int, limit: _Limit, workers: int) -> bool:
        seen = [min(length, part + edge) for length, part, edge in zip(padded, tile(side), edges, strict=True)]
        return limit.allows(seen[0] * seen[1], workers)

    def largest(limit: _Limit, workers: int) -> int:
        side = first
        while side > max(multiples) and not fits(side, limit, workers):
            side = max(max(multiples), int(side * 0.9))
        return side

    def plan(side: int, limit: _Limit, workers: int) -> Plan:
        return _with_images(_spans(network, size, tile(side)), count, limit, workers)

    for workers in range(backend().workers, 0, -1):
        limits = [limit, limit.keeping(max(LEAST_KEPT, limit.budget // (8 * workers))), limit.keeping(LEAST_KEPT)]
        sides = [largest(within, workers) for within in limits]
        for side, within in zip(sides, limits, strict=True):
            if fits(side, within, workers) and side >= min(WIDE * max(edges), max(padded)):
                return plan(side, within, workers)
    side, within = next(found for found in zip(sides, limits, strict=True) if found[0] >= 0.9 * sides[-1])
    return plan(side, within if fits(side, within, 1) else limits[-1], 1)


def _warn_of_much_work(plan: Plan, size: Sequence[int], budget: int) -> None:
    work = math.prod(sum(span.seen.stop - span.seen.start for span in axis) for axis in (plan.rows, plan.columns))
    times = work / math.prod(size)
    if plan.is_tiled and times > MUCH:
        sides = [(axis[1].made.start if len(axis) > 1 else size[i]) for i, axis in enumerate((plan.rows, plan.columns))]
        warnings.warn(
            f"max_memory (={text_of(budget)}) allows tiles of {sides[0]} x {sides[1]} pixels only, and what they see "
            f"overlaps so much that the work is {times:.0f} times that of the image in one piece: allow more",
            stacklevel=5,  # the caller of Model.predict
        )


__all__ = ["Plan", "make_plan"]
