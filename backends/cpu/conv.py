"""Convolutions on the CPU: three operations, each by the algorithm that choice.py picks, shared out over workers.

    correlate           y = conv(x, W)          unfold.py, winograd.py, thin.py, depthwise.py
    kernel gradient     dW from x and dY        unfold.py, winograd.py, depthwise.py
    adjoint             the adjoint of conv     stride 1: correlate with the kernel turned; else phases.py, fold.py

A convolution's input gradient is the adjoint of dY; a transposed convolution is the adjoint of x, and its gradients are
`correlate` and a kernel gradient with x and dY exchanged; an upsampling followed by a convolution is one transposed
convolution (upsample.py). With groups, each block of channels is computed by itself.

NPCONV_CONV=im2col leaves the reference in charge of everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry, Pair
from . import choice, depthwise, phases, prepared, thin, unfold
from .fold import fold
from .frame import pixels_last
from .memory import empty
from .operations import CpuOperations
from .upsample import enlarged_kernel, kernel_gradient, transposed_geometry
from .winograd import Winograd

FORWARD: dict[str, Any] = {"unfold": unfold, "thin": thin, "winograd2": Winograd(2), "winograd4": Winograd(4)}
WORTH_SPLITTING = 1 << 21  # multiplications for each worker: less takes less time than waking it


class ConvOps(CpuOperations):
    """conv2d, conv_transpose2d and upsample_conv2d."""

    algorithm: str

    def conv2d_forward(self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry) -> Array:
        if self.algorithm == "im2col":
            return super().conv2d_forward(x, weight, bias, geometry)
        y = empty((x.shape[0], *geometry.output_size(x.shape[2:]), weight.shape[0]), x.dtype)
        self._correlate(pixels_last(x), weight, bias, geometry, y)
        return y.transpose(0, 3, 1, 2)

    def conv2d_backward(
        self, grad: Array, x: Array, weight: Array, geometry: ConvGeometry, input_gradient: bool = True
    ) -> tuple[Array | None, Array, Array]:
        if self.algorithm == "im2col":
            return super().conv2d_backward(grad, x, weight, geometry, input_gradient)
        x, grad, x_grad = pixels_last(x), pixels_last(grad), None
        if input_gradient:
            x_grad = empty(x.shape, x.dtype)
            self._adjoint(grad, weight, None, geometry, x_grad)
            x_grad = x_grad.transpose(0, 3, 1, 2)
        weight_grad = self._kernel_gradient(x, grad, geometry)
        return x_grad, weight_grad.transpose(3, 2, 0, 1), self._channel_sum(grad)

    def conv_transpose2d_forward(self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry) -> Array:
        if self.algorithm == "im2col":
            return super().conv_transpose2d_forward(x, weight, bias, geometry)
        size, channels = geometry.transposed_size(x.shape[2:]), weight.shape[1] * geometry.groups
        y = empty((x.shape[0], *size, channels), x.dtype)
        self._adjoint(pixels_last(x), weight, bias, geometry, y)
        return y.transpose(0, 3, 1, 2)

    def conv_transpose2d_backward(
        self, grad: Array, x: Array, weight: Array, geometry: ConvGeometry, input_gradient: bool = True
    ) -> tuple[Array | None, Array, Array]:
        if self.algorithm == "im2col":
            return super().conv_transpose2d_backward(grad, x, weight, geometry, input_gradient)
        x, grad = pixels_last(x), pixels_last(grad)
        x_grad = empty(x.shape, x.dtype) if input_gradient else None
        if x_grad is not None and geometry.groups == 1 and self._unfolds(grad, x, geometry):
            weight_grad = self._both(grad, weight, x, geometry, x_grad)
        else:
            if x_grad is not None:
                self._correlate(grad, weight, None, geometry, x_grad)
            weight_grad = self._kernel_gradient(grad, x, geometry)
        x_grad = None if x_grad is None else x_grad.transpose(0, 3, 1, 2)
        return x_grad, weight_grad.transpose(3, 2, 0, 1), self._channel_sum(grad)

    def upsample_conv2d_forward(
        self, x: Array, weight: Array, bias: Array | None, scale: Pair, geometry: ConvGeometry
    ) -> Array:
        if self.algorithm == "im2col" or geometry.stride != (1, 1):
            return super().upsample_conv2d_forward(x, weight, bias, scale, geometry)
        size = geometry.output_size((x.shape[2] * scale[0], x.shape[3] * scale[1]))
        adjoint = transposed_geometry(x.shape, scale, geometry, size)
        return self.conv_transpose2d_forward(x, _enlarged(weight, scale, geometry), bias, adjoint)

    def upsample_conv2d_backward(
        self,
        grad: Array,
        x: Array,
        weight: Array,
        scale: Pair,
        geometry: ConvGeometry,
        input_gradient: bool = True,
    ) -> tuple[Array | None, Array, Array]:
        if self.algorithm == "im2col" or geometry.stride != (1, 1):
            return super().upsample_conv2d_backward(grad, x, weight, scale, geometry, input_gradient)
        large = _enlarged(weight, scale, geometry)
        adjoint = transposed_geometry(x.shape, scale, geometry, (grad.shape[2], grad.shape[3]))
        x_grad, large_grad, bias_grad = self.conv_transpose2d_backward(grad, x, large, adjoint, input_gradient)
        return x_grad, kernel_gradient(large_grad, weight.shape, scale, geometry), bias_grad

    # ---- the three operations, on (N, H, W, C) ----
    def _correlate(self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array) -> None:
        """Fill y with the convolution of x; weight (O, C / groups, KH, KW)."""
        if geometry.groups > 1:
            if geometry.groups == x.shape[3]:
                work = partial(depthwise.forward, x, weight, bias, geometry, y)
                self._over_pixels(y, geometry.taps * y.shape[3], work)
                return
            for ins, outs, single in _groups(x.shape[3], y.shape[3], geometry):
                part = None if bias is None else bias[outs]
                self._correlate(x[..., ins], weight[outs], part, single, y[..., outs])
            return
        name = choice.for_output(self.algorithm, _work(x, y, geometry))
        algorithm = FORWARD[name]
        if self._few_pixels(y, weight.size):
            self._over_channels(y.shape[3], partial(_some_channels, algorithm.forward, x, weight, bias, geometry, y))
            return
        with prepared.constant_weights():  # the workers share what is made here
            if isinstance(algorithm, Winograd):
                algorithm.prepare(weight, self.split)
            self._over_pixels(y, weight.size, partial(algorithm.forward, x, weight, bias, geometry, y))

    def _kernel_gradient(self, x: Array, grad: Array, geometry: ConvGeometry) -> Array:
        """dW (KH, KW, C / groups, O) of a convolution from x to grad's shape."""
        if geometry.groups > 1:
            if geometry.groups == x.shape[3]:
                work = partial(depthwise.weight_gradient, x, grad, geometry)
                return self._summed(grad, geometry.taps * grad.shape[3], work)
            parts = [
                self._kernel_gradient(x[..., ins], grad[..., outs], single)
                for ins, outs, single in _groups(x.shape[3], grad.shape[3], geometry)
            ]
            return np.concatenate(parts, axis=3)
        size = geometry.taps * x.shape[3] * grad.shape[3]
        name = choice.for_kernel(self.algorithm, _work(x, grad, geometry))
        return self._summed(grad, size, partial(FORWARD[name].weight_gradient, x, grad, geometry))

    def _adjoint(self, grad: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array) -> None:
        """Fill y with the adjoint of the convolution by weight (of grad's channels, y's / groups, KH, KW)."""
        if geometry.groups > 1:
            if bias is None and geometry.groups == y.shape[3]:
                work = partial(depthwise.input_gradient, grad, weight, geometry, y)
                self.split(len(y), work, _least(len(y), y.size // len(y) * geometry.taps) if len(y) else 1)
                return
            for ins, outs, single in _groups(grad.shape[3], y.shape[3], geometry):
                target = empty((*y.shape[:3], outs.stop - outs.start), y.dtype)
                self._adjoint(pixels_of(grad, ins), weight[ins], None if bias is None else bias[outs], single, target)
                y[..., outs] = target
            return
        if geometry.stride == (1, 1):
            turned = prepared.prepared(weight, "turned", lambda: turn(weight))
            self._correlate(grad, turned, bias, turned_geometry(geometry, grad.shape, y.shape), y)
        elif geometry.dilation == (1, 1):
            work = partial(phases.forward, grad, weight, bias, geometry, y)
            self._over_pixels(y, weight.size // (geometry.stride[0] * geometry.stride[1]), work, geometry.stride[0])
        else:
            y[...] = fold(grad.transpose(0, 3, 1, 2), weight, geometry, _nchw(y), bias).transpose(0, 2, 3, 1)

    def _unfolds(self, grad: Array, x: Array, geometry: ConvGeometry) -> bool:
        """Whether both gradients of a transposed convolution come from columns of grad: then one copy does for both."""
        work = _work(grad, x, geometry)
        return "unfold" == choice.for_output(self.algorithm, work) == choice.for_kernel(self.algorithm, work)

    def _both(self, grad: Array, weight: Array, x: Array, geometry: ConvGeometry, x_grad: Array) -> Array:
        return self._summed(x, 2 * weight.size, partial(unfold.both, grad, weight, x, geometry, x_grad))

    def _channel_sum(self, grad: Array) -> Array:
        """The bias gradient: the sum of grad (N, H, W, O) over pixels."""
        rows = grad.reshape(grad.size // grad.shape[3], grad.shape[3])
        parts = self.split(len(rows) // 64, partial(_partial_sums, rows), 1 << 14)
        total = parts[0] if len(parts) == 1 else np.sum(parts, axis=0)
        if len(rows) % 64:
            total = total + rows[len(rows) // 64 * 64 :].sum(axis=0, dtype=np.float64)
        return total.astype(grad.dtype)

    # ---- shares of the workers ----
    def _over_pixels(
        self, y: Array, per_pixel: int, work: Callable[[slice, slice], Any], multiple: int = 4
    ) -> list[Any]:
        """`work(images, lines)` for shares of y's images or, if there are fewer than workers, of their rows."""
        n, height = y.shape[:2]
        if self._pool.parts == 1:
            return self.split(1, lambda _: work(slice(0, n), slice(0, height)))
        cost = height * y.shape[2] * per_pixel
        if n >= self._pool.parts or n * height == 0:
            return self.split(n, lambda images: work(images, slice(0, height)), _least(n, cost))
        # Bands of rows, image after image: a worker may get the end of one and the beginning of the next.
        bands = -(-height // multiple)
        least = _least(n * bands, cost // bands)
        found = self.split(n * bands, lambda part: _bands(part, bands, multiple, height, work), least)
        return [result for results in found for result in results]

    def _summed(self, grad: Array, per_pixel: int, work: Callable[[slice, slice], Array]) -> Array:
        """The sum of what the workers give, in their order."""
        first, *others = self._over_pixels(grad, per_pixel, work) or [work(slice(0, 0), slice(0, 0))]
        for other in others:
            first += other
        return first

    def _over_channels(self, channels: int, work: Callable[[slice], Any]) -> None:
        self.split(channels // 8, lambda part: work(slice(8 * part.start, 8 * part.stop)))

    def _few_pixels(self, y: Array, weights: int) -> bool:
        """Whether workers should share the output channels: the kernel is larger than the image."""
        n, height, width, channels = y.shape
        return self._pool.parts > 1 and channels % 8 == 0 and 2 * weights > n * height * width * channels


def _enlarged(weight: Array, scale: Pair, geometry: ConvGeometry) -> Array:
    return prepared.prepared(weight, (scale, geometry), lambda: enlarged_kernel(weight, scale, geometry))


def _work(x: Array, y: Array, geometry: ConvGeometry) -> choice.Work:
    n, height, width, o = y.shape
    return choice.Work(n, height, width, x.shape[3], o, geometry)


def _some_channels(
    forward: Any, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array, channels: slice
) -> None:
    part = None if bias is None else bias[channels]
    forward(x, weight[channels], part, geometry, y[..., channels], slice(0, y.shape[0]), slice(0, y.shape[1]))


def _groups(channels_in: int, channels_out: int, geometry: ConvGeometry) -> list[tuple[slice, slice, ConvGeometry]]:
    """Channels in, channels out and the geometry of each group."""
    single, ins, outs = replace(geometry, groups=1), channels_in // geometry.groups, channels_out // geometry.groups
    return [(slice(g * ins, (g + 1) * ins), slice(g * outs, (g + 1) * outs), single) for g in range(geometry.groups)]


def pixels_of(x: Array, channels: slice) -> Array:
    """Some channels of x (N, H, W, C), contiguous."""
    return np.ascontiguousarray(x[..., channels])


def _nchw(y: Array) -> tuple[int, int, int, int]:
    n, h, w, c = y.shape
    return n, c, h, w


def turn(weight: Array) -> Array:
    """(O, C, KH, KW) -> (C, O, KH, KW), turned by 180 degrees; in memory (KH, KW, O, C), as the products want it."""
    return np.ascontiguousarray(weight.transpose(2, 3, 0, 1)[::-1, ::-1]).transpose(3, 2, 0, 1)


def turned_geometry(geometry: ConvGeometry, shape: tuple[int, ...], size: tuple[int, ...]) -> ConvGeometry:
    """The convolution of an image of `shape` (N, H, W, C) with the turned kernel whose output has `size`."""
    sides = []
    for axis in (0, 1):
        extent = geometry.extent[axis]
        before = extent - 1 - geometry.padding[axis][0]
        sides.append((before, size[1 + axis] + extent - 1 - shape[1 + axis] - before))
    return replace(geometry, padding=(sides[0], sides[1]))


def _partial_sums(rows: Array, part: slice) -> Array:
    """Sums over pixels of rows (P, O), from 64 part.start on: BLAS adds up 64 sums a channel, and float64 those."""
    count, o = part.stop - part.start, rows.shape[1]
    long = rows[64 * part.start : 64 * part.stop].reshape(count, 64 * o)
    return np.matmul(_ones(count, rows.dtype), long).reshape(64, o).sum(axis=0, dtype=np.float64)


@lru_cache(maxsize=64)
def _ones(count: int, dtype: np.dtype) -> Array:
    return np.ones(count, dtype)


def _least(count: int, cost: int) -> int:
    """How many of `count` units, of `cost` multiplications each, are worth waking a worker for."""
    return max(1, min(max(1, count), -(-WORTH_SPLITTING // max(1, cost))))


def _bands(part: slice, bands: int, multiple: int, height: int, work: Callable[[slice, slice], Any]) -> list[Any]:
    """`work` for the bands part.start .. part.stop, counted through all images, image by image."""
    results = []
    for i in range(part.start // bands, -(-part.stop // bands)):
        first, last = max(part.start - i * bands, 0), min(part.stop - i * bands, bands)
        results.append(work(slice(i, i + 1), slice(first * multiple, min(last * multiple, height))))
    return results
