"""Convolutions on the CPU: three operations, each by the algorithm that choice.py picks, shared out over workers.

    correlate           y = conv(x, W)          unfold.py, winograd.py, thin.py, depthwise.py
    kernel gradient     dW from x and dY        unfold.py, winograd.py, depthwise.py
    adjoint             the adjoint of conv     stride 1: correlate with the kernel turned; else phases.py, fold.py

A convolution's input gradient is the adjoint of dY; a transposed convolution is the adjoint of x, and its gradients are
`correlate` and a kernel gradient with x and dY exchanged; an upsampling followed by a convolution is one transposed
convolution (upsample.py), or taken from differences of pixels (differences.py). Dilation can be taken apart into
convolutions without (dilated.py); groups of channels are convolutions of their own (grouped.py).

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
from . import choice, depthwise, differences, dilated, prepared, thin, transformed, unfold
from .fold import fold
from .frame import pixels_last
from .grouped import Grouped, GroupedWinograd, adjoint, group_channels
from .grouped import algorithm as of_groups
from .memory import empty
from .operations import CpuOperations
from .transformed import Transformed
from .upsample import enlarged_kernel, kernel_gradient, transposed_geometry
from .winograd import Winograd, finite

FORWARD: dict[str, Any] = {"unfold": unfold, "thin": thin, "winograd2": Winograd(2), "winograd4": Winograd(4)}
GROUPED: dict[str, Any] = {name: Grouped(FORWARD[name]) for name in ("unfold", "thin")}
GROUPED |= {f"winograd{m}": GroupedWinograd(m) for m in (2, 4)}
DILATED = [{name: dilated.Dilated(of[name]) for name in ("winograd2", "winograd4")} for of in (FORWARD, GROUPED)]
WORTH_SPLITTING = 1 << 23  # multiplications for each worker: less takes less time than waking it and waiting for it
ONE_BY_ONE = 16  # multiplications of a product that take as long as one of depthwise convolution
WORTH_ADDING = 1 << 20  # additions, likewise


class ConvOps(CpuOperations):
    """conv2d, conv_transpose2d and upsample_conv2d."""

    algorithm: str

    def conv2d_forward(self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry) -> Array:
        if self.algorithm == "im2col":
            return super().conv2d_forward(x, weight, bias, geometry)
        y = empty((x.shape[0], *geometry.output_size(x.shape[2:]), weight.shape[0]), x.dtype)
        self._correlate(pixels_last(x), weight, bias, geometry, y, transformed.begin(x))
        return y.transpose(0, 3, 1, 2)

    def conv2d_backward(
        self, grad: Array, x: Array, weight: Array, geometry: ConvGeometry, input_gradient: bool = True
    ) -> tuple[Array | None, Array, Array]:
        if self.algorithm == "im2col" or (input_gradient and not _is_finite(weight)):
            return super().conv2d_backward(grad, x, weight, geometry, input_gradient)
        kept = transformed.take(x)
        x, grad = pixels_last(x), pixels_last(grad)
        x_grad = empty(x.shape, x.dtype) if input_gradient else None
        if x_grad is not None and self._unfolds_upstream(grad, x, weight, geometry):
            weight_grad = self._gradients_from_upstream(grad, weight, x, geometry, x_grad)
        else:
            if x_grad is not None:
                self._adjoint(grad, weight, None, geometry, x_grad)
            weight_grad = self._kernel_gradient(x, grad, geometry, kept)
        x_grad = None if x_grad is None else x_grad.transpose(0, 3, 1, 2)
        return x_grad, weight_grad.transpose(3, 2, 0, 1), self._channel_sum(grad)

    def conv_transpose2d_forward(self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry) -> Array:
        if self.algorithm == "im2col" or not _is_finite(weight):
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
        if x_grad is not None and self._unfolds(grad, x, geometry):
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
        if self.algorithm == "im2col" or geometry.stride != (1, 1) or not _is_finite(weight):
            return super().upsample_conv2d_forward(x, weight, bias, scale, geometry)
        if differences.applies(self.algorithm, x, weight, scale, geometry):
            y = self._doubled(x, weight, bias)
        else:
            size = geometry.output_size((x.shape[2] * scale[0], x.shape[3] * scale[1]))
            adjoint = transposed_geometry(x.shape, scale, geometry, size)
            y = self.conv_transpose2d_forward(x, _enlarged(weight, scale, geometry), bias, adjoint)
            y = y if finite(pixels_last(y)) else None  # an infinity times the sum of two weights is not that of both
        return super().upsample_conv2d_forward(x, weight, bias, scale, geometry) if y is None else y

    def upsample_conv2d_backward(
        self,
        grad: Array,
        x: Array,
        weight: Array,
        scale: Pair,
        geometry: ConvGeometry,
        input_gradient: bool = True,
    ) -> tuple[Array | None, Array, Array]:
        if self.algorithm == "im2col" or geometry.stride != (1, 1) or not _is_finite(weight):
            return super().upsample_conv2d_backward(grad, x, weight, scale, geometry, input_gradient)
        if differences.applies(self.algorithm, x, weight, scale, geometry) and len(x) >= self._pool.parts:
            found = self._doubled_backward(grad, x, weight, input_gradient)
            if found is not None:
                return found
        else:
            large = _enlarged(weight, scale, geometry)
            adjoint = transposed_geometry(x.shape, scale, geometry, (grad.shape[2], grad.shape[3]))
            x_grad, large_grad, bias_grad = self.conv_transpose2d_backward(grad, x, large, adjoint, input_gradient)
            if finite(large_grad) and (x_grad is None or finite(pixels_last(x_grad))):
                return x_grad, kernel_gradient(large_grad, weight.shape, scale, geometry), bias_grad
        return super().upsample_conv2d_backward(grad, x, weight, scale, geometry, input_gradient)

    # ---- doubling and convolving, from differences ----
    def _doubled(self, x: Array, weight: Array, bias: Array | None) -> Array | None:
        """None if not all of it is finite: infinite differences are all over their pixels' outputs."""
        n, _, h, w = x.shape
        y = empty((n, 2 * h, 2 * w, weight.shape[0]), x.dtype)
        with prepared.constant_weights():
            work = partial(differences.forward, pixels_last(x), weight, bias, y)
            are_finite = self._over_pixels(y, differences.PRODUCTS * weight.size // 36, work, 2)
        return y.transpose(0, 3, 1, 2) if all(are_finite) else None

    def _doubled_backward(
        self, grad: Array, x: Array, weight: Array, input_gradient: bool
    ) -> tuple[Array | None, Array, Array] | None:
        x, grad = pixels_last(x), pixels_last(grad)
        x_grad = empty(x.shape, x.dtype) if input_gradient else None
        with prepared.constant_weights():
            work = partial(differences.backward, x, grad, weight, x_grad)
            cost = 2 * differences.PRODUCTS * weight.size // 9 * x.shape[1] * x.shape[2]
            parts = self.split(len(x), work, _least(len(x), cost))
        with np.errstate(all="ignore"):
            weight_grad = parts[0] if len(parts) == 1 else sum(parts[1:], parts[0])
            if not finite(weight_grad) or (x_grad is not None and not finite(x_grad)):
                return None
        x_grad = None if x_grad is None else x_grad.transpose(0, 3, 1, 2)
        return x_grad, weight_grad.transpose(3, 2, 0, 1), self._channel_sum(grad)

    # ---- the three operations, on (N, H, W, C) ----
    def _correlate(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        geometry: ConvGeometry,
        y: Array,
        kept: Transformed | None = None,
    ) -> None:
        """Fill y with the convolution of x; weight (O, C / groups, KH, KW); `kept`: see transformed.py."""
        if 1 < geometry.groups == x.shape[3]:
            work = partial(depthwise.forward, x, weight, bias, geometry, y)
            self._over_pixels(y, ONE_BY_ONE * geometry.taps * y.shape[3], work)
            return
        algorithm = self._algorithm(x, y, geometry, False)
        if geometry.groups == 1 and self._few_pixels(y, weight.size):
            self._over_channels(y.shape[3], partial(_some_channels, algorithm.forward, x, weight, bias, geometry, y))
            return
        if self._algorithm(x, y, geometry, True) is not algorithm:
            kept = None  # the kernel's gradient will be computed in another way
        with prepared.constant_weights():  # the workers share what is made here
            if geometry.groups == 1 and isinstance(algorithm, Winograd | dilated.Dilated):
                algorithm.prepare(weight, self.split)
            work = partial(algorithm.forward, x, weight, bias, geometry, y, **_given(kept, algorithm))
            self._over_pixels(y, weight.size, work, dilated.rows_together(algorithm, geometry))

    def _kernel_gradient(self, x: Array, grad: Array, geometry: ConvGeometry, kept: Transformed | None = None) -> Array:
        """dW (KH, KW, C / groups, O) of a convolution from x to grad's shape; `kept`: what forward made of x."""
        if 1 < geometry.groups == x.shape[3]:
            work = partial(depthwise.weight_gradient, x, grad, geometry)
            return self._summed(grad, ONE_BY_ONE * geometry.taps * grad.shape[3], work)
        algorithm = self._algorithm(x, grad, geometry, True)
        size = geometry.taps * x.shape[3] // geometry.groups * grad.shape[3]
        work = partial(algorithm.weight_gradient, x, grad, geometry, **_given(kept, algorithm))
        return self._summed(grad, size, work, dilated.rows_together(algorithm, geometry))

    def _adjoint(self, grad: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array) -> None:
        """Fill y with the adjoint of the convolution by weight (of grad's channels, y's / groups, KH, KW)."""
        if bias is None and 1 < geometry.groups == y.shape[3]:
            work = partial(depthwise.input_gradient, grad, weight, geometry, y)
            self.split(len(y), work, _least(len(y), ONE_BY_ONE * y.size // len(y) * geometry.taps) if len(y) else 1)
        elif geometry.stride == (1, 1):
            turned = turned_geometry(geometry, grad.shape, y.shape)
            self._correlate(grad, turned_weight(weight, geometry.groups), bias, turned, y)
        elif geometry.dilation == (1, 1):
            work = partial(adjoint, grad, weight, bias, geometry, y)
            self._over_pixels(y, weight.size // (geometry.stride[0] * geometry.stride[1]), work, geometry.stride[0])
        else:
            for ins, outs, single in group_channels(grad.shape[3], y.shape[3], geometry):
                part, (n, h, w, _), o = None if bias is None else bias[outs], y.shape, outs.stop - outs.start
                found = fold(grad[..., ins].transpose(0, 3, 1, 2), weight[ins], single, (n, o, h, w), part)
                y[..., outs] = found.transpose(0, 2, 3, 1)

    def _algorithm(self, x: Array, y: Array, geometry: ConvGeometry, kernel: bool) -> Any:
        """What computes the output y of x, or the gradient of that convolution's kernel."""
        work, grouped = _work(x, y, geometry), geometry.groups > 1
        phases = dilated.for_phases(self.algorithm, work, geometry.groups, kernel)
        if phases is not None:
            return DILATED[grouped][phases]
        return (GROUPED if grouped else FORWARD)[of_groups(self.algorithm, work, geometry.groups, kernel)]

    # ---- both gradients from one copy ----
    def _unfolds(self, grad: Array, x: Array, geometry: ConvGeometry) -> bool:
        """Whether both gradients of a transposed convolution come from columns of grad: then one copy does for both."""
        if 1 < geometry.groups == grad.shape[3]:
            return False
        return all(_unfolding(self._algorithm(grad, x, geometry, kernel)) for kernel in (False, True))

    def _both(self, grad: Array, weight: Array, x: Array, geometry: ConvGeometry, x_grad: Array) -> Array:
        both = unfold.both if geometry.groups == 1 else GROUPED["unfold"].both
        return self._summed(x, 2 * weight.size, partial(both, grad, weight, x, geometry, x_grad))

    def _unfolds_upstream(self, grad: Array, x: Array, weight: Array, geometry: ConvGeometry) -> bool:
        """Whether both gradients of a convolution are to come from columns of grad, because x has more channels."""
        if geometry.stride != (1, 1) or grad.shape[3] > x.shape[3] or self._few_pixels(x, weight.size):
            return False
        return (
            not 1 < geometry.groups == x.shape[3]
            and _unfolding(self._algorithm(x, grad, geometry, True))
            and _unfolding(self._algorithm(grad, x, turned_geometry(geometry, grad.shape, x.shape), False))
        )

    def _gradients_from_upstream(
        self, grad: Array, weight: Array, x: Array, geometry: ConvGeometry, x_grad: Array
    ) -> Array:
        """Fill x_grad, a convolution of grad whose kernel's gradient is dW turned; dW (KH, KW, C / groups, O)."""
        turned = turned_geometry(geometry, grad.shape, x.shape)
        found = self._both(grad, turned_weight(weight, geometry.groups), x, turned, x_grad)
        if not np.isfinite(found).all():
            # An infinity of x met the zeros around grad, where the plain sum has no term.
            return self._kernel_gradient(x, grad, geometry)
        # (KH, KW, O / groups, C) -> (KH, KW, C / groups, O), group by group
        kh, kw, o, c = found.shape
        groups = found[::-1, ::-1].reshape(kh, kw, o, geometry.groups, c // geometry.groups)
        return np.ascontiguousarray(groups.transpose(0, 1, 4, 3, 2)).reshape(kh, kw, -1, o * geometry.groups)

    def _channel_sum(self, grad: Array) -> Array:
        """The bias gradient: the sum of grad (N, H, W, O) over pixels."""
        rows = grad.reshape(grad.size // grad.shape[3], grad.shape[3])
        parts = self.split(len(rows) // 64, partial(_partial_sums, rows), -(-WORTH_ADDING // (64 * grad.shape[3])))
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

    def _summed(self, grad: Array, per_pixel: int, work: Callable[[slice, slice], Array], multiple: int = 4) -> Array:
        """The sum of what the workers give, in their order."""
        first, *others = self._over_pixels(grad, per_pixel, work, multiple) or [work(slice(0, 0), slice(0, 0))]
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


def _is_finite(weight: Array) -> bool:
    """Where the kernel is not finite, only the reference is right: an adjoint that is computed as a convolution would
    multiply infinities with the zeros around the image."""
    return prepared.prepared(weight, "finite", lambda: finite(weight.ravel(order="K")))


def _work(x: Array, y: Array, geometry: ConvGeometry) -> choice.Work:
    """Of one group."""
    (n, height, width, o), groups = y.shape, geometry.groups
    single = geometry if groups == 1 else replace(geometry, groups=1)
    return choice.Work(n, height, width, x.shape[3] // groups, o // groups, single)


def _given(kept: Transformed | None, algorithm: Any) -> dict[str, Transformed]:
    """The argument `kept`, for the algorithm that takes it."""
    return {} if kept is None or not isinstance(algorithm, Winograd) else {"kept": kept}


def _unfolding(algorithm: Any) -> bool:
    return algorithm is unfold or algorithm is GROUPED["unfold"]


def _some_channels(
    forward: Any, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array, channels: slice
) -> None:
    part = None if bias is None else bias[channels]
    forward(x, weight[channels], part, geometry, y[..., channels], slice(0, y.shape[0]), slice(0, y.shape[1]))


def turned_weight(weight: Array, groups: int) -> Array:
    """(O, C / groups, KH, KW) -> (C, O / groups, KH, KW), turned by 180 degrees: the kernel of the adjoint."""
    return prepared.prepared(weight, ("turned", groups), lambda: turn(weight, groups))


def turn(weight: Array, groups: int) -> Array:
    """As `turned_weight`; in memory (KH, KW, O / groups, C), as the products want it."""
    o, c, kh, kw = weight.shape
    # (groups, O / groups, C / groups, KH, KW) -> (KH, KW, O / groups, groups, C / groups)
    split = weight.reshape(groups, o // groups, c, kh, kw).transpose(3, 4, 1, 0, 2)
    return np.ascontiguousarray(split[::-1, ::-1]).reshape(kh, kw, o // groups, groups * c).transpose(3, 2, 0, 1)


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
