"""CuPy's functions that make, join and choose arrays, for the stand-in."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import state
from .ndarray import compute, into, ndarray, operand, wrap, wrap_garbage


# ---- creation ----
def array(obj: Any, dtype: Any = None, copy: bool | None = True, order: str = "K", subok: bool = False, ndmin: int = 0,
          *, blocking: bool = False) -> ndarray:  # fmt: skip
    if isinstance(obj, ndarray):
        same = dtype is None or np.dtype(dtype) == obj.dtype
        laid = (order in (None, "K", "A")) or obj.flags[{"C": "c_contiguous", "F": "f_contiguous"}[order]]
        if same and laid and not copy:
            return obj
        return obj.astype(dtype or obj.dtype, order=order or "K")
    if isinstance(obj, (list, tuple)) and any(isinstance(item, ndarray) for item in obj):
        return stack([array(item, dtype) for item in obj])
    host = np.array(obj, dtype=dtype, order="C" if order in (None, "K", "A") else order, ndmin=ndmin)
    if host.dtype.kind not in "?biufc":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    state.to_device(host.nbytes)
    return wrap(host)


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: bool | None = None, blocking: bool = False) -> Any:
    return array(a, dtype, copy=copy, order=order or "K")


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, copy=False, order="C")


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> Any:
    if isinstance(a, ndarray):
        return a.get(stream, order, out, blocking)
    return np.asarray(a, order=order)


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return ndarray(shape, dtype, order)


def zeros(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 0, dtype, order)


def ones(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return full(shape, 1, dtype, order)


def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    made = empty(shape, dtype or (fill_value.dtype if hasattr(fill_value, "dtype") else type(fill_value)), order)
    made.fill(fill_value)
    return made


def empty_like(
    prototype: ndarray, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None
) -> ndarray:
    return wrap_garbage(np.empty_like(prototype.on_host, dtype=dtype, order=order, shape=shape))


def zeros_like(a: ndarray, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None) -> ndarray:
    return full_like(a, 0, dtype, order, subok, shape)


def ones_like(a: ndarray, dtype: Any = None, order: str = "K", subok: None = None, shape: Any = None) -> ndarray:
    return full_like(a, 1, dtype, order, subok, shape)


def full_like(a: ndarray, fill_value: Any, dtype: Any = None, order: str = "K", subok: None = None,
              shape: Any = None) -> ndarray:  # fmt: skip
    made = empty_like(a, dtype, order, subok, shape)
    made.fill(fill_value)
    return made


def arange(*args: Any, dtype: Any = None) -> ndarray:
    return compute(lambda: np.arange(*args, dtype=dtype))


def frombuffer(*args: Any, **kwargs: Any) -> ndarray:
    return array(np.frombuffer(*args, **kwargs))


def copy(a: ndarray, order: str = "K") -> ndarray:
    return a.copy(order=order)


def copyto(dst: ndarray, src: Any, casting: Any = "same_kind", where: None = None) -> None:
    dst[...] = src


# ---- joining and choosing ----
def concatenate(tup: Sequence[ndarray], axis: Any = 0, out: Any = None, *, dtype: Any = None,
                casting: Any = "same_kind") -> ndarray:  # fmt: skip
    hosts = [_array_only(item).on_host for item in tup]
    return into(out, lambda: np.concatenate(hosts, axis, dtype=dtype, casting=casting), *tup)


def stack(tup: Sequence[ndarray], axis: int = 0, out: Any = None) -> ndarray:
    hosts = [_array_only(item).on_host for item in tup]
    return into(out, lambda: np.stack(hosts, axis), *tup)


def where(condition: ndarray, x: Any = None, y: Any = None) -> Any:
    if x is None and y is None:
        return condition.nonzero()
    values = [operand(value) for value in (condition, x, y)]
    return compute(lambda: np.where(*values), *[value for value in (condition, x, y) if isinstance(value, ndarray)])


def take(a: ndarray, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
    return a.take(indices, axis, out)


def pad(array: ndarray, pad_width: Any, mode: str = "constant", **kwargs: Any) -> ndarray:
    return compute(lambda: np.pad(array.on_host, pad_width, mode, **kwargs), array)


def broadcast_to(array: ndarray, shape: Any) -> ndarray:
    view = array.view()
    view.on_host = np.broadcast_to(array.on_host, shape)
    return view


def expand_dims(a: ndarray, axis: int) -> ndarray:
    view = a.view()
    view.on_host = np.expand_dims(a.on_host, axis)
    return view


def _array_only(item: Any) -> ndarray:
    if not isinstance(item, ndarray):
        raise TypeError("Only cupy arrays can be concatenated")
    return item


def shares_memory(a: ndarray, b: ndarray, max_work: Any = None) -> bool:
    state.synchronised("shares_memory")  # CuPy compares the addresses of all elements, on the device
    return np.shares_memory(a.on_host, b.on_host)


def get_array_module(*args: Any) -> Any:
    return sys.modules["cupy"] if any(isinstance(arg, ndarray) for arg in args) else np
