"""Whether a long training keeps to its memory, its files and its threads, by threads and by worker processes.

    python benchmarks/flat_memory.py                    10,000 steps each way; fails if anything grows
    python benchmarks/flat_memory.py --plot memory.png  draws the curves as well
    python benchmarks/flat_memory.py --way threads      one way alone

Each way is a fresh process: a small network, two workers, a prediction every hundred steps. Memory is what is resident
(proc(5): statm), of the process and its children; a straight line is fitted to it once a fifth of the steps are over,
when every size has been seen, and may rise by half a megabyte. One jump is left out of the line: a table that Python
doubles, or a block that it gets for small objects, is a megabyte at once. Linux only.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

WAYS = {"threads": "0", "processes": "1"}  # NPCONV_PROCESSES
MOST_GROWTH = 512.0  # kB, along the line
MOST_JUMP = 1280.0  # kB; an arena of Python's small objects is 1,024, and what comes with it
SETTLED = 0.2  # of the steps, before which memory may still grow
SAMPLES = 100
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a process and its children have after so many steps."""

    step: int
    kilobytes: float
    of_children: float
    files: int
    threads: int
    children: int


@dataclasses.dataclass(frozen=True)
class Verdict:
    """kB per 1,000 steps, of the process and of its children, for so many `thousands` of steps; the jumps in kB that
    are left out of it; files and threads that there are more of in their second half.
    """

    slope: float
    slope_of_children: float
    jump: float
    jump_of_children: float
    thousands: float
    files: int
    threads: int

    @property
    def is_flat(self) -> bool:
        """Whether nothing grows."""
        growth = max(self.slope, self.slope_of_children) * self.thousands
        return growth <= MOST_GROWTH and self.files <= 0 and self.threads <= 0


def _read(path: str) -> str:
    """Without `Path`, which keeps its parts in Python's table of names: so many of them make the table grow."""
    with open(path) as file:
        return file.read()


def children_of(parent: int) -> list[int]:
    """The processes that `parent` has started and that run."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = _read(f"/proc/{name}/stat").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        if int(fields[1]) == parent and fields[0] not in "ZX":
            found.append(int(name))
    return found


def sample(step: int, pid: int | None = None) -> Sample:
    """As it is now."""
    own = os.getpid() if pid is None else pid
    children = children_of(own)
    everyone = [own, *children]
    resident = [int(_read(f"/proc/{one}/statm").split()[1]) * PAGE / 1024 for one in everyone]
    files, threads = (sum(len(os.listdir(f"/proc/{one}/{what}")) for one in everyone) for what in ("fd", "task"))
    return Sample(step, resident[0], sum(resident[1:]), files, threads, len(children))


def line_beside_a_jump(steps: np.ndarray, kilobytes: np.ndarray) -> tuple[float, float]:
    """The slope of a straight line by least squares, and the jump upwards that it leaves out.

    The line with one jump, where it fits best, if that makes the line flatter and the jump is no more than MOST_JUMP;
    otherwise the line alone, and 0. What grows evenly, or by many jumps, has nearly the same slope either way.
    """
    slope, best, found = float(np.polyfit(steps, kilobytes, 1)[0]), np.inf, (np.inf, 0.0)
    for place in range(1, len(steps)):
        after = np.arange(len(steps)) >= place
        columns = np.stack([np.ones_like(steps), steps, after], axis=1)
        fitted = np.linalg.lstsq(columns, kilobytes, rcond=None)[0]
        error = float(np.sum((columns @ fitted - kilobytes) ** 2))
        if fitted[2] > 0 and error < best:
            best, found = error, (float(fitted[1]), float(fitted[2]))
    return found if found[0] < slope and found[1] <= MOST_JUMP else (slope, 0.0)


def judged(samples: Sequence[Sample]) -> Verdict:
    """What became of them after the first fifth of the steps."""
    late = [one for one in samples if one.step >= SETTLED * samples[-1].step]
    steps = np.array([one.step for one in late]) / 1000
    own, theirs = (
        line_beside_a_jump(steps, np.array([getattr(one, name) for one in late]))
        for name in ("kilobytes", "of_children")
    )
    half = len(late) // 2
    more = [
        max(getattr(one, name) for one in late[half:]) - max(getattr(one, name) for one in late[:half])
        for name in ("files", "threads")
    ]
    return Verdict(own[0], theirs[0], own[1], theirs[1], float(steps[-1] - steps[0]), *more)


def train(way: str, steps: int) -> list[Sample]:
    """Train in this process and look at it now and then. RuntimeError if it was not trained that way."""
    import npconv as nc
    from npconv import training

    training.THREAD_WORK = training.PROCESS_WORK = 1  # two workers, however small the batch is
    nc.manual_seed(0)
    network = nc.networks.strided(4)
    model = nc.Model(network, nc.MSE(), nc.Adam(network.parameters()))
    rng, samples = np.random.default_rng(0), []
    every = max(1, steps // SAMPLES)
    for step in range(1, steps + 1):
        x, target = rng.random((2, 4, 3, 8, 8), dtype="float32")
        model.train_batch(x, target)
        if step % 100 == 0:
            model.predict(x * 255)
        if step % every == 0:
            samples.append(sample(step))
    if samples[-1].children != (1 if way == "processes" else 0):
        raise RuntimeError(f"{way}: there are {samples[-1].children} worker processes at the end")
    return samples


def measured(way: str, steps: int) -> list[Sample]:
    """`train` in a fresh process; RuntimeError with its words if it fails."""
    environment = {**os.environ, "NPCONV_BACKEND": "numpy", "NPCONV_THREADS": "2", "NPCONV_PROCESSES": WAYS[way]}
    command = [sys.executable, __file__, "--steps", str(steps), "--measure", way]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way}: {done.stderr.strip()}")
    return [Sample(**one) for one in json.loads(done.stdout)]


def plot(found: dict[str, list[Sample]], path: Path) -> None:
    """A panel a way: the resident memory of the process and of its children over the steps."""
    from plots import COLOURS, pyplot

    plt = pyplot()
    figure, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 3.6), squeeze=False, layout="constrained")
    for axis, (way, samples) in zip(axes.flat, found.items(), strict=True):
        steps, verdict = [one.step for one in samples], judged(samples)
        own = [one.kilobytes / 1024 for one in samples]
        axis.plot(steps, own, color=COLOURS["npconv"], label=f"process: {verdict.slope:+.1f} kB per 1,000 steps")
        if samples[-1].children:
            theirs, label = [one.of_children / 1024 for one in samples], f"{verdict.slope_of_children:+.1f} kB"
            axis.plot(steps, theirs, color=COLOURS["torch"], label=f"its worker process: {label}")
        axis.set(title=f"by {way}", xlabel="step", ylabel="resident memory, MB")
        axis.set_ylim(0, 1.2 * max(own))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def report(way: str, samples: Sequence[Sample], seconds: float) -> str:
    """One way in a line."""
    verdict, first, last = judged(samples), samples[0], samples[-1]
    return (
        f"{way:10} {last.step:>7,} steps {seconds:6.1f} s   {first.kilobytes / 1024:6.1f} -> "
        f"{last.kilobytes / 1024:6.1f} MB ({verdict.slope:+.1f} kB per 1,000 steps, {verdict.jump:+.0f} once), "
        f"children {last.children}: {first.of_children / 1024:5.1f} -> {last.of_children / 1024:5.1f} MB "
        f"({verdict.slope_of_children:+.1f}, {verdict.jump_of_children:+.0f})   "
        f"files {first.files} -> {last.files}, threads {first.threads} -> {last.threads}   "
        f"{'flat' if verdict.is_flat else 'GROWS'}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--way", choices=WAYS, help="threads or processes; both if it is not given")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.steps < SAMPLES:
        parser.error(f"argument --steps: {args.steps} must be at least {SAMPLES}")
    if sys.platform != "linux":
        parser.error("memory, files and threads are read from /proc: Linux only")
    if args.measure:
        print(json.dumps([dataclasses.asdict(one) for one in train(args.measure, args.steps)]))
        return 0
    found = {}
    for way in [args.way] if args.way else WAYS:
        began = time.monotonic()
        found[way] = measured(way, args.steps)
        print(report(way, found[way], time.monotonic() - began), flush=True)
    if args.plot:
        plot(found, args.plot)
    return 0 if all(judged(samples).is_flat for samples in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
