"""NumPy's .npz archives of numbers; never one with pickled objects."""

from __future__ import annotations

import io
import math
import zipfile

import numpy as np

from ..errors import FileFormatError
from .zip_entries import checked_entry, entries_of, read_entry

KINDS = "fiub"  # floats, integers and bools


def read_npz(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, by name, in its order and this machine's byte order."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        entries = entries_of(archive)
        for entry_name in entries:
            if not entry_name.endswith(".npy"):
                raise FileFormatError(f"{entry_name[:100]!r} must end in .npy")
            data = read_entry(archive, checked_entry(entries, entry_name, None))
            arrays[entry_name[: -len(".npy")]] = _array(data, entry_name)
    return arrays


def _array(data: bytes, name: str) -> np.ndarray:
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise FileFormatError(f"{name[:100]!r}: version {version} must be (1, 0) or (2, 0)")
        shape, fortran, dtype = readers[version](file)
    except FileFormatError:
        raise
    except Exception as error:  # a header is Python text, whose reader raises whatever it likes
        raise FileFormatError(f"{name[:100]!r}: not an array ({str(error)[:200]})") from None
    if dtype.kind not in KINDS or dtype.hasobject or dtype.name in ("float128", "longdouble"):
        raise FileFormatError(f"{name[:100]!r}: dtype {dtype} must be of floats, integers or bools")
    held, needed = len(data) - file.tell(), math.prod(shape) * dtype.itemsize
    if held != needed or min(shape, default=0) < 0:
        raise FileFormatError(f"{name[:100]!r}: {dtype} {shape} needs {needed} bytes, there are {held}")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="), order="C")
