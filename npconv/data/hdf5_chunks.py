"""Data sets of HDF5 files by others: that their values are in the file, and what their chunks unpack to.

HDF5's library unpacks a chunk to whatever it becomes, without a bound, and reads on behind one that becomes too little.
A data set may be larger than memory: looked at is what must be there at once, which is a chunk and what is asked for.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import FileFormatError
from ..extras import h5py
from ..hdf5_structure import edges_are_whole
from .hdf5_filters import check_chunk, check_filters, chunk_filters, element_bytes
from .layouts import MOST_CHANNELS
from .sizes import FREE_BYTES, FREE_IMAGE, MAX_GROWTH, MOST_DEFLATED, check_growth

# Chunks of what is read in one piece: each is looked for, whether it is there or not. MOST_CHUNKS where 64 bytes of
# the file are there for each that is more.
MAX_CHUNKS, MOST_CHUNKS, CHUNK_SHARE = 1 << 16, 1 << 17, 64
CHUNKS_AT_ONCE = 1 << 12  # that h5py is asked for: it needs some 8 kB for each
# What the chunks of one piece may unpack to, most of which is thrown away where they hold many images: some seconds.
FREE_WORK = 1 << 29
FREE_WHOLE = 1 << 40  # that may have been prepared for an acquisition of which little was written
FREE_REGIONS = 1 << 32  # an image that is read by regions
# Beside one for each 16 bytes in the file: names and sizes of images take memory.
MANY_IMAGES, IMAGE_SHARE = 1 << 20, 16
_REMEMBERED = 1 << 17  # chunks that are known to be good


def check_values(dataset: h5py.Dataset, what: str) -> None:
    """FileFormatError for values in other files, and for chunks or numbers of images that are far more than the file.

    The whole, which is never read at once, may be up to a terabyte of which little was written.
    """
    if dataset.external or dataset.is_virtual:
        raise FileFormatError(f"{what} has its values in other files, which are not read: copy them into a data set")
    if dataset.shape is None:
        raise FileFormatError(f"{what} has no values")
    one = max(element_bytes(dataset), int(dataset.dtype.itemsize))
    held, whole = stored_bytes(dataset), math.prod(dataset.shape) * one
    if len(dataset.shape) > 2 and dataset.shape[0] > MANY_IMAGES + held // IMAGE_SHARE:
        raise FileFormatError(f"{what} would be {dataset.shape[0]:,} images, of {held:,} bytes in the file")
    if not dataset.chunks:
        check_growth(whole, held, what, 1)
        return
    check_growth(whole, held, what, MOST_DEFLATED, FREE_WHOLE if held else FREE_BYTES)
    image, chunk = math.prod(_image_shape(dataset.shape)) * one, math.prod(dataset.chunks) * one
    check_growth(image, held, f"{what}: one of its images", MAX_GROWTH, FREE_REGIONS)
    # Of an image that is large itself, only the last is remembered; others may fill a cache.
    free = FREE_IMAGE if chunk <= image else FREE_BYTES
    check_growth(chunk, held, f"{what}: one of its chunks", MAX_GROWTH, free)
    check_filters(dataset, what)


def _image_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of one image, of three axes as `usual_layout` has them: all if the first or the last is of channels."""
    is_stack = len(shape) > 3 or (len(shape) == 3 and min(shape[0], shape[2]) > MOST_CHANNELS)
    return shape[1:] if is_stack else shape


def stored_bytes(dataset: h5py.Dataset) -> int:
    """How many bytes of the file are a data set's values: of chunks that say they lie in the same bytes, the file's."""
    return min(int(dataset.id.get_storage_size()), os.path.getsize(dataset.file.filename))


class CheckedChunks:
    """A data set to be read by integers and slices of step 1; before a chunk that has filters is read
    first, what they make of it is checked.

    Raises ValueError for a chunk that does not unpack to what it must be, and for a piece of so many or so large chunks
    that it would take very long.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self.shape, self.dtype = dataset.shape, dataset.dtype
        self._filters = chunk_filters(dataset) if dataset.chunks else []
        self._element = element_bytes(dataset)
        self._whole = math.prod(dataset.chunks or (0,)) * self._element
        # Asked for once: HDF5 goes through all chunks to tell.
        self.held = stored_bytes(dataset) if dataset.chunks else 0
        self._good: set[tuple[int, ...]] = set()

    @cached_property
    def _edges_are_whole(self) -> bool:
        return edges_are_whole(self._dataset.file.filename, h5py.h5o.get_info(self._dataset.id).addr)

    def work(self, sides: tuple[int, ...]) -> int:
        """How many bytes are unpacked, or read, at the most for a piece of these sides, wherever it is."""
        if not self._dataset.chunks:
            return math.prod(sides) * self._element
        counts = (
            min(-(-length // chunk), (side + chunk - 2) // chunk + 1)
            for side, chunk, length in zip(sides, self._dataset.chunks, self.shape, strict=True)
        )
        return math.prod(counts) * self._whole

    def __getitem__(self, index: Any) -> np.ndarray:
        if not self._dataset.chunks:
            return np.asarray(self._dataset[index])
        whole = index if isinstance(index, tuple) else (index,)
        whole += (slice(None),) * (len(self.shape) - len(whole))
        box = [_bounds(part, length) for part, length in zip(whole, self.shape, strict=True)]
        chunks = self._chunks(box)
        self._check_work(math.prod(map(len, chunks)))
        # Of a chunk of a data set that has none at all, h5py asks memory for an absurd size.
        if self._filters and self.held:
            self._check(chunks)
        if math.prod(map(len, chunks)) <= CHUNKS_AT_ONCE:
            return np.asarray(self._dataset[index])
        values = np.empty([stop - start for start, stop in box], self.dtype)
        for part in self._parts(box):
            place = tuple(slice(a - start, b - start) for (a, b), (start, _) in zip(part, box, strict=True))
            values[place] = self._dataset[tuple(slice(a, b) for a, b in part)]
        return values[tuple(slice(None) if isinstance(part, slice) else 0 for part in whole)]

    def _chunks(self, box: list[tuple[int, int]]) -> list[range]:
        """Where the chunks begin that have a part of a box, axis by axis."""
        return [range(a // side * side, b, side) for (a, b), side in zip(box, self._dataset.chunks, strict=True)]

    def _parts(self, box: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        """The box in parts of few chunks, cut between chunks."""
        chunks = self._chunks(box)
        if math.prod(map(len, chunks)) <= CHUNKS_AT_ONCE:
            yield box
            return
        axis = max(range(len(box)), key=lambda i: len(chunks[i]))
        cut = chunks[axis][len(chunks[axis]) // 2]
        yield from self._parts([*box[:axis], (box[axis][0], cut), *box[axis + 1 :]])
        yield from self._parts([*box[:axis], (cut, box[axis][1]), *box[axis + 1 :]])

    def _check_work(self, count: int) -> None:
        advice = "written anew in chunks of one image, or of 512 x 512 pixels of it, it is read"
        if count > MAX_CHUNKS:
            most = min(MOST_CHUNKS, MAX_CHUNKS + self.held // CHUNK_SHARE)
            if count > most:
                raise ValueError(f"what is read at once is in {count:,} chunks, {most:,} at most; {advice}")
        if self._filters and count * self._whole > FREE_WORK:
            held, unpacked = self.held, count * self._whole
            if unpacked > FREE_WORK + MAX_GROWTH * held:
                raise ValueError(
                    f"what is read at once is in {count:,} chunks that unpack to {unpacked:,} bytes, of {held:,} in "
                    f"the file: more than {MAX_GROWTH} times as many, and more than {FREE_WORK:,}; {advice}"
                )

    def _check(self, chunks: list[range]) -> None:
        for place in itertools.product(*chunks):
            if place not in self._good:
                self._check_chunk(place)
                if len(self._good) >= _REMEMBERED:
                    self._good.clear()
                self._good.add(place)

    def _check_chunk(self, place: tuple[int, ...]) -> None:
        try:
            mask, data = self._dataset.id.read_direct_chunk(place)
        except (OSError, RuntimeError, ValueError):
            return  # not stored, and so all fill values; or damaged, which reading it shows
        except MemoryError:
            raise ValueError(f"its chunk at {place} says that it is larger than memory") from None
        used = [one for bit, one in enumerate(self._filters) if not mask >> bit & 1]
        ends = (start + side for start, side in zip(place, self._dataset.chunks, strict=True))
        if any(end > length for end, length in zip(ends, self.shape, strict=True)) and self._edges_are_whole:
            used = []
        try:
            check_chunk(data, used, self._whole, self._element)
        except ValueError as error:
            raise ValueError(f"its chunk at {place} {error}") from error


def _bounds(part: Any, length: int) -> tuple[int, int]:
    if not isinstance(part, slice):
        return part % length, part % length + 1
    start, stop, step = part.indices(length)
    if step != 1:
        raise ValueError(f"{part} must be of step 1")
    return start, max(start, stop)
