"""The header of an array in NumPy's .npy format: its shape, order and dtype, before any memory is asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .errors import FileFormatError

MAX_AXES = 32  # NumPy's own limit, in its oldest version that is supported
MAX_LENGTH = 1 << 48
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def npy_header(file: Any, size: int, what: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran order, and dtype of the array at the start of `file`, which has `size` bytes.

    `file` then stands at the first element. Raises FileFormatError for what is no array of numbers, or one whose
    elements would be more than the file has.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in _READERS:
            raise FileFormatError(f"{what}: version {version} must be (1, 0) or (2, 0)")
        shape, fortran, dtype = _READERS[version](file)
    except FileFormatError:
        raise
    except Exception as error:  # a header is Python text, whose reader raises whatever it likes
        raise FileFormatError(f"{what}: not an array ({str(error)[:200]})") from None
    if dtype.kind not in "fiub" or dtype.hasobject or dtype.itemsize > 16:
        raise FileFormatError(f"{what}: dtype {dtype} must be of floats, integers or bools")
    # Lengths of thousands of digits could be multiplied, but not be told.
    if len(shape) > MAX_AXES or min(shape, default=0) < 0 or max(shape, default=0) >= MAX_LENGTH:
        raise FileFormatError(
            f"{what}: the shape {str(shape)[:200]} must have at most {MAX_AXES} axes, none below 0 or of 2^48"
        )
    needed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if needed > held or math.prod(max(n, 1) for n in shape) >= MAX_LENGTH:
        raise FileFormatError(f"{what}: {dtype} {shape} needs {needed:,} bytes, there are {held:,}")
    return tuple(int(n) for n in shape), fortran, dtype
