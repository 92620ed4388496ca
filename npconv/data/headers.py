"""How large an image file's picture is, from its header."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from ..extras import require

__all__ = ["header"]


def header(path: Path) -> tuple[tuple[int, int], int]:
    """The sides of an image file's picture, the shorter one first, and the bytes that a value of it takes once read.

    Nothing is decoded. Raises ValueError that names a file without a header.
    """
    try:
        shape, itemsize = _header(path)
        short, long = sorted(shape)[-2:]  # at most 4 channels
    except ImportError:
        raise
    except Exception as error:  # decoders raise whatever they like on a damaged file
        raise ValueError(f"cannot read {str(path)!r}: {error}") from error
    return (int(short), int(long)), itemsize


def _header(path: Path) -> tuple[tuple[int, ...], int]:
    ending = path.suffix.lower()
    if ending == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return array.shape, _as_read(array.dtype)
    if ending in (".tif", ".tiff"):
        with require("tifffile").TiffFile(path) as file:
            return file.series[0].shape, _as_read(file.series[0].dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the size, which is what is asked for
        with require("PIL.Image").open(path) as image:
            return (image.height, image.width), 4 if image.mode.startswith(("I", "F")) else 1


def _as_read(dtype: np.dtype) -> int:
    """8-bit values stay, 16-bit ones become float32."""
    return 4 if dtype.itemsize == 2 and dtype.kind == "u" else dtype.itemsize
