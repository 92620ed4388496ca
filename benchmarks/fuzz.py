"""Reads mutated files of every format that npconv reads, and tells what came of them.

    python benchmarks/fuzz.py --inputs 12000 --seed 1 --keep faults

Each input goes through every public way to read its format, in a watched process of its own (`fuzzing/guards.py`): it
must be loaded, or refused with npconv.FileFormatError that names the file and the place, within 5 s and 500 MB, with
nothing opened or started, and the network in memory as it was. Linux only. Exit status 1 after a fault; --keep writes
the files of faults into a folder.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from fuzzing.cases import Format, draw, make
from fuzzing.formats import formats
from fuzzing.random_bytes import GENERIC
from fuzzing.server import Server

OUTCOMES = ("loaded", "refused", "fault")
Counts = Counter[tuple[str, str, str]]


def main() -> int:
    """Run the inputs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=12_000, help="how many files to read")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other files")
    parser.add_argument("--formats", nargs="*", default=[], help="parts of the formats' names (default: all)")
    parser.add_argument("--mutations", nargs="*", default=[], help="parts of the mutations' names (default: all)")
    parser.add_argument("--keep", type=Path, help="a folder for the files of faults")
    parser.add_argument("--compare", action="store_true", help="compare what is loaded with what other readers find")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    args = parser.parse_args()
    known = [form for form in formats() if not args.formats or any(part in form.name for part in args.formats)]
    began, counts, worst = time.perf_counter(), Counter(), {"seconds": (0.0, ""), "bytes": (0, "")}
    compared = 0
    with Server(known, args.compare) as server:
        for number, (form, name, seed) in enumerate(draw(known, args.inputs, Random(args.seed), GENERIC)):
            if args.mutations and not any(part in name for part in args.mutations):
                continue
            if time.perf_counter() - began > args.seconds:
                print(f"stopped after {number} inputs")
                break
            given = make(form, name, seed, GENERIC)
            result = server.run(given)
            compared += result["compared"]
            counts[form.name, name, result["outcome"]] += 1
            for key, (most, _) in worst.items():
                if result[key] > most:
                    worst[key] = result[key], f"{form.name}, {name}, {seed}"
            if result["outcome"] == "fault":
                print(f"FAULT {form.name}, {name}, seed {seed}: {'; '.join(result['faults'])}", flush=True)
                if args.keep:
                    args.keep.mkdir(exist_ok=True)
                    (args.keep / f"{form.name}-{name}-{seed}{form.ending}".replace("/", "_")).write_bytes(given.data)
    print(table(known, counts))
    total = sum(counts.values())
    faults = sum(count for (_, _, outcome), count in counts.items() if outcome == "fault")
    print(f"{total:,} inputs in {time.perf_counter() - began:,.0f} s; {faults} faults")
    if args.compare:
        print(f"{compared:,} of those loaded were compared with what other readers find")
    print(f"longest: {worst['seconds'][0]:.2f} s ({worst['seconds'][1]})")
    print(f"largest: {worst['bytes'][0] / 1e6:.0f} MB ({worst['bytes'][1]})")
    return 1 if faults else 0


def table(known: list[Format], counts: Counts) -> str:
    """A row for each format and mutation."""
    lines = ["| format | mutation | tried | loaded | refused | faults |", "|---|---|---|---|---|---|"]
    for form in known:
        for name in ("none", *GENERIC, *form.mutations):
            lines += _row(form.name, name, [counts[form.name, name, outcome] for outcome in OUTCOMES])
        totals = [sum(n for (f, _, o), n in counts.items() if f == form.name and o == outcome) for outcome in OUTCOMES]
        lines += _row(f"**{form.name}**", "all", totals)
    lines += _row("**all**", "all", [sum(n for (_, _, o), n in counts.items() if o == outcome) for outcome in OUTCOMES])
    return "\n".join(lines)


def _row(form: str, name: str, numbers: list[int]) -> list[Any]:
    tried = sum(numbers)
    return [f"| {form} | {name} | {tried:,} | " + " | ".join(f"{n:,}" for n in numbers) + " |"] if tried else []


if __name__ == "__main__":
    raise SystemExit(main())
