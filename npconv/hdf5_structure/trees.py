"""The trees and heaps of HDF5 files in the layout that npconv writes: what leads from a group to its members' headers,
from a chunked array to its chunks, and from an attribute to its text.

These structures have no checksums. HDF5's own library follows them on trust, and damage in them may end the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .bytes import UNDEFINED, Fields, Source, messages
from .types import CHECKSUM, FLETCHER, SHUFFLE, Layout

GROUP_TREE, CHUNK_TREE = 0, 1
MAX_LEVELS = 32
SYMBOLS = 0x11  # the kind of message that says where a group's tree and heap are
HARD, CACHED_GROUP, SOFT = 0, 1, 2
LAST_FREE = 1  # what HDF5 writes for the address of no further free block


def tree_leaves(source: Source, address: int, kind: int, key_size: int, most: int) -> Iterator[tuple[bytes, list[int]]]:
    """Of each leaf of a version 1 B-tree, from left to right: its keys (one more than children) and its children.

    Raises FileFormatError for a node that is there twice, for levels that do not fall by one, more than `most`
    children, or neighbours that do not point to each other.
    """
    seen: set[int] = set()
    level_now, row = -1, [address]
    while row:
        below: list[int] = []
        for number, place in enumerate(row):
            left = row[number - 1] if number else UNDEFINED
            right = row[number + 1] if number + 1 < len(row) else UNDEFINED
            level, keys, children = _node(source, place, kind, key_size, most, (left, right))
            rule = f"B-tree: level {level} below level {level_now}, or a node that is there twice"
            fits = level < MAX_LEVELS if level_now < 0 else level == level_now - (number == 0)
            if not fits or place in seen:
                source.fail(place, rule)
            seen.add(place)
            level_now = level
            if level:
                below += children
            else:
                yield keys, children
        row = below


def _node(
    source: Source, place: int, kind: int, key_size: int, most: int, around: tuple[int, int]
) -> tuple[int, bytes, list[int]]:
    # HDF5 reads nodes at their full size, however many children they have.
    size = 24 + most * (8 + key_size) + key_size
    fields = Fields(source, place, source.read(place, size, "a B-tree's node"), "B-tree")
    fields.expect(fields.take(4) == b"TREE", "no node begins here")
    found, level, count, left, right = fields.numbers("BBHQQ")
    fields.expect(found == kind, f"a node of kind {found}, it must be {kind}")
    fields.expect(count <= most, f"{count} children, {most} at most")
    fields.expect(count > 0 or level == 0, "a node without children above others")
    fields.expect((left, right) == around, "the neighbours of a node")
    pairs = np.frombuffer(fields.take(count * (key_size + 8) + key_size), "u1")
    table = pairs[: count * (key_size + 8)].reshape(count, key_size + 8)
    children: list[int] = table[:, key_size:].copy().view("<u8").ravel().tolist()
    return level, table[:, :key_size].tobytes() + pairs[len(pairs) - key_size :].tobytes(), children


def group_members(source: Source, tree: int, heap: int, most: tuple[int, int]) -> Iterator[tuple[str, int, int, int]]:
    """Of each member of a group in a symbol table: its name, what kind of entry it is, its header, where it stands.

    most: entries of a node of symbols, and children of a node of the tree.
    """
    names = _Names(source, heap)
    for _, children in tree_leaves(source, tree, GROUP_TREE, 8, most[1]):
        for place in children:
            fields = Fields(source, place, source.read(place, 8 + 40 * most[0], "a table of symbols"), "symbols")
            fields.expect(fields.take(4) == b"SNOD", "no table begins here")
            version, _, count = fields.numbers("BBH")
            fields.expect(version == 1 and count <= most[0], f"version {version}, {count} symbols, {most[0]} at most")
            for _ in range(count):
                yield symbol(fields, names)


def symbol(fields: Fields, names: _Names | None) -> tuple[str, int, int, int]:
    """An entry of a table of symbols; without `names` the root's, which has none."""
    name_at, header, kind, _, first, second = fields.numbers("QQIIQQ")
    fields.expect(kind in (HARD, CACHED_GROUP, SOFT), f"an entry of kind {kind}")
    name = names.name(name_at) if names else "/"
    if kind == SOFT and names:
        names.name(first & 0xFFFFFFFF)
    if kind == CACHED_GROUP:
        where = symbol_table_of(fields.source, header)
        # A group that was given links of a newer kind has neither any more, and HDF5 leaves the entry as it was.
        fields.expect(where in (None, (first, second)), f"{name!r}: the tree and heap are not those of its header")
    return name, kind, header, fields.address


def symbol_table_of(source: Source, header: int) -> tuple[int, int] | None:
    """The addresses of a group's tree and heap as its header has them; None if it has none."""
    if header not in source.tables:
        found = (fields.numbers("QQ") for number, fields in messages(source, header) if number == SYMBOLS)
        tree, heap = next(found, (UNDEFINED, UNDEFINED))
        source.tables[header] = None if tree == UNDEFINED else (tree, heap)
    return source.tables[header]


class _Names:
    """A local heap: the names of a group's members."""

    def __init__(self, source: Source, place: int) -> None:
        head = Fields(source, place, source.read(place, 32, "a heap"), "heap")
        head.expect(head.take(4) == b"HEAP" and head.take(4)[0] == 0, "no heap begins here")
        size, free, data = head.numbers("QQQ")
        self._fields = Fields(source, data, source.read(data, size, "the data of a heap"), "heap")
        self._left = size  # each name has bytes of its own, and so has each free block
        room = size
        while free != LAST_FREE:
            head.expect(free + 16 <= size, f"a free block at {free} of {size} bytes")
            self._fields.at = start = free
            free, length = self._fields.numbers("QQ")
            room -= length
            head.expect(16 <= length <= size - start, f"a free block of {length} bytes at {start} of {size}")
            head.expect(room >= 0, f"free blocks of more than {size} bytes")

    def name(self, at: int) -> str:
        """The text that begins at `at`."""
        data = self._fields.data
        end = data.find(b"\0", at) if at < len(data) else -1
        self._fields.expect(end >= 0, f"a name at {at} of {len(data)} bytes has no end")
        self._left -= end - at
        self._fields.expect(self._left >= 0, f"a name at {at} lies in others: they have more than {len(data):,} bytes")
        return data[at:end].decode("utf-8", "surrogateescape")


def check_chunks(
    source: Source, place: Layout, shape: tuple[int, ...], filters: tuple[int, ...] | None, most: int
) -> None:
    """Of a chunked array: that its chunks lie in the file, in order, each where one can be, none of them twice.

    A chunk that nothing has compressed must have exactly the bytes that its filters make of it. filters: their
    numbers, None if unknown.
    """
    if place.address == UNDEFINED:
        return
    axes = len(place.chunk)
    key = np.dtype([("size", "<u4"), ("mask", "<u4"), ("at", "<u8", (axes,))])
    steps = np.array([*place.chunk[:-1], 1], "u8")
    last: Any = None
    for keys, children in tree_leaves(source, place.address, CHUNK_TREE, key.itemsize, most):
        table, starts = np.frombuffer(keys, key)[: len(children)], np.array(children, "u8")
        at = table["at"]
        inside = (at[:, :-1] < np.array(shape, "u8")).all() and not at[:, -1].any() and not (at % steps).any()
        rows = at.tolist() if last is None else [last, *at.tolist()]
        if not inside or any(a >= b for a, b in zip(rows, rows[1:], strict=False)):
            source.fail(place.address, "B-tree of chunks: a chunk that is not in its place, or is there twice")
        if filters is not None and not _sizes_fit(table["size"].astype("i8"), table["mask"], place.size, filters):
            source.fail(place.address, f"B-tree of chunks: a chunk that has not its {place.size:,} bytes")
        if ((starts > source.end) | (starts + table["size"] > source.end)).any():
            source.fail(place.address, "B-tree of chunks: a chunk that goes beyond the file's end")
        source.claim(int(table["size"].sum(dtype="u8")), place.address, "B-tree of chunks")
        last = rows[-1] if rows else last


def _sizes_fit(sizes: Any, masks: Any, whole: int, filters: tuple[int, ...]) -> bool:
    """Whether chunks of `whole` bytes can have such sizes in the file; bit k of a mask: filter k was left out."""
    checksums, packed = np.zeros(len(sizes), "i8"), np.zeros(len(sizes), bool)
    for k, number in enumerate(filters):
        used = (masks >> k & 1) == 0
        checksums += used * (number == FLETCHER)
        packed |= used & (number not in (FLETCHER, SHUFFLE))
    least = CHECKSUM * checksums
    return bool(np.where(packed, sizes > least, sizes == whole + least).all())


class Texts:
    """The global heaps of a file, where texts of any length are."""

    def __init__(self, source: Source) -> None:
        self._source, self._left = source, source.end  # each text has bytes of its own
        self._lengths: dict[int, dict[int, int]] = {}  # of the objects of each heap, by their numbers

    def check(self, collection: int, number: int, count: int, at: Fields) -> None:
        """FileFormatError unless object `number` of the heap at `collection` has `count` bytes."""
        if collection not in self._lengths:
            self._lengths[collection] = self._read(collection)
        at.expect(self._lengths[collection].get(number, -1) >= count, f"no object {number} of {count:,} bytes")
        self._left -= count
        at.expect(self._left >= 0, f"object {number} of {count:,} bytes is that of other texts too")

    def _read(self, collection: int) -> dict[int, int]:
        head = Fields(self._source, collection, self._source.read(collection, 16, "a heap of texts"), "heap of texts")
        head.expect(head.take(5) == b"GCOL\x01", "no heap begins here")
        head.take(3)
        size = head.number("Q")
        fields = Fields(self._source, collection, self._source.read(collection, size, "a heap of texts"), head.what)
        fields.expect(size >= 4096, f"{size} bytes, it must have 4096 or more")
        fields.take(16)
        found: dict[int, int] = {}
        while len(fields.data) - fields.at >= 16:
            start = fields.at
            number, _, _, length = fields.numbers("HHIQ")
            if number == 0:  # the rest is free, and its length counts its own head
                fields.expect(length == size - start, f"{length:,} free bytes of {size - start:,}")
                break
            fields.expect(number not in found, f"object {number} is there twice")
            found[number] = length
            fields.take(length)
            fields.align()
        return found
