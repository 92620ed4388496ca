"""Module and Layer: what every part of a network is (its Parameters are in parameter.py).

    x -> [module] -> [module] -> output -> loss                 forward
    dx <- [module] <- [module] <- grad_output <- loss           backward

A module's `forward` keeps what its `backward` needs. `backward(grad_output)` adds to the gradient of each parameter
and returns the gradient with respect to the input.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from . import checks, ownership
from .backends import backend
from .backends.base import Array
from .parameter import Parameter as Parameter
from .parameter import structure_changed as structure_changed
from .parameter import structure_version as structure_version

M = TypeVar("M", bound="Module")
Number = float  # Module.float is a method, and hides the type within the class

_keeping: ContextVar[bool] = ContextVar("npconv_keeping", default=True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Within this context (or decorated function), forward keeps nothing, and so backward is not possible."""
    token = _keeping.set(False)
    try:
        yield
    finally:
        _keeping.reset(token)


def is_grad_enabled() -> bool:
    """Whether forward keeps what backward needs: False within `no_grad`."""
    return _keeping.get()


class BackwardError(ValueError, RuntimeError):
    """`backward` was called without a `forward` to go back through (PyTorch's is a RuntimeError, so this is both)."""


class Loaded(NamedTuple):
    """What `load_state_dict(strict=False)` did not match: names the state lacks, and names it has too many."""

    missing: list[str]
    unexpected: list[str]


class Module(ABC):
    """A part of a network. Subclasses write `forward` and `backward`.

    Attributes that are a `Parameter` or a `Module` are found by themselves. `buffers` names array attributes that
    belong to the state but are not trained. `splits_batch` says whether images of a batch can be computed apart.
    """

    buffers: ClassVar[tuple[str, ...]] = ()
    transient: ClassVar[tuple[str, ...]] = ("_kept",)  # what forward keeps: a replica starts without it
    training: bool = True
    input_gradient: bool = True

    @abstractmethod
    def forward(self, x: Array) -> Array:
        """The output for `x`; keeps what `backward` needs, unless under `no_grad`."""

    @abstractmethod
    def backward(self, grad_output: Array) -> Array:
        """Add to the parameters' gradients; return the gradient with respect to forward's input."""

    def __call__(self, x: Array) -> Array:
        return self.forward(x)

    # ---- who owns an array: see `Sequential` ----
    def forward_in_place(self, x: Array) -> Array:
        """As `forward`, for an `x` that nobody else holds: it may be overwritten."""
        return self.forward(x)

    def forward_with(self, x: Array, following: Module) -> Array | None:
        """What `following` makes of this module's output, in one operation; None where there is no such operation."""
        return None

    def backward_in_place(self, grad_output: Array) -> Array:
        """As `backward`, for a `grad_output` that nobody else holds: it may be overwritten."""
        return self.backward(grad_output)

    @property
    def fresh_output(self) -> bool:
        """Whether forward's result is always a new array that nobody else holds, this module included."""
        return False

    @property
    def fresh_gradient(self) -> bool:
        """Whether backward's result is always a new array that nobody else holds, this module included."""
        return False

    def __init_subclass__(cls, **arguments: Any) -> None:
        """A subclass that writes forward or backward anew has to say anew that the result is a fresh array."""
        super().__init_subclass__(**arguments)
        ownership.take_back_promises(cls)

    @property
    def splits_batch(self) -> bool:
        """Whether the images of a batch do not see each other, so that workers may share it."""
        return all(child.splits_batch for _, child in self.named_children())

    @property
    def scale(self) -> tuple[Fraction, Fraction]:
        """How many times larger (height, width) of the output are than those of the input, up to rounding."""
        return Fraction(1), Fraction(1)

    @property
    def size_multiple(self) -> tuple[int, int]:
        """Of what the input's (height, width) must be multiples, so that strides lose no row and no column."""
        return self.scale[0].denominator, self.scale[1].denominator

    def input_range(self, axis: int, start: int, stop: int) -> tuple[int, int] | None:
        """Which rows (axis 0) or columns (axis 1) of the input the outputs start .. stop - 1 depend on.

        (first, last + 1); it may reach past the borders. None, unless a subclass says otherwise: anything. Large
        images go through a network in tiles only if all of its modules say; see prediction.py.
        """
        return None

    # ---- the tree of modules ----
    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside, with their names."""
        for name, value in list(vars(self).items()):  # another thread's forward may add what it keeps
            if isinstance(value, Module):
                yield name, value

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module ("" by default) and all inside it, depth first, with dotted names."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        """This module and all inside it."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters, with dotted names as in PyTorch; one that is shared comes once."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, value in list(vars(module).items()):
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def parameters(self) -> Iterator[Parameter]:
        """All parameters."""
        return (parameter for _, parameter in self.named_parameters())

    def param(self) -> list[tuple[Array, Array]]:
        """(parameter, gradient) pairs of arrays, in the order of `parameters`; [] if there are none."""
        return [(parameter.data, parameter.grad) for parameter in self.parameters()]

    # ---- training ----
    def zero_grad(self) -> None:
        """Set the gradient of every parameter to zero."""
        for parameter in self.parameters():
            parameter.grad.fill(0)

    def update_param(self, values: Sequence[Any] | None = None, *, lr: Number | None = None) -> None:
        """Give every parameter a new value: `values`, in the order of `param`; or `lr`, one step down the gradient.

        Raises ValueError, before any parameter changes, if not exactly one is given or a number or shape is wrong.
        """
        parameters = list(self.parameters())
        if (values is None) == (lr is None):
            raise ValueError("update_param takes either values or lr, and exactly one of them")
        if values is None:
            step = checks.number(lr, "lr", 0)
            for parameter in parameters:
                parameter.data[...] -= step * parameter.grad
            return
        if not isinstance(values, Sequence):
            raise TypeError(f"values (={values!r}) must be a list of arrays; for a learning rate, write lr=")
        arrays = [backend().asarray(value) for value in values]
        if [a.shape for a in arrays] != [p.shape for p in parameters]:
            raise ValueError(
                f"values of shapes {[a.shape for a in arrays]} must have the parameters' shapes "
                f"{[p.shape for p in parameters]}"
            )
        for parameter, array in zip(parameters, arrays, strict=True):
            parameter.fill(array)

    update_params = update_param

    def train(self: M, mode: bool = True) -> M:
        """Training mode, for this module and all inside: BatchNorm2d and Dropout differ, nothing else."""
        if not isinstance(mode, bool):
            raise TypeError(f"mode (={mode!r}) must be True or False")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: M) -> M:
        """Evaluation mode: `train(False)`."""
        return self.train(False)

    def astype(self: M, dtype: Any) -> M:
        """Convert parameters, gradients and buffers to float32 or float64, in place."""
        try:
            kind = backend().xp.dtype(dtype)
        except TypeError:  # not a dtype at all
            kind = None
        if kind is None or kind.name not in ("float32", "float64"):
            raise TypeError(f"dtype (={dtype!r}) must be float32 or float64")
        for parameter in self.parameters():
            parameter.data = parameter.data.astype(kind)
        for module in self.modules():
            for name in module.buffers:
                value = getattr(module, name)
                if value is not None and value.dtype.kind == "f":
                    setattr(module, name, value.astype(kind))
        return self

    def replica(self: M) -> M:
        """A copy that shares parameters and buffers, but has gradients and kept activations of its own.

        Workers compute on replicas at the same time; see `Model.train_batch`. Threads of your own that go backward
        through one network need a replica each; forward alone does not.
        """
        return self._replica({})

    def _replica(self: M, made: dict[int, Any]) -> M:
        if id(self) in made:
            return made[id(self)]
        twin = copy.copy(self)
        made[id(self)] = twin
        twin.mark_as_copy()
        for name in self.transient:
            vars(twin).pop(name, None)
        for name, value in list(vars(self).items()):
            if isinstance(value, Parameter):
                if id(value) not in made:
                    made[id(value)] = Parameter(None, original=value)
                vars(twin)[name] = made[id(value)]
            elif isinstance(value, Module):
                vars(twin)[name] = value._replica(made)
        return twin

    def structure_number(self) -> int:
        """Another number after any change of this module or one inside it, but for the values of its arrays.

        Changes of other networks, which other threads may make at any time, leave it as it is.
        """
        parts: Iterator[Module | Parameter] = itertools.chain(self.modules(), self.parameters())
        return max(vars(part).get("_changed", 0) for part in parts)

    def mark_as_copy(self) -> None:
        """From now on, a change of this module is its own: no worker has a copy of it that would be out of date."""
        vars(self)["_is_copy"] = True

    def fork_generator(self, rng: np.random.Generator) -> None:  # noqa: B027 - most modules draw nothing
        """Draw from a child of this module's generator, or of `rng`, from now on, where this module draws at all.

        Training does this to every replica: workers then draw differently, and a run with the same seed repeats.
        """

    def skip_input_gradient(self) -> None:
        """Let backward return None: for the first layer of a network, the costliest gradient that nobody reads."""
        self.input_gradient = False

    # ---- state ----
    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters and buffers, by dotted name."""
        state = {name: parameter.data.copy() for name, parameter in self.named_parameters()}
        state.update((name, getattr(m, key).copy()) for name, m, key in self.named_buffers())
        return state

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Loaded:
        """Copy the arrays of `state` (any backend's) into parameters and buffers of the same names.

        Raises ValueError that lists every missing, unexpected (if `strict`) and mismatched (shape or dtype) name,
        before anything changes. Returns the missing and the unexpected names.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state (={state!r}) must be a mapping of names to arrays, as state_dict() gives")
        own = self._state_arrays()
        loaded = Loaded([n for n in own if n not in state], [n for n in state if n not in own])
        arrays = {name: backend().asarray(state[name]) for name in own if name in state}
        problems = [f"missing: {name}" for name in loaded.missing if strict]
        problems += [f"unexpected: {name}" for name in loaded.unexpected if strict]
        problems += [
            f"mismatched: {name} is {own[name].dtype} {own[name].shape}, the state has {a.dtype} {a.shape}"
            for name, a in arrays.items()
            if a.shape != own[name].shape or a.dtype != own[name].dtype
        ]
        if problems:
            raise ValueError(f"the state does not fit {type(self).__name__}:\n  " + "\n  ".join(problems))
        for name, value in arrays.items():
            own[name][...] = value
        return loaded

    def named_buffers(self) -> Iterator[tuple[str, Module, str]]:
        """All buffers that are not None: dotted name, module, and the attribute's name."""
        for path, module in self.named_modules():
            for name in module.buffers:
                if getattr(module, name) is not None:
                    yield f"{path}.{name}" if path else name, module, name

    def _state_arrays(self) -> dict[str, Array]:
        arrays = {name: parameter.data for name, parameter in self.named_parameters()}
        arrays.update((name, getattr(m, key)) for name, m, key in self.named_buffers())
        return arrays

    # ---- how it is written and stored ----
    def arguments(self) -> dict[str, Any]:
        """The constructor arguments that rebuild this module; only numbers, text, lists and None."""
        return {}

    def extra_repr(self) -> str:
        """What stands between the parentheses of the repr of a module without children."""
        return ""

    def __setattr__(self, name: str, value: Any) -> None:
        """`layer.weight = array` gives the parameter new values; it stays the same Parameter.

        A new value of any attribute is a change of structure, unless its name begins with an underscore: name so what
        forward leaves behind.
        """
        current = vars(self).get(name)
        if isinstance(current, Parameter) and not isinstance(value, Parameter) and value is not None:
            current.data = value
            return
        super().__setattr__(name, value)
        if value is not current and not name.startswith("_") and "_is_copy" not in vars(self):
            structure_changed(self)

    def double(self: M) -> M:
        """`astype("float64")`."""
        return self.astype("float64")

    def float(self: M) -> M:
        """`astype("float32")`."""
        return self.astype("float32")

    def __repr__(self) -> str:
        children = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self.named_children()]
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        return f"{type(self).__name__}(\n" + "\n".join(children) + "\n)"
