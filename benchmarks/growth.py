"""How the cost grows with batch, pixels, and C_in * C_out: a series of cases each, and the exponent that fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import architectures as nets
import numpy as np
from cases import Case, single, step
from contenders import titles
from crew import Crew
from timing import Measurement, Plan, measure


@dataclasses.dataclass(frozen=True)
class Series:
    """Cases of growing size: `sizes` are what the cost should grow with, linearly."""

    name: str
    along: str
    sizes: tuple[int, ...]
    cases: tuple[Case, ...]


@dataclasses.dataclass(frozen=True)
class Grown:
    """A series, measured: seconds (medians) and the fitted exponent of each contender."""

    name: str
    along: str
    sizes: tuple[int, ...]
    seconds: dict[str, list[float]]
    exponents: dict[str, float]


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The p of the least-squares fit log(seconds) = p log(size) + constant: 1 is linear."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def series(name: str, quick: bool) -> Series:
    """The series growth/`conv` or `step`-`batch`, `pixels` or `channels`."""
    kind, along = name.removeprefix("growth/").split("-")
    make: Callable[[int, int, int], Case] = _conv if kind == "conv" else _step
    batch, side, channels = 8, 32, 32
    if along == "batch":
        values = _some((4, 8, 16, 32, 64), quick)
        return Series(name, "batch", values, tuple(make(n, side, channels) for n in values))
    if along == "pixels":
        values = _some((16, 24, 32, 48, 64, 96), quick)
        return Series(name, "pixels", tuple(n * n for n in values), tuple(make(batch, n, channels) for n in values))
    values = _some((16, 24, 32, 48, 64, 96, 128), quick)
    return Series(name, "C_in * C_out", tuple(n * n for n in values), tuple(make(batch, side, n) for n in values))


def _some(values: tuple[int, ...], quick: bool) -> tuple[int, ...]:
    return (values[0], values[len(values) // 2], values[-1]) if quick else values


def _conv(batch: int, side: int, channels: int) -> Case:
    name, shape = f"growth/conv {channels}ch-{batch}x{side}x{side}", (batch, channels, side, side)
    return single(name, f"3x3 convolution, {channels} to {channels}", nets.conv(channels, channels), shape)


def _step(batch: int, side: int, channels: int) -> Case:
    name, shape = f"growth/step {channels}ch-{batch}x{side}x{side}", (batch, 3, side, side)
    return step(name, "training step", nets.strided(channels), shape)


def grow(
    crew: Crew, names: Sequence[str], of: Series, plan: Plan, told: Callable[[Measurement], None] = lambda found: None
) -> Grown:
    """Measures a series. A contender that fails a case (or all of them, where one is wrong) is left out of it."""
    found = [measure(crew, names, case, plan) for case in of.cases]
    for one in found:
        told(one)
    seconds = {
        name: [one.median(name) or 0.0 for one in found] for name in names if all(name in one.times for one in found)
    }
    exponents = {name: exponent(of.sizes, times) for name, times in seconds.items()}
    return Grown(of.name, of.along, of.sizes, seconds, exponents)


def lines(grown: Grown) -> list[str]:
    """The series as a small table."""
    sizes = "".join(f" {size:>9}" for size in grown.sizes)
    text = [f"{grown.name}, ms against {grown.along}", f"  {'':14}{sizes}   exponent"]
    for name, title in zip(grown.seconds, titles(grown.seconds), strict=True):
        times = "".join(f" {value * 1e3:>9.2f}" for value in grown.seconds[name])
        text.append(f"  {title:14}{times}   {grown.exponents[name]:.2f}")
    return text
