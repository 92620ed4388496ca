"""Images in HDF5 files: photographs (one data set, `images`) and ready-made pairs (`input` and `target`).

    write_images("photos.h5", images)          HDF5Photos("photos.h5")[i]           (C, H, W)
    write_pairs("pairs.h5", inputs, targets)   HDF5Pairs("pairs.h5").batches(...)   (B, C, H, W)

Data sets are (N, C, H, W), in chunks of one image, or of a part of it where it is larger than 512 x 512, with
checksums (fletcher32). Reading takes only what is asked for; a file stays open while its object lives, and an object
is for one thread at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import FileFormatError, about_a_file
from ..extras import h5py
from ..hdf5_files import create_hdf5, read_hdf5
from ..hdf5_structure import check_object, check_structure
from ..whole_file import whole_file
from .hdf5_chunks import CheckedChunks, check_values
from .lazy import CACHE_BYTES, LazyPhotos
from .pairs import Batch, StoredPairs, check_pair_dtype, check_pair_shapes
from .photos import AT_ONCE
from .sizes import FREE_BYTES, FREE_IMAGE, MAX_GROWTH, check_growth
from .values import as_array, check_dtype, check_finite, check_scale, in_8bit_steps

__all__ = ["HDF5Pairs", "HDF5Photos", "dataset_names", "write_images", "write_pairs"]

_SAMPLE = 16  # pairs that are read when a file is opened, to see their scale
_LOOKED_AT = 2**28  # bytes that are unpacked for that, of all data sets
_CHUNK_CACHE = 2**26  # bytes; for files by others, whose chunks may hold many images
_MOST_LINKS, _LONGEST_LINK = 16, 4096  # soft links on the way to a data set, and the letters of one
CHUNK_SIDE = 512  # pixels: a patch of a large image then costs at most four chunks


class HDF5Photos(LazyPhotos):
    """Photographs in a data set of an HDF5 file, read when they are asked for.

    path: the file; dataset: its (N, C, H, W) data set of uint8, uint16 (scaled to 0..255) or floats 0..255.
    cache_bytes: how much of what was read is remembered. corrupt: "fail" or "skip", as for `FolderPhotos`. Raises
    FileNotFoundError; FileFormatError (a ValueError) for a file or data set of another kind, for one whose values are
    in other files, and on reading for one that is damaged; for other dtypes it is a TypeError too.
    """

    def __init__(
        self, path: str | Path, dataset: str = "images", cache_bytes: int = CACHE_BYTES, corrupt: str = "fail"
    ) -> None:
        super().__init__(cache_bytes, corrupt)
        self._path = Path(path)
        # Room for a chunk or more of files by others, which may hold many images, beside the cache of photographs.
        self._file = _opened(self._path, max(2**20, min(_CHUNK_CACHE, cache_bytes // 4)))
        with _closed_on_error(self._file):
            self._open(dataset)

    def _open(self, dataset: str) -> None:
        with about_a_file(self._path.name):
            self._dataset = _dataset(self._file, dataset)
            check_dtype(self._dataset.dtype, _described(self._dataset))
            if self._dataset.ndim != 4 or 0 in self._dataset.shape:
                shape = self._dataset.shape
                raise ValueError(f"{_described(self._dataset)} (shape {shape}) must be (N, C, H, W), not empty")
        self._checked = CheckedChunks(self._dataset)
        _, self.channels, self._height, self._width = (int(n) for n in self._dataset.shape)
        self._large = self._is_large(self._typical_bytes()[0])
        if self._large and self._dataset.dtype.kind == "f":
            self._check_scale()

    def __len__(self) -> int:
        return int(self._dataset.shape[0])

    def _load(self, index: int) -> np.ndarray:
        _check_image(self._dataset, self._checked, self._typical_bytes()[0], self.name(index), FREE_IMAGE)
        photo = self._stored(index, (slice(None),))
        with about_a_file(self._path.name):
            check_scale(photo, self.name(index))
        return photo

    def _check_scale(self) -> None:
        """Of large images, whose regions may be dark: by a look at places all over the data set."""
        largest = []
        for place in _looks(self._checked, CHUNK_SIDE, _LOOKED_AT):
            with _damage_named(self.name(place[0])):
                largest.append(self._checked[place].max())
        with about_a_file(self._path.name):
            check_scale(np.array(largest), _described(self._dataset))

    def size(self, index: int) -> tuple[int, int]:
        return self._height, self._width

    def _region(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        if not self._large:
            return super()._region(index, top, left, height, width)
        return self._stored(index, (slice(None), slice(top, top + height), slice(left, left + width)))

    def _stored(self, index: int, where: tuple[slice, ...]) -> np.ndarray:
        """A part of an image, with values 0..255."""
        place = (index, *where)
        with _damage_named(self.name(index)):
            part = self._checked[place]
        with about_a_file(self._path.name):
            return in_8bit_steps(part, self.name(index))

    def _typical_bytes(self) -> list[int]:
        itemsize = self._dataset.dtype.itemsize
        itemsize = 4 if self._dataset.dtype.kind == "u" and itemsize == 2 else itemsize  # 16 bits become float32
        return [self.channels * self._height * self._width * itemsize]

    @property
    def at_once(self) -> int:
        return AT_ONCE if self._large else super().at_once

    def name(self, index: int) -> str:
        return f"{self._path.name}[{index}]"

    @property
    def names(self) -> list[str]:
        return [self.name(i) for i in range(len(self))]

    @property
    def known_sizes(self) -> list[tuple[int, int]]:
        return [(self._height, self._width)] * len(self)


class HDF5Pairs(StoredPairs):
    """Ready-made pairs, such as two noisy exposures of each scene, in an HDF5 file, read a batch at a time.

    path: the file; inputs, targets: its two (N, C, H, W) data sets, of one shape, uint8 or floats 0..255.
    Raises FileNotFoundError; FileFormatError (a ValueError) for a file or data sets of another kind, for images of 0..1
    (a few are looked at), and on reading for damage and for values that aren't finite; for other dtypes it is a
    TypeError too.
    """

    def __init__(self, path: str | Path, inputs: str = "input", targets: str = "target") -> None:
        self._path = Path(path)
        self._file = _opened(self._path)
        with _closed_on_error(self._file), about_a_file(self._path.name):
            self._datasets = _dataset(self._file, inputs), _dataset(self._file, targets)
            check_pair_shapes(self._datasets[0].shape, self._datasets[1].shape)
            self._checked = CheckedChunks(self._datasets[0]), CheckedChunks(self._datasets[1])
            for dataset, checked in zip(self._datasets, self._checked, strict=True):
                check_pair_dtype(dataset.dtype, _described(dataset))
                # Two images are float32 at once, and a third as it is stored.
                made = math.prod(dataset.shape[1:]) * np.dtype(np.float32).itemsize
                _check_image(dataset, checked, made, f"{_described(dataset)}: one of its images", FREE_BYTES)
            for dataset, checked in zip(self._datasets, self._checked, strict=True):
                check_scale(_sample(dataset, checked, _LOOKED_AT // len(self._datasets)), _described(dataset))
        super().__init__(self._datasets[0].shape)

    def _read(self, indices: np.ndarray) -> Batch:
        inputs, targets = (self._read_one(*both, indices) for both in zip(self._datasets, self._checked, strict=True))
        return inputs, targets

    def _read_one(self, dataset: h5py.Dataset, checked: CheckedChunks, indices: np.ndarray) -> np.ndarray:
        images = np.empty((len(indices), *self.image_shape), np.float32)
        name = _described(dataset)
        # In the file's order, each to its place: images of one chunk are then read and decompressed together.
        for place in np.argsort(indices):
            with _damage_named(f"image {indices[place]} of {name}"):
                images[place] = checked[int(indices[place])]
            with about_a_file(self._path.name):
                check_finite(images[place], f"image {indices[place]} of {name}")
        return images

    def _subset(self, indices: np.ndarray) -> HDF5Pairs:
        part = HDF5Pairs.__new__(HDF5Pairs)  # shares the open file
        StoredPairs.__init__(part, (len(indices), *self._shape), indices)
        part._path, part._file, part._datasets, part._checked = self._path, self._file, self._datasets, self._checked
        return part


def write_images(path: str | Path, images: np.ndarray) -> None:
    """Writes photographs for `HDF5Photos`.

    images: (N, C, H, W), uint8, uint16 or floats 0..255. An existing file is replaced when the new one is
    whole. Raises ValueError or TypeError, before anything is written, for anything else.
    """
    images = as_array(images, "images")
    if images.ndim != 4 or images.size == 0:
        raise ValueError(f"images (shape {images.shape}) must be (N, C, H, W), and not empty")
    check_dtype(images.dtype, "images")
    check_finite(images, "images")
    check_scale(images, "images")
    _write(Path(path), {"images": images})


def write_pairs(path: str | Path, inputs: np.ndarray, targets: np.ndarray) -> None:
    """Writes training pairs for `HDF5Pairs`.

    inputs, targets: (N, C, H, W) of one shape, uint8 or floats 0..255. An existing file is replaced when the
    new one is whole. Raises ValueError or TypeError, before anything is written, for anything else.
    """
    inputs, targets = as_array(inputs, "inputs"), as_array(targets, "targets")
    check_pair_shapes(inputs.shape, targets.shape)
    for name, images in (("inputs", inputs), ("targets", targets)):
        check_pair_dtype(images.dtype, name)
        check_finite(images, name)
        check_scale(images, name)
    _write(Path(path), {"input": inputs, "target": targets})


def dataset_names(path: str | Path) -> list[str]:
    """The names of the data sets of an HDF5 file, those in groups as "group/name".

    Raises as `HDF5Photos` for other files.
    """
    with _opened(Path(path)) as file:
        return _names(file)


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a new file beside `path` that then takes its place: a crash leaves the old one whole."""
    with whole_file(path) as part, create_hdf5(part, track_order=False) as file:
        for name, images in arrays.items():
            chunks = (1, images.shape[1], *(min(side, CHUNK_SIDE) for side in images.shape[2:]))
            file.create_dataset(name, data=images, chunks=chunks, fletcher32=True, track_order=False)


def _opened(path: Path, chunk_cache: int = _CHUNK_CACHE) -> h5py.File:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    try:
        check_structure(path)
        return read_hdf5(path, rdcc_nbytes=chunk_cache)
    except FileFormatError as error:
        raise FileFormatError(f"{str(path)!r} is not an HDF5 file that can be read: {error}") from None
    except OSError as error:
        raise FileFormatError(f"{str(path)!r} is not an HDF5 file that can be read: {error}") from error


@contextmanager
def _closed_on_error(file: h5py.File) -> Iterator[None]:
    """Whoever is told what is wrong with a file may write it anew: an error's traceback would keep it open."""
    try:
        yield
    except BaseException:
        file.close()
        raise


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The data set of that name, whose values all are in the file, and no more than it can hold."""
    with _damage_named(f"{name!r} of {file.filename!r}"):
        dataset = _followed(file, name)
        if dataset is None:
            held = ", ".join(_names(file))[:_LONGEST_LINK] or "none"
            raise FileFormatError(f"{file.filename!r} has no data set {name!r}; it has: {held}")
        check_object(file.filename, h5py.h5o.get_info(dataset.id).addr)
        check_values(dataset, f"{file.filename!r}: the data set {name!r}")
    return dataset


def _followed(file: h5py.File, name: str) -> h5py.Dataset | None:
    """What `name` leads to by hard links, and by soft ones within the file; None if that is no data set."""
    parts, place, links = name.split("/"), file, 0
    while parts:
        part = parts.pop(0)
        if part in ("", "."):
            continue
        link = place.get(part, getlink=True) if isinstance(place, h5py.Group) else None
        if isinstance(link, h5py.SoftLink) and links < _MOST_LINKS and len(link.path) <= _LONGEST_LINK:
            links += 1
            place = file if link.path.startswith("/") else place
            parts = link.path.split("/") + parts
        elif isinstance(link, h5py.HardLink):
            place = place[part]
        else:
            return None
    return place if isinstance(place, h5py.Dataset) else None


def _check_image(dataset: h5py.Dataset, checked: CheckedChunks, made: int, what: str, free: int) -> None:
    """FileFormatError for images that would take much memory when one is read whole: `made` bytes, as floats."""
    image = math.prod(dataset.shape[1:]) * int(dataset.dtype.itemsize)
    if dataset.chunks:
        check_growth(made, checked.held, what, MAX_GROWTH * max(1, made // max(1, image)), free)


def _looks(checked: CheckedChunks, side: int | None, most: int) -> list[tuple[int, slice, slice, slice]]:
    """Places all over a data set (N, C, H, W), for which no more than `most` bytes, or one chunk, are unpacked.

    side: of the part of an image, larger where there are fewer; None: whole images.
    """
    images, channels, height, width = checked.shape
    count = 2 * min(_SAMPLE, images)
    while True:
        count = max(1, count // 2)
        longest = int(side * math.sqrt(_SAMPLE / count)) if side else max(height, width)
        sides = [channels, min(longest, height), min(longest, width)]
        if count == 1 or count * checked.work((1, *sides)) <= most:
            break
    while max(sides) > 1 and checked.work((1, *sides)) > most:
        axis = sides.index(max(sides))
        sides[axis] = (sides[axis] + 1) // 2
    places = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    found = []
    for place in places:
        starts = (int(place * (n - k)) for n, k in zip(checked.shape[1:], sides, strict=True))
        deep, rows, columns = (slice(start, start + k) for start, k in zip(starts, sides, strict=True))
        found.append((int(place * (images - 1)), deep, rows, columns))
    return found


def _sample(dataset: h5py.Dataset, checked: CheckedChunks, most: int) -> np.ndarray:
    """The largest value of some images from all over a data set; of floats only, whose unit is not known."""
    if dataset.dtype.kind != "f":
        return np.empty(0)
    with _damage_named(_described(dataset)):
        return np.array([checked[place].max() for place in _looks(checked, None, most)])


def _names(file: h5py.File) -> list[str]:
    """Of all data sets, in groups too; soft links are followed at the top only, links to other files never."""
    names: dict[str, None] = {}  # in order

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and isinstance(name, str):
            names[name] = None

    with _damage_named(repr(file.filename)):
        texts = [name for name in file if isinstance(name, str)]  # others are bytes that are no UTF-8
        names.update({name: None for name in texts if _followed(file, name) is not None})
        file.visititems(note)
    return list(names)


def _described(dataset: h5py.Dataset) -> str:
    return f"data set {dataset.name[1:]!r} of {Path(dataset.file.filename).name}"


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    """FileFormatError: HDF5 reports damage, such as a wrong checksum, as errors of many kinds that don't say where."""
    try:
        yield
    except FileFormatError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, SystemError) as error:
        raise FileFormatError(f"cannot read {name}: {error}") from error
