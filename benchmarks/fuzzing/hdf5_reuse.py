"""HDF5 files in which much leads to the same few bytes, so that little becomes a lot; and types within types."""

from __future__ import annotations

import struct
import zlib
from random import Random
from typing import Any

import h5py
import numpy as np

from .cases import Mutation
from .hdf5_editing import changed_file, positions, some_dataset

ELEMENT = 16  # bytes of an element of variable length: how long, in which heap, which object of it
CHUNK_NODE = b"TREE\x01\x00"  # of chunks, at the lowest level


def attribute_values(data: bytes, name: str) -> int:
    """Where the elements of an attribute begin, in a header of version 1."""
    text = name.encode() + b"\0"
    for at in positions(data, text):
        for start, padded in ((at - 8, 8), (at - 9, 1)):  # of versions 1 and 3
            kind, _ = struct.unpack_from("<HH", data, start - 8)
            version, _, *sizes = struct.unpack_from("<BBHHH", data, start)
            if kind == 12 and version == (1 if padded == 8 else 3) and sizes[0] == len(text):
                return int(at + sum(size + -size % padded for size in sizes))
    raise ValueError(f"no attribute {name}")


def one_text(data: bytes, on: str, name: str, length: int, count: int, parts: bool = False) -> bytes:
    """An attribute of `count` texts that all are one object of a heap; with `parts`, within compounds."""
    texts = np.array(["x" * length] + ["y"] * (count - 1), object)

    def change(file: Any) -> None:
        if parts:
            compounds = np.empty(count, [("text", h5py.string_dtype())])
            compounds["text"] = texts
            file[on].attrs.create(name, compounds)
        else:
            file[on].attrs.create(name, texts, dtype=h5py.string_dtype())

    changed = bytearray(changed_file(data, change))
    at = attribute_values(bytes(changed), name)
    changed[at : at + ELEMENT * count] = changed[at : at + ELEMENT] * count
    return bytes(changed)


def rows_of_rows(data: bytes, on: str, name: str) -> bytes:
    """An attribute whose elements vary in length, and theirs too: these lead anywhere."""

    def change(file: Any) -> None:
        row = h5py.h5t.vlen_create(h5py.h5t.vlen_create(h5py.h5t.STD_I32LE))
        if name in file[on].attrs:
            del file[on].attrs[name]
        h5py.h5a.create(file[on].id, name.encode(), row, h5py.h5s.create_simple((4,)))
        file[on].attrs["anywhere"] = "abcdefgh" * 64

    changed = bytearray(changed_file(data, change))
    source, at = attribute_values(bytes(changed), "anywhere"), attribute_values(bytes(changed), name)
    changed[at : at + 4 * ELEMENT] = (struct.pack("<I", 32) + changed[source + 4 : source + ELEMENT]) * 4
    return bytes(changed)


def one_name(data: bytes, length: int, count: int, hard: bool = False) -> bytes:
    """A group of many names that are the ends of one; of links, or with `hard` of a data set."""

    def change(file: Any) -> None:
        group, target = file.create_group("names"), h5py.SoftLink("/")
        if hard:
            target = file[some_dataset(Random(0), file)]
        for name in ("a" * length, *(f"b{i:05}" for i in range(count))):
            group[name] = target

    data = changed_file(data, change)
    start, place, _ = _heap(data, b"a" * length)
    changed, number = bytearray(data), 0
    for entry in _symbols(data):
        (at,) = struct.unpack_from("<Q", data, entry)
        if data[start + at : start + at + 1] == b"b":
            number += 1
            struct.pack_into("<Q", changed, entry, place + number)
    return bytes(changed)


def one_heap(data: bytes, length: int, count: int) -> bytes:
    """Many groups whose names are in one large heap."""

    def change(file: Any) -> None:
        file.create_group("names")["a" * length] = h5py.SoftLink("/")
        for i in range(count):
            file.create_group(f"groups/{i}")

    data = changed_file(data, change)
    heap = _heap(data, b"a" * length)[2]
    groups = [entry for entry in _symbols(data) if struct.unpack_from("<I", data, entry + 16)[0] == 1]
    table = next(data[e + 24 : e + 40] for e in groups if struct.unpack_from("<Q", data, e + 32)[0] == heap)
    changed = bytearray(data)
    for entry in groups:
        header, _, _, tree = struct.unpack_from("<QIIQ", data, entry + 8)
        if not struct.unpack_from("<H", data, tree + 6)[0]:  # an empty group
            at = data.index(data[entry + 24 : entry + 40], header)
            changed[entry + 24 : entry + 40] = changed[at : at + 16] = table
    return bytes(changed)


def one_chunk(data: bytes, name: str, side: int) -> bytes:
    """An image whose chunks all are the same bytes of the file."""
    chunk, rest = 256, b"\0"
    noise = zlib.compress(np.random.default_rng(0).bytes(chunk * chunk), 1)

    def change(file: Any) -> None:
        del file[name]
        made = file.create_dataset(
            name, (1, 1, side, side), "u1", chunks=(1, 1, chunk, chunk), compression="gzip", fillvalue=9
        )
        for top in range(0, side, chunk):
            for left in range(0, side, chunk):
                made.id.write_direct_chunk((0, 0, top, left), rest if top or left else noise)

    changed, width = bytearray(changed_file(data, change)), 8 + 8 * 5 + 8
    nodes = positions(bytes(changed), CHUNK_NODE)
    first = next(
        (changed[at + 24 : at + 28], changed[at + 72 : at + 80])
        for at in nodes
        if struct.unpack_from("<I", changed, at + 24)[0] == len(noise)
    )
    for at in nodes:
        for entry in range(at + 24, at + 24 + width * struct.unpack_from("<H", changed, at + 6)[0], width):
            if struct.unpack_from("<I", changed, entry)[0] == len(rest):
                changed[entry : entry + 4], changed[entry + 48 : entry + 56] = first
    return bytes(changed)


def named_type(data: bytes, name: str, size: int) -> bytes:
    """A data set of a type with a name, which says that its elements have another size."""
    place = []

    def change(file: Any) -> None:
        values = file[name][...]
        del file[name]
        file["kind"] = values.dtype
        chunks = values.shape or None
        file.create_dataset(name, data=values, dtype=file["kind"], chunks=chunks, fletcher32=chunks is not None)
        place.append(h5py.h5o.get_info(file["kind"].id).addr)

    changed = bytearray(changed_file(data, change))
    at = place[0] + 16
    while struct.unpack_from("<H", changed, at)[0] != 3:
        at += 8 + struct.unpack_from("<H", changed, at + 2)[0]
    struct.pack_into("<I", changed, at + 12, size)
    return bytes(changed)


def partly_written(data: bytes, name: str, count: int = 2500) -> bytes:
    """A valid file: a stack that an acquisition has prepared, and filled in part."""

    def change(file: Any) -> None:
        del file[name]
        made = file.create_dataset(name, (count, 1, 256, 256), "u1", chunks=(1, 1, 256, 256), fillvalue=3)
        made[0] = made[count // 2] = 7

    return changed_file(data, change)


def _heap(data: bytes, name: bytes) -> tuple[int, int, int]:
    """Of the heap with that name: where its data begin, where in them the name is, and where its head is."""
    at = data.index(name)
    for head in positions(data, b"HEAP"):
        size, _, start = struct.unpack_from("<QQQ", data, head + 8)
        if start <= at < start + size:
            return start, at - start, head
    raise ValueError("no heap has the name")


def _symbols(data: bytes) -> list[int]:
    """Where the entries of all tables of symbols are."""
    nodes = [(at + 8, struct.unpack_from("<H", data, at + 6)[0]) for at in positions(data, b"SNOD")]
    return [at + 40 * i for at, count in nodes for i in range(count)]


def _place(rng: Random, data: bytes) -> tuple[str, str]:
    """An object and an attribute of it that readers look at."""
    return rng.choice((("/", rng.choice(("architecture", "training", "format"))), (_dataset(rng, data), "own")))


def _dataset(rng: Random, data: bytes) -> str:
    names: list[str] = []
    changed_file(data, lambda file: names.append(some_dataset(rng, file)))
    return names[0]


def _one_of(*mutations: Mutation) -> Mutation:
    return lambda rng, data: rng.choice(mutations)(rng, data)


SHARED = _one_of(
    lambda rng, data: one_text(data, *_place(rng, data), rng.choice((1 << 10, 1 << 20)), rng.choice((2, 3000))),
    lambda rng, data: one_name(data, rng.choice((100, 400_000)), rng.choice((20, 2000)), rng.random() < 0.5),
    lambda rng, data: one_heap(data, 1 << 20, rng.choice((2, 500))),
    lambda rng, data: one_chunk(data, _dataset(rng, data), rng.choice((512, 1 << 14))),
)
TYPES = _one_of(
    lambda rng, data: rows_of_rows(data, *_place(rng, data)),
    lambda rng, data: one_text(data, *_place(rng, data), rng.choice((1 << 10, 1 << 20)), 3000, parts=True),
    lambda rng, data: named_type(data, _dataset(rng, data), rng.choice((0, 1, 4, 8, 1 << 20, (1 << 32) - 1))),
)


def partly(rng: Random, data: bytes) -> bytes:
    """`partly_written` of any data set."""
    return partly_written(data, _dataset(rng, data), rng.choice((2, 2500)))
