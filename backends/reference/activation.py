"""Elementwise activations. Those whose derivative is a function of their output keep the output only."""

from __future__ import annotations

from ..base import Array, Backend


class ActivationOps(Backend):
    """relu, leaky_relu, sigmoid, tanh."""

    def relu_forward(self, x: Array) -> Array:
        return self.xp.maximum(x, 0)

    def relu_backward(self, grad: Array, output: Array) -> Array:
        return self.xp.where(output > 0, grad, grad.dtype.type(0))  # a product would make NaN of 0 times infinity

    def leaky_relu_forward(self, x: Array, slope: float) -> Array:
        return self.xp.where(x > 0, x, x * slope)

    def leaky_relu_backward(self, grad: Array, x: Array, slope: float) -> Array:
        return self.xp.where(x > 0, grad, grad * slope)

    def sigmoid_forward(self, x: Array) -> Array:
        # exp in float64, rounded once: NumPy's float32 exp is off by up to 2.5 units in the last place. Beyond the
        # bound it would overflow; there the result is below the smallest normal number anyway.
        bound = 88.0 if x.dtype.itemsize == 4 else 709.0
        exponential = self.xp.exp(-self.xp.maximum(x, -bound).astype(self.xp.float64)).astype(x.dtype)
        return 1 / (1 + exponential)

    def sigmoid_backward(self, grad: Array, output: Array) -> Array:
        return grad * (output * (1 - output))

    def tanh_forward(self, x: Array) -> Array:
        return self.xp.tanh(x)

    def tanh_backward(self, grad: Array, output: Array) -> Array:
        return grad * (1 - output * output)
