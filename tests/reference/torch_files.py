"""Files as PyTorch writes them, put together byte by byte: also such as PyTorch never would write."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def numbers(values: Any) -> bytes:
    return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"


def storage(key: str, count: int, kind: str = "FloatStorage", view: bytes | None = None) -> bytes:
    """A storage by its persistent id; `view`: None is not there, as in zip files."""
    parts = text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + b"I%d\n" % count
    return b"(" + parts + (view or b"") + b"tQ"


def tensor(key: str, count: int, shape: Any, strides: Any, offset: int = 0, kind: str = "FloatStorage") -> bytes:
    """The instructions that push one tensor."""
    window = b"I%d\n" % offset + numbers(shape) + numbers(strides)
    return REBUILD + b"(" + storage(key, count, kind) + window + b"\x89" + b"ccollections\nOrderedDict\n)R" + b"tR"


def state(**tensors: bytes) -> bytes:
    """The pickle of a dictionary."""
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in tensors.items()) + b"u."


def zip_file(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> Path:
    """A zip file; `options`: byteorder (text, or None for none), compression, extra (more entries)."""
    order = options.get("byteorder", "little")
    with zipfile.ZipFile(path, "w", options.get("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("archive/data.pkl", pickled)
        if order is not None:
            archive.writestr("archive/byteorder", order)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
        for name, data in options.get("extra", {}).items():
            archive.writestr(name, data)
        archive.writestr("archive/version", "3\n")
    return path


def legacy_file(
    path: Path, pickled: bytes, storages: dict[str, tuple[int, bytes]] | None = None, little: bool = True
) -> Path:
    """A legacy file; `storages`: number of elements and bytes of each. `little`: what the file says of its machine."""
    heads = (MAGIC, VERSION, {"protocol_version": 1001, "little_endian": little, "type_sizes": {"int": 4}})
    data = b"".join(pickle.dumps(head, 2) for head in heads) + pickled
    data += pickle.dumps(list(storages or {}), 2)
    for count, elements in (storages or {}).values():
        data += count.to_bytes(8, "little" if little else "big") + elements
    path.write_bytes(data)
    return path
