"""Data sets of HDF5 files by others: that their values are in the file, and what their chunks unpack to.

HDF5's library unpacks a chunk to whatever it becomes, without a bound, and reads on behind one that becomes too little.
"""

from __future__ import annotations

import itertools
import math
import os
import zlib
from typing import Any

import numpy as np

from ..errors import FileFormatError
from ..extras import h5py
from ..hdf5_structure import CHECKSUM, DEFLATE, FLETCHER, SHUFFLE
from .sizes import MAX_GROWTH, MOST_DEFLATED, check_growth

MAX_CHUNKS = 1 << 17  # of an image: each is looked for, whether it is there or not


def check_values(dataset: h5py.Dataset, what: str) -> None:
    """FileFormatError for values in other files, and for more of them than the file can hold."""
    if dataset.external or dataset.is_virtual:
        raise FileFormatError(f"{what} has its values in other files, which are not read")
    if dataset.shape is None:
        raise FileFormatError(f"{what} has no values")
    # Chunks can say that they lie in the same bytes: all that is held cannot be more than the file.
    held = min(int(dataset.id.get_storage_size()), os.path.getsize(dataset.file.filename))
    one = int(dataset.dtype.itemsize)
    whole = math.prod(dataset.shape) * one
    # Chunks may be missing, in what an acquisition has prepared and filled only in part.
    check_growth(whole, held, what, MOST_DEFLATED if dataset.chunks else 1)
    axes = slice(1, None) if len(dataset.shape) > 2 and dataset.shape[0] else slice(None)
    image = math.prod(dataset.shape[axes]) * one
    check_growth(image, held, f"{what}: one of its images", MAX_GROWTH)
    if dataset.chunks:
        check_growth(math.prod(dataset.chunks) * one, held, f"{what}: one of its chunks", MAX_GROWTH)
        count = math.prod(-(-n // side) for n, side in zip(dataset.shape[axes], dataset.chunks[axes], strict=True))
        if count > MAX_CHUNKS:
            raise FileFormatError(f"{what}: one of its images is in {count:,} chunks, {MAX_CHUNKS:,} at most")


class CheckedChunks:
    """A data set to be read by integers and slices; before a compressed chunk is read first, its size is checked.

    Raises ValueError for a chunk that does not unpack to what it must be.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self.shape, self.dtype = dataset.shape, dataset.dtype
        properties = dataset.id.get_create_plist()
        self._filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
        self._whole = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
        self._good: set[tuple[int, ...]] = set()

    def __getitem__(self, index: Any) -> np.ndarray:
        if DEFLATE in self._filters:
            self._check(index if isinstance(index, tuple) else (index,))
        values: np.ndarray = self._dataset[index]
        return values

    def _check(self, index: tuple[Any, ...]) -> None:
        ranges = []
        for axis, (length, side) in enumerate(zip(self.shape, self._dataset.chunks, strict=True)):
            part = index[axis] if axis < len(index) else slice(None)
            start, stop, _ = part.indices(length) if isinstance(part, slice) else (part % length, part % length + 1, 1)
            ranges.append(range(start // side * side, stop, side))
        for place in itertools.product(*ranges):
            if place not in self._good:
                self._check_chunk(place)
                self._good.add(place)

    def _check_chunk(self, place: tuple[int, ...]) -> None:
        try:
            mask, data = self._dataset.id.read_direct_chunk(place)
        except (OSError, RuntimeError, ValueError):
            return  # not stored, and so all fill values; or damaged, which reading it shows
        used = [number for bit, number in enumerate(self._filters) if not mask >> bit & 1]
        expected = self._whole + CHECKSUM * used[: used.index(DEFLATE) if DEFLATE in used else 0].count(FLETCHER)
        while used and used[-1] == FLETCHER:
            used.pop()
            data = data[:-CHECKSUM]
        # Where another filter has been at the deflated bytes, how many they become is not known before.
        if not used or used[-1] != DEFLATE or set(used[:-1]) - {SHUFFLE, FLETCHER}:
            return
        unpacker = zlib.decompressobj()
        try:
            made = len(unpacker.decompress(data, expected + 1))
        except zlib.error as error:
            raise ValueError(f"its chunk at {place} does not unpack: {error}") from error
        if made != expected or not unpacker.eof:
            raise ValueError(f"its chunk at {place} does not unpack to its {expected:,} bytes")


__all__ = ["CheckedChunks", "check_values"]
