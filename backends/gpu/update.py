"""The steps of the optimizers, one kernel each, over flat memory.

Besides the contract's methods there are those for a captured graph: they read their options from device memory. Where
all parameters of a dtype lie side by side in one array, and so do their gradients, one call is the whole update.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..base import Array
from .grid import Grid, computable

# What lies in `options`, float64, for the device's versions; the step counts from 1.
SGD_OPTIONS = ("lr", "step", "momentum", "dampening", "weight_decay")
ADAM_OPTIONS = ("lr", "step", "beta1", "beta2", "eps", "weight_decay")


class UpdateOps(Grid):
    """sgd and adam.

    While a step is recorded (graph.py), `option_slots` gives each update the array that it is to read its options from.
    """

    option_slots: Iterator[Array] | None = None

    def update_options(self, operation: str, options: dict[str, Any]) -> tuple[float, ...]:
        """What a slot must hold before an update with these options: SGD_OPTIONS or ADAM_OPTIONS.

        Adam's kernel counts its steps in the slot itself, so that a step like the last one needs nothing from the host.
        """
        if operation == "sgd_update":
            later = 2.0  # not the first step: `dampening` is already what it is to be
            return options["lr"], later, options["momentum"], options["dampening"], options["weight_decay"]
        return options["lr"], options["step"] - 1.0, *options["betas"], options["eps"], options["weight_decay"]

    def options_after(self, operation: str, values: tuple[float, ...]) -> tuple[float, ...]:
        """What the slot holds after the update."""
        return values if operation == "sgd_update" else (values[0], values[1] + 1, *values[2:])

    def sgd_update(
        self,
        data: Array,
        grad: Array,
        velocity: Array | None,
        *,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        flat = _flat(data, grad, velocity)
        if self.option_slots is not None:
            data, grad, velocity = _recordable(flat)
            self.sgd_update_device(data, grad, velocity, next(self.option_slots), nesterov=nesterov)
            return
        if flat is None:
            options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
            super().sgd_update(data, grad, velocity, **options, nesterov=nesterov)
            return
        self.over_elements(
            "update", "sgd", flat, float(lr), float(momentum), float(1 - dampening), float(weight_decay),
            int(nesterov),
        )  # fmt: skip

    def sgd_update_device(
        self, data: Array, grad: Array, velocity: Array | None, options: Array, *, nesterov: bool
    ) -> None:
        """`sgd_update` of contiguous 1-D arrays, with SGD_OPTIONS read from the device.

        At step 1 the velocity, zeros before it, becomes the gradient whatever the dampening.
        """
        self.over_elements("update", "sgd_device", _contiguous(data, grad, velocity), options, int(nesterov))

    def adam_update(
        self,
        data: Array,
        grad: Array,
        first: Array,
        second: Array,
        largest: Array | None,
        *,
        step: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        flat = _flat(data, grad, first, second, largest)
        if self.option_slots is not None:
            slot = next(self.option_slots)
            slot[1:2] += 1
            data, grad, first, second, largest = _recordable(flat)
            self.adam_update_device(data, grad, first, second, largest, slot)
            return
        if flat is None:
            super().adam_update(
                data, grad, first, second, largest, step=step, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay
            )
            return
        rate, root = lr / (1 - betas[0] ** step), (1 - betas[1] ** step) ** 0.5
        self.over_elements(
            "update", "adam", flat, float(rate), float(root), float(1 - betas[0]), float(betas[1]),
            float(1 - betas[1]), float(eps), float(weight_decay),
        )  # fmt: skip

    def adam_update_device(
        self, data: Array, grad: Array, first: Array, second: Array, largest: Array | None, options: Array
    ) -> None:
        """`adam_update` of contiguous 1-D arrays, with ADAM_OPTIONS read from the device."""
        self.over_elements("update", "adam_device", _contiguous(data, grad, first, second, largest), options)


def _flat(data: Array, *others: Array | None) -> tuple[Array, ...] | None:
    """The arrays as they lie in memory, 1-D; None if one lies in another order, has gaps or another dtype."""
    given = [array for array in others if array is not None]
    if not computable(data, *given):
        return None
    axes = sorted(range(data.ndim), key=lambda axis: -data.strides[axis])
    if not all(array.transpose(axes).flags.c_contiguous for array in (data, *given)):
        return None
    return tuple(array if array is None else array.transpose(axes).reshape(-1) for array in (data, *others))


def _recordable(flat: tuple[Array, ...] | None) -> tuple[Array, ...]:
    """The arrays; ValueError where only the reference could compute, with options that a graph would keep forever."""
    if flat is None:
        raise ValueError("an update of arrays that are not flat memory cannot be part of a recorded step")
    return flat


def _contiguous(data: Array, *others: Array | None) -> tuple[Array, ...]:
    """The arrays; ValueError if one cannot be walked over as flat memory."""
    given = [array for array in (data, *others) if array is not None]
    if not computable(*given) or not all(array.ndim == 1 and array.flags.c_contiguous for array in given):
        raise ValueError("the update on the device takes contiguous 1-D arrays of one size and one dtype")
    return (data, *others)
