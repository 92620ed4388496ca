"""Noise models: Gaussian, Poisson, and none; pixel sampling is in pixel_sampling.py, their texts in noise_text.py.

A noise model turns a photograph into what Noise2Noise trains on: two noisy versions of the same scene whose
noise is independent and has mean zero (Lehtinen et al., "Noise2Noise: Learning Image Restoration without
Clean Data", 2018).

    photo (C, H, W), 0..255  ->  noisy, noisy, ..., clean     float32, in 8-bit steps, not clipped

`corrupt` does this for a whole photograph, `patch` for one small square of it and with no work that isn't
asked for. A model of a range, such as `Gaussian(0, 55)`, draws its strength anew for every picture and patch;
`drawn` gives the model that such a draw makes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .. import checks

__all__ = ["Gaussian", "NoNoise", "Noise", "Poisson", "plain"]

MOST_PHOTONS = 1e18  # at value 255; numpy draws up to 9.2e18, and a photograph may have values above 255
Corrupted = tuple[list[np.ndarray], np.ndarray]  # the noisy versions, and the clean image


class Noise(ABC):
    """A way to make noisy images from a photograph, with noise of mean zero: fit to be trained on."""

    # Whether the channels of a pixel have noise of their own: then the other channels tell nothing about a
    # channel's noise, and blind-spot training may hide one channel of a pixel without the others.
    independent_channels: ClassVar[bool] = True

    @property
    def noise_level(self) -> float | None:
        """The standard deviation in 8-bit steps where all pixels have the same, which is known; else None."""
        return None

    @property
    def has_noise_level(self) -> bool:
        """Whether what `drawn` gives has a `noise_level`."""
        return self.noise_level is not None

    def drawn(self, rng: np.random.Generator) -> Noise:
        """The model for one picture: of a range, a random one in it; else the model itself, and nothing is drawn.

        Both images of a Noise2Noise pair are of one draw, as two exposures of one camera are.
        """
        return self

    def drawn_for(self, shape: tuple[int, ...], size: int, rng: np.random.Generator) -> Noise:
        """The model for one photograph of `shape` (H, W) with all that is drawn once a picture: of no range any more.

        `corrupt` then treats all parts of the photograph alike. Pixel sampling leaves room for a patch of `size`; the
        shape must allow it: see `smallest_photo`.
        """
        return self.drawn(rng)

    def corrupt(self, photo: np.ndarray, rng: np.random.Generator, copies: int = 2) -> Corrupted:
        """Makes `copies` independent noisy versions of a whole photograph, and the clean image.

        photo: (C, H, W), 0..255, uint8 or float. Returns (list of noisy, clean), all float32, of one shape:
        the photo's for Gaussian and Poisson noise, smaller by the block for pixel sampling. Raises ValueError
        for a photo that isn't (C, H, W) or is too small, and for copies below 1; TypeError for copies that
        are no integer.
        """
        _check_photo(photo, self.smallest_photo(1))
        copies = checks.integer(copies, "copies", 1)
        *noisy, clean = self.drawn(rng)._corrupt(photo, rng, copies)
        return noisy, clean

    def patch(
        self, photo: np.ndarray, size: int, rng: np.random.Generator, clean: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draws a noisy patch from a random place of a photograph, with a second noisy one or the clean one.

        photo: (C, H, W), 0..255; size: side of the patch in pixels. Returns two (C, size, size) float32
        arrays: (noisy, second noisy), or (noisy, clean) with `clean`. Raises ValueError if the photo is
        smaller than `smallest_photo(size)`.
        """
        _check_photo(photo, self.smallest_photo(size))
        noise = self.drawn(rng)
        top, left, side = noise.random_area(photo.shape[1:], size, rng)
        area = photo[:, top : top + side, left : left + side]
        first, second = noise.versions(area, size, rng, 1 if clean else 2, clean)
        return first, second

    @abstractmethod
    def smallest_photo(self, size: int) -> int:
        """The shortest side, in pixels, that a photograph must have to give a patch of `size` x `size`."""

    @abstractmethod
    def random_area(self, shape: tuple[int, ...], size: int, rng: np.random.Generator) -> tuple[int, int, int]:
        """Top, left and side of a random square of a photograph of `shape` (H, W), to make a patch of `size` from.

        So nothing else of the photograph need be read. The shape must allow it: see `smallest_photo`.
        """

    @abstractmethod
    def versions(
        self, area: np.ndarray, size: int, rng: np.random.Generator, copies: int, clean: bool = False
    ) -> list[np.ndarray]:
        """`copies` noisy patches made from such an area (C, side, side), then the clean one with `clean`.

        All are (C, size, size), float32. The model must be one that `drawn` gives.
        """

    @abstractmethod
    def _corrupt(self, photo: np.ndarray, rng: np.random.Generator, copies: int) -> list[np.ndarray]:
        """The noisy versions of a photo, then the clean one; for arguments already checked."""

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

    def random_area(self, shape: tuple[int, ...], size: int, rng: np.random.Generator) -> tuple[int, int, int]:
        return *random_corner(shape, size, rng), size

    def versions(
        self, area: np.ndarray, size: int, rng: np.random.Generator, copies: int, clean: bool = False
    ) -> list[np.ndarray]:
        noisy = list(self._noisy(area, rng, copies))
        return [*noisy, area.astype(np.float32)] if clean else noisy

    def _corrupt(self, photo: np.ndarray, rng: np.random.Generator, copies: int) -> list[np.ndarray]:
        return self.versions(photo, 0, rng, copies, clean=True)


@dataclass(frozen=True)
class Gaussian(_PixelwiseNoise):
    """Additive Gaussian noise, not clipped to 0..255 (clipping would give it a mean).

    sigma: standard deviation in 8-bit steps, at least 0. largest: None, or the end of a range that begins
    at sigma; each picture or patch then has a standard deviation drawn uniformly from it.
    """

    sigma: float
    largest: float | None = None

    def __post_init__(self) -> None:
        _check_range("sigma", checks.number(self.sigma, "sigma", 0), self.largest)

    @property
    def noise_level(self) -> float | None:
        return float(self.sigma) if self.largest is None else None

    @property
    def has_noise_level(self) -> bool:
        return True

    def drawn(self, rng: np.random.Generator) -> Gaussian:
        return self if self.largest is None else Gaussian(rng.uniform(self.sigma, self.largest))

    def __str__(self) -> str:
        return f"gaussian:{_range_text(self.sigma, self.largest)}"

    def _noisy(self, clean: np.ndarray, rng: np.random.Generator, copies: int) -> np.ndarray:
        noisy = rng.standard_normal((copies, *clean.shape), dtype=np.float32)
        noisy *= np.float32(self.sigma)
        noisy += clean
        return noisy


@dataclass(frozen=True)
class Poisson(_PixelwiseNoise):
    """Photon noise: Poisson(x / 255 * peak) / peak * 255.

    peak: the mean number of photons of a pixel of value 255, above 0 and at most 1e18 (numpy draws few more). The
    standard deviation at value x is sqrt(255 x / peak), in 8-bit steps. largest: None, or the end of a range that
    begins at peak; each picture or patch then has a peak drawn uniformly from it.
    """

    peak: float
    largest: float | None = None

    def __post_init__(self) -> None:
        _check_range("peak", checks.number(self.peak, "peak", above=0), self.largest)
        for name, value in (("peak", self.peak), ("largest", self.largest)):
            if value is not None and value > MOST_PHOTONS:
                raise ValueError(f"{name} (={value:g}) must be at most {MOST_PHOTONS:g} photons: more cannot be drawn")

    def drawn(self, rng: np.random.Generator) -> Poisson:
        return self if self.largest is None else Poisson(rng.uniform(self.peak, self.largest))

    def __str__(self) -> str:
        return f"poisson:{_range_text(self.peak, self.largest)}"

    def _noisy(self, clean: np.ndarray, rng: np.random.Generator, copies: int) -> np.ndarray:
        if clean.dtype.kind != "u" and clean.min() < 0:
            raise ValueError(f"the photo's least value (={clean.min()}) must be at least 0 for Poisson noise")
        photons = rng.poisson(clean * (self.peak / 255.0), (copies, *clean.shape))
        return (photons * (255.0 / self.peak)).astype(np.float32)


@dataclass(frozen=True)
class NoNoise(Noise):
    """Adds nothing: for photographs that are noisy as they are: for the targets "self" and "blind-spot".

    Nothing is known of their noise, so that the channels do not count as independent (a camera's are not,
    after demosaicking). Asked for two versions or a clean one, `corrupt` and `patch` raise ValueError.
    """

    independent_channels: ClassVar[bool] = False

    def smallest_photo(self, size: int) -> int:
        return checks.integer(size, "size", 1)

    def random_area(self, shape: tuple[int, ...], size: int, rng: np.random.Generator) -> tuple[int, int, int]:
        return *random_corner(shape, size, rng), size

    def versions(
        self, area: np.ndarray, size: int, rng: np.random.Generator, copies: int, clean: bool = False
    ) -> list[np.ndarray]:
        if clean or copies != 1:
            raise ValueError(
                "noise 'none' takes images as noisy as they are: there is no clean version of them and no second "
                "noisy one, so it goes with target 'self' or 'blind-spot' only"
            )
        return [area.astype(np.float32)]

    def _corrupt(self, photo: np.ndarray, rng: np.random.Generator, copies: int) -> list[np.ndarray]:
        return self.versions(photo, 0, rng, copies, clean=True)

    def __str__(self) -> str:
        return "none"


def plain(value: float) -> str:
    """The shortest text that reads back as the same float, without a trailing `.0`."""
    return repr(float(value)).removesuffix(".0")


def random_corner(shape: tuple[int, ...], side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Top and left of a random square of `side` pixels inside a shape (H, W)."""
    top = rng.integers(shape[0] - side + 1)
    left = rng.integers(shape[1] - side + 1)
    return int(top), int(left)


def _range_text(smallest: float, largest: float | None) -> str:
    return plain(smallest) if largest is None else f"{plain(smallest)}-{plain(largest)}"


def _check_range(name: str, smallest: float, largest: float | None) -> None:
    if largest is not None and checks.number(largest, "largest") < smallest:
        raise ValueError(f"largest (={largest}) must be at least {name} (={smallest:g})")


def _check_photo(photo: np.ndarray, side: int) -> None:
    if photo.ndim != 3:
        raise ValueError(f"photo (shape {photo.shape}) must be (C, H, W)")
    if min(photo.shape[1:]) < side:
        height, width = photo.shape[1:]
        raise ValueError(f"the photo ({height} x {width}) must be at least {side} x {side} pixels")
