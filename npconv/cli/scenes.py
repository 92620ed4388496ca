"""What `npconv evaluate` measures on: scenes, each a noisy image and the clean one.

clean images + --noise             whole images
clean images + --noisy FOLDER      whole images, with the noisy versions that exist
clean images + --noise + --pairs   patches, drawn as training draws its validation pairs
clean images + --protocol kair     whole images, with that protocol's noise
FILE.h5 with `input` and `target`  the pairs in it
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import Noise, Pairs, Photos
from ..data.images import read_image
from ..data.lazy import CACHE_BYTES
from ..data.photos import LRUCache
from ..data.values import colour_count, with_channels
from ..denoising import white_level
from ..protocols import noisy as kair_noisy

PAIRS_AT_A_TIME = 250


@dataclass(frozen=True)
class Scene:
    """A noisy image and the clean one: (C, H, W), values of 0..255; and the noise's sigma, None if it has none."""

    name: str
    noisy: np.ndarray
    clean: np.ndarray
    noise_level: float | None = None


class FilePhotos(Photos):
    """Image files named one by one, read when they are asked for: floats of 0..255.

    channels: 1 or 3, to which images are converted. white: as for `white_level`.
    """

    def __init__(self, paths: list[Path], channels: int, white: float | None = None) -> None:
        self._paths, self.channels, self._white = paths, channels, white
        self._cache = LRUCache(CACHE_BYTES)

    def __len__(self) -> int:
        return len(self._paths)

    def _read(self, index: int) -> np.ndarray:
        return self._cache.get(index, self._load)

    def _load(self, index: int) -> np.ndarray:
        return with_channels(read_scaled(self._paths[index], self._white), self.channels)

    @property
    def names(self) -> list[str]:
        return [path.name for path in self._paths]


def read_scaled(path: Path, white: float | None) -> np.ndarray:
    """The colours of an image file, gray or RGB, as float32 of 0..255; ValueError that names the file."""
    colours = _colours(path)
    try:
        level = white_level(colours, white)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return colours.astype(np.float32) * np.float32(255 / level)


def with_noise(named: Iterable[tuple[str, np.ndarray]], noise: Noise, seed: int) -> Iterator[Scene]:
    """Each (name, image) with noise, which depends on the seed and the image's place alone."""
    for i, (name, image) in enumerate(named):
        rng = np.random.default_rng([seed, i])
        drawn = noise.drawn(rng)
        (noisy,), clean = drawn.corrupt(image, rng, copies=1)
        yield Scene(name, noisy, clean, drawn.noise_level)


def with_kair_noise(paths: list[Path], channels: int | None, sigma: float, seed: int) -> Iterator[Scene]:
    """8-bit image files with the noise of the KAIR protocol, which is the same for all images of one size.

    channels: 1 or 3, to which images are converted; None keeps theirs. ValueError that names a file of another type.
    """
    for path in paths:
        clean = _colours(path)
        if clean.dtype != np.uint8:
            raise ValueError(f"{path} ({clean.dtype}) must have 8 bits a value for --protocol kair")
        clean = with_channels(clean, channels or len(clean))
        yield Scene(path.name, kair_noisy(clean, sigma, seed), clean, sigma)


def with_files(
    named: Iterable[tuple[str, np.ndarray]], noisy_paths: list[Path], white: float | None
) -> Iterator[Scene]:
    """Each (name, image) with the noisy version in a file; ValueError where the sizes differ."""
    for (name, clean), path in zip(named, noisy_paths, strict=True):
        noisy = read_scaled(path, white)
        if noisy.shape != clean.shape:
            raise ValueError(f"{path} ({_size(noisy)}) must have the size of the clean {name} ({_size(clean)})")
        yield Scene(name, noisy, clean)


def noisy_files(folder: Path, clean: list[Path]) -> list[Path]:
    """The files in `folder` named as the clean ones; FileNotFoundError that names the first missing one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    missing = [path.name for path in clean if not (folder / path.name).is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FileNotFoundError(f"{str(folder)!r} has no noisy version of {missing[0]!r}{more}")
    return [folder / path.name for path in clean]


def from_pairs(inputs: np.ndarray, targets: np.ndarray, first: int) -> Iterator[Scene]:
    """Each pair of two (N, C, H, W) arrays, numbered from `first`."""
    for i, (noisy, clean) in enumerate(zip(inputs, targets, strict=True), first):
        yield Scene(f"pair {i}", noisy, clean)


def all_pairs(pairs: Pairs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every pair of a file, some at a time, in an order that is always the same."""
    return pairs.batches(PAIRS_AT_A_TIME, np.random.default_rng(0))


def _colours(path: Path) -> np.ndarray:
    """The colours of an image file, gray or RGB, without its alpha."""
    image = read_image(path)
    return image[: colour_count(len(image))]


def _size(image: np.ndarray) -> str:
    return f"{image.shape[2]} x {image.shape[1]}, {image.shape[0]} channel(s)"
