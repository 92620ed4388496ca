"""TIFF files of any number of pages, read a region or a page at a time.

What is uncompressed and in one piece is a FileArray. All else is Pages: strips and tiles are decoded when they are
needed; of turned pages, palettes and what pillow decodes, whole pages, the last of which is remembered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .file_array import FileArray
from .layouts import Layout
from .sizes import FREE_IMAGE, check_growth
from .tiff import page_image
from .tiff_directories import directories
from .tiff_file import Contents, as_read, contents, opened_tiff, quiet, simplified, tiff_file
from .tiff_segments import Segments
from .tiff_series import series_of

_RESOLUTION = ("XResolution", "YResolution")


class Pages:
    """The pages of a TIFF file as an array (N, C, H, W).

    The file stays open, so that a page is found without walking past those before it; `close` closes it.
    """

    def __init__(self, path: Path, held: Contents) -> None:
        self._path, self._numbers = path, held.numbers
        self._last: tuple[int, np.ndarray] | None = None
        self.shape, self.dtype = held.shape, held.dtype
        with quiet(path):
            self._file = tiff_file(path)
        self._segments = Segments(self._file)

    def _page(self, index: int) -> np.ndarray:
        if self._last is None or self._last[0] != index:
            self._last = None
            with quiet(self._path):
                image = page_image(self._path, self._file, self._numbers[index])
            if image.shape != self.shape[1:]:
                raise ValueError(f"its page {index + 1} is {image.shape}, the first {self.shape[1:]} (C, H, W)")
            self._last = index, image
        return self._last[1]

    def __getitem__(self, index: tuple[slice, slice, slice, slice]) -> np.ndarray:
        pages, *rest = index
        return np.stack([self._region(i, *rest) for i in range(*pages.indices(self.shape[0]))])

    def _region(self, index: int, channels: slice, rows: slice, columns: slice) -> np.ndarray:
        with quiet(self._path):
            self._check_alike(index)
            if self._segments.at(self._numbers[index]):
                return self._segments.region(rows, columns, channels)
        return self._page(index)[channels, rows, columns]

    def _check_alike(self, index: int) -> None:
        """ValueError for a page that is of another size or kind than the first, as tifffile does not ask of all."""
        found = as_read(self._file.pages[self._numbers[index]])
        if found != (self.shape[1:], self.dtype):
            raise ValueError(f"its page {index + 1} is {found[1]} {found[0]}, the first {self.dtype} {self.shape[1:]}")

    def close(self) -> None:
        """Close the file, and let go of what was decoded."""
        self._last = None
        self._segments.forget()
        self._file.close()


def open_tiff(path: Path, layout: Layout | None) -> tuple[Any, Layout, dict[str, Any], Any]:
    """The array, its layout, what is to be kept of a file, and what is to be closed or None.

    Raises ValueError if it is no stack of images.
    """
    held = contents(path)
    with opened_tiff(path) as file:
        notes = _notes(file)
    if layout is not None:
        array = _said(path, held, layout)
        return array, layout, notes, None
    notes.update(axes=held.axes, tiff_shape=held.stored)
    if held.array is not None and held.layout is not None:
        return held.array, held.layout, notes, None
    pages = Pages(path, held)
    return pages, Layout("NCHW"), notes, pages


def _said(path: Path, held: Contents, layout: Layout) -> Any:
    """The pixels as an array of the axes that the caller says."""
    if held.special and "bits" not in held.special:
        raise ValueError(f"{str(path)!r}: axes (={layout.axes!r}) cannot be said of it, since {held.special}")
    if held.axes is None:
        raise ValueError(f"{str(path)!r}: axes (={layout.axes!r}) cannot be said of it: its pages are not one array")
    if held.array is not None:
        of = held.array
        return FileArray(path, of.dtype, of.offset, _as_said(held.stored, layout))
    shape, stored = simplified(held.stored, held.axes)
    size = int(np.prod(shape, dtype=object))
    if stored is None or size != int(np.prod(held.shape, dtype=object)):
        raise ValueError(f"{str(path)!r}: its pages are not an array of shape {held.stored}")
    check_growth(size * held.dtype.itemsize, path.stat().st_size, "its pages", free=FREE_IMAGE)
    array = np.empty(shape, held.dtype)
    with opened_tiff(path) as file:
        for place, page in enumerate(series_of(file, directories(path))[0][0].pages):
            image = page_image(path, file, page.index)
            stored.write(array, slice(place, place + 1), slice(None), slice(None), image[np.newaxis])
    return array.reshape(_as_said(held.stored, layout))


def _as_said(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """The shape with its first axes joined until there are as many as in the layout."""
    extra = len(shape) - len(layout.axes)
    if extra < 0:
        raise ValueError(f"its array of shape {shape} has fewer axes than {layout.axes}")
    return (int(np.prod(shape[: extra + 1])), *shape[extra + 1 :])


def _notes(file: Any) -> dict[str, Any]:
    """Resolution, ICC profile, and what kind of file it is, as `tifffile.imwrite` takes them."""
    page = file.pages[0]
    notes: dict[str, Any] = {}
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
