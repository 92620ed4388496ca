"""Which array is which where names do not tell: by their order in a network and in a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..name_order import put_back

Pairs = list[tuple[str, str]]
Shapes = Mapping[str, Any]  # arrays by name, of which the shapes are looked at
KINDS = {"kernel": 4, "matrix": 2, "vector": 1}  # how many axes
COUNTER = "num_batches_tracked"  # of BatchNorm2d: files before PyTorch 0.4.1 have none, and evaluation needs none


def is_counter(name: str) -> bool:
    """Whether an array is a BatchNorm's count of batches, by its name."""
    return _last(name) == COUNTER


def in_order(own: Shapes, values: Mapping[str, np.ndarray], optional: Collection[str]) -> tuple[Pairs, list[str]]:
    """The k-th to the k-th, and what is left over; those of `optional` may be missing (see `_lacking`)."""
    ours, theirs = list(own), list(values)
    # Under another name, a counter still is the only kind of array that is a single integer.
    counters = {
        name for name, value in values.items() if is_counter(name) or (value.ndim == 0 and value.dtype.kind in "iu")
    }
    if len(counters) != sum(is_counter(name) for name in ours):  # those of one side alone belong to nobody
        ours, theirs = [n for n in ours if not is_counter(n)], [n for n in theirs if n not in counters]
    if len(theirs) < len(ours):
        lacking = _lacking({n: own[n] for n in ours}, {n: values[n] for n in theirs}, optional)
        ours = [name for name in ours if name not in lacking]
    problems = [f"missing: the file has no array number {i + 1}, for {ours[i]}" for i in range(len(theirs), len(ours))]
    problems += [
        f"unexpected: {theirs[i]}, array number {i + 1}; the network has {len(ours)}"
        for i in range(len(ours), len(theirs))
    ]
    return list(zip(ours, theirs, strict=False)), problems


def _lacking(own: Shapes, values: Shapes, optional: Collection[str]) -> set[str]:
    """Those of `optional` that `values` does not have: the k-th kernel has as many fewer arrays after it.

    What is after it must then be called as here (running_mean, ...), or it could be another one that is missing.
    """
    mine, yours = _groups(own), _groups(values)
    if len(mine) != len(yours):
        return set()
    lacking: set[str] = set()
    for names, others in zip(mine, yours, strict=True):
        may = [name for name in names if name in optional]
        left = [name for name in names if name not in may]
        if len(left) == len(others) and [_last(n) for n in left[1:]] == [_last(n) for n in others[1:]]:
            lacking |= set(may)
    return lacking


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _groups(arrays: Shapes) -> list[list[str]]:
    """The names, from each kernel to the next."""
    groups: list[list[str]] = []
    for name, array in arrays.items():
        if array.ndim > 1 or not groups:
            groups.append([])
        groups[-1].append(name)
    return groups


def within_kinds(own: Shapes, values: Shapes) -> tuple[Pairs, list[str]]:
    """The k-th kernel to the k-th kernel, the k-th vector to the k-th vector, and what is left over.

    Names that are in alphabetical order (w0, w1, w10, w2) are sorted by their numbers.
    """
    statistics = [name for name in own if _last(name).startswith("running_")]
    if statistics:
        return [], [f"missing: kinds do not tell which vector is {statistics[0]}"]
    pairs, problems = [], []
    for kind, axes in KINDS.items():
        ours = [name for name, array in own.items() if array.ndim == axes]
        theirs = put_back([name for name, array in values.items() if array.ndim == axes])
        pairs += list(zip(ours, theirs, strict=False))
        problems += [
            f"missing: the file has no {kind} number {i + 1}, for {ours[i]}" for i in range(len(theirs), len(ours))
        ]
        problems += [f"unexpected: {theirs[i]}, {kind} number {i + 1}" for i in range(len(ours), len(theirs))]
    return pairs, problems + [f"unexpected: {name}" for name, a in values.items() if a.ndim not in KINDS.values()]
