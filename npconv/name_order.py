"""The order of a network's arrays, where a file has lost it: PyTorch's, module by module, weight before bias.

Files that list their names alphabetically have 10.weight before 2.weight, and bias before weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Of a module: its parameters as PyTorch lists them, then its buffers.
RANKS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def by_modules(names: Iterable[str], modules: Sequence[str]) -> list[str]:
    """`names` in the order of the paths of `modules` ("" is the network itself); those of other modules at the end."""
    places = {module: place for place, module in enumerate(modules)}

    def key(name: str) -> tuple[int, list[tuple[int, int, str]]]:
        return places.get(name.rpartition(".")[0], len(places)), by_numbers(name)

    return sorted(names, key=key)


def by_numbers(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names as far as numbers in them tell the order of their modules: 2.weight before 10.bias."""
    module, _, last = name.rpartition(".")
    rank = RANKS.index(last) if last in RANKS else len(RANKS)
    return [*_parts(module), (-1, rank, ""), *_parts(last)]


def _parts(text: str) -> list[tuple[int, int, str]]:
    parts = [part for part in re.split(r"(\d+)", text) if part]
    return [(0, int(p), "") if p.isdecimal() and p.isascii() and len(p) < 10 else (1, 0, p) for p in parts]


def put_back(names: Sequence[str]) -> list[str]:
    """`names`, sorted by their numbers if they are in alphabetical order, in which only a writer has left them."""
    return sorted(names, key=by_numbers) if list(names) == sorted(names) else list(names)
