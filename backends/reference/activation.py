"""Elementwise activations. Those whose derivative is a function of their output keep the output only."""

from __future__ import annotations

from collections.abc import Sequence

from ..base import Array, Backend


class ActivationOps(Backend):
    """relu, leaky_relu, sigmoid, tanh, and the joining of arrays."""

    def relu_forward(self, x: Array, out: Array | None = None) -> Array:
        return self.xp.maximum(x, 0, out=out)

    def relu_backward(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        # A product would make NaN of 0 times infinity. NaN lets the gradient through, as in PyTorch.
        return _into(out, self.xp.where(output == 0, grad.dtype.type(0), grad))

    def leaky_relu_forward(self, x: Array, slope: float, out: Array | None = None) -> Array:
        return _into(out, self.xp.where(x > 0, x, x * slope))

    def leaky_relu_backward(self, grad: Array, x: Array, slope: float, out: Array | None = None) -> Array:
        return _into(out, self.xp.where(x > 0, grad, grad * slope))

    def sigmoid_forward(self, x: Array, out: Array | None = None) -> Array:
        # exp in float64, rounded once: NumPy's float32 exp is off by up to 2.5 units in the last place. Beyond the
        # bound it would overflow; there the result is below the smallest normal number, and 0 in PyTorch.
        bound = 88.0 if x.dtype.itemsize == 4 else 709.0
        exponential = self.xp.exp(-self.xp.maximum(x, -bound).astype(self.xp.float64)).astype(x.dtype)
        return _into(out, self.xp.where(x < -bound, x.dtype.type(0), 1 / (1 + exponential)))

    def sigmoid_backward(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        return self.xp.multiply(grad, output * (1 - output), out=out)

    def tanh_forward(self, x: Array, out: Array | None = None) -> Array:
        return self.xp.tanh(x, out=out)

    def tanh_backward(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        return self.xp.multiply(grad, 1 - output * output, out=out)

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        return self.xp.add(a, b, out=out)

    def scaled(self, x: Array, factor: float) -> Array:
        return x * factor

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        return self.xp.concatenate(arrays, axis=axis)


def _into(out: Array | None, result: Array) -> Array:
    if out is None:
        return result
    out[...] = result
    return out
