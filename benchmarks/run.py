"""npconv beside PyTorch: training steps, layers, memory, the reports' tables, and how the cost grows.

    python benchmarks/run.py --quick            everything in short, under two minutes on two cores
    python benchmarks/run.py                    everything, a dozen rounds each: a quarter of an hour
    python benchmarks/run.py --only step --only conv/64 --json figures.json

Each contender works in a process of its own, and they take turns. Before a case is timed, npconv and PyTorch are given
the same weights and data, and their outputs and gradients are compared: a case that disagrees is reported as wrong and
not timed, and the exit status is 1. The last table has a line a case: npconv, PyTorch, their ratio, and the bar and the
goal for it. Without PyTorch, npconv is timed alone.

With NPCONV_BACKEND=cupy all this is on the GPU, by gpu.py: its cases, against PyTorch with CUDA.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import cases
import contenders
import machine
from crew import COMMAND
from measuring import Benchmark
from timing import QUICK, Plan


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="\n".join(__doc__.splitlines()[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    threads = min(2, machine.cores())
    made.add_argument("--quick", action="store_true", help="short turns and few rounds")
    made.add_argument("--only", action="append", default=[], metavar="NAME", help="a group, or how names begin")
    made.add_argument("--list", action="store_true", help="list the names, and end")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    made.add_argument("--plot", type=Path, metavar="DIR", help="draw how the cost grows, and report D's curve")
    made.add_argument("--long", action="store_true", help="also reports B's and D's trainings (about an hour)")
    made.add_argument("--data", metavar="FOLDER", help="photographs for the trainings (default: dead leaves)")
    made.add_argument("--compile", action="store_true", help="also torch.compile, which takes long to compile")
    made.add_argument("--threads", type=_positive, default=threads, help=f"of every contender (default: {threads})")
    made.add_argument("--rounds", type=_positive, help=f"turns of each contender (default: {Plan.rounds})")
    return made


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"(={value}) must be at least 1")
    return value


def line_up(compiled: bool) -> tuple[list[str], list[str]]:
    """Who is measured beside npconv, first; and what is missing, in words."""
    names, missing = ["npconv"], []
    if not contenders.installed("torch"):
        return names, ["PyTorch is not installed: npconv alone, nothing to compare with (pip install torch)"]
    names += contenders.LAYOUTS
    if compiled and machine.cpp_compiler():
        names.append("torch-compile")
    elif compiled:
        missing.append("torch.compile is left out: no C++ compiler was found")
    return names, missing


def main(arguments: Sequence[str] | None = None, command: Sequence[str] = COMMAND) -> int:
    """The exit status: 0; 1 if a case was wrong or failed; 2 for wrong arguments; 130 if interrupted."""
    if os.environ.get("NPCONV_BACKEND") == "cupy":
        import gpu

        print("NPCONV_BACKEND=cupy: the GPU's cases, as benchmarks/gpu.py --no-tests measures them", flush=True)
        return gpu.main(["--no-tests", *(sys.argv[1:] if arguments is None else arguments)], command)
    made = parser()
    args = made.parse_args(arguments)
    try:
        items = cases.chosen(args.only, args.long, args.quick)
    except ValueError as error:
        made.error(str(error))
    if args.list:
        items = items if args.only else cases.everything()
        print("\n".join(f"{item.name:38} {item.title}" for item in items))
        return 0
    # What could not be written after an hour is said now.
    if args.json and not args.json.absolute().parent.is_dir():
        made.error(f"--json (={str(args.json)!r}) must be a file in a folder that exists")
    if args.plot:
        from plots import pyplot

        pyplot()
        args.plot.mkdir(parents=True, exist_ok=True)
    plan = QUICK if args.quick else Plan()
    plan = dataclasses.replace(plan, rounds=args.rounds or plan.rounds)
    names, missing = line_up(args.compile)
    return Benchmark(args, plan, names, missing).run(items, command)


if __name__ == "__main__":
    sys.exit(main())
