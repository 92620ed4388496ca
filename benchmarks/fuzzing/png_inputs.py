"""PNG files: valid ones, and mutations of their chunks, with checksums that are right."""

from __future__ import annotations

import io
import struct
import zlib
from random import Random

from PIL import Image

from .cases import Format, Mutation
from .outside import CANARIES

START = b"\x89PNG\r\n\x1a\n"
Chunks = list[tuple[bytes, bytes]]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def joined(chunks: Chunks) -> bytes:
    return START + b"".join(chunk(*part) for part in chunks)


def split(data: bytes) -> Chunks:
    found, at = [], len(START)
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def head(width: int, height: int, depth: int = 8, colour: int = 0, interlace: int = 0) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)


def picture(colour: int, depth: int, interlace: int = 0, side: int = 20) -> bytes:
    """Random pixels of a colour type."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = -(-side * bits // 8)
    rng = Random(colour * 100 + depth)
    rows = b"".join(bytes([rng.randrange(5)]) + rng.randbytes(row) for _ in range(side if not interlace else 60))
    palette: Chunks = [(b"PLTE", rng.randbytes(3 * 256 if depth == 8 else 3 * (1 << depth)))] if colour == 3 else []
    return joined(
        [head(side, side, depth, colour, interlace), *palette, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    )


def headers(rng: Random, data: bytes) -> bytes:
    """Absurd sizes, depths and colour types."""
    size = rng.choice((0, 1, 20, 1 << 15, 20_000, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1))
    other = rng.choice((0, 1, 20, 20_000, size))
    depth, colour = rng.choice((1, 2, 4, 8, 16, 3, 0, 255)), rng.choice((0, 2, 3, 4, 6, 1, 7))
    return joined([head(size, other, depth, colour, rng.choice((0, 0, 1, 2))), *split(data)[1:]])


def large_chunks(rng: Random, data: bytes) -> bytes:
    """Texts and profiles that unpack to gigabytes, or are long, or very many."""
    chunks, size = split(data), rng.choice((1 << 10, 1 << 22, 1 << 26))
    packed = zlib.compress(bytes(size), 9)
    made = rng.choice(
        (
            [(b"zTXt", b"a\0\0" + packed)], [(b"iCCP", b"a\0\0" + packed)], [(b"iTXt", b"a\0\1\0\0\0" + packed)],
            [(b"tEXt", b"a\0" + bytes(min(size, 1 << 22)))], [(b"tEXt", b"k\0v")] * 20_000,
            [(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20)))] * 100, [(b"eXIf", b"II*\0" + rng.randbytes(100))],
            [(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0")], [(b"tRNS", rng.randbytes(6))],
            [(b"acTL", struct.pack(">II", 1 << 31, 0))], [(b"pHYs", bytes(9))], [(b"gAMA", b"\0\0")],
            [(b"IDAT", b"")] * 5000,
            [(b"fcTL", rng.randbytes(26))], [(b"XXXX", rng.randbytes(50))], [(b"PLTE", rng.randbytes(700))],
        )
    )  # fmt: skip
    at = rng.choice((1, 1, len(chunks) - 1))
    return joined([*chunks[:at], *made, *chunks[at:]])


def bombs(rng: Random, data: bytes) -> bytes:
    """A picture of one colour: as large as pillow reads, or with more rows than it says."""
    width = rng.choice((20, 3000, 6000, 20_000))
    rows = rng.choice((width, width, 2 * width)) if width <= 6000 else 20_000
    colour = rng.choice((0, 2, 6)) if width < 6000 else 0
    depth = 1 if width == 20_000 and rng.random() < 0.5 else 8
    size = rows * (1 + -(-width * depth * {0: 1, 2: 3, 6: 4}[colour] // 8))
    packer, packed, step = zlib.compressobj(1), [], bytes(1 << 22)
    for start in range(0, size, len(step)):
        packed.append(packer.compress(step[: min(len(step), size - start)]))
    packed.append(packer.flush())
    return joined([head(width, width, depth, colour), (b"IDAT", b"".join(packed)), (b"IEND", b"")])


def chunks_moved(rng: Random, data: bytes) -> bytes:
    """Chunks missing, doubled, in another order, with wrong lengths or checksums."""
    chunks = split(data)
    kind = rng.randrange(5)
    if kind == 0:
        del chunks[rng.randrange(len(chunks))]
    elif kind == 1:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    elif kind == 2:
        rng.shuffle(chunks)
    else:
        made = bytearray(joined(chunks))
        at = len(START)
        for _ in range(rng.randrange(len(chunks))):
            at += 12 + int.from_bytes(made[at : at + 4], "big")
        wrong = rng.choice((0, 1, 1 << 20, (1 << 31) - 1, (1 << 32) - 1))
        made[at : at + 4] = wrong.to_bytes(4, "big") if kind == 3 else made[at : at + 4]
        made[-1] ^= kind == 4
        return bytes(made)
    return joined(chunks)


def pixels(rng: Random, data: bytes) -> bytes:
    """The compressed pixels changed, too short or too long, with a checksum that is right."""
    chunks = [(kind, part) for kind, part in split(data) if kind != b"IDAT"]
    packed = bytearray(b"".join(part for kind, part in split(data) if kind == b"IDAT"))
    packed[rng.randrange(len(packed))] = rng.randrange(256)
    rows = zlib.compress(rng.randbytes(rng.choice((0, 10, 5000))))
    return joined([*chunks[:-1], (b"IDAT", rng.choice((bytes(packed), rows, bytes(packed[:9]), b""))), chunks[-1]])


def after_the_end(rng: Random, data: bytes) -> bytes:
    """Anything after the last chunk, as cameras and other programs leave it; or very many chunks of nothing."""
    if rng.random() < 0.3:
        chunks = split(data)
        return joined([*chunks[:1], *[(rng.choice((b"tEXt", b"XXXX")), b"")] * 200_000, *chunks[1:]])
    return data + rng.choice(
        (b"\0" * rng.choice((1, 7, 8, 9, 5000)), rng.randbytes(60), data, b"PK\x03\x04" + bytes(40),
         (1 << 31).to_bytes(4, "big") + b"IDAT" + bytes(20), b"\xff\xff\xff\xffIHDR")
    )  # fmt: skip


def exif(rng: Random, data: bytes) -> bytes:
    """EXIF data whose tags share their values; in a JPEG too, which may have several parts of it, and pictures."""
    count, kind = rng.choice((1, 900, 4000)), rng.choice((1, 2, 3, 4, 5, 7))
    tags = [rng.choice((274, 271, 34_665, 34_853, 37_500, 40_965, 45_057, 1000 + i)) for i in range(count)]
    entries = b"".join(struct.pack("<HHII", tag, kind, rng.choice((1, 7000)), 8) for tag in tags)
    made = b"II*\0\x08\0\0\0" + (struct.pack("<H", count) + entries + bytes(4)).ljust(60_000, b"\0")
    if rng.random() < 0.5:
        chunks = split(data)
        at = rng.choice((1, len(chunks) - 1))
        return joined([*chunks[:at], (b"eXIf", made * rng.choice((1, 1, 80))), *chunks[at:]])
    file = io.BytesIO()
    Image.new("L", (20, 20), 7).save(file, "JPEG")
    part = rng.choice((b"\xff\xe1%bExif\0\0", b"\xff\xe2%bMPF\0")) % struct.pack(">H", min(65_535, len(made) + 8))
    return file.getvalue()[:2] + (part + made) * rng.choice((1, 3)) + file.getvalue()[2:]


def other_formats(rng: Random, data: bytes) -> bytes:
    """Other formats under this ending, some of which pillow would start a program for."""
    return rng.choice(
        (
            CANARIES["run.ps"] + b"(owned) (w) file closefile showpage\n", b"GIF89a\xff\xff\xff\xff" + bytes(50),
            b"BM" + struct.pack("<IIIIiiHHIIIIII", 1000, 0, 54, 40, 1 << 20, 1 << 20, 1, 24, 0, 0, 0, 0, 0, 0),
            b"P6 99999 99999 255 ",
            b"8BPS\0\1" + bytes(60), b"RIFF\xff\0\0\0WEBPVP8 " + bytes(60), b"\0\0\1\0\1\0" + bytes(60),
            b"#define x_width 9\n",
            b"\xd7\xcd\xc6\x9a" + bytes(60), b"icns\0\0\0\x10" + bytes(9), b"SIMPLE  =",
            b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
            b"%PDF-1.4", b"II*\0\x08\0\0\0" + bytes(40), b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(40),
            b"DDS " + bytes(124), b"<svg/>",
        )
    )  # fmt: skip


MUTATIONS: dict[str, Mutation] = {
    "headers": headers,
    "large chunks": large_chunks,
    "bombs": bombs,
    "chunks moved": chunks_moved,
    "pixels": pixels,
    "after the end": after_the_end,
    "EXIF data": exif,
    "other formats": other_formats,
}


def png_format() -> Format:
    kinds = ((0, 8), (2, 8), (6, 8), (4, 8), (3, 8), (0, 1), (0, 16), (3, 2))
    return Format("PNG", ".png", "picture", [picture(*kind) for kind in kinds] + [picture(2, 8, 1)], MUTATIONS)
