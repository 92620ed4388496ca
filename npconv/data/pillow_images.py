"""PNG and JPEG files to (C, H, W) arrays and back, through pillow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # pillow's names, by the number of channels
_JPEG_QUALITY = 95


def read_pillow(path: Path) -> np.ndarray:
    """A PNG or JPEG file as (C, H, W): uint8, or uint16 for 16-bit gray."""
    # pillow decodes 16-bit colour to 8 bits without a word, so that is refused here.
    if path.suffix.lower() == ".png" and _png_is_deep_colour(path):
        raise ValueError("pillow cannot read 16-bit PNGs with colours or alpha: convert it to TIFF or NPY")
    with require("PIL.Image").open(path) as image:
        return pillow_to_array(image)


def pillow_to_array(image: Image) -> np.ndarray:
    """A pillow image, turned upright and without a palette, as (C, H, W)."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit gray: I;16, and I in some versions of pillow
        return np.asarray(image).astype(np.uint16)[np.newaxis]
    mode = _plain_mode(image)
    array = np.array(image if image.mode == mode else image.convert(mode))
    # (H, W) -> (1, H, W), (H, W, C) -> (C, H, W)
    return array[np.newaxis] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes a (C, H, W) image: uint8, or uint16 if C is 1."""
    channels, dtype = image.shape[0], image.dtype
    if dtype == np.uint16 and channels > 1:
        raise ValueError(f"pillow cannot write 16-bit PNGs of {channels} channels: use TIFF or NPY")
    if dtype not in (np.uint8, np.uint16):
        raise ValueError(f"PNG holds uint8 and, in gray, uint16, not {dtype}: convert, or use TIFF or NPY")
    _picture(image).save(path, format="PNG")


def write_jpeg(path: Path, image: np.ndarray) -> None:
    """Writes a (C, H, W) uint8 image, C 1 or 3, at quality 95."""
    if image.shape[0] in (2, 4):
        raise ValueError(f"JPEG cannot hold alpha (C={image.shape[0]}): use PNG, or drop the last channel")
    if image.dtype != np.uint8:
        raise ValueError(f"JPEG holds uint8, not {image.dtype}: convert, or use TIFF or NPY")
    _picture(image).save(path, format="JPEG", quality=_JPEG_QUALITY)


def _picture(image: np.ndarray) -> Image:
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    # Native byte order: pillow takes big-endian arrays for something else.
    native = np.ascontiguousarray(pixels, dtype=image.dtype.newbyteorder("="))
    picture: Image = require("PIL.Image").fromarray(native)
    return picture


def _plain_mode(image: Image) -> str:
    """The one of L, LA, RGB and RGBA that holds the image whole."""
    gray = image.mode in ("1", "L", "LA", "La")
    alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return _MODES[(1 if gray else 3) + alpha]


def _png_is_deep_colour(path: Path) -> bool:
    """Whether a PNG has 16 bits and several channels: byte 24 is its depth, byte 25 its colour type."""
    with open(path, "rb") as file:
        header = file.read(26)
    return len(header) == 26 and header[24] == 16 and header[25] in (2, 4, 6)
