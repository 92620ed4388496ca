"""Optimizers, with PyTorch's formulas and defaults."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from . import checks
from .arithmetic import quiet
from .backends import backend
from .backends.base import Array
from .flat import FlatParameters, flattened
from .module import Parameter
from .ownership import is_written_by

Group = dict[str, Any]


class Update(NamedTuple):
    """What a step does to one parameter: an operation of the backend, and what it is called with."""

    operation: str
    arrays: tuple[Array | None, ...]
    options: dict[str, Any]

    def __call__(self) -> None:
        getattr(backend(), self.operation)(*self.arrays, **self.options)


class _Pair:
    """A (parameter, gradient) pair of arrays, as `Module.param` lists them, seen as a Parameter."""

    def __init__(self, data: Array, grad: Array) -> None:
        self.data, self.grad = data, grad


class Optimizer(ABC):
    """Changes parameters by their gradients.

    `parameters`: an iterable of `Parameter`; of (parameter, gradient) pairs of arrays, as `Module.param()` gives; or
    of dictionaries `{"params": ..., "lr": ...}` whose options override the common ones for these parameters.

    `groups` holds the options in force (`groups[0]["lr"]` and so on), `state` what the optimizer remembers, a
    dictionary of arrays and numbers for each parameter in order.
    """

    def __init__(self, parameters: Iterable[Any], options: Mapping[str, Any]) -> None:
        self.groups: list[Group] = []
        self.state: list[dict[str, Any]] = []
        self._flat: list[tuple[Any, dict[str, Any], Group]] = []
        self._flat_parts: list[tuple[int, ...]] = []  # what these were made of; all of it is held by `_flat`
        for group in _as_groups(parameters):
            unknown = sorted(set(group) - set(options) - {"params"})
            if unknown:
                raise ValueError(f"{type(self).__name__}: unknown option(s) {unknown}; known are {sorted(options)}")
            self.groups.append({**options, **group})
            self._check(self.groups[-1])
        if all(getattr(type(self), name) is getattr(Optimizer, name) for name in ("_update", "_prepared")):
            raise TypeError(f"{type(self).__name__} must define _update(parameter, state, group)")
        _check_parameters(type(self).__name__, [p for group in self.groups for p in group["params"]])
        self.state = [{} for group in self.groups for _ in group["params"]]

    @abstractmethod
    def _check(self, group: Group) -> None:
        """Raise for an option outside its rule."""

    def _prepared(self, parameter: Any, state: dict[str, Any], group: Group) -> Update:
        """What the next step does to one parameter; but for its arrays' values, `state` is as it will be afterwards."""
        raise TypeError(f"{type(self).__name__} computes its updates itself: there is none to prepare")

    def _update(self, parameter: Any, state: dict[str, Any], group: Group) -> None:
        """One step of one parameter, in place."""
        self._prepared(parameter, state, group)()

    @quiet
    def step(self) -> None:
        """Change every parameter once. Raises ValueError, before any changes, if a learning rate is not allowed."""
        if is_written_by(Optimizer, self, "_update"):
            for update in self.updates():
                update()
            return
        for group in self.groups:
            self._check(group)
        for parameter, state, group in self._one_by_one():
            self._update(parameter, state, group)

    @property
    def repeats(self) -> bool:
        """Whether a step is nothing but its `updates`; not if someone has written `step` or `_update` anew."""
        return all(is_written_by(Optimizer, self, name) for name in ("step", "_update"))

    def updates(self) -> list[Update]:
        """What `step` would do, to be done exactly once. Raises what `step` raises."""
        for group in self.groups:
            self._check(group)
        parts = self._side_by_side() if backend().updates_flat else self._one_by_one()
        prepared = []
        for parameter, state, group in parts:
            prepared.append(self._prepared(parameter, state, group))
            if isinstance(parameter, FlatParameters):
                parameter.share_state()
        return prepared

    @contextmanager
    def restored_on_error(self) -> Iterator[None]:
        """Updates that were prepared within this context have not happened if it ends with an error."""
        before = [dict(state) for state in self.state]
        try:
            yield
        except BaseException:
            for state, values in zip(self.state, before, strict=True):
                state.clear()
                state.update(values)
            raise

    def _one_by_one(self) -> Iterator[tuple[Any, dict[str, Any], Group]]:
        states = iter(self.state)
        return ((parameter, next(states), group) for group in self.groups for parameter in group["params"])

    def _side_by_side(self) -> list[tuple[Any, dict[str, Any], Group]]:
        """As `_one_by_one`, with the parameters that can go together as one."""
        flats = [part for part, _, _ in self._flat if isinstance(part, FlatParameters)]
        parts = [(id(group), *map(id, group["params"])) for group in self.groups] + [tuple(map(id, self.state))]
        if parts != self._flat_parts or not all(flat.is_current() for flat in flats):
            self._flat, self._flat_parts, states = [], parts, iter(self.state)
            for group in self.groups:
                own = [next(states) for _ in group["params"]]
                self._flat += [(part, state, group) for part, state in flattened(group["params"], own)]
        return self._flat

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_flat": [], "_flat_parts": []}  # a copy's arrays are no parts of these

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for group in self.groups:
            for parameter in group["params"]:
                parameter.grad.fill(0)

    @property
    def lr(self) -> float:
        """The learning rate of the first group; assigning sets that of all groups."""
        return float(self.groups[0]["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        value = checks.number(value, "lr", 0)
        for group in self.groups:
            group["lr"] = value
            if "initial_lr" in group:
                group["initial_lr"] = value  # a schedule goes on from here

    def arguments(self, group: int = 0) -> dict[str, Any]:
        """The options of a group: constructor arguments, besides the parameters.

        What a schedule changes is as it was before: one who trains on from a file begins with it again.
        """
        current = self.groups[group]
        options = {key: current.get(f"initial_{key}", current[key]) for key in _options(current)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.arguments().items())
        return f"{type(self).__name__}({options})"


def _options(group: Group) -> list[str]:
    """The names of a group's options, without its parameters and what schedules remember."""
    return [name for name in group if name != "params" and not name.startswith("initial_")]


def _as_groups(parameters: Iterable[Any]) -> list[Group]:
    if isinstance(parameters, Parameter):
        raise TypeError("parameters must be an iterable of Parameter, such as network.parameters(), not one Parameter")
    if not isinstance(parameters, Iterable):
        raise TypeError(f"parameters (={parameters!r}) must be an iterable of Parameter, such as network.parameters()")
    items = list(parameters)
    groups = items if items and isinstance(items[0], Mapping) else [{"params": items}]
    for group in groups:
        if not isinstance(group, Mapping) or "params" not in group:
            raise TypeError(f"a parameter group (={group!r}) must be a dictionary with 'params'")
    groups = [{**group, "params": [_as_parameter(p) for p in group["params"]]} for group in groups]
    if not any(group["params"] for group in groups):
        raise ValueError("the optimizer got no parameters")
    return groups


def _as_parameter(item: Any) -> Any:
    if isinstance(item, (Parameter, _Pair)):
        return item
    if isinstance(item, tuple) and len(item) == 2 and all(backend().owns(part) for part in item):
        return _as_pair(*item)
    kind = type(item).__name__
    raise TypeError(f"the optimizer takes Parameters or (parameter, gradient) pairs of arrays, got {kind}")


def _as_pair(data: Array, grad: Array) -> _Pair:
    """TypeError or ValueError for what a step could not change, or would broadcast."""
    checks.array(data, "the parameter of a pair")
    checks.array(grad, "the gradient of a pair")
    if grad.shape != data.shape:
        raise ValueError(f"the gradient of a pair, of shape {grad.shape}, must have the parameter's {data.shape}")
    if grad.dtype != data.dtype:
        raise TypeError(f"the gradient of a pair ({grad.dtype}) must have the parameter's dtype {data.dtype}")
    if not getattr(data.flags, "writeable", True):  # CuPy knows no other arrays
        raise ValueError(f"the parameter of a pair must not be read-only: a step changes it (shape {data.shape})")
    return _Pair(data, grad)


def _check_parameters(who: str, parameters: list[Any]) -> None:
    seen: set[int] = set()
    for parameter in parameters:
        if id(parameter) in seen:
            raise ValueError(f"{who}: a parameter of shape {parameter.data.shape} is listed twice")
        seen.add(id(parameter))


class SGD(Optimizer):
    """Stochastic gradient descent: p -= lr v.

    g = grad + weight_decay p; v = g at the first step, then v = momentum v + (1 - dampening) g; with `nesterov`,
    p -= lr (g + momentum v). Without momentum, v = g.

    Raises ValueError for a negative, infinite or NaN number, or for nesterov without momentum or with dampening.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(parameters, {**options, "nesterov": nesterov})

    def _check(self, group: Group) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            group[name] = checks.number(group[name], name, 0)
        group["dampening"] = checks.number(group["dampening"], "dampening")
        group["nesterov"] = checks.flag(group["nesterov"], "nesterov")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                f"nesterov needs momentum (={group['momentum']}) above 0 and dampening (={group['dampening']}) 0"
            )

    def _prepared(self, parameter: Any, state: dict[str, Any], group: Group) -> Update:
        dampening = group["dampening"]
        if group["momentum"] and "velocity" not in state:
            # 0 momentum + (1 - 0) g = g: the first velocity is the gradient itself, whatever the dampening.
            state["velocity"], dampening = backend().xp.zeros_like(parameter.data), 0.0
        arrays = (parameter.data, parameter.grad, state["velocity"] if group["momentum"] else None)
        options = {"lr": group["lr"], "momentum": group["momentum"], "dampening": dampening}
        options |= {"weight_decay": group["weight_decay"], "nesterov": group["nesterov"]}
        return Update("sgd_update", arrays, options)


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015): p -= lr m^ / (sqrt(v^) + eps), m^ and v^ the bias-corrected moments.

    weight_decay is added to the gradient; `amsgrad` divides by the largest second moment so far (Reddi, Kale and
    Kumar, 2018).

    Raises ValueError for a negative, infinite or NaN number, or betas outside [0, 1).
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(parameters, options)

    def _check(self, group: Group) -> None:
        for name in ("lr", "eps", "weight_decay"):
            group[name] = checks.number(group[name], name, 0)
        if not isinstance(group["betas"], (tuple, list)) or len(group["betas"]) != 2:
            raise TypeError(f"betas (={group['betas']!r}) must be a pair of numbers")
        betas = tuple(checks.number(beta, "betas") for beta in group["betas"])
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas (={group['betas']!r}) must be at least 0 and less than 1")
        group["betas"] = betas
        group["amsgrad"] = checks.flag(group["amsgrad"], "amsgrad")

    def _prepared(self, parameter: Any, state: dict[str, Any], group: Group) -> Update:
        xp = backend().xp
        if not state:
            state["step"] = 0
            state["first"], state["second"] = xp.zeros_like(parameter.data), xp.zeros_like(parameter.data)
        if group["amsgrad"] and "largest" not in state:
            state["largest"] = xp.zeros_like(parameter.data)
        state["step"] += 1
        largest = state["largest"] if group["amsgrad"] else None
        arrays = (parameter.data, parameter.grad, state["first"], state["second"], largest)
        options = {"step": state["step"], "lr": group["lr"], "betas": tuple(group["betas"])}
        return Update("adam_update", arrays, options | {"eps": group["eps"], "weight_decay": group["weight_decay"]})
