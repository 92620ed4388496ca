"""Trainings of many steps keep to their memory, files and threads; benchmarks/flat_memory.py runs 10,000 of them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from flat_memory import SAMPLES, Sample, children_of, judged, sample  # noqa: E402

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(sys.platform != "linux", reason="what a process has is read from /proc"),
]


def samples(**growth: float) -> list[Sample]:
    """A hundred steps apart; `growth` per step, of each number."""
    first = Sample(0, 50_000.0, 20_000.0, 12, 3, 1)
    return [
        dataclasses.replace(first, step=step, **{name: getattr(first, name) + by * step for name, by in growth.items()})
        for step in range(100, 10_001, 100)
    ]


def test_what_stays_is_flat_and_a_slope_is_found() -> None:
    assert judged(samples()).is_flat
    verdict = judged(samples(kilobytes=0.05))
    assert verdict.is_flat and verdict.slope == pytest.approx(50)


@pytest.mark.parametrize("growth", [{"kilobytes": 0.2}, {"of_children": 0.2}, {"files": 0.001}, {"threads": 0.0005}])
def test_what_grows_is_not_flat(growth: dict[str, float]) -> None:
    assert not judged(samples(**growth)).is_flat


def test_what_grows_only_at_the_beginning_is_flat() -> None:
    early = [dataclasses.replace(one, kilobytes=10.0 * one.step) for one in samples() if one.step < 2000]
    assert judged(early + samples()[len(early) :]).is_flat


def test_a_sample_counts_children_their_files_and_their_memory() -> None:
    before = sample(1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True) as child:
        assert child.pid in children_of(os.getpid())
        after = sample(2)
        assert after.children == before.children + 1 and after.files >= before.files + 3
        assert after.threads >= before.threads + 1 and after.of_children > before.of_children
        assert child.stdin is not None
        child.stdin.write("\n")


def test_a_short_run_by_threads_and_by_processes_is_flat() -> None:
    command = [sys.executable, str(BENCHMARKS / "flat_memory.py"), "--steps", "600"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["threads", "processes"]
    assert all(line.endswith("flat") for line in lines) and "children 1" in lines[1], lines


def test_too_few_steps_to_judge_are_refused() -> None:
    command = [sys.executable, str(BENCHMARKS / "flat_memory.py"), "--steps", str(SAMPLES - 1)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "argument --steps: 99 must be at least 100" in done.stderr
