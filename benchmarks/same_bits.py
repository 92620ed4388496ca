"""What is not the same in the folders of two trainings, bit for bit, but for what a clock has said."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from npconv.checkpoints import file as checkpoint_file
from npconv.checkpoints.file import Checkpoint

WALL_CLOCK = ("seconds", "passed", "report", "end", "share")  # what two equal runs differ in
OF_THE_CALL = ("options.json",)  # it says where the run was


def differences(alone: Path, run: Path) -> list[str]:
    """All arrays and attributes of HDF5 files, states of checkpoints, rows of histories, and bytes of pictures."""
    names = [sorted(path.name for path in folder.iterdir()) for folder in (alone, run)]
    found = [] if names[0] == names[1] else [f"files {names[1]}, not {names[0]}"]
    for name in sorted(set(names[0]) & set(names[1]) - set(OF_THE_CALL)):
        pair = alone / name, run / name
        if name.endswith(".h5"):
            found += [f"{name}: {what}" for what in _arrays_differ(*map(_arrays, pair))]
        elif name.endswith(".csv"):
            found += [name] if _rows(pair[0]) != _rows(pair[1]) else []
        elif pair[0].read_bytes() != pair[1].read_bytes():
            found.append(name)
    states = [_timeless(checkpoint_file.read(folder / "checkpoint.h5").state) for folder in (alone, run)]
    return found + [f"state: {key}" for key in states[0] if states[0][key] != states[1].get(key)]


def lost(held: Checkpoint | None, run: Path, seconds: float) -> list[str]:
    """What a run by time, which is over now, has lost of a checkpoint of its own that it went on from."""
    now = checkpoint_file.read(run / "checkpoint.h5")
    passed = now.state["progress"]["clock"]["passed"]
    found = [] if now.state["finished"] else ["it has not come to its end"]
    # Less than it may take by what it keeps free for the last report, which has taken part of a second before.
    found += [] if 0.4 * seconds < passed < 2 * seconds else [f"it took {passed:.1f} s"]
    if held is None:
        return found
    epochs = len(held.state["history"])
    if now.state["history"][:epochs] != held.state["history"] or len(_rows(run / "history.csv")) < epochs:
        found.append("epochs")
    if _steps(now) < _steps(held) or passed < held.state["progress"]["clock"]["passed"]:
        found.append("steps")
    best = held.state["best_psnr"], now.state["best_psnr"]
    if best[0] is not None and (best[1] is None or best[1] < best[0]):
        found.append("the best epoch")
    if best[0] is not None and best[0] == best[1]:
        theirs = now.arrays["best.parameters"]
        arrays = held.arrays["best.parameters"].items()
        found += [f"best {name}" for name, array in arrays if array.tobytes() != theirs[name].tobytes()]
    return found


def _steps(contents: Checkpoint) -> int:
    """Those that the optimizer has taken."""
    return int(contents.state["remembered"][0].get("step", 0))


def _arrays(path: Path) -> dict[str, Any]:
    import h5py

    with h5py.File(path, "r") as file:
        found: dict[str, Any] = {f"attribute {name}": np.array(value) for name, value in file.attrs.items()}

        def note(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and not name.startswith("checkpoint/"):
                found[name] = item[...]

        file.visititems(note)
    return found


def _arrays_differ(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    if ours.keys() != theirs.keys():
        return [f"arrays {sorted(ours.keys() ^ theirs.keys())}"]
    return [name for name, array in ours.items() if array.tobytes() != theirs[name].tobytes()]


def _timeless(value: Any) -> Any:
    """Plain data without what a clock has said, or where the run was."""
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in (*WALL_CLOCK, "notes")}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]
