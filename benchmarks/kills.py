"""Kill trainings at random moments, resume them, and compare what they end with, bit for bit, with one left alone.

    python benchmarks/kills.py --kills 50
    python benchmarks/kills.py --kills 12 --threads 2 -- --network dncnn --depth 3 --channels 8

Three kinds take turns: `npconv train --epochs`, with all its files; `Model.train` of a network with batch normalisation
and Dropout; and `npconv train --time`. Every fourth kill comes while a checkpoint is being written: before, half way,
before its name is given, or right after. The others come at a moment drawn evenly from the time that the run takes.
Each run is in a forked process, so that none waits for imports (Linux, macOS). Options after -- go to `npconv train
--epochs` too, which is the only kind then.

Compared are all arrays and attributes of the models and of the last checkpoints (network, optimizer, best epoch, order
of the data), their states but for times, history.csv but for the seconds, and the bytes of the pictures. Two runs by
time are never the same: such a one must come to its end, in its time, with the epochs, the steps and the best epoch
that the checkpoint held.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from killed_trainings import Training, all_of, place

from npconv import pictures
from npconv.checkpoints import file as checkpoint_file

STAGES = ("before writing", "half written", "written, not named", "just named")
PATIENCE = 10.0  # seconds for worker processes to notice that their parent is gone


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it all; the exit status is 1 if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--threads", type=int, default=1, help="NPCONV_THREADS (1); more of them use processes too")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a run by time (1.5)")
    parser.add_argument("--no-pictures", action="store_true", help="empty files in their place, which takes less time")
    parser.add_argument("options", nargs="*", metavar="-- OPTIONS", help="of npconv train, beside those of a small run")
    args = parser.parse_args(arguments)
    os.environ["NPCONV_THREADS"] = str(args.threads)
    if args.no_pictures:
        pictures.curves = pictures.examples = _no_picture
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        return _all(args, Path(folder))


def _no_picture(*arguments: Any, **_: Any) -> None:
    next(path for path in arguments if isinstance(path, Path)).touch()


def _all(args: argparse.Namespace, folder: Path) -> int:
    trainings, log = all_of(folder, args.options, args.seconds), folder / "log"
    wholes = [_left_alone(training, folder / f"{training.name}-alone", log) for training in trainings]
    if 0 in wholes:
        print(log.read_text())
        return 2
    told = ", ".join(f"{training.name} {whole:.1f} s" for training, whole in zip(trainings, wholes, strict=True))
    print(f"NPCONV_THREADS={args.threads}; left alone: {told}\n")
    print(f"{'kill':>4}  {'kind':<7}  {'moment':<26}  {'resumed':<34}  result")
    rng, same, kept, began = random.Random(args.seed), 0, 0, 0
    for number in range(1, args.kills + 1):
        training, whole = trainings[(number - 1) % len(trainings)], wholes[(number - 1) % len(trainings)]
        run = folder / f"run{number}"
        moment = _killed(rng, number, training, run, log, whole)
        where, held = place(run)
        status = finished(start(lambda t=training, r=run, go_on=held is not None: t.train(r, go_on), log))
        problems = [f"exit status {status}: {_last(log)}"] if status else []
        problems = problems or training.judge(folder / f"{training.name}-alone", run, held)
        began += held is not None
        same += training.same_bits and not problems
        kept += not training.same_bits and not problems
        told = "; ".join(problems[:3]) or ("the same bits" if training.same_bits else "nothing lost")
        print(f"{number:>4}  {training.name:<7}  {moment:<26}  {where:<34}  {told}", flush=True)
    lost = args.kills - same - kept
    print(
        f"\n{args.kills} kills ({began} went on from a checkpoint, {args.kills - began} had none yet): {same} ended "
        f"with the same bits, {kept} in time with all that their checkpoints held; {lost} lost"
    )
    return 1 if lost else 0


def _left_alone(training: Training, folder: Path, log: Path) -> float:
    """How many seconds it takes; 0 if it fails."""
    started = time.perf_counter()
    status = finished(start(lambda: training.train(folder, False), log))
    return 0 if status else time.perf_counter() - started


def _killed(rng: random.Random, number: int, training: Training, run: Path, log: Path, whole: float) -> str:
    """Begin the training and have it killed; when that was, in words."""
    if number % 4 == 0:
        stage, which = rng.choice(STAGES), rng.randint(1, 9)
        finished(start(lambda: _die_writing(which, stage) or training.train(run, False), log))
        return f"{stage}, number {which}"
    delay = rng.uniform(0, whole)
    child = start(lambda: training.train(run, False), log)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    status = finished(child)
    return f"{delay:.2f} s" if status == -signal.SIGKILL else f"{delay:.2f} s: it was over"


def start(work: Callable[[], int], log: Path) -> int:
    """Work in a child process and a session of its own, which ends with the status it gives; the process's number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 3
    try:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        status = work()
    except BaseException as error:
        print(repr(error), flush=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finished(child: int) -> int:
    """The exit status of a child, minus the number of the signal that ended it; all of its session has ended too."""
    _, status = os.waitpid(child, 0)
    until = time.monotonic() + PATIENCE
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.killpg(child, 0)
            if time.monotonic() > until:
                raise RuntimeError(f"worker processes of {child} have outlived it by {PATIENCE:.0f} s")
            time.sleep(0.01)
    return os.waitstatus_to_exitcode(status)


def _die_writing(number: int, stage: str) -> None:
    """From now on, the checkpoint with this number kills the process at this stage."""
    original, count = checkpoint_file.whole_file, itertools.count(1)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @contextlib.contextmanager
    def deadly(path: Path) -> Iterator[Path]:
        if next(count) != number:
            with original(path) as part:
                yield part
            return
        with original(path) as part:
            if stage == STAGES[0]:
                die()
            yield part
            if stage == STAGES[1]:
                os.truncate(part, part.stat().st_size // 2)
            if stage in STAGES[1:3]:
                die()
        die()

    checkpoint_file.whole_file = deadly


def _last(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
