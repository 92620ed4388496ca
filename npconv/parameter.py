"""Parameter: an array that training changes, with its gradient."""

from __future__ import annotations

import itertools
from typing import Any

from . import checks
from .backends import backend
from .backends.base import Array

_numbers = itertools.count(1)  # of changes: next() is atomic, and no thread gets a number twice
_structure = 0


def structure_changed(of: Any = None) -> None:
    """Say that a module or the dtype of a parameter has changed: copies made for workers are out of date.

    `of`: the module or parameter; it remembers the change, for `Module.structure_number`.
    """
    global _structure
    number = next(_numbers)
    if of is not None:
        vars(of)["_changed"] = number
    _structure = number


def structure_version() -> int:
    """A number that is another one after any change of any module, but for the values of its arrays."""
    return _structure


class Parameter:
    """An array that training changes, `.data`, and the gradient of the loss with respect to it, `.grad`.

    `grad` always is an array of the shape of `data`; it starts at zero. A parameter of a replica shares
    `data` with its original and has a `grad` of its own.
    """

    def __init__(self, data: Any, original: Parameter | None = None) -> None:
        self._original = original
        # A copy, in the same memory order: training changes the values in place, but not the caller's array.
        self._data = None
        if original is None:
            self._data = checks.array(backend().asarray(data), "Parameter").copy(order="K")
        self.grad: Array = backend().xp.zeros_like(self.data)

    @property
    def data(self) -> Array:
        """The values. Assigning an array of the same shape replaces them, in place; another dtype is taken over."""
        return self._data if self._original is None else self._original.data

    @data.setter
    def data(self, values: Any) -> None:
        if self._original is not None:
            self._original.data = values
        else:
            values = checks.array(backend().asarray(values), "Parameter.data")
            if values.shape != self.shape:
                raise ValueError(f"Parameter.data of shape {values.shape} must have the parameter's shape {self.shape}")
            if values.dtype == self.dtype:
                self.data[...] = values  # in place: an optimizer may hold this very array
            else:
                self._data = values.copy(order="K")
                structure_changed(self)
        if self.grad.dtype != self.dtype:
            self.grad = self.grad.astype(self.dtype)

    def share(self, room: Array) -> None:
        """Compute with `room`, an array like `data`, from now on: memory that another process writes."""
        if self._original is not None:
            self._original.share(room)
        else:
            self._data = room

    def fill(self, values: Any) -> None:
        """Copy `values` (numbers, or an array that broadcasts) into `data`; the dtype stays."""
        self.data[...] = backend().asarray(values)

    def read(self, dtype: Any) -> Array:
        """`data` for a computation in `dtype`; TypeError if that would lose digits."""
        if self.dtype.itemsize > dtype.itemsize:
            raise TypeError(
                f"the input is {dtype} and the parameters are {self.dtype}: convert the input with "
                f"x.astype('{self.dtype}'), or the network with network.astype('{dtype}')"
            )
        return self.data.astype(dtype, copy=False)

    def accumulate(self, grad: Array) -> None:
        """Add `grad` to the gradient."""
        self.grad += grad.astype(self.dtype, copy=False)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    def __len__(self) -> int:
        return len(self.data)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.data.__array__(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Parameter{self.shape} {self.dtype}\n{self.data!r}"
