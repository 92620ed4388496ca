"""Activations: elementwise, any shape."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from .. import checks
from ..backends import backend
from ..backends.base import Array
from ..layer import Kept, Layer
from ..module import is_grad_enabled


class Activation(Layer):
    """An elementwise function y = f(x) whose gradient is grad f'(x): subclasses write f and `derivative`.

    The built-in activations go to the backend instead; to add one of your own, two lines suffice:

        class Softplus(Activation):
            def function(self, x): return numpy.logaddexp(0, x)
            def derivative(self, x, y): return 1 - numpy.exp(-y)
    """

    pointwise = True

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


class InPlaceActivation(Activation):
    """An activation of the backend, which can write its result over its argument.

    What backward needs of forward is the output, which forward keeps: so the output is not fresh, the gradient is.
    Subclasses write `apply` and `apply_backward`; `out` is where the result goes, None for a new array. Only the
    classes here compute in place: a subclass of theirs may keep its input, or expect it unchanged.
    """

    @abstractmethod
    def apply(self, x: Array, out: Array | None) -> Array:
        """f(x)."""

    @abstractmethod
    def apply_backward(self, grad: Array, output: Array, out: Array | None) -> Array:
        """grad f'(x), given f(x)."""

    @property
    def fresh_gradient(self) -> bool:
        return True

    def function(self, x: Array) -> Array:
        return self.apply(x, None)

    def _forward(self, x: Array) -> tuple[Array, Any]:
        y = self.function(x)
        return y, y

    def _backward(self, grad: Array, saved: Any) -> Array:
        return self.apply_backward(grad, saved, None)

    def forward_in_place(self, x: Array) -> Array:
        if not self._is_as_written("forward"):
            return self.forward(x)
        return self._checked_forward(x, lambda x: (self.apply(x, x),) * 2)

    def backward_in_place(self, grad_output: Array) -> Array:
        if not self._is_as_written("backward"):
            return self.backward(grad_output)
        return self._checked_backward(grad_output, lambda grad, saved: self.apply_backward(grad, saved, grad))

    @property
    def fusion(self) -> dict[str, Any] | None:
        """How a convolution before this would be asked to apply it too (see Backend.fused_activations), or None."""
        return None

    def keep(self, x_dtype: Any, output: Array) -> None:
        """Remember, as this activation's last forward, an output that was computed elsewhere."""
        self._kept = Kept(output, x_dtype, output.shape, False) if is_grad_enabled() else None

    def _is_as_written(self, method: str) -> bool:
        return type(self).__module__ == __name__ and method not in vars(self)


class ReLU(InPlaceActivation):
    """max(0, x); the derivative at 0 is 0."""

    def apply(self, x: Array, out: Array | None) -> Array:
        return backend().relu_forward(x, out)

    def apply_backward(self, grad: Array, output: Array, out: Array | None) -> Array:
        return backend().relu_backward(grad, output, out)

    @property
    def fusion(self) -> dict[str, Any] | None:
        return {"activation": "relu"} if self._is_as_written("forward") else None


class LeakyReLU(InPlaceActivation):
    """x where x > 0, else negative_slope x; the derivative at 0 is negative_slope."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = checks.number(negative_slope, "negative_slope")

    def apply(self, x: Array, out: Array | None) -> Array:
        return backend().leaky_relu_forward(x, self.negative_slope, out)

    def apply_backward(self, grad: Array, output: Array, out: Array | None) -> Array:
        return backend().leaky_relu_backward(grad, output, self.negative_slope, out)

    def _forward(self, x: Array) -> tuple[Array, Any]:
        y = self.function(x)
        return y, y if self.negative_slope >= 0 else x  # a negative slope loses the sign of x

    def forward_in_place(self, x: Array) -> Array:
        return super().forward_in_place(x) if self.negative_slope >= 0 else self.forward(x)

    @property
    def fusion(self) -> dict[str, Any] | None:
        possible = self.negative_slope >= 0 and self._is_as_written("forward")
        return {"activation": "leaky_relu", "slope": self.negative_slope} if possible else None

    def arguments(self) -> dict[str, Any]:
        return {"negative_slope": self.negative_slope}

    def extra_repr(self) -> str:
        return f"negative_slope={self.negative_slope}"


class Sigmoid(InPlaceActivation):
    """1 / (1 + exp(-x)); derivative y (1 - y)."""

    def apply(self, x: Array, out: Array | None) -> Array:
        return backend().sigmoid_forward(x, out)

    def apply_backward(self, grad: Array, output: Array, out: Array | None) -> Array:
        return backend().sigmoid_backward(grad, output, out)


class Tanh(InPlaceActivation):
    """tanh(x); derivative 1 - y^2."""

    def apply(self, x: Array, out: Array | None) -> Array:
        return backend().tanh_forward(x, out)

    def apply_backward(self, grad: Array, output: Array, out: Array | None) -> Array:
        return backend().tanh_backward(grad, output, out)
