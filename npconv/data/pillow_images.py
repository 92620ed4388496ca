"""PNG and JPEG files to (C, H, W) arrays and back, through pillow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # pillow's names, by the number of channels
_JPEG_QUALITY = 95
MOST_PIXELS = 20_000**2  # a file that claims more is refused: it would fill the memory
MOST_EXIF = 65_533  # bytes of a JPEG's marker
_STRIP = 256  # rows that are copied out of a picture at a time
_opening = threading.Lock()


def read_pillow(path: Path) -> np.ndarray:
    """A PNG or JPEG file as (C, H, W): uint8, or uint16 for 16-bit gray."""
    _check_depth(path)
    with opened(path) as image:
        return pillow_to_array(image)


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """A picture of up to 20,000 x 20,000 pixels, opened without pillow's warning; ValueError for a larger one."""
    module = require("PIL.Image")
    with _opening:  # pillow's own limit is one number for the whole process: it is put back at once
        limit, module.MAX_IMAGE_PIXELS = module.MAX_IMAGE_PIXELS, None
        try:
            image = module.open(path)
        finally:
            module.MAX_IMAGE_PIXELS = limit
    with image:
        check_pixels(image.width, image.height)
        yield image


def check_pixels(width: int, height: int) -> None:
    """ValueError for a picture of more pixels than are read."""
    if width * height > MOST_PIXELS:
        raise ValueError(f"it has {width} x {height} pixels, more than the {MOST_PIXELS:,} that are read")


def read_picture(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """A PNG or JPEG file as (H, W) or (H, W, C), and its ICC profile, dpi and EXIF data where it has them.

    Pixels are as for `read_pillow`. At the most, the picture is in memory twice.
    """
    _check_depth(path)
    with opened(path) as image:
        notes = {key: image.info[key] for key in ("icc_profile", "dpi") if image.info.get(key)}
        if image.mode not in ("1", "P", "PA", "I", "I;16", *_MODES.values()):
            notes.pop("icc_profile", None)  # a profile of inks, say: the pixels become RGB
        array = _pixels(image, channels_first=False)
        if len(image.getexif()):
            notes["exif"] = image.getexif().tobytes()
    return array[:, :, 0] if array.shape[2] == 1 else array, notes


def check_picture(path: Path, channels: int, dtype: np.dtype) -> None:
    """ValueError if a PNG or JPEG file cannot hold such pixels."""
    check = _check_png if path.suffix.lower() == ".png" else _check_jpeg
    check(channels, dtype)


def write_picture(path: Path, array: np.ndarray, notes: dict[str, Any]) -> None:
    """Write an (H, W) or (H, W, C) array, with the `notes` that `read_picture` gives."""
    picture: Image = require("PIL.Image").fromarray(array)
    kept = {key: notes[key] for key in ("icc_profile", "dpi", "exif") if key in notes}
    if path.suffix.lower() == ".png":
        picture.save(path, format="PNG", **kept)
    else:
        picture.save(path, format="JPEG", quality=_JPEG_QUALITY, **kept)


def pillow_to_array(image: Image) -> np.ndarray:
    """A pillow image, turned upright and without a palette, as (C, H, W)."""
    return _pixels(image, channels_first=True)


def _pixels(image: Image, channels_first: bool) -> np.ndarray:
    """An image's pixels, upright, as (C, H, W) or (H, W, C); copied in strips, so that nothing is in memory thrice."""
    from PIL import ImageOps

    image.load()
    ImageOps.exif_transpose(image, in_place=True)  # takes the orientation out of the EXIF data too
    deep = image.mode.startswith("I")  # 16-bit gray: I;16, and I in some versions of pillow
    mode = image.mode if deep else _plain_mode(image)
    channels = 1 if deep else len(mode)
    shape = (channels, image.height, image.width) if channels_first else (image.height, image.width, channels)
    array = np.empty(shape, np.uint16 if deep else np.uint8)
    upright = array.transpose(1, 2, 0) if channels_first else array
    for top in range(0, image.height, _STRIP):
        part = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        pixels = np.asarray(part if part.mode == mode else part.convert(mode))
        upright[top : top + _STRIP] = pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis]
    return array


def write_pillow(path: Path, image: np.ndarray) -> None:
    """Writes a (C, H, W) image as a PNG (uint8, or uint16 if C is 1) or JPEG (uint8, C 1 or 3, quality 95)."""
    check_picture(path, image.shape[0], image.dtype)
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    # Native byte order: pillow takes big-endian arrays for something else.
    write_picture(path, np.ascontiguousarray(pixels, dtype=image.dtype.newbyteorder("=")), {})


def _check_png(channels: int, dtype: np.dtype) -> None:
    if dtype == np.uint16 and channels > 1:
        raise ValueError(f"pillow cannot write 16-bit PNGs of {channels} channels: use TIFF or NPY")
    if dtype not in (np.uint8, np.uint16):
        raise ValueError(f"PNG holds uint8 and, in gray, uint16, not {dtype}: convert, or use TIFF or NPY")


def _check_jpeg(channels: int, dtype: np.dtype) -> None:
    if channels in (2, 4):
        raise ValueError(f"JPEG cannot hold alpha (C={channels}): use PNG, or drop the last channel")
    if dtype != np.uint8:
        raise ValueError(f"JPEG holds uint8, not {dtype}: convert, or use TIFF or NPY")


def _plain_mode(image: Image) -> str:
    """The one of L, LA, RGB and RGBA that holds the image whole."""
    gray = image.mode in ("1", "L", "LA", "La")
    alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return _MODES[(1 if gray else 3) + alpha]


def _check_depth(path: Path) -> None:
    """ValueError for a PNG of 16 bits and several channels, which pillow decodes to 8 bits without a word."""
    if path.suffix.lower() != ".png":
        return
    with open(path, "rb") as file:
        header = file.read(26)  # byte 24 is the depth, byte 25 the colour type
    if len(header) == 26 and header[24] == 16 and header[25] in (2, 4, 6):
        raise ValueError("pillow cannot read 16-bit PNGs with colours or alpha: convert it to TIFF or NPY")
