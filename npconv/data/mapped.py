"""Regions of uncompressed image files, read without the rest of the file: NPY, and TIFF whose pixels lie in one run.

    mapped_image(path)          ->  MappedImage, or None for a file that can only be read whole
    image.region(0, 0, 64, 64)  ->  (C, 64, 64) in the file's dtype, as `read_image` would give it

The file is mapped for each region and let go again, so that a training set's pages do not add up in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .file_array import FileArray, npy_array
from .layouts import Layout, image_layout
from .tiff_file import contents

__all__ = ["MappedImage", "mapped_image"]


@dataclass(frozen=True)
class MappedImage:
    """One page of an array that lies in a file."""

    array: FileArray
    layout: Layout
    page: int = 0

    @property
    def path(self) -> Path:
        """The file."""
        return self.array.path

    @property
    def dtype(self) -> np.dtype:
        """Of the file's values, in their byte order."""
        return self.array.dtype

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.layout.full(self.array.shape)[2:]

    def region(self, top: int, left: int, height: int, width: int, step: int = 1) -> np.ndarray:
        """Rows and columns from `top` and `left` on, every `step`th: (C, H, W), the caller's own.

        Raises ValueError for a file that has become too short, OSError for one that cannot be read.
        """
        rows, columns = slice(top, top + height, step), slice(left, left + width, step)
        part = self.layout.read(self.array, slice(self.page, self.page + 1), rows, columns)[0]
        return np.ascontiguousarray(part, self.dtype.newbyteorder("="))


def mapped_image(path: Path, page: int = 0) -> MappedImage | None:
    """Where the pixels of an image file's page lie; None where it must be read whole, or cannot be read at all."""
    ending = path.suffix.lower()
    try:
        if ending == ".npy":
            return _of_npy(path)
        if ending not in (".tif", ".tiff"):
            return None
        held = contents(path)
        if held.array is None or held.layout is None or held.dtype.kind not in "uif":
            return None
        return MappedImage(held.array, held.layout, page)
    except ImportError:
        raise
    except Exception:  # whoever reads it whole says what is wrong
        return None


def _of_npy(path: Path) -> MappedImage | None:
    array = npy_array(path)
    whole = 0 not in array.shape and array.dtype.kind in "uif"
    return MappedImage(array, image_layout(array.shape)) if whole else None
