"""The series of pages in a TIFF file: tifffile's, and for very many pages that nothing orders, one of our own.

tifffile orders pages by what the file's description tells (OME, ImageJ, its own ...). Where that fails it walks over
all pages and compares each with all of its kind: minutes for 65,000 pages. Of more than MAX_UNLIKE pages this walk is
refused, and all pages must be like the first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..extras import require
from .tiff_directories import MAX_UNLIKE, Directories

_PARSED_WHOLE = ("lsm", "fluoview", "stk", "sis", "svs", "scn", "qpi", "ndpi", "bif", "avs", "eer", "philips", "nih")


class _WalkedOverError(Exception):
    """All pages were about to be walked over."""


def series_of(file: Any, held: Directories) -> tuple[list[Any], int]:
    """The series of pages of the open file, tifffile's or of the same class; and how many pages were left out.

    Of very many pages only those kinds of files are told apart for which tifffile does not parse each page, and
    smaller copies and masks are left out before the pages are compared: LSM files have one after each.
    Raises ValueError for pages that should be alike and are not.
    """
    count = len(held.reduced)
    many = count > MAX_UNLIKE
    try:
        if not many:
            return list(file.series), 0
        kept = [number for number, reduced in enumerate(held.reduced) if number == 0 or not reduced]
        if len(kept) == 1:  # marks that tell nothing
            kept = list(range(count))
        _forget_kinds(file, held, copies=len(kept) < count)
        pages: Any = file.pages
        walked: Any = type(pages)
        pages.__class__ = _unwalkable(walked)
        try:
            return list(file.series), 0
        except _WalkedOverError:
            return [_of_alike(file, kept)], count - len(kept)
    except RuntimeError as error:  # of pages that should be like the first
        told = f"of more than {MAX_UNLIKE:,} pages all must be alike" if many else "they are not alike"
        raise ValueError(f"its pages do not fit together, {told}: {error}") from error


def _forget_kinds(file: Any, held: Directories, copies: bool) -> None:
    """Make tifffile blind to kinds of files that take long for very many pages. copies: there are some among them."""
    file.__dict__.update({f"is_{kind}": False for kind in _PARSED_WHOLE})
    # Written a page at a time, each page is a series of its own.
    if file.is_shaped and _said_size(held.description) < (len(held.reduced) - MAX_UNLIKE) * held.areas[0]:
        file.__dict__["is_shaped"] = False
    if copies and not file.is_shaped:
        file.__dict__["is_uniform"] = False  # asks for a few pages only


@lru_cache(maxsize=4)
def _unwalkable(base: Any) -> Any:
    """tifffile's class of a file's pages, but for walking over all of them, which its last resort does.

    `__iter__` is of Python's, and there in all versions; the function that gathers pages is not.
    """

    class UnwalkablePages(base):  # type: ignore[misc]
        __slots__ = ()  # so that pages of the one class can become the other's

        def __iter__(self) -> Iterator[Any]:
            raise _WalkedOverError

    return UnwalkablePages


def _of_alike(file: Any, numbers: list[int]) -> Any:
    """Those pages, the first of the file and others like it, as one series; RuntimeError if they are not like it."""
    pages = file.pages
    pages.useframes = True  # what is the same in all pages is parsed once
    pages.set_keyframe(0)
    first = pages.first
    try:
        found = [first, *(pages[number] for number in numbers[1:])]
    finally:
        pages.useframes = False
    unlike = next((page for page in found if page.hash != first.hash), None)
    if unlike is not None:
        raise RuntimeError(f"page {unlike.index + 1} is unlike the first")
    series = require("tifffile").TiffPageSeries
    return series(found, (len(found), *first.shape), first.dtype, "I" + first.axes, kind="uniform")


def _said_size(description: bytes) -> int:
    """How many values the description that tifffile writes tells of, 0 if it tells of none."""
    try:
        return math.prod(json.loads(description.rstrip(b"\0"))["shape"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
