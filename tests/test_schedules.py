"""Schedules over the steps of a run and over its time, against PyTorch and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import npconv as nc
from npconv.schedules import (
    CosineAnnealingLR,
    ExponentialLR,
    MultiStepLR,
    OneCycleLR,
    RampDownLR,
    Schedule,
    StepLR,
    TrapezoidLR,
)


def sgd(lr: float = 1.0) -> nc.SGD:
    return nc.SGD([nc.Parameter(np.zeros(1, "float32"))], lr=lr)


def rates(schedule: Schedule, steps: int) -> list[float]:
    found = [schedule.lr]
    for _ in range(steps):
        schedule.step()
        found.append(schedule.lr)
    return found


def test_multi_step_multiplies_at_each_milestone() -> None:
    assert rates(MultiStepLR(sgd(2.0), [4, 2, 2], gamma=0.5), 5) == pytest.approx([2, 2, 0.5, 0.5, 0.25, 0.25])
    assert rates(MultiStepLR(sgd(), [0], gamma=0.5), 1) == [0.5, 0.5]


def test_exponential_multiplies_at_each_step() -> None:
    assert rates(ExponentialLR(sgd(8.0), 0.5), 3) == [8, 4, 2, 1]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda o: MultiStepLR(o, [3, 5, 11], gamma=0.2), ("MultiStepLR", {"milestones": [3, 5, 11], "gamma": 0.2})),
        (lambda o: ExponentialLR(o, 0.9), ("ExponentialLR", {"gamma": 0.9})),
    ],
)
def test_they_are_pytorchs(ours: Callable[[Any], Schedule], theirs: tuple[str, dict[str, Any]]) -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule, expected = getattr(torch.optim.lr_scheduler, theirs[0])(optimizer, **theirs[1]), []
    for _ in range(14):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates(ours(sgd(0.3)), 13) == pytest.approx(expected)


def test_ramp_down_is_noise2noises() -> None:
    """Constant for 70 percent; then ((1 + cos(pi t)) / 2)^2: at a third of the ramp 0.75^2, at two thirds 0.25^2."""
    assert rates(RampDownLR(sgd(2.0), 10), 11) == pytest.approx([2] * 8 + [2 * 0.75**2, 2 * 0.25**2, 0, 0], abs=1e-12)
    assert rates(RampDownLR(sgd(), 4, rampdown=0), 4) == [1] * 5
    assert rates(RampDownLR(sgd(), 2, rampdown=1), 2) == pytest.approx([1, 0.25, 0], abs=1e-12)


# ---- the share of a run ----
EACH = [
    lambda: StepLR(sgd(), 4, total_steps=12),
    lambda: MultiStepLR(sgd(), [7], total_steps=12),
    lambda: ExponentialLR(sgd(), 0.8, total_steps=12),
    lambda: CosineAnnealingLR(sgd(), 12),
    lambda: RampDownLR(sgd(), 12),
    lambda: TrapezoidLR(sgd(), 12, warmup=0.2),
]


@pytest.mark.parametrize("make", EACH)
def test_following_a_share_is_being_so_many_steps_along(make: Callable[[], Schedule]) -> None:
    expected, schedule = rates(make(), 12), make()
    found = []
    for step in range(13):
        schedule.follow(step / 12)
        found.append(schedule.lr)
    assert found == expected
    schedule.follow(0.0)  # and back: a schedule can be followed anew
    assert schedule.lr == expected[0]


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_a_one_cycle_ends_at_its_last_rate(strategy: str) -> None:
    def make() -> OneCycleLR:
        return OneCycleLR(sgd(), 1.0, 11, anneal_strategy=strategy, cycle_momentum=False)

    expected, schedule = rates(make(), 10), make()
    for step in range(11):
        schedule.follow(step / 10)
        assert schedule.lr == expected[step]
    assert schedule.lr == pytest.approx(1 / 25 / 1e4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: StepLR(sgd(), 3).follow(0.5), r"StepLR needs total_steps to follow a share"),
        (lambda: MultiStepLR(sgd(), [3]).follow(0.5), r"MultiStepLR needs total_steps"),
        (lambda: ExponentialLR(sgd(), 0.9).follow(0.5), r"ExponentialLR needs total_steps"),
        (lambda: TrapezoidLR(sgd(), 3).follow(1.5), r"share \(=1\.5\) must be between 0 and 1"),
        (lambda: OneCycleLR(sgd(), 1.0, 100, cycle_momentum=False).follow(1.001), r"share \(=1\.001\) must be"),
        (lambda: StepLR(sgd(), 3, total_steps=0), r"total_steps \(=0\) must be at least 1"),
        (lambda: MultiStepLR(sgd(), [3, -1]), r"milestones \(=-1\) must be at least 0"),
        (lambda: ExponentialLR(sgd(), -1), r"gamma \(=-1\) must be at least 0"),
        (lambda: RampDownLR(sgd(), 3, rampdown=2), r"rampdown \(=2\) must be between 0 and 1"),
    ],
)
def test_wrong_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
