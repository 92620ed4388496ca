"""Linear and Flatten."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import checks, init
from ..backends import backend
from ..backends.base import Array
from ..layer import Layer
from ..module import Parameter


class Linear(Layer):
    """y = x W^T + b over the last axis of x (..., in_features).

    `weight` is (out_features, in_features), `bias` (out_features,) or None; both start as U(-k, k),
    k = sqrt(1 / in_features). `dtype` and `rng` as for `Conv2d`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: Any = "float32",
        rng: np.random.Generator | None = None,
    ) -> None:
        self.in_features = checks.integer(in_features, "in_features", 1)
        self.out_features = checks.integer(out_features, "out_features", 1)
        bias = checks.flag(bias, "bias")
        self.weight = Parameter(np.zeros((out_features, in_features), dtype="float32"))
        self.bias: Parameter | None = Parameter(np.zeros(out_features, dtype="float32")) if bias else None
        init.default_(self.weight, self.bias, rng)
        if dtype != "float32":
            self.astype(dtype)

    @property
    def fresh_output(self) -> bool:
        return True

    @property
    def fresh_gradient(self) -> bool:
        return True

    def check_input(self, x: Array) -> None:
        if x.ndim < 1 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"Linear expects in_features (={self.in_features}) on the last axis, got an input of shape {x.shape}"
            )

    def _forward(self, x: Array) -> tuple[Array, Any]:
        bias = None if self.bias is None else self.bias.read(x.dtype)
        return backend().linear_forward(x, self.weight.read(x.dtype), bias), x

    def _backward(self, grad: Array, saved: Any) -> Array:
        x_grad, weight_grad, bias_grad = backend().linear_backward(grad, saved, self.weight.read(saved.dtype))
        self.weight.accumulate(weight_grad)
        if self.bias is not None:
            self.bias.accumulate(bias_grad)
        return x_grad

    def arguments(self) -> dict[str, Any]:
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias is not None,
        }

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Flatten(Layer):
    """Join the axes start_dim to end_dim (both included, negative counts from the end) into one.

    Raises ValueError from `forward` if the input has not these axes.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = checks.integer(start_dim, "start_dim", -64)
        self.end_dim = checks.integer(end_dim, "end_dim", -64)

    def _forward(self, x: Array) -> tuple[Array, Any]:
        start, end = self._axes(x.shape)
        joined = math.prod(x.shape[start : end + 1])
        return x.reshape(*x.shape[:start], joined, *x.shape[end + 1 :]), x.shape

    def _backward(self, grad: Array, saved: Any) -> Array:
        return grad.reshape(saved)

    def _axes(self, shape: tuple[int, ...]) -> tuple[int, int]:
        count = len(shape)
        start = self.start_dim + count if self.start_dim < 0 else self.start_dim
        end = self.end_dim + count if self.end_dim < 0 else self.end_dim
        if not 0 <= start <= end < count:
            raise ValueError(
                f"Flatten: start_dim (={self.start_dim}) and end_dim (={self.end_dim}) must name axes of the input, in "
                f"this order; it has shape {shape}"
            )
        return start, end

    def arguments(self) -> dict[str, Any]:
        return {"start_dim": self.start_dim, "end_dim": self.end_dim}

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
