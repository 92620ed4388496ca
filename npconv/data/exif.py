"""EXIF data, and what else JPEG files have of its form, looked at before pillow unpacks it.

It is a small TIFF file: directories of tags, each with a type, a count, and its values or where they lie. Tags may name
the same bytes again and again, so that 64 KB become gigabytes of numbers.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .tiff_directories import VALUE_BYTES

MOST_BYTES, SPARE_BYTES = 4 << 20, 1 << 16  # of EXIF data; by which the values of all tags may be more than it
_POINTERS = (34_665, 34_853, 40_965)  # tags whose value is the place of another directory
_START, _SCAN = b"\xff\xd8", 0xDA  # of a JPEG; the marker before its pixels
# What is no marker of a segment: other bytes, padding, and markers without contents.
_JUNK = re.compile(rb"(?:[^\xff]|\xff(?=\xff)|\xff[\x00\x01\xd0-\xd9])+")
_WINDOW = 4096  # bytes that are read at once
MOST_JUNK = 1 << 18  # bytes that pillow walks past one at a time
MANY_SEGMENTS, FEW_BYTES = 4096, 256  # before the pixels; of so many, the mean number of bytes of each
_EXIF, _MPF = b"Exif\0\0", b"MPF\0"


def check_exif(data: bytes) -> None:
    """ValueError for EXIF data that is very long, or whose tags have more values than it has bytes."""
    data = data.removeprefix(_EXIF)
    if len(data) > MOST_BYTES:
        raise ValueError(f"its EXIF data has {len(data):,} bytes, more than {MOST_BYTES:,}")
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    if not order or len(data) < 8:
        return  # nothing that pillow reads
    total, seen, waiting = 0, set(), [struct.unpack_from(order + "I", data, 4)[0]]
    while waiting:
        start = waiting.pop()
        if start < 8 or start in seen or start + 2 > len(data):
            continue
        seen.add(start)
        end = start + 2 + 12 * struct.unpack_from(order + "H", data, start)[0]
        for at in range(start + 2, min(end, len(data) - 11), 12):
            tag, kind, count, value = struct.unpack_from(order + "HHII", data, at)
            size = count * VALUE_BYTES.get(kind, 1)
            total += 12 + (size if 4 < size <= len(data) else 0)
            if total > len(data) + SPARE_BYTES:
                raise ValueError(f"its EXIF data of {len(data):,} bytes has tags that overlap")
            if tag in _POINTERS:
                waiting.append(value)
        if end + 4 <= len(data):
            waiting.append(struct.unpack_from(order + "I", data, end)[0])


def check_jpeg(path: Path) -> None:
    """ValueError as `check_exif`, for what lies before the pixels of a JPEG; nothing for another file."""
    with open(path, "rb") as file:
        if file.read(2) != _START:
            return
        parts: list[bytes] = []
        pictures = b""
        held = 0
        for content in _segments(file):
            if content.startswith(_EXIF):  # pillow joins them
                parts.append(content[len(_EXIF) :])
                held += len(parts[-1])
                if len(parts) == 1 or held > MOST_BYTES:
                    check_exif(b"".join(parts))
            elif content.startswith(_MPF):  # pillow takes the last
                pictures = content[len(_MPF) :]
        check_exif(b"".join(parts))
        check_exif(pictures)


def _segments(file: BinaryIO) -> Iterator[bytes]:
    """What the markers APP1 and APP2 hold, up to the pixels; ValueError where pillow would go on byte by byte."""
    size, place, count, junk = os.fstat(file.fileno()).st_size, 2, 0, 0
    while place + 4 <= size:
        file.seek(place)
        start = file.read(_WINDOW)
        mark, marker, length = struct.unpack_from(">BBH", start)
        if mark != 0xFF or marker == 0xFF or marker <= 0x01 or 0xD0 <= marker <= 0xD9:
            skipped = _JUNK.match(start)
            step = max(1, skipped.end() if skipped else 1)
            place, junk = place + step, junk + step
            if junk > MOST_JUNK:
                raise ValueError(f"it is damaged: more than {MOST_JUNK:,} bytes before its pixels belong to no marker")
            continue
        if marker == _SCAN:
            return
        count, place = count + 1, place + 2 + max(2, length)
        if count > MANY_SEGMENTS and place < FEW_BYTES * count:
            raise ValueError(f"it has more than {MANY_SEGMENTS:,} segments, of fewer than {FEW_BYTES} bytes on average")
        if marker in (0xE1, 0xE2) and length > 2:
            yield start[4 : 2 + length] if 2 + length <= len(start) else start[4:] + file.read(2 + length - len(start))
