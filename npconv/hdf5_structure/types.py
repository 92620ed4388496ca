"""Messages of HDF5 object headers that say what an array is: its shape, its datatype, where it lies, its filters.

Each function reads one message from `Fields` and checks what HDF5's own library takes on trust.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .bytes import UNDEFINED, Fields, messages

MAX_AXES, MAX_FILTERS, MAX_TYPES = 32, 32, 8  # the last: datatypes in datatypes
MAX_ELEMENTS = 1 << 62
DEFLATE, SHUFFLE, FLETCHER, N_BIT, SCALE_OFFSET, LZF = 1, 2, 3, 5, 6, 32_000  # numbers of filters
CHECKSUM = 4  # bytes that fletcher32 adds
TYPE = 3  # the kind of message
FIXED, FLOAT, TIME, STRING, BITFIELD, OPAQUE, COMPOUND, REFERENCE, ENUM, VARIABLE, ARRAY = range(11)
_PROPERTIES = {FIXED: 4, FLOAT: 12, TIME: 2, STRING: 0, BITFIELD: 4, REFERENCE: 0}  # bytes after the head


@dataclass(frozen=True)
class Datatype:
    """kind: HDF5's class; size: bytes of an element. base: of enumerations and of what varies in length; text: this."""

    kind: int
    size: int
    base: Datatype | None = None
    text: bool = False


@dataclass
class Layout:
    """Where an array lies. chunk: of a chunked one, the chunk's shape, and the bytes of an element last.

    whole_edges: whether chunks that reach beyond the array have no filters.
    """

    kind: str
    address: int = UNDEFINED
    size: int = 0
    chunk: tuple[int, ...] = ()
    whole_edges: bool = False


def dataspace(fields: Fields) -> tuple[int, ...] | None:
    """The shape; None of an array that has no elements because it has no space."""
    version, rank, flags = fields.numbers("BBB")
    fields.expect(version in (1, 2) and rank <= MAX_AXES and flags <= 3, f"version {version} of rank {rank}")
    kind = 1
    if version == 1:
        fields.take(5)
    else:
        kind = fields.number("B")
    fields.expect(kind in (0, 1, 2), f"a space of kind {kind}")
    shape = fields.numbers("Q" * rank)
    if flags & 1:
        most = fields.numbers("Q" * rank)
        fields.expect(all(n <= m for n, m in zip(shape, most, strict=True)), f"shape {shape} exceeds its {most}")
    product = math.prod(max(n, 1) for n in shape)
    fields.expect(product < MAX_ELEMENTS, f"a shape of {product:,} elements")
    return None if kind == 2 else shape


def datatype(fields: Fields, depth: int = 0) -> Datatype:
    """A datatype; what compounds and arrays are made of is not looked at, since none is read."""
    head, size = fields.numbers("II")
    version, kind, bits = head >> 4 & 15, head & 15, head >> 8
    fields.expect(1 <= version <= 5 and kind <= ARRAY + 2 and size > 0, f"class {kind}, version {version}, size {size}")
    fields.expect(depth < MAX_TYPES, f"datatypes in datatypes, more than {MAX_TYPES} deep")
    if kind in (FIXED, BITFIELD):
        _check_bits(fields, size)
    elif kind == FLOAT:
        _check_float(fields, size, bits)
    elif kind == ENUM:
        return Datatype(kind, size, _enumeration(fields, size, version, bits & 0xFFFF, depth))
    elif kind == VARIABLE:
        fields.expect(size == 16 and bits & 15 <= 1, f"of variable length, in {size} bytes")
        base, text = datatype(fields, depth + 1), bits & 15 == 1
        plain = base.kind in (FIXED, STRING) and base.size == 1
        fields.expect(plain or not text, f"text of characters of class {base.kind} and {base.size} bytes")
        return Datatype(kind, size, base, text)
    else:
        fields.take(_PROPERTIES.get(kind, 0))
    return Datatype(kind, size)


def _check_bits(fields: Fields, size: int) -> None:
    offset, precision = fields.numbers("HH")
    fields.expect(precision > 0 and offset + precision <= 8 * size, f"bits {offset} and {precision} of {size} bytes")


def _check_float(fields: Fields, size: int, bits: int) -> None:
    offset, precision, exponent_at, exponent, mantissa_at, mantissa, _ = fields.numbers("HHBBBBI")
    sign = bits >> 8 & 0xFF
    fields.expect(precision > 0 and offset + precision <= 8 * size, f"bits {offset} and {precision} of {size} bytes")
    whole = max(sign + 1, exponent_at + exponent, mantissa_at + mantissa)
    fields.expect(exponent > 0 < mantissa and whole <= precision, f"sign, exponent and mantissa of {precision} bits")


def _enumeration(fields: Fields, size: int, version: int, count: int, depth: int) -> Datatype:
    base = datatype(fields, depth + 1)
    fields.expect(base.kind == FIXED and base.size == size and count > 0, "an enumeration of what is no integer")
    for _ in range(count):
        start = fields.at
        while fields.take(1) != b"\0":
            pass
        if version < 3:
            fields.align(start)
    fields.take(count * size)
    return base


def layout(fields: Fields) -> Layout:
    """Where the elements lie; of chunks after version 3, whose tables have checksums of their own, nothing."""
    version, kind = fields.numbers("BB")
    fields.expect(version >= 3, f"version {version} of a layout, from before 2004, is not read")
    if version > 3 and kind > 1:
        return Layout("other", whole_edges=kind == 2 and bool(fields.number("B") & 1))
    if kind == 0:
        size = fields.number("H")
        fields.take(size)
        return Layout("compact", 0, size)
    if kind == 1:
        address, size = fields.numbers("QQ")
        return Layout("contiguous", address, size)
    fields.expect(kind == 2, f"class {kind} of a layout")
    axes, address = fields.numbers("BQ")
    fields.expect(2 <= axes <= MAX_AXES + 1, f"chunks of {axes - 1} axes")
    chunk = fields.numbers("I" * axes)
    fields.expect(min(chunk) > 0 and math.prod(chunk) < 1 << 32, f"chunks of {chunk[:-1]}, {chunk[-1]} bytes each")
    return Layout("chunked", address, math.prod(chunk), chunk)


def filters(fields: Fields, most: int) -> tuple[int, ...]:
    """The numbers of the filters, which have `most` parameters each."""
    version, count = fields.numbers("BB")
    fields.expect(version in (1, 2) and count <= MAX_FILTERS, f"version {version} of {count} filters")
    if version == 1:
        fields.take(6)
    found = []
    for _ in range(count):
        number = fields.number("H")
        named = fields.number("H") if version == 1 or number >= 256 else 0
        _, values = fields.numbers("HH")
        fields.expect(values <= most, f"filter {number} has {values:,} parameters, {most:,} at most")
        name = fields.take(named + (-named % 8 if version == 1 else 0))
        fields.expect(not named or b"\0" in name, "the name of a filter has no end")
        fields.take(4 * values + (4 if version == 1 and values % 2 else 0))
        found.append(number)
    return tuple(found)


def fill_value(fields: Fields) -> None:
    """The fill value: HDF5 compares its size with the datatype's."""
    version = fields.number("B")
    fields.expect(version in (1, 2, 3), f"version {version}")
    if version < 3:
        defined = fields.take(3)[2]
        if version == 1 or defined:
            fields.take(fields.number("I"))
    elif fields.number("B") & 0x20:
        fields.take(fields.number("I"))


def attribute(fields: Fields, strict: bool) -> tuple[str, Datatype | None, tuple[int, ...] | None, Fields]:
    """Name, datatype (None: it cannot be found), shape, and the fields of the elements. strict: no type with a name."""
    version, flags, name_size, type_size, space_size = fields.numbers("BBHHH")
    fields.expect(version in (1, 2, 3) and (version == 1 or flags <= 3), f"version {version}")
    if version == 3:
        fields.take(1)
    parts: list[bytes] = []
    for size in (name_size, type_size, space_size):
        parts.append(fields.take(size))
        if version == 1:
            fields.take(-size % 8)
    fields.expect(parts[0].find(b"\0") == name_size - 1, "its name has no end")
    name = parts[0][:-1].decode("utf-8", "replace")
    kinds = _part(fields, parts[1], f"datatype of {name!r}")
    kinds.shared = version > 1 and bool(flags & 1)
    kinds.expect(not kinds.shared or not strict, "it stands elsewhere")
    fields.expect(version == 1 or not flags & 2, "a space that stands elsewhere")
    shape = dataspace(_part(fields, parts[2], f"space of {name!r}"))
    return name, any_datatype(kinds), shape, _part(fields, fields.data[fields.at :], f"attribute {name!r}")


def any_datatype(fields: Fields) -> Datatype | None:
    """A datatype, or the one that the message leads to: the file's own, which has a name; None for other places."""
    if not fields.shared:
        return datatype(fields)
    version, kind = fields.numbers("BB")
    if version != 2 and (version, kind) != (3, 2):
        return None  # in a heap of messages, or from before 2000
    header, source = fields.number("Q"), fields.source
    if header not in source.types:
        found = [part for number, part in messages(source, header) if number == TYPE]
        fields.expect(len(found) == 1 and not found[0].shared, f"no datatype stands at {header:,}")
        source.types[header] = datatype(found[0])
    kind_there: Datatype = source.types[header]
    return kind_there


def _part(fields: Fields, data: bytes, what: str) -> Fields:
    return Fields(fields.source, fields.address, data, what)


def check_extent(fields: Fields, shape: Any, kind: Datatype, place: Layout) -> None:
    """That a layout has room for the elements of its array, and is of as many axes."""
    needed = math.prod(shape) * kind.size
    if place.kind in ("contiguous", "compact"):
        empty = place.kind == "contiguous" and place.address == UNDEFINED
        fields.expect(place.size >= needed or empty, f"{shape} needs {needed:,} bytes, there are {place.size:,}")
    elif place.kind == "chunked":
        fields.expect(len(place.chunk) == len(shape) + 1, f"chunks of {len(place.chunk) - 1} axes for shape {shape}")
        fields.expect(place.chunk[-1] == kind.size, f"chunks of elements of {place.chunk[-1]} bytes, not {kind.size}")
