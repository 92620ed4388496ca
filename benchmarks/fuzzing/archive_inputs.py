""".npz archives, .npy arrays and .safetensors files: valid ones, and mutations that know the format."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from random import Random
from typing import Any

import numpy as np

from .cases import Format, Mutation

NUMBERS = (0, 1, 4, -1, 1 << 31, 1 << 40, 1 << 48, 1 << 63, 10**30)


# ---- zip archives ----
def _entries(data: bytes) -> list[tuple[zipfile.ZipInfo, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info, archive.read(info)) for info in archive.infolist()]


def _archive(entries: list[tuple[Any, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", compression) as archive:
        warnings.simplefilter("ignore")  # names that are there twice are wanted
        for name, content in entries:
            made = zipfile.ZipInfo(name.filename if isinstance(name, zipfile.ZipInfo) else name)
            made.compress_type = compression
            archive.writestr(made, content)
    return file.getvalue()


def inside(rng: Random, data: bytes) -> bytes:
    """Wrong bytes in an entry, of which the archive's checksum is right."""
    entries = _entries(data)
    at = rng.randrange(len(entries))
    changed = bytearray(entries[at][1] or b"x")
    for _ in range(rng.choice((1, 2, 8))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    entries[at] = entries[at][0], bytes(changed)
    return _archive(entries)


def entry_names(rng: Random, data: bytes) -> bytes:
    entries: list[tuple[Any, bytes]] = [(info.filename, content) for info, content in _entries(data)]
    at = rng.randrange(len(entries))
    other = rng.choice(
        ("../x.npy", "/etc/passwd", "a/../b.npy", "C:\\x.npy", "ü.npy", "", "." * 300, entries[0][0], "x")
    )
    entries.insert(at, (other, entries[at][1]))
    if rng.random() < 0.5:
        del entries[at + 1]
    return _archive(entries)


def zip_bomb(rng: Random, data: bytes) -> bytes:
    """An entry that unpacks to far more than it has."""
    entries: list[tuple[Any, bytes]] = [(info.filename, content) for info, content in _entries(data)]
    at = rng.randrange(len(entries))
    start = entries[at][1][: rng.choice((0, 128))]
    entries[at] = entries[at][0], start + bytes(rng.choice((1 << 20, 1 << 26)))
    return _archive(entries, zipfile.ZIP_DEFLATED)


def zip_fields(rng: Random, data: bytes) -> bytes:
    """Sizes, offsets, flags and methods of the directory and of the entries' own heads."""
    changed = bytearray(data)
    marks = {b"PK\x01\x02": ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4)),
             b"PK\x03\x04": ((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
             b"PK\x05\x06": ((8, 2), (10, 2), (12, 4), (16, 4), (20, 2))}  # fmt: skip
    for _ in range(rng.choice((1, 1, 3))):
        mark = rng.choice(sorted(marks))
        places = [at for at in range(len(data) - 3) if data[at : at + 4] == mark]
        offset, width = rng.choice(marks[mark])
        at = rng.choice(places) + offset
        value = rng.choice((0, 1, 8, 12, 99, len(data), rng.randrange(len(data)), (1 << 31) - 1, (1 << 32) - 1))
        changed[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(changed)


def zip_directory(rng: Random, data: bytes) -> bytes:
    """A directory of very many entries, all of them the same bytes of the archive."""
    count = rng.choice((1000, 60_000, 400_000))
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + b"%08d" % i for i in range(count))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65_535, 65_535, len(directory), 38, 0)
    head = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 8, 0)
    return head + b"00000000" + directory + end


def zip_offsets(rng: Random, data: bytes) -> bytes:
    """Entries and directories that begin beyond the file, also with the offsets of 8 bytes of large archives."""
    changed, sizes = bytearray(data), (1 << 31, (1 << 32) - 2, (1 << 63) - 1, (1 << 64) - 1, len(data), len(data) - 1)
    offset = rng.choice(sizes)
    entry = changed.index(b"PK\x01\x02")
    if rng.random() < 0.5:
        changed[entry + 42 : entry + 46] = (offset & 0xFFFFFFFF).to_bytes(4, "little")
        return bytes(changed)
    name = int.from_bytes(changed[entry + 28 : entry + 30], "little")
    extra = struct.pack("<HHQ", 1, 8, offset)
    changed[entry + 42 : entry + 46] = b"\xff" * 4
    end = entry + 46 + name + int.from_bytes(changed[entry + 30 : entry + 32], "little")
    changed[entry + 30 : entry + 32] = len(extra).to_bytes(2, "little")
    changed[entry + 46 + name : end] = extra
    last = changed.rindex(b"PK\x05\x06")
    start = int.from_bytes(data[data.rindex(b"PK\x05\x06") + 16 :][:4], "little")
    changed[last + 12 : last + 16] = (last - start).to_bytes(4, "little")
    if rng.random() < 0.3:
        changed[last + 16 : last + 20] = rng.choice((last + 1, 1 << 31, (1 << 32) - 2)).to_bytes(4, "little")
    return bytes(changed)


ARCHIVES: dict[str, Mutation] = {
    "inside entries": inside,
    "entries' names": entry_names,
    "zip bombs": zip_bomb,
    "zip's fields": zip_fields,
    "long directories": zip_directory,
    "zip's offsets": zip_offsets,
}


# ---- .npy ----
def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npy_header(rng: Random, data: bytes) -> bytes:
    """Another header: absurd shapes, dtypes of objects and worse, text that is no dictionary."""
    at = data.index(b"{")
    end = data.index(b"}", at) + 1
    number = rng.choice(NUMBERS)
    dtype = rng.choice(
        ("<f4", "|O", "<M8[s]", "<U9", "|V9999999", "<c16", "<f2", "|b1", ">f4", "<f16", "|S1", "<x4", "f4,O")
    )
    shape = rng.choice(
        (f"({number},)", f"({number}, {number})", "(4, 1, 3, 3)", "()", "(True,)", "(1.5,)", f"({'1,' * 40})")
    )
    text = rng.choice(
        (
            f"{{'descr': '{dtype}', 'fortran_order': {rng.choice((True, False, 1))}, 'shape': {shape}, }}",
            f"{{'descr': [('a', '{dtype}')], 'fortran_order': False, 'shape': (4,), }}",
            "__import__('os').system('touch owned')", "(" * 3000, "-" * 9000 + "1", "{'a': " * 500, "{1: 2}", "[]", "",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'more': 1}", "9" * 6000, "'\\x'",
        )
    )  # fmt: skip
    made = text.encode() + b"\n"
    length = rng.choice((len(made), len(made), 0, 65_535))
    version = rng.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    field = length.to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + field + made + data[end:]


def _within(mutation: Mutation) -> Mutation:
    """The mutation of one array of an archive."""

    def change(rng: Random, data: bytes) -> bytes:
        entries = _entries(data)
        at = rng.randrange(len(entries))
        entries[at] = entries[at][0], mutation(rng, entries[at][1])
        return _archive(entries, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))

    return change


def _infinite(rng: Random, data: bytes) -> bytes:
    value = rng.choice((np.nan, np.inf, -np.inf, 1e30))
    return data[:-4] + np.float32(value).tobytes()


def npz_format() -> Format:
    from .torch_inputs import own

    seeds = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, **own())
        seeds.append(file.getvalue())
    mutations = {"headers of arrays": _within(npy_header), "NaN and infinities": _within(_infinite), **ARCHIVES}
    return Format(".npz", ".npz", "weights", seeds, mutations)


def npy_format() -> Format:
    rng = np.random.default_rng(0)
    arrays = (
        rng.integers(0, 256, (3, 20, 24), dtype="u1"),
        rng.normal(120, 9, (4, 16, 16)).astype("f4"),
        np.ones((9, 9)) > 0,
    )
    mutations = {"headers of arrays": npy_header, "NaN and infinities": _infinite}
    return Format("NPY images", ".npy", "picture", [npy(array) for array in arrays], mutations)


# ---- .safetensors ----
def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _whole(header: str | bytes, elements: bytes, length: int | None = None) -> bytes:
    made = header if isinstance(header, bytes) else header.encode("utf-8", "surrogatepass")
    return (len(made) if length is None else length).to_bytes(8, "little") + made + elements


def fields(rng: Random, data: bytes) -> bytes:
    """Offsets that overlap, leave gaps, go backwards or beyond; absurd shapes; other dtypes; other kinds of values."""
    header, elements = _parts(data)
    name = rng.choice([key for key in header if key != "__metadata__"])
    number = rng.choice((*NUMBERS, 1.5, "1", None, True, [], float("nan")))
    key = rng.choice(("dtype", "shape", "data_offsets", "data_offsets", "all"))
    start, stop = header[name]["data_offsets"]
    offsets = rng.choice(
        ([start, number], [number, stop], [stop, start], [start + 4, stop + 4], [0, len(elements)], [], [1])
    )
    values = {
        "dtype": rng.choice(("F64", "F16", "BF16", "I8", "F8_E4M3", "f32", "", number)),
        "shape": rng.choice(([number], [number] * 3, [], number, [0, number], [1] * 40, [-4, -9], [[4]])),
        "data_offsets": offsets,
    }
    if key == "all":
        header[name] = rng.choice((number, [], {}, "x", {**values, "more": 1}))
    else:
        header[name][key] = values[key]
    return _whole(json.dumps(header), elements)


def headers(rng: Random, data: bytes) -> bytes:
    """Headers that are no JSON object of tensors, are deep, long, doubled, or say another length."""
    header, elements = _parts(data)
    plain = json.dumps(header)
    text = rng.choice(
        (
            plain[:-1], plain[:-1] + ", " + plain[1:], "[" * 100_000, '{"a":' * 50_000, "[]", "null", "{}",
            '"x"', "9" * 9000,
            '{"__metadata__": ' + plain + "}",
            '{"__metadata__": {"a": "' + "b" * 100_000 + '"}}', plain + " " * 100_000,
            json.dumps({f"n{i}": {"dtype": "F32", "shape": [0],
            "data_offsets": [0, 0]} for i in range(40_000)}), "\x00", "{",
        )
    )  # fmt: skip
    length = rng.choice((None, None, None, 0, 1 << 63, (1 << 64) - 1, len(data), len(text) + 1))
    return _whole(text, rng.choice((elements, b"")), length)


def tensor_names(rng: Random, data: bytes) -> bytes:
    header, elements = _parts(data)
    name = rng.choice([key for key in header if key != "__metadata__"])
    other = rng.choice(
        ("a/b", "../x", "ü", "", "\ud800", "a" * 100_000, "module." + name, "__metadata__", "0.weight\0")
    )
    return _whole(json.dumps({other if key == name else key: v for key, v in header.items()}), elements)


def infinities(rng: Random, data: bytes) -> bytes:
    header, elements = _parts(data)
    at = header["0.weight"]["data_offsets"][0]
    value = np.float32(rng.choice((np.nan, np.inf, -np.inf, 1e30))).tobytes()
    return _whole(json.dumps(header), elements[:at] + value + elements[at + 4 :])


def safetensors_format() -> Format:
    from npconv.interchange.safetensors_file import safetensors_bytes

    from .torch_inputs import own

    mutations: dict[str, Mutation] = {
        "fields": fields, "headers": headers, "names": tensor_names, "NaN and infinities": infinities
    }  # fmt: skip
    return Format(".safetensors", ".safetensors", "weights", [b"".join(safetensors_bytes(own()))], mutations)
