"""One run of the benchmark: the order of the work, what is printed on the way, and what is kept."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cases
import growth
import machine
import memory
import report_times
from cases import Case, Item
from contenders import CONTENDERS, LAYOUTS, PEERS, installed, titles
from crew import Crew, WorkerError, environment
from summary_table import UNITS, Row, counts, failed_row, note_of, ratio, table, timed_row
from timing import Measurement, Plan, measure

IMPORT_CODE = "import time; start = time.perf_counter(); import npconv; print(time.perf_counter() - start)"
MEMORY_STEPS = 20  # enough for all workers to have begun
SMALL_SHARE = 16  # a sixteenth of the batch, at most 2 images, is the warm-up


class Benchmark:
    """Measures items one after the other and collects their figures."""

    def __init__(self, args: argparse.Namespace, plan: Plan, names: list[str], missing: list[str]) -> None:
        self.args, self.plan, self.names, self.missing = args, plan, names, missing
        self.rows: list[Row] = []
        self.measurements: list[Measurement] = []
        self.grown: list[growth.Grown] = []
        self.reports: dict[str, Any] = {}
        self.machine: dict[str, str] = machine.describe(args.threads)
        self.failed = False

    def run(self, items: Sequence[Item], command: Sequence[str]) -> int:
        """Measure, print the table, write the files; the exit status."""
        started, interrupted = time.perf_counter(), False
        with Crew(self.args.threads, command) as crew:
            try:
                self._introduce(crew)
                for number, item in enumerate(items, 1):
                    seconds = time.perf_counter() - started
                    print(f"[{number}/{len(items)}, {seconds:.0f} s] {item.name}", end="  ", flush=True)
                    self._measure(crew, item)
            except KeyboardInterrupt:
                interrupted = True
                print("\ninterrupted: the table has what was measured before")
        self._conclude(time.perf_counter() - started)
        return 130 if interrupted else int(self.failed)

    def _introduce(self, crew: Crew) -> None:
        """Starts the workers (a contender that cannot start is left out), and says what they are."""
        for name in list(self.names):
            try:
                crew[name]
            except WorkerError as error:
                self.names.remove(name)
                self.missing.append(f"{CONTENDERS[name].title} is left out: {error}")
                self.failed |= name == "npconv"
        self.machine.update(crew.versions)
        for what, text in self.machine.items():
            print(f"{what:8} {text}")
        for text in self.missing:
            print(f"missing  {text}")
        if "npconv" not in self.names:
            raise SystemExit(
                "npconv itself does not start: nothing can be measured (in the repository: pip install -e .)"
            )

    def _measure(self, crew: Crew, item: Item) -> None:
        methods: dict[str, Callable[[Crew, Any], None]] = {
            "threads": self._threads, "peers": self._peers, "import": self._import, "memory": self._memory,
            "reports": self._report, "growth": self._growth, "long": self._long,
        }  # fmt: skip
        try:
            methods.get(item.group, self._timed)(crew, item)
        except (WorkerError, OSError, subprocess.SubprocessError) as error:
            self._add(failed_row(item, str(error)))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        self.failed |= row.mark in ("wrong", "error")
        figures = ", ".join(f"{name} {_short(value, row.unit)}" for name, value in row.median.items())
        compared = "" if row.ratio is None else f"  ratio {row.ratio:.2f}"
        said = row.note if row.note.startswith(row.mark) else f"{row.mark}  {row.note}"
        print(f"{figures}{compared}  {said}".rstrip(), flush=True)

    def _told(self, found: Measurement) -> None:
        """Keeps a measurement that has no line of its own in the table, unless it is wrong."""
        self.measurements.append(found)
        note = note_of(found)
        if note.startswith(("wrong", "error")):
            self._add(failed_row(Item(found.name, found.name), note.split(": ", 1)[1]))

    def _timed(self, crew: Crew, case: Case) -> None:
        found = measure(crew, self.names, case, self.plan)
        self.measurements.append(found)
        self._add(timed_row(case, found))

    def _threads(self, crew: Crew, case: Case) -> None:
        """A step with all threads against a step with one."""
        if self.args.threads < 2:
            print("left out: it needs two threads or more")
            return
        found = measure(crew, ["npconv", "npconv@1"], case, self.plan)
        crew.dismiss("npconv@1")
        self.measurements.append(found)
        row = timed_row(case, found)
        row.ratio = ratio(found.median("npconv@1"), found.median("npconv"))
        self._add(row)

    def _peers(self, crew: Crew, case: Case) -> None:
        here = [name for name in PEERS if installed(name)]
        found = measure(crew, [*self.names, *here], case, self.plan)
        crew.dismiss(*here)
        self._told(found)
        print(case.title)
        for name in [*self.names, *PEERS]:
            title, median = CONTENDERS[name].title, found.median(name)
            missing = "not timed" if name in [*self.names, *here] else "not installed"
            text = found.errors.get(name, missing).splitlines()[0] if median is None else f"{median * 1e3:.2f} ms"
            print(f"    {title:14} {text}")

    def _import(self, crew: Crew, item: Item) -> None:
        """`import npconv` in fresh processes; the first, which may find cold files, does not count."""
        with tempfile.TemporaryDirectory() as elsewhere:  # where no folder called npconv is found first
            seconds = [self._import_once(elsewhere) for _ in range(4 if self.args.quick else 12)][1:]
        bar, goal = cases.IMPORT_BAR, cases.IMPORT_GOAL
        median, least = {"npconv": statistics.median(seconds)}, {"npconv": min(seconds)}
        self._add(Row(item.name, item.title, "s", median, least, None, bar, goal, ceiling=True))

    def _import_once(self, folder: str) -> float:
        found = subprocess.run(
            [sys.executable, "-c", IMPORT_CODE], capture_output=True, text=True, check=True, cwd=folder,
            env=environment(self.args.threads),
        )  # fmt: skip
        return float(found.stdout)

    def _memory(self, crew: Crew, case: Case) -> None:
        """Extra memory of training steps, each contender in a process that has done nothing else."""
        found: dict[str, float] = {}
        methods: set[str] = set()
        for name in (name for name in self.names if name != "torch-compile"):
            worker = crew.fresh(name)
            try:
                worker.ask("build", spec=case.spec())
                warm = min(2, max(1, case.shape[0] // SMALL_SHARE))
                answer = worker.ask("memory", steps=MEMORY_STEPS, warm_images=warm)
            finally:
                worker.close()
            found[name] = float(answer["bytes"])
            methods.add(answer["method"])
        least = min((found[name] for name in LAYOUTS if name in found), default=None)
        less = ratio(least, found["npconv"])
        note = ", ".join(methods - {memory.RESET})  # the table says how it is done where it can be
        self._add(Row(case.name, case.title, "MB", found, found, less, case.bar, case.goal, note=note))

    def _report(self, crew: Crew, item: Item) -> None:
        if item.name == "reports/e-differences":
            self._differences()
            return
        make = report_times.report_c if item.name == "reports/c" else report_times.report_e
        self.reports[item.name] = make(crew, self.names, self.plan, self._told)

    def _differences(self) -> None:
        if "torch" not in self.names:
            print("left out: it needs PyTorch")
            return
        print("\nReport E, tables I and II")
        self._script("reports/e-differences", "report_tables.py", "--draws", "5" if self.args.quick else "100")

    def _growth(self, crew: Crew, item: Item) -> None:
        print()
        grown = growth.grow(crew, self.names, growth.series(item.name, self.args.quick), self.plan, self._told)
        if grown.seconds:
            self.grown.append(grown)
        print("\n".join(growth.lines(grown)), flush=True)

    def _long(self, crew: Crew, item: Item) -> None:
        print()
        folder = ["--data", self.args.data] if self.args.data else []
        if item.name == "long/b-sweep":
            self._script(item.name, "learning_rates.py", *folder)
            return
        if self.args.plot:
            folder += ["--plot", str(self.args.plot / "report-d.png")]
        self._script(item.name, "report_curve.py", *folder)

    def _script(self, name: str, script: str, *arguments: str) -> None:
        """Runs a script beside this one, prints what it prints as it comes, and keeps it."""
        process = subprocess.Popen(
            [sys.executable, "-u", str(Path(__file__).parent / script), *arguments],
            stdout=subprocess.PIPE, text=True, env=environment(self.args.threads), start_new_session=True,
        )  # fmt: skip
        lines: list[str] = []
        try:
            assert process.stdout is not None
            for line in process.stdout:
                print(f"  {line}", end="", flush=True)
                lines.append(line.rstrip())
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()
            process.wait()
        self.reports[name] = lines
        if process.returncode:
            self._add(failed_row(Item(name, name), f"{script} ended with status {process.returncode}"))

    def _conclude(self, seconds: float) -> None:
        others = [name for name in self.names if name != "npconv"]
        print(f"\n{'; '.join(f'{what} {text}' for what, text in self.machine.items())}")
        print("Ratio: PyTorch's better layout (eager) / npconv, of the medians; for memory, of the extra bytes;")
        print("for threads/, one thread / all. import/ has seconds as bar and goal. Extra memory: the peak of")
        print(f"{MEMORY_STEPS} steps in a fresh process, less what there was after a step on 1 or 2 images.\n")
        print("\n".join(table(self.rows, others, titles(others))))
        print(f"\n{counts(self.rows)}; {seconds:.0f} s")
        if self.args.plot and self.grown:
            from plots import plot_growth

            plot_growth(self.grown, self.args.plot / "growth.png")
            print(f"growth: {self.args.plot / 'growth.png'}")
        self._store()

    def _store(self) -> None:
        if self.args.json:
            self.args.json.write_text(json.dumps(self.figures(), indent=1) + "\n")
            print(f"figures: {self.args.json}")

    def figures(self) -> dict[str, Any]:
        """Everything that was found, for JSON: times in seconds, memory in bytes."""
        found = {
            "machine": self.machine,
            "missing": self.missing,
            "threads": self.args.threads,
            "plan": dataclasses.asdict(self.plan),
            "rows": [{**dataclasses.asdict(row), "mark": row.mark} for row in self.rows],
            "measurements": [dataclasses.asdict(one) for one in self.measurements],
            "reports": self.reports,
            "growth": [dataclasses.asdict(grown) for grown in self.grown],
        }
        plain: dict[str, Any] = _finite(found)
        return plain


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: float, unit: str) -> str:
    return f"{value * UNITS[unit]:.4g} {unit}"
