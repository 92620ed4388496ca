"""Where denoised regions go: a file of the ending's format, which is whole at the end, or not there.

with new_stack(path, stack) as target:  target.write(pages, rows, columns, values)
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import h5py, require
from ..hdf5_files import create_hdf5
from ..whole_file import whole_file
from .file_array import FileArray, reserve
from .hdf5 import CHUNK_SIDE
from .layouts import Layout
from .pillow_images import MOST_EXIF, check_picture, write_picture
from .stacks import DATASET, HDF5_ENDINGS, PICTURE_ENDINGS, Stack
from .tiff import sample_options

_CLASSIC_TIFF = 4 * 10**9  # bytes; a larger file needs 64-bit offsets: BigTIFF


@dataclass
class Target:
    """What regions are written to."""

    array: Any
    layout: Layout

    def write(
        self, pages: slice, rows: slice, columns: slice, values: np.ndarray, channels: slice = slice(None)
    ) -> None:
        """Values (n, C, h, w) of the target's dtype, for all of its channels or some."""
        self.layout.write(self.array, pages, rows, columns, values, channels)


def check_target(path: Path, stack: Stack) -> None:
    """ValueError, before anything is computed, if the format of `path` cannot hold such a stack."""
    pages, channels, _, _ = stack.shape
    ending = path.suffix.lower()
    if ending in PICTURE_ENDINGS:
        if pages > 1:
            raise ValueError(f"{ending} files hold one image, not {pages} pages: write TIFF, NPY or HDF5 with -o")
        check_picture(path, channels, stack.dtype)


@contextmanager
def new_stack(path: str | Path, stack: Stack) -> Iterator[Target]:
    """A file for images of the shape and dtype of `stack`, with what it says should go along.

    It takes the place of `path` when the block ends; if that raises, nothing is left of it. Raises as `check_target`.
    """
    path = Path(path)
    check_target(path, stack)
    _check_space(path.parent, stack)
    ending = path.suffix.lower()
    if ending in (".jpg", ".jpeg") and len(stack.notes.get("exif", b"")) > MOST_EXIF:
        size = len(stack.notes.pop("exif"))
        warnings.warn(f"{path}: the EXIF data ({size:,} bytes) is left out: a JPEG has room for 64 KB", stacklevel=3)
    with whole_file(path) as part:
        if ending in HDF5_ENDINGS:
            with create_hdf5(part) as file:
                yield _hdf5(file, stack)
        elif ending == ".npy":
            yield _npy(part, stack)
        elif ending in (".tif", ".tiff"):
            yield _tiff(part, stack, path.name.lower().endswith((".ome.tif", ".ome.tiff")))
        else:
            layout = Layout("HWC" if stack.shape[1] > 1 else "HW")
            array = np.empty(layout.shape(stack.shape), stack.dtype.newbyteorder("="))
            yield Target(array, layout)
            stack.close()  # its pixels are not needed any more, and writing takes memory
            write_picture(part, array, stack.notes)


def _check_space(folder: Path, stack: Stack) -> None:
    """OSError before the work rather than after it, for large outputs."""
    needed = int(np.prod(stack.shape, dtype=object)) * stack.dtype.itemsize
    if stack.path.suffix.lower() not in PICTURE_ENDINGS and needed > shutil.disk_usage(folder).free:
        raise OSError(f"the disk of {str(folder)!r} has too little room for {needed:,} bytes")


def _plain_layout(stack: Stack, channels_last: bool) -> Layout:
    pages, channels, _, _ = stack.shape
    axes = "HW" if channels == 1 else "HWC" if channels_last else "CHW"
    return Layout(("N" if pages > 1 else "") + axes)


def _npy(part: Path, stack: Stack) -> Target:
    """In the layout of an NPY or HDF5 input; else (C, H, W), as `write_image` has it, or a stack of these."""
    kept = stack.path.suffix.lower() in (".npy", *HDF5_ENDINGS)
    pages, channels, _, _ = stack.shape
    layout = stack.layout if kept else Layout("NCHW" if pages > 1 and channels > 1 else "NHW" if pages > 1 else "CHW")
    array = np.lib.format.open_memmap(part, "w+", stack.dtype, layout.shape(stack.shape))
    found = FileArray.of(array, part, writable=True)
    reserve(part)
    return Target(found, layout)


def _tiff(part: Path, stack: Stack, ome: bool) -> Target:
    notes, layout = stack.notes, _plain_layout(stack, channels_last=True)
    shape, axes = layout.shape(stack.shape), None
    if notes.get("axes") and int(np.prod(notes["tiff_shape"])) == int(np.prod(stack.shape)):
        axes = notes["axes"].replace("S", "") + ("S" if stack.shape[1] > 1 else "")
        pages = [n for n, axis in zip(notes["tiff_shape"], notes["axes"], strict=True) if axis not in "YXS"]
        shape = (*pages, *shape[-2 - (stack.shape[1] > 1) :])
    options = sample_options(stack.shape[1])
    options.update({key: notes[key] for key in ("resolution", "resolutionunit") if key in notes})
    if "icc_profile" in notes:
        options["iccprofile"] = notes["icc_profile"]
    if "dpi" in notes:
        options.update(resolution=notes["dpi"], resolutionunit=2)
    large = int(np.prod(shape, dtype=object)) * stack.dtype.itemsize > _CLASSIC_TIFF
    options.update(_kind(stack, axes, ome, large))
    array = require("tifffile").memmap(part, shape=shape, dtype=stack.dtype, bigtiff=large, **options)
    found = FileArray.of(array, part, writable=True)
    reserve(part)
    return Target(FileArray(part, found.dtype, found.offset, layout.shape(stack.shape), "C", True), layout)


def _kind(stack: Stack, axes: str | None, ome: bool, large: bool) -> dict[str, Any]:
    """Whether it is to be an ImageJ, an OME or a plain TIFF, with the axes that it had; ImageJ's are never BigTIFF."""
    if axes is None:
        return {"metadata": None}
    if (
        "imagej" in stack.notes
        and not large
        and stack.dtype.name in ("uint8", "uint16", "float32")
        and not set(axes) - set("TZCYXS")
    ):
        return {"imagej": True, "metadata": {**stack.notes["imagej"], "axes": axes}}
    if stack.notes.get("ome") and ome and not set(axes) - set("TZCYXS"):
        return {"ome": True, "metadata": {"axes": axes}}
    return {"ome": False, "metadata": {"axes": axes} if set(axes) - set("YXS") else None}


def _hdf5(file: h5py.File, stack: Stack) -> Target:
    """A data set of the input's name, layout and attributes, or `images` (N, C, H, W); other data sets stay behind."""
    kept = stack.path.suffix.lower() in (*HDF5_ENDINGS, ".npy")
    layout = stack.layout if kept else Layout("NCHW")
    shape = layout.shape(stack.shape)
    sides = {"N": 1, "C": stack.shape[1], "H": CHUNK_SIDE, "W": CHUNK_SIDE}
    chunks = tuple(min(length, sides[axis]) for axis, length in zip(layout.axes, shape, strict=True))
    name = stack.notes.get("dataset", DATASET)
    dataset = file.create_dataset(name, shape, stack.dtype, chunks=chunks, fletcher32=True)
    for key, value in stack.notes.get("attributes", {}).items():
        dataset.attrs[key] = value
    return Target(dataset, layout)
