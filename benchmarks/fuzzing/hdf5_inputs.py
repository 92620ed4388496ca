"""HDF5 files of weights and of images: valid ones, and mutations that know the format."""

from __future__ import annotations

import io
import json
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np

import npconv as nc
from npconv import data

from .cases import Format, Mutation
from .hdf5_architectures import ARCHITECTURES
from .hdf5_chunks import changed_chunks, short_chunks
from .hdf5_editing import changed_file, of, positions, some_dataset
from .hdf5_reuse import SHARED, TYPES, partly
from .outside import PLACE
from .random_bytes import LARGEST, NUMBERS
from .readers import network

SIGNATURES = (b"TREE", b"SNOD", b"HEAP", b"GCOL")
HUGE = 1 << 42


def _file(write: Callable[[Path], Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        write(path)
        return path.read_bytes()


# ---- structures ----
def structures(rng: Random, data: bytes) -> bytes:
    """A field of a tree, a table of symbols, a heap or a header becomes an address or a limit."""
    changed = bytearray(data)
    places = [at for mark in SIGNATURES for at in positions(data, mark)] + [0, 96]
    places += [at for at in range(0, len(data) - 16, 8) if data[at] == 1 and data[at + 1] == 0 and data[at + 2] < 40]
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.choice(places) + rng.randrange(0, 64)
        width = rng.choice((1, 2, 4, 8))
        value = rng.choice((*NUMBERS, LARGEST, rng.choice(places), rng.randrange(len(data)) & ~7, len(data)))
        changed[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(changed[: len(data)])


def pointers(rng: Random, data: bytes) -> bytes:
    """An address leads to another structure: circles, the wrong kind of node, the middle of one."""
    places = [at for mark in SIGNATURES for at in positions(data, mark)]
    addresses = [at for at in range(0, len(data) - 8, 8) if 0 < struct.unpack_from("<Q", data, at)[0] < len(data)]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        target = rng.choice((rng.choice(places), struct.unpack_from("<Q", data, rng.choice(addresses))[0]))
        struct.pack_into("<Q", changed, rng.choice(addresses), target + rng.choice((0, 0, 0, 8, -8)) & LARGEST)
    return bytes(changed)


# ---- what stands for a data set ----
def _instead(make: Callable[[Random, Any, str, Any], Any]) -> Callable[[Random, Any], None]:
    """A change that puts something else in the place of a data set; `make` gets its name and its values."""

    def change(rng: Random, file: Any) -> None:
        name = some_dataset(rng, file)
        values = file[name][...]
        del file[name]
        make(rng, file, name, values)

    return change


def _external_storage(rng: Random, file: Any, name: str, values: Any) -> None:
    file.create_dataset(name, values.shape, values.dtype, external=[(PLACE + "raw", 0, values.nbytes)])


def _virtual(rng: Random, file: Any, name: str, values: Any) -> None:
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource(PLACE + "other.h5", rng.choice(("secret", "images")), values.shape, values.dtype)
    file.create_virtual_dataset(name, layout)


def _of_type(dtype: Any) -> Callable[[Random, Any], None]:
    return _instead(lambda rng, file, name, values: file.create_dataset(name, values.shape, dtype))


def _shaped(rng: Random, file: Any, name: str, values: Any) -> None:
    shape = rng.choice(((HUGE,), (1, 3, 1 << 20, 1 << 20), (HUGE, 1, 1, 1), (1 << 31, 1 << 30), (0, 4), (1,) * 32, ()))
    chunks = None if not shape or 0 in shape else tuple(min(n, rng.choice((1, 64))) for n in shape)
    file.create_dataset(name, shape, values.dtype, chunks=rng.choice((None, chunks)))


def _tiny_chunks(rng: Random, file: Any, name: str, values: Any) -> None:
    shape = (1, 1, 8000, 8000)
    file.create_dataset(name, shape, "u1", chunks=(1, 1, 1, rng.choice((1, 4))), compression=rng.choice((None, "gzip")))


def _huge_chunk(rng: Random, file: Any, name: str, values: Any) -> None:
    chunk = (1, 1, 1 << 14, 1 << 14) if values.ndim == 4 else (1 << 28,)
    made = file.create_dataset(
        name, chunk, values.dtype, chunks=chunk, maxshape=(None,) * len(chunk), compression="gzip"
    )
    made.id.write_direct_chunk((0,) * len(chunk), zlib.compress(bytes(100)))


def _bomb(rng: Random, file: Any, name: str, values: Any) -> None:
    """A chunk whose few bytes unpack to far more than it has."""
    chunk = values.shape or (1,)
    made = file.create_dataset(name, chunk, values.dtype, chunks=chunk, compression="gzip")
    size = rng.choice((values.nbytes - 1, values.nbytes + 1, 1 << 20, 1 << 30))
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(min(1 << 24, size - i))) for i in range(0, size, 1 << 24))
    made.id.write_direct_chunk((0,) * len(chunk), packed + packer.flush())


def _filtered(rng: Random, file: Any, name: str, values: Any) -> None:
    options = rng.choice(
        (
            {"compression": "gzip"}, {"compression": "lzf"},
            {"shuffle": True, "compression": "gzip", "fletcher32": True},
            {"scaleoffset": 3}, {"compression": 32_999, "allow_unknown_filter": True}, {"fletcher32": False},
        )
    )  # fmt: skip
    shape = values.shape or (1,)
    if "allow_unknown_filter" in options:
        file.create_dataset(name, shape, values.dtype, chunks=shape, **options)
    else:
        file.create_dataset(name, data=values.reshape(shape), chunks=shape, **options)


def _infinite(rng: Random, file: Any) -> None:
    data = file[some_dataset(rng, file)]
    if data.dtype.kind == "f":
        values = data[...]
        values.flat[rng.randrange(values.size)] = rng.choice((np.nan, np.inf, -np.inf, 1e30, 1e-42))
        data[...] = values


def _link(make: Callable[[Random, str], Any]) -> Callable[[Random, Any], None]:
    def put(rng: Random, file: Any, name: str, values: Any) -> None:
        file[name] = make(rng, name)

    return _instead(put)


def _circle(rng: Random, file: Any) -> None:
    group = file.require_group(rng.choice(("parameters", "images_of", "a")))
    group["again"] = file if rng.random() < 0.5 else group


def _alias(rng: Random, file: Any) -> None:
    file[rng.choice(("parameters/other", "second", "buffers/x"))] = file[some_dataset(rng, file)]


def _many(rng: Random, file: Any) -> None:
    group = file.create_group("many")
    for i in range(rng.choice((50, 3000))):
        group[f"{i:06}"] = np.uint8(i % 9)


def _nested(rng: Random, file: Any) -> None:
    place = file
    for _ in range(rng.choice((10, 100))):
        place = place.create_group("g")


NAMES = (
    "a/b", "..", ".", "../../etc/passwd", "/abs", "ü.weight", "\N{PILE OF POO}", "a" * 5000, " ", "a\tb", "0.weight/x",
    "\\", "%s", "0..weight",
)  # fmt: skip


def _named(rng: Random, file: Any) -> None:
    name = some_dataset(rng, file)
    values, parent = file[name][...], name.rpartition("/")[0]
    if rng.random() < 0.5:
        del file[name]
    try:
        file.create_dataset(f"{parent}/{rng.choice(NAMES)}", data=values)
    except (ValueError, OSError, TypeError):  # "." and names that are taken
        file.attrs["x"] = 1


def _references(rng: Random, file: Any, name: str, values: Any) -> None:
    if rng.random() < 0.5:
        made = file.create_dataset(name, values.shape, h5py.ref_dtype)
        made[...] = file.ref
    else:
        target = file.create_dataset(name + "t", data=values)
        made = file.create_dataset(name, (1,), h5py.regionref_dtype)
        made[0] = target.regionref[...]


def _attributes(rng: Random, file: Any) -> None:
    on = rng.choice((file, file[some_dataset(rng, file)]))
    value = rng.choice(
        (
            np.zeros(3), "x" * 60_000, b"\xff\xfe", file.ref, np.zeros(1, "f4,i4"), [1, 2], h5py.Empty("f4"),
            np.array(["a", "b"], object), np.zeros((2, 2), "u1"), float("nan"), "null", "{}", "[]", True, "\ud7ff",
        )
    )  # fmt: skip
    on.attrs[rng.choice(("format", "version", "architecture", "training", "scalar", "checksum", "own"))] = value


def _shuffled(rng: Random, file: Any) -> None:
    first, second = some_dataset(rng, file), some_dataset(rng, file)
    if first != second:
        file.move(first, "between")
        file.move(second, first)
        file.move("between", second)


def _removed(rng: Random, file: Any) -> None:
    del file[rng.choice((some_dataset(rng, file), rng.choice(list(file))))]


def _committed(rng: Random, file: Any, name: str, values: Any) -> None:
    file["type"] = values.dtype
    file.create_dataset(name, data=values, dtype=file["type"])


def architecture(rng: Random, data: bytes) -> bytes:
    """Weights whose file asks for another network: huge, endless, of other classes, of other arguments."""
    name = rng.choice(sorted(ARCHITECTURES))
    text = ARCHITECTURES[name](rng)

    def change(file: Any) -> None:
        file.attrs["architecture"] = text if isinstance(text, str) else json.dumps(text)
        if "checksum" in file.attrs:
            del file.attrs["checksum"]

    return changed_file(data, change)


def training(rng: Random, data: bytes) -> bytes:
    """Weights whose loss and optimizer are not known, or have other arguments."""
    value = rng.choice((1, [], "x", {}, {"loss": 1}, {"loss": {"type": "MSE", "arguments": {"x": 1}}}, {"loss": None}))
    optimizer = {"type": rng.choice(("Adam", "SGD", "eval", None, [])), "groups": rng.choice((1, [], [{}], [1], None))}
    chosen = rng.choice((value, {"loss": {"type": "MSE", "arguments": {}}, "optimizer": optimizer}))

    def change(file: Any) -> None:
        file.attrs["training"] = json.dumps(chosen)
        if "checksum" in file.attrs:
            del file.attrs["checksum"]

    return changed_file(data, change)


def newest(rng: Random, data: bytes) -> bytes:
    """The same in the newest layout, or behind a block of the user's; then maybe a few wrong bytes."""

    def write(path: Path) -> None:
        options: dict[str, Any] = rng.choice(({"libver": "latest"}, {"userblock_size": 512}, {"track_order": True}))
        with h5py.File(io.BytesIO(data), "r") as old, h5py.File(path, "w", **options) as file:
            for key in old:
                old.copy(key, file)
            for key, value in old.attrs.items():
                file.attrs[key] = value

    made = bytearray(_file(write))
    for _ in range(rng.choice((0, 1, 4))):
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made)


_TYPES = ("f8", "f2", "i1", "u8", "c8", "S1", "V7", "f4,i2", ">f4", bool, h5py.string_dtype(), h5py.vlen_dtype("f4"))
COMMON: dict[str, Mutation] = {
    "structures": structures,
    "pointers": pointers,
    "wrong types": of(*map(_of_type, _TYPES)),
    "NaN and infinities": of(_infinite),
    "absurd shapes": of(_instead(_shaped), _instead(_huge_chunk), _instead(_tiny_chunks)),
    "bombs and filters": of(_instead(_bomb), _instead(_filtered)),
    "external links": of(
        _link(lambda rng, name: h5py.ExternalLink(PLACE + "other.h5", rng.choice(("secret", "images", "/")))),
        lambda rng, file: file.__setitem__("elsewhere", h5py.ExternalLink(PLACE + "other.h5", "group")),
    ),
    "external storage": of(_instead(_external_storage), _instead(_virtual)),
    "soft links": of(
        _link(lambda rng, name: h5py.SoftLink(rng.choice(("/" + name, "/nowhere", "/", ".", "/elsewhere/images")))),
        _link(lambda rng, name: h5py.SoftLink("./" * rng.choice((10, 3_000_000)) + name)),
        lambda rng, file: file.__setitem__("loop", h5py.SoftLink("/loop")),
    ),
    "references": of(_instead(_references)),
    "cyclic groups": of(_circle, _alias, _nested, _many),
    "names": of(_named),
    "attributes": of(_attributes),
    "swapped, missing": of(_shuffled, _removed, _instead(_committed)),
    "newest layout": newest,
    "shared bytes": SHARED,
    "types in types": TYPES,
}


def _images(path: Path) -> None:
    data.write_images(path, np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16), dtype=np.uint8))


def _packed_images(path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 200, (5, 3, 20, 24)).astype("u2")
    with h5py.File(path, "w") as file:
        made = file.create_dataset("images", data=images, chunks=(2, 3, 8, 24), compression="gzip", shuffle=True)
        made.attrs["microscope"] = "a text of its own"
        file.create_dataset("more/masks", data=images[:, 0] > 9)


def _pairs(path: Path) -> None:
    images = np.random.default_rng(2).normal(120, 9, (4, 1, 12, 12)).astype("f4")
    data.write_pairs(path, images, images + 1)


def _ordered(write: Callable[[Path], Any], path: Path) -> None:
    """What is written where h5py has been told to remember the order of everything."""
    h5py.get_config().track_order = True
    try:
        write(path)
    finally:
        h5py.get_config().track_order = False


def weights() -> Format:
    """npconv's own weights."""
    seeds = [
        _file(lambda path: nc.save(network(), path)),
        _file(lambda path: nc.Model(network()).save(path)),
        _file(partial(_ordered, lambda path: nc.save(network(), path))),
    ]
    return Format(
        "HDF5 weights", ".h5", "h5 weights", seeds, {**COMMON, "architecture": architecture, "training": training}
    )


def images() -> Format:
    """Stacks of images, of npconv's own and of others."""
    seeds = [_file(_images), _file(_packed_images), _file(_pairs), _file(partial(_ordered, _images))]
    mutations = {**COMMON, "partly written": partly, "short chunks": short_chunks, "changed chunks": changed_chunks}
    return Format("HDF5 images", ".h5", "h5 images", seeds, mutations)
