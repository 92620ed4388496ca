"""The three noise models: pixel sampling, Gaussian and Poisson.

A noise model turns a photograph into what Noise2Noise trains on: two noisy versions of the same scene whose
noise is independent and has mean zero (Lehtinen et al., "Noise2Noise: Learning Image Restoration without
Clean Data", 2018).

    photo (C, H, W), 0..255  ->  noisy, noisy, ..., clean     float32, 0..255

`corrupt` does this for a whole photograph, `patch` for one small square of it and with no work that isn't
asked for. `parse_noise` reads what `str` of a model writes: `gaussian:25`, `poisson:30`,
`pixel-sampling:5-8`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .. import checks

__all__ = ["Gaussian", "Noise", "PixelSampling", "Poisson", "parse_noise"]

Corrupted = tuple[list[np.ndarray], np.ndarray]  # the noisy versions, and the clean image


class Noise(ABC):
    """A way to make noisy images from a photograph, with noise of mean zero: fit to be trained on."""

    def corrupt(self, photo: np.ndarray, rng: np.random.Generator, copies: int = 2) -> Corrupted:
        """Makes `copies` independent noisy versions of a whole photograph, and the clean image.

        photo: (C, H, W), 0..255, uint8 or float. Returns (list of noisy, clean), all float32, 0..255, of one
        shape: the photo's for Gaussian and Poisson noise, smaller by the block for pixel sampling. Raises
        ValueError for a photo that isn't (C, H, W) or is too small, and for copies below 1; TypeError for
        copies that are no integer.
        """
        _check_photo(photo, self.smallest_photo(1))
        return self._corrupt(photo, rng, checks.integer(copies, "copies", 1))

    def patch(
        self, photo: np.ndarray, size: int, rng: np.random.Generator, clean: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws a noisy patch from a random place of a photograph, with a second noisy one or the clean one.

        photo: (C, H, W), 0..255; size: side of the patch in pixels. Returns two (C, size, size) float32
        arrays, 0..255: (noisy, second noisy), or (noisy, clean) with `clean`. Raises ValueError if the photo
        is smaller than `smallest_photo(size)`.
        """
        _check_photo(photo, self.smallest_photo(size))
        return self._patch(photo, size, rng, clean)

    @abstractmethod
    def smallest_photo(self, size: int) -> int:
        """The shortest side, in pixels, that a photograph must have to give a patch of `size` x `size`."""

    @abstractmethod
    def _corrupt(self, photo: np.ndarray, rng: np.random.Generator, copies: int) -> Corrupted:
        """What `corrupt` does, for arguments already checked."""

    @abstractmethod
    def _patch(
        self, photo: np.ndarray, size: int, rng: np.random.Generator, clean: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `patch` does, for arguments already checked."""

    @abstractmethod
    def __str__(self) -> str:
        """The text from which `parse_noise` makes the same model."""


class _PixelwiseNoise(Noise):
    """Noise that is added to every pixel by itself, so that a noisy patch is noise on a crop."""

    @abstractmethod
    def _noisy(self, clean: np.ndarray, rng: np.random.Generator, copies: int) -> np.ndarray:
        """`copies` noisy versions of a (C, H, W) image: (copies, C, H, W), float32."""

    def smallest_photo(self, size: int) -> int:
        return checks.integer(size, "size", 1)

    def _corrupt(self, photo: np.ndarray, rng: np.random.Generator, copies: int) -> Corrupted:
        return list(self._noisy(photo, rng, copies)), photo.astype(np.float32)

    def _patch(
        self, photo: np.ndarray, size: int, rng: np.random.Generator, clean: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        top, left = _random_corner(photo.shape, size, rng)
        crop = photo[:, top : top + size, left : left + size]
        if clean:
            return self._noisy(crop, rng, 1)[0], crop.astype(np.float32)
        noisy, second = self._noisy(crop, rng, 2)
        return noisy, second


@dataclass(frozen=True)
class Gaussian(_PixelwiseNoise):
    """Additive Gaussian noise, not clipped to 0..255 (clipping would give it a mean).

    sigma: standard deviation in 8-bit steps, at least 0.
    """

    sigma: float

    def __post_init__(self) -> None:
        checks.number(self.sigma, "sigma", 0)

    def __str__(self) -> str:
        return f"gaussian:{_plain(self.sigma)}"

    def _noisy(self, clean: np.ndarray, rng: np.random.Generator, copies: int) -> np.ndarray:
        noisy = rng.standard_normal((copies, *clean.shape), dtype=np.float32)
        noisy *= np.float32(self.sigma)
        noisy += clean
        return noisy


@dataclass(frozen=True)
class Poisson(_PixelwiseNoise):
    """Photon noise: Poisson(x / 255 * peak) / peak * 255.

    peak: the mean number of photons of a pixel of value 255, above 0. The standard deviation at value x is
    sqrt(255 x / peak), in 8-bit steps.
    """

    peak: float

    def __post_init__(self) -> None:
        checks.number(self.peak, "peak", above=0)

    def __str__(self) -> str:
        return f"poisson:{_plain(self.peak)}"

    def _noisy(self, clean: np.ndarray, rng: np.random.Generator, copies: int) -> np.ndarray:
        if clean.dtype.kind != "u" and clean.min() < 0:
            raise ValueError(f"the photo's least value (={clean.min()}) must be at least 0 for Poisson noise")
        photons = rng.poisson(clean * (self.peak / 255.0), (copies, *clean.shape))
        return (photons * (255.0 / self.peak)).astype(np.float32)


@dataclass(frozen=True)
class PixelSampling(Noise):
    """One random pixel of each b x b block stands for the block's mean: a photo shrunk without averaging.

    The pixel is the same for R, G and B. Its mean over the draws is the block's mean, so the noise has mean
    exactly zero; it follows the local detail and has heavy tails. b is drawn from smallest..largest for every
    picture or patch, from those values only for which the photo is large enough.
    """

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

    def _block(self, photo: np.ndarray, size: int, rng: np.random.Generator) -> int:
        largest = min(self.largest, photo.shape[1] // size, photo.shape[2] // size)
        return int(rng.integers(self.smallest, largest + 1))

    def _corrupt(self, photo: np.ndarray, rng: np.random.Generator, copies: int) -> Corrupted:
        block = self._block(photo, 1, rng)
        height, width = photo.shape[1] // block, photo.shape[2] // block
        photo = np.ascontiguousarray(photo)
        noisy = _sample_blocks(photo, (0, 0), block, (copies, height, width), rng)
        clean = _block_means(photo[:, : height * block, : width * block], block)
        return list(np.ascontiguousarray(noisy.swapaxes(0, 1))), clean

    def _patch(
        self, photo: np.ndarray, size: int, rng: np.random.Generator, clean: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        block = self._block(photo, size, rng)
        side = size * block
        top, left = _random_corner(photo.shape, side, rng)
        if not photo.flags.c_contiguous:
            photo, top, left = np.ascontiguousarray(photo[:, top : top + side, left : left + side]), 0, 0
        noisy = _sample_blocks(photo, (top, left), block, (1 if clean else 2, size, size), rng)
        if clean:
            return noisy[:, 0], _block_means(photo[:, top : top + side, left : left + side], block)
        return noisy[:, 0], noisy[:, 1]


def _sample_blocks(
    photo: np.ndarray,
    corner: tuple[int, int],
    block: int,
    shape: tuple[int, int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """One random pixel of each block: (C, copies, height, width), float32, of a contiguous photo.

    corner: top and left of the first block; shape: copies, and how many blocks down and across.
    """
    channels, _, width = photo.shape
    # Positions in the flattened photo, one draw and one look-up a block: this runs once a patch, and plain
    # (row, column) indexing would take several times as long.
    drawn = rng.integers(0, block * block, shape, dtype=np.uint16)
    positions = _pixels(block, width).take(drawn)
    positions += _blocks(block, width, *shape[1:])
    positions += corner[0] * width + corner[1]
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


def parse_noise(text: str) -> Noise:
    """Makes a noise model from text: `pixel-sampling`, `pixel-sampling:5-8`, `gaussian:25` or `poisson:30`.

    The number of `gaussian` is its sigma in 8-bit steps, that of `poisson` the photons at value 255, those of
    `pixel-sampling` the smallest and the largest block. Raises ValueError that lists the choices for anything
    else.
    """
    name, colon, number = text.strip().partition(":")
    try:
        return _build(name, number if colon else None)
    except ValueError as error:
        raise ValueError(f"noise {text!r}: {error}; choices: {_CHOICES}") from None


_CHOICES = (
    "pixel-sampling or pixel-sampling:SMALLEST-LARGEST (block sides, as 5-8), "
    "gaussian:SIGMA (8-bit steps, as 25), poisson:PEAK (photons at value 255, as 30)"
)


def _build(name: str, number: str | None) -> Noise:
    if name == "pixel-sampling":
        return PixelSampling() if number is None else PixelSampling(*_parse_range(number))
    if name == "gaussian":
        return Gaussian(_parse_number("sigma", number))
    if name == "poisson":
        return Poisson(_parse_number("peak", number))
    raise ValueError(f"there is no noise named {name!r}")


def _parse_number(name: str, text: str | None) -> float:
    if not text:
        raise ValueError(f"the number ({name}) is missing")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} (={text!r}) is not a number") from None


def _parse_range(text: str) -> tuple[int, int]:
    smallest, dash, largest = text.partition("-")
    try:
        return int(smallest), int(largest if dash else smallest)
    except ValueError:
        raise ValueError(f"block sides (={text!r}) must be two whole numbers, as 5-8") from None


def _plain(value: float) -> str:
    """The shortest text that reads back as the same float, without a trailing `.0`."""
    return repr(float(value)).removesuffix(".0")


def _check_photo(photo: np.ndarray, side: int) -> None:
    if photo.ndim != 3:
        raise ValueError(f"photo (shape {photo.shape}) must be (C, H, W)")
    if min(photo.shape[1:]) < side:
        height, width = photo.shape[1:]
        raise ValueError(f"the photo ({height} x {width}) must be at least {side} x {side} pixels")


def _random_corner(shape: tuple[int, ...], side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Top and left of a random square of `side` pixels inside a (C, H, W) shape."""
    top = rng.integers(shape[1] - side + 1)
    left = rng.integers(shape[2] - side + 1)
    return int(top), int(left)
