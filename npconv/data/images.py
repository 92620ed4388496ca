"""Image files to arrays and back: PNG, JPEG, TIFF and NPY, one image a file.

    file  <->  (C, H, W) array in the file's own dtype; C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha

| format | dtypes                     | channels                              |
|--------|----------------------------|---------------------------------------|
| PNG    | uint8; uint16 if gray      | 1 to 4                                |
| JPEG   | uint8                      | 1 or 3                                |
| TIFF   | integers and floats        | 1 to 4                                |
| NPY    | integers and floats        | 1 to 4                                |

PNG and JPEG go through pillow (pillow_images.py), TIFF through tifffile (tiff.py): both come with the `app`
extra.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import damage_named
from .file_array import npy_array
from .layouts import image_layout
from .pillow_images import read_pillow, write_pillow
from .tiff import read_tiff, write_tiff

__all__ = ["ENDINGS", "read_image", "write_image"]

ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")


def read_image(path: str | Path) -> np.ndarray:
    """Reads an image file into a (C, H, W) array of the file's own dtype.

    Palette images become RGB, 1-bit images gray of 0 and 255, transparency a last channel, CMYK RGB; an EXIF
    orientation is applied. Arrays in NPY files may be (H, W), (H, W, C) or (C, H, W), C at most 4; where the
    first and the last axis could both be the channels, it is (C, H, W), which is what `write_image` writes. Of
    TIFF files the samples of a pixel are channels, and anything else is pages. Raises FileNotFoundError, and
    FileFormatError (a ValueError) that names the file if it isn't such an image, has several pages, or can't be read
    whole.
    """
    path = Path(path)
    reader = _READERS[_ending(path)]
    if not path.is_file():
        raise FileNotFoundError(f"there is no image file {str(path)!r}")
    with damage_named(str(path)):
        return reader(path)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Writes a (C, H, W) image, or an (H, W) gray one, in the format that the path's ending names.

    The dtype and the channels are kept: what a format can't hold is a ValueError that says what it holds, and
    nothing is written. JPEG is written at quality 95.
    """
    path = Path(path)
    writer = _WRITERS[_ending(path)]
    writer(path, _check_image(np.asarray(image)))


def _ending(path: Path) -> str:
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"the ending of {str(path)!r} must be one of {', '.join(ENDINGS)}")
    return ending


def _check_image(image: np.ndarray) -> np.ndarray:
    """A (C, H, W) image of numbers."""
    if image.ndim == 2:
        image = image[np.newaxis]
    if image.ndim != 3 or not 1 <= image.shape[0] <= 4 or image.size == 0:
        raise ValueError(f"image (shape {image.shape}) must be (C, H, W) or (H, W), C from 1 to 4, not empty")
    if image.dtype.kind not in "uif":
        raise TypeError(f"image (dtype {image.dtype}) must be of integers or floats")
    return image


def _read_npy(path: Path) -> np.ndarray:
    stored = npy_array(path)
    if 0 in stored.shape:
        raise ValueError(f"an array of shape {stored.shape} and dtype {stored.dtype} is not an image")
    image = image_layout(stored.shape).read(stored, slice(None), slice(None), slice(None))[0]
    array: np.ndarray = np.ascontiguousarray(image)
    return array * np.uint8(255) if array.dtype == bool else array


def _write_npy(path: Path, image: np.ndarray) -> None:
    with open(path, "wb") as file:  # given a name, np.save would append .npy to .NPY
        np.save(file, image, allow_pickle=False)


_READERS = {
    ".png": read_pillow,
    ".jpg": read_pillow,
    ".jpeg": read_pillow,
    ".tif": read_tiff,
    ".tiff": read_tiff,
    ".npy": _read_npy,
}
_WRITERS = {
    ".png": write_pillow,
    ".jpg": write_pillow,
    ".jpeg": write_pillow,
    ".tif": write_tiff,
    ".tiff": write_tiff,
    ".npy": _write_npy,
}
