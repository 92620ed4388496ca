"""Activations: passes over blocks in the cache, without branches and without memory of their own.

A selection (grad where output > 0) by `numpy.where` costs ten multiplications when the signs are random: the
processor cannot guess them. Here a selection is a product with 0 or 1: of the bits, as integers, because 0 times
infinity is not 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..base import Array
from .elementwise import ROW, Elementwise, bits, least_images, suits, with_row
from .memory import empty, empty_images

_ZEROS = {char: np.zeros(ROW, char) for char in "fd"}


class ActivationOps(Elementwise):
    """relu, leaky_relu, sigmoid, tanh, and the joining of arrays."""

    def relu_forward(self, x: Array, out: Array | None = None) -> Array:
        if not suits(x):
            return super().relu_forward(x, out)
        zeros = _ZEROS[x.dtype.char]
        return self.elementwise(lambda x, out: with_row(np.maximum, x, zeros, out), (x,), out)

    def relu_backward(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        if not suits(grad, output):
            return super().relu_backward(grad, output, out)
        return self.elementwise(_relu_backward, (grad, output), out)

    def leaky_relu_forward(self, x: Array, slope: float, out: Array | None = None) -> Array:
        if not suits(x) or x.dtype.type(slope) <= 0:
            return super().leaky_relu_forward(x, slope, out)
        # For a positive slope, which of x and slope x is the larger one depends on the sign of x alone.
        larger = np.maximum if slope <= 1 else np.minimum
        in_place = out is not None and np.may_share_memory(x, out)

        def leaky_relu(x: Array, out: Array) -> None:
            scaled = np.multiply(x, x.dtype.type(slope), out=empty(x.shape, x.dtype) if in_place else out)
            larger(x, scaled, out=out)

        return self.elementwise(leaky_relu, (x,), out)

    def leaky_relu_backward(self, grad: Array, x: Array, slope: float, out: Array | None = None) -> Array:
        if not suits(grad, x):
            return super().leaky_relu_backward(grad, x, slope, out)
        return self.elementwise(lambda grad, x, out: _leaky_relu_backward(grad, x, slope, out), (grad, x), out)

    def sigmoid_forward(self, x: Array, out: Array | None = None) -> Array:
        if not suits(x):
            return super().sigmoid_forward(x, out)
        return self.elementwise(_sigmoid, (x,), out)

    def sigmoid_backward(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        if not suits(grad, output):
            return super().sigmoid_backward(grad, output, out)
        return self.elementwise(_sigmoid_backward, (grad, output), out)

    def tanh_forward(self, x: Array, out: Array | None = None) -> Array:
        if not suits(x):
            return super().tanh_forward(x, out)
        return self.elementwise(lambda x, out: np.tanh(x, out=out), (x,), out)

    def tanh_backward(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        if not suits(grad, output):
            return super().tanh_backward(grad, output, out)
        return self.elementwise(_tanh_backward, (grad, output), out)

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        if not suits(a, b):
            return super().add(a, b, out)
        return self.elementwise(lambda a, b, out: np.add(a, b, out=out), (a, b), out)

    def scaled(self, x: Array, factor: float) -> Array:
        if not suits(x):
            return super().scaled(x, factor)
        return self.elementwise(lambda a, out: np.multiply(a, a.dtype.type(factor), out=out), (x,))

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        x = arrays[0]
        if x.ndim != 4 or axis != 1 or any(a.dtype != x.dtype for a in arrays):
            return super().concatenate(arrays, axis)
        whole = empty_images((x.shape[0], sum(a.shape[1] for a in arrays), *x.shape[2:]), x.dtype)

        def copy(part: slice) -> None:
            np.concatenate([a[part] for a in arrays], axis=1, out=whole[part])

        self.split(x.shape[0], copy, least_images(whole))
        return whole


def _relu_backward(grad: Array, output: Array, out: Array) -> None:
    # Not `output > 0`: NaN lets the gradient through, as in PyTorch.
    passes = np.not_equal(output, 0, out=empty(output.shape, np.bool_))
    np.multiply(bits(grad), passes, out=bits(out))


def _leaky_relu_backward(grad: Array, x: Array, slope: float, out: Array) -> None:
    """grad times 1 or the slope, whose bits are slope + (x > 0) (1 - slope), all as integers and so exact."""
    pair = bits(np.array([1.0, slope], x.dtype))
    factors = bits(empty(x.shape, x.dtype))
    np.copyto(factors, np.greater(x, 0, out=empty(x.shape, np.bool_)))
    factors *= pair[:1] - pair[1:]
    factors += pair[1:]
    np.multiply(grad, factors.view(x.dtype), out=out)


def _sigmoid(x: Array, out: Array) -> None:
    # exp in float64, rounded once: NumPy's float32 exp is off by up to 1.7 units in the last place.
    exponential = empty(x.shape, np.float64)
    np.copyto(exponential, np.negative(x, out=out))
    with np.errstate(over="ignore"):  # 1 / infinity is the 0 that is wanted
        np.exp(exponential, out=exponential)
        np.copyto(out, exponential, casting="same_kind")
    out += 1
    np.divide(1, out, out=out)


def _sigmoid_backward(grad: Array, output: Array, out: Array) -> None:
    slope = np.subtract(1, output, out=empty(output.shape, output.dtype))
    slope *= output
    np.multiply(grad, slope, out=out)


def _tanh_backward(grad: Array, output: Array, out: Array) -> None:
    slope = np.multiply(output, output, out=empty(output.shape, output.dtype))
    np.subtract(1, slope, out=slope)
    np.multiply(grad, slope, out=out)
