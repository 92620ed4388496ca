"""Makes extreme_classes.npz: the class of every number that PyTorch gives for the groups of extreme_table.py.

    python tests/reference/make_extremes.py

needs PyTorch and npconv, and overwrites the file. Tests compare with it where PyTorch is not installed; where it is,
they also check that the file still is what PyTorch gives.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from comparison import Results
from extreme_cases import DTYPES
from extreme_table import GROUPS

PATH = Path(__file__).with_name("extreme_classes.npz")


def joined(results: list[Results]) -> np.ndarray:
    """All classes of a group, one after the other, four to a byte."""
    flat = np.concatenate([values for result in results for _, values in sorted(result.items())])
    four = np.zeros((-(-flat.size // 4), 4), np.uint8)
    four.reshape(-1)[: flat.size] = flat
    return (four << np.arange(0, 8, 2, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)


def key(group: Any, dtype: str) -> str:
    return f"{group.name} {dtype}"


@cache
def stored() -> dict[str, np.ndarray]:
    with np.load(PATH) as file:
        return {name: file[name] for name in file.files}


def assert_classes(group: Any, dtype: str, found: list[Results], expected: np.ndarray | None = None) -> None:
    """AssertionError that names the plant, the array and the first places of it that are of another class."""
    packed = stored()[key(group, dtype)] if expected is None else expected
    wanted = (packed[:, None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3).reshape(-1)
    start, bad = 0, []
    for number, result in enumerate(found):
        for name, values in sorted(result.items()):
            want, start = wanted[start : start + values.size], start + values.size
            if not np.array_equal(values, want):
                places = np.flatnonzero(values != want)
                plant = group.plants[number] if hasattr(group, "plants") else number
                few = places[:4]
                bad.append(f"{plant} {name} at {few} of {values.size}: {values[few]}, not {want[few]}")
    assert not bad, "\n".join([f"{group.name} {dtype}: {len(bad)} arrays (0 finite, 1 inf, 2 -inf, 3 NaN)", *bad[:12]])
    assert 0 <= wanted.size - start < 4


def main() -> None:
    import torch

    torch.set_num_threads(1)
    arrays = {key(group, dtype): joined(group.theirs(torch, dtype)) for group in GROUPS for dtype in DTYPES}
    np.savez_compressed(PATH, **arrays)
    print(f"{PATH.name}: {len(arrays)} groups, {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
