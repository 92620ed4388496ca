"""How much memory a network needs for a tile: what prediction allocates beyond its input and its output.

    trace of a small image  ->  what is allocated and freed, in order  ->  the largest sum, for a tile of any size

The network is walked through as `Sequential`, `Concat` and `Sum` compute: each keeps its input, `Concat` and `Sum` all
of their branches' outputs; an activation after a layer writes over that one's output. Memory that is freed stays with
the worker for later arrays of about the size, as backends/cpu/memory.py has it, and so it counts. `WORK` is what an
operation allocates besides its output, in multiples of it, measured.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from . import checks
from .backends.cpu.memory import KEPT_BYTES
from .containers import Parallel, Sequential, Sum
from .layers import AvgPool2d, Dropout, MaxPool2d
from .layers.activation import InPlaceActivation
from .module import Module
from .tracing import Node, network_dtype, trace

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
LEAST_SIDE = 64  # pixels of the image that is traced
BLOCKS = 12 * 2**20  # bytes that a worker's convolutions need for one block of an image at a time
SAFETY = 1.2  # what is not modelled: it has been measured as up to a tenth
WEIGHTS = 6  # transformed weights are up to four times as large as those they are made from
WORK: dict[type[Module], float] = {MaxPool2d: 2.0, AvgPool2d: 1.5}


def parse_bytes(amount: Any, name: str = "max_memory") -> int:
    """Bytes from a number, or from text such as "500M", "1.5G", "800 MB" (powers of 1000) or "2GiB" (of 1024).

    Raises TypeError or ValueError for anything else, and for less than one byte.
    """
    if not isinstance(amount, str):
        return int(checks.number(amount, name, 1))
    text = amount.strip().upper().replace(" ", "")
    binary = text.endswith("IB")
    number = text.removesuffix("IB").removesuffix("B")
    unit = number[-1:] if number[-1:].isalpha() else ""
    factor = 1024 ** list(UNITS).index(unit) if binary and unit in UNITS else UNITS.get(unit)
    try:
        value = float(number.removesuffix(unit)) * (factor or math.nan)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 1):
        raise ValueError(f"{name} (={amount!r}) must be a number of bytes, such as 500M, 1.5G or 2GiB")
    return int(value)


def text_of(amount: float) -> str:
    """Bytes as a person writes them, rounded up: "1.3G"."""
    for unit in ("T", "G", "M", "K"):
        if amount >= UNITS[unit]:
            return f"{math.ceil(amount / UNITS[unit] * 10) / 10:g}{unit}"
    return f"{math.ceil(amount)}"


@dataclass(frozen=True)
class Footprint:
    """What one worker allocates and frees for an image, in bytes for each of its pixels; `fixed` is for any image."""

    steps: tuple[tuple[float, int], ...]  # bytes a pixel, and which block: a block that comes again is freed
    fixed: int

    def bytes(self, pixels: int, keeps: int = KEPT_BYTES) -> int:
        """The most that one worker holds at a time for an image of so many pixels, where it keeps so much free."""
        held: dict[int, float] = {}
        free: dict[int, list[float]] = defaultdict(list)  # of each class, what of it has been touched
        live = kept = most = 0.0
        for per_pixel, block in self.steps:
            size = per_pixel * pixels
            if block in held:
                touched = held.pop(block)
                live -= touched
                kept += touched
                free[_size_class(size)].append(touched)
                continue
            if blocks := free[_size_class(size)]:
                touched = max(blocks[-1], size)
                kept -= blocks.pop()
            else:
                touched = size
                if _size_class(size) + sum(of * len(blocks) for of, blocks in free.items()) > keeps:
                    free.clear()
                    kept = 0.0
            held[block] = touched
            live += touched
            most = max(most, live + kept)
        return math.ceil(SAFETY * most) + self.fixed


def footprint(network: Module, channels: int) -> Footprint:
    """The footprint of a network for images of so many channels, from a forward of a small one.

    Raises what the network raises for such an image.
    """
    try:
        root = _traced(network, channels, LEAST_SIDE)
    except ValueError:  # too small for its kernels, or wrong: that shows again
        root = _traced(network, channels, 8 * LEAST_SIDE)
    item = network_dtype(network).itemsize
    walk = _Walk(item, math.prod((root.input_shape or (1, 1, 1, 1))[2:]))
    inputs = walk.allocated(root.input_shape)
    scaled = walk.allocated(root.input_shape)
    walk.free(inputs)
    output = walk.module(root, scaled)
    if output != scaled:
        walk.free(scaled)
    walk.allocated(root.output_shape)  # the output in 0..255
    weights = sum(parameter.size for parameter in network.parameters()) * item
    return Footprint(tuple(walk.steps), BLOCKS + WEIGHTS * weights)


def _traced(network: Module, channels: int, side: int) -> Node:
    height, width = (math.ceil(side / multiple) * multiple for multiple in network.size_multiple)
    return trace(network, (channels, height, width))[0]


class _Walk:
    """Writes down what a forward allocates and frees; a block is a number."""

    def __init__(self, item: int, pixels: int) -> None:
        self.steps: list[tuple[float, int]] = []
        self._item, self._pixels, self._blocks = item, pixels, 0

    def allocated(self, shape: tuple[int, ...] | None, factor: float = 1.0) -> int:
        self._blocks += 1
        self.steps.append((math.prod(shape or (0,)) * self._item * factor / self._pixels, self._blocks))
        return self._blocks

    def free(self, block: int) -> None:
        self.steps.append((next(size for size, other in reversed(self.steps) if other == block), block))

    def module(self, node: Node, x: int) -> int:
        """The block of the output; that of the input where it is the same array."""
        if node.children and isinstance(node.module, Sequential):
            return self._row(node, x)
        if node.children and isinstance(node.module, Parallel):
            return self._branches(node, x)
        for child in node.children:  # a module of one's own: as if it were a row that keeps everything
            self.module(child, x)
        if node.children == [] and node.output_bytes == 0:
            return x
        return self._computed(node, _work(node.module))

    def _computed(self, node: Node, work: float) -> int:
        y = self.allocated(node.output_shape)
        if work:
            self.free(self.allocated(node.output_shape, work))
        return y

    def _row(self, node: Node, x: int) -> int:
        current, fresh = x, False
        for child in node.children:
            if fresh and isinstance(child.module, (InPlaceActivation, Dropout)):
                continue
            y = self.module(child, current)
            if y != current and current != x:
                self.free(current)
            fresh = y != x
            current = y
        return current

    def _branches(self, node: Node, x: int) -> int:
        outputs = [self.module(child, x) for child in node.children]
        fresh = [y for y in outputs if y != x]
        if isinstance(node.module, Sum) and fresh:
            y, rest = fresh[0], fresh[1:]
        else:
            y, rest = self.allocated(node.output_shape), fresh
        for block in rest:
            self.free(block)
        return y


def _work(module: Module) -> float:
    return next((factor for kind, factor in WORK.items() if isinstance(module, kind)), 0.0)


def _size_class(size: float) -> int:
    """Arrays of one class use each other's memory: there are two for each power of two."""
    needed = max(1, math.ceil(size))
    step = max(1, 1 << max(0, needed.bit_length() - 2))
    return -(-needed // step) * step
