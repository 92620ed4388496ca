"""The process that reads hostile files: a line `kind<TAB>path` in, a line of JSON with what happened out.

An input is *loaded* if a reader gave something, *refused* if all raised FileFormatError that names the file and more,
and a *fault* if any did something else: another error, a changed network, too long, too much memory, something opened
or started that is not the file. A crash or a hang is seen by whoever started the process.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import sys
from pathlib import Path
from typing import Any

SECONDS, BYTES = 5.0, 500_000_000  # of one reader


def main(inputs: Path, outside: Path, warm: list[str]) -> None:
    """Read the files that standard input names, after some valid ones (`warm`), which import what is imported late.

    Where the first of `warm` is "compare", what is loaded is compared with what other readers find.
    """
    from PIL import Image

    from fuzzing import agreement, guards, readers

    faulthandler.enable()
    compare = warm[:1] == ["compare"]
    if compare:
        agreement.prepare()
        warm = warm[1:]
    Image.init()  # or the first file that is no picture would import all that pillow has
    known = readers.Readers()
    with readers.quietly():
        for line in warm:
            kind, path = line.split("\t")
            for _, read in known.kinds[kind]:
                try:
                    read(Path(path))
                except (readers.Misfit, ValueError):
                    continue  # a file of pairs has no `images`
        known.restore()
        watch = guards.Watch(inputs, outside)
        guards.limit_memory()
        print("ready", flush=True)
        for line in sys.stdin:
            kind, path = line.rstrip("\n").split("\t")
            print(json.dumps(examine(known, watch, kind, Path(path), compare)), flush=True)


def examine(known: Any, watch: Any, kind: str, path: Path, compare: bool = False) -> dict[str, Any]:
    """What all readers of a kind do with a file."""
    from fuzzing import agreement

    outcomes, faults, texts, longest, largest, compared = [], [], [], 0.0, 0, 0
    for name, read in known.kinds[kind]:
        outcome, text, value = attempt(watch, read, path)
        seconds, grown = watch.stop()
        faults += [f"{name}: {text}"] if outcome == "fault" else []
        faults += [f"{name}: {fault}" for fault in watch.faults]
        faults += [f"{name}: {seconds:.1f} s"] if seconds > SECONDS else []
        faults += [f"{name}: {grown / 1e6:.0f} MB"] if grown > BYTES else []
        if known.changed():
            faults += [f"{name}: the network has changed"] if outcome != "loaded" else []
            known.restore()
        if compare and outcome == "loaded" and not faults:
            differs = agreement.disagreement(name, path, value)
            compared += differs is not None
            faults += [f"{name}: other readers disagree: {differs}"] if differs else []
        outcomes.append(outcome)
        texts.append(text)
        longest, largest = max(longest, seconds), max(largest, grown)
    best = "fault" if faults else "loaded" if "loaded" in outcomes else "refused"
    return {
        "outcome": best,
        "faults": faults,
        "texts": texts,
        "seconds": longest,
        "bytes": largest,
        "compared": compared,
    }


def attempt(watch: Any, read: Any, path: Path) -> tuple[str, str, Any]:
    """What one reader does: loaded, refused or a fault; the words of its error; what it gave."""
    from fuzzing.readers import Misfit
    from npconv import FileFormatError

    gc.collect(0)
    watch.start()
    try:
        return "loaded", "", read(path)
    except Misfit as error:
        return "refused", str(error)[:300], None
    except FileFormatError as error:
        return (*judged(error, path), None)
    except BaseException as error:
        return "fault", f"{type(error).__name__}: {str(error)[:300]}", None


def judged(error: BaseException, path: Path) -> tuple[str, str]:
    """A refusal must say where, and not be for want of memory, which the guard ends early."""
    text, cause = str(error), error
    while cause is not None:
        if (isinstance(cause, MemoryError) and not _of_the_parser(cause)) or "emory allocation failed" in str(cause):
            return "fault", f"memory was asked for: {text[:300]}"
        cause = cause.__cause__ or cause.__context__
    if path.name not in text or len(text) < len(path.name) + 10:
        return "fault", f"it does not say where: {text[:300]}"
    return "refused", text[:300]


def _of_the_parser(error: BaseException) -> bool:
    """Whether Python's parser raised it, of a short text whose brackets are too deep for its stack."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename.endswith("ast.py")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
