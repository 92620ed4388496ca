"""Layers that enlarge: nearest-neighbour upsampling, upsampling with a convolution, pixel shuffle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from .. import checks, receptive
from ..backends import backend
from ..backends.base import Array
from ..backends.geometry import ConvGeometry, IntOrPair, Pair, Sides
from ..layer import Layer
from .conv import WeightedLayer, check_output_padding, plain

Scale = float | Sequence[float]
REGULAR_UP_TO = 1 << 17  # pixels along a side, within which indices are looked at


class UpsamplingNearest2d(Layer):
    """Nearest-neighbour resampling of (N, C, H, W) or (C, H, W): output pixel i is input pixel floor(i / scale).

    Args:
        size: the output's height and width, an integer or a pair; or
        scale_factor: how many times larger, an integer, a float or a pair; the output is floor(scale H) high.

    Exactly one of both is given, else ValueError. Indices are computed in float32, as PyTorch does, so that the two
    agree where scale H is near a whole number. `forward` raises ValueError if the output would have no pixel.
    """

    takes_images = True

    def __init__(self, size: IntOrPair | None = None, scale_factor: Scale | None = None) -> None:
        if (size is None) == (scale_factor is None):
            raise ValueError(f"exactly one of size (={size}) and scale_factor (={scale_factor}) must be given")
        self.size = None if size is None else checks.pair(size, "size", 1)
        self.scale_factor = None if scale_factor is None else _scale_pair(scale_factor)

    @property
    def fresh_output(self) -> bool:
        return True

    @property
    def fresh_gradient(self) -> bool:
        return True

    @property
    def scale(self) -> tuple[Fraction, Fraction]:
        if self.scale_factor is None:
            return Fraction(1), Fraction(1)
        height, width = (Fraction(s).limit_denominator(1000) for s in self.scale_factor)
        return height, width

    def input_range(self, axis: int, start: int, stop: int) -> receptive.Range | None:
        if self.scale_factor is None or not _is_regular(self.scale_factor[axis]):
            return None
        return receptive.nearest_range(self.scale[axis], start, stop)

    def output_size(self, size: Pair) -> Pair:
        """The output's (height, width) for an input of `size`."""
        if self.size is not None:
            return self.size
        height, width = self.scale_factor or (1.0, 1.0)
        return math.floor(size[0] * height), math.floor(size[1] * width)

    def check_input(self, x: Array) -> None:
        size = self.output_size(x.shape[2:])
        if min(size) < 1 or min(x.shape[2:]) < 1:
            raise ValueError(
                f"the output of {self!r} would be {size[0]}x{size[1]} for an image of {x.shape[2]}x{x.shape[3]}: "
                "both must be at least 1x1"
            )

    def _forward(self, x: Array) -> tuple[Array, Any]:
        size, scales = self.output_size(x.shape[2:]), self.scale_factor or (None, None)
        rows = _source_indices(x.shape[2], size[0], scales[0])
        columns = _source_indices(x.shape[3], size[1], scales[1])
        return backend().upsample_nearest_forward(x, rows, columns), (x.shape, rows, columns)

    def _backward(self, grad: Array, saved: Any) -> Array:
        shape, rows, columns = saved
        return backend().upsample_nearest_backward(grad, shape, rows, columns)

    def arguments(self) -> dict[str, Any]:
        if self.size is not None:
            return {"size": list(self.size)}
        return {"scale_factor": list(self.scale_factor or ())}

    def extra_repr(self) -> str:
        return f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"


def _scale_pair(scale: Scale) -> tuple[float, float]:
    values = tuple(scale) if isinstance(scale, Sequence) and not isinstance(scale, str) else (scale, scale)
    if len(values) != 2:
        raise ValueError(f"scale_factor (={scale!r}) must be a number or a pair (height, width)")
    return checks.number(values[0], "scale_factor", above=0), checks.number(values[1], "scale_factor", above=0)


def _source_indices(length: int, out: int, scale: float | None) -> list[int]:
    """Which of `length` input pixels each of `out` output pixels copies."""
    if out == length:
        return list(range(length))
    if out == 2 * length:
        return [i // 2 for i in range(out)]
    step = np.float32(1.0 / scale) if scale is not None else np.float32(length) / np.float32(out)
    indices = np.floor(np.arange(out, dtype=np.float32) * step).astype(int)
    return np.minimum(indices, length - 1).tolist()


@lru_cache(maxsize=256)
def _is_regular(scale: float) -> bool:
    """Whether a part of an image is enlarged as it is within the whole: float32 rounds the indices of odd scales."""
    exact = Fraction(scale).limit_denominator(1000)
    outputs = np.arange(REGULAR_UP_TO)
    indices = np.floor(outputs.astype(np.float32) * np.float32(1.0 / scale)).astype(int)
    lengths = np.arange(0, REGULAR_UP_TO, exact.denominator)
    enlarged = np.floor(lengths * scale).astype(int)
    return bool(
        (indices == outputs * exact.denominator // exact.numerator).all()
        and (enlarged == lengths // exact.denominator * exact.numerator).all()
    )


class Upsampling(WeightedLayer):
    """Nearest-neighbour upsampling, then a convolution: a transposed convolution without checkerboards.

    With `transposeconvargs` (the default), the arguments are those of a transposed convolution, and the output has
    that one's shape at every kernel, stride, padding and dilation for which it has one: the image is enlarged
    `stride` times, then convolved with stride 1, dilation d and, over both sides, a padding of

        2 d (k - 1) + 1 + output_padding - stride - 2 padding

    (left the smaller half, right the larger; a negative padding crops). Without, `scale_factor` enlarges, and the
    other arguments are the convolution's own.

    Args:
        in_channels, out_channels, kernel_size, dilation, bias, dtype, rng: as for `Conv2d`.
        stride, padding: of the transposed convolution; else of the convolution, where padding may be "same".
        transposeconvargs: whose arguments these are.
        scale_factor: an integer or a pair, with `transposeconvargs=False` only, and then required.
        output_padding: of the transposed convolution, with `transposeconvargs` only.

    `weight` is (out_channels, in_channels, KH, KW), `bias` (out_channels,) or None; they start as a Conv2d's.
    Odena, Dumoulin and Olah, "Deconvolution and checkerboard artifacts" (2016).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair | str = 0,
        dilation: IntOrPair = 1,
        bias: bool = True,
        transposeconvargs: bool = True,
        scale_factor: IntOrPair | None = None,
        output_padding: IntOrPair = 0,
        *,
        dtype: Any = "float32",
        rng: np.random.Generator | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, 1)
        transposeconvargs = checks.flag(transposeconvargs, "transposeconvargs")
        self.transposeconvargs = transposeconvargs
        self.padding = padding if isinstance(padding, str) else checks.pair(padding, "padding", 0)
        self.output_padding = checks.pair(output_padding, "output_padding", 0)
        if transposeconvargs:
            if scale_factor is not None:
                raise ValueError(
                    f"scale_factor (={scale_factor!r}) needs transposeconvargs=False: with transposeconvargs, the "
                    "image is enlarged stride times"
                )
            self._as_transposed(kernel_size, stride, padding, dilation)
        else:
            if scale_factor is None:
                raise ValueError("scale_factor must be given with transposeconvargs=False")
            if self.output_padding != (0, 0):
                raise ValueError(f"output_padding (={output_padding!r}) needs transposeconvargs=True")
            self.factors = checks.pair(scale_factor, "scale_factor", 1)
            self.geometry = ConvGeometry.parse(kernel_size, stride, padding, dilation)
        shape = (self.out_channels, self.in_channels, *self.geometry.kernel)
        self.make_parameters(shape, bias, dtype, rng)

    def _as_transposed(
        self, kernel_size: IntOrPair, stride: IntOrPair, padding: IntOrPair | str, dilation: IntOrPair
    ) -> None:
        if isinstance(padding, str):
            raise ValueError(f"padding (={padding!r}) of a transposed convolution must be an integer or a pair")
        transposed = ConvGeometry.parse(kernel_size, stride, padding, dilation)
        check_output_padding(self.output_padding, transposed)
        self.factors = transposed.stride
        self._transposed = transposed.with_output_padding(*self.output_padding)
        sides = tuple(self._side(self._transposed, axis) for axis in (0, 1))
        self.geometry = ConvGeometry(transposed.kernel, (1, 1), (sides[0], sides[1]), transposed.dilation)

    @staticmethod
    def _side(transposed: ConvGeometry, axis: int) -> Pair:
        """The convolution's padding along one axis, from the arguments of a transposed convolution."""
        reach = transposed.extent[axis] - 1
        total = 2 * reach + 1 - transposed.stride[axis] - sum(transposed.padding[axis])
        return total // 2, total - total // 2

    @property
    def scale(self) -> tuple[Fraction, Fraction]:
        steps = self.geometry.stride
        return Fraction(self.factors[0], steps[0]), Fraction(self.factors[1], steps[1])

    def input_range(self, axis: int, start: int, stop: int) -> receptive.Range | None:
        enlarged = receptive.window_range(self.geometry, axis, start, stop)
        return receptive.nearest_range(self.factors[axis], *enlarged)

    def check_input(self, x: Array) -> None:
        self.check_channels(x)
        if self.transposeconvargs:
            self._transposed.transposed_size(x.shape[2:])
        self.geometry.output_size((x.shape[2] * self.factors[0], x.shape[3] * self.factors[1]))

    def _forward(self, x: Array, **fusion: Any) -> tuple[Array, Any]:
        return backend().upsample_conv2d_forward(x, *self.kernel(x), self.factors, self.geometry, **fusion), x

    def _backward(self, grad: Array, saved: Any) -> Array | None:
        weight = self.weight.read(saved.dtype)
        x_grad, *grads = backend().upsample_conv2d_backward(
            grad, saved, weight, self.factors, self.geometry, self.input_gradient
        )
        self.accumulate(*grads)
        return x_grad

    def arguments(self) -> dict[str, Any]:
        transposed = self.transposeconvargs
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel_size": list(self.geometry.kernel),
            "stride": list(self.factors if transposed else self.geometry.stride),
            "padding": plain(self.padding),
            "dilation": list(self.geometry.dilation),
            "bias": self.bias is not None,
            "transposeconvargs": transposed,
            "scale_factor": None if transposed else list(self.factors),
            "output_padding": list(self.output_padding),
        }

    def extra_repr(self) -> str:
        sides: Sides = self.geometry.padding
        text = (
            f"{self.in_channels}, {self.out_channels}, scale_factor={self.factors}, "
            f"kernel_size={self.geometry.kernel}, padding={sides}"
        )
        text += f", stride={self.geometry.stride}" if self.geometry.stride != (1, 1) else ""
        text += f", dilation={self.geometry.dilation}" if self.geometry.dilation != (1, 1) else ""
        return text + (", bias=False" if self.bias is None else "")


class PixelShuffle(Layer):
    """(N, C r^2, H, W) -> (N, C, H r, W r): channels become pixels (Shi et al., 2016). r = upscale_factor."""

    takes_images = True

    def __init__(self, upscale_factor: int) -> None:
        self.upscale_factor = checks.integer(upscale_factor, "upscale_factor", 1)

    @property
    def scale(self) -> tuple[Fraction, Fraction]:
        return Fraction(self.upscale_factor), Fraction(self.upscale_factor)

    def input_range(self, axis: int, start: int, stop: int) -> receptive.Range | None:
        return receptive.nearest_range(self.upscale_factor, start, stop)

    def check_input(self, x: Array) -> None:
        if x.shape[1] % self.upscale_factor**2:
            raise ValueError(
                f"PixelShuffle: the channels (={x.shape[1]}) must be divisible by upscale_factor^2 "
                f"(={self.upscale_factor**2})"
            )

    def _forward(self, x: Array) -> tuple[Array, Any]:
        return backend().pixel_shuffle(x, self.upscale_factor), None

    def _backward(self, grad: Array, saved: Any) -> Array:
        return backend().pixel_unshuffle(grad, self.upscale_factor)

    def arguments(self) -> dict[str, Any]:
        return {"upscale_factor": self.upscale_factor}

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Layer):
    """(N, C, H r, W r) -> (N, C r^2, H, W): pixels become channels. r = downscale_factor."""

    takes_images = True

    def __init__(self, downscale_factor: int) -> None:
        self.downscale_factor = checks.integer(downscale_factor, "downscale_factor", 1)

    @property
    def scale(self) -> tuple[Fraction, Fraction]:
        return Fraction(1, self.downscale_factor), Fraction(1, self.downscale_factor)

    def input_range(self, axis: int, start: int, stop: int) -> receptive.Range | None:
        return start * self.downscale_factor, stop * self.downscale_factor

    def check_input(self, x: Array) -> None:
        if x.shape[2] % self.downscale_factor or x.shape[3] % self.downscale_factor:
            raise ValueError(
                f"PixelUnshuffle: height and width (={x.shape[2]}x{x.shape[3]}) must be divisible by "
                f"downscale_factor (={self.downscale_factor})"
            )

    def _forward(self, x: Array) -> tuple[Array, Any]:
        return backend().pixel_unshuffle(x, self.downscale_factor), None

    def _backward(self, grad: Array, saved: Any) -> Array:
        return backend().pixel_shuffle(grad, self.downscale_factor)

    def arguments(self) -> dict[str, Any]:
        return {"downscale_factor": self.downscale_factor}

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"
