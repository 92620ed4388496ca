"""Image files of any size and number of pages, read a region at a time, and written so: for `npconv denoise`.

    open_stack(path)  ->  Stack: shape (N, C, H, W), dtype, read(pages, rows, columns)  ->  (n, C, h, w)
    new_stack(path, stack)  ->  something to write the same regions to; the file is whole, or not there

| format    | pages                                   | in memory                         | kept besides pixels     |
|-----------|-----------------------------------------|-----------------------------------|-------------------------|
| PNG, JPEG | one                                     | all: the formats know no regions  | ICC profile, dpi, EXIF  |
| TIFF      | any: T, Z and C of ImageJ and OME too   | a region: `tiff_stacks` says more | ICC profile, resolution |
| NPY       | (H, W), (C, H, W), ... : `usual_layout` | a region                          | layout                  |
| HDF5      | as NPY, a data set of the file          | a region                          | layout, attributes      |

An EXIF or TIFF orientation is applied. A TIFF file's channels are the samples of a pixel; anything else that it has
several of are pages, fluorescence channels too. An NPY or HDF5 array (2, H, W) is taken as gray and alpha.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import damage_named
from ..extras import h5py
from .file_array import npy_array
from .hdf5 import _dataset, _names, _opened
from .hdf5_attributes import attributes
from .hdf5_chunks import CheckedChunks
from .images import ENDINGS
from .layouts import Layout, usual_layout
from .pillow_images import read_picture
from .tiff_stacks import open_tiff

HDF5_ENDINGS = (".h5", ".hdf5")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")
STACK_ENDINGS = ENDINGS + HDF5_ENDINGS
DATASET = "images"


@dataclass
class Stack:
    """Pages of one size. `array` is indexed by slices, and `layout` says by which; `notes` go along to the output."""

    path: Path
    array: Any
    layout: Layout
    dtype: np.dtype
    shape: tuple[int, int, int, int]  # (N, C, H, W)
    notes: dict[str, Any] = field(default_factory=dict)
    file: Any = None

    def read(self, pages: slice, rows: slice, columns: slice) -> np.ndarray:
        """A region as (n, C, h, w), bits as 0 and 255; FileFormatError that names the file if it is damaged."""
        with damage_named(str(self.path)):
            block = self.layout.read(self.array, pages, rows, columns)
        return block * np.uint8(255) if block.dtype == bool else block

    def close(self) -> None:
        """Close the file, and let go of what was read."""
        self.array = None
        if self.file is not None:
            self.file.close()

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_stack(path: str | Path, axes: str | None = None, dataset: str | None = None) -> Stack:
    """The images of a file.

    axes: the order of the axes of an NPY or HDF5 array, or of a TIFF file's, such as "NHWC"; None: `usual_layout`,
    and for TIFF what the file says. dataset: of an HDF5 file; None is its only one, or `images`.

    Raises FileNotFoundError; FileFormatError (a ValueError) that names the file for one that is no such image, or is
    damaged; ValueError for axes or a data set of a format that has no such choice. An array (2, H, W) is gray and
    alpha unless `axes` says else, which a warning tells.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in STACK_ENDINGS:
        raise ValueError(f"the ending of {str(path)!r} must be one of {', '.join(STACK_ENDINGS)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no image file {str(path)!r}")
    layout = None if axes is None else Layout.parse(axes)
    if dataset is not None and ending not in HDF5_ENDINGS:
        raise ValueError(f"{str(path)!r} has no data sets: dataset (={dataset!r}) is for HDF5 files")
    if layout is not None and ending in PICTURE_ENDINGS:
        raise ValueError(f"{str(path)!r} is one picture: axes (={axes!r}) are for TIFF, NPY and HDF5 files")
    with damage_named(str(path)):
        if ending in HDF5_ENDINGS:
            return _open_hdf5(path, layout, dataset)
        if ending == ".npy":
            return _open_npy(path, layout)
        if ending in (".tif", ".tiff"):
            return _stack(path, *open_tiff(path, layout))
        picture, notes = read_picture(path)
        return _stack(path, picture, Layout("HWC" if picture.ndim == 3 else "HW"), notes)


def _stack(path: Path, array: Any, layout: Layout, notes: dict[str, Any], file: Any = None) -> Stack:
    try:
        layout.check(array.shape)
        if array.dtype.kind not in "buif":
            raise ValueError(f"{array.dtype} values are no image's")
    except ValueError:
        if file is not None:
            file.close()
        raise
    dtype = np.dtype(np.uint8) if array.dtype == bool else np.dtype(array.dtype)
    return Stack(path, array, layout, dtype, layout.full(array.shape), notes, file)


def _open_npy(path: Path, layout: Layout | None) -> Stack:
    array = npy_array(path)
    return _stack(path, array, layout or _guessed(path, array.shape), {})


def _open_hdf5(path: Path, layout: Layout | None, name: str | None) -> Stack:
    file = _opened(path)
    try:
        dataset = _dataset(file, name or _only_dataset(file, path))
        notes = {"dataset": dataset.name.lstrip("/"), "attributes": attributes(dataset)}
        return _stack(path, CheckedChunks(dataset), layout or _guessed(path, dataset.shape), notes, file)
    except BaseException:
        file.close()
        raise


def _guessed(path: Path, shape: tuple[int, ...]) -> Layout:
    layout = usual_layout(shape)
    if layout.axes in ("CHW", "HWC") and layout.full(shape)[1] == 2:
        warnings.warn(
            f"{path}: the array {shape} is read as gray and alpha; if it is 2 images, say so with the axes "
            f"({layout.axes.replace('C', 'N')})",
            stacklevel=4,
        )
    return layout


def _only_dataset(file: h5py.File, path: Path) -> str:
    names = _names(file)
    if DATASET in names or len(names) != 1:
        if DATASET not in names:
            held = ", ".join(names) or "none"
            raise ValueError(f"{str(path)!r} must have one data set, or one named {DATASET!r}; it has: {held}")
        return DATASET
    return names[0]
