"""TIFF files of any number of pages, read a region or a page at a time.

    uncompressed, in one piece  ->  FileArray            else  ->  Pages: one decoded page is remembered

tifffile names the axes: Y, X, S (samples of a pixel), and others (T, Z, C, Q, I ...), which are all pages.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..extras import require
from .file_array import FileArray
from .layouts import MOST_CHANNELS, Layout
from .tiff import page_image

_RESOLUTION = ("XResolution", "YResolution")


class Pages:
    """The pages of a TIFF file as an array (N, C, H, W); the last page that was decoded is remembered."""

    def __init__(self, path: Path, numbers: list[int]) -> None:
        self._path, self._numbers = path, numbers
        self._last: tuple[int, np.ndarray] | None = None
        first = self._page(0)
        self.shape = (len(numbers), *first.shape)
        self.dtype = first.dtype

    def _page(self, index: int) -> np.ndarray:
        if self._last is None or self._last[0] != index:
            self._last = None
            image = page_image(self._path, self._numbers[index])
            if index and image.shape != self.shape[1:]:
                raise ValueError(f"its page {index + 1} is {image.shape}, the first {self.shape[1:]} (C, H, W)")
            self._last = index, image
        return self._last[1]

    def __getitem__(self, index: tuple[slice, slice, slice, slice]) -> np.ndarray:
        pages, *rest = index
        return np.stack([self._page(i)[tuple(rest)] for i in range(*pages.indices(self.shape[0]))])


def open_tiff(path: Path, layout: Layout | None) -> tuple[Any, Layout, dict[str, Any]]:
    """The array, its layout and what is to be kept of a file; ValueError if it is no stack of images."""
    with require("tifffile").TiffFile(path) as file:
        series, page = file.series[0], file.pages[0]
        if len(file.series) > 1:
            warnings.warn(f"{path}: only the first of its {len(file.series)} series of pages is read", stacklevel=2)
        shape, own = _simplified(series.shape, series.axes)
        notes = _notes(file, page, series)
        plain = not _needs_work(page) and series.dataoffset is not None
        if plain and layout is None and own is not None:
            dtype = series.dtype.newbyteorder(file.byteorder)
            return FileArray(path, dtype, series.dataoffset, shape, "C"), own, notes
        if plain and layout is not None:
            shape = _as_said(series.shape, layout)
            dtype = series.dtype.newbyteorder(file.byteorder)
            return FileArray(path, dtype, series.dataoffset, shape, "C"), layout, {**notes, "axes": None}
        if layout is not None:
            array = series.asarray()
            return array.reshape(_as_said(array.shape, layout)), layout, {**notes, "axes": None}
        numbers = [p.index for p in series.pages if p is not None]
        if len(numbers) != len(series.pages) or own is None:
            raise ValueError(f"its axes {series.axes} of shape {series.shape} are not those of a stack of images")
    return Pages(path, numbers), Layout("NCHW"), notes


def _simplified(shape: tuple[int, ...], axes: str) -> tuple[tuple[int, ...], Layout | None]:
    """The shape with all pages in one axis, and its layout; None where the axes are in another order."""
    # An (H, W, C) array that was written without saying that it is RGB looks like H pages of W rows.
    if len(shape) == 3 and axes[1:] == "YX" and axes[0] in "QI" and shape[2] <= MOST_CHANNELS < shape[1]:
        return shape, Layout("HWC")
    for ending, letters in (("YXS", "HWC"), ("SYX", "CHW"), ("YX", "HW")):
        if axes.endswith(ending):
            pages = shape[: -len(ending)]
            if "Y" in axes[: -len(ending)] or "S" in axes[: -len(ending)]:
                break
            if not pages:
                return shape, Layout(letters)
            return (int(np.prod(pages)), *shape[-len(ending) :]), Layout("N" + letters)
    return shape, None


def _as_said(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """The shape with its first axes joined until there are as many as in the layout."""
    extra = len(shape) - len(layout.axes)
    if extra < 0:
        raise ValueError(f"its array of shape {shape} has fewer axes than {layout.axes}")
    return (int(np.prod(shape[: extra + 1])), *shape[extra + 1 :])


def _needs_work(page: Any) -> bool:
    """Whether the stored values are not the image: turned, a palette, 0 for white, or bits."""
    tag = page.tags.get("Orientation")
    turned = tag is not None and int(tag.value) != 1
    return turned or page.photometric in (0, 3) or page.dtype is None or page.dtype == bool


def _notes(file: Any, page: Any, series: Any) -> dict[str, Any]:
    """Resolution, ICC profile, and what kind of file it is, as `tifffile.imwrite` takes them."""
    notes: dict[str, Any] = {"axes": series.axes, "tiff_shape": tuple(series.shape)}
    if all(name in page.tags for name in _RESOLUTION):
        notes["resolution"] = tuple(page.tags[name].value for name in _RESOLUTION)
        unit = page.tags.get("ResolutionUnit")
        if unit is not None:
            notes["resolutionunit"] = int(unit.value)
    if page.tags.get("InterColorProfile") is not None:
        notes["icc_profile"] = bytes(page.tags["InterColorProfile"].value)
    if file.is_imagej:
        kept = ("spacing", "unit", "finterval", "fps", "loop", "mode")
        notes["imagej"] = {k: v for k, v in (file.imagej_metadata or {}).items() if k in kept}
    notes["ome"] = bool(file.is_ome)
    return notes
