"""Regions of compressed or tiled TIFF pages: only the strips or tiles that a region touches are decoded.

Segments(file).at(number)                 whether that page can be read so
segments.region(rows, columns, channels)  ->  (C, h, w) of it
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .photos import LRUCache
from .tiff_file import special

CACHE_BYTES = 2**26  # of decoded strips and tiles: a row of tiles that are denoised shares them


def _readable(page: Any) -> bool:
    """Whether the samples of a pixel lie together, nothing is to be done to them, and their compression is known."""
    together = page.planarconfig == 1 or page.samplesperpixel == 1
    whole = page.dtype is not None and page.bitspersample == 8 * page.dtype.itemsize and page.dtype != bool
    if not together or not whole or page.imagedepth != 1 or special(page) or page.subsampling not in (None, (1, 1)):
        return False
    try:
        page.decode(None, 0)
    except Exception:  # whoever decodes the page says what is wrong
        return False
    return True


class Segments:
    """The pages of an open TIFF file, read by strips and tiles; those that were decoded last are remembered."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._decoded = LRUCache(CACHE_BYTES)
        self._number, self._can = -1, False
        self._page: Any = None

    def at(self, number: int) -> bool:
        """Go to page `number`, and tell whether its regions can be read."""
        if self._number != number:
            self.forget()
            page = self._file.pages[number]
            self._number, self._page, self._can = number, page, _readable(page)
        return self._can

    def forget(self) -> None:
        """Let go of what was decoded."""
        self._number, self._page = -1, None
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
        number, page = self._number, self._page
        if index >= min(len(page.dataoffsets), len(page.databytecounts)):
            raise ValueError(f"it is damaged: page {number + 1} lacks its strip or tile {index + 1}")
        offset, size = page.dataoffsets[index], page.databytecounts[index]
        end = self._file.filehandle.size
        if size and offset + size > end:
            raise ValueError(
                f"it is cut off: page {number + 1} goes on to byte {offset + size:,}, the file ends at {end:,}"
            )
        self._file.filehandle.seek(offset)
        data = self._file.filehandle.read(size) if size else None
        decoded, _, shape = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        segment = np.full(shape, page.nodata, page.dtype) if decoded is None else decoded
        # A copy, where it is a view of something larger, would be remembered with all of it.
        return np.ascontiguousarray(segment[0], page.dtype)
