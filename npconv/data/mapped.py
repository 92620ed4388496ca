"""Regions of uncompressed image files, read without the rest of the file: NPY, and TIFF whose pixels lie in one run.

    mapped_image(path)          ->  MappedImage, or None for a file that can only be read whole
    image.region(0, 0, 64, 64)  ->  (C, 64, 64) in the file's dtype, as `read_image` would give it

The file is mapped for each region and let go again, so that a training set's pages do not add up in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import require

__all__ = ["MappedImage", "mapped_image"]

_MIN_IS_WHITE, _PALETTE = 0, 3  # values of the TIFF tag PhotometricInterpretation


@dataclass(frozen=True)
class MappedImage:
    """Where the pixels of a file lie. `axes`: the file's axes that are C, H and W; C is None in (H, W) files."""

    path: Path
    dtype: np.dtype
    offset: int
    file_shape: tuple[int, ...]
    order: str
    axes: tuple[int | None, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channel, row, column = self.axes
        return 1 if channel is None else self.file_shape[channel], self.file_shape[row], self.file_shape[column]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.shape[1:]

    def region(self, top: int, left: int, height: int, width: int, step: int = 1) -> np.ndarray:
        """Rows and columns from `top` and `left` on, every `step`th: (C, H, W), the caller's own.

        Raises ValueError for a file that has become too short, OSError for one that cannot be read.
        """
        order: Any = self.order
        whole = np.memmap(self.path, self.dtype, "r", self.offset, self.file_shape, order)
        channel, row, column = self.axes
        image = whole[np.newaxis] if channel is None else whole.transpose(channel, row, column)
        part = image[:, top : top + height : step, left : left + width : step]
        return np.array(part, self.dtype.newbyteorder("="), order="C", subok=False)


def mapped_image(path: Path) -> MappedImage | None:
    """Where the pixels of an image file lie; None where it must be read whole, or cannot be read at all."""
    ending = path.suffix.lower()
    try:
        if ending == ".npy":
            return _of_npy(path)
        return _of_tiff(path) if ending in (".tif", ".tiff") else None
    except ImportError:
        raise
    except Exception:  # whoever reads it whole says what is wrong
        return None


def _of_npy(path: Path) -> MappedImage | None:
    array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    order = "C" if array.flags.c_contiguous else "F"
    return _image(path, array.dtype, array.offset, array.shape, order, _axes_of(array.shape))


def _of_tiff(path: Path) -> MappedImage | None:
    with require("tifffile").TiffFile(path) as file:
        page, series = file.pages[0], file.series[0]
        tag = page.tags.get("Orientation")
        turned = tag is not None and int(tag.value) != 1
        if series.dataoffset is None or turned or page.photometric in (_MIN_IS_WHITE, _PALETTE):
            return None
        dtype = series.dtype.newbyteorder(file.byteorder)
        axes: Any = _axes_of(series.shape)
        if len(series.shape) == 3 and series.axes.endswith("YXS") and series.shape[2] <= 4:
            axes = (2, 0, 1)
        return _image(path, dtype, series.dataoffset, series.shape, "C", axes)


def _axes_of(shape: tuple[int, ...]) -> Any:
    """As `read_image` takes an array: (H, W), (C, H, W), or (H, W, C) where the first axis is no C."""
    if len(shape) == 2:
        return (None, 0, 1)
    if len(shape) == 3 and 1 <= shape[0] <= 4:
        return (0, 1, 2)
    return (2, 0, 1) if len(shape) == 3 and 1 <= shape[2] <= 4 else None


def _image(path: Path, dtype: np.dtype, offset: int, shape: Any, order: str, axes: Any) -> MappedImage | None:
    whole = axes is not None and 0 not in shape and path.stat().st_size >= offset + dtype.itemsize * np.prod(shape)
    if not whole or dtype.kind not in "uif":
        return None
    return MappedImage(path, dtype, int(offset), tuple(int(n) for n in shape), order, axes)
