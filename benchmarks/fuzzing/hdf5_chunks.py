"""HDF5 files whose chunks do not become what they must: too short for their filters, or left out of them."""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

N_BIT, LZF = 5, 32_000
SHORT = bytes(64)
LITERAL = bytes([31]) + b"a" * 32  # 32 bytes, as LZF packs them
SIDE = 4800  # of images in one chunk: reading that far behind a short one ends the process


def _short(data: bytes, mask: int = 0, newest: bool = False, **options: Any) -> Callable[[Path], None]:
    """Images whose chunks say that they are `data`, packed by filters of which `mask` leaves some out."""

    def write(path: Path) -> None:
        with h5py.File(path, "w", libver="latest" if newest else "earliest") as file:
            made = file.create_dataset("images", (2, 1, SIDE, SIDE), "u1", chunks=(1, 1, SIDE, SIDE), **options)
            for number in range(2):
                made.id.write_direct_chunk((number, 0, 0, 0), data, filter_mask=mask)
            file["input"] = file["target"] = made

    return write


def _n_bit(path: Path) -> None:
    kind, properties = h5py.h5t.STD_U8LE.copy(), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind.set_precision(7)
    properties.set_chunk((1, 1, SIDE, SIDE))
    properties.set_filter(N_BIT, 0, ())
    with h5py.File(path, "w", libver="earliest") as file:
        space = h5py.h5s.create_simple((2, 1, SIDE, SIDE))
        made = h5py.h5d.create(file.id, b"images", kind, space, properties)
        made.write_direct_chunk((0, 0, 0, 0), SHORT)
        made.write_direct_chunk((1, 0, 0, 0), SHORT)


def _patched(write: Callable[[Path], None], before: tuple[int, ...], old: int, new: int) -> Callable[[Path], None]:
    """A parameter of a filter, which stands behind others, becomes another."""

    def patch(path: Path) -> None:
        write(path)
        data, start = path.read_bytes(), struct.pack(f"<{len(before)}I", *before)
        assert data.count(start + struct.pack("<I", old)) == 1
        path.write_bytes(data.replace(start + struct.pack("<I", old), start + struct.pack("<I", new)))

    return patch


KINDS: dict[str, Callable[[Path], None]] = {
    "gzip left out": _short(SHORT, 1, compression="gzip"),
    "gzip left out after shuffle": _short(SHORT, 2, compression="gzip", shuffle=True),
    "gzip left out, newest layout": _short(SHORT, 1, True, compression="gzip"),
    "checksum left out, newest layout": _short(SHORT, 1, True, fletcher32=True),
    "shorter than a checksum": _short(b"abc", 0, True, fletcher32=True),
    "shuffle alone, newest layout": _short(SHORT, 0, True, shuffle=True),
    "LZF for fewer bytes": _patched(_short(LITERAL, compression="lzf"), (261,), SIDE * SIDE, 64),
    "LZF of few bytes": _short(LITERAL, compression="lzf"),
    "LZF of few bytes, shuffled": _short(LITERAL, 0, True, compression="lzf", shuffle=True),
    "n-bit for fewer values": _patched(_n_bit, (8, 0), SIDE * SIDE, 64),
    "n-bit of few bytes": _n_bit,
    "n-bit of other bits": _patched(_n_bit, (8, 0, SIDE * SIDE, 1, 1, 0), 7, 64),
    "scale-offset of few bytes": _short(struct.pack("<IB", 7, 8) + SHORT, scaleoffset=0),
    "scale-offset of many bits": _short(struct.pack("<IB", 1 << 20, 8) + SHORT, scaleoffset=0),
    "gzip before a short scale-offset": _short(
        zlib.compress(struct.pack("<IB", 8, 8) + SHORT), 0, True, scaleoffset=0, compression="gzip"
    ),
}


def short_chunks(rng: Random, data: bytes) -> bytes:
    """A file of one of the `KINDS`."""
    return _written(KINDS[rng.choice(sorted(KINDS))])


OPTIONS: tuple[dict[str, Any], ...] = (
    {"compression": "gzip"}, {"compression": "gzip", "shuffle": True, "fletcher32": True}, {"compression": "lzf"},
    {"compression": "lzf", "shuffle": True}, {"scaleoffset": 0}, {"scaleoffset": 0, "compression": "lzf"},
    {"scaleoffset": 0, "shuffle": True, "compression": "gzip"}, {"fletcher32": True}, {"shuffle": True},
    {"compression": "szip"},
)  # fmt: skip


def changed_chunks(rng: Random, data: bytes) -> bytes:
    """Chunks of every packing that are cut, grown, changed, or left out of filters; sometimes all are whole."""
    options, newest = rng.choice(OPTIONS), rng.choice(("earliest", "latest"))
    values = np.random.default_rng(rng.getrandbits(32)).integers(0, rng.choice((4, 200)), (3, 1, 70, 70))

    def write(path: Path) -> None:
        with h5py.File(path, "w", libver=newest) as file:
            made = file.create_dataset("images", data=values.astype("u2"), chunks=(1, 1, 64, 48), **options)
            file["input"] = file["target"] = made
            for place in rng.sample([(i, 0, y, x) for i in range(3) for y in (0, 64) for x in (0, 48)], 3):
                mask, packed = made.id.read_direct_chunk(place)
                changed = bytearray(packed)
                for _ in range(rng.choice((0, 0, 1, 3))):
                    changed[rng.randrange(min(len(changed), rng.choice((8, 10_000))))] = rng.randrange(256)
                size = rng.choice((len(packed), len(packed), rng.randrange(1, len(packed) + 9), 64 * 48 * 2))
                changed = (changed + bytes(size))[:size]
                made.id.write_direct_chunk(place, bytes(changed), rng.choice((mask, mask, rng.randrange(8))))

    return _written(write)


def _written(write: Callable[[Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "a.h5")
        return (Path(folder) / "a.h5").read_bytes()
