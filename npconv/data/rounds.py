"""Epoch after epoch of batches, from a place that can be written down and gone back to.

    Rounds(pairs, 32, rng).next_of_round()   ->  (input, target), ..., None at the end of an epoch
    place()                                  ->  what `return_to` takes, later or in another process

The pairs of this package know the order that they have drawn, and go back to any place of it at once. Those of one's
own draw again what had been drawn since the epoch began, which takes as long as it took; it gives the same if the
order and all draws depend on `rng` alone, as `Pairs.batches` says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .pairs import Batch, Batches, Pairs

__all__ = ["Place", "Rounds"]


class Place(NamedTuple):
    """Between two batches. began: the state of the generator's bits when the epoch began, None before the first.

    drawn: batches since then. order: what the pairs know of the rest, by name; empty for pairs of one's own.
    """

    began: Any
    drawn: int
    order: Mapping[str, np.ndarray]


class Rounds:
    """The batches of `pairs`, each pair once a round."""

    def __init__(self, pairs: Pairs, batch_size: int, rng: np.random.Generator) -> None:
        self._pairs, self._batch_size, self._rng = pairs, batch_size, rng
        self._batches: Iterator[Batch] | None = None
        self._began: Any = None
        self._drawn = 0

    def next_of_round(self) -> Batch | None:
        """The next batch; None after the last one of a round, and then the first of the next."""
        if self._batches is None:
            self._began, self._drawn = self._rng.bit_generator.state, 0
            self._batches = self._pairs.batches(self._batch_size, self._rng)
        batch = next(self._batches, None)
        if batch is None:
            self._batches = None
        self._drawn += 1
        return batch

    def next(self) -> Batch:
        """The next batch, round after round without end."""
        while (batch := self.next_of_round()) is None:
            pass
        return batch

    def place(self) -> Place:
        """Where it is now. Arrays in it are not copies, and are never changed."""
        if self._batches is None:
            return Place(None, 0, {})
        return Place(self._began, self._drawn, self._batches.order() if isinstance(self._batches, Batches) else {})

    def return_to(self, place: Place) -> None:
        """Go to a place; what state the generator was in there is for the caller to restore, afterwards.

        Raises ValueError for a place that these pairs do not have.
        """
        if place.began is None:
            self._batches = None
            return
        self._rng.bit_generator.state = self._began = place.began
        self._batches, self._drawn = self._pairs.batches(self._batch_size, self._rng), place.drawn
        if isinstance(self._batches, Batches):
            self._batches.return_to(place.drawn, place.order)
            return
        for _ in range(place.drawn):
            if next(self._batches, None) is None:
                raise ValueError(f"the pairs have fewer than {place.drawn} batches of {self._batch_size}")
