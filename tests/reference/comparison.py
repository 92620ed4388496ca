"""Numbers that every machine draws alike, and the difference that the comparisons bound."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from devices import on_host

Results = dict[str, np.ndarray]


def uniform(shape: Sequence[int], label: str) -> np.ndarray:
    """Float64 numbers in [-1, 1) that depend on `label` only.

    They come from the raw stream of the bit generator, the one that NumPy promises not to change: the stored arrays
    need no inputs beside them.
    """
    raw = np.random.PCG64(zlib.crc32(label.encode())).random_raw(math.prod(shape))
    return ((raw >> np.uint64(11)).astype("float64") / 2**52 - 1).reshape(tuple(shape))


def relative_difference(ours: Any, theirs: Any) -> float:
    """max |ours - theirs| / max |theirs|; infinite where shapes or NaNs differ, 0 for empty arrays."""
    ours, theirs = np.asarray(on_host(ours)), np.asarray(on_host(theirs))
    if ours.shape != theirs.shape or not np.array_equal(np.isnan(ours), np.isnan(theirs)):
        return math.inf
    there = ~np.isnan(theirs)
    if not there.any():
        return 0.0
    ours, theirs = ours[there].astype("float64"), theirs[there].astype("float64")
    worst, size = float(abs(ours - theirs).max()), float(abs(theirs).max())
    return worst if worst == 0 or size == 0 else worst / size


def assert_close(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], bound: float) -> None:
    """AssertionError that names each array that differs by more than `bound`, or that one side lacks."""
    assert sorted(ours) == sorted(theirs)
    found = {key: relative_difference(ours[key], theirs[key]) for key in theirs}
    bad = {key: f"{value:.3g}" for key, value in found.items() if not value <= bound}
    assert not bad, f"relative differences above {bound:g}: {bad}"
