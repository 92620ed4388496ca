"""The whole suite on the GPU, then npconv on CuPy beside PyTorch with CUDA: one command, one table.

    python benchmarks/gpu.py                    the tests with CuPy, then everything
    python benchmarks/gpu.py --no-tests --quick the figures alone, in short
    python benchmarks/gpu.py --no-tests --only step --json figures.json

The tests fail if none of them ran on the GPU. Each case is measured with TF32 off and on, on both sides: npconv with
CUDA graphs (as it is) and eager, PyTorch eager in NCHW and channels_last, and with the whole training step in a CUDA
graph. Contenders work in processes of their own and take turns; before a case is timed, all are compared. A turn is
many steps, and waits for the device before the first and after the last. NPCONV_BACKEND=cupy python benchmarks/run.py
does the same without the tests.

The exit status: 0; 1 if the tests failed, a case was wrong or failed, or the losses on CPU and GPU are apart; 2 for
wrong arguments, or where something is missing: without a GPU or CuPy nothing is measured, without PyTorch and its CUDA
npconv alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gpu_cases
import machine
import numpy as np
from contenders import CONTENDERS, installed, titles
from crew import COMMAND, Crew, WorkerError
from gpu_cases import CURVE_BOUND, OPPONENTS, GpuCase
from measuring import MEMORY_STEPS, SMALL_SHARE, Benchmark
from summary_table import Row, counts, failed_row, note_of, ratio, table
from timing import Measurement, Plan, measure

OURS = "cupy"
NAMES = ["cupy", "cupy-eager", *OPPONENTS["eager"], *OPPONENTS["graphs"]]
PLAN = Plan(rounds=12, turn_seconds=0.2)
QUICK = Plan(rounds=5, turn_seconds=0.05, case_seconds=2.0, least=1)
TESTS = (sys.executable, "-m", "pytest")
FAILED_LINES = 60  # of the tests' output that are repeated if they fail


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="\n".join(__doc__.splitlines()[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("--no-tests", action="store_true", help="do not run the tests first")
    made.add_argument("--quick", action="store_true", help="short turns and few rounds")
    made.add_argument("--only", action="append", default=[], metavar="NAME", help="a group, or how names begin")
    made.add_argument("--list", action="store_true", help="list the names, and end")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    return made


def main(arguments: Sequence[str] | None = None, command: Sequence[str] = COMMAND) -> int:
    """The exit status, as the top of this file says; 130 if interrupted."""
    made = parser()
    args = made.parse_args(arguments)
    try:
        items = gpu_cases.chosen(args.only)
    except ValueError as error:
        made.error(str(error))
    if args.list:
        print("\n".join(f"{item.name:38} {item.title}" for item in items))
        return 0
    if args.json and not args.json.absolute().parent.is_dir():
        made.error(f"--json (={str(args.json)!r}) must be a file in a folder that exists")
    reason = unusable_because()
    if reason is not None:
        print(f"nothing to measure: {reason}", file=sys.stderr)
        return 2
    failed = not args.no_tests and not tests_pass()
    args.threads = machine.cores()  # of npconv on the CPU, whose losses are compared
    missing = [] if installed("cuda") else ["PyTorch is not installed: npconv alone, nothing to compare with"]
    benchmark = GpuBenchmark(args, QUICK if args.quick else PLAN, NAMES if not missing else NAMES[:2], missing)
    status = benchmark.run(items, command)
    return 1 if failed and status != 130 else status


def unusable_because() -> str | None:
    """Why nothing can be measured here; None if it can."""
    from npconv.backends.gpu import unusable_because

    return unusable_because()


def tests_pass(command: Sequence[str] = TESTS) -> bool:
    """Runs the tests with CuPy; shows their closing line, and what was before it if they fail."""
    print("the tests, with NPCONV_TEST_BACKEND=cupy ...", flush=True)
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, env={**os.environ, "NPCONV_TEST_BACKEND": "cupy"}, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines = done.stdout.strip().splitlines() or ["they said nothing"]
    print("\n".join(lines[-FAILED_LINES if done.returncode else -1 :]))
    if done.returncode:
        print(f"the tests failed (status {done.returncode})")
    print(flush=True)
    return done.returncode == 0


class GpuBenchmark(Benchmark):
    """Measures cases under both policies and collects their figures."""

    def __init__(self, args: argparse.Namespace, plan: Plan, names: list[str], missing: list[str]) -> None:
        super().__init__(args, plan, list(names), missing)
        self.curve: dict[str, Any] = {}
        self.machine |= {"driver": driver()}

    def run(self, items: Sequence[GpuCase], command: Sequence[str]) -> int:
        """Measure, print the table, write the file; the exit status."""
        started, interrupted = time.perf_counter(), False
        timed = [item for item in items if item.kind != "curve"]
        work = [(False, items), (True, timed)] if timed else [(False, items)]
        try:
            for tf32, chosen in work:
                self._under(tf32, chosen, command)
        except KeyboardInterrupt:
            interrupted = True
            print("\ninterrupted: the table has what was measured before")
        self._conclude(time.perf_counter() - started)
        return 130 if interrupted else 1 if self.failed else 2 if self.missing else 0

    def _under(self, tf32: bool, items: Sequence[GpuCase], command: Sequence[str]) -> None:
        """All cases with workers that compute with TF32, or without."""
        os.environ["NPCONV_TF32"] = str(int(tf32))  # every contender reads it when it starts, PyTorch's too
        with Crew(self.args.threads, command) as crew:
            if not tf32:
                self._introduce(crew)
            for number, item in enumerate(items, 1):
                case = item.with_tf32(tf32)
                print(f"[TF32 {_policy(tf32)}, {number}/{len(items)}] {case.name}", end="  ", flush=True)
                what = {"memory": self._memory, "curve": self._curve}.get(case.group, self._timed)
                try:
                    what(crew, case)
                except (WorkerError, OSError) as error:
                    self._add(failed_row(dataclasses.replace(case, name=_name(case)), str(error)))

    def _introduce(self, crew: Crew) -> None:
        for name in list(self.names):
            try:
                crew[name]
            except WorkerError as error:
                if name == OURS:
                    raise SystemExit(f"npconv does not start on the GPU: {error}") from error
                self.names.remove(name)
                self.missing.append(f"{CONTENDERS[name].title} is left out: {error}")
        self.machine.update(crew.versions)
        for what, text in self.machine.items():
            print(f"{what:8} {text}")
        for text in self.missing:
            print(f"missing  {text}")

    def _here(self, case: GpuCase) -> list[str]:
        return [name for name in case.contenders if name in self.names]

    def _timed(self, crew: Crew, case: GpuCase) -> None:  # type: ignore[override]
        found = _renamed(measure(crew, self._here(case), case, self.plan))
        found.name = _name(case)
        self.measurements.append(found)
        median = {name: value for name in found.times if (value := found.median(name)) is not None}
        minimum = {name: value for name in found.times if (value := found.minimum(name)) is not None}
        self._compared(case, "ms", median, minimum, note_of(found))

    def _memory(self, crew: Crew, case: GpuCase) -> None:  # type: ignore[override]
        """Extra memory of training steps, each contender in a process that has done nothing else."""
        found: dict[str, float] = {}
        for name in self._here(case):
            worker = crew.fresh(name)
            try:
                worker.ask("build", spec=case.spec())
                images = min(2, max(1, case.shape[0] // SMALL_SHARE))
                found[name] = float(worker.ask("memory", steps=MEMORY_STEPS, warm_images=images)["bytes"])
            finally:
                worker.close()
        found["npconv"] = found.pop(OURS)
        self._compared(case, "MB", found, found, "")

    def _compared(
        self, case: GpuCase, unit: str, median: dict[str, float], minimum: dict[str, float], note: str
    ) -> None:
        """A line for each opponent; npconv alone has one line."""
        opponents = [one for one in case.aims if any(name in median for name in OPPONENTS[one])]
        for opponent in opponents or list(case.aims)[:1]:
            theirs = min((median[name] for name in OPPONENTS[opponent] if name in median), default=None)
            bar, goal = case.aims[opponent]
            name = f"{_name(case)} / {opponent}" if opponents else _name(case)
            better = ratio(theirs, median.get("npconv"))
            self._add(Row(name, case.title, unit, median, minimum, better, bar, goal, note=note))

    def _curve(self, crew: Crew, case: GpuCase) -> None:
        """The same training on CPU and GPU."""
        losses = {}
        with tempfile.TemporaryDirectory() as folder:
            for name in ("npconv", OURS):
                crew[name].ask("build", spec=case.spec())
                losses[name] = crew[name].results(folder)["losses"]
        crew.dismiss("npconv")
        crew.forget([OURS])
        apart = float(np.max(np.abs(losses[OURS] - losses["npconv"]) / np.abs(losses["npconv"])))
        agree = apart <= CURVE_BOUND  # not if it is NaN
        self.failed |= not agree
        self.curve = {"agree": agree, "apart": apart, **{name: list(values) for name, values in losses.items()}}
        print(self._curve_line())

    def _curve_line(self) -> str:
        first, last = self.curve["npconv"][0], self.curve["npconv"][-1]
        return (
            f"the losses of {len(self.curve['npconv'])} steps on CPU and GPU ({first:.4g} to {last:.4g}) are within "
            f"{self.curve['apart']:.1e} of each other; within {CURVE_BOUND:g}: {'yes' if self.curve['agree'] else 'NO'}"
        )

    def _conclude(self, seconds: float) -> None:
        others = [name for name in self.names if name != OURS]
        print(f"\n{'; '.join(f'{what} {text}' for what, text in self.machine.items())}")
        print("Ratio: PyTorch's better layout / npconv, of the medians, eager or with CUDA graphs; for memory, of the")
        print("bytes of arrays that steps add at their peak. Batches are on the device, but for -upload.\n")
        print("\n".join(table(self.rows, others, titles(others))))
        if self.curve:
            print(f"\n{self._curve_line()}")
        for text in self.missing:
            print(f"missing: {text}")
        print(f"\n{counts(self.rows)}; {seconds:.0f} s")
        self._store()

    def figures(self) -> dict[str, Any]:
        """Everything that was found, for JSON: times in seconds, memory in bytes."""
        return {**super().figures(), "curve": self.curve}


def driver() -> str:
    """The driver's version, as nvidia-smi says it."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return "unknown: nvidia-smi did not say"
    return found[0] if found else "unknown: nvidia-smi did not say"


def _policy(tf32: bool) -> str:
    return "on" if tf32 else "off"


def _name(case: GpuCase) -> str:
    return f"{case.name} {'tf32' if case.tf32 else 'fp32'}"


def _renamed(found: Measurement) -> Measurement:
    """With npconv on CuPy under the name that the table has a column for."""
    parts: list[dict[str, Any]] = [found.times, found.steps, found.errors]
    for part in parts:
        if OURS in part:
            part["npconv"] = part.pop(OURS)
    return found


if __name__ == "__main__":
    sys.exit(main())
