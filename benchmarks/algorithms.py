"""Does `auto` pick the fastest convolution algorithm? Measures every one that applies, beside the cost model's pick.

    python benchmarks/algorithms.py                     the whole grid: about three minutes
    python benchmarks/algorithms.py --quick             a fifth of its shapes, in fewer rounds
    python benchmarks/algorithms.py --json times.json   keep the times
    python benchmarks/algorithms.py --from times.json   judge times that were kept; nothing is measured
    python benchmarks/algorithms.py --fit               also fit the prices of backends/cpu/choice.py

All on one thread, as on one worker. Three computations are judged:

    output        the weights are transformed already: training does that once a step, before the first images
    with weights  output, and transforming the weights once: a layer that is called by hand
    kernel        the gradient of the kernel

The algorithms of a shape take turns (A B C A B C ...), and the lower quartile of the turns counts. A pick within 10 %
of the fastest is right; the strict share, and the time lost (sum of picked / sum of fastest - 1), are printed too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import machine
import prices
from algorithm_times import KINDS, Measured, Times, grid, measure, store, stored
from threadpoolctl import threadpool_limits

from npconv.backends.cpu import choice

CLOSE = 1.1  # times the fastest: no slower is right
ROUNDS, QUICK_ROUNDS, QUICK_STEP = 7, 5, 5


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="\n".join(__doc__.splitlines()[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    made.add_argument("--quick", action="store_true", help="a fifth of the shapes")
    made.add_argument("--fit", action="store_true", help="fit prices to these times, and judge them too")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the times")
    made.add_argument("--from", type=Path, metavar="FILE", dest="source", help="times that --json wrote")
    return made


def measured(quick: bool) -> list[Measured]:
    """The grid's times; each shape is printed as it is done."""
    shapes = grid()[:: QUICK_STEP if quick else 1]
    print(f"{machine.cpu_model()}, one thread; microseconds, * the pick, ! a pick over 10 % from the fastest\n")
    found = []
    with threadpool_limits(1):
        for shape in shapes:
            found.append(measure(shape, QUICK_ROUNDS if quick else ROUNDS))
            print(line(found[-1]), flush=True)
    return found


def line(shape_times: Measured) -> str:
    """A shape's times, for the table."""
    cells = []
    for kind in ("output", "kernel"):
        times = shape_times.times(kind)
        picked = pick(shape_times, kind) if times else ""
        mark = "*" if times and times[picked] <= CLOSE * min(times.values()) else "!"
        found = (f"{name} {taken / 1e3:.0f}{mark if name == picked else ''}" for name, taken in times.items())
        cells.append(f"{kind}: {', '.join(found)}" if times else "")
    return f"{shape_times.shape!s:36} {cells[0]:66} {cells[1]}".rstrip()


def pick(shape_times: Measured, kind: str) -> str:
    """The algorithm that the model finds cheapest."""
    predicted = shape_times.predicted(kind)
    return min(predicted, key=lambda name: predicted[name])


def judged(times: Sequence[Measured], kind: str) -> str:
    """The share of right picks, the strict share, and the time lost, in words."""
    rows: list[tuple[float, float]] = []
    for shape_times in times:
        if found := shape_times.times(kind):
            rows.append((found[pick(shape_times, kind)], min(found.values())))
    right = sum(picked <= CLOSE * best for picked, best in rows) / len(rows)
    strict = sum(picked == best for picked, best in rows) / len(rows)
    lost = sum(picked for picked, _ in rows) / sum(best for _, best in rows) - 1
    return f"{kind:13} {len(rows):4} shapes: right {right:.1%}, strictly {strict:.1%}, time lost {lost:.2%}"


def report(times: Sequence[Measured]) -> str:
    """The verdict on each kind."""
    return "\n".join(judged(times, kind) for kind in KINDS)


@contextmanager
def replaced(found: Times) -> Iterator[None]:
    """The model with other prices."""
    before = dict(choice.PRICES)
    choice.PRICES.update(found)
    try:
        yield
    finally:
        choice.PRICES.update(before)


def refit(times: Sequence[Measured]) -> None:
    """Print fitted prices, how they judge, and how prices fitted to one half of the shapes do on the other."""
    found = prices.fit(times)
    print("\nfitted prices\n" + "\n".join(f'    "{what}": {price:.3g},' for what, price in found.items()))
    with replaced(found):
        print("\n" + report(times))
    print("\nfitted to every other shape, and judged on the rest")
    with replaced(prices.fit(times[::2])):
        print(report(times[1::2]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status, 0."""
    made = parser()
    args = made.parse_args(arguments)
    if args.json and not args.json.absolute().parent.is_dir():
        made.error(f"--json (={str(args.json)!r}) must be a file in a folder that exists")
    times = stored(args.source) if args.source else measured(args.quick)
    if args.json:
        store(times, args.json)
    print("\n" + report(times))
    if args.fit:
        refit(times)
    return 0


if __name__ == "__main__":
    sys.exit(main())
