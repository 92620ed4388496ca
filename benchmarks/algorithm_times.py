"""The convolution algorithms on a grid of shapes: what is measured, how, and how the times are stored."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import machine
import numpy as np

from npconv.backends import ConvGeometry
from npconv.backends.cpu import choice, prepared
from npconv.backends.cpu.conv import FORWARD
from npconv.backends.cpu.winograd import Winograd

KINDS = ("output", "with weights", "kernel")
Times = dict[str, float]  # algorithm -> nanoseconds

CHANNELS = ((1, 1), (1, 3), (1, 16), (1, 64), (3, 3), (3, 8), (3, 16), (3, 32), (3, 64), (5, 20), (8, 1), (8, 3),
            (8, 8), (8, 16), (8, 32), (9, 62), (10, 10), (12, 5), (13, 44), (14, 35), (16, 1), (16, 3), (16, 8),
            (16, 16), (16, 64), (18, 14), (30, 2), (32, 3), (32, 8), (32, 32), (32, 64), (34, 18), (48, 48),
            (48, 128), (50, 50), (64, 1), (64, 3), (64, 8), (64, 16), (64, 32), (64, 64), (64, 128), (70, 110),
            (96, 48), (96, 96), (96, 128), (128, 3), (128, 64), (128, 128), (128, 256), (256, 1), (256, 8),
            (256, 32), (256, 128), (256, 256))  # fmt: skip
SIZES = (4, 7, 8, 14, 16, 21, 32, 64, 128)
GEOMETRIES = {
    "3x3": ConvGeometry.parse(3, 1, 1),
    "1x1": ConvGeometry.parse(1),
    "5x5": ConvGeometry.parse(5, 1, 2),
    "3x3 dilated": ConvGeometry.parse(3, 1, 2, 2),
}
ABOUT = 5e6  # nanoseconds that one computation should take
MOST = 2.5e7  # nanoseconds that one image may take


class Shape(NamedTuple):
    """n images of size x size pixels, c channels in and o out, and a name in GEOMETRIES; padded to keep the size."""

    n: int
    size: int
    c: int
    o: int
    kernel: str

    @property
    def work(self) -> choice.Work:
        return choice.Work(self.n, self.size, self.size, self.c, self.o, GEOMETRIES[self.kernel])

    def __str__(self) -> str:
        return f"{self.kernel}, {self.c} to {self.o}, {self.n} x {self.size}x{self.size}"


class Measured(NamedTuple):
    """The times of a shape: of the output, of transforming the weights, and of the kernel's gradient."""

    shape: Shape
    output: Times
    weights: Times
    kernel: Times

    def times(self, kind: str) -> Times:
        """Of a kind in KINDS; empty where there is nothing to choose."""
        if kind == "with weights":
            return {name: taken + self.weights.get(name, 0.0) for name, taken in self.output.items()}
        return self.kernel if kind == "kernel" else self.output

    def predicted(self, kind: str) -> Times:
        """What the cost model says of the same."""
        kernel, transform = kind == "kernel", kind == "with weights"
        return {name: choice.cost(name, self.shape.work, kernel, transform) for name in self.times(kind)}


def grid() -> list[Shape]:
    """Batches that take about as long as each other, and single small images, which show what a call costs."""
    shapes = [(size, c, o, "3x3") for c, o in CHANNELS for size in SIZES]
    shapes += [(size, c, o, kernel) for kernel in ("1x1", "5x5", "3x3 dilated")
               for c in (3, 16, 64, 128) for o in (1, 3, 8) for size in (16, 64)]  # fmt: skip
    found = []
    for size, c, o, kernel in shapes:
        taps = GEOMETRIES[kernel].taps
        image = size * size * (2 * taps * c * o / 80 + 0.3 * taps * c + 0.5 * o + 10)  # nanoseconds, roughly
        if image <= MOST:
            found.append(Shape(max(1, round(ABOUT / image)), size, c, o, kernel))
    pairs = ((3, 8), (8, 3), (8, 8), (3, 16), (16, 1), (16, 16), (32, 32), (64, 64))
    return found + [Shape(1, size, c, o, "3x3") for c, o in pairs for size in (4, 8, 16)]


def measure(shape: Shape, rounds: int) -> Measured:
    """All algorithms that apply, on this thread."""
    rng = np.random.default_rng(0)
    n, height, width, c, o, geometry = work = shape.work
    x, y = (rng.standard_normal((n, height, width, channels), dtype="float32") for channels in (c, o))
    # In memory (KH, KW, C, O), as those of the layers are.
    weight = rng.standard_normal((*geometry.kernel, c, o), dtype="float32").transpose(3, 2, 0, 1)
    bias, all_of_it = rng.standard_normal(o, dtype="float32"), (slice(0, n), slice(0, height))
    forward = {
        name: partial(FORWARD[name].forward, x, weight, bias, geometry, y, *all_of_it)
        for name in choice.applicable(work)
    }
    transforms = {name: partial(FORWARD[name].prepare, weight) for name in forward if _is_winograd(name)}
    gradients = {
        name: partial(FORWARD[name].weight_gradient, x, y, geometry, *all_of_it)
        for name in choice.applicable(work, kernel=True)
    }
    with prepared.constant_weights():
        output = turns(forward, rounds)
    kernel = turns(gradients, rounds) if len(gradients) > 1 else {}
    return Measured(shape, output, turns(transforms, rounds, 1e5), kernel)


def _is_winograd(name: str) -> bool:
    return isinstance(FORWARD[name], Winograd)


def turns(calls: Mapping[str, Callable[[], Any]], rounds: int, turn: float = 1.5e6) -> Times:
    """The lower quartile of the turns of each call; a turn takes `turn` nanoseconds at least, and one call."""
    steps = {name: max(1, round(turn / min(_timed(call, 1), _timed(call, 1)))) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(_timed(call, steps[name]))
    return {name: float(np.percentile(times, 25)) for name, times in found.items()}


def _timed(call: Callable[[], Any], steps: int) -> float:
    started = time.perf_counter_ns()
    for _ in range(steps):
        call()
    return (time.perf_counter_ns() - started) / steps


def store(grid_times: list[Measured], path: Path) -> None:
    """A line a shape; microseconds."""
    lines = []
    for shape, *rest in grid_times:
        times = ({name: float(f"{taken / 1e3:.3g}") for name, taken in part.items()} for part in rest)
        lines.append(json.dumps([*shape, *times], separators=(",", ":")).replace(".0,", ",").replace(".0}", "}"))
    head = f'{{"cpu": {json.dumps(machine.cpu_model())},\n"unit": "microseconds",\n"shapes": [\n'
    path.write_text(head + ",\n".join(lines) + "\n]}\n")


def stored(path: Path) -> list[Measured]:
    """What `store` wrote."""
    found = []
    for *shape, output, weights, kernel in json.loads(path.read_text())["shapes"]:
        times = ({name: taken * 1e3 for name, taken in part.items()} for part in (output, weights, kernel))
        found.append(Measured(Shape(*shape), *times))
    return found
