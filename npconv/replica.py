"""Replica: what one worker computes with, and how it adds up gradients over slices of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .backends import backend
from .backends.base import Array
from .losses import Loss
from .module import Module
from .ownership import is_written_by
from .parameter import Parameter


class Replica:
    """What one worker computes with: a replica of the network and one of the loss."""

    def __init__(self, network: Module, loss: Loss) -> None:
        self.network, self.loss = network, loss
        # A loss that has a forward of its own is asked for that.
        self._evaluate = loss.evaluate if is_written_by(Loss, loss, "forward") else loss.forward
        self.parameters = list(network.parameters())
        self._pieces: list[Array] = []
        self.lay_gradients(backend().xp.empty)

    def lay_gradients(self, allocate: Callable[[int, Any], Array]) -> None:
        """Lay the gradients of a dtype side by side in one array, so that all are cleared or added up at once.

        `allocate(size, dtype)` makes the array.
        """
        self._pieces = []
        for dtype in sorted({parameter.dtype for parameter in self.parameters}, key=str):
            same = [parameter for parameter in self.parameters if parameter.dtype == dtype]
            whole, start = allocate(sum(parameter.size for parameter in same), dtype), 0
            for parameter in same:
                parameter.grad = laid_out_like(parameter.data, whole[start : start + parameter.size])
                start += parameter.size
            self._pieces.append(whole)

    def adopt_gradients(self, parameters: list[Parameter], pieces: list[Array]) -> None:
        """Let the gradients be those of `parameters`, the originals; `pieces` are the arrays that they lie in."""
        for own, original in zip(self.parameters, parameters, strict=True):
            own.grad = original.grad
        self._pieces = pieces

    def gradients(self, x: Array, target: Array, slices: list[slice], count: int) -> Any:
        """Add up the gradients over slices of x, of a batch of `count` images; their part of the batch's loss."""
        for piece in self._pieces:
            piece.fill(0)
        with backend().training_step():
            return total([self._slice(x[part], target[part], self._weight(part, count)) for part in slices])

    def add(self, other: Replica) -> None:
        """Add the gradients of another replica of the same network."""
        for total, part in zip(self._pieces, other._pieces, strict=True):
            total += part

    def _slice(self, x: Array, target: Array, weight: float) -> Any:
        value = self._evaluate(self.network.forward(x), target)
        grad = self.loss.backward()
        if weight == 1:
            self.network.backward(grad)
            return value
        self.network.backward_in_place(backend().scaled(grad, weight))
        return value * weight

    def _weight(self, part: slice, count: int) -> float:
        """A mean over the batch is the mean over its parts, each weighted by its size; a sum is a plain sum."""
        return (part.stop - part.start) / count if self.loss.reduction == "mean" else 1.0


def total(values: list[Any]) -> Any:
    """The exact sum of numbers; a single one stays what and where it is."""
    return values[0] if len(values) == 1 else math.fsum(values)


def laid_out_like(x: Array, flat: Array) -> Array:
    """The 1-D array `flat` in the shape of x, and in its memory order: the longest stride first."""
    axes = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    return flat.reshape([x.shape[axis] for axis in axes]).transpose([axes.index(axis) for axis in range(x.ndim)])
