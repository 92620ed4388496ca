"""MaxPool2d and AvgPool2d, as PyTorch's."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from .. import checks, receptive
from ..backends import backend
from ..backends.base import Array
from ..backends.geometry import ConvGeometry, IntOrPair, Pair
from ..layer import Layer


class Pooling(Layer):
    """What both poolings share: the window, and `ceil_mode`."""

    takes_images = True

    def __init__(
        self, kernel_size: IntOrPair, stride: IntOrPair | None, padding: IntOrPair, dilation: IntOrPair, ceil_mode: bool
    ) -> None:
        if isinstance(padding, str):
            raise ValueError(f"padding (={padding!r}) of a pooling must be an integer or a pair")
        ceil_mode = checks.flag(ceil_mode, "ceil_mode")
        self.geometry = ConvGeometry.parse(kernel_size, kernel_size if stride is None else stride, padding, dilation)
        self.padding = checks.pair(padding, "padding", 0)
        self.ceil_mode = ceil_mode
        for amount, size in zip(self.padding, self.geometry.kernel, strict=True):
            if amount > size // 2:
                raise ValueError(f"padding (={amount}) must be at most half of kernel_size (={size})")

    @property
    def fresh_output(self) -> bool:
        return True

    @property
    def fresh_gradient(self) -> bool:
        return True

    @property
    def scale(self) -> tuple[Fraction, Fraction]:
        return Fraction(1, self.geometry.stride[0]), Fraction(1, self.geometry.stride[1])

    def input_range(self, axis: int, start: int, stop: int) -> receptive.Range | None:
        return receptive.window_range(self.geometry, axis, start, stop)

    def fitted(self, size: Pair) -> ConvGeometry:
        """The geometry for an image of `size`: with `ceil_mode`, padded further so that a last partial window fits."""
        if not self.ceil_mode:
            return self.geometry
        sides = tuple(self._ceil_side(size[axis], axis) for axis in (0, 1))
        return replace(self.geometry, padding=(sides[0], sides[1]))

    def _ceil_side(self, length: int, axis: int) -> Pair:
        stride, pad, extent = self.geometry.stride[axis], self.padding[axis], self.geometry.extent[axis]
        windows = -((length + 2 * pad - extent) // -stride) + 1
        if (windows - 1) * stride >= length + pad:
            windows -= 1  # a window must not begin beyond the image and its left padding
        return pad, max(pad, (windows - 1) * stride + extent - length - pad)

    def check_input(self, x: Array) -> None:
        self.fitted(x.shape[2:]).output_size(x.shape[2:])

    def arguments(self) -> dict[str, Any]:
        return {
            "kernel_size": list(self.geometry.kernel),
            "stride": list(self.geometry.stride),
            "padding": list(self.padding),
            "ceil_mode": self.ceil_mode,
        }

    def extra_repr(self) -> str:
        text = f"kernel_size={self.geometry.kernel}, stride={self.geometry.stride}, padding={self.padding}"
        return text + (", ceil_mode=True" if self.ceil_mode else "")


class MaxPool2d(Pooling):
    """The largest value of each window; its gradient goes to the first pixel that has it.

    Args:
        kernel_size, stride, padding, dilation: integers or pairs; stride None is kernel_size; padding at most half
            of kernel_size, and never wins.
        ceil_mode: count a last window that is only partly inside.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        *,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, dilation, ceil_mode)

    def _forward(self, x: Array) -> tuple[Array, Any]:
        geometry = self.fitted(x.shape[2:])
        y, winners = backend().max_pool2d_forward(x, geometry)
        return y, (winners, x.shape, geometry)

    def _backward(self, grad: Array, saved: Any) -> Array:
        return backend().max_pool2d_backward(grad, *saved)

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "dilation": list(self.geometry.dilation)}

    def extra_repr(self) -> str:
        gaps = f", dilation={self.geometry.dilation}" if self.geometry.dilation != (1, 1) else ""
        return super().extra_repr() + gaps


class AvgPool2d(Pooling):
    """The mean of each window.

    Args:
        kernel_size, stride, padding: integers or pairs; stride None is kernel_size.
        ceil_mode: count a last window that is only partly inside.
        count_include_pad: whether padded zeros count in the mean.
        divisor_override: divide by this number, at least 1, instead of the number of pixels.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, 1, ceil_mode)
        count_include_pad = checks.flag(count_include_pad, "count_include_pad")
        self.count_include_pad = count_include_pad
        self.divisor_override = (
            None if divisor_override is None else checks.integer(divisor_override, "divisor_override", 1)
        )

    def _divisor(self, size: Pair, geometry: ConvGeometry) -> Array:
        """What each window's sum is divided by: (OH, OW)."""
        out = geometry.output_size(size)
        if self.divisor_override is not None:
            down, across = (self.divisor_override,) * out[0], (1,) * out[1]
        else:
            down, across = (self._counts(size[axis], out[axis], axis) for axis in (0, 1))
        return backend().constant(("divisor", down, across), lambda: np.outer(np.array(down), np.array(across)))

    def _counts(self, length: int, windows: int, axis: int) -> tuple[int, ...]:
        """How many pixels of each window count, along one axis; those that ceil_mode added never do."""
        pad, kernel, stride = self.padding[axis], self.geometry.kernel[axis], self.geometry.stride[axis]
        low, high = (-pad, length + pad) if self.count_include_pad else (0, length)
        starts = [i * stride - pad for i in range(windows)]
        return tuple(min(start + kernel, high) - max(start, low) for start in starts)

    def _forward(self, x: Array) -> tuple[Array, Any]:
        geometry = self.fitted(x.shape[2:])
        divisor = self._divisor(x.shape[2:], geometry)
        return backend().avg_pool2d_forward(x, divisor, geometry), (divisor, x.shape, geometry)

    def _backward(self, grad: Array, saved: Any) -> Array:
        return backend().avg_pool2d_backward(grad, *saved)

    def arguments(self) -> dict[str, Any]:
        own = {"count_include_pad": self.count_include_pad, "divisor_override": self.divisor_override}
        return {**super().arguments(), **own}

    def extra_repr(self) -> str:
        text = super().extra_repr()
        text += "" if self.count_include_pad else ", count_include_pad=False"
        return text + (f", divisor_override={self.divisor_override}" if self.divisor_override else "")
