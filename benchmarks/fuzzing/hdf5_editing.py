"""Changes to HDF5 files that are in memory: by h5py, and of bytes that h5py would not write."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import h5py

from .cases import Mutation


def changed_file(data: bytes, change: Callable[[Any], Any]) -> bytes:
    """The file after a change to it, opened."""
    file = io.BytesIO(data)
    with h5py.File(file, "r+") as opened:
        change(opened)
    return file.getvalue()


def of(*changes: Callable[[Random, Any], Any]) -> Mutation:
    """A mutation that makes one of some changes to the opened file; another one where h5py refuses to write it."""

    def mutation(rng: Random, data: bytes) -> bytes:
        while True:
            change = rng.choice(changes)
            try:
                return changed_file(data, partial(change, rng))
            except (ValueError, TypeError, OSError, KeyError, RuntimeError):
                continue

    return mutation


def positions(data: bytes, mark: bytes) -> list[int]:
    """Where a mark is."""
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


def some_dataset(rng: Random, file: Any) -> str:
    """The name of a data set, whichever."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return rng.choice(sorted(names))
