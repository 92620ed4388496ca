"""Correct first, then side by side: the same case in each contender, compared, and then timed in turns.

    build, run once  ->  compare outputs and gradients  ->  A B C A B C ...  ->  median and minimum of each

One contender works at a time; the others wait for their turn in processes of their own.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
from cases import Case
from crew import Crew, WorkerError

MOST_STEPS = 5000  # of one turn
SETTLE, SETTLE_SECONDS = 20, 1.0  # training steps before any is timed, where so many take no longer
SLOW = 0.25  # seconds of a step from which nothing is gained by one before it that is not timed


@dataclasses.dataclass(frozen=True)
class Plan:
    """How long to measure: rounds, seconds of one turn, and of all turns of a case.

    Slow cases have fewer rounds for that, but `least`.
    """

    rounds: int = 12
    turn_seconds: float = 0.06
    case_seconds: float = 60.0
    least: int = 3


QUICK = Plan(rounds=5, turn_seconds=0.02, case_seconds=1.0, least=1)


@dataclasses.dataclass
class Measurement:
    """What was found for one case.

    times: contender -> seconds of one run, a figure a round (the mean of its turn). differences: contender -> quantity
    -> max |its - npconv's| / max |npconv's|. errors: contender -> message, for one that could not do the case.
    """

    name: str
    bound: float
    gradient_bound: float
    times: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    steps: dict[str, int] = dataclasses.field(default_factory=dict)
    differences: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    errors: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def wrong(self) -> dict[str, str]:
        """Contender -> the quantities in which it and npconv disagree by more than the bound."""
        found = {
            name: ", ".join(f"{what} {value:.1e}" for what, value in of.items() if not value <= self._bound(what))
            for name, of in self.differences.items()
        }
        return {name: text for name, text in found.items() if text}

    def _bound(self, quantity: str) -> float:
        return self.gradient_bound if quantity.startswith("gradient") else self.bound

    def median(self, name: str) -> float | None:
        return statistics.median(self.times[name]) if self.times.get(name) else None

    def minimum(self, name: str) -> float | None:
        return min(self.times[name]) if self.times.get(name) else None

    def best(self, names: Sequence[str]) -> float | None:
        """The least median of these contenders."""
        return min((found for name in names if (found := self.median(name)) is not None), default=None)


def measure(crew: Crew, names: Sequence[str], case: Case, plan: Plan) -> Measurement:
    """The case in each of the contenders, the first of which is the one to compare the others with.

    A contender that cannot do it is left out, with its error; a case that disagrees is not timed.
    """
    found = Measurement(case.name, case.bound, case.bound if case.gradient_bound is None else case.gradient_bound)
    ready = _compared(crew, names, case, found)
    if not found.wrong and names[0] in ready:
        _timed(crew, ready, plan, found, settle=case.kind.endswith("step"))
    crew.forget(names)
    return found


def _compared(crew: Crew, names: Sequence[str], case: Case, found: Measurement) -> list[str]:
    """Builds the case, notes how far the contenders are apart, and returns those that can do it."""
    ready: list[str] = []
    reference: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            try:
                crew[name].ask("build", spec=case.spec())
                results = crew[name].results(folder)
            except WorkerError as error:
                found.errors[name] = str(error)
                if name == names[0]:
                    break  # nothing to compare the others with
                continue
            ready.append(name)
            if name == names[0]:
                reference = results
            else:
                found.differences[name] = differences(reference, results)
    return ready


def differences(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Quantity -> max |ours - theirs| / max |ours|; infinite where one is missing, of another shape, or not finite."""
    return {name: _difference(ours.get(name), theirs.get(name)) for name in {**ours, **theirs}}


def _difference(ours: np.ndarray | None, theirs: np.ndarray | None) -> float:
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return float("inf")
    largest = max(float(np.abs(ours).max()), float(np.finfo("float32").tiny))
    apart = float(np.abs(ours.astype("float64") - theirs).max()) / largest
    return apart if np.isfinite(apart) else float("inf")


def _timed(crew: Crew, names: list[str], plan: Plan, found: Measurement, settle: bool) -> None:
    seconds: dict[str, float] = {}
    for name in names:
        if (once := _turn(crew, name, 1, 0, found)) is not None:
            seconds[name] = once
    for name in [name for name, once in seconds.items() if settle and once < SETTLE_SECONDS / SETTLE]:
        # A long training is what is meant: npconv starts worker processes after some steps.
        once = _turn(crew, name, SETTLE, 0, found)
        seconds[name] = seconds[name] if once is None else once
    slow = min(seconds.values(), default=0.0) > SLOW
    found.steps = {name: max(1, min(MOST_STEPS, int(plan.turn_seconds / once))) for name, once in seconds.items()}
    found.times = {name: [once] if slow else [] for name, once in seconds.items()}  # that was a turn like any other
    round_seconds = sum(once * (found.steps[name] + _warm(once)) for name, once in seconds.items())
    for _ in range(rounds(plan, round_seconds) - slow):
        for name in [name for name in seconds if name not in found.errors]:
            if (mean := _turn(crew, name, found.steps[name], _warm(seconds[name]), found)) is not None:
                found.times[name].append(mean)


def rounds(plan: Plan, round_seconds: float) -> int:
    """The plan's rounds, or as many of them as there is time for, but its least."""
    affordable = int(plan.case_seconds / max(round_seconds, 1e-9))
    return min(plan.rounds, max(plan.least, affordable))


def _turn(crew: Crew, name: str, steps: int, warm: int, found: Measurement) -> float | None:
    """Seconds of one run in a turn of this contender; None, and its error noted, if that fails."""
    try:
        return float(crew[name].ask("time", steps=steps, warm=warm)["seconds"])
    except WorkerError as error:
        found.errors[name] = str(error)
        found.times.pop(name, None)
        return None


def _warm(seconds: float) -> int:
    return 0 if seconds > SLOW else 1
