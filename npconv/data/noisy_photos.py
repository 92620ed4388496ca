"""Photographs with one realisation of noise each, as if they had been taken so: what learning from single noisy
images means.

    NoisyPhotos(photos, noise, 40, seed).region(i, ...)    the same noisy values at every call

The noise is drawn tile by tile, each tile from a generator of its own that the seed, the photograph and the tile's
place make. So a part of a large photograph costs no more than its tiles, and it does not matter which part is asked
for first, or whether a tile has been forgotten in between.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from .lazy import CACHE_BYTES
from .noise import Noise
from .photos import LRUCache, Photos

__all__ = ["NoisyPhotos"]

TILE = 64  # pixels a side, of the noisy images
REMEMBERED = 4096  # photographs whose strength of noise is known without drawing it again
_BITS = 20  # of a tile's row and column, in the number by which it is remembered


class NoisyPhotos:
    """Noisy versions of photographs, one of each, which never changes.

    photos: the clean ones; noise: what is done to them, its strength (of a range), or its block (of pixel sampling),
    drawn once a photograph. patch_size: pixel sampling draws among the blocks that leave room for a patch of it. seed:
    of all draws. cache_bytes: how much is remembered rather than drawn again.
    """

    def __init__(
        self, photos: Photos, noise: Noise, patch_size: int, seed: int, cache_bytes: int = CACHE_BYTES // 2
    ) -> None:
        self._photos, self._noise, self._size, self._seed = photos, noise, patch_size, seed
        self._tiles = LRUCache(cache_bytes)
        self._drawn: dict[int, Noise] = {}

    def noise(self, index: int) -> Noise:
        """What was done to photograph `index`, which must be large enough for a patch."""
        known = self._drawn  # another thread may forget all of them, and begin another dictionary
        if index in known:
            return known[index]
        rng = np.random.default_rng([self._seed, index, 0])
        noise = self._noise.drawn_for(self._photos.size(index), self._size, rng)
        if len(known) >= REMEMBERED:
            self._drawn = known = {}
        known[index] = noise
        return noise

    def size(self, index: int) -> tuple[int, int]:
        """(H, W) of noisy image `index`, which pixel sampling makes smaller than the photograph."""
        block = self._block(index)
        height, width = self._photos.size(index)
        return height // block, width // block

    def region(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A part of noisy image `index`: (C, height, width), float32, in 8-bit steps; it must be inside the image."""
        size, found = self.size(index), np.empty((self._photos.channels, height, width), np.float32)
        for row in range(top // TILE, (top + height - 1) // TILE + 1):
            for column in range(left // TILE, (left + width - 1) // TILE + 1):
                key = (index << 2 * _BITS) | (row << _BITS) | column
                tile = self._tiles.get(key, partial(self._tile, index, row, column, size))
                into, out_of = zip(
                    _overlap(row, top, height, tile.shape[1]), _overlap(column, left, width, tile.shape[2]), strict=True
                )
                found[:, into[0], into[1]] = tile[:, out_of[0], out_of[1]]
        return found

    def _tile(self, index: int, row: int, column: int, size: tuple[int, int], _: int) -> np.ndarray:
        height, width = min(TILE, size[0] - row * TILE), min(TILE, size[1] - column * TILE)
        block = self._block(index)
        area = self._photos.region(index, *(block * number for number in (row * TILE, column * TILE, height, width)))
        rng = np.random.default_rng([self._seed, index, 1, row, column])
        versions, _clean = self.noise(index).corrupt(area, rng, copies=1)
        return np.ascontiguousarray(versions[0])

    def _block(self, index: int) -> int:
        """The side of what makes one pixel of noisy image `index`."""
        return self.noise(index).smallest_photo(1)


def _overlap(number: int, start: int, length: int, tile: int) -> tuple[slice, slice]:
    """Where tile `number`, of this length, lies in an interval, and which part of the tile that is."""
    first, last = max(start, number * TILE), min(start + length, number * TILE + tile)
    return slice(first - start, last - start), slice(first - number * TILE, last - number * TILE)
