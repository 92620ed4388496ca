"""The steps of the optimizers over flat memory, with the reference's formulas and no array of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..base import Array
from .elementwise import Elementwise, suits
from .memory import empty

SMALL = 1 << 16  # elements up to which the reference is as fast: the calls cost more than what they do


class UpdateOps(Elementwise):
    """sgd and adam."""

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
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        flat = _flat(data, grad, velocity) if data.size > SMALL else None
        if flat is None:
            super().sgd_update(data, grad, velocity, **options, nesterov=nesterov)
            return
        self.over_blocks(lambda part: _sgd(*_cut(flat, part), nesterov=nesterov, **options), data.size)

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
        options: dict[str, Any] = {"step": step, "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        flat = _flat(data, grad, first, second, largest) if data.size > SMALL else None
        if flat is None:
            super().adam_update(data, grad, first, second, largest, **options)
            return
        self.over_blocks(lambda part: _adam(*_cut(flat, part), **options), data.size)


def _flat(data: Array, *others: Array | None) -> list[Array | None] | None:
    """The arrays as they lie in memory, 1-D; None if one lies in another order, or has gaps."""
    arrays = (data, *others)
    given = [array for array in arrays if array is not None]
    axes = sorted(range(data.ndim), key=lambda axis: -data.strides[axis])
    if not suits(*given) or not all(array.transpose(axes).flags.c_contiguous for array in given):
        return None
    return [None if array is None else array.transpose(axes).reshape(-1) for array in arrays]


def _cut(flat: list[Array | None], part: slice) -> list[Any]:
    return [None if array is None else array[part] for array in flat]


def _sgd(
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
    change = empty(data.shape, data.dtype)
    step = grad
    if weight_decay:
        decayed = np.multiply(data, weight_decay, out=empty(data.shape, data.dtype))
        step = np.add(grad, decayed, out=decayed)
    if velocity is not None:
        velocity *= momentum
        velocity += step if dampening == 0 else np.multiply(step, 1 - dampening, out=change)
        if nesterov:
            np.multiply(velocity, momentum, out=change)
            step = np.add(step, change, out=change)
        else:
            step = velocity
    np.multiply(step, lr, out=change)
    data -= change


def _adam(
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
    change = empty(data.shape, data.dtype)
    if weight_decay:
        decayed = np.multiply(data, weight_decay, out=empty(data.shape, data.dtype))
        grad = np.add(grad, decayed, out=decayed)
    np.subtract(grad, first, out=change)
    change *= 1 - betas[0]
    first += change
    second *= betas[1]
    np.multiply(grad, 1 - betas[1], out=change)
    change *= grad
    second += change
    if largest is not None:
        second = np.maximum(largest, second, out=largest)
    np.sqrt(second, out=change)
    change /= (1 - betas[1] ** step) ** 0.5
    change += eps
    np.divide(first, change, out=change)
    change *= lr / (1 - betas[0] ** step)
    data -= change
