"""TIFF files to (C, H, W) arrays and back, through tifffile.

What tifffile leaves to its caller is done here: the order of the axes, the orientation tag, palettes, and
gray scales in which 0 is white. 8-bit files in compressions that tifffile has no decoder for (LZW, JPEG) are
read by pillow.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import require
from .pillow_images import check_pixels, opened, pillow_to_array

if TYPE_CHECKING:
    from tifffile import TiffPage

_MIN_IS_WHITE, _PALETTE = 0, 3  # values of the tag PhotometricInterpretation


def read_tiff(path: Path) -> np.ndarray:
    """A TIFF file of one image as (C, H, W), in the file's dtype."""
    with require("tifffile").TiffFile(path) as file:
        page = file.pages[0]
        try:
            array, axes = file.series[0].asarray(), file.series[0].axes
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _read_with_pillow(path, page)
        return np.ascontiguousarray(_oriented(_shades(_channels_first(array, axes), page), page))


def page_image(path: Path, number: int) -> np.ndarray:
    """One page of a TIFF file as (C, H, W), upright and as light, in the file's dtype."""
    with require("tifffile").TiffFile(path) as file:
        page = file.pages[number]
        try:
            array, axes = page.asarray(), page.axes
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            return _read_with_pillow(path, page, number)
        return np.ascontiguousarray(_oriented(_shades(_channels_first(array, axes), page), page))


def write_tiff(path: Path, image: np.ndarray) -> None:
    """Writes a (C, H, W) image with C from 1 to 4; the dtypes of TIFF are all integers and floats."""
    channels = image.shape[0]
    pixels = image[0] if channels == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    options: dict[str, Any] = {"photometric": "rgb" if channels >= 3 else "minisblack", "metadata": None}
    if channels > 1:
        options["planarconfig"] = "contig"
    if channels in (2, 4):
        options["extrasamples"] = ["unassalpha"]
    require("tifffile").imwrite(path, pixels, **options)


def _channels_first(array: np.ndarray, axes: str) -> np.ndarray:
    """(C, H, W), by tifffile's names of the axes: Y and X are an image's, S the samples of a pixel."""
    if array.ndim == 2:
        return array[np.newaxis]
    if array.ndim == 3 and axes.endswith("YXS") and 1 <= array.shape[2] <= 4:
        return array.transpose(2, 0, 1)
    if array.ndim == 3 and 1 <= array.shape[0] <= 4:
        return array
    # A plain (H, W, C) array written without saying that it is RGB looks like H pages.
    if array.ndim == 3 and 1 <= array.shape[2] <= 4:
        return array.transpose(2, 0, 1)
    raise ValueError(f"it holds an array of shape {array.shape}, not one image of at most 4 channels")


def _shades(image: np.ndarray, page: TiffPage) -> np.ndarray:
    """The image as light: 1-bit as 0 and 255, palettes as RGB, 0 as black."""
    if page.photometric == _PALETTE and page.colormap is not None:
        colours = np.asarray(page.colormap)  # (3, entries), 16 bits
        return (colours[:, image[0]] // 257).astype(np.uint8)
    if image.dtype == bool:
        image = image * np.uint8(255)
    if page.photometric == _MIN_IS_WHITE and image.dtype.kind == "u":
        return np.iinfo(image.dtype).max - image
    return image


def _oriented(image: np.ndarray, page: TiffPage) -> np.ndarray:
    """Turns the image as its orientation tag says: 5 to 8 are transposed, the rest is flips."""
    tag = page.tags.get("Orientation")
    orientation = int(tag.value) if tag is not None else 1
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(1, 2)
    if orientation in (3, 4, 7, 8):
        image = image[:, ::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, :, ::-1]
    return image


def _read_with_pillow(path: Path, page: TiffPage, number: int = 0) -> np.ndarray:
    if page.bitspersample > 8:  # pillow would shorten 16-bit colours to 8 bits
        raise ValueError("its compression needs another package: pip install imagecodecs")
    with opened(path) as image:
        image.seek(number)
        check_pixels(image.width, image.height)
        return pillow_to_array(image)
