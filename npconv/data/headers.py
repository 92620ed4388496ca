"""How large an image file's pictures are, and how many, from its header."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import damage_named
from . import tiff_file
from .file_array import npy_array
from .layouts import usual_layout
from .pillow_images import opened

__all__ = ["header", "page_count"]


def header(path: Path) -> tuple[tuple[int, int], int]:
    """The sides of an image file's picture, the shorter one first, and the bytes that a value of it takes once read.

    Of a TIFF file with several pages, which are alike, those of each. Nothing is decoded. Raises FileFormatError (a
    ValueError) that names a file without a header.
    """
    with damage_named(str(path)):
        shape, itemsize = _header(path)
        short, long = sorted(shape)
    return (int(short), int(long)), itemsize


def page_count(path: Path) -> int:
    """How many images a file holds, 1 or, of a TIFF file, more; FileFormatError that names one that is cut off."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return 1
    with damage_named(str(path)):
        return tiff_file.page_count(path)


def _header(path: Path) -> tuple[tuple[int, int], int]:
    ending = path.suffix.lower()
    if ending == ".npy":
        array = npy_array(path)
        return usual_layout(array.shape).full(array.shape)[2:], _as_read(array.dtype)
    if ending in (".tif", ".tiff"):
        held = tiff_file.contents(path)
        return held.shape[2:], _as_read(held.dtype)
    with opened(path) as image:
        return (image.height, image.width), 4 if image.mode.startswith(("I", "F")) else 1


def _as_read(dtype: np.dtype) -> int:
    """8-bit values stay, 16-bit ones become float32."""
    return 4 if dtype.itemsize == 2 and dtype.kind == "u" else dtype.itemsize
