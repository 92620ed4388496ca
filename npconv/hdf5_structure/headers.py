"""check_structure: whether an HDF5 file's structures are whole, before HDF5's own library follows them.

    superblock -> root group's header -> symbol table -> members' headers -> layout, chunks, attributes

HDF5 was made for files that one trusts: of every thousand with a few wrong bytes, one ends the process and two keep it
busy for ever. So the file is walked here first, in Python. Read with care are the structures without checksums: those
of the layout that HDF5 writes unless told else, which npconv's own files have. Of the newer ones, headers are read;
large groups, collections of attributes and tables of chunks are left to HDF5, which compares their checksums. With
`strict` all that is newer is refused.
Source: the HDF5 File Format Specification, version 3.0.
"""

from __future__ import annotations

import math
import os
from typing import Any

from ..errors import FileFormatError
from . import trees, types
from .bytes import NEW_HEADER, UNDEFINED, Fields, Source, messages

START = b"\x89HDF\r\n\x1a\n"
MAX_TEXT = 8 << 20  # bytes of a text in npconv's own files
MAX_OBJECTS, MAX_NESTED = 1_000_000, 64  # groups in groups
MAX_PATH = 200  # letters of a path, in errors
MAX_VALUES = 64  # parameters of a filter: h5py has room for some, and what is known has 20
SPACE, OLD_FILL, FILL, LINK, OUTSIDE, LAYOUT, FILTERS, ATTRIBUTE, NODES, DRIVER = 1, 4, 5, 6, 7, 8, 11, 12, 19, 20
ONCE = {SPACE, types.TYPE, LAYOUT, FILTERS, trees.SYMBOLS}
OURS = {*ONCE, 0, OLD_FILL, FILL, ATTRIBUTE, 0x0E, 0x12}  # and times, and free room
NUMBERS = (types.FIXED, types.FLOAT, types.ENUM)  # the classes of npconv's own arrays


def check_structure(path: str | os.PathLike[str], *, strict: bool = False) -> None:
    """Raise FileFormatError, with the byte and the rule, unless the structures of an HDF5 file are whole.

    strict: refuse whatever npconv does not write: newer layouts, links, groups in circles, data in other files.
    """
    with open(path, "rb") as file:
        walk = _Walk(_source(file, path), strict)
        if strict and walk.source.base:
            walk.source.fail(-walk.source.base, "the file must begin with its superblock")
        walk.follow(walk.root(), "/")


def check_object(path: str | os.PathLike[str], address: int) -> None:
    """The same of the object whose header is at `address`, whatever leads to it: a data set that is to be read."""
    with open(path, "rb") as file:
        walk = _Walk(_source(file, path), False)
        walk.root()
        walk.known_types = True
        walk.follow(address, f"the object at {address:,}")


def edges_are_whole(path: str | os.PathLike[str], address: int) -> bool:
    """Whether the chunks at the edges of the array at `address`, which reach beyond it, are stored without filters."""
    with open(path, "rb") as file:
        found = [fields for number, fields in messages(_source(file, path), address) if number == LAYOUT]
    return bool(found) and types.layout(found[0]).whole_edges


def _source(file: Any, path: str | os.PathLike[str]) -> Source:
    size = os.fstat(file.fileno()).st_size
    start = _start(file, size)
    if start is None:
        raise FileFormatError(f"{os.fspath(path)} is damaged or not an HDF5 file: it does not begin as one")
    return Source(file, os.fspath(path), start, size - start)


def _start(file: Any, size: int) -> int | None:
    """Where the superblock is: at 0, or, after a block of the user's, at 512, 1024, 2048 ..."""
    place = 0
    while place + len(START) <= size:
        file.seek(place)
        if file.read(len(START)) == START:
            return place
        place = 2 * place or 512
    return None


class _Walk:
    """Goes through all objects that hard links lead to."""

    def __init__(self, source: Source, strict: bool) -> None:
        self.source, self.strict = source, strict
        self.known_types = False  # whether a datatype that cannot be found is refused
        self.most = 0, 0, 0  # entries of a table of symbols, children of a group's node and of a chunks' node
        self.seen: set[int] = set()
        self.texts = trees.Texts(source)

    def root(self) -> int:
        """Read the superblock: where the root group's header is."""
        fields = Fields(self.source, 0, self.source.read(0, min(100, self.source.end), "the superblock"), "superblock")
        fields.take(len(START))
        version = fields.number("B")
        if version in (2, 3) and not self.strict:
            return self._new_root(fields)
        fields.expect(version in (0, 1), f"version {version}, npconv writes 0")
        free, root, _, shared, offsets, lengths, _, leaf, inner, _ = fields.numbers("BBBBBBBHHI")
        fields.expect((free, root, shared) == (0, 0, 0), "versions of its parts that are not known")
        fields.expect((offsets, lengths) == (8, 8), f"offsets of {offsets} and lengths of {lengths} bytes, not 8")
        self._set_nodes(fields, leaf, inner, fields.numbers("HH")[0] if version else 32)
        base, _, end, driver = fields.numbers("QQQQ")
        fields.expect(driver == UNDEFINED, "parts in other files")
        self._set_end(fields, base, end)
        return trees.symbol(fields, None)[2]

    def _new_root(self, fields: Fields) -> int:
        offsets, lengths, _ = fields.numbers("BBB")
        fields.expect((offsets, lengths) == (8, 8), f"offsets of {offsets} and lengths of {lengths} bytes, not 8")
        base, extension, end, root = fields.numbers("QQQQ")
        self._set_end(fields, base, end)
        self._set_nodes(fields, 4, 16, 32)
        for number, message in messages(self.source, extension) if extension != UNDEFINED else ():
            message.expect(number != DRIVER, "parts in other files")
            if number == NODES:
                _, chunks, inner, leaf = message.numbers("BHHH")
                self._set_nodes(message, leaf, inner, chunks)
        return root

    def _set_nodes(self, fields: Fields, leaf: int, inner: int, chunks: int) -> None:
        fields.expect(min(leaf, inner, chunks) > 0 and max(leaf, inner, chunks) < 1 << 12, "the sizes of nodes")
        self.most = 2 * leaf, 2 * inner, 2 * chunks

    def _set_end(self, fields: Fields, base: int, end: int) -> None:
        fields.expect(base == self.source.base, f"a base of {base}, it begins at {self.source.base}")
        there = self.source.end + base
        fields.expect(end <= there, f"the file should end at byte {end:,}, it has {there:,}")
        self.source.end = end - base

    def follow(self, header: int, path: str) -> None:
        """Check the object of this header, and all below it."""
        left = [(header, path, 0)]
        while left:
            header, path, depth = left.pop()
            if header in self.seen:
                if self.strict:
                    self.source.fail(header, f"{path} is an object that has another name already")
                continue
            self.seen.add(header)
            if len(self.seen) > MAX_OBJECTS or depth > MAX_NESTED:
                self.source.fail(header, f"more than {MAX_OBJECTS:,} objects, or groups more than {MAX_NESTED} deep")
            left += [(*member, depth + 1) for member in self._object(header, path)]

    def _object(self, header: int, path: str) -> list[tuple[int, str]]:
        """Check one object; the objects that it links to, with their paths."""
        if self.strict and self.source.read(header, 4, "a header") == NEW_HEADER:
            self.source.fail(header, f"{path}: a header of version 2, npconv writes 1")
        found: dict[int, Fields] = {}
        members: list[tuple[int, str]] = []
        for number, fields in messages(self.source, header):
            if self.strict and (number not in OURS or fields.shared):
                fields.fail(f"{path}: npconv writes no message of kind {number}, or none that stands elsewhere")
            fields.expect(number not in found or number not in ONCE, f"{path}: it is there twice")
            fields.expect(number not in (LAYOUT, trees.SYMBOLS) or not fields.shared, f"{path}: it stands elsewhere")
            found[number] = fields
            if number == ATTRIBUTE:
                self._attribute(fields)
            elif number == LINK:
                members += _hard_link(fields, path)
        if trees.SYMBOLS in found:
            members += self._members(found[trees.SYMBOLS], path)
        if LAYOUT in found:
            self._dataset(found, path)
        return members

    def _members(self, fields: Fields, path: str) -> list[tuple[int, str]]:
        tree, heap = fields.numbers("QQ")
        members: list[tuple[int, str]] = []
        names: set[str] = set()
        for name, kind, header, at in trees.group_members(self.source, tree, heap, self.most[:2]):
            whole = _joined(path, name)
            if name in names or not name or "/" in name:
                self.source.fail(at, f"{whole!r}: a name that is there twice, empty, or has a slash")
            names.add(name)
            if kind == trees.SOFT:
                if self.strict:
                    self.source.fail(at, f"{whole!r} must be no link to another place")
            else:
                members.append((header, whole))
        return members

    def _dataset(self, found: dict[int, Fields], path: str) -> None:
        fields = found[LAYOUT]
        place = types.layout(fields)
        if SPACE not in found or types.TYPE not in found:
            fields.fail(f"{path} has no shape or no datatype")
        shape = None if found[SPACE].shared else types.dataspace(found[SPACE])
        kind = types.any_datatype(found[types.TYPE])
        fields.expect(kind is not None or not self.known_types, f"{path}: a datatype that stands elsewhere")
        if self.strict and kind is not None:
            fields.expect(kind.kind in NUMBERS, f"{path}: class {kind.kind}, it must be floats, integers or bools")
        filters = self._filters(found[FILTERS], path) if FILTERS in found else ()
        if FILL in found and not found[FILL].shared:
            types.fill_value(found[FILL])
        fields.expect(place.kind != "other" or not self.strict, f"{path}: a newer layout than npconv writes")
        if place.kind == "other" or shape is None or OUTSIDE in found:
            return
        if kind is not None:
            types.check_extent(fields, shape, kind, place)
        if place.kind == "contiguous" and place.address != UNDEFINED:
            self.source.check_place(place.address, place.size, fields.address, path)
            self.source.claim(place.size, fields.address, path)
        if place.kind == "chunked":
            fields.expect(len(place.chunk) == len(shape) + 1, f"{path}: chunks of {len(place.chunk) - 1} axes")
            trees.check_chunks(self.source, place, shape, filters, self.most[2])

    def _filters(self, fields: Fields, path: str) -> tuple[int, ...] | None:
        """The numbers of a data set's filters; None if they stand elsewhere, which is refused where it is read."""
        fields.expect(not fields.shared or not self.known_types, f"{path}: filters that stand elsewhere")
        return None if fields.shared else types.filters(fields, MAX_VALUES if self.known_types else 1 << 16)

    def _attribute(self, fields: Fields) -> None:
        if fields.shared:
            return
        name, kind, shape, data = types.attribute(fields, self.strict)
        if kind is None:
            fields.expect(not self.strict, f"{name[:100]!r}: a datatype that stands elsewhere")
            return
        ours = kind.kind in (*NUMBERS, types.STRING) or kind.text
        fields.expect(ours or not self.strict, f"{name[:100]!r}: class {kind.kind}, it must be numbers or text")
        count = 0 if shape is None else math.prod(shape)
        data.expect(count * kind.size <= len(data.data), f"{count} elements of {kind.size} bytes")
        if kind.kind != types.VARIABLE or kind.base is None:
            return
        for _ in range(count):
            length, collection, index = data.numbers("IQI")
            if length and collection != UNDEFINED:
                data.expect(length <= MAX_TEXT or not self.strict, f"a text of {length:,} bytes, {MAX_TEXT:,} at most")
                self.texts.check(collection, index, length * kind.base.size, data)


def _hard_link(fields: Fields, path: str) -> list[tuple[int, str]]:
    """The object of a link message, if it is a hard link."""
    version, flags = fields.numbers("BB")
    fields.expect(version == 1, f"version {version}")
    kind = fields.number("B") if flags & 8 else 0
    fields.take((8 if flags & 4 else 0) + (1 if flags & 16 else 0))
    length = fields.number("BHIQ"[flags & 3])
    name = fields.take(length).decode("utf-8", "replace")
    return [(fields.number("Q"), _joined(path, name))] if kind == 0 else []


def _joined(path: str, name: str) -> str:
    """A member's path, for errors: of a long one the end."""
    whole = f"{path.rstrip('/')}/{name[:MAX_PATH]}"
    return whole if len(whole) <= MAX_PATH else "..." + whole[-MAX_PATH:]
