"""Losses: a number from a prediction and a target, and its gradient with respect to the prediction."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any

from . import checks
from .arithmetic import quiet
from .backends import backend
from .backends.base import Array
from .module import BackwardError, is_grad_enabled


class Loss(ABC):
    """A loss that is a mean (or a sum) over all elements of prediction and target, which usually have one shape.

    `reduction`: "mean" over every element, not over the batch only, or "sum". Subclasses write `value` and
    `gradient`, both for the mean.
    """

    def __init__(self, reduction: str = "mean") -> None:
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction (={reduction!r}) must be 'mean' or 'sum'")
        self.reduction = reduction
        self._kept: tuple[Array, Array] | None = None

    def target_shape(self, prediction_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the target of a prediction of this shape must have: the same, unless a loss says more."""
        return prediction_shape

    @abstractmethod
    def value(self, prediction: Array, target: Array) -> Any:
        """The mean loss: a number, or an array without axes of the active backend."""

    @abstractmethod
    def gradient(self, prediction: Array, target: Array) -> Array:
        """The gradient of the mean loss with respect to `prediction`."""

    def forward(self, prediction: Array, target: Array) -> float:
        """The loss; keeps both arrays for `backward`, unless under `no_grad`. Raises what `evaluate` raises."""
        return float(self.evaluate(prediction, target))

    @quiet
    def evaluate(self, prediction: Array, target: Array) -> Any:
        """As `forward`, but what a device has computed stays there until someone takes float() of it, and waits.

        Raises ValueError if the target does not have the shape that `target_shape` says (nothing broadcasts) or the
        shapes are empty, TypeError for other arrays than float32 or float64 of the active backend, or of different
        dtypes.
        """
        who = type(self).__name__
        checks.array(prediction, f"the prediction of {who}")
        checks.array(target, f"the target of {who}")
        if target.shape != (expected := self.target_shape(prediction.shape)):
            same = "the same shape" if expected == prediction.shape else f"shapes that go together: target {expected}"
            raise ValueError(
                f"{who}: prediction of shape {prediction.shape} and target of shape {target.shape} must have {same}"
            )
        if prediction.dtype != target.dtype:
            raise TypeError(f"{who}: prediction ({prediction.dtype}) and target ({target.dtype}) must have one dtype")
        if prediction.size == 0:
            raise ValueError(f"{who}: prediction and target of shape {prediction.shape} must have at least one element")
        self._kept = (prediction, target) if is_grad_enabled() else None
        value, factor = self.value(prediction, target), self._factor(prediction)
        return value if factor == 1 else value * factor

    @quiet
    def backward(self) -> Array:
        """The gradient of the last forward's loss with respect to its prediction."""
        if self._kept is None:
            who = type(self).__name__
            raise BackwardError(f"{who}.backward was called before {who}.forward (or after one under no_grad)")
        grad, factor = self.gradient(*self._kept), self._factor(self._kept[0])
        return grad if factor == 1 else backend().scaled(grad, factor)

    def replica(self) -> Loss:
        """A copy for another worker."""
        twin = copy.copy(self)
        twin._kept = None
        return twin

    def arguments(self) -> dict[str, Any]:
        """The constructor arguments that rebuild this loss."""
        return {"reduction": self.reduction}

    def _factor(self, prediction: Array) -> float:
        return 1 if self.reduction == "mean" else prediction.size

    def __call__(self, prediction: Array, target: Array) -> float:
        return self.forward(prediction, target)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()" if self.reduction == "mean" else f"{type(self).__name__}(reduction='sum')"


class MSE(Loss):
    """The mean of (prediction - target)^2 over every element; gradient 2 (prediction - target) / elements."""

    def value(self, prediction: Array, target: Array) -> Any:
        return backend().mse_forward(prediction, target)

    def gradient(self, prediction: Array, target: Array) -> Array:
        return backend().mse_backward(prediction, target)


class L1(Loss):
    """The mean of |prediction - target| over every element; gradient sign(prediction - target) / elements."""

    def value(self, prediction: Array, target: Array) -> Any:
        return backend().l1_forward(prediction, target)

    def gradient(self, prediction: Array, target: Array) -> Array:
        return backend().l1_backward(prediction, target)


class MaskedMSE(Loss):
    """The mean of (prediction - target)^2 over weighted elements: what blind-spot training minimises.

    prediction: (N, C, ...); target: (N, 2C, ...), C channels of values, then C of weights of at least 0, most of them
    0 or 1; `data.PatchPairs` with target "blind-spot" gives such targets. Each image counts the same: the loss is the
    mean over images of sum(w (p - t)^2) / sum(w), and an image without any weight counts 0. Gradient, with respect to
    the prediction: 2 w (p - t) / sum(w) / N. So the loss of a batch is the mean of the losses of its parts, each
    weighted by its images, which is how the workers share it out.
    """

    def __init__(self) -> None:
        super().__init__("mean")

    def target_shape(self, prediction_shape: tuple[int, ...]) -> tuple[int, ...]:
        if len(prediction_shape) < 2:
            raise ValueError(f"MaskedMSE: prediction of shape {prediction_shape} must be (N, C, ...)")
        images, channels, *sides = prediction_shape
        return images, 2 * channels, *sides

    def value(self, prediction: Array, target: Array) -> Any:
        return backend().masked_mse_forward(prediction, *self._parts(prediction, target))

    def gradient(self, prediction: Array, target: Array) -> Array:
        return backend().masked_mse_backward(prediction, *self._parts(prediction, target))

    def arguments(self) -> dict[str, Any]:
        return {}

    def _parts(self, prediction: Array, target: Array) -> tuple[Array, Array]:
        """Values and weights."""
        channels = prediction.shape[1]
        return target[:, :channels], target[:, channels:]
