"""PNG and JPEG files to (C, H, W) arrays and back, through pillow."""

from __future__ import annotations

import os
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backends.forking import after_fork
from ..extras import require
from .exif import check_exif, check_jpeg
from .sizes import FREE_IMAGE, MAX_GROWTH, check_growth

if TYPE_CHECKING:
    from PIL.Image import Image

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # pillow's names, by the number of channels
_JPEG_QUALITY = 95
_FEW_GRAYS = {"L;2": 4, "L;4": 16}  # how many there are, by pillow's names for gray of 2 and 4 bits
MOST_PIXELS = 20_000**2  # a file that claims more is refused: it would fill the memory
MOST_EXIF = 65_533  # bytes of a JPEG's marker
_STRIP = 256  # rows that are copied out of a picture at a time
# Whatever a file is called: others of pillow's formats start programs (EPS) or are seldom tried.
_FORMATS = ("PNG", "JPEG")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BOXED = {  # after the length of a box, or of RIFF's
    b"WEBP": "WebP", b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIF", b"heix": "HEIF", b"mif1": "HEIF",
}  # fmt: skip
_OTHERS = (
    (b"GIF8", "GIF"), (b"BM", "BMP"), (b"%!PS", "EPS"), (b"\xc5\xd0\xd3\xc6", "EPS"), (b"8BPS", "Photoshop"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"\xff\x4f\xff\x51", "JPEG 2000"), (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"), (b"v/1\x01", "OpenEXR"), (b"\x89HDF", "HDF5"), (b"\x93NUMPY", "NPY"),
    (b"<!DOCTYPE", "HTML"), (b"<!doctype", "HTML"), (b"<html", "HTML"),
)  # fmt: skip
_NO_PICTURES = ("HDF5", "HTML")
_PNG = b"\x89PNG\r\n\x1a\n"
MANY_CHUNKS, FEW_BYTES = 65_536, 256  # of a PNG; of so many, the mean number of bytes of each
JPEG_GROWTH = 400  # what a picture of one colour becomes
_opening = threading.Lock()


def _forked() -> None:
    global _opening
    _opening = threading.Lock()


after_fork(_forked)


def read_pillow(path: Path) -> np.ndarray:
    """A PNG or JPEG file as (C, H, W): uint8, or uint16 for 16-bit gray."""
    _check_depth(path)
    with opened(path) as image:
        check_picture_growth(path, image)
        return pillow_to_array(image)


def _start(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


def _kind(start: bytes) -> str:
    """What a file that pillow does not know is, by its first 16 bytes, in words."""
    if start.startswith((_PNG, b"\xff\xd8\xff")):
        return "its header is damaged"
    boxed = _BOXED.get(start[8:12]) if start[:4] == b"RIFF" or start[4:8] == b"ftyp" else None
    name = boxed or next((name for begins, name in _OTHERS if start.startswith(begins)), None)
    if name is None:
        return "it is neither a PNG nor a JPEG file"
    how = "" if name in _NO_PICTURES else ": give it the ending .npy" if name == "NPY" else ": save it as PNG"
    return f"it is {'an' if name[0] in 'AENO' or name in _NO_PICTURES else 'a'} {name} file, whatever its name{how}"


@contextmanager
def opened(path: Path) -> Iterator[Image]:
    """A picture of up to 20,000 x 20,000 pixels, opened without pillow's warning; ValueError for a larger one, and
    for a PNG that is cut off."""
    module = require("PIL.Image")
    is_tiff = path.suffix.lower() in (".tif", ".tiff")  # whose directories have been looked at
    if not is_tiff and _start(path)[:4] in _TIFF_STARTS:
        raise ValueError("it is a TIFF file: give it the ending .tif")
    deque(_png_chunks(path, b"IDAT"), maxlen=0)  # the rest is for `check_picture_growth`: headers are asked for often
    check_jpeg(path)
    with _opening:  # pillow's own limit is one number for the whole process: it is put back at once
        limit, module.MAX_IMAGE_PIXELS = module.MAX_IMAGE_PIXELS, None
        try:
            image = module.open(path, formats=("TIFF",) if is_tiff else _FORMATS)
        except module.UnidentifiedImageError:
            if is_tiff:
                raise
            raise ValueError(_kind(_start(path))) from None
        finally:
            module.MAX_IMAGE_PIXELS = limit
    with image:
        check_pixels(image.width, image.height)
        yield image


def check_picture_growth(path: Path, image: Image) -> None:
    """FileFormatError for a picture that would become much more than its file has: the mean of pillow's and ours."""
    made = 2 if image.mode.startswith("I") else len(_plain_mode(image))
    held = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4  # by pillow, of a pixel
    check_growth(image.width * image.height * (made + held) // 2, *_packed(path), FREE_IMAGE)


def _packed(path: Path) -> tuple[int, str, int]:
    """How many bytes of a file are compressed pixels, what they are, and how many times as many they may become."""
    if _start(path)[: len(_PNG)] != _PNG:
        return path.stat().st_size, "the picture", JPEG_GROWTH
    return sum(length for kind, length in _png_chunks(path) if kind == b"IDAT"), "the picture", MAX_GROWTH


def _png_chunks(path: Path, last: bytes = b"IEND") -> Iterator[tuple[bytes, int]]:
    """Kind and length of each chunk of a PNG up to `last`; none of another file. After its end there may be anything.

    ValueError for one that is not whole, and for very many chunks that hold next to nothing.
    """
    with open(path, "rb", buffering=0) as file:  # a buffer would be filled anew for each chunk
        size = os.fstat(file.fileno()).st_size
        place = len(_PNG) if file.read(len(_PNG)) == _PNG else size
        count, kind = 0, b""
        while place + 8 <= size and kind not in (last, b"IEND"):
            file.seek(place)
            length, kind = struct.unpack(">I4s", file.read(8))
            place += 8 + length
            if place > size:  # pillow would ask for as much memory
                raise ValueError(f"it is cut off: its chunk {kind!r} ends at byte {place:,}, the file at {size:,}")
            count += 1
            if count > MANY_CHUNKS and place < FEW_BYTES * count:
                raise ValueError(f"it has more than {MANY_CHUNKS:,} chunks, of fewer than {FEW_BYTES} bytes on average")
            yield kind, length
            place += 4  # a checksum


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
        check_picture_growth(path, image)
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

    _scale_transparency(image)
    image.load()
    _check_exif(image)
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


def _scale_transparency(image: Image) -> None:
    """Of gray PNGs of few bits pillow scales the pixels to 0..255, but not the gray that is transparent: never of 2 and
    4 bits, and of 1 bit not in its older versions."""
    gray, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    if image.format != "PNG" or not isinstance(gray, int):
        return
    if image.mode == "1":
        image.info["transparency"] = 255 if gray else 0
    elif image.mode == "L" and tiles:
        grays = _FEW_GRAYS.get(tiles[0][3], 0)
        if gray < grays:  # else it has been scaled already
            image.info["transparency"] = gray * (255 // (grays - 1))


def _check_exif(image: Image) -> None:
    """ValueError for EXIF data, as bytes or as a text of a PNG, that pillow would unpack to far more than its bytes."""
    exif, text = image.info.get("exif"), image.info.get("Raw profile type exif")
    if exif is None and isinstance(text, str):
        exif = bytes.fromhex("".join(text.split("\n")[3:]))
    if isinstance(exif, bytes):
        check_exif(exif)


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
