"""Containers: Sequential (one after the other), Concat and Sum (side by side: skip connections), Identity."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, NoReturn, overload

from . import receptive
from .arithmetic import quiet
from .backends import backend
from .backends.base import Array
from .backends.geometry import integer
from .layer import Layer
from .module import BackwardError, Module, is_grad_enabled, structure_changed
from .ownership import gives_fresh_gradient, gives_fresh_output, is_written_by


class Identity(Layer):
    """Gives its input back: the straight branch of a skip connection."""

    pointwise = True

    def _forward(self, x: Array) -> tuple[Array, Any]:
        return x, None

    def _backward(self, grad: Array, saved: Any) -> Array:
        return grad


class Container(Module):
    """Modules under names: "0", "1", ... for positional arguments, or the keys of one dictionary.

    `Container(a, b)` or `Container({"first": a, "second": b})`. Raises TypeError for anything that is not a Module,
    ValueError for a name that is empty or contains a dot.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        self._modules: dict[str, Module] = {}
        named: Mapping[str, Any] = {str(i): module for i, module in enumerate(modules)}
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            named = modules[0]
        held: set[int] = set()
        for name, module in named.items():
            self._insert(name, module, held)
            held.update(id(m) for m in module.modules())

    def _insert(self, name: str, module: Any, others: set[int] | None = None) -> None:
        """Put a module under a name; others: all modules under other names, where they are known."""
        who = type(self).__name__
        if not isinstance(name, str) or not name or "." in name or "/" in name:
            raise ValueError(f"{who}: the name {name!r} must be a text that is not empty and has no dot or slash")
        if not isinstance(module, Module):
            raise TypeError(f"{who}: {name!r} (={module!r}) must be a Module")
        if others is None:
            others = {id(m) for other, child in self._modules.items() if other != name for m in child.modules()}
        if any(id(m) in others for m in module.modules()):
            raise ValueError(
                f"{who}: {name!r} (={module!r}) is in this container already; a module keeps one forward at a time, "
                "so make a second one"
            )
        self._modules[name] = module
        structure_changed(self)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        yield from list(self._modules.items())

    def _replica(self, made: dict[int, Any]) -> Any:
        if id(self) in made:
            return made[id(self)]
        twin = super()._replica(made)
        twin._modules = {name: module._replica(made) for name, module in self._modules.items()}
        return twin

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def _name(self, key: int | str) -> str:
        names = list(self._modules)
        if isinstance(key, str):
            if key not in self._modules:
                raise KeyError(f"{key!r} is not one of {names}")
            return key
        index: int = integer(key, "index", -sys.maxsize)
        if not -len(names) <= index < len(names):
            raise IndexError(f"index {index} is out of range for {len(names)} modules")
        return names[index]

    def __setitem__(self, key: int | str, module: Module) -> None:
        self._insert(self._name(key), module)

    def __getattr__(self, name: str) -> Module:
        modules: dict[str, Module] = self.__dict__.get("_modules", {})
        if name in modules:
            return modules[name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    @contextmanager
    def _located(self, index: int, name: str, x: Any, what: str = "input") -> Iterator[None]:
        """Raise an error from the module `name` again, with the place where it happened."""
        try:
            yield
        except _LOCATED as error:
            self._raise_located(error, index, name, x, what)

    def _raise_located(self, error: Exception, index: int, name: str, x: Any, what: str) -> NoReturn:
        if type(error) not in _LOCATED:  # a subclass, whose constructor may want something else
            raise error
        label = f"{index}" if name == str(index) else f"{index} ({name})"
        place = f"{type(self).__name__}, layer {label}: {self._modules[name]!r}"
        raise type(error)(f"{place}, {what} of shape {getattr(x, 'shape', ())}: {error}") from error


# Errors that are raised again with their place must be of a type whose constructor takes one message.
_LOCATED = (ValueError, TypeError, BackwardError)


class Sequential(Container):
    """Modules in a row: the output of each is the input of the next.

    `Sequential(Conv2d(3, 8, 3), ReLU())` or `Sequential({"conv": ..., "relu": ...})`. Index with a position, a name,
    or a slice (a Sequential that shares the modules). An error from a module is raised again with its index, its
    repr and the input's shape.

    An array that a module has just made, and that nobody else holds, may be overwritten by the next module: so a
    convolution and its activation need one array, not two. The caller's arrays are never changed.
    """

    @overload
    def __getitem__(self, key: int | str) -> Module: ...
    @overload
    def __getitem__(self, key: slice) -> Sequential: ...
    def __getitem__(self, key: int | str | slice) -> Module:
        if isinstance(key, slice):
            return Sequential(dict(list(self._modules.items())[key]))
        return self._modules[self._name(key)]

    def append(self, module: Module) -> Sequential:
        """Add `module` at the end, under the next number that is not taken (a slice may begin at any)."""
        name = next(str(number) for number in itertools.count(len(self)) if str(number) not in self._modules)
        self._insert(name, module)
        return self

    def forward(self, x: Array) -> Array:
        return self._forward(x, owned=False)

    def backward(self, grad_output: Array) -> Array:
        return self._backward(grad_output, owned=False)

    def forward_in_place(self, x: Array) -> Array:
        return self._forward(x, owned=True) if is_written_by(Sequential, self, "forward") else self.forward(x)

    def backward_in_place(self, grad_output: Array) -> Array:
        if not is_written_by(Sequential, self, "backward"):
            return self.backward(grad_output)
        return self._backward(grad_output, owned=True)

    def _forward(self, x: Array, owned: bool) -> Array:
        """`owned`: nobody else holds `x`, so that the first module may overwrite it."""
        place = 0, ""
        modules, fuses, done = list(self._modules.items()), bool(backend().fused_activations), -1
        try:
            for index, (name, module) in enumerate(modules):
                if index == done:
                    continue
                place = index, name
                if fuses and index + 1 < len(modules):
                    following = modules[index + 1][1]
                    y = module.forward_with(x, following)
                    if y is not None:
                        x, owned, done = y, gives_fresh_output(following), index + 1
                        continue
                x = module.forward_in_place(x) if owned else module.forward(x)
                owned = gives_fresh_output(module)
        except _LOCATED as error:
            self._raise_located(error, *place, x, "input")
        return x

    def _backward(self, grad_output: Array, owned: bool) -> Array:
        place = 0, ""
        try:
            for index, (name, module) in reversed(list(enumerate(self._modules.items()))):
                place = index, name
                grad_output = module.backward_in_place(grad_output) if owned else module.backward(grad_output)
                if grad_output is None:  # nobody reads it, nor any further back: see skip_input_gradient
                    break
                owned = gives_fresh_gradient(module)
        except _LOCATED as error:
            self._raise_located(error, *place, grad_output, "grad_output")
        return grad_output

    @property
    def fresh_output(self) -> bool:
        return len(self) > 0 and gives_fresh_output(self[-1])

    @property
    def fresh_gradient(self) -> bool:
        return len(self) > 0 and gives_fresh_gradient(self[0])

    def skip_input_gradient(self) -> None:
        super().skip_input_gradient()
        for module in self:  # to the first that has parameters: what is before it has nothing to learn
            module.skip_input_gradient()
            if next(module.parameters(), None) is not None:
                break

    @property
    def scale(self) -> tuple[Fraction, Fraction]:
        height, width = Fraction(1), Fraction(1)
        for module in self:
            height, width = height * module.scale[0], width * module.scale[1]
        return height, width

    @property
    def size_multiple(self) -> tuple[int, int]:
        total, multiple = (Fraction(1), Fraction(1)), (1, 1)
        for module in self:
            inner, scale = module.size_multiple, module.scale
            # This module sees size * total: a multiple of `inner` if size is one of the denominator of total / inner.
            needed = [(total[axis] / inner[axis]).denominator for axis in (0, 1)]
            multiple = math.lcm(multiple[0], needed[0]), math.lcm(multiple[1], needed[1])
            total = total[0] * scale[0], total[1] * scale[1]
        return multiple

    def input_range(self, axis: int, start: int, stop: int) -> receptive.Range | None:
        return receptive.in_row(list(self), axis, start, stop)


class Parallel(Container):
    """Branches that all get the same input; how their outputs are joined is the subclass's."""

    transient = ("_shapes",)
    _shapes: list[tuple[int, ...]] | None = None

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        super().__init__(*modules)
        if not self._modules:
            raise ValueError(f"{type(self).__name__} must have at least one branch")

    def __getitem__(self, key: int | str) -> Module:
        return self._modules[self._name(key)]

    def _outputs(self, x: Array) -> list[Array]:
        outputs = []
        for index, (name, branch) in enumerate(self._modules.items()):
            with self._located(index, name, x):
                outputs.append(branch.forward(x))
        self._shapes = [y.shape for y in outputs] if is_grad_enabled() else None
        return outputs

    def _backward_shapes(self) -> list[tuple[int, ...]]:
        if self._shapes is None:
            who = type(self).__name__
            raise BackwardError(f"{who}.backward was called before {who}.forward (or after one under no_grad)")
        return self._shapes

    def _input_gradient(self, grads: list[Array]) -> Any:
        """The branches' input gradients, added up: each branch saw the same input. None if a branch gives none."""
        parts = []
        for index, (name, branch) in enumerate(self._modules.items()):
            with self._located(index, name, grads[index], "grad_output"):
                parts.append(branch.backward(grads[index]))
        if any(part is None for part in parts):
            return None
        return _added_up(parts, [gives_fresh_gradient(branch) for branch in self])

    def skip_input_gradient(self) -> None:
        super().skip_input_gradient()
        for branch in self:
            branch.skip_input_gradient()

    @property
    def fresh_gradient(self) -> bool:
        return len(self) > 1 or gives_fresh_gradient(self[0])

    @property
    def scale(self) -> tuple[Fraction, Fraction]:
        return next(iter(self)).scale

    @property
    def size_multiple(self) -> tuple[int, int]:
        multiples = [branch.size_multiple for branch in self]
        return math.lcm(*(m[0] for m in multiples)), math.lcm(*(m[1] for m in multiples))

    def input_range(self, axis: int, start: int, stop: int) -> receptive.Range | None:
        return receptive.side_by_side(list(self), axis, start, stop)


class Concat(Parallel):
    """Branches side by side, their outputs one after the other along the channels.

    `Concat(Identity(), Sequential(...))` is a U-Net's skip connection. Raises ValueError if the outputs differ in
    anything but channels.
    """

    def forward(self, x: Array) -> Array:
        outputs = self._outputs(x)
        axis = self._axis(outputs[0].shape)
        rest = [(*y.shape[:axis], *y.shape[axis + 1 :]) for y in outputs]
        if any(shape != rest[0] for shape in rest):
            raise ValueError(
                f"Concat: the branches give shapes {[y.shape for y in outputs]}; they may differ in channels only"
            )
        return backend().concatenate(outputs, axis)

    @property
    def fresh_output(self) -> bool:
        return True

    def backward(self, grad_output: Array) -> Array:
        shapes = self._backward_shapes()
        axis = self._axis(shapes[0])
        channels = [shape[axis] for shape in shapes]
        expected = (*shapes[0][:axis], sum(channels), *shapes[0][axis + 1 :])
        _check_grad(self, grad_output, expected)
        grads, start = [], 0
        for count in channels:
            grads.append(grad_output[(slice(None),) * axis + (slice(start, start + count),)])
            start += count
        return self._input_gradient(grads)

    @staticmethod
    def _axis(shape: tuple[int, ...]) -> int:
        return 0 if len(shape) in (1, 3) else 1  # (C, H, W) has its channels first, (N, C, ...) second


class Sum(Parallel):
    """Branches side by side, their outputs added: `Sum(Identity(), Sequential(...))` is a residual block.

    Raises ValueError if the outputs' shapes differ (nothing broadcasts).
    """

    def forward(self, x: Array) -> Array:
        outputs = self._outputs(x)
        if any(y.shape != outputs[0].shape for y in outputs):
            raise ValueError(f"Sum: the branches give shapes {[y.shape for y in outputs]}; they must be equal")
        return _added_up(outputs, [gives_fresh_output(branch) for branch in self])

    @property
    def fresh_output(self) -> bool:
        return len(self) > 1 or gives_fresh_output(self[0])

    def backward(self, grad_output: Array) -> Array:
        shapes = self._backward_shapes()
        _check_grad(self, grad_output, shapes[0])
        return self._input_gradient([grad_output] * len(shapes))


@quiet
def _added_up(parts: list[Array], fresh: list[bool]) -> Array:
    """The sum of the parts, in their order; written over one of those that are `fresh`, which nobody else holds."""
    total, owned = parts[0], fresh[0]
    for part, part_owned in zip(parts[1:], fresh[1:], strict=True):
        if part.dtype != total.dtype:
            total = total + part
        else:
            total = backend().add(total, part, total if owned else part if part_owned else None)
        owned = True
    return total


def _check_grad(module: Module, grad_output: Array, expected: tuple[int, ...]) -> None:
    if getattr(grad_output, "shape", None) != expected:
        raise ValueError(
            f"grad_output of {type(module).__name__}.backward has shape {getattr(grad_output, 'shape', None)}, it "
            f"must have the output's shape {expected}"
        )
