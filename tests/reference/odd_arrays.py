"""The same numbers as an array of every odd kind there is: those that must work, and those that must be refused."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

Make = Callable[[np.ndarray], Any]


def _reversed(x: np.ndarray) -> np.ndarray:
    turn = (slice(None, None, -1),) * x.ndim
    return x[turn].copy()[turn]


def _every_other(x: np.ndarray) -> np.ndarray:
    wide = np.zeros(tuple(2 * length for length in x.shape), x.dtype)
    part = wide[(slice(None, None, 2),) * x.ndim]
    part[...] = x
    return part


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1) if x.ndim > 2 else x.T).transpose(
        (0, x.ndim - 1, *range(1, x.ndim - 1)) if x.ndim > 2 else None
    )


def _unaligned(x: np.ndarray) -> np.ndarray:
    memory = bytearray(1) + bytearray(x.tobytes())
    odd = np.frombuffer(memory, x.dtype, offset=1).reshape(x.shape)
    assert not odd.flags.aligned or x.itemsize == 1
    return odd


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def _part_of_a_larger(x: np.ndarray) -> np.ndarray:
    wide = np.full(tuple(length + 3 for length in x.shape), np.nan if x.dtype.kind == "f" else 77, x.dtype)
    part = wide[tuple(slice(1, 1 + length) for length in x.shape)]
    part[...] = x
    return part


def on_disk(x: np.ndarray) -> np.memmap:
    """A read-only memory map, of a file that is gone when the map is."""
    with tempfile.TemporaryFile() as file:
        file.write(x.tobytes())
        file.flush()
        return np.memmap(file, x.dtype, "r", shape=x.shape)


class Subclass(np.ndarray):
    """An array of someone else's."""


LAYOUTS: dict[str, Make] = {
    "C order": lambda x: x.copy(),
    "Fortran order": np.asfortranarray,
    "channels last": _channels_last,
    "reversed": _reversed,
    "every other element": _every_other,
    "part of a larger array": _part_of_a_larger,
    "read-only": _read_only,
    "unaligned": _unaligned,
    "from a memory map": lambda x: np.asarray(on_disk(x)),
}


def _matrix(x: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # NumPy advises against it
        return np.asmatrix(x.reshape(len(x), -1))


def _swapped(x: np.ndarray) -> np.ndarray:
    return x.astype(x.dtype.newbyteorder())


# kind -> how it is made, and what an error of a layer must say
REFUSED: dict[str, tuple[Make, str]] = {
    "big-endian": (_swapped, "in the byte order of this machine, got dtype [<>]f[48]"),
    "float16": (lambda x: x.astype("float16"), "float32 or float64, got float16"),
    "long double": (lambda x: x.astype("longdouble"), "float32 or float64, got float"),
    "uint8": (lambda x: x.astype("uint8"), "float32 or float64, got uint8"),
    "int64": (lambda x: x.astype("int64"), "float32 or float64, got int64"),
    "bool": (lambda x: x > 0, "float32 or float64, got bool"),
    "complex": (lambda x: x.astype("complex64"), r"float32 or float64 \(real numbers\), got complex64"),
    "object": (lambda x: x.astype(object), r"float32 or float64 \(real numbers\), got object"),
    "decimals": (lambda x: np.full(x.shape, Decimal(1)), r"float32 or float64 \(real numbers\), got object"),
    "text": (lambda x: x.astype("U9"), r"float32 or float64 \(real numbers\), got <U9"),
    "dates": (lambda x: x.astype("int64").astype("M8[D]"), r"float32 or float64 \(real numbers\), got datetime64"),
    "records": (lambda x: np.zeros(x.shape, [("a", "f4")]), r"float32 or float64 \(real numbers\), got"),
    "list": (lambda x: x.tolist(), r"builtins\.list: convert it with npconv\.asarray\(x\)"),
    "tuple": (tuple, r"builtins\.tuple: convert it with npconv\.asarray\(x\)"),
    "number": (lambda x: 1.5, r"builtins\.float: convert"),
    "NumPy scalar": (lambda x: np.float32(1), r"numpy\.float32: convert"),
    "None": (lambda x: None, r"builtins\.NoneType: convert"),
    "matrix": (_matrix, r"matrix: convert"),
    "masked array": (lambda x: np.ma.masked_array(x, mask=x > 0), r"MaskedArray: convert"),
    "memory map": (on_disk, r"memmap: convert"),
    "subclass": (lambda x: x.view(Subclass), r"odd_arrays\.Subclass: convert"),
    "memory view": (lambda x: memoryview(x), r"builtins\.memoryview: convert"),
}


def repeating(shape: tuple[int, ...], dtype: str) -> dict[str, np.ndarray]:
    """Arrays of a shape whose elements share memory: they overlap themselves."""
    row = np.linspace(-1, 1, shape[-1], dtype=dtype)
    long = np.linspace(-1, 1, sum(shape), dtype=dtype)
    return {
        "broadcast": np.broadcast_to(row, shape),
        "sliding": np.lib.stride_tricks.as_strided(long, shape, (long.itemsize,) * len(shape), writeable=False),
    }
