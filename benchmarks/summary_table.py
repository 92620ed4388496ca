"""The table at the end: a line a case, with its ratio, its bar and its goal, and whether they are reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from cases import Case, Item
from contenders import LAYOUTS
from timing import Measurement

UNITS = {"ms": 1e3, "s": 1.0, "MB": 1e-6}  # what a figure in seconds or bytes is multiplied by


@dataclasses.dataclass
class Row:
    """A line: figures in seconds or bytes, shown in `unit`; the lower the better.

    median, minimum: by contender. ratio: PyTorch's best layout / npconv, or what else `bar` and `goal` are about.
    ceiling: bar and goal are figures not to exceed, in `unit`, and not ratios.
    """

    name: str
    title: str
    unit: str
    median: dict[str, float]
    minimum: dict[str, float]
    ratio: float | None
    bar: float | None
    goal: float | None
    ceiling: bool = False
    note: str = ""

    @property
    def mark(self) -> str:
        """ "goal", "bar" or "below"; "" without anything to compare with; "wrong" or "error" where so noted."""
        if self.note.startswith(("wrong", "error")):
            return self.note.split(":")[0]
        if self.ceiling:
            value = self.median.get("npconv")
            return marked(None if value is None else -value * UNITS[self.unit], negative(self.bar), negative(self.goal))
        return marked(self.ratio, self.bar, self.goal)


def marked(value: float | None, bar: float | None, goal: float | None) -> str:
    """What `value` reaches: "goal", "bar", or "below" both; "" if there is no value, or nothing to reach."""
    if value is None or (bar is None and goal is None):
        return ""
    if goal is not None and value >= goal:
        return "goal"
    return "bar" if bar is not None and value >= bar else "below"


def negative(value: float | None) -> float | None:
    return None if value is None else -value


def ratio(theirs: float | None, ours: float | None) -> float | None:
    """theirs / ours; None where either is missing, or ours is nothing."""
    return None if theirs is None or not ours else theirs / ours


def timed_row(case: Case, found: Measurement) -> Row:
    """The line of a case that was timed beside PyTorch."""
    median = {name: value for name in found.times if (value := found.median(name)) is not None}
    minimum = {name: value for name in found.times if (value := found.minimum(name)) is not None}
    times_as_fast = ratio(found.best(LAYOUTS), found.median("npconv"))
    return Row(case.name, case.title, "ms", median, minimum, times_as_fast, case.bar, case.goal, note=note_of(found))


def note_of(found: Measurement) -> str:
    """What must be said of a measurement: that it is wrong, that npconv failed, or that another contender did."""
    if found.wrong:
        apart = "; ".join(f"{name} in {quantities}" for name, quantities in found.wrong.items())
        return f"wrong: npconv and others differ by more than {found.bound:g}: {apart}"
    failed = "; ".join(f"{name}: {message}" for name, message in found.errors.items())
    ours = any(name.partition("@")[0] == "npconv" for name in found.errors)
    return f"error: {failed}" if ours else failed


def failed_row(item: Item, message: str) -> Row:
    """The line of something that could not be measured."""
    return Row(item.name, item.title, "ms", {}, {}, None, None, None, note=f"error: {message}")


def table(rows: Sequence[Row], others: Sequence[str], titles: Sequence[str]) -> list[str]:
    """The lines of the table; `others` are the contenders beside npconv that have a column, under `titles`."""
    width = max([len(row.name) for row in rows] + [4])
    heads = "".join(f" {title:>14}" for title in titles)
    lines = [f"{'case':{width}} {'npconv median':>16} {'(min)':>10}{heads} {'ratio':>6} {'bar':>5} {'goal':>5}"]
    for row in rows:
        cells = "".join(f" {_figure(row.median.get(name), row.unit):>14}" for name in others)
        ours, least = _figure(row.median.get("npconv"), row.unit), _figure(row.minimum.get("npconv"), row.unit, False)
        aims = f"{_plain(row.ratio):>6} {_plain(row.bar):>5} {_plain(row.goal):>5}"
        lines.append(f"{row.name:{width}} {ours:>16} {f'({least})':>10}{cells} {aims}  {row.mark}".rstrip())
    return lines + [f"  {row.name}: {row.note}" for row in rows if row.note]


def counts(rows: Iterable[Row]) -> str:
    """How many lines reach what."""
    marks = [row.mark for row in rows]
    return ", ".join(f"{marks.count(mark)} {mark}" for mark in ("goal", "bar", "below", "wrong", "error"))


def _figure(value: float | None, unit: str, named: bool = True) -> str:
    if value is None:
        return "-"
    number = value * UNITS[unit]
    text = f"{number:.1f}" if number >= 100 else f"{number:.2f}" if number >= 1 else f"{number:.3f}"
    return f"{text} {unit}" if named else text


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
