"""What PyTorch's pickles may name, and the inert records it becomes: storages, tensors, and plain containers.

A tensor is a window on a storage: an offset, a shape and strides, in elements. It is checked here that the window lies
within the storage, before any element is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..errors import FileFormatError
from .dtypes import CODES, element_count, item_size, whole_number, whole_numbers
from .restricted_pickle import Call, Inert, fill

DEVICE, NUMPY_VALUE = Inert("a device"), Inert("a value of NumPy's")


@dataclass(frozen=True)
class StorageType:
    """torch.FloatStorage and its siblings; "" is a storage of bytes whose elements the tensor knows."""

    dtype: str


@dataclass(frozen=True)
class Dtype:
    """torch.float32 and its siblings."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A row of `count` elements that the file has under `key`; `start`: where a view of it begins."""

    key: str
    dtype: str
    count: int
    start: int = 0
    whole: int = 0  # elements in the file; more than `count` where this is a view

    @property
    def byte_count(self) -> int:
        """Bytes in the file."""
        return self.whole * (item_size(self.dtype) if self.dtype else 1)


@dataclass(frozen=True)
class TensorRecord:
    """A tensor that has not been read yet; offset and strides count elements of `dtype` from the storage's start."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def byte_count(self) -> int:
        """Bytes of the array that it becomes."""
        return math.prod(self.shape) * (4 if self.dtype == "bfloat16" else item_size(self.dtype))


def storage_from_id(identity: Any) -> Storage:
    """What a persistent id stands for: ("storage", type, key, location, count), in old files with a view at the end."""
    if type(identity) is not tuple or not identity or identity[0] != "storage":
        kind = identity[0] if type(identity) is tuple and identity and isinstance(identity[0], str) else "?"
        raise FileFormatError(f"refused: a persistent id of kind {kind[:50]!r}, it must be 'storage'")
    if len(identity) not in (5, 6):
        raise FileFormatError(f"the id of a storage has {len(identity)} parts, it must have 5 or 6")
    _, kind, key, _, count = identity[:5]
    if not isinstance(kind, StorageType) or not isinstance(key, str):
        raise FileFormatError("the id of a storage must have its type and a key of text")
    whole = whole_number(count, f"the number of elements of storage {key[:50]!r}")
    storage = Storage(key, kind.dtype, whole, 0, whole)
    view = identity[5] if len(identity) == 6 else None
    if view is None:
        return storage
    if not storage.dtype:
        raise FileFormatError(f"a view of storage {key[:50]!r}, which has no type: such files have none")
    return _view(storage, view)


def _view(storage: Storage, view: Any) -> Storage:
    """A part of a storage, as PyTorch before 0.4 wrote it: (key, offset, count)."""
    if type(view) is not tuple or len(view) != 3:
        raise FileFormatError("the view of a storage must be (key, offset, count)")
    start, count = whole_number(view[1], "a view's offset"), whole_number(view[2], "a view's size")
    if start + count > storage.whole:
        raise FileFormatError(f"a view of elements {start} to {start + count} of a storage of {storage.whole}")
    return replace(storage, start=start, count=count)


def _tensor(arguments: tuple[Any, ...]) -> TensorRecord:
    """_rebuild_tensor(storage, offset, shape, strides), _v2(..., requires_grad, hooks, metadata)."""
    if len(arguments) not in (4, 6, 7):
        raise FileFormatError(f"a tensor is made of 4, 6 or 7 values, got {len(arguments)}")
    storage = arguments[0]
    if not isinstance(storage, Storage) or not storage.dtype:
        raise FileFormatError("a tensor must have a storage with a type")
    _check_metadata(arguments[6:])
    return _checked_tensor(storage, storage.dtype, *arguments[1:4])


def _typed_tensor(arguments: tuple[Any, ...]) -> TensorRecord:
    """_rebuild_tensor_v3(storage of bytes, offset, shape, strides, requires_grad, hooks, dtype, metadata)."""
    if len(arguments) not in (7, 8):
        raise FileFormatError(f"a tensor with its dtype is made of 7 or 8 values, got {len(arguments)}")
    storage, dtype = arguments[0], arguments[6]
    if not isinstance(storage, Storage) or not isinstance(dtype, Dtype):
        raise FileFormatError("a tensor with its dtype must have a storage and a dtype")
    if storage.dtype not in ("", dtype.name):
        raise FileFormatError(
            f"a tensor of {dtype.name} must have a storage of bytes or of {dtype.name}, not of {storage.dtype}"
        )
    _check_metadata(arguments[7:])
    return _checked_tensor(storage, dtype.name, *arguments[1:4])


def _check_metadata(given: tuple[Any, ...]) -> None:
    """What else PyTorch says of a tensor changes its values ("neg", "conj"): there may be none."""
    if given and given[0] is not None and not (type(given[0]) is dict and not given[0]):
        named = ", ".join(str(name)[:20] for name in list(given[0])[:3]) if type(given[0]) is dict else "?"
        raise FileFormatError(f"refused: a tensor with metadata ({named}), such as a negated or conjugate view")


def _checked_tensor(storage: Storage, dtype: str, offset: Any, shape: Any, strides: Any) -> TensorRecord:
    what = f"a tensor of storage {storage.key[:50]!r}"
    offset = whole_number(offset, f"{what}: the offset")
    shape = whole_numbers(shape, f"{what}: the shape")
    strides = whole_numbers(strides, f"{what}: the strides")
    if len(shape) != len(strides):
        raise FileFormatError(f"{what}: shape {shape} and strides {strides} must have as many axes")
    size = element_count(shape, what)
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True)) if size else -1
    held = storage.count if storage.dtype else storage.count // item_size(dtype)
    if last >= held:
        raise FileFormatError(
            f"{what}: shape {shape}, strides {strides} and offset {offset} reach element {last}, the storage has {held}"
        )
    return TensorRecord(storage, dtype, offset, shape, strides)


def _parameter(arguments: tuple[Any, ...]) -> TensorRecord:
    """_rebuild_parameter(tensor, requires_grad, hooks, and a state), torch.nn.Parameter(tensor, requires_grad)."""
    if not arguments or not isinstance(arguments[0], TensorRecord):
        raise FileFormatError("a parameter must be made of a tensor")
    return arguments[0]


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """OrderedDict() or OrderedDict([[key, value], ...]), Counter({...})."""
    made: dict[Any, Any] = {}
    if arguments == () or len(arguments) != 1:
        if arguments:
            raise FileFormatError("a dictionary must be made of one list of pairs")
        return made
    items = list(arguments[0].items()) if type(arguments[0]) is dict else arguments[0]
    if type(items) is not list or any(type(pair) not in (list, tuple) or len(pair) != 2 for pair in items):
        raise FileFormatError("a dictionary must be made of a list of pairs")
    fill(made, items)
    return made


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    if len(arguments) != 1:
        raise FileFormatError("torch.Size must be made of one tuple")
    return whole_numbers(arguments[0], "torch.Size")


def _device(arguments: tuple[Any, ...]) -> Inert:
    if not 1 <= len(arguments) <= 2 or not all(isinstance(part, (str, int)) for part in arguments):
        raise FileFormatError("torch.device must be made of text and a number")
    return DEVICE


def _numpy_value(arguments: tuple[Any, ...]) -> Inert:
    """Scalars of NumPy's beside the tensors, such as the best score: what they are made of is not looked at."""
    return NUMPY_VALUE


_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_CALLS = {
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
    "numpy.dtype": _numpy_value,
    "numpy.core.multiarray.scalar": _numpy_value,
    "numpy._core.multiarray.scalar": _numpy_value,
    "_codecs.encode": _numpy_value,  # the bytes of a scalar, as pickles of protocol 2 have them; nothing is encoded
}
ADMITTED: dict[str, Any] = {
    **{name: Call(name, make) for name, make in _CALLS.items()},
    **{f"torch.{name}": StorageType(dtype) for name, dtype in _STORAGES.items()},
    **dict.fromkeys(("torch.storage.UntypedStorage", "torch.UntypedStorage"), StorageType("")),
    **{f"torch.{name}": Dtype(name) for name in CODES},
}
