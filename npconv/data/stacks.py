"""Image files of any size and number of pages, read a region at a time, and written so: for `npconv denoise`.

    open_stack(path)  ->  Stack: shape (N, C, H, W), dtype, read(pages, rows, columns)  ->  (n, C, h, w)
    new_stack(path, stack)  ->  something to write the same regions to; the file is whole, or not there

| format    | pages                                   | in memory                         | kept besides pixels     |
|-----------|-----------------------------------------|-----------------------------------|-------------------------|
| PNG, JPEG | one                                     | all: the formats know no regions  | ICC profile, dpi, EXIF  |
| TIFF      | any: T, Z and C of ImageJ and OME too   | a region; a page if it is packed  | ICC profile, resolution |
| NPY       | (H, W), (C, H, W), ... : `usual_layout` | a region                          | layout                  |
| HDF5      | as NPY, a data set of the file          | a region                          | layout, attributes      |

An EXIF or TIFF orientation is applied. A TIFF file's channels are the samples of a pixel; anything else that it has
several of are pages, fluorescence channels too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .file_array import FileArray
from .hdf5 import _dataset, _names, _opened
from .images import ENDINGS
from .layouts import Layout, usual_layout
from .pillow_images import read_picture
from .tiff_stacks import open_tiff

HDF5_ENDINGS = (".h5", ".hdf5")
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
        """A region as (n, C, h, w), bits as 0 and 255; ValueError that names the file if it is damaged."""
        try:
            block = self.layout.read(self.array, pages, rows, columns)
        except (ImportError, MemoryError):
            raise
        except Exception as error:  # decoders raise whatever they like on a damaged file
            raise ValueError(f"cannot read {str(self.path)!r}: {error}") from error
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

    Raises FileNotFoundError; ValueError that names the file for one that is no such image, or is damaged.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in STACK_ENDINGS:
        raise ValueError(f"the ending of {str(path)!r} must be one of {', '.join(STACK_ENDINGS)}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no image file {str(path)!r}")
    layout = None if axes is None else Layout.parse(axes)
    try:
        if ending in HDF5_ENDINGS:
            return _open_hdf5(path, layout, dataset)
        if ending == ".npy":
            return _open_npy(path, layout)
        if ending in (".tif", ".tiff"):
            return _stack(path, *open_tiff(path, layout))
        picture, notes = read_picture(path)
        return _stack(path, picture, Layout("HWC" if picture.ndim == 3 else "HW"), notes)
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        text = str(error) if str(path) in str(error) else f"cannot read {str(path)!r}: {error}"
        raise ValueError(text) from error


def _stack(path: Path, array: Any, layout: Layout, notes: dict[str, Any], file: Any = None) -> Stack:
    layout.check(array.shape)
    if array.dtype.kind not in "buif":
        raise ValueError(f"{array.dtype} values are no image's")
    dtype = np.dtype(np.uint8) if array.dtype == bool else np.dtype(array.dtype)
    return Stack(path, array, layout, dtype, layout.full(array.shape), notes, file)


def _open_npy(path: Path, layout: Layout | None) -> Stack:
    # Object arrays cannot be mapped: that is an error, and nothing is unpickled.
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return _stack(path, FileArray.of(array, path), layout or usual_layout(array.shape), {})


def _open_hdf5(path: Path, layout: Layout | None, name: str | None) -> Stack:
    file = _opened(path)
    try:
        dataset = _dataset(file, name or _only_dataset(file, path))
        notes = {"dataset": dataset.name.lstrip("/"), "attributes": dict(dataset.attrs)}
        return _stack(path, dataset, layout or usual_layout(dataset.shape), notes, file)
    except BaseException:
        file.close()
        raise


def _only_dataset(file: h5py.File, path: Path) -> str:
    names = _names(file)
    if DATASET in names or len(names) != 1:
        if DATASET not in names:
            held = ", ".join(names) or "none"
            raise ValueError(f"{str(path)!r} must have one data set, or one named {DATASET!r}; it has: {held}")
        return DATASET
    return names[0]
