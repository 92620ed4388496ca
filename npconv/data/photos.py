"""Collections of photographs, one small interface: `len`, indexing, `region`, `channels`, `names`.

    photos[i]                              ->  (C, H, W), values 0..255, uint8 or float
    photos.region(i, top, left, 64, 64)    ->  (C, 64, 64), of a large one without reading the rest, where it can be

`ArrayPhotos` has them in memory, `FolderPhotos` (folder.py) reads image files when they are asked for, `HDF5Photos`
(hdf5.py) reads them from a data set; `split` keeps a part of any of them for validation. `LRUCache` bounds what the
lazy ones (lazy.py) remember.
"""

from __future__ import annotations

import operator
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..backends.forking import after_fork
from .values import check_scale, check_share, in_8bit_steps

__all__ = ["ArrayPhotos", "LRUCache", "Photos"]

AT_ONCE = 64
_bookkeeping = threading.Lock()  # of all caches: a collection may be drawn from in several threads


def _forked() -> None:
    global _bookkeeping
    _bookkeeping = threading.Lock()


after_fork(_forked)


class Photos(ABC):
    """A collection of photographs of one number of channels, of any sizes."""

    channels: int
    # Whether those that draw from the collection pass over photographs that cannot be read, or are too small.
    skips_corrupt: bool = False
    # Whether the names are those of the photographs themselves, the same wherever the collection lies.
    has_lasting_names: bool = False

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

    def name(self, index: int) -> str:
        """What photograph `index` is called."""
        return self.names[index]

    @property
    def known_sizes(self) -> list[tuple[int, int]] | None:
        """(H, W) of every photograph where that is known without reading them, else None."""
        return None

    @property
    def at_once(self) -> int:
        """How many photographs, at least 1, can be drawn from in turns without reading them again and again."""
        return AT_ONCE

    def __getitem__(self, index: int) -> np.ndarray:
        """Photograph `index` (from the end if negative): (C, H, W), 0..255; not to be changed."""
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"photo {position} does not exist: there are {len(self)}")
        return self._read(position % len(self))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def size(self, index: int) -> tuple[int, int]:
        """(H, W) of photograph `index`."""
        height, width = self[index].shape[1:]
        return height, width

    def region(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A part of photograph `index`: (C, height, width), 0..255; not to be changed.

        Raises ValueError for a part that is empty or reaches over the photograph's border.
        """
        size = self.size(index)
        fits = 0 <= top < top + height <= size[0] and 0 <= left < left + width <= size[1]
        if not fits:
            raise ValueError(
                f"region (top {top}, left {left}, {height} x {width}) must be inside {self.name(index)}, which is "
                f"{size[0]} x {size[1]}"
            )
        return self._region(index, top, left, height, width)

    def _region(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """What `region` does, for arguments already checked."""
        return self[index][:, top : top + height, left : left + width]

    # ---- photographs that cannot be used, where the collection skips them ----
    def reject(self, index: int, reason: str) -> None:
        """Photograph `index` cannot be used: warns, once, with its name and the reason."""
        raise TypeError(f"{type(self).__name__} does not skip photographs")

    def rejected(self, index: int) -> str | None:
        """Why photograph `index` cannot be used; None if nothing is known against it."""
        return None

    # ---- parts of the collection ----
    def subset(self, indices: Sequence[int] | np.ndarray) -> Photos:
        """The collection of those photographs alone, without copying any."""
        return _Subset(self, np.asarray(indices, np.intp))

    def split(self, share: float, rng: np.random.Generator) -> tuple[Photos, Photos]:
        """Divides the photographs at random into (train, validation), without copying any.

        share: the part kept for validation, above 0 and below 1 (0.2: one in five). Each side gets at least
        one photo; raises ValueError for fewer than two.
        """
        kept = check_share(share, len(self), "number of photos")
        order = rng.permutation(len(self))
        return self.subset(np.sort(order[kept:])), self.subset(np.sort(order[:kept]))


class _Subset(Photos):
    """Some photographs of another collection."""

    def __init__(self, photos: Photos, indices: np.ndarray) -> None:
        self._photos = photos
        self._indices = indices
        self.channels = photos.channels
        self.skips_corrupt = photos.skips_corrupt
        self.has_lasting_names = photos.has_lasting_names

    def __len__(self) -> int:
        return len(self._indices)

    def _read(self, index: int) -> np.ndarray:
        return self._photos[int(self._indices[index])]

    @property
    def names(self) -> list[str]:
        names = self._photos.names
        return [names[i] for i in self._indices]

    def name(self, index: int) -> str:
        return self._photos.name(int(self._indices[index]))

    @property
    def known_sizes(self) -> list[tuple[int, int]] | None:
        sizes = self._photos.known_sizes
        return None if sizes is None else [sizes[i] for i in self._indices]

    @property
    def at_once(self) -> int:
        return self._photos.at_once

    def size(self, index: int) -> tuple[int, int]:
        return self._photos.size(int(self._indices[index]))

    def _region(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        return self._photos._region(int(self._indices[index]), top, left, height, width)

    def reject(self, index: int, reason: str) -> None:
        self._photos.reject(int(self._indices[index]), reason)

    def rejected(self, index: int) -> str | None:
        return self._photos.rejected(int(self._indices[index]))


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
        self._photos = [checked_photo(photo, f"photo {i}") for i, photo in enumerate(photos)]
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

    def name(self, index: int) -> str:
        return f"photo {range(len(self))[index]}"

    @property
    def known_sizes(self) -> list[tuple[int, int]]:
        return [(photo.shape[1], photo.shape[2]) for photo in self._photos]


class LRUCache:
    """Remembers arrays by number, the most recently used ones, up to a number of bytes.

    max_bytes: at least 0. Of arrays larger than that the last one made is remembered too, beside the others: whoever
    draws from it several times does not make it again.
    """

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"cache_bytes (={max_bytes}) must be at least 0")
        self.max_bytes = max_bytes
        self._arrays: OrderedDict[int, np.ndarray] = OrderedDict()
        self._large: dict[int, np.ndarray] = {}  # none or one
        self.nbytes = 0  # without the large one

    def get(self, index: int, make: Callable[[int], np.ndarray]) -> np.ndarray:
        """Array `index`, from memory or from `make(index)`."""
        with _bookkeeping:
            if index in self._arrays:
                self._arrays.move_to_end(index)
                return self._arrays[index]
            if index in self._large:
                return self._large[index]
            self._large.clear()  # before another one is made: there is never room for two
        array = make(index)
        with _bookkeeping:
            if array.nbytes > self.max_bytes:
                self._large = {index: array}
            elif index not in self._arrays:  # else another thread has made it too
                self._keep(index, array)
        return array

    def _keep(self, index: int, array: np.ndarray) -> None:
        self.nbytes += array.nbytes
        while self.nbytes > self.max_bytes:
            _, oldest = self._arrays.popitem(last=False)
            self.nbytes -= oldest.nbytes
        self._arrays[index] = array


def checked_photo(photo: np.ndarray, name: str) -> np.ndarray:
    """A (C, H, W) photo with finite values 0..255."""
    photo = np.asarray(photo)
    if photo.ndim != 3 or photo.size == 0:
        raise ValueError(f"{name} (shape {photo.shape}) must be (C, H, W), and not empty")
    check_scale(photo, name)
    return in_8bit_steps(photo, name)
