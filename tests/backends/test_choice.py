"""The cost model by which `auto` picks an algorithm: against measured times, and against what the algorithms do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npconv.backends import ConvGeometry
from npconv.backends.cpu import choice, conv, frame, unfold
from npconv.backends.cpu.winograd import TILE_BYTES, Winograd

pytestmark = pytest.mark.cpu

FAST = ("unfold", "winograd2", "winograd4", "thin")
GEOMETRIES = {
    "3x3": ConvGeometry.parse(3, 1, 1),
    "1x1": ConvGeometry.parse(1),
    "5x5": ConvGeometry.parse(5, 1, 2),
    "3x3 dilated": ConvGeometry.parse(3, 1, 2, 2),
}
KINDS = ("output", "with weights", "kernel")
Times = dict[str, float]


def measured(kind: str) -> list[tuple[choice.Work, Times]]:
    """Each convolution that benchmarks/algorithms.py has measured, and the microseconds of the algorithms."""
    found = []
    stored = json.loads((Path(__file__).parent / "measured_algorithms.json").read_text())
    for n, size, c, o, kernel, output, weights, gradient in stored["shapes"]:
        times = gradient if kind == "kernel" else output
        if kind == "with weights":
            times = {name: taken + weights.get(name, 0.0) for name, taken in output.items()}
        if times:
            found.append((choice.Work(n, size, size, c, o, GEOMETRIES[kernel]), times))
    return found


def share_and_loss(picks: list[tuple[str, Times]]) -> tuple[float, float]:
    """The share of picks that are at most 10 % slower than the fastest; sum of picked / sum of fastest - 1."""
    picked = np.array([times[name] for name, times in picks])
    fastest = np.array([min(times.values()) for _, times in picks])
    return float(np.mean(picked <= 1.1 * fastest)), float(picked.sum() / fastest.sum() - 1)


def cheapest(work: choice.Work, names: Any, kind: str) -> str:
    return min(names, key=lambda name: choice.cost(name, work, kind == "kernel", kind != "output"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_picks_the_fastest_of_the_measured_grid(kind: str) -> None:
    found = measured(kind)
    share, loss = share_and_loss([(cheapest(work, times, kind), times) for work, times in found])
    assert len(found) >= 390 and share >= 0.9 and loss <= 0.05


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAST)
def test_no_algorithm_alone_would_do_as_well(name: str, kind: str) -> None:
    """So that the test above can fail."""
    picks = [(name if name in times else "unfold", times) for _, times in measured(kind)]
    share, loss = share_and_loss(picks)
    assert share < 0.75 and loss > 0.1


@pytest.mark.parametrize("kernel", [False, True])
def test_auto_is_what_was_measured(kernel: bool) -> None:
    """The choice itself, not only its model, and of all the algorithms that were measured."""
    pick: Callable[[str, choice.Work], str] = choice.for_kernel if kernel else choice.for_output
    for work, times in measured("kernel" if kernel else "with weights"):
        assert set(times) == set(choice.applicable(work, kernel))
        assert pick("auto", work) == cheapest(work, times, "kernel" if kernel else "with weights")


def grid() -> list[tuple[choice.Work, bool]]:
    channels = ((3, 3), (3, 64), (64, 3), (64, 64), (1, 1))
    return [(choice.Work(64, 64, 64, c, o, GEOMETRIES["3x3"]), kernel) for c, o in channels for kernel in (False, True)]


@pytest.mark.parametrize(("work", "kernel"), grid())
def test_costs_grow_linearly_with_batch_and_pixels(work: choice.Work, kernel: bool) -> None:
    """Transformed weights aside, which cost the same for any batch; blocks are cut at whole images and lines."""
    twice = (work._replace(n=128), work._replace(height=128), work._replace(width=128))
    for name in choice.applicable(work, kernel):
        one, *others = (choice.cost(name, each, kernel, False) for each in (work, *twice))
        assert one > 0
        assert [other / one for other in others] == pytest.approx([2, 2, 2], rel=0.15)


@pytest.mark.parametrize(("work", "kernel"), grid())
def test_a_forced_algorithm_is_taken_where_it_applies(work: choice.Work, kernel: bool) -> None:
    pick: Callable[[str, choice.Work], str] = choice.for_kernel if kernel else choice.for_output
    for name in FAST:
        assert pick(name, work) == (name if name in choice.applicable(work, kernel) else "unfold")


def test_every_price_is_paid_for_something() -> None:
    paid = {
        what
        for kernel in (False, True)
        for work, _ in measured("kernel" if kernel else "output")
        for name in choice.applicable(work, kernel)
        for what, number in choice.counts(name, work, kernel).items()
        if number
    }
    assert paid == set(choice.PRICES)


@pytest.mark.parametrize("shape", [(1, 9, 200, 5), (7, 33, 20, 3), (40, 8, 8, 64)])
@pytest.mark.parametrize("kernel", [(3, 1, 1, 1), (5, 1, 2, 1), (3, 2, 1, 1), (3, 1, 2, 2)])
def test_unfold_copies_what_the_model_counts(shape: tuple[int, ...], kernel: tuple[int, ...]) -> None:
    geometry = ConvGeometry.parse(*kernel)
    (n, *size, c), x = shape, np.zeros(shape, "float32")
    height, width = geometry.output_size((size[0], size[1]))
    columns = [part.size for *_, part in unfold.column_blocks(x, geometry, slice(0, height), width)]
    for o in (1, 4, 64):
        counts = choice.counts("unfold", choice.Work(n, height, width, c, o, geometry))
        assert counts.get("column", 0) + counts.get("column, in place", 0) == sum(columns)
        assert counts["unfold block"] == len(columns)
        assert counts["multiply"] == (o * sum(columns) if o > 1 else 0)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("shape", [(1, 9, 200, 5), (7, 33, 20, 3), (40, 8, 8, 64)])
def test_winograd_has_the_tiles_that_the_model_counts(shape: tuple[int, ...], m: int) -> None:
    (n, height, width, c), geometry, o = shape, GEOMETRIES["3x3"], 16
    winograd, x = Winograd(m), np.zeros(shape, "float32")
    line_bytes = -(-width // m) * (m + 2) ** 2 * max(c, o) * 4 / m
    parts = frame.blocks(n, slice(0, height), line_bytes, TILE_BYTES, m)
    tiles = []
    for images, rows in parts:
        grid = winograd._grid(images, rows, width)
        tiles.append(winograd._inputs(x[images], geometry, rows, grid).shape[:2])
    counts = choice.counts(f"winograd{m}", choice.Work(n, height, width, c, o, geometry))
    assert counts["tile"] == (c + o) * sum(positions * count for positions, count in tiles)
    assert counts["winograd block"] == len(tiles)


def test_only_winograd_has_weights_to_transform() -> None:
    work = choice.Work(2, 8, 8, 16, 8, GEOMETRIES["3x3"])
    more = {name: choice.cost(name, work) - choice.cost(name, work, transform=False) for name in FAST}
    assert more["unfold"] == more["thin"] == 0
    # As many as their (m + 2)^2 positions.
    assert more["winograd4"] / more["winograd2"] == pytest.approx(36 / 16)


def test_algorithms_apply_where_their_mathematics_does() -> None:
    def names(o: int, *arguments: int) -> list[str]:
        return choice.applicable(choice.Work(1, 8, 8, 4, o, ConvGeometry.parse(*arguments)))

    assert names(16, 3, 1, 1) == ["unfold", "winograd2", "winograd4"]
    assert names(3, 3, 1, 1) == ["unfold", "winograd2", "winograd4", "thin"]
    assert names(16, 3, 2, 1) == names(16, 5, 1, 2) == names(16, 3, 1, 1, 2) == ["unfold"]
    assert names(3, 5, 1, 2, 2) == ["unfold", "thin"]
    assert choice.applicable(choice.Work(1, 8, 8, 4, 3, GEOMETRIES["5x5"]), kernel=True) == ["unfold"]
    assert set(FAST) == set(choice.ALGORITHMS) - {"auto", "im2col", "differences"} == set(conv.FORWARD)
