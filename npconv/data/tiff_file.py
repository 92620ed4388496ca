"""What a TIFF file holds: how many pages, of which size, and where their pixels lie.

    samples of a pixel (tifffile's axis S)  ->  channels           all other axes (T, Z, C, Q, I ...)  ->  pages

One rule for denoising, training and evaluation. All pages must be alike; smaller copies of the first one (pyramid
levels, thumbnails, masks) are left out. A file that was cut off is an error, where tifffile reads what is left of it.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.forking import after_fork
from ..extras import require
from .file_array import FileArray
from .layouts import MOST_CHANNELS, Layout
from .sizes import FREE_BYTES, MOST_DEFLATED, check_growth
from .tiff_codecs import segments_are_decoded
from .tiff_descriptions import check_description
from .tiff_directories import REDUCED_OR_MASK, directories
from .tiff_series import series_of

MIN_IS_WHITE, PALETTE, INKS, LUMA = 0, 3, 5, 6  # values of the tag PhotometricInterpretation
_NO_RGB = {8: "CIE L*a*b*", 9: "ICC L*a*b*", 10: "ITU L*a*b*", 32_844: "LogL", 32_845: "LogLuv"}
_PLAIN = (1, 5, 8, 32_773, 32_946, 34_925, 50_000)  # compressions that leave luma and chroma as they are: not JPEG's
_SLIDES = ("svs", "ndpi", "bif", "scn", "qpi", "avs", "philips", "indica")  # tifffile's names of slide scanners' files
_logging = threading.RLock()


def _forked() -> None:
    global _logging
    _logging = threading.RLock()


after_fork(_forked)


@dataclass(frozen=True)
class Contents:
    """The pages of a file. `shape`: (N, C, H, W), upright, as read; `numbers`: which of the file's pages they are,
    none where the pixels lie in one piece.

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
    with quiet(path), tiff_file(path) as file:
        yield file


def tiff_file(path: Path) -> Any:
    """The file alone: descriptions of OME and others may name more files, which tifffile would open.

    Micro-Manager's formats look for files beside this one; of ScanImage's, tifffile guesses where pages may be.
    """
    tifffile = require("tifffile")
    return tifffile.TiffFile(path, _multifile=False, is_mmstack=False, is_ndtiff=False, is_scanimage=False)


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
    held = directories(path)
    # ImageJ, and tifffile too, may write one directory for all pages of a large stack.
    if len(held.reduced) == 1 and not (b"ImageJ" in held.description or b'"truncated"' in held.description):
        return 1
    return contents(path).shape[0]


def contents(path: Path) -> Contents:
    """What a TIFF file holds; remembered for a few files. Raises ValueError for pages that are no stack of images."""
    state = path.stat()
    return _remembered(path, state.st_size, (state.st_mtime_ns, state.st_ino))


@lru_cache(maxsize=32)
def _remembered(path: Path, size: int, _: tuple[int, int]) -> Contents:
    held = directories(path)
    with opened_tiff(path) as file:
        check_description(file.pages[0].description, held)
        series = _kept_series(path, *series_of(file, held))
        first, key = series[0], series[0].keyframe
        image, dtype = as_read(key)
        why = special(key)
        check_page(file, key)
        segments_are_decoded(key)
        if key.dtype is None:
            raise ValueError("its values are of a kind that is not known")
        if dtype.kind not in "uif":
            raise ValueError(f"{dtype} values are no image's")
        shape, layout = simplified(first.shape, first.axes)
        if len(series) == 1 and layout is not None and first.dataoffset is not None and not why:
            stored = first.dtype.newbyteorder(file.byteorder)
            array = FileArray(path, stored, int(first.dataoffset), shape)
            end = array.offset + stored.itemsize * int(np.prod(shape, dtype=object))
            if end > size:
                raise ValueError(f"it is cut off: its pixels end at byte {end:,}, the file at {size:,}")
            return Contents(layout.full(shape), dtype, (), array, layout, "", first.axes, tuple(first.shape))
        pages, missing = _pages_there(path, file, series)
        if len(series) == 1 and layout is None:
            raise ValueError(f"its axes {first.axes} of shape {first.shape} are not those of a stack of images")
        axes, whole = (first.axes, tuple(first.shape)) if len(series) == 1 and not missing else (None, ())
        numbers = tuple(sorted(page.index for page in pages))
        return Contents((len(numbers), *image), dtype, numbers, None, None, why, axes, whole)


def check_page(file: Any, page: Any, growth: int = MOST_DEFLATED, free: int = FREE_BYTES) -> None:
    """FileFormatError if a page would become that many times more than its bytes in the file, and more than `free`."""
    held = min(sum(page.databytecounts), file.filehandle.size)
    size = int(page.nbytes)
    if page.photometric == PALETTE and page.colormap is not None:
        size = (size + 3 * size // page.dtype.itemsize) // 2  # what is twice in memory of others: numbers and colours
    check_growth(size, held, f"page {page.index + 1}", growth, free)


def _kept_series(path: Path, found: list[Any], left_out: int) -> list[Any]:
    """The series of pages that are no smaller copies, besides those `left_out`, of which there is a warning.

    ValueError if they are not alike.
    """
    first, *others = found
    copies = first.is_pyramidal and first.kind in _SLIDES  # the rest is a thumbnail and a label
    kept = [first, *(part for part in others if not copies and not part.keyframe.subfiletype & REDUCED_OR_MASK)]
    left_out += len(found) - len(kept)
    if left_out:
        told = f"{left_out} of its images {'is' if left_out == 1 else 'are'} left out"
        warnings.warn(f"{path}: {told}: smaller copies or masks of the first one", stacklevel=5)
    kinds: dict[str, list[Any]] = {}
    for part in kept:
        (channels, height, width), dtype = as_read(part.keyframe)
        of = f"{width} x {height} pixels, {channels} channel{'s' * (channels > 1)}, {dtype}"
        kinds.setdefault(of, []).append(part)
    if len(kinds) > 1:
        told = "; ".join(
            f"{of} (page {min(part.keyframe.index for part in parts) + 1}"
            f"{' and others' * (sum(len(part.pages) for part in parts) > 1)})"
            for of, parts in kinds.items()
        )
        raise ValueError(f"its pages must be alike, but are of different sizes or kinds: {told}")
    return kept


def _pages_there(path: Path, file: Any, series: list[Any]) -> tuple[list[Any], int]:
    """The pages of the series that the file has, and how many it lacks, of which there is a warning: the description
    of an acquisition that was broken off tells of more than were written."""
    told = [page for part in series for page in part.pages]
    pages = [page for page in told if page is not None]
    if any(page.parent is not file for page in pages):
        raise ValueError("its description names pages of other files, which are not read")
    missing = len(told) - len(pages)
    if not pages:
        raise ValueError(f"all of the {missing} pages that its description tells of are missing")
    if missing:
        is_or_are = "is" if missing == 1 else "are"
        warnings.warn(
            f"{path}: {missing} of the {len(told)} pages that its description tells of {is_or_are} missing: only the "
            f"other{'s' * (len(pages) > 1)} can be read",
            stacklevel=5,
        )
    return pages, missing


def as_read(page: Any) -> tuple[tuple[int, int, int], np.dtype]:
    """(C, H, W) and the dtype of a page once it is upright, a palette is colours, and bits are 0 and 255."""
    lengths = dict(zip(page.axes, page.shape, strict=True))
    if not {"Y", "X"} <= set(lengths) <= set("YXS") or lengths.get("S", 1) > MOST_CHANNELS or 0 in page.shape:
        raise ValueError(f"its pages of shape {page.shape} (axes {page.axes}) are no images of at most 4 channels")
    _check_colours(page, lengths.get("S", 1))
    height, width = lengths["Y"], lengths["X"]
    if orientation(page) in (5, 6, 7, 8):
        height, width = width, height
    if page.photometric == PALETTE and page.colormap is not None:
        return (3, height, width), np.dtype(np.uint8)
    if page.photometric == INKS:
        return (3, height, width), np.dtype(np.uint8)
    dtype = np.dtype(np.uint8) if page.dtype in (None, bool) else page.dtype.newbyteorder("=")
    return (lengths.get("S", 1), height, width), dtype


def _check_colours(page: Any, channels: int) -> None:
    """ValueError for values that are no shades of gray, RGB, numbers of a palette, or four inks of 8 bits."""
    if page.photometric in _NO_RGB:
        raise ValueError(f"its colours are {_NO_RGB[page.photometric]}: convert it to RGB")
    if page.photometric == LUMA and channels == 3 and page.compression in _PLAIN:
        raise ValueError("its colours are luma and chroma (YCbCr): convert it to RGB")
    if page.photometric == INKS and (channels != 4 or page.dtype != np.uint8):
        raise ValueError(f"its colours are {channels} inks of {page.dtype}, read are CMYK of 8 bits: convert it to RGB")


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
    if page.photometric == INKS:
        return "it is in inks (CMYK)"
    return "it has bits for pixels" if page.dtype is None or page.dtype == bool else ""


def simplified(shape: tuple[int, ...], axes: str) -> tuple[tuple[int, ...], Layout | None]:
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
