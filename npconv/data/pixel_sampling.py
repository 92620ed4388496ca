"""Pixel-sampling noise: a photograph shrunk by taking one random pixel of each block."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from .. import checks
from .noise import Noise, random_corner

__all__ = ["PixelSampling"]


@dataclass(frozen=True)
class PixelSampling(Noise):
    """One random pixel of each b x b block stands for the block's mean: a photo shrunk without averaging.

    The pixel is the same for R, G and B. Its mean over the draws is the block's mean, so the noise has mean
    exactly zero; it follows the local detail and has heavy tails. b is drawn from smallest..largest for every
    picture or patch, from those values only for which the photo is large enough.
    """

    independent_channels: ClassVar[bool] = False

    smallest: int = 5
    largest: int = 8

    def __post_init__(self) -> None:
        checks.integer(self.smallest, "smallest", 2)  # 1 pixel has no noise
        if checks.integer(self.largest, "largest", 1) < self.smallest:
            raise ValueError(f"largest (={self.largest}) must be at least smallest (={self.smallest})")

    def __str__(self) -> str:
        return f"pixel-sampling:{self.smallest}-{self.largest}"

    def smallest_photo(self, size: int) -> int:
        return self.smallest * checks.integer(size, "size", 1)

    def drawn_for(self, shape: tuple[int, ...], size: int, rng: np.random.Generator) -> PixelSampling:
        block = self._block(shape, size, rng)
        return PixelSampling(block, block)

    def random_area(self, shape: tuple[int, ...], size: int, rng: np.random.Generator) -> tuple[int, int, int]:
        side = size * self._block(shape, size, rng)
        return *random_corner(shape, side, rng), side

    def _block(self, shape: tuple[int, ...], size: int, rng: np.random.Generator) -> int:
        largest = min(self.largest, shape[0] // size, shape[1] // size)
        return int(rng.integers(self.smallest, largest + 1))

    def versions(
        self, area: np.ndarray, size: int, rng: np.random.Generator, copies: int, clean: bool = False
    ) -> list[np.ndarray]:
        block = area.shape[1] // size
        noisy = list(_sample_blocks(area, block, (copies, size, size), rng).swapaxes(0, 1))
        return [*noisy, _block_means(area, block)] if clean else noisy

    def _corrupt(self, photo: np.ndarray, rng: np.random.Generator, copies: int) -> list[np.ndarray]:
        block = self._block(photo.shape[1:], 1, rng)
        height, width = photo.shape[1] // block, photo.shape[2] // block
        noisy = _sample_blocks(photo, block, (copies, height, width), rng)
        clean = _block_means(photo[:, : height * block, : width * block], block)
        return [*np.ascontiguousarray(noisy.swapaxes(0, 1)), clean]


def _sample_blocks(photo: np.ndarray, block: int, shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """One random pixel of each block of a photo, from its corner on: (C, copies, height, width), float32.

    shape: copies, and how many blocks down and across.
    """
    photo = np.ascontiguousarray(photo)
    channels, _, width = photo.shape
    # Positions in the flattened photo, one draw and one look-up a block: this runs once a patch, and plain
    # (row, column) indexing would take several times as long.
    drawn = rng.integers(0, block * block, shape, dtype=np.uint16)
    positions = _pixels(block, width).take(drawn)
    positions += _blocks(block, width, *shape[1:])
    return photo.reshape(channels, -1).take(positions, axis=1).astype(np.float32)


@lru_cache(maxsize=64)
def _pixels(block: int, photo_width: int) -> np.ndarray:
    """Positions, in a flattened photo, of the b*b pixels of its first block."""
    rows, columns = np.divmod(np.arange(block * block), block)
    return rows * photo_width + columns


@lru_cache(maxsize=64)
def _blocks(block: int, photo_width: int, height: int, width: int) -> np.ndarray:
    """Positions, in a flattened photo, of the first pixels of height x width blocks."""
    return np.arange(height)[:, np.newaxis] * (block * photo_width) + np.arange(width) * block


def _block_means(photo: np.ndarray, block: int) -> np.ndarray:
    """The mean of each block of a photo that the blocks cover exactly: (C, H / block, W / block), float32."""
    channels, height, width = photo.shape
    # (C, H/b, b, W) -> (C, H/b, W) -> (C, H/b, W/b): the rows first, since they are whole runs
    rows = photo.reshape(channels, height // block, block, width).sum(axis=2, dtype=np.float32)
    means = rows.reshape(channels, height // block, width // block, block).sum(axis=3)
    means /= block * block
    return means
