"""TIFF files: valid ones of several layouts, and mutations of their directories."""

from __future__ import annotations

import io
import json
import struct
import zlib
from random import Random
from typing import Any

import numpy as np
import tifffile

from .cases import Format, Mutation

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, DESCRIPTION, OFFSETS, ORIENTATION = (
    256,
    257,
    258,
    259,
    262,
    270,
    273,
    274,
)
SAMPLES, ROWS, COUNTS, PLANAR, PREDICTOR, COLOURS, TILE_WIDTH, TILE_LENGTH, SUBIFDS = (
    277,
    278,
    279,
    284,
    317,
    320,
    322,
    323,
    330,
)
TILE_OFFSETS, TILE_COUNTS, EXTRA, FORMAT, TABLES, SOFTWARE = 324, 325, 338, 339, 347, 305
LIMITS = (0, 1, 2, 3, 5, 16, 20, 255, 65_535, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
Entry = tuple[int, int, int, bytes]  # tag, type, count, value or offset


def written(array: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (40, 48), dtype="u1")
    deep = rng.integers(0, 65_535, (3, 24, 32), dtype="u2")
    return [
        written(gray, metadata=None),
        written(rng.integers(0, 256, (24, 32, 3), dtype="u1"), photometric="rgb", compression="zlib", rowsperstrip=5),
        written(gray, tile=(16, 16), compression="zlib", predictor=True),
        written(deep, photometric="minisblack", metadata={"axes": "ZYX"}),
        written(deep, photometric="minisblack", imagej=True),
        written(deep.astype("f4") / 300, photometric="minisblack", compression="zlib", bigtiff=True),
        written(deep, photometric="minisblack", ome=True, compression="zlib"),
        written(gray, photometric="palette", colormap=rng.integers(0, 65_535, (3, 256), dtype="u2"), metadata=None),
        written(gray > 99, metadata=None, byteorder=">"),
        written(gray, metadata=None, compression="lzma", predictor=True),
        written(deep, photometric="minisblack", ome=True, tile=(16, 16), compression="zlib", metadata={"axes": "ZYX"}),
    ]


def built(tags: dict[int, Any], data: bytes = b"", following: int = 0, description: bytes = b"") -> bytes:
    """A classic TIFF file of one directory; a value is a number or a list of them (LONG), or bytes (ASCII)."""
    if description:
        tags = {**tags, DESCRIPTION: description}
    entries, extra, start = [], b"", 8 + len(data)
    room = start + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        values = value if isinstance(value, (list, bytes)) else [value]
        packed = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}I", *values)
        kind, count = (2, len(packed)) if isinstance(values, bytes) else (4, len(values))
        field = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", room + len(extra))
        extra += packed if len(packed) > 4 else b""
        entries.append(struct.pack("<HHI", tag, kind, count) + field)
    head = b"II*\0" + struct.pack("<I", start)
    return head + data + struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", following) + extra


def gray(width: int, height: int, **more: Any) -> dict[int, Any]:
    """The tags of a gray image in one strip at byte 8."""
    tags = {WIDTH: width, LENGTH: height, BITS: 8, COMPRESSION: 1, PHOTOMETRIC: 1, SAMPLES: 1, OFFSETS: 8, ROWS: height}
    return {**tags, **{int(key[1:]): value for key, value in more.items()}}


# ---- directories ----
def _directories(data: bytes) -> list[tuple[int, int]]:
    """Of each directory of a classic file, where it begins and how many entries it has."""
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack_from(order + "H", data, 2)[0] != 42:
        return []
    found, at = [], struct.unpack_from(order + "I", data, 4)[0]
    while 0 < at < len(data) - 6:
        count = struct.unpack_from(order + "H", data, at)[0]
        found.append((at, count))
        at = struct.unpack_from(order + "I", data, at + 2 + 12 * count)[0]
    return found


def tags(rng: Random, data: bytes) -> bytes:
    """A tag of a directory is another one, of another type, has another count or value, or lies elsewhere."""
    order, changed = "<" if data[:2] == b"II" else ">", bytearray(data)
    directories = _directories(data)
    if not directories:
        return tags(rng, rng.choice(seeds()[:4]))
    for _ in range(rng.choice((1, 1, 2, 4))):
        start, count = rng.choice(directories)
        at = start + 2 + 12 * rng.randrange(count)
        limit = rng.choice((*LIMITS, len(data), rng.randrange(len(data))))
        what = rng.randrange(4)
        if what == 0:
            struct.pack_into(
                order + "H", changed, at, rng.choice((WIDTH, SUBIFDS, TABLES, 34_412, 50_838, 65_000, 34_665))
            )
        elif what == 1:
            struct.pack_into(order + "H", changed, at + 2, rng.choice((*SIZES, 0, 14, 255)))
        elif what == 2:
            struct.pack_into(order + "I", changed, at + 4, limit)
        else:
            struct.pack_into(order + "I", changed, at + 8, limit)
    return bytes(changed)


def loops(rng: Random, data: bytes) -> bytes:
    """Directories that lead back to themselves or into nowhere, and sub-directories that do."""
    order, changed = "<" if data[:2] == b"II" else ">", bytearray(data)
    directories = _directories(data)
    if not directories or rng.random() < 0.3:
        tags = gray(4, 4, _279=16, _330=rng.choice((8, 24, [24] * 1000, 1 << 31)))
        return built(tags, bytes(16), rng.choice((0, 24)))
    start, count = rng.choice(directories)
    target = rng.choice((start, directories[0][0], 1, 8, len(data) - 1, len(data) + 99, (1 << 32) - 1, start + 2))
    struct.pack_into(order + "I", changed, start + 2 + 12 * count, target)
    return bytes(changed)


def absurd(rng: Random, data: bytes) -> bytes:
    """Sizes of terabytes, strips without end, offsets beyond the file, no rows at all."""
    side = rng.choice((0, 1, 4, 30_000, 1 << 20, (1 << 31) - 1, (1 << 32) - 1))
    tags = gray(side, rng.choice((4, side)), _279=rng.choice((0, 16, 1 << 31)))
    tags[rng.choice((BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, ROWS, PLANAR, PREDICTOR, EXTRA, FORMAT, ORIENTATION))] = (
        rng.choice(LIMITS)
    )
    if rng.random() < 0.4:
        del tags[OFFSETS], tags[ROWS], tags[COUNTS]
        tags |= {
            TILE_WIDTH: rng.choice(LIMITS),
            TILE_LENGTH: rng.choice(LIMITS),
            TILE_OFFSETS: [8] * 4,
            TILE_COUNTS: [16] * 4,
        }
    if rng.random() < 0.2:
        tags[COLOURS] = [1] * rng.choice((1, 3, 768))
    return built(tags, rng.randbytes(16))


def bombs(rng: Random, data: bytes) -> bytes:
    """Strips that unpack to far more than their bytes, or are all the same bytes."""
    side = rng.choice((100, 5000, 20_000))
    packed = zlib.compress(bytes(min(side * side, 1 << 26)), 9)
    tags = gray(side, side, _259=rng.choice((8, 32_946)), _279=len(packed))
    if rng.random() < 0.4:
        count = rng.choice((side, 1000))
        tags |= {ROWS: max(1, side // count), OFFSETS: [8] * count, COUNTS: [len(packed)] * count}
    return built(tags, packed)


def compressions(rng: Random, data: bytes) -> bytes:
    """Anything, in each of the compressions that are known."""
    kind = rng.choice(
        (2, 3, 4, 5, 6, 7, 8, 32_773, 32_946, 34_712, 34_887, 34_892, 34_925, 50_000, 50_001, 50_002, 1, 9, 65_535)
    )
    content = rng.choice(
        (rng.randbytes(300), bytes(300), b"\xff\xd8\xff" + rng.randbytes(200), zlib.compress(bytes(400)), b"")
    )
    tags = gray(20, 20, _259=kind, _279=len(content))
    tags |= rng.choice(
        ({}, {PREDICTOR: rng.choice((2, 3, 99))}, {PHOTOMETRIC: rng.choice((2, 3, 5, 6, 8)), SAMPLES: 3, BITS: [8] * 3})
    )
    if rng.random() < 0.3:
        tags[TABLES] = [rng.getrandbits(32) for _ in range(9)]
    return built(tags, content)


def many(rng: Random, data: bytes) -> bytes:
    """Very many directories, tags or strips."""
    what = rng.randrange(4)
    if what == 0:  # pages that share their pixels, all alike or in turns of two kinds
        count = rng.choice((300, 5000, 60_000, 100_000))
        kinds = [built(gray(4, side, _279=16))[8:-4] for side in rng.choice(((4, 4), (4, 3)))]
        starts = [24 + i * (len(kinds[0]) + 4) for i in range(count)]
        pages = [kinds[i % 2] + struct.pack("<I", start) for i, start in enumerate([*starts[1:], 0])]
        return b"II*\0" + struct.pack("<I", 24) + bytes(16) + b"".join(pages)
    if what == 1:
        count = rng.choice((2000, 60_000))
        entries = b"".join(struct.pack("<HHII", 20_000 + i % 40_000, 4, 1, i) for i in range(count))
        return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", count) + entries + bytes(4)
    count = rng.choice((10_000, 2_000_000))
    if what == 2:
        return built({**gray(4, count, _279=[4] * count, _278=1), OFFSETS: [8] * count}, bytes(16))
    return built(gray(4, 4, _279=16, _33000=[7] * count), bytes(16))


def descriptions(rng: Random, data: bytes) -> bytes:
    """Texts that tifffile interprets: shapes in JSON, OME-XML that names other files or is a bomb, ImageJ's notes."""
    number = rng.choice((0, -1, 7, 1 << 31, 1 << 62))
    laughs = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10 if i else "ha" * 10}">' for i in range(rng.choice((3, 12))))
    files = "".join(
        f'<TiffData FirstT="{i}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:1</UUID></TiffData>'
        for i, name in enumerate(("../outside/page.tif", "../outside/other.h5", "/etc/passwd"))
    )
    ome = (
        '<?xml version="1.0"?>{head}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels DimensionOrder="XYCZT" ID="Pixels:0" SizeC="1" SizeT="{n}" SizeX="4" SizeY="4" SizeZ="1" Type="uint8">'
        "{files}</Pixels></Image>{body}</OME>"
    )
    entity = '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
    text = rng.choice(
        (
            json.dumps({"shape": [number, 4, 4]}), json.dumps({"shape": [4, 4], "truncated": True}),
            '{"shape": ' + "[" * 20_000,
            json.dumps({"shape": [100_000, 4, 4], "truncated": True}), json.dumps({"shape": "x", "axes": 5}), "{}",
            ome.format(head="", n=3, files=files, body=""), ome.format(head="", n=number, files="<TiffData/>", body=""),
            ome.format(head=f"<!DOCTYPE x [{laughs}]>", n=1, files="<TiffData/>",
            body="&a11;" if "a11" in laughs else "&a2;"),
            ome.format(head=entity, n=1, files="<TiffData/>", body="&e;"), ome.format(head="", n=1, files="",
            body="<x>" * 50_000),
            f"ImageJ=1.53\nimages={number}\nslices={number}\nhyperstack=true\n",
            "ImageJ=1\nimages=100000000\n", "ImageJ=\n", "SCANIMAGE.",
        )
    )  # fmt: skip
    software = rng.choice((b"", b"tifffile.py\0", b"ImageJ\0", b"MicroManager\0"))
    tags = gray(4, 4, _279=16)
    if software:
        tags[SOFTWARE] = software
    return built(tags, bytes(range(16)), description=text.encode() + b"\0")


MUTATIONS: dict[str, Mutation] = {
    "tags": tags,
    "loops": loops,
    "absurd sizes": absurd,
    "bombs": bombs,
    "compressions": compressions,
    "very many": many,
    "descriptions": descriptions,
}


def tiff_format() -> Format:
    from .tiff_claims import CLAIMS

    return Format("TIFF", ".tif", "picture", seeds(), {**MUTATIONS, **CLAIMS})
