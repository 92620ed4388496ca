"""The stand-in's array: NumPy's memory, CuPy's behaviour.

As CuPy's, it refuses `__array__` and operands of NumPy; results of arithmetic are C-contiguous, whatever the layout
of the operands; `copy()` and `deepcopy` are in C order; memory that nothing has written is garbage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import state
from .state import Memory

_COMPARISONS = ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")


class ndarray:
    """An array on the device that is not there."""

    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]
    __slots__ = ("__weakref__", "base", "memory", "on_host")
    __module__ = "cupy"

    def __init__(self, shape: Any, dtype: Any = float, order: str = "C") -> None:
        dtype = np.dtype(dtype)
        if dtype.kind not in "?biufc":
            raise ValueError(f"Unsupported dtype {dtype}")
        self.on_host = _garbage(np.empty(shape, dtype, order=order))
        self.memory = _new_memory()
        self.base: ndarray | None = None

    # ---- what it is ----
    shape = property(lambda self: self.on_host.shape)
    dtype = property(lambda self: self.on_host.dtype)
    ndim = property(lambda self: self.on_host.ndim)
    size = property(lambda self: self.on_host.size)
    itemsize = property(lambda self: self.on_host.itemsize)
    nbytes = property(lambda self: self.on_host.nbytes)
    strides = property(lambda self: self.on_host.strides)
    flags = property(lambda self: _Flags(self.on_host.flags))
    T = property(lambda self: self.transpose())
    device = property(lambda self: SimpleNamespace(id=0))
    data = property(lambda self: SimpleNamespace(ptr=self.on_host.ctypes.data, mem=self.memory, device_id=0))

    def __len__(self) -> int:
        return len(self.on_host)

    def __repr__(self) -> str:
        return repr(self.get())

    def __iter__(self) -> Iterator[ndarray]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    # ---- to and from the host ----
    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array "
            "explicitly."
        )

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> Any:
        state.to_host(self.nbytes)
        if out is None:
            return self.on_host.copy(order=order)
        if (out.shape, out.dtype) != (self.shape, self.dtype):
            raise ValueError(f"out of {out.dtype} {out.shape} for an array of {self.dtype} {self.shape}")
        out[...] = self.on_host
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if (arr.shape, arr.dtype) != (self.shape, self.dtype):
            raise ValueError(f"array of {arr.dtype} {arr.shape} set to one of {self.dtype} {self.shape}")
        if not (self.on_host.flags.c_contiguous or self.on_host.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        state.to_device(self.nbytes)
        self.on_host[...] = arr

    def item(self, *index: Any) -> Any:
        return self.get().item(*index)

    def tolist(self) -> Any:
        return self.get().tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self.get().tobytes(order)

    def __bool__(self) -> bool:
        return bool(self.get())

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __reduce__(self) -> Any:
        from .functions import array

        return array, (self.get(),)

    # ---- views ----
    def transpose(self, *axes: Any) -> ndarray:
        return _view(self, self.on_host.transpose(*axes))

    def swapaxes(self, axis1: int, axis2: int) -> ndarray:
        return _view(self, self.on_host.swapaxes(axis1, axis2))

    def squeeze(self, axis: Any = None) -> ndarray:
        return _view(self, self.on_host.squeeze(axis))

    def view(self, dtype: Any = None) -> ndarray:
        return _view(self, self.on_host.view() if dtype is None else self.on_host.view(dtype))

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        shape = shape[0] if len(shape) == 1 else shape
        try:
            return _view(self, self.on_host.reshape(shape, order=order, copy=False))
        except ValueError:
            self.on_host.reshape(shape)  # raises if the shape is at fault
            return compute(lambda: self.on_host.reshape(shape, order=order), self)

    def ravel(self, order: str = "C") -> ndarray:
        return self.reshape(-1, order=order)

    def flatten(self, order: str = "C") -> ndarray:
        return compute(lambda: self.on_host.flatten(order), self)

    # ---- copies ----
    def copy(self, order: str = "C") -> ndarray:
        return compute(lambda: self.on_host.copy(order=order), self, layout=order)

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        converted = self.on_host.astype(dtype, order=order, copy=False) if not copy else None
        if converted is self.on_host:
            return self
        return compute(lambda: self.on_host.astype(dtype, order=order, copy=True), self, layout=order)

    def fill(self, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.shape != ():
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if isinstance(value, ndarray) and value.shape != ():
            raise ValueError("non-scalar cupy.ndarray cannot be used for fill")
        value = operand(value.item() if isinstance(value, np.ndarray) else value)
        change(self, lambda: _assign(self.on_host, ..., value), self)

    # ---- indexing ----
    def __getitem__(self, key: Any) -> ndarray:
        key, advanced = _index(key)
        if not advanced:
            return _view(self, self.on_host[key])
        if any(part.dtype == bool for part in advanced):
            state.synchronised("an index of booleans")
        return compute(lambda: self.on_host[key], self)

    def __setitem__(self, key: Any, value: Any) -> None:
        key, advanced = _index(key)
        if not advanced and not isinstance(value, ndarray):
            _view(self, self.on_host[key]).fill(value)
            return
        for part in advanced:
            if (
                part.dtype != bool
                and len(advanced) == 1
                and np.unique(part % self._indexed_length(key)).size < part.size
            ):
                raise ValueError("an index names an element twice: which value stays is left to chance")
        if isinstance(value, ndarray):
            change(self, lambda: _assign(self.on_host, key, value.on_host), self, value)
        else:
            given = np.asarray(value, self.dtype)  # as CuPy: lists and NumPy's arrays are copied to the device
            if given.size > 1:
                state.to_device(given.nbytes)
            change(self, lambda: _assign(self.on_host, key, given), self)

    def _indexed_length(self, key: Any) -> int:
        """The length of the axis that the one array in `key` indexes."""
        parts = key if isinstance(key, tuple) else (key,)
        position = next(i for i, part in enumerate(parts) if isinstance(part, np.ndarray))
        before = sum(part is not None for part in parts[:position] if part is not Ellipsis)
        if any(part is Ellipsis for part in parts[:position]):
            after = sum(part is not None for part in parts[position:])
            before = self.ndim - after
        return self.shape[before]

    def take(self, indices: Any, axis: Any = None, out: Any = None) -> ndarray:
        if not isinstance(indices, (int, np.integer, ndarray)):
            state.to_device(np.asarray(indices).nbytes)
        chosen = indices.on_host if isinstance(indices, ndarray) else np.asarray(indices, int)
        return into(out, lambda: self.on_host.take(chosen, axis), self)

    def nonzero(self) -> tuple[ndarray, ...]:
        state.synchronised("nonzero")
        return tuple(compute(lambda part=part: part, self) for part in self.on_host.nonzero())

    # ---- operators of other arrays' functions ----
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        from .arithmetic import UFUNCS

        own = UFUNCS.get(ufunc.__name__)
        if method != "__call__" or own is None:
            return NotImplemented
        if ufunc.__name__ in _COMPARISONS:  # where NumPy makes arrays of its numbers; CuPy takes them back as well
            inputs = tuple(x.item() if isinstance(x, np.ndarray) and x.ndim == 0 else x for x in inputs)
        return own(*inputs, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from .module import FUNCTIONS

        own = FUNCTIONS.get(func.__name__)
        if own is None or not all(issubclass(kind, ndarray) for kind in types):
            return NotImplemented
        return own(*args, **kwargs)


class _Flags:
    """What CuPy's flags tell."""

    def __init__(self, flags: Any) -> None:
        self.c_contiguous: bool = flags.c_contiguous
        self.f_contiguous: bool = flags.f_contiguous
        self.forc: bool = flags.forc
        self.owndata: bool = flags.owndata

    def __getitem__(self, name: str) -> bool:
        return getattr(self, name.lower())


def operand(value: Any) -> Any:
    """What a kernel takes: an array's memory, or a number; TypeError for all else, as from CuPy."""
    if isinstance(value, ndarray):
        return value.on_host
    if isinstance(value, (bool, int, float, complex, np.generic)):
        return value
    raise TypeError(f"Unsupported type {type(value)}")


def compute(function: Callable[[], Any], *sources: ndarray, layout: str = "C") -> ndarray:
    """A new array with what `function` computes from the memory of `sources`; C-contiguous unless `layout` says so."""
    with np.errstate(all="ignore"):
        value = np.asarray(function())
    if value.flags.owndata and not any(value is source.on_host for source in sources):
        result = wrap(np.asarray(value, order=layout))
    else:
        result = wrap(np.array(value, order=layout))
    memories = [source.memory for source in sources] + [result.memory]
    if state.capture() is not None:
        _garbage(result.on_host)
        state.run(lambda out=result.on_host: np.copyto(out, function()), memories)
    else:
        state.run(lambda: None, memories)
    return result


def change(target: ndarray, step: Callable[[], Any], *touched: ndarray) -> ndarray:
    """Change memory in place."""
    state.run(step, [array.memory for array in (target, *touched)])
    return target


def into(out: ndarray | None, function: Callable[[], Any], *sources: ndarray, casting: Any = "same_kind") -> ndarray:
    """What `function` computes, in `out` or in a new array."""
    if out is None:
        return compute(function, *sources)
    if not isinstance(out, ndarray):
        raise TypeError("Output arguments type must be cupy.ndarray")
    with np.errstate(all="ignore"):
        value = np.asarray(function())
    if out.shape != value.shape:
        raise ValueError(f"Out shape is mismatched: {out.shape}, not {value.shape}")
    if not np.can_cast(value.dtype, out.dtype, casting):
        raise TypeError(f"output (typecode {value.dtype.char!r}) could not be coerced to {out.dtype} by {casting!r}")
    if state.capture() is None:
        return change(out, lambda: np.copyto(out.on_host, value, casting=casting), *sources)
    return change(out, lambda: np.copyto(out.on_host, function(), casting=casting), *sources)


def _assign(host: Any, key: Any, value: Any) -> None:
    host[key] = value


def _index(key: Any) -> tuple[Any, list[Any]]:
    """An index for NumPy, and the arrays in it; lists and NumPy's arrays are copied to the device, as by CuPy."""
    parts = list(key) if isinstance(key, tuple) else [key]
    if not any(part is Ellipsis for part in parts):
        parts.append(Ellipsis)  # NumPy would make a number of a single element, which is a view here
    advanced = []
    for position, part in enumerate(parts):
        if part is None or part is Ellipsis or isinstance(part, slice):
            continue
        if np.isscalar(part) and not isinstance(part, (bool, np.bool_)):
            continue
        if not isinstance(part, ndarray):
            part = np.asarray(part, dtype=None if np.size(part) else np.int32)
            state.to_device(part.nbytes)
        host = part.on_host if isinstance(part, ndarray) else part
        if host.dtype.kind not in "biu":
            raise IndexError(f"arrays used as indices must be of integer or boolean type. (actual: {host.dtype})")
        parts[position] = host
        advanced.append(host)
    return tuple(parts), advanced


def _view(source: ndarray, host: Any) -> ndarray:
    """Another look at the memory of `source`: no operation on the device."""
    result = object.__new__(ndarray)
    result.on_host = host
    result.memory = source.memory
    result.base = source if source.base is None else source.base
    return result


def wrap(host: Any) -> ndarray:
    """An array of its own memory: `host`, which nothing else holds."""
    result = object.__new__(ndarray)
    result.on_host = host
    result.memory = _new_memory()
    result.base = None
    return result


def _new_memory() -> Memory:
    memory = Memory()
    recording = state.capture()
    if recording is not None:
        recording.made(memory)
    return memory


def wrap_garbage(host: Any) -> ndarray:
    """An array of memory that nothing has written."""
    return wrap(_garbage(host))


def _garbage(host: Any) -> Any:
    """Set all bits: NaN, -1 or a large number."""
    host[...] = np.frombuffer(b"\xff" * host.itemsize, host.dtype)[0]
    return host
