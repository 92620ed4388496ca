"""Collections of photographs, one small interface: `len`, indexing, `channels`, `names`.

    photos[i]  ->  (C, H, W), values 0..255, uint8 or float

`FolderPhotos` reads image files when they are asked for, `ArrayPhotos` has them in memory, `HDF5Photos`
(hdf5.py) reads them from a data set; `split` keeps a part of any of them for validation. `LRUCache` bounds
what the lazy ones remember.
"""

from __future__ import annotations

import operator
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from .images import ENDINGS, read_image
from .values import check_scale, check_share, in_8bit_steps, with_channels

__all__ = ["ArrayPhotos", "FolderPhotos", "LRUCache", "Photos"]


class Photos(ABC):
    """A collection of photographs of one number of channels, of any sizes."""

    channels: int

    @abstractmethod
    def __len__(self) -> int:
        """How many photographs there are."""

    @abstractmethod
    def _read(self, index: int) -> np.ndarray:
        """Photograph `index`, from 0 to len - 1."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """What each photograph is called, for messages and reports."""

    @property
    def known_sizes(self) -> list[tuple[int, int]] | None:
        """(H, W) of every photograph where that is known without reading them, else None."""
        return None

    def __getitem__(self, index: int) -> np.ndarray:
        """Photograph `index` (from the end if negative): (C, H, W), 0..255; not to be changed."""
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"photo {position} does not exist: there are {len(self)}")
        return self._read(position % len(self))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def split(self, share: float, rng: np.random.Generator) -> tuple[Photos, Photos]:
        """Divides the photographs at random into (train, validation), without copying any.

        share: the part kept for validation, above 0 and below 1 (0.2: one in five). Each side gets at least
        one photo; raises ValueError for fewer than two.
        """
        kept = check_share(share, len(self), "number of photos")
        order = rng.permutation(len(self))
        return _Subset(self, np.sort(order[kept:])), _Subset(self, np.sort(order[:kept]))


class _Subset(Photos):
    """Some photographs of another collection."""

    def __init__(self, photos: Photos, indices: np.ndarray) -> None:
        self._photos = photos
        self._indices = indices
        self.channels = photos.channels

    def __len__(self) -> int:
        return len(self._indices)

    def _read(self, index: int) -> np.ndarray:
        return self._photos[int(self._indices[index])]

    @property
    def names(self) -> list[str]:
        names = self._photos.names
        return [names[i] for i in self._indices]

    @property
    def known_sizes(self) -> list[tuple[int, int]] | None:
        sizes = self._photos.known_sizes
        return None if sizes is None else [sizes[i] for i in self._indices]


class ArrayPhotos(Photos):
    """Photographs in memory.

    photos: an (N, C, H, W) array, or a sequence of (C, H, W) arrays of any sizes and one C; values 0..255,
    uint8 or float, or uint16, which is scaled. Nothing is copied but uint16. Raises ValueError or TypeError
    for anything else.
    """

    def __init__(self, photos: np.ndarray | Sequence[np.ndarray]) -> None:
        if isinstance(photos, np.ndarray) and photos.ndim != 4:
            raise ValueError(f"photos (shape {photos.shape}) must be (N, C, H, W), or a list of (C, H, W)")
        if len(photos) == 0:
            raise ValueError("photos (=0 of them) must be at least 1")
        self._photos = [_checked_photo(photo, f"photo {i}") for i, photo in enumerate(photos)]
        self.channels = self._photos[0].shape[0]
        for i, photo in enumerate(self._photos):
            if len(photo) != self.channels:
                raise ValueError(f"channels of photo {i} (={len(photo)}) must be photo 0's: {self.channels}")

    def __len__(self) -> int:
        return len(self._photos)

    def _read(self, index: int) -> np.ndarray:
        return self._photos[index]

    @property
    def names(self) -> list[str]:
        return [f"photo {i}" for i in range(len(self))]

    @property
    def known_sizes(self) -> list[tuple[int, int]]:
        return [(photo.shape[1], photo.shape[2]) for photo in self._photos]


class FolderPhotos(Photos):
    """The image files of a folder and its subfolders, in the order of their paths, read when they are asked
    for.

    folder: PNG, JPEG, TIFF and NPY files, as `read_image` reads them; hidden files and folders are passed
    over. channels: 1 or 3, to which every photograph is converted; an alpha channel is dropped. cache_bytes:
    how much of what was read is remembered, the least recently used forgotten first. Raises
    NotADirectoryError or FileNotFoundError for a folder that isn't one or has no images; reading a photograph
    raises ValueError that names the file. 16-bit files are scaled to 0..255, float32; floats must be 0..255
    already.
    """

    def __init__(self, folder: str | Path, channels: int = 3, cache_bytes: int = 2**30) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels (={channels}) must be 1 (gray) or 3 (RGB)")
        self._folder = Path(folder)
        self._paths = _image_paths(self._folder)
        if not self._paths:
            endings = ", ".join(ENDINGS)
            raise FileNotFoundError(f"no images in {str(folder)!r}: files that end in {endings} are read")
        self.channels = channels
        self._cache = LRUCache(cache_bytes)

    def __len__(self) -> int:
        return len(self._paths)

    def _read(self, index: int) -> np.ndarray:
        return self._cache.get(index, self._decode)

    def _decode(self, index: int) -> np.ndarray:
        path = self._paths[index]
        photo = _checked_photo(read_image(path), str(path))
        return np.ascontiguousarray(with_channels(photo, self.channels))

    @property
    def names(self) -> list[str]:
        return [path.relative_to(self._folder).as_posix() for path in self._paths]


class LRUCache:
    """Remembers arrays by number, the most recently used ones, up to a number of bytes.

    max_bytes: at least 0; an array larger than that is handed out and not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"cache_bytes (={max_bytes}) must be at least 0")
        self._max_bytes = max_bytes
        self._arrays: OrderedDict[int, np.ndarray] = OrderedDict()
        self.nbytes = 0

    def get(self, index: int, make: Callable[[int], np.ndarray]) -> np.ndarray:
        """Array `index`, from memory or from `make(index)`."""
        if index in self._arrays:
            self._arrays.move_to_end(index)
            return self._arrays[index]
        array = make(index)
        if array.nbytes <= self._max_bytes:
            self._keep(index, array)
        return array

    def _keep(self, index: int, array: np.ndarray) -> None:
        self.nbytes += array.nbytes
        while self.nbytes > self._max_bytes:
            _, oldest = self._arrays.popitem(last=False)
            self.nbytes -= oldest.nbytes
        self._arrays[index] = array


def _checked_photo(photo: np.ndarray, name: str) -> np.ndarray:
    """A (C, H, W) photo with finite values 0..255."""
    photo = np.asarray(photo)
    if photo.ndim != 3 or photo.size == 0:
        raise ValueError(f"{name} (shape {photo.shape}) must be (C, H, W), and not empty")
    check_scale(photo, name)
    return in_8bit_steps(photo, name)


def _image_paths(folder: Path) -> list[Path]:
    """Every image file under a folder that is not hidden, sorted."""
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is not a folder")
    paths: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(parent, name) for name in files if not name.startswith(".")]
    return sorted(path for path in paths if path.suffix.lower() in ENDINGS)
