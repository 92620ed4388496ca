"""Parameters side by side in one array, so that one operation of a device updates all of them."""

from __future__ import annotations

from typing import Any

from .backends import backend
from .backends.base import Array
from .parameter import Parameter
from .replica import laid_out_like

State = dict[str, Any]


class FlatParameters:
    """Parameters of one dtype, their gradients, and what the optimizer remembers of them, each in one 1-D array.

    An optimizer updates it like one parameter: it has `data`, `grad` and `state`. The parameters' own arrays become
    parts of the flat ones, in the same memory order; the values stay.
    """

    def __init__(self, parameters: list[Parameter], states: list[State]) -> None:
        self.parameters, self.states = parameters, states
        self.data, data = _joined([parameter.data for parameter in parameters])
        self.grad, grads = _joined([parameter.grad for parameter in parameters])
        for parameter, values, grad in zip(parameters, data, grads, strict=True):
            parameter.share(values)
            parameter.grad = grad
        self._parts = list(zip(data, grads, strict=True))
        self._state_parts: dict[str, list[Array]] = {}
        self.state: State = {}
        for name, value in states[0].items():
            if _is_array(value):
                self.state[name], parts = _joined([state[name] for state in states])
                self._hand_out(name, parts)
            else:
                self.state[name] = value

    @property
    def size(self) -> int:
        return int(self.data.size)

    def is_current(self) -> bool:
        """Whether the parameters and their states still lie here: nothing replaced, converted, added or taken away."""
        pairs = zip(self.parameters, self._parts, strict=True)
        if not all(p.data is values and p.grad is grad for p, (values, grad) in pairs):
            return False
        return all(self._is_part(i, state) for i, state in enumerate(self.states))

    def _is_part(self, index: int, state: State) -> bool:
        """Whether a parameter's own state is its part of `state`."""
        if state.keys() != self.state.keys():
            return False
        parts = self._state_parts
        return all(v is parts[name][index] if name in parts else v == self.state[name] for name, v in state.items())

    def share_state(self) -> None:
        """Let each parameter's own state be its part of `state`, after an update has changed that."""
        for name, value in self.state.items():
            if not _is_array(value):
                for state in self.states:
                    state[name] = value
            elif name not in self._state_parts:
                self._hand_out(name, _parts(value, [parameter.data for parameter in self.parameters]))

    def _hand_out(self, name: str, parts: list[Array]) -> None:
        self._state_parts[name] = parts
        for state, part in zip(self.states, parts, strict=True):
            state[name] = part


def flattened(parameters: list[Any], states: list[State]) -> list[tuple[Any, State]]:
    """(parameter, state) pairs that an optimizer updates one by one: `FlatParameters` where several can go together.

    They can if they are of one dtype, and at the same step. (parameter, gradient) pairs of arrays stay as they are:
    they belong to someone else.
    """
    groups: dict[Any, tuple[list[Any], list[State]]] = {}
    for i, (parameter, state) in enumerate(zip(parameters, states, strict=True)):
        kinds = tuple((name, None if _is_array(value) else value) for name, value in sorted(state.items()))
        key = (str(parameter.data.dtype), kinds) if isinstance(parameter, Parameter) else i
        own, remembered = groups.setdefault(key, ([], []))
        own.append(parameter)
        remembered.append(state)
    pairs: list[tuple[Any, State]] = []
    for own, remembered in groups.values():
        if isinstance(own[0], Parameter):
            flat = FlatParameters(own, remembered)
            pairs.append((flat, flat.state))
        else:
            pairs.append((own[0], remembered[0]))
    return pairs


def whole_arrays(parts: list[Array]) -> list[Array]:
    """The arrays that hold all of these, to be cleared in one go: what they are parts of, if they fill it."""
    bases = {id(base): base for base in (part.base for part in parts) if base is not None}
    flat = [base for base in bases.values() if base.ndim == 1]
    parts_only = len(flat) == len(bases) and all(part.base is not None for part in parts)
    return flat if parts_only and sum(base.size for base in flat) == sum(part.size for part in parts) else parts


def _is_array(value: Any) -> bool:
    return backend().owns(value) and value.ndim > 0


def _joined(arrays: list[Array]) -> tuple[Array, list[Array]]:
    """A 1-D array with the values of these, and the parts of it that are like them."""
    flat = backend().xp.empty(sum(array.size for array in arrays), arrays[0].dtype)
    parts = _parts(flat, arrays)
    for part, array in zip(parts, arrays, strict=True):
        part[...] = array
    return flat, parts


def _parts(flat: Array, like: list[Array]) -> list[Array]:
    """The 1-D array cut into arrays of these shapes and memory orders."""
    parts, start = [], 0
    for array in like:
        parts.append(laid_out_like(array, flat[start : start + array.size]))
        start += array.size
    return parts
