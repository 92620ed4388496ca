"""How the strips and tiles of TIFF files are unpacked, to no more than the pixels that they should have.

deflate, LZMA, PackBits          here, whatever is installed: tifffile would unpack them to whatever they become
LZW, Zstandard, JPEG, CCITT      by imagecodecs where it is installed (it gets the size), else by pillow (whole
                                 pages, 8-bit or 16-bit gray)
JPEG 2000                        by imagecodecs, once its own header has told how large the picture is
LERC, JPEG XL, WebP, ...         not at all: nobody tells their decoders how large a picture may become
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import FileFormatError
from .sizes import FREE_BYTES, check_growth

_NAMES = {
    2: "CCITT RLE", 3: "CCITT group 3", 4: "CCITT group 4", 5: "LZW", 6: "old-style JPEG", 7: "JPEG",
    22_610: "JPEG XR", 33_003: "JPEG 2000", 33_004: "JPEG 2000", 33_005: "JPEG 2000", 33_007: "JPEG",
    34_712: "JPEG 2000", 34_887: "LERC", 34_892: "lossy JPEG", 34_925: "LZMA", 34_926: "Zstandard", 34_927: "WebP",
    34_933: "PNG", 34_934: "JPEG XR", 48_124: "Jetraw", 50_000: "Zstandard", 50_001: "WebP", 50_002: "JPEG XL",
    52_546: "JPEG XL", 65_000: "EER", 65_001: "EER", 65_002: "EER",
}  # fmt: skip
_NONE, _LZMA = 1, 34_925
_JPEG, _JPEG_2000 = (7, 33_007), (33_003, 33_004, 33_005, 34_712)
_BOUNDED = (2, 3, 4, 5, 34_926, 50_000, *_JPEG, *_JPEG_2000)  # by tifffile with imagecodecs, which gets the size
_PILLOW = (2, 3, 4, 5, 6, 7, 50_000)  # libtiff unpacks a strip into the room of a strip
SPARE_BYTES, MOST_SPARE = 1 << 16, 1 << 24  # by which a strip may be longer than its rows; at most twice as long
MOST_STREAMS = 64  # of LZMA in a strip
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_CODESTREAM, _MOST_BOXES = b"\xff\x4f\xff\x51", 64  # how one of JPEG 2000 begins; boxes before it
_STARTS_OF_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of a JPEG that tell its size


def name(page: Any) -> str:
    """What a page is compressed with, in words."""
    code = int(page.keyframe.compression)
    return f"{_NAMES.get(code, 'a compression that is not known')} ({code})"


def segments_are_decoded(page: Any) -> bool:
    """Whether strips and tiles of the page can be unpacked one by one, within limits; else pillow may read the page.

    Raises FileFormatError that names the compression where nobody can.
    """
    code = int(page.keyframe.compression)
    if code == _LZMA and importlib.util.find_spec("_lzma") is None:
        raise FileFormatError(f"page {page.index + 1} is compressed with {name(page)}, and this Python has no lzma")
    if code == _NONE or code in _UNPACKERS:
        return True
    if code in _BOUNDED and _imagecodecs_is_there():
        return True
    if code in _PILLOW:
        return False
    how = "is read with imagecodecs only: pip install imagecodecs, or" if code in _BOUNDED else "is not read:"
    raise FileFormatError(
        f"page {page.index + 1} is compressed with {name(page)}, which {how} write it anew without compression, or "
        "with deflate (ZIP)"
    )


def _imagecodecs_is_there() -> bool:
    try:
        importlib.import_module("imagecodecs")
    except ImportError:
        return False
    return True


class SegmentDecoder:
    """Unpacks the strips and tiles of one page, each to no more than it should have."""

    def __init__(self, page: Any) -> None:
        self._page, self._key = page, page.keyframe  # that of a later page of a series has not all that is looked at
        bits = np.atleast_1d(self._key.bitspersample).tolist()
        self._whole = int(np.prod(self._key.chunks, dtype=object)) * max(*bits, 8) // 8
        self.most = self._whole + min(self._whole, MOST_SPARE) + SPARE_BYTES
        code = int(self._key.compression)
        self._unpack = _UNPACKERS.get(code)
        self._decode = self._key.decode if self._unpack is None else _of_unpacked(self._key)
        self._said = _jpeg_bytes if code in _JPEG else _jpeg_2000_bytes if code in _JPEG_2000 else None
        self._tables = {"jpegtables": page.jpegtables, "jpegheader": self._key.jpegheader} if code in _JPEG else {}
        # The decoder of JPEG 2000 makes 32-bit values of all.
        self._needed = self._whole * 32 // max(min(bits), 8) if code in _JPEG_2000 else self._whole

    def __call__(self, index: int, data: bytes | None) -> tuple[np.ndarray | None, tuple[int, ...], tuple[int, ...]]:
        """Strip or tile `index`, of its bytes in the file, None where it was never written.

        Gives its pixels (depth, length, width, samples) or None, its place in the page, and its shape there. Raises
        FileFormatError for bytes that become more than the strip or tile has.
        """
        if data is None:
            return self._decode(None, index)
        what = f"page {self._page.index + 1}: strip or tile {index + 1}"
        check_growth(self._needed, len(data), what)
        try:
            if self._unpack is not None:
                data = self._unpack(data.translate(_REVERSED) if self._key.fillorder == 2 else data, self.most)
                size = len(data)
            else:
                size = self._said(data) if self._said is not None else 0
        except (zlib.error, ValueError) as error:
            raise FileFormatError(f"{what} is damaged: {error}") from None
        if size > self.most:
            raise FileFormatError(f"{what} unpacks to more than its {self._whole:,} bytes")
        return self._decode(data, index, **self._tables)


def _of_unpacked(key: Any) -> Callable[..., Any]:
    """tifffile's function that makes pixels of bytes, for a page like `key` that is not compressed."""
    plain = copy.copy(key)
    for cached in ("decode", "hash"):  # they depend on the compression
        plain.__dict__.pop(cached, None)
    plain.compression, plain.fillorder = _NONE, 1
    return plain.decode


# ---- unpackers: of bytes, and the most that is wanted of them; a little more may come, which is too much ----
def _inflated(data: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    made = stream.decompress(data, most + 1)
    if not stream.eof and len(made) <= most:
        raise zlib.error("it ends within its stream")
    return made


def _unlzma(data: bytes, most: int) -> bytes:
    """All streams in `data`, one after the other; what follows a whole one and is none is left. Raises ValueError."""
    import lzma  # here: a Python may have been built without it

    parts: list[bytes] = []
    room = most + 1
    while data and room > 0:
        if len(parts) >= MOST_STREAMS:
            raise ValueError(f"more than {MOST_STREAMS} streams")
        stream = lzma.LZMADecompressor(memlimit=FREE_BYTES)  # of its dictionary
        try:
            parts.append(stream.decompress(data, room))
        except lzma.LZMAError as error:
            if not parts:
                raise ValueError(str(error)) from None
            break
        room -= len(parts[-1])
        if not stream.eof and room > 0:
            raise ValueError("it ends within its stream")
        data = stream.unused_data
    return b"".join(parts)


def _unpacked_bits(data: bytes, most: int) -> bytes:
    """PackBits (TIFF 6.0, section 9): n < 128 is followed by n + 1 bytes as they are, n > 128 by one, 257 - n times."""
    made, at, end = bytearray(), 0, min(len(data), 2 * most)  # rows of one byte become two
    while at < end and len(made) <= most:
        count = data[at]
        if count < 128:
            made += data[at + 1 : at + 2 + count]
            at += 2 + count
        else:
            made += data[at + 1 : at + 2] * (257 - count if count > 128 else 0)
            at += 2 if count > 128 else 1
    return bytes(made)


def _jpeg_bytes(data: bytes) -> int:
    """How many bytes a JPEG becomes, by its own header, for which its decoder asks; 0 where there is none."""
    at = 2
    while at + 9 < len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker in _STARTS_OF_FRAMES:
            height, width = (int.from_bytes(data[place : place + 2], "big") for place in (at + 5, at + 7))
            return height * width * data[at + 9] * (2 if data[at + 4] > 8 else 1)
        else:
            alone = marker <= 0x01 or 0xD0 <= marker <= 0xD9
            at += 2 if alone else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def _jpeg_2000_bytes(data: bytes) -> int:
    """How many bytes a JPEG 2000 becomes, by the marker SIZ of its codestream (ISO 15444-1, A.5.1); ValueError without.

    A file of boxes (JP2) has the codestream in one of them.
    """
    at = 0
    if not data.startswith(_CODESTREAM):
        for _ in range(_MOST_BOXES):
            if at + 16 > len(data):
                break
            length, kind, long = struct.unpack_from(">I4sQ", data, at)
            if kind == b"jp2c":
                at += 16 if length == 1 else 8
                break
            at += max(8, long if length == 1 else length)
    if data[at : at + 4] != _CODESTREAM or at + 43 > len(data):
        raise ValueError("it has no codestream of JPEG 2000")
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    (components,) = struct.unpack_from(">H", data, at + 40)
    depths = data[at + 42 : at + 42 + 3 * components : 3]
    bits = max(((depth & 0x7F) + 1 for depth in depths), default=0)
    return max(0, right - left) * max(0, bottom - top) * components * (4 if bits > 16 else 2 if bits > 8 else 1)


_UNPACKERS: dict[int, Callable[[bytes, int], bytes]] = {
    8: _inflated, 32_946: _inflated, 50_013: _inflated, _LZMA: _unlzma, 32_773: _unpacked_bits,
}  # fmt: skip
