"""Trainings of many steps keep to their memory, files and threads; benchmarks/flat_memory.py runs 10,000 of them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from flat_memory import MOST_JUMP, SAMPLES, Sample, children_of, judged, sample  # noqa: E402

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(sys.platform != "linux", reason="what a process has is read from /proc"),
]


LATE = range(2100, 10_001, 100)  # the steps of samples that are judged, but the first


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


def jumping(heights: dict[int, float], growth: float = 0.0, noise: float = 0.0) -> list[Sample]:
    """Memory that rises at those steps by so many kB at once, and by `growth` with each step."""
    rng = np.random.default_rng(0)

    def added(step: int) -> float:
        jumps = sum(height for at, height in heights.items() if step >= at)
        return jumps + growth * step + noise * float(rng.integers(-4, 5))

    return [dataclasses.replace(one, kilobytes=one.kilobytes + added(one.step)) for one in samples()]


@pytest.mark.parametrize("noise", [0.0, 4.0])  # pages come and go
def test_one_jump_anywhere_is_flat(noise: float) -> None:
    for step in range(100, 10_001, 100):
        verdict = judged(jumping({step: 1040}, noise=noise))
        assert verdict.is_flat and abs(verdict.slope) < (3 if noise else 1e-6), step
        if step in LATE[5:-5]:
            assert verdict.jump == pytest.approx(1040, abs=20 if noise else 1e-6)


@pytest.mark.parametrize("growth", [0.1, 0.2])
def test_a_jump_hides_no_slope(growth: float) -> None:
    for step in LATE:
        verdict = judged(jumping({step: 1040}, growth, noise=4.0))
        assert not verdict.is_flat and verdict.slope == pytest.approx(1000 * growth, abs=3), step


def test_a_jump_that_no_table_of_this_size_makes_is_growth() -> None:
    for step in LATE[10:-10]:
        assert not judged(jumping({step: 1.1 * MOST_JUMP})).is_flat, step


@pytest.mark.parametrize("every", [100, 300, 500, 1000, 2000])
def test_jumps_again_and_again_are_growth(every: int) -> None:
    """The same 0.2 kB a step as a slope that is found, in blocks of 20 to 400 kB, wherever the first one comes."""
    for first in range(100, every + 1, 100):
        verdict = judged(jumping(dict.fromkeys(range(first, 10_001, every), 0.2 * every)))
        assert not verdict.is_flat and verdict.slope > 150, first


def test_two_jumps_are_growth_and_what_is_taken_and_given_back_is_not() -> None:
    for first in range(2800, 5300, 100):
        assert not judged(jumping({first: 1040, first + 4000: 1040})).is_flat, first
    for first in range(2100, 8000, 100):
        assert judged(jumping({first: 1040, first + 2000: -1040})).is_flat, first


def test_looking_at_a_process_takes_no_memory_of_it() -> None:
    """Tens of thousands of files read, which once filled the table of names that Python keeps."""
    program = """
import os, sys
sys.path.insert(0, sys.argv[1])
from flat_memory import children_of, sample
before, seen = sample(1), 0
while seen < 45_000:
    seen += len(os.listdir("/proc"))
    children_of(1)
print(sample(2).kilobytes - before.kilobytes)
"""
    done = subprocess.run([sys.executable, "-c", program, str(BENCHMARKS)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 256


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
