"""What a TIFF file holds: how many pages, of which size, and where their pixels lie.

    samples of a pixel (tifffile's axis S)  ->  channels           all other axes (T, Z, C, Q, I ...)  ->  pages

One rule for denoising, training and evaluation. All pages must be alike; smaller copies of the first one (pyramid
levels, thumbnails, masks) are left out. A file that was cut off is an error, where tifffile reads what is left of it.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import require
from .file_array import FileArray
from .layouts import MOST_CHANNELS, Layout

MIN_IS_WHITE, PALETTE = 0, 3  # values of the tag PhotometricInterpretation
_REDUCED_OR_MASK = 1 | 4  # bits of the tag NewSubfileType
_SLIDES = ("svs", "ndpi", "bif", "scn", "qpi", "avs", "philips", "indica")  # tifffile's names of slide scanners' files
_logging = threading.RLock()


@dataclass(frozen=True)
class Contents:
    """The pages of a file. `shape`: (N, C, H, W), upright, as read; `numbers`: which of the file's pages they are.

    array, layout: where the pixels lie, if they lie in one piece and are the image as they are; else None.
    special: why stored values are not the image ("it is turned"), or "". axes, stored: tifffile's, of the whole.
    """

    shape: tuple[int, int, int, int]
    dtype: np.dtype
    numbers: tuple[int, ...]
    array: FileArray | None
    layout: Layout | None
    special: str
    axes: str | None
    stored: tuple[int, ...]


@contextmanager
def opened_tiff(path: Path) -> Iterator[Any]:
    """The file as a `tifffile.TiffFile`; what tifffile logs as an error becomes a warning that names the file."""
    with quiet(path), require("tifffile").TiffFile(path) as file:
        yield file


@contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Nothing that tifffile logs reaches the terminal; its errors become warnings where nothing is raised."""
    logger, kept = logging.getLogger("tifffile"), _Kept()
    with _logging:
        propagate, logger.propagate = logger.propagate, False
        logger.addHandler(kept)
        try:
            yield
        finally:
            logger.removeHandler(kept)
            logger.propagate = propagate
    for text in kept.messages:
        warnings.warn(f"{path}: {text}", stacklevel=4)


class _Kept(logging.Handler):
    """Remembers errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def page_count(path: Path) -> int:
    """How many images a TIFF file holds; nothing is decoded. ValueError for one that is cut off or none."""
    reduced, description = directories(path)
    # ImageJ, and tifffile too, may write one directory for all pages of a large stack.
    if len(reduced) == 1 and not (b"ImageJ" in description or b'"truncated"' in description):
        return 1
    return contents(path).shape[0]


def directories(path: Path) -> tuple[list[bool], bytes]:
    """Of each page whether it is marked as a smaller copy or a mask of another; and the first one's description.

    Walks the chain of image file directories as TIFF 6.0 and BigTIFF define it. Raises ValueError if it does not end
    within the file.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        version = struct.unpack(order + "H", head[2:4])[0] if order and len(head) == 16 else 0
        if version not in (42, 43):
            raise ValueError("it is not a TIFF file")
        big = version == 43
        word, entry = order + ("Q" if big else "I"), 20 if big else 12
        number = order + ("Q" if big else "H")
        offset = struct.unpack_from(word, head, 8 if big else 4)[0]
        found: dict[int, bool] = {}
        description = b""
        while offset:
            file.seek(offset)
            start = file.read(struct.calcsize(number))
            count = struct.unpack(number, start)[0] if len(start) == struct.calcsize(number) else 0
            wanted = count * entry + struct.calcsize(word)
            body = file.read(wanted) if 0 < wanted < size else b""
            if offset in found or not count or len(body) < wanted:
                raise ValueError(f"it is damaged or cut off: its directory of pages breaks off after {len(found)}")
            tags = {struct.unpack_from(order + "H", body, at)[0]: at for at in range(0, count * entry, entry)}
            if not found and 270 in tags:
                description = _text(file, body[tags[270] :][:entry], word)
            found[offset] = 254 in tags and bool(_subfile_type(body, tags[254], order, big) & _REDUCED_OR_MASK)
            offset = struct.unpack_from(word, body, count * entry)[0]
    if not found:
        raise ValueError("it has no pages")
    return list(found.values()), description


def _subfile_type(body: bytes, at: int, order: str, big: bool) -> int:
    short = struct.unpack_from(order + "H", body, at + 2)[0] == 3
    return int(struct.unpack_from(order + ("H" if short else "I"), body, at + (12 if big else 8))[0])


def _text(file: Any, entry: bytes, word: str) -> bytes:
    """The beginning of a text that a directory's entry points to, or holds itself."""
    length, where = (struct.unpack_from(word, entry, at)[0] for at in (4, 4 + struct.calcsize(word)))
    if length <= struct.calcsize(word):
        return entry[-struct.calcsize(word) :]
    file.seek(where)
    return bytes(file.read(min(length, 10_000)))


def contents(path: Path) -> Contents:
    """What a TIFF file holds; remembered for a few files. Raises ValueError for pages that are no stack of images."""
    state = path.stat()
    return _remembered(path, state.st_size, (state.st_mtime_ns, state.st_ino))


@lru_cache(maxsize=32)
def _remembered(path: Path, size: int, _: tuple[int, int]) -> Contents:
    directories(path)
    with opened_tiff(path) as file:
        series = _kept_series(path, file)
        pages = [page for part in series for page in part.pages]
        first, key = series[0], series[0].keyframe
        image, dtype = as_read(key)
        why = special(key)
        if key.dtype is None:
            raise ValueError("its values are of a kind that is not known")
        shape, layout = _simplified(first.shape, first.axes)
        if len(series) == 1 and layout is not None and first.dataoffset is not None and not why:
            stored = first.dtype.newbyteorder(file.byteorder)
            array = FileArray(path, stored, int(first.dataoffset), shape)
            end = array.offset + stored.itemsize * int(np.prod(shape, dtype=object))
            if end > size:
                raise ValueError(f"it is cut off: its pixels end at byte {end:,}, the file at {size:,}")
            full = layout.full(shape)
            return Contents(full, dtype, _numbers(pages), array, layout, "", first.axes, tuple(first.shape))
        if any(page is None or page.parent is not file for page in pages) or (len(series) == 1 and layout is None):
            raise ValueError(f"its axes {first.axes} of shape {first.shape} are not those of a stack of images")
        axes, whole = (first.axes, tuple(first.shape)) if len(series) == 1 else (None, ())
        numbers = tuple(sorted(_numbers(pages)))
        return Contents((len(numbers), *image), dtype, numbers, None, None, why, axes, whole)


def _numbers(pages: list[Any]) -> tuple[int, ...]:
    return tuple(page.index for page in pages if page is not None)


def _kept_series(path: Path, file: Any) -> list[Any]:
    """The series of pages that are no smaller copies; ValueError if they are not alike."""
    first, *others = file.series
    copies = first.is_pyramidal and first.kind in _SLIDES  # the rest is a thumbnail and a label
    kept = [first, *(part for part in others if not copies and not part.keyframe.subfiletype & _REDUCED_OR_MASK)]
    if len(kept) <= len(others):
        number = len(others) + 1 - len(kept)
        told = f"{number} of its images {'is' if number == 1 else 'are'} left out"
        warnings.warn(f"{path}: {told}: smaller copies or masks of the first one", stacklevel=5)
    kinds: dict[str, list[int]] = {}
    for part in kept:
        (channels, height, width), dtype = as_read(part.keyframe)
        of = f"{width} x {height} pixels, {channels} channel{'s' * (channels > 1)}, {dtype}"
        kinds.setdefault(of, []).extend(number + 1 for number in _numbers(list(part.pages)))
    if len(kinds) > 1:
        told = "; ".join(
            f"{of} (page {min(numbers)}{' and others' * (len(numbers) > 1)})" for of, numbers in kinds.items()
        )
        raise ValueError(f"its pages must be alike, but are of different sizes or kinds: {told}")
    return kept


def as_read(page: Any) -> tuple[tuple[int, int, int], np.dtype]:
    """(C, H, W) and the dtype of a page once it is upright, a palette is colours, and bits are 0 and 255."""
    lengths = dict(zip(page.axes, page.shape, strict=True))
    if not {"Y", "X"} <= set(lengths) <= set("YXS") or lengths.get("S", 1) > MOST_CHANNELS or 0 in page.shape:
        raise ValueError(f"its pages of shape {page.shape} (axes {page.axes}) are no images of at most 4 channels")
    height, width = lengths["Y"], lengths["X"]
    if orientation(page) in (5, 6, 7, 8):
        height, width = width, height
    if page.photometric == PALETTE and page.colormap is not None:
        return (3, height, width), np.dtype(np.uint8)
    dtype = np.dtype(np.uint8) if page.dtype in (None, bool) else page.dtype.newbyteorder("=")
    return (lengths.get("S", 1), height, width), dtype


def orientation(page: Any) -> int:
    """The orientation tag, 1 where there is none."""
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag is not None else 1


def special(page: Any) -> str:
    """Why the stored values of a page are not the image, in words; "" if they are."""
    if orientation(page) != 1:
        return "it is turned (its orientation tag)"
    if page.photometric == MIN_IS_WHITE:
        return "0 is white in it"
    if page.photometric == PALETTE:
        return "it has a palette"
    return "it has bits for pixels" if page.dtype is None or page.dtype == bool else ""


def _simplified(shape: tuple[int, ...], axes: str) -> tuple[tuple[int, ...], Layout | None]:
    """The shape with all pages in one axis, and its layout; None where the axes are in another order."""
    for ending, letters in (("YXS", "HWC"), ("SYX", "CHW"), ("YX", "HW")):
        if axes.endswith(ending):
            pages = shape[: -len(ending)]
            if "Y" in axes[: -len(ending)] or "S" in axes[: -len(ending)]:
                break
            if not pages:
                return shape, Layout(letters)
            return (int(np.prod(pages)), *shape[-len(ending) :]), Layout("N" + letters)
    return shape, None
