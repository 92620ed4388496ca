"""PyTorch's files: zip archives (torch.save since 1.6) and the legacy format before.

    zip:     NAME/data.pkl   the object, whose tensors refer to storages by key
             NAME/data/KEY   the elements of one storage;  NAME/byteorder: "little" or "big"
    legacy:  four pickles (magic number, version, the machine, the object), a pickled list of keys,
             and for each key the number of elements (8 bytes) and the elements, little-endian on every machine

What is read is bounded by the file: every size is compared with what the file holds before memory is asked for.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..errors import FileFormatError
from .checkpoint import choose
from .dtypes import decode, item_size
from .restricted_pickle import RestrictedUnpickler
from .torch_records import ADMITTED, Storage, TensorRecord, storage_from_id
from .zip_entries import archive_size, checked_entry, entries_of, opened_zip, read_entry

LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
# The number as a pickle of protocol 2 and above has it, some bytes from the start, and as older ones have it.
LEGACY_STARTS = b"\x8a\n" + LEGACY_MAGIC.to_bytes(10, "little"), b"L%dL" % LEGACY_MAGIC
LEGACY_WITHIN = 32  # bytes
MAX_PICKLE = 16 << 20  # bytes of data.pkl, for some 100 bytes a tensor
# Tensors that share a storage, and those with a stride of 0, become larger in memory than in the file.
MAX_EXPANSION, SPARE_BYTES = 8, 1 << 20

ReadStorage = Callable[[Storage], bytes]


class Contents(NamedTuple):
    """An opened file: the object with records for tensors, and how to read a storage."""

    tree: Any
    read_storage: ReadStorage
    big_endian: bool
    file_size: int


def is_torch_legacy(start: bytes) -> bool:
    """Whether a file that begins so is a legacy file, in whatever protocol of pickles."""
    in_binary, in_text = LEGACY_STARTS
    return (start[:1] == b"\x80" and in_binary in start[:LEGACY_WITHIN]) or start.startswith(in_text)


def read_torch_zip(path: str, key: str | None) -> tuple[dict[str, np.ndarray], str | None]:
    """The tensors of a zip file of PyTorch's, by name, and the entry of the object that holds them (None: itself).

    `key`: which entry to take.
    """
    with opened_zip(path) as archive:
        return _arrays(_open_zip(archive), key)


def read_torch_legacy(path: str, key: str | None) -> tuple[dict[str, np.ndarray], str | None]:
    """The tensors of a legacy file of PyTorch's, and the entry; `key` as above."""
    with open(path, "rb") as file:
        return _arrays(_open_legacy(file, os.fstat(file.fileno()).st_size), key)


def _arrays(contents: Contents, key: str | None) -> tuple[dict[str, np.ndarray], str | None]:
    records, entry = choose(contents.tree, key)
    by_storage: dict[str, list[str]] = {}
    for name, record in records.items():
        by_storage.setdefault(record.storage.key, []).append(name)
    _check_growth(records, contents.file_size)
    arrays: dict[str, np.ndarray] = {}
    for names in by_storage.values():  # a storage at a time: the file is in memory once, not twice
        data = contents.read_storage(records[names[0]].storage)
        elements: dict[str, np.ndarray] = {}  # by dtype: many tensors may be windows on one storage
        for name in names:
            dtype = records[name].dtype
            if dtype not in elements:
                elements[dtype] = decode(data[: len(data) - len(data) % item_size(dtype)], dtype, contents.big_endian)
            arrays[name] = _array(records[name], elements[dtype])
    return {name: arrays[name] for name in records}, entry


def _check_growth(records: Mapping[str, TensorRecord], file_size: int) -> None:
    needed = sum(record.byte_count for record in records.values())
    held = sum({record.storage.key: record.storage.byte_count for record in records.values()}.values())
    held = min(held, file_size)  # a deflated storage has grown already
    if needed > MAX_EXPANSION * held + SPARE_BYTES:
        raise FileFormatError(
            f"the tensors need {needed:,} bytes and their storages have {held:,}: expanded or shared more than "
            f"{MAX_EXPANSION} times"
        )


def _array(record: TensorRecord, elements: np.ndarray) -> np.ndarray:
    """The tensor's own array, of the storage's elements."""
    if 0 in record.shape:
        return np.empty(record.shape, elements.dtype)
    first = record.storage.start + record.offset
    last = first + sum((size - 1) * stride for size, stride in zip(record.shape, record.strides, strict=True))
    if last >= len(elements):  # as_strided would read whatever lies there
        raise FileFormatError(f"a tensor reaches element {last} of a storage of {len(elements)} elements")
    strides = tuple(stride * elements.itemsize for stride in record.strides)
    window: np.ndarray = np.lib.stride_tricks.as_strided(elements[first:], record.shape, strides).copy()
    return window


# ---- zip ----
def _open_zip(archive: zipfile.ZipFile) -> Contents:
    entries = entries_of(archive)
    top = [name[: -len("data.pkl")] for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(top) != 1:
        raise FileFormatError(f"the archive has {len(top)} entries NAME/data.pkl, it must have 1")
    storages: dict[str, Storage] = {}

    def storage(identity: Any) -> Storage:
        found = _known(storages, storage_from_id(identity))
        checked_entry(entries, f"{top[0]}data/{found.key}", found.byte_count)
        return found

    order = f"{top[0]}byteorder"
    named = read_entry(archive, checked_entry(entries, order, None, 16)) if order in entries else b"little"
    if named not in (b"little", b"big"):
        raise FileFormatError(f"{order}: {named!r} must be little or big")
    pickled = read_entry(archive, checked_entry(entries, f"{top[0]}data.pkl", None, MAX_PICKLE))
    tree = RestrictedUnpickler(ADMITTED, storage).load(io.BytesIO(pickled))

    def read_storage(found: Storage) -> bytes:
        return read_entry(archive, entries[f"{top[0]}data/{found.key}"])

    return Contents(tree, read_storage, named == b"big", archive_size(archive))


def _known(storages: dict[str, Storage], storage: Storage) -> Storage:
    """`storage`, whose size and type agree with what was said of its key before."""
    before = storages.setdefault(storage.key, storage)
    if (before.dtype, before.whole) != (storage.dtype, storage.whole):
        raise FileFormatError(
            f"storage {storage.key[:50]!r} is {before.dtype or 'bytes'} of {before.whole}, and then "
            f"{storage.dtype or 'bytes'} of {storage.whole}"
        )
    return storage


# ---- legacy ----
class _UpToEnd:
    """A file whose `read` asks for no more than there is: a pickle may claim any length."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        return bytes(self._file.read(max(0, min(count, self._size - self._file.tell()))))


def _open_legacy(file: Any, size: int) -> Contents:
    storages: dict[str, Storage] = {}
    reader = RestrictedUnpickler(ADMITTED, lambda identity: _known(storages, storage_from_id(identity)))
    source = _UpToEnd(file, size)
    magic, version, machine, tree, keys = (reader.load(source) for _ in range(5))
    if magic != LEGACY_MAGIC or version != LEGACY_VERSION:
        raise FileFormatError(f"version {_short(version)}, it must be {LEGACY_VERSION}")
    little = machine.get("little_endian", True) is True if type(machine) is dict else True
    places = dict(_places(file, size, keys, storages, little))
    missing = [key for key in storages if key not in places]
    if missing:
        raise FileFormatError(f"storage {missing[0][:50]!r} is not among the keys")

    def read_storage(storage: Storage) -> bytes:
        file.seek(places[storage.key])
        return bytes(file.read(storage.byte_count))

    return Contents(tree, read_storage, False, size)


def _places(
    file: Any, size: int, keys: Any, storages: Mapping[str, Storage], little: bool
) -> Iterator[tuple[str, int]]:
    """Where the elements of each storage begin."""
    if type(keys) is not list or not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
        raise FileFormatError("the keys of the storages must be a list of different texts")
    place = file.tell()
    for key in keys:
        if key not in storages:
            raise FileFormatError(f"storage {key[:50]!r} belongs to no tensor")
        storage = storages[key]
        if not storage.dtype:
            raise FileFormatError(f"storage {key[:50]!r} has no type, which a legacy file must say")
        file.seek(place)
        count = file.read(8)
        # The elements are little-endian whatever the machine was; their number once was as the machine had it.
        if count != storage.whole.to_bytes(8, "little") and (little or count != storage.whole.to_bytes(8, "big")):
            raise FileFormatError(
                f"byte {place}: storage {key[:50]!r} has {int.from_bytes(count, 'little')} elements, "
                f"it must have {storage.whole}"
            )
        place += 8 + storage.whole * item_size(storage.dtype)
        if place > size:
            raise FileFormatError(f"storage {key[:50]!r} ends at byte {place}, the file has {size}: it is not whole")
        yield key, place - storage.whole * item_size(storage.dtype)


def _short(value: Any) -> str:
    return str(value) if isinstance(value, int) else type(value).__name__
