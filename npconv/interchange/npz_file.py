"""NumPy's .npz archives of numbers; never one with pickled objects."""

from __future__ import annotations

import math
import zipfile
from typing import Any

import numpy as np

from ..errors import FileFormatError
from ..npy_header import npy_header
from .zip_entries import checked_entry, entries_of, opened_zip, zip_errors

CHUNK = 1 << 20  # bytes that are unpacked at a time
SPARE_BYTES = 100 << 20  # that zeros may become: in another order of axes and bytes they are in memory thrice


def read_npz(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, by name, in its order and this machine's byte order."""
    arrays = {}
    with opened_zip(path) as archive:
        entries = entries_of(archive, SPARE_BYTES)
        for entry_name in entries:
            if not entry_name.endswith(".npy"):
                raise FileFormatError(f"{entry_name[:100]!r} must end in .npy")
            entry = checked_entry(entries, entry_name, None)
            with zip_errors(), archive.open(entry) as file:
                arrays[entry_name[: -len(".npy")]] = _array(file, entry)
    return arrays


def _array(file: Any, entry: zipfile.ZipInfo) -> np.ndarray:
    """The array of an open entry, whose elements go from the archive to their places, some at a time."""
    what = repr(entry.filename[:100])
    shape, fortran, dtype = npy_header(file, entry.file_size, what)
    if dtype.itemsize > 8:
        raise FileFormatError(f"{what}: dtype {dtype} must be of floats, integers or bools of at most 64 bits")
    held, needed = entry.file_size - file.tell(), math.prod(shape) * dtype.itemsize
    if held != needed:
        raise FileFormatError(f"{what}: {dtype} {shape} needs {needed} bytes, there are {held}")
    flat = np.empty(math.prod(shape), dtype)
    target = flat.view("u1")
    done = 0
    while part := file.read(CHUNK):
        target[done : done + len(part)] = np.frombuffer(part, "u1")
        done += len(part)
    if done != needed:
        raise FileFormatError(f"{what} is cut short")
    if not dtype.isnative:
        flat = flat.byteswap().view(dtype.newbyteorder("="))
    return np.ascontiguousarray(flat.reshape(shape, order="F" if fortran else "C")).reshape(shape)
