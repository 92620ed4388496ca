"""TIFF files to (C, H, W) arrays and back, through tifffile.

What tifffile leaves to its caller is done here: the order of the axes, the orientation tag, palettes, and
gray scales in which 0 is white. `tiff_codecs` tells who unpacks what: of LZW and JPEG it is pillow, for 8-bit files
and 16-bit gray ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FileFormatError
from ..extras import require
from .pillow_images import check_picture_growth, opened, pillow_to_array
from .sizes import FREE_IMAGE, MAX_GROWTH
from .tiff_codecs import name, segments_are_decoded
from .tiff_file import INKS, MIN_IS_WHITE, PALETTE, check_page, contents, opened_tiff, orientation
from .tiff_segments import check_segments, whole_page

if TYPE_CHECKING:
    from tifffile import TiffPage

_STRIP = 256  # rows of a palette's numbers that become colours at a time


def read_tiff(path: Path) -> np.ndarray:
    """A TIFF file of one image as (C, H, W), in the file's dtype; ValueError if it has several."""
    pages = contents(path).shape[0]
    if pages > 1:
        raise ValueError(
            f"it has {pages} pages, not one: npconv denoise takes stacks, and training takes them through "
            "FolderPhotos (--data FOLDER), each page a photograph"
        )
    return read_page(path, 0)


def read_page(path: Path, index: int) -> np.ndarray:
    """Page `index`, from 0, of the images in a TIFF file as (C, H, W), in the file's dtype."""
    held = contents(path)
    if held.array is not None and held.layout is not None:
        image = held.layout.read(held.array, slice(index, index + 1), slice(None), slice(None))[0]
        return np.ascontiguousarray(image, image.dtype.newbyteorder("="))
    with opened_tiff(path) as file:
        return np.ascontiguousarray(page_image(path, file, held.numbers[index]))


def page_image(path: Path, file: Any, number: int) -> np.ndarray:
    """A page of an open TIFF file as (C, H, W), upright and as light, in the file's dtype; maybe a view."""
    page = file.pages[number]
    end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False) if n), default=0)
    if end > file.filehandle.size:  # tifffile fills up what is missing
        raise ValueError(f"it is cut off: page {number + 1} ends at byte {end:,}, the file at {file.filehandle.size:,}")
    check_page(file, page, MAX_GROWTH, FREE_IMAGE)
    check_segments(file, page)
    if not segments_are_decoded(page):
        return _read_with_pillow(path, page, number)
    try:
        array = page.asarray() if page.is_contiguous else whole_page(file, page)
    except ValueError as error:  # a package that is built without some decoders
        if "imagecodecs" not in str(error):
            raise
        return _read_with_pillow(path, page, number)
    if array.ndim == 2:
        array = array[np.newaxis]
    elif page.axes == "YXS":
        array = array.transpose(2, 0, 1)
    return _oriented(_shades(array, page), page)


def write_tiff(path: Path, image: np.ndarray) -> None:
    """Writes a (C, H, W) image with C from 1 to 4; the dtypes of TIFF are all integers and floats."""
    channels = image.shape[0]
    pixels = image[0] if channels == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    require("tifffile").imwrite(path, pixels, metadata=None, **sample_options(channels))


def sample_options(channels: int) -> dict[str, Any]:
    """What `tifffile.imwrite` must be told of pixels of 1 to 4 samples."""
    options: dict[str, Any] = {"photometric": "rgb" if channels >= 3 else "minisblack"}
    if channels > 1:
        options["planarconfig"] = "contig"
    if channels in (2, 4):
        options["extrasamples"] = ["unassalpha"]
    return options


def _shades(image: np.ndarray, page: TiffPage) -> np.ndarray:
    """The image as light: 1-bit as 0 and 255, palettes as RGB, 0 as black."""
    if page.photometric == PALETTE and page.colormap is not None:
        colours = np.asarray(page.colormap)  # (3, entries), 16 bits
        # Writers make 16 bits of 8 by 257 or by 256, and old ones leave them as they are.
        colours = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
        shown = np.empty((3, *image.shape[1:]), np.uint8)
        for top in range(0, image.shape[1], _STRIP):  # at once, it would be in memory six times
            shown[:, top : top + _STRIP] = colours[:, image[0, top : top + _STRIP]]
        return shown
    if page.photometric == INKS:
        return _without_inks(image)
    if image.dtype == bool:
        image = image * np.uint8(255)
    if page.photometric == MIN_IS_WHITE and image.dtype.kind == "u":
        return np.iinfo(image.dtype).max - image
    return image


def _without_inks(image: np.ndarray) -> np.ndarray:
    """RGB of cyan, magenta, yellow and black, as pillow and others compute it where no profile is asked."""
    shown = np.empty((3, *image.shape[1:]), np.uint8)
    for top in range(0, image.shape[1], _STRIP):
        part = image[:, top : top + _STRIP].astype(np.uint16)
        light = 255 - part[3]
        product = part[:3] * light + np.uint16(128)
        shown[:, top : top + _STRIP] = light - ((product >> 8) + product >> 8)
    return shown


def _oriented(image: np.ndarray, page: TiffPage) -> np.ndarray:
    """Turns the image as its orientation tag says: 5 to 8 are transposed, the rest is flips."""
    turn = orientation(page)
    if turn in (5, 6, 7, 8):
        image = image.swapaxes(1, 2)
    if turn in (3, 4, 7, 8):
        image = image[:, ::-1]
    if turn in (2, 3, 6, 7):
        image = image[:, :, ::-1]
    return image


def _read_with_pillow(path: Path, page: TiffPage, number: int) -> np.ndarray:
    deep_gray = page.samplesperpixel == 1 and page.dtype == np.uint16 and page.photometric == 1
    if page.bitspersample > 8 and not deep_gray:  # pillow would shorten 16-bit colours to 8 bits
        raise FileFormatError(
            f"page {number + 1} is compressed with {name(page)}, which is read of 8-bit and of gray 16-bit pages only: "
            "pip install imagecodecs, or write it anew with deflate (ZIP)"
        )
    with opened(path) as image:
        image.seek(number)
        check_picture_growth(path, image)
        try:
            return pillow_to_array(image)
        except OSError as error:
            raise FileFormatError(
                f"page {number + 1}, compressed with {name(page)}, is not unpacked by pillow ({error}): it is damaged, "
                "or needs another package (pip install imagecodecs)"
            ) from error
