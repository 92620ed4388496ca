"""Regions of compressed or tiled TIFF pages: only the strips or tiles that a region touches are decoded.

Segments(file).at(number)                 whether that page can be read so
segments.region(rows, columns, channels)  ->  (C, h, w) of it
"""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ..errors import FileFormatError
from .photos import LRUCache
from .tiff_codecs import SegmentDecoder, segments_are_decoded
from .tiff_file import special

CACHE_BYTES = 2**26  # of decoded strips and tiles: a row of tiles that are denoised shares them
# Of a page that is unpacked whole: threads, bytes that they unpack at once, bytes of a page that is worth threads, and
# strips or tiles of each thread that are read before any is waited for.
MOST_WORKERS, BYTES_AT_ONCE, WORTH_THREADS, ROUND = 4, 1 << 26, 1 << 22, 8
MANY_SEGMENTS, FEW_BYTES = 65_536, 256  # strips and tiles of a page; of so many, the mean number of bytes of each


def _readable(page: Any) -> bool:
    """Whether the samples of a pixel lie together, nothing is to be done to them, and their compression is known."""
    together = page.planarconfig == 1 or page.samplesperpixel == 1
    whole = page.dtype is not None and page.bitspersample == 8 * page.dtype.itemsize and page.dtype != bool
    if not segments_are_decoded(page) or not together or not whole:
        return False
    if page.imagedepth != 1 or special(page) or page.subsampling not in (None, (1, 1)):
        return False
    try:
        SegmentDecoder(page)(0, None)
    except Exception:  # whoever decodes the page says what is wrong
        return False
    return True


def check_segments(file: Any, page: Any) -> None:
    """FileFormatError for strips or tiles of a page that are all the same bytes, not all there, or very many for
    nothing."""
    what, held = f"page {page.index + 1}", sum(page.databytecounts)
    if held > file.filehandle.size:
        raise FileFormatError(f"{what} has {held:,} bytes of pixels, the file {file.filehandle.size:,}")
    count = int(np.prod(page.keyframe.chunked, dtype=object))
    if count > MANY_SEGMENTS and held < FEW_BYTES * count:
        raise FileFormatError(f"{what} has {held:,} bytes in {count:,} strips or tiles: fewer than {FEW_BYTES} in each")


def whole_page(file: Any, page: Any) -> np.ndarray:
    """The pixels of a page, of all its strips and tiles, in the shape that tifffile gives the page."""
    key = page.keyframe
    array = np.empty(key.shaped, key.dtype)  # (separate samples, depth, length, width, samples of a pixel)
    decode = SegmentDecoder(page)

    def fill(index: int, data: bytes | None) -> None:
        part, (sample, depth, top, left, _), shape = decode(index, data)
        ends = [start + length for start, length in zip((depth, top, left), shape, strict=False)]
        place = array[sample, depth : ends[0], top : ends[1], left : ends[2]]
        place[...] = key.nodata if part is None else part[: place.shape[0], : place.shape[1], : place.shape[2]]

    count = int(np.prod(key.chunked, dtype=object))
    workers = min(MOST_WORKERS, os.cpu_count() or 1, count, BYTES_AT_ONCE // max(1, decode.most))
    if workers > 1 and array.nbytes >= WORTH_THREADS:
        # No thread is to be had; or it is a decoder's error, and comes again.
        with contextlib.suppress(RuntimeError), ThreadPoolExecutor(workers, "npconv-tiff") as pool:
            step = max(workers, min(ROUND * workers, BYTES_AT_ONCE // max(1, decode.most)))
            for first in range(0, count, step):  # no more of the file is in memory than these
                some = range(first, min(count, first + step))
                for _ in pool.map(fill, some, [segment_of(file, page, index) for index in some]):
                    pass
            return array.reshape(key.shape)
    for index in range(count):
        fill(index, segment_of(file, page, index))
    return array.reshape(key.shape)


def segment_of(file: Any, page: Any, index: int) -> bytes | None:
    """The bytes of strip or tile `index` in the file, None of one that was never written; ValueError if it lacks."""
    number = page.index
    if index >= min(len(page.dataoffsets), len(page.databytecounts)):
        raise ValueError(f"it is damaged: page {number + 1} lacks its strip or tile {index + 1}")
    offset, size = page.dataoffsets[index], page.databytecounts[index]
    end = file.filehandle.size
    if size and offset + size > end:
        raise ValueError(
            f"it is cut off: page {number + 1} goes on to byte {offset + size:,}, the file ends at {end:,}"
        )
    if not size:
        return None
    file.filehandle.seek(offset)
    return bytes(file.filehandle.read(size))


class Segments:
    """The pages of an open TIFF file, read by strips and tiles; those that were decoded last are remembered."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._decoded = LRUCache(CACHE_BYTES)
        self._number, self._can = -1, False
        self._page: Any = None
        self._decoder: SegmentDecoder | None = None

    def at(self, number: int) -> bool:
        """Go to page `number`, and tell whether its regions can be read."""
        if self._number != number:
            self.forget()
            page = self._file.pages[number]
            self._number, self._page, self._can = number, page, _readable(page)
        return self._can

    def forget(self) -> None:
        """Let go of what was decoded."""
        self._number, self._page, self._decoder = -1, None, None
        self._decoded = LRUCache(CACHE_BYTES)

    def region(self, rows: slice, columns: slice, channels: slice) -> np.ndarray:
        """Rows, columns and channels (of step 1) of the page; ValueError where the file ends too early."""
        page = self._page
        top, bottom, _ = rows.indices(page.imagelength)
        left, right, _ = columns.indices(page.imagewidth)
        height, width = page.chunks[:2]
        across = page.chunked[1]
        block: np.ndarray = np.zeros((max(0, bottom - top), max(0, right - left), page.samplesperpixel), page.dtype)
        for down in range(top // height, -(-bottom // height)):
            for along in range(left // width, -(-right // width)):
                segment = self._decoded.get(down * across + along, self._decode)
                y, x = down * height, along * width
                upper, lower = max(top, y), min(bottom, y + segment.shape[0])
                first, last = max(left, x), min(right, x + segment.shape[1])
                if upper < lower and first < last:
                    part = segment[upper - y : lower - y, first - x : last - x]
                    block[upper - top : lower - top, first - left : last - left] = part
        image: np.ndarray = block.transpose(2, 0, 1)
        return image[channels]

    def _decode(self, index: int) -> np.ndarray:
        """Strip or tile `index` of the page, (h, w, samples)."""
        page = self._page
        if self._decoder is None:
            self._decoder = SegmentDecoder(page)
        part, _, shape = self._decoder(index, segment_of(self._file, page, index))
        segment = np.full(shape, page.nodata, page.dtype) if part is None else part
        # A copy, where it is a view of something larger, would be remembered with all of it.
        return np.ascontiguousarray(segment[0], page.dtype)
