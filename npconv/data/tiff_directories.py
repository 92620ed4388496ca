"""The chain of image file directories of a TIFF file, walked before tifffile interprets it: what reading it will cost.

    head -> directory -> directory -> ...        each a page, of tags: number, type, count, value or where it lies
              |-> sub-directories                smaller copies, which tifffile reads too

A file of some megabytes can make a reader unpack the same bytes a thousand times: by tags that share their values, by
directories that overlap. So the sum of what is said is limited, not the single tag alone.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

MAX_DIRECTORIES, BYTES_OF_EACH = 65_536, 16_384  # pages of any file; bytes of the file for each one of more
MAX_TAGS, MAX_VALUES = 4096, 1_000_000  # of a page; of a tag
MAX_COPIES = 256  # sub-directories of a page; pyramids have ten or twenty
MAX_UNLIKE = 4096  # pages that are not all alike: tifffile compares each with all before it
MOST_TAG_BYTES, TAG_SHARE = 350_000_000, 50  # of memory, for the values of all tags that tifffile keeps; of the file
SPARE_BYTES = 1 << 20  # by which the tags of a page may be more than the file: some share their values
_NUMBER_BYTES = 40  # of an integer of Python's, in a tuple
VALUE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # of a tag's type
_WIDTH, _LENGTH, _DESCRIPTION, _COPIES, _SUBFILE = 256, 257, 270, 330, 254
# The values that tifffile unpacks of every page, and those that it unpacks of pages that are not like the first.
_OF_ALL = (256, 273, 279, 324, 325, 330, 347)
_OF_SOME = (258, 270, 277, 282, 283, 305, 338, 339, 513, 514, 530, 33_628, 42_113, 50_838, 50_839)
_UIC1, _UIC1_COST = 33_628, 4000  # a tag of MetaMorph's, whose values are places to read more
_CAPTURE_MODE = 65_441  # a tag of slides, of which tifffile parses all pages at once
REDUCED_OR_MASK = 1 | 4  # bits of the tag NewSubfileType


class Directories(NamedTuple):
    """Of each page of the chain whether it is marked as a smaller copy or a mask of another, its pixels, and how many
    sub-directories it has; and the first one's description."""

    reduced: list[bool]
    description: bytes
    areas: list[int]
    copies: list[int]


class _Kind(NamedTuple):
    """How numbers are stored: the byte order, and whether it is a BigTIFF file."""

    order: str
    big: bool

    @property
    def word(self) -> str:
        return self.order + ("Q" if self.big else "I")

    @property
    def number(self) -> str:
        return self.order + ("Q" if self.big else "H")

    @property
    def entry(self) -> int:
        return 20 if self.big else 12


def directories(path: Path) -> Directories:
    """What the chain of directories says, as TIFF 6.0 and BigTIFF define it.

    Raises ValueError if it does not end within the file, or says more than is read.
    """
    with open(path, "rb") as file:
        walk = _Walk(file)
        for tags in walk.chain():
            if _CAPTURE_MODE in tags and len(walk.reduced) > MAX_UNLIKE:
                raise ValueError(f"it is a slide of more than {MAX_UNLIKE:,} pages")
    return Directories(walk.reduced, walk.description, walk.areas, walk.copies)


class _Walk:
    """A walk along the chain, which adds up what is said."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._size = file, os.fstat(file.fileno()).st_size
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        version = struct.unpack(order + "H", head[2:4])[0] if order and len(head) == 16 else 0
        if version not in (42, 43):
            raise ValueError("it is not a TIFF file")
        self._kind = _Kind(order, version == 43)
        self._first = struct.unpack_from(self._kind.word, head, 8 if self._kind.big else 4)[0]
        self._most_pages = max(MAX_DIRECTORIES, self._size // BYTES_OF_EACH)
        self._most_tags = max(MOST_TAG_BYTES, self._size // TAG_SHARE)
        self._read = self._memory = 0  # bytes of directories; bytes of memory for values
        self.reduced: list[bool] = []
        self.areas: list[int] = []
        self.copies: list[int] = []
        self.description = b""

    def chain(self) -> Iterator[dict[int, int]]:
        """The tags of each directory, and where they are in it."""
        offset, kind = self._first, self._kind
        seen: set[int] = set()
        while offset:
            if len(seen) >= self._most_pages:
                raise ValueError(f"it has more than {self._most_pages:,} directories of pages")
            body = b"" if offset in seen else self._body(offset)
            if not body:
                raise ValueError(f"it is damaged or cut off: its directory of pages breaks off after {len(seen)}")
            seen.add(offset)
            tags = self._tags(body, len(seen) <= MAX_UNLIKE)
            self._note(body, tags)
            yield tags
            offset = struct.unpack_from(kind.word, body, len(body) - struct.calcsize(kind.word))[0]
        if not seen:
            raise ValueError("it has no pages")

    def _note(self, body: bytes, tags: dict[int, int]) -> None:
        if not self.reduced and _DESCRIPTION in tags:
            self.description = self._text(body[tags[_DESCRIPTION] :][: self._kind.entry])
        subfile = self._small(body, tags[_SUBFILE]) if _SUBFILE in tags else 0
        sides = [self._small(body, tags[tag]) if tag in tags else 0 for tag in (_WIDTH, _LENGTH)]
        self.reduced.append(bool(subfile & REDUCED_OR_MASK))
        self.areas.append(sides[0] * sides[1])
        self.copies.append(self._copies(body[tags[_COPIES] :][: self._kind.entry]) if _COPIES in tags else 0)

    def _body(self, offset: int) -> bytes:
        """The tags of a directory and where the next one is; nothing if it does not lie within the file."""
        kind, file = self._kind, self._file
        if offset > self._size:
            return b""
        file.seek(offset)
        start = file.read(struct.calcsize(kind.number))
        count = struct.unpack(kind.number, start)[0] if len(start) == struct.calcsize(kind.number) else 0
        wanted = count * kind.entry + struct.calcsize(kind.word)
        if not count or offset + len(start) + wanted > self._size:
            return b""
        if count > MAX_TAGS:
            raise ValueError(f"it is damaged: a directory of {count:,} tags, more than {MAX_TAGS:,}")
        self._read += len(start) + wanted
        if self._read > self._size:
            raise ValueError(f"it is damaged: its directories overlap, they have {self._read:,} bytes and more")
        return file.read(wanted)

    def _tags(self, body: bytes, of_some: bool) -> dict[int, int]:
        """Where each tag of a directory is in it; ValueError for more values than the file can hold, or than are read.

        of_some: whether tifffile may keep all of its tags, or only those of a page like the first.
        """
        entry = struct.Struct(self._kind.order + ("HHQ8x" if self._kind.big else "HHI4x"))
        found: dict[int, int] = {}
        apart, end_of_place = 0, struct.calcsize(self._kind.word)  # bytes of values that do not lie in the directory
        end = len(body) - struct.calcsize(self._kind.word)
        for number, (tag, kind, count) in enumerate(entry.iter_unpack(body[:end])):
            found.setdefault(tag, number * entry.size)
            length = VALUE_BYTES.get(kind, 1)
            if count * length > self._size or (length > 1 and count > MAX_VALUES):
                raise ValueError(f"it is damaged: its tag {tag} has {count:,} values of {length} bytes")
            apart += count * length if count * length > end_of_place else 0
            if tag in _OF_ALL or (of_some and tag in _OF_SOME):
                self._memory += count * (_UIC1_COST if tag == _UIC1 else _NUMBER_BYTES if length > 1 else 1)
        if self._memory > self._most_tags:
            raise ValueError(
                f"its tags would take {self._memory:,} bytes of memory and more: at most {self._most_tags:,} are read"
            )
        if apart > min(self._size + SPARE_BYTES, self._most_tags):
            raise ValueError(f"it is damaged: a directory's tags overlap, or have too many values: {apart:,} bytes")
        return found

    def _copies(self, entry: bytes) -> int:
        """How many sub-directories a page has, which are walked too; those that break off are left to the reader."""
        kind, word = self._kind, struct.calcsize(self._kind.word)
        of_type, count = struct.unpack_from(kind.order + "H" + kind.word[1], entry, 2)
        code = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(of_type)
        if code is None or count > MAX_COPIES:
            raise ValueError(f"its tag {_COPIES} has {count:,} sub-directories of type {of_type}: at most {MAX_COPIES}")
        size = count * struct.calcsize(kind.order + code)
        data = entry[4 + word :]
        if size > word:
            where = struct.unpack(kind.word, data)[0]
            self._file.seek(min(where, self._size))
            data = self._file.read(size)
        for offset in struct.unpack(f"{kind.order}{count}{code}", data[:size]) if len(data) >= size else ():
            body = self._body(offset) if offset >= 8 else b""
            if body:
                self._tags(body, True)
        return int(count)

    def _small(self, body: bytes, at: int) -> int:
        """The value of a tag that lies in its entry: a SHORT or a LONG."""
        short = struct.unpack_from(self._kind.order + "H", body, at + 2)[0] == 3
        code = self._kind.order + ("H" if short else "I")
        return int(struct.unpack_from(code, body, at + (12 if self._kind.big else 8))[0])

    def _text(self, entry: bytes) -> bytes:
        """The beginning of a text that a directory's entry points to, or holds itself."""
        word = self._kind.word
        length, where = (struct.unpack_from(word, entry, at)[0] for at in (4, 4 + struct.calcsize(word)))
        if length <= struct.calcsize(word):
            return entry[-struct.calcsize(word) :]
        if where > self._size:
            return b""
        self._file.seek(where)
        return self._file.read(min(length, 10_000))
