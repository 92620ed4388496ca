"""The order of an epoch's pairs, written down and gone back to, without reading or drawing what came before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from npconv.data import ArrayPairs, ArrayPhotos, Gaussian, Pairs, PatchPairs
from npconv.data.pairs import Batch
from npconv.data.rounds import Place, Rounds

IMAGES = np.arange(13 * 48, dtype=np.float32).reshape(13, 3, 4, 4) % 251


class Counted(ArrayPairs):
    """Pairs that count how many are read."""

    read = 0

    def _read(self, indices: np.ndarray) -> Batch:
        Counted.read += len(indices)
        return super()._read(indices)


class CountedPatches(PatchPairs):
    """Patches that count how many are drawn."""

    drawn = 0

    def _draw(self, indices: np.ndarray, rng: np.random.Generator) -> Batch:
        CountedPatches.drawn += len(indices)
        return super()._draw(indices, rng)


class Own(Pairs):
    """Pairs that are a generator function and nothing else."""

    def __len__(self) -> int:
        return 13

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, 4, 4

    def _epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        for start in range(0, 13, batch_size):
            values = rng.normal(size=(min(batch_size, 13 - start), 3, 4, 4))
            yield values, values

    def _take(self, count: int, rng: np.random.Generator) -> Batch:
        raise AssertionError("nobody asks")


def patches(photos: int = 13, count: int = 13) -> PatchPairs:
    return CountedPatches(ArrayPhotos(IMAGES[np.arange(photos) % 13]), Gaussian(5), count, 2)


SOURCES: dict[str, Any] = {
    "arrays": lambda: Counted(IMAGES, IMAGES),
    "patches": patches,
    "patches of few photos": lambda: patches(3, 50),
    "patches of many photos": lambda: patches(150, 20),
    "pairs of one's own": Own,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("batch_size", [1, 4, 13, 64])
def test_from_every_place_on_the_same_batches_come(source: str, batch_size: int) -> None:
    rng = np.random.default_rng(3)
    rounds = Rounds(SOURCES[source](), batch_size, rng)
    places, batches, ends = [], [], 0
    while ends < 2:
        places.append((rounds.place(), rng.bit_generator.state))
        batches.append(rounds.next_of_round())
        ends += batches[-1] is None
    for number, (place, state) in enumerate(places):
        again = np.random.default_rng(99)
        rounds = Rounds(SOURCES[source](), batch_size, again)
        rounds.next_of_round()
        Counted.read = CountedPatches.drawn = 0
        rounds.return_to(place)
        assert Counted.read == CountedPatches.drawn == 0
        again.bit_generator.state = state
        for expected in batches[number:]:
            found = rounds.next_of_round()
            assert (found is None) == (expected is None)
            for one, other in zip(found or (), expected or (), strict=True):
                np.testing.assert_array_equal(one, other)


def test_round_after_round() -> None:
    rounds = Rounds(ArrayPairs(IMAGES, IMAGES), 5, np.random.default_rng(0))
    sizes = [len(rounds.next()[0]) for _ in range(7)]
    assert sizes == [5, 5, 3, 5, 5, 3, 5]


def test_batches_are_those_of_an_epoch() -> None:
    for make in SOURCES.values():
        rng, other = np.random.default_rng(1), np.random.default_rng(1)
        rounds = Rounds(make(), 4, other)
        for x, target in make().batches(4, rng):
            found = rounds.next_of_round()
            np.testing.assert_array_equal(np.concatenate([x, target], 1), np.concatenate(found, 1))
        assert rounds.next_of_round() is None


BEGAN = np.random.default_rng(0).bit_generator.state


@pytest.mark.parametrize(
    ("source", "drawn", "order"),
    [
        ("arrays", 5, {}),
        ("arrays", -1, {}),
        ("patches", 5, {"pools": np.array(0)}),
        ("patches", 1, {"pools": np.array(2), "rest": np.arange(4)}),
        ("patches", 1, {"pools": np.array(0), "rest": np.arange(4)}),
        ("patches", 1, {"pools": np.array(1), "rest": np.array([13])}),
        ("patches", 1, {"pools": np.array(0), "waiting": np.array([-1])}),
        ("patches", 1, {"pools": np.array(0), "waiting": np.array([0.5])}),
        ("patches", 1, {"pools": np.array([[0]])}),
        ("patches", 1, {}),
        ("pairs of one's own", 5, {}),
    ],
)
def test_places_that_do_not_exist(source: str, drawn: int, order: dict[str, np.ndarray]) -> None:
    rounds = Rounds(SOURCES[source](), 4, np.random.default_rng(0))
    with pytest.raises(ValueError, match="batches of 4|the order of patches"):
        rounds.return_to(Place(BEGAN, drawn, order))
