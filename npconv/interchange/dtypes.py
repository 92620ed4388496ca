"""The element types of files, by PyTorch's names: how many bytes, and what NumPy makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import FileFormatError

# NumPy's codes. bfloat16 is the upper half of a float32, and becomes one.
CODES = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "bfloat16": "u2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "u1",
}
MAX_AXES = 32  # NumPy's own limit, in its oldest version that is supported
MAX_ELEMENTS = 1 << 48


def item_size(name: str) -> int:
    """Bytes of one element."""
    return int(CODES[name][1])


def decode(data: bytes, name: str, big_endian: bool = False) -> np.ndarray:
    """The elements in `data` as a new one-dimensional array in this machine's byte order."""
    raw = np.frombuffer(data, dtype=(">" if big_endian else "<") + CODES[name])
    elements: np.ndarray
    if name == "bool":
        elements = raw != 0
    elif name == "bfloat16":
        elements = (raw.astype("uint32") << 16).view("float32")
    else:
        elements = raw.astype(raw.dtype.newbyteorder("="))
    return elements


def whole_numbers(values: Any, what: str) -> tuple[int, ...]:
    """A list or tuple of integers of at least 0, as a tuple; FileFormatError if it is something else."""
    if not isinstance(values, (list, tuple)) or len(values) > MAX_AXES:
        raise FileFormatError(f"{what} must be a list of at most {MAX_AXES} whole numbers")
    for value in values:
        whole_number(value, what)
    return tuple(values)


def whole_number(value: Any, what: str) -> int:
    """An integer of 0 or more, below 2^48; FileFormatError if it is something else."""
    if type(value) is not int or not 0 <= value < MAX_ELEMENTS:
        raise FileFormatError(f"{what} must be a whole number from 0 to 2^48")
    return value


def element_count(shape: Sequence[int], what: str) -> int:
    """The product of `shape`; FileFormatError if it, or that of all sizes but zeros, is absurd."""
    if math.prod(max(size, 1) for size in shape) >= MAX_ELEMENTS:
        raise FileFormatError(f"{what}: a shape of 2^48 elements or more")
    return math.prod(shape)
