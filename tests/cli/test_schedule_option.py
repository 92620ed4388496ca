"""The learning rates of `npconv train --schedule`, over steps and over time."""

from __future__ import annotations

import numpy as np
import pytest

import npconv
from npconv import networks, optim
from npconv.cli.recipe import SCHEDULES, make_schedule


def test_schedules():
    network = npconv.networks.strided(2)
    parameters = list(network.parameters())
    rates = {}
    for name in ("step", "multistep", "exponential", "cosine", "rampdown", "trapezoid", "one-cycle"):
        schedule = make_schedule(name, optim.SGD(parameters, lr=1.0, momentum=0.5), 9)
        rates[name] = [schedule.lr]
        for _ in range(9):
            schedule.step()
            rates[name].append(schedule.lr)
        assert schedule.optimizer.groups[0]["momentum"] == 0.5
    assert rates["step"] == pytest.approx([1] * 3 + [0.1] * 3 + [0.01] * 3 + [0.001])
    assert rates["multistep"] == pytest.approx([1] * 5 + [0.2] * 5)  # from 5.4 steps on
    assert rates["exponential"] == pytest.approx(np.geomspace(1, 1e-3, 10))
    assert rates["rampdown"] == pytest.approx(
        [1] * 7 + [((1 + np.cos(np.pi * t)) / 2) ** 2 for t in (0.7 / 2.7, 1.7 / 2.7, 1)]
    )
    assert rates["cosine"][-1] == pytest.approx(0) and rates["cosine"] == sorted(rates["cosine"], reverse=True)
    assert rates["trapezoid"] == pytest.approx([1 / 1.45, *[1] * 6, 2 / 2.7, 1 / 2.7, 0])
    assert max(rates["one-cycle"]) > 0.9 and rates["one-cycle"][0] == pytest.approx(1 / 25)
    assert make_schedule("none", optim.SGD(parameters, lr=1.0), 9) is None


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "none"])
def test_every_schedule_can_follow_the_time(name):
    optimizer = optim.SGD(networks.strided(2).parameters(), lr=1.0, momentum=0.5)
    schedule = make_schedule(name, optimizer, 1000, ((0.5, 0.8), 0.1))
    found = []
    for share in np.linspace(0, 1, 11):
        schedule.follow(float(share))
        found.append(schedule.lr)
    assert max(found) > 0.99 and found[-1] < 0.02
    if name == "multistep":
        assert found == pytest.approx([1] * 5 + [0.1] * 3 + [0.01] * 3)
