"""TIFF files that make a reader do more than their bytes: descriptions, shared tags, streams, marks of microscopes."""

from __future__ import annotations

import json
import lzma
import struct
import zlib
from random import Random
from typing import Any

from .cases import Mutation
from .tiff_inputs import COMPRESSION, COUNTS, DESCRIPTION, OFFSETS, SUBIFDS, built, gray

HUGE = ("99999999", "1_000_000_000", "+1000000000", " 1000000000", "4294967295", "-1000000000", "9" * 30)
ODD = (*HUGE, "1", "2", "0", "", "x", "1.5", "nan", "0x10", "٣")
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels DimensionOrder="{order}" ID="Pixels:0" {sizes} Type="uint8">{data}</Pixels></Image>{more}</OME>'
)
MODULO = (
    '<StructuredAnnotations><XMLAnnotation ID="A" Namespace="openmicroscopy.org/omero/dimension/modulo"><Value>'
    '<Modulo><ModuloAlongZ Type="lifetime" Start="{start}" End="{end}" Step="{step}"/></Modulo></Value>'
    "</XMLAnnotation></StructuredAnnotations>"
)


def ome(data: str = '<TiffData IFD="0"/>', order: str = "XYCZT", more: str = "", **sizes: str) -> str:
    """An OME description of one 4 x 4 plane, but for what is said."""
    given = {f"Size{axis}": "4" if axis in "XY" else "1" for axis in order} | sizes
    return OME.format(order=order, sizes=" ".join(f'{k}="{v}"' for k, v in given.items()), data=data, more=more)


def scn(dimensions: str) -> str:
    """A description of Leica's slide scanner."""
    return f'<scn><collection><image name="a"><pixels>{dimensions}</pixels></image></collection></scn>'


def described(text: str, **more: Any) -> bytes:
    """A 4 x 4 image with a description."""
    return built(gray(4, 4, _279=16, **more), bytes(range(16)), description=text.encode() + b"\0")


def planes(rng: Random, data: bytes) -> bytes:
    """OME and SCN descriptions with absurd counts and sizes, in all forms that `int` takes."""
    number, key = rng.choice(ODD), rng.choice(("IFD", "NumPlanes", "PlaneCount", "FirstC", "FirstT", "FirstZ"))
    what = rng.randrange(7)
    if what == 0:
        text = ome(f'<TiffData {key}="{number}"/>')
    elif what == 1:
        text = ome(**{f"Size{rng.choice('XYCZT')}": number})
    elif what == 2:
        text = ome("<TiffData/>" * rng.choice((1, 9, 30_000)), SizeT=rng.choice(ODD))
    elif what == 3:
        start, end, step = (rng.choice(("0", "1e12", "-1e300", "1e-12", "nan", "inf", number)) for _ in range(3))
        text = ome(more=MODULO.format(start=start, end=end, step=step))
    elif what == 4:
        order = rng.choice(("XYCZTABDEF", "CXYZT", "XY", "", "XYCCCCC", "XYZ" * 9))
        text = ome(order=order, **{f"Size{axis}": rng.choice(("999", "2")) for axis in order})
    elif what == 5:
        channels = f'<Channel SamplesPerPixel="{number}"/>' * rng.choice((1, 2))
        text = ome(f'{channels}<TiffData IFD="0"/>', SizeC=rng.choice(ODD))
    else:
        c, z, r = (rng.choice(ODD) for _ in range(3))
        text = scn(f'<dimension c="{c}" z="{z}" r="{r}" ifd="0"/>' * rng.choice((1, 2)))
    tags = {"_330": [24] * rng.choice((1, 1000))} if rng.random() < 0.2 else {}
    return described(text, **tags)


def streams(rng: Random, data: bytes) -> bytes:
    """Deflate, LZMA and PackBits of more than one stream, with dictionaries of gigabytes, or much too long."""
    size = rng.choice((400, 400, 1 << 20, 1 << 25))
    kind = rng.choice((8, 50_013, 34_925, 34_925, 34_925, 32_773))
    if kind == 32_773:
        part = rng.choice((b"\x81\0", b"\x80", b"\0\0"))
        packed = (part * (1 + size // 128))[: rng.choice((400, 1 << 19))]
    elif kind == 34_925:
        filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
        packed = lzma.compress(bytes(size), format=lzma.FORMAT_XZ, filters=filters)
        if rng.random() < 0.4:  # the size of the dictionary is a byte of a header of its own
            alone = bytearray(lzma.compress(bytes(size), format=lzma.FORMAT_ALONE))
            alone[1:5] = rng.choice((1 << 28, (1 << 32) - 1, 1 << 31)).to_bytes(4, "little")
            packed = bytes(alone)
        packed *= rng.choice((1, 2, 9, 5000 if size < 1000 else 2))
    else:
        packed = zlib.compress(bytes(size), 9) * rng.choice((1, 2))
    packed = packed[: rng.choice((len(packed), len(packed), len(packed) // 2, len(packed) + 9))]
    packed += rng.randbytes(rng.choice((0, 0, 9)))
    return built({**gray(20, 20, _279=len(packed)), COMPRESSION: kind}, packed)


def overlapping(rng: Random, data: bytes) -> bytes:
    """Directories that lie over each other, and tags that all have their values in the same place."""
    what = rng.randrange(4)
    if what == 0:  # each directory begins two bytes after the one before it, and all are zeros or long
        count = rng.choice((3000, 60_000))
        return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", rng.choice((5, 3000, 60_000))) * count + bytes(9000)
    values = 200_000
    if what == 1:  # the same tag again and again
        page = gray(4, 4, _279=16)
        entry = struct.pack("<HHII", rng.choice((OFFSETS, COUNTS, 330, 33_628, 282)), 4, values, 8)
        body = built(page, bytes(4 * values))
        start = struct.unpack_from("<I", body, 4)[0]
        entries = body[start + 2 : start + 2 + 12 * len(page)] + entry * rng.choice((20, 4000))
        return body[:start] + struct.pack("<H", len(entries) // 12) + entries + bytes(4)
    if what == 2:  # many pages that share long tags
        tags = gray(4, 4)
        del tags[OFFSETS]
        entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
        entries += [struct.pack("<HHII", tag, 4, values, 8) for tag in (OFFSETS, COUNTS)]
        page = struct.pack("<H", len(entries)) + b"".join(sorted(entries))
        count, first = rng.choice((20, 5000)), 8 + 4 * values
        starts = [first + i * (len(page) + 4) for i in range(1, count)] + [0]
        pages = b"".join(page + struct.pack("<I", start) for start in starts)
        return b"II*\0" + struct.pack("<I", first) + bytes(4 * values) + pages
    count = rng.choice((300, 100_000))  # sub-directories that are one and the same
    return built(gray(4, 4, _279=16, **{f"_{SUBIFDS}": [24] * count}), bytes(16), 24 if rng.random() < 0.3 else 0)


def marks(rng: Random, data: bytes) -> bytes:
    """Private tags of microscopes and scanners with anything in them, and files that say they have siblings."""
    if rng.random() < 0.4:
        summary = json.dumps({"MicroManagerVersion": "1", "Frames": 9, "Prefix": "", "Slices": 3}).encode()
        version = struct.pack("<4I", 483_729, rng.choice((2, 3)), 2_355_492, len(summary))
        stack = struct.pack("<8I", 54_773_648, 8, 0, 0, 0, 0, 2_355_492, len(summary))
        index = struct.pack("<7I", 3_453_623, 1, 0, 0, 0, 0, 8)
        content = rng.choice((version, stack)) + summary + index + bytes(16)
        return built({**gray(4, 4, _279=16), 51_123: b'{"a": 1}\0'}, content)
    codes = (33_628, 33_629, 33_630, 33_631, 34_361, 34_362, 34_412, 33_471, 33_560, 43_314, 65_420, 65_001, 33_445)
    tags = gray(4, 4, _279=16)
    for code in rng.sample(codes, rng.choice((1, 2, 4))):
        count = rng.choice((1, 2, 24, 1000, 20_000))
        tags[code] = rng.choice((rng.randbytes(count), [rng.choice((0, 1, 8, 1 << 31)) for _ in range(count)]))
    if rng.random() < 0.5:
        tags[271] = rng.choice((b"Hamamatsu\0", b"Olympus\0"))
    text = rng.choice(("", "Aperio x", "state.a=1", "<Argos", '{"shape": [4, 4]}', "SIMPLE  =END"))
    return built({**tags, DESCRIPTION: text.encode() + b"\0"}, rng.randbytes(16))


CLAIMS: dict[str, Mutation] = {
    "planes": planes, "streams": streams, "overlapping": overlapping, "marks": marks,
}  # fmt: skip
