"""What checkpoints cost a training: the recipe of `npconv train`, each checkpoint and each mark between them timed.

    python benchmarks/checkpoint_cost.py
    python benchmarks/checkpoint_cost.py --network dncnn --seconds 60

Trains by time as the command does, with a checkpoint every second, which is far more often than anyone would, to have
many to time. A mark is what every step notes for a checkpoint that may be needed. The shares are those at the command's
own interval.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine

import npconv
from npconv.checkpoints import Keeper
from npconv.cli import main as npconv_main
from npconv.cli.recipe import CHECKPOINT_EVERY
from npconv.duration import seconds_of
from npconv.model import Model


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and print the figures; the exit status is that of the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="unet", help="with its recipe (unet)")
    parser.add_argument("--seconds", type=float, default=40, help="of training (40)")
    args = parser.parse_args(arguments)
    writes, steps = _timed(Keeper, "_write"), _timed(Model, "train_batch")
    marks = _timed(Keeper, "_mark"), _timed(Keeper, "_in_reach")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        often = "--checkpoint-every", "1s", "--quiet", "-o", str(run)
        status = npconv_main(["train", "--network", args.network, "--time", str(args.seconds), *often])
        size = (run / "checkpoint.h5").stat().st_size
    if status == 0:
        _show(args.network, size, writes, marks, steps)
    return status


def _timed(owner: type, name: str) -> list[float]:
    """Lets a method note the seconds that each of its calls takes."""
    original: Callable[..., Any] = getattr(owner, name)
    taken: list[float] = []

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*arguments, **options)
        finally:
            taken.append(time.perf_counter() - started)

    setattr(owner, name, timed)
    return taken


def _show(
    network: str, size: int, writes: list[float], marks: tuple[list[float], list[float]], steps: list[float]
) -> None:
    step, write = statistics.median(steps), statistics.median(writes)
    # A mark reads what callbacks may have changed, and after a callback that is read once more.
    mark = statistics.median(marks[0]) + (len(marks[1]) > 1.5 * len(marks[0])) * statistics.median(marks[1])
    interval = seconds_of(CHECKPOINT_EVERY)
    print(", ".join(machine.describe(npconv.backend().workers).values()))
    print(f"{network}: {len(steps):,} steps of {1000 * step:.1f} ms")
    spread = f"{1000 * min(writes):.0f} to {1000 * max(writes):.0f}, {len(writes)} of them"
    share = f"every {CHECKPOINT_EVERY}: {100 * write / interval:.3f} % of the time"
    print(f"checkpoint: {1000 * write:.0f} ms ({spread}), {size / 1e6:.1f} MB; {share}")
    print(f"marks: {1e6 * mark:.0f} us a step, {100 * mark / step:.2f} % of the time")


if __name__ == "__main__":
    sys.exit(main())
