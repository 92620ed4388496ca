"""safetensors files: 8 bytes with the length of a JSON header, the header, the elements of the tensors.

The header maps each name to {"dtype", "shape", "data_offsets": [start, stop]}, counted from the header's end, and
"__metadata__" to texts. Elements are little-endian; tensors follow one another without gaps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import FileFormatError
from ..name_order import put_back
from .dtypes import decode, element_count, item_size, whole_number, whole_numbers

# Bytes, for some 50,000 tensors. The format's own library takes 100 MB; in Python such text becomes 25 times as much.
MAX_HEADER = 8_000_000
ALIGNMENT = 8  # bytes: where the elements begin
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
_NAMES = {name: code for code, name in DTYPES.items()}


class _Entry(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_safetensors(path: str) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, by name, each a new array; bfloat16 becomes float32.

    Their order is the header's; where that is alphabetical, as PyTorch's writer leaves it, the order of the modules
    is put back as far as their names are numbers: 2.weight before 10.weight, weight before bias.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        begin, header = _header(file, size)
        entries = {name: _entry(name, value) for name, value in header.items() if name != "__metadata__"}
        _check_places(entries, size - begin)
        arrays = {}
        for name in _in_order(list(entries), [entry.dtype for entry in entries.values()]):
            entry = entries[name]
            file.seek(begin + entry.start)
            arrays[name] = decode(file.read(entry.stop - entry.start), entry.dtype).reshape(entry.shape)
    return arrays


def _header(file: BinaryIO, size: int) -> tuple[int, dict[str, Any]]:
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER or 8 + length > size:
        raise FileFormatError(f"header: its length (={length}) must be at most {MAX_HEADER} and fit into {size} bytes")
    try:
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_without_duplicates)
    except FileFormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"header: not JSON ({error})") from None
    if type(header) is not dict:
        raise FileFormatError("header: it must be a JSON object")
    return 8 + length, header


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise FileFormatError("header: a name is there twice")
    return made


def _entry(name: str, value: Any) -> _Entry:
    what = f"header, {name[:100]!r}"
    if type(value) is not dict or set(value) != {"dtype", "shape", "data_offsets"}:
        raise FileFormatError(f"{what}: it must have dtype, shape and data_offsets")
    dtype = value["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FileFormatError(f"{what}: dtype (={str(dtype)[:50]}) must be one of {', '.join(DTYPES)}")
    shape = whole_numbers(value["shape"], f"{what}: the shape")
    offsets = value["data_offsets"]
    if type(offsets) is not list or len(offsets) != 2:
        raise FileFormatError(f"{what}: data_offsets must be [start, stop]")
    start, stop = (whole_number(offset, f"{what}: data_offsets") for offset in offsets)
    needed = element_count(shape, what) * item_size(DTYPES[dtype])
    if stop - start != needed:
        raise FileFormatError(
            f"{what}: {dtype} {shape} needs {needed} bytes, data_offsets {offsets} have {stop - start}"
        )
    return _Entry(DTYPES[dtype], shape, start, stop)


def _check_places(entries: Mapping[str, _Entry], size: int) -> None:
    """FileFormatError unless the tensors fill `size` bytes one after the other."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if entry.start != end:
            raise FileFormatError(
                f"header, {name[:100]!r}: it begins at {entry.start}, the tensor before it ends at {end}: "
                "no gaps and no overlap"
            )
        end = entry.stop
    if end != size:
        raise FileFormatError(f"the tensors end at byte {end} of {size} after the header")


def _in_order(names: list[str], dtypes: list[str]) -> list[str]:
    by_dtype: dict[str, list[str]] = {}
    for name, dtype in zip(names, dtypes, strict=True):
        by_dtype.setdefault(dtype, []).append(name)
    if any(group != sorted(group) for group in by_dtype.values()):
        return names
    return put_back(sorted(names))


def safetensors_bytes(arrays: Mapping[str, np.ndarray]) -> list[bytes]:
    """The parts of a file that holds `arrays`, C-contiguous; ValueError for a dtype that it cannot hold."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    # The widest first, so that all are aligned; the header keeps the order of the network.
    stored = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)
    starts, end = {}, 0
    for name in stored:
        starts[name] = end
        end += arrays[name].nbytes
    for name, array in arrays.items():
        if array.dtype.name not in _NAMES:
            raise ValueError(f"{name} is {array.dtype}, it must be one of {', '.join(_NAMES)}")
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [starts[name], starts[name] + array.nbytes],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % ALIGNMENT)
    data = [arrays[name].astype(arrays[name].dtype.newbyteorder("<"), copy=False).tobytes() for name in stored]
    return [len(text).to_bytes(8, "little"), text, *data]
