"""Bytes of an HDF5 file at addresses that the file itself names: every read is checked against the file's end.

Source: what is read and where.  Fields: a structure's parts in order.  messages: those of an object's header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NoReturn

from ..errors import FileFormatError

UNDEFINED = (1 << 64) - 1  # an address that leads nowhere
MAX_BLOCK = 1 << 26  # bytes of one structure: the largest are heaps of names
MAX_HEADER = 1 << 22  # bytes of all parts of an object's header
SPARE = 1 << 20  # bytes that are read of any file, however small
NEW_HEADER, NEW_PART = b"OHDR", b"OCHK"  # how headers of version 2, and their further parts, begin
CONTINUED = 0x10  # the kind of message that says where a header goes on


class Source:
    """A file by addresses, which count from `base` (where its superblock is) and must lie before `end`.

    However often its structures lead to the same bytes, no more is read than some times the file, and the arrays in it
    have no more bytes than it has itself.
    """

    def __init__(self, file: Any, name: str, base: int, end: int) -> None:
        self._file, self.name, self.base, self.end = file, name, base, end
        self.tables: dict[int, tuple[int, int] | None] = {}  # of groups' headers that were looked up, tree and heap
        self.types: dict[int, Any] = {}  # datatypes with names, by their headers
        self._left, self._unclaimed = 4 * end + SPARE, end  # a header is read twice at the most, all else once

    def fail(self, address: int, rule: str) -> NoReturn:
        """FileFormatError that names the file and the byte."""
        raise FileFormatError(f"{self.name} is damaged or not an HDF5 file: at byte {address + self.base:,}, {rule}")

    def read(self, address: int, count: int, what: str) -> bytes:
        """`count` bytes at `address`; FileFormatError if the file has not so many."""
        if count > MAX_BLOCK or address + count > self.end:
            self.fail(address, f"{what} of {count:,} bytes goes beyond the file's end ({self.end:,})")
        self._left -= count
        if self._left < 0:
            self.fail(address, f"{what} of {count:,} bytes, which structures that lie in each other lead to")
        self._file.seek(self.base + address)
        data: bytes = self._file.read(count)
        if len(data) < count:
            self.fail(address, f"{what} of {count:,} bytes is cut off")
        return data

    def check_place(self, address: int, count: int, at: int, what: str) -> None:
        """FileFormatError unless `count` bytes at `address`, which are not read now, lie in the file."""
        if address + count > self.end:
            self.fail(at, f"{what} of {count:,} bytes at {address:,} goes beyond the file's end ({self.end:,})")

    def claim(self, count: int, at: int, what: str) -> None:
        """Bytes of an array: no two, nor two chunks of one, share any, and all cannot have more than the file."""
        self._unclaimed -= count
        if self._unclaimed < 0:
            self.fail(at, f"{what} of {count:,} bytes: with them all arrays would have more than the file")


class Fields:
    """Fields of a structure one after the other; FileFormatError, with its address, for those beyond its end."""

    def __init__(self, source: Source, address: int, data: bytes, what: str) -> None:
        self.source, self.address, self.data, self.what = source, address, data, what
        self.at = 0
        self.shared = False  # of a message: whether it only says where in the file another one stands
        self.further: list[tuple[int, int]] = []  # of a part of a header: where others are, and of how many bytes

    def fail(self, rule: str) -> NoReturn:
        """FileFormatError about the structure."""
        self.source.fail(self.address + self.at, f"{self.what}: {rule}")

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if self.at + count > len(self.data):
            self.fail(f"it ends after {len(self.data)} bytes, {self.at + count} are needed")
        part = self.data[self.at : self.at + count]
        self.at += count
        return part

    def numbers(self, form: str) -> tuple[int, ...]:
        """The next little-endian numbers, as `struct` has their form."""
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))

    def number(self, form: str) -> int:
        """The next number."""
        return int(self.numbers(form)[0])

    def align(self, start: int = 0) -> None:
        """Go on to a multiple of 8 bytes from `start`."""
        self.take(-(self.at - start) % 8)

    def expect(self, good: bool, rule: str) -> None:
        """FileFormatError with the rule unless it holds."""
        if not good:
            self.fail(rule)


def messages(source: Source, header: int) -> Iterator[tuple[int, Fields]]:
    """The messages of a header, those of its further parts too."""
    old = source.read(header, 4, "a header") != NEW_HEADER
    return _old_messages(source, header) if old else _new_messages(source, header)


def _old_messages(source: Source, header: int) -> Iterator[tuple[int, Fields]]:
    head = Fields(source, header, source.read(header, 16, "a header"), "header")
    version, _, count, _, size, _ = head.numbers("BBHIII")
    head.expect(version == 1, f"version {version}, it must be 1")
    met = 0
    for block in _parts(source, header + 16, size):
        place = block.address
        while len(block.data) - block.at >= 8:
            at = place + block.at
            number, length, flags = block.numbers("HHB")
            block.take(3)
            block.expect(length % 8 == 0, f"a message of {length} bytes, not a multiple of 8")
            met += 1
            fields = _message(block, at, number, length, flags)
            if number != CONTINUED:
                yield number, fields
        block.expect(block.at == len(block.data), "some bytes after its last message")
    head.expect(met == count, f"{met} messages, it says {count}")


def _new_messages(source: Source, header: int) -> Iterator[tuple[int, Fields]]:
    """Those of version 2, which have checksums that HDF5 compares, but lead to structures that have none."""
    head = Fields(source, header, source.read(header, min(34, source.end - header), "a header"), "header")
    head.take(4)
    version, flags = head.numbers("BB")
    head.expect(version == 2 and flags < 64, f"version {version}, flags {flags}")
    head.take((16 if flags & 32 else 0) + (4 if flags & 16 else 0))  # times, and how many attributes it has itself
    size = head.number("BHIQ"[flags & 3])
    for number, block in enumerate(_parts(source, header + head.at, size)):
        block.expect(not number or block.take(4) == NEW_PART, "no part of one begins here")
        end = len(block.data) - (4 if number else 0)  # before a checksum
        while end - block.at >= 4 + (2 if flags & 4 else 0):
            at = block.address + block.at
            kind, length, marks = block.numbers("BHB")
            block.take(2 if flags & 4 else 0)
            block.expect(block.at + length <= end, f"a message of {length} bytes, there are {end - block.at}")
            fields = _message(block, at, kind, length, marks)
            if kind != CONTINUED:
                yield kind, fields


def _parts(source: Source, place: int, size: int) -> Iterator[Fields]:
    """The first part of a header, and those that its messages lead to."""
    left, seen, total = [(place, size)], {place}, 0
    while left:
        place, size = left.pop(0)
        total += size
        block = Fields(source, place, b"", "header")
        block.expect(total <= MAX_HEADER, f"its parts have {total:,} bytes, {MAX_HEADER:,} at most")
        block.data = source.read(place, size, "a part of a header")
        yield block
        for further in block.further:
            block.expect(further[0] not in seen, "its parts are in a circle")
            seen.add(further[0])
        left += block.further


def _message(block: Fields, at: int, number: int, length: int, flags: int) -> Fields:
    fields = Fields(block.source, at, block.take(length), f"message of kind {number}")
    fields.shared = bool(flags & 2)
    if number == CONTINUED:
        block.further.append((fields.number("Q"), fields.number("Q")))
    return fields
