"""PyTorch's files, zip and legacy, put together byte by byte; pickles that would run code, or would grow."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from random import Random
from typing import Any

import numpy as np

import npconv as nc

from .cases import Format, Mutation
from .readers import network

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n)R"
KINDS = {"float32": "FloatStorage", "int64": "LongStorage"}


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + len(data).to_bytes(4, "little") + data


def numbers(values: Any) -> bytes:
    return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"


def storage(key: str, count: int, kind: str) -> bytes:
    parts = text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + b"I%d\n" % count
    return b"(" + parts + b"tQ"


def tensor(key: str, count: int, shape: Any, strides: Any, offset: int = 0, kind: str = "FloatStorage") -> bytes:
    window = b"I%d\n" % offset + numbers(shape) + numbers(strides)
    return REBUILD + b"(" + storage(key, count, kind) + window + b"\x89" + ORDERED + b"tR"


class Parts:
    """A file in parts: the pickle of the object, and the elements of each storage."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.tensors: dict[str, bytes] = {}
        self.storages: dict[str, np.ndarray] = {}
        for number, (name, array) in enumerate(arrays.items()):
            strides = [s // array.itemsize for s in np.ascontiguousarray(array).strides] if array.ndim else []
            self.tensors[name] = tensor(
                str(number), array.size, array.shape, strides, kind=KINDS.get(array.dtype.name, "FloatStorage")
            )
            self.storages[str(number)] = array
        self.extra = b""

    def pickled(self) -> bytes:
        items = b"".join(text(name) + value for name, value in self.tensors.items())
        return b"\x80\x02" + ORDERED + b"(" + items + self.extra + b"u."


def own() -> dict[str, np.ndarray]:
    """The arrays of the network."""
    return {name: np.array(nc.to_numpy(array)) for name, array in network().state_dict().items()}


def zip_bytes(pickled: bytes, storages: dict[str, np.ndarray], **options: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", options.get("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", options.get("byteorder", "little"))
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def legacy_bytes(pickled: bytes, storages: dict[str, np.ndarray]) -> bytes:
    heads = (MAGIC, VERSION, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}})
    data = b"".join(pickle.dumps(head, 2) for head in heads) + pickled + pickle.dumps(list(storages), 2)
    return data + b"".join(array.size.to_bytes(8, "little") + array.tobytes() for array in storages.values())


# ---- pickles ----
def _call(module: str, name: str, arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + arguments + b"R"


RUNS = (
    _call("os", "system", b"(" + text("touch owned") + b"t"),
    _call("posix", "system", b"(" + text("touch owned") + b"t"),
    _call("builtins", "eval", b"(" + text("__import__('os').system('touch owned')") + b"t"),
    _call("builtins", "exec", b"(" + text("open('owned', 'w')") + b"t"),
    _call("builtins", "open", b"(" + text("owned") + text("w") + b"t"),
    _call("subprocess", "Popen", b"((" + text("touch") + text("owned") + b"lt"),
    _call("builtins", "getattr", b"(" + _call("builtins", "__import__",
    b"(" + text("os") + b"t") + text("system") + b"t"),
    _call("torch", "load", b"(" + text("/etc/passwd") + b"t"),
    _call("torch.storage", "_load_from_bytes", b"(" + text("x") + b"t"),
    _call("runpy", "run_path", b"(" + text("/etc/passwd") + b"t"),
    _call("numpy.core.multiarray", "_reconstruct", b"(cnumpy\nndarray\nI0\n\x85" + text("b") + b"t"),
    _call("npconv.weights", "load", b"(" + text("/etc/passwd") + b"t"),
    b"(" + text("touch owned") + b"ios\nsystem\n",
    b"(cos\nsystem\n" + text("touch owned") + b"o",
    b"cos\nsystem\n" + b"(" + text("touch owned") + b"t\x81",
    text("os") + text("system") + b"\x93" + b"(" + text("touch owned") + b"tR",
    ORDERED + b"}" + text("__class__") + b"cos\nsystem\nsb",
    b"\x82\x01", b"\x84\x01\x00\x00\x00", b"P0\n", b"\x96" + bytes(8), b"\x97", b"\x8f(I1\n\x90",
)  # fmt: skip


def _doubled(rng: Random) -> bytes:
    """Tuples or lists of twice the one before: a tree of 2^n values, if anyone walks it."""
    kind = rng.choice((b"\x86", b"(%sh\x00h\x00l"))
    step = b"h\x00h\x00\x86q\x000" if kind == b"\x86" else b"(h\x00h\x00lq\x000"
    return b")q\x000" + step * rng.choice((40, 2000)) + b"h\x00"


def _deep(rng: Random) -> bytes:
    count = rng.choice((1000, 100_000))
    return rng.choice((b")" + b"\x85" * count, b"]" * count + b"a" * (count - 1), b"(" * count + b"l" * count))


def _large(rng: Random) -> bytes:
    size = rng.choice((100, 1 << 20, (1 << 31) - 1))
    return rng.choice(
        (
            b"\x8b" + struct.pack("<i", size) + b"\x7f" * min(size, 1 << 20),
            b"\x8b" + struct.pack("<i", -5), b"L" + b"9" * min(size, 1 << 20) + b"L\n", b"I" + b"7" * 5000 + b"\n",
            b"X" + struct.pack("<I", size) + b"a" * 10, b"\x8d" + struct.pack("<Q", 1 << 62) + b"a",
            b"\x8e" + struct.pack("<Q", size) + b"a", b"T" + struct.pack("<i", -1), b"F" + b"1e" * 9000 + b"\n",
            b"r" + struct.pack("<I", (1 << 32) - 1) + b"j" + struct.pack("<I", (1 << 32) - 1),
            b"p" + b"9" * 300 + b"\n",
            b"V" + b"\\ud800" * 100 + b"\n", b"\x95" + struct.pack("<Q", 1 << 60), b"N" * 600_000, b"NQ" * 50_000,
            (b"]q\x00" + b"h\x00a" * 1000), b"}" + b"(" + b"".join(b"I%d\nN" % i for i in range(50_000)) + b"u",
        )
    )  # fmt: skip


def runs_code(rng: Random, parts: Parts) -> None:
    """A call in the place of a tensor, among them, of a key, or of the whole."""
    evil, where = rng.choice(RUNS), rng.randrange(3)
    if where == 0:
        parts.tensors[rng.choice(list(parts.tensors))] = evil
    elif where == 1:
        parts.extra = evil + b"N"
    else:
        parts.extra = text("x") + evil


def grows(rng: Random, parts: Parts) -> None:
    parts.extra = text("x") + rng.choice((_doubled, _deep, _large))(rng)


def windows(rng: Random, parts: Parts) -> None:
    """Tensors whose shape, strides, offset or storage do not fit, or would be terabytes."""
    name = rng.choice(list(parts.tensors))
    key = rng.choice((*parts.storages, "99", "../0", "/etc/passwd", "0\0", ""))
    number = rng.choice((0, 1, 36, 37, -1, 1 << 31, 1 << 40, 1 << 47, 1 << 63, 1 << 127))
    shape = rng.choice(((number,), (4, 1, 3, 3), (1 << 20,) * 3, (0, number), (1,) * 33, (number, 0), (), (-4, -9)))
    strides = rng.choice(((1,) * len(shape), (0,) * len(shape), (number,) * len(shape), (-1,) * len(shape), (1,)))
    kind = rng.choice(("FloatStorage", "DoubleStorage", "ByteStorage", "UntypedStorage", "ComplexFloatStorage", "X"))
    count = parts.storages[key].size if key in parts.storages and rng.random() < 0.7 else abs(number)
    parts.tensors[name] = tensor(key, count, shape, strides, rng.choice((0, 0, number)), kind)


def infinite(rng: Random, parts: Parts) -> None:
    key = rng.choice([key for key, array in parts.storages.items() if array.dtype.kind == "f"])
    parts.storages[key].flat[0] = rng.choice((np.nan, np.inf, -np.inf, 1e30))


def renamed(rng: Random, parts: Parts) -> None:
    name = rng.choice(list(parts.tensors))
    other = rng.choice(("a/b", "../x", "ü", "", ".", "0.weight.", "\ud800", "a" * 100_000, "module." + name, "0.bias"))
    parts.tensors[other] = parts.tensors.pop(name)


def operations(rng: Random, parts: Parts, pickled: bytes) -> bytes:
    """Instructions of the pickle left out, repeated, exchanged, or with other arguments."""
    places = [at for _, _, at in pickletools.genops(pickled) if at is not None] + [len(pickled)]
    steps = [pickled[a:b] for a, b in zip(places, places[1:], strict=False)]
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(1, len(steps))
        steps[at : at + 1] = rng.choice(
            (
                [],
                [steps[at]] * 2,
                [rng.choice(steps)],
                [steps[at], rng.choice(steps)],
                [rng.choice((b"0", b"1", b"(", b"N"))],
            )
        )
    return b"".join(steps)


def _torch(make: Any, change: Any) -> Mutation:
    def mutation(rng: Random, data: bytes) -> bytes:
        parts = Parts(own())
        if change is operations:
            return make(operations(rng, parts, parts.pickled()), parts.storages)
        change(rng, parts)
        return make(parts.pickled(), parts.storages)

    return mutation


CHANGES = {
    "code in pickles": runs_code,
    "pickles that grow": grows,
    "tensors' windows": windows,
    "NaN and infinities": infinite,
    "names": renamed,
    "instructions": operations,
}


def zip_format() -> Format:
    from .archive_inputs import ARCHIVES

    parts = Parts(own())
    mutations = {name: _torch(zip_bytes, change) for name, change in CHANGES.items()}
    seeds = [
        zip_bytes(parts.pickled(), parts.storages, compression=c) for c in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ]
    return Format(".pth (zip)", ".pth", "weights", seeds, {**mutations, **ARCHIVES})


def legacy_format() -> Format:
    parts = Parts(own())
    mutations = {name: _torch(legacy_bytes, change) for name, change in CHANGES.items()}
    return Format(".pth (legacy)", ".pth", "weights", [legacy_bytes(parts.pickled(), parts.storages)], mutations)
