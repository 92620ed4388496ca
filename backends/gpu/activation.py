"""Activations, sums and copies as kernels over flat memory, in place where asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..base import Array
from .grid import Grid, computable, images

ACTIVATIONS = {"none": 0, "relu": 1, "leaky_relu": 2, "sigmoid": 3, "tanh": 4}  # as activation.cu numbers them


class ActivationOps(Grid):
    """relu, leaky_relu, sigmoid, tanh, and the joining of arrays."""

    def relu_forward(self, x: Array, out: Array | None = None) -> Array:
        return self._map("relu_forward", (x,), out) if computable(x) else super().relu_forward(x, out)

    def relu_backward(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        if not computable(grad, output):
            return super().relu_backward(grad, output, out)
        return self._map("relu_backward", (grad, output), out)

    def leaky_relu_forward(self, x: Array, slope: float, out: Array | None = None) -> Array:
        if not computable(x):
            return super().leaky_relu_forward(x, slope, out)
        return self._map("leaky_relu_forward", (x,), out, float(slope))

    def leaky_relu_backward(self, grad: Array, x: Array, slope: float, out: Array | None = None) -> Array:
        if not computable(grad, x):
            return super().leaky_relu_backward(grad, x, slope, out)
        return self._map("leaky_relu_backward", (grad, x), out, float(slope))

    def sigmoid_forward(self, x: Array, out: Array | None = None) -> Array:
        return self._map("sigmoid_forward", (x,), out) if computable(x) else super().sigmoid_forward(x, out)

    def sigmoid_backward(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        if not computable(grad, output):
            return super().sigmoid_backward(grad, output, out)
        return self._map("sigmoid_backward", (grad, output), out)

    def tanh_forward(self, x: Array, out: Array | None = None) -> Array:
        return self._map("tanh_forward", (x,), out) if computable(x) else super().tanh_forward(x, out)

    def tanh_backward(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        if not computable(grad, output):
            return super().tanh_backward(grad, output, out)
        return self._map("tanh_backward", (grad, output), out)

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        return self._map("add", (a, b), out) if computable(a, b) else super().add(a, b, out)

    def scaled(self, x: Array, factor: float) -> Array:
        return self._map("scaled", (x,), None, float(factor)) if computable(x) else super().scaled(x, factor)

    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        x = arrays[0]
        if x.ndim != 4 or any(array.dtype != x.dtype for array in arrays):
            return super().concatenate(arrays, axis)
        axis %= 4
        if axis != 1 or x.dtype.char not in "fd":  # (N, C, H, W) -> (N, H, W, C): channels-last in memory
            parts = [array.transpose(0, 2, 3, 1) for array in arrays]
            return images(super().concatenate(parts, (0, 3, 1, 2)[axis]))
        return self._join_channels([self.pixels(array) for array in arrays])

    def bias_activation(self, x: Array, bias: Array | None, activation: str = "none", slope: float = 0.0) -> Array:
        """activation(x + bias), a bias per channel or None, written over x where it is channels-last in memory.

        `activation` is one of ACTIVATIONS; `slope` is leaky_relu's.
        """
        pixels = self.pixels(x)
        lanes = self.lanes(x.shape[1], pixels)
        self.over_rows(
            "activation", "bias_activation", x.dtype, pixels.size // x.shape[1], x.shape[1] // lanes, pixels, bias,
            float(slope), LANES=lanes, ACTIVATION=ACTIVATIONS[activation],
        )  # fmt: skip
        return images(pixels)

    def _join_channels(self, parts: list[Array]) -> Array:
        """Parts (N, H, W, C_i) as one image (N, sum of C_i, H, W)."""
        channels = [part.shape[3] for part in parts]
        whole = self.xp.empty((*parts[0].shape[:3], sum(channels)), dtype=parts[0].dtype)
        lanes, start = self.lanes(math.gcd(*channels), whole, *parts), 0
        for part, count in zip(parts, channels, strict=True):
            self.over_rows(
                "activation", "copy_channels", whole.dtype, math.prod(whole.shape[:3]), count // lanes, part, whole,
                whole.shape[3] // lanes, start // lanes, LANES=lanes,
            )  # fmt: skip
            start += count
        return images(whole)

    def _map(self, name: str, arrays: tuple[Array, ...], out: Array | None, *args: Any) -> Array:
        """The kernel on the arrays' memory: any order will do, so long as it is the same for all."""
        x = arrays[0]
        last = x.ndim == 4 and not all(array.flags.c_contiguous for array in arrays)
        dense = [self.pixels(array) if last else self.xp.ascontiguousarray(array) for array in arrays]
        view = None if out is None or not computable(x, out) else out.transpose(0, 2, 3, 1) if last else out
        direct = view is not None and view.flags.c_contiguous
        result = view if direct else self.xp.empty(dense[0].shape, dtype=x.dtype)
        self.over_elements("activation", name, tuple(array.reshape(-1) for array in (*dense, result)), *args)
        if direct:
            return out
        made = images(result) if last else result
        if out is None:
            return made
        out[...] = made
        return out
