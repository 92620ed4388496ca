"""Activations: elementwise, any shape."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from .. import checks
from ..backends import backend
from ..backends.base import Array
from ..module import Layer


class Activation(Layer):
    """An elementwise function y = f(x) whose gradient is grad f'(x): subclasses write f and `derivative`.

    The built-in activations go to the backend instead; to add one of your own, two lines suffice:

        class Softplus(Activation):
            def function(self, x): return numpy.logaddexp(0, x)
            def derivative(self, x, y): return 1 - numpy.exp(-y)
    """

    def _forward(self, x: Array) -> tuple[Array, Any]:
        y = self.function(x)
        return y, (x, y)

    def _backward(self, grad: Array, saved: Any) -> Array:
        return grad * self.derivative(*saved)

    @abstractmethod
    def function(self, x: Array) -> Array:
        """f(x), elementwise."""

    def derivative(self, x: Array, y: Array) -> Array:
        """f'(x), given x and y = f(x)."""
        raise TypeError(f"{type(self).__name__} must define derivative(x, y), or _forward and _backward")


class ReLU(Activation):
    """max(0, x); the derivative at 0 is 0."""

    def function(self, x: Array) -> Array:
        return backend().relu_forward(x)

    def _forward(self, x: Array) -> tuple[Array, Any]:
        y = self.function(x)
        return y, y

    def _backward(self, grad: Array, saved: Any) -> Array:
        return backend().relu_backward(grad, saved)


class LeakyReLU(Activation):
    """x where x > 0, else negative_slope x; the derivative at 0 is negative_slope."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = checks.number(negative_slope, "negative_slope")

    def function(self, x: Array) -> Array:
        return backend().leaky_relu_forward(x, self.negative_slope)

    def _forward(self, x: Array) -> tuple[Array, Any]:
        return self.function(x), x

    def _backward(self, grad: Array, saved: Any) -> Array:
        return backend().leaky_relu_backward(grad, saved, self.negative_slope)

    def arguments(self) -> dict[str, Any]:
        return {"negative_slope": self.negative_slope}

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class Sigmoid(Activation):
    """1 / (1 + exp(-x)); derivative y (1 - y)."""

    def function(self, x: Array) -> Array:
        return backend().sigmoid_forward(x)

    def _forward(self, x: Array) -> tuple[Array, Any]:
        y = self.function(x)
        return y, y

    def _backward(self, grad: Array, saved: Any) -> Array:
        return backend().sigmoid_backward(grad, saved)


class Tanh(Activation):
    """tanh(x); derivative 1 - y^2."""

    def function(self, x: Array) -> Array:
        return backend().tanh_forward(x)

    def _forward(self, x: Array) -> tuple[Array, Any]:
        y = self.function(x)
        return y, y

    def _backward(self, grad: Array, saved: Any) -> Array:
        return backend().tanh_backward(grad, saved)
