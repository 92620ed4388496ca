"""Conv2d and ConvTranspose2d, with all of PyTorch's arguments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from .. import checks, init, receptive
from ..backends import backend
from ..backends.base import Array
from ..backends.geometry import ConvGeometry, IntOrPair, Pair
from ..backends.reference.padding import check_padding
from ..layer import Layer
from ..module import Module, Parameter
from .activation import InPlaceActivation

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def plain(value: Any) -> Any:
    """A pair as a list, anything else as it is: for arguments that are stored as JSON."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


class WeightedLayer(Layer):
    """What layers with a kernel share: channels that groups divide, weight and bias, their initialisation."""

    takes_images = True
    fresh_output = True
    fresh_gradient = True

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        self.in_channels = checks.integer(in_channels, "in_channels", 1)
        self.out_channels = checks.integer(out_channels, "out_channels", 1)
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % groups:
                raise ValueError(f"{name} (={channels}) must be divisible by groups (={groups})")

    def make_parameters(self, shape: tuple[int, ...], bias: bool, dtype: Any, rng: np.random.Generator | None) -> None:
        """`weight` of `shape` and `bias` (or None), initialised as PyTorch does."""
        bias = checks.flag(bias, "bias")
        # In memory (KH, KW, shape[1], shape[0]): the kernel as im2col multiplies it, without a copy.
        self.weight = Parameter(np.zeros((*shape[2:], shape[1], shape[0]), dtype="float32").transpose(3, 2, 0, 1))
        self.bias: Parameter | None = Parameter(np.zeros(self.out_channels, dtype="float32")) if bias else None
        init.default_(self.weight, self.bias, rng)
        if dtype != "float32":
            self.astype(dtype)

    def check_channels(self, x: Array) -> None:
        """ValueError if x (N, C, H, W) has not `in_channels` channels."""
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__} expects in_channels (={self.in_channels}) channels, "
                f"got an input of shape {x.shape} with {x.shape[1]}"
            )

    def kernel(self, x: Array) -> tuple[Array, Array | None]:
        """Weight and bias in the input's dtype."""
        return self.weight.read(x.dtype), None if self.bias is None else self.bias.read(x.dtype)

    def forward_with(self, x: Array, following: Module) -> Array | None:
        if not isinstance(following, InPlaceActivation):
            return None
        fusion = following.fusion
        if fusion is None or fusion["activation"] not in backend().fused_activations:
            return None
        if type(self).__module__.partition(".")[0] != "npconv" or "forward" in vars(self):
            return None  # a forward of someone's own
        y = self._checked_forward(x, lambda x: self._forward(x, **fusion))
        following.keep(x.dtype, y)
        return y

    @abstractmethod
    def _forward(self, x: Array, **fusion: Any) -> tuple[Array, Any]:
        """As Layer's; `fusion` is passed on to the backend's convolution."""

    def accumulate(self, weight_grad: Array, bias_grad: Array) -> None:
        """Add to the gradients of weight and bias."""
        self.weight.accumulate(weight_grad)
        if self.bias is not None:
            self.bias.accumulate(bias_grad)


def _described(layer: Any, geometry: ConvGeometry, options: dict[str, tuple[Any, Any]]) -> str:
    """The repr of a convolution: kernel and stride always, the rest where it is not the default."""
    text = f"{layer.in_channels}, {layer.out_channels}, kernel_size={geometry.kernel}, stride={geometry.stride}"
    return text + "".join(f", {key}={value!r}" for key, (value, default) in options.items() if value != default)


class Conv2d(WeightedLayer):
    """2D convolution (cross-correlation) of (N, C_in, H, W) or (C_in, H, W), as PyTorch's.

    out = floor((size + 2 padding - dilation (kernel_size - 1) - 1) / stride) + 1, along each axis.

    Args:
        in_channels, out_channels: channels of input and output; both divisible by `groups`.
        kernel_size, stride, dilation: integers of at least 1, or pairs (height, width).
        padding: an integer or a pair, of zeros or of what `padding_mode` says, on both sides; "valid" is 0; "same"
            keeps the size, and needs stride 1.
        groups: channels fall into so many blocks that do not see each other; in_channels of them is depthwise.
        bias: whether a number is added to each output channel.
        padding_mode: "zeros", "reflect" (1234 -> 32123432), "replicate" (11123444) or "circular" (34123412).
        dtype: of the parameters, float32 or float64.
        rng: for the initial weights; the generator of `npconv.manual_seed` if None.

    `weight` is (out_channels, in_channels / groups, KH, KW), `bias` (out_channels,) or None. Both start as
    U(-k, k), k = sqrt(groups / (in_channels KH KW)).

    Raises ValueError or TypeError for arguments outside these rules, and from `forward` for a wrong number of
    channels or an image that the kernel or the padding does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair | str = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: Any = "float32",
        rng: np.random.Generator | None = None,
    ) -> None:
        self.geometry = ConvGeometry.parse(kernel_size, stride, padding, dilation, groups)
        super().__init__(in_channels, out_channels, self.geometry.groups)
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode (={padding_mode!r}) must be one of {', '.join(PADDING_MODES)}")
        self.padding_mode = padding_mode
        self.padding = padding if isinstance(padding, str) else checks.pair(padding, "padding", 0)
        shape = (self.out_channels, self.in_channels // groups, *self.geometry.kernel)
        self.make_parameters(shape, bias, dtype, rng)

    @property
    def scale(self) -> tuple[Fraction, Fraction]:
        return Fraction(1, self.geometry.stride[0]), Fraction(1, self.geometry.stride[1])

    def input_range(self, axis: int, start: int, stop: int) -> receptive.Range | None:
        if self.padding_mode == "zeros" or self.geometry.padding[axis] == (0, 0):
            return receptive.window_range(self.geometry, axis, start, stop)
        if self.padding_mode == "circular":  # each border sees the other one
            return None
        return receptive.mirrored_range(self.geometry, axis, start, stop)

    @property
    def _unpadded(self) -> ConvGeometry:
        """The geometry on an image that is padded already."""
        return replace(self.geometry, padding=((0, 0), (0, 0)))

    def check_input(self, x: Array) -> None:
        self.check_channels(x)
        check_padding(self.geometry.padding, x.shape[2:], self.padding_mode)
        self.geometry.output_size(x.shape[2:])

    def _forward(self, x: Array, **fusion: Any) -> tuple[Array, Any]:
        weight, bias = self.kernel(x)
        if self.padding_mode == "zeros":
            return backend().conv2d_forward(x, weight, bias, self.geometry, **fusion), (x, x.shape)
        padded = backend().pad2d_forward(x, self.geometry.padding, self.padding_mode)
        return backend().conv2d_forward(padded, weight, bias, self._unpadded, **fusion), (padded, x.shape)

    def _backward(self, grad: Array, saved: Any) -> Array | None:
        x, shape = saved
        geometry = self.geometry if self.padding_mode == "zeros" else self._unpadded
        weight = self.weight.read(x.dtype)
        x_grad, *grads = backend().conv2d_backward(grad, x, weight, geometry, self.input_gradient)
        self.accumulate(*grads)
        if x_grad is None or self.padding_mode == "zeros":
            return x_grad
        return backend().pad2d_backward(x_grad, shape, self.geometry.padding, self.padding_mode)

    def arguments(self) -> dict[str, Any]:
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel_size": list(self.geometry.kernel),
            "stride": list(self.geometry.stride),
            "padding": plain(self.padding),
            "dilation": list(self.geometry.dilation),
            "groups": self.geometry.groups,
            "bias": self.bias is not None,
            "padding_mode": self.padding_mode,
        }

    def extra_repr(self) -> str:
        options = {
            "padding": (self.padding, (0, 0)),
            "dilation": (self.geometry.dilation, (1, 1)),
            "groups": (self.geometry.groups, 1),
            "bias": (self.bias is not None, True),
            "padding_mode": (self.padding_mode, "zeros"),
        }
        return _described(self, self.geometry, options)


class ConvTranspose2d(WeightedLayer):
    """Transposed 2D convolution of (N, C_in, H, W) or (C_in, H, W): the adjoint of a Conv2d, as PyTorch's.

    out = (size - 1) stride - 2 padding + dilation (kernel_size - 1) + 1 + output_padding, along each axis.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias, dtype, rng: as for `Conv2d`.
        padding: rows and columns cut off on each side of the output.
        output_padding: rows and columns added at the bottom and the right; less than stride or dilation.
        padding_mode: "zeros", the only one there is.

    `weight` is (in_channels, out_channels / groups, KH, KW), `bias` (out_channels,) or None. Both start as U(-k, k),
    k = sqrt(groups / (out_channels KH KW)), as in PyTorch.

    Raises ValueError or TypeError for arguments outside these rules, and from `forward` for a wrong number of
    channels or an image of which nothing would be left.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        output_padding: IntOrPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrPair = 1,
        padding_mode: str = "zeros",
        *,
        dtype: Any = "float32",
        rng: np.random.Generator | None = None,
    ) -> None:
        if isinstance(padding, str):
            raise ValueError(f"padding (={padding!r}) of a transposed convolution must be an integer or a pair")
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode (={padding_mode!r}) of a transposed convolution must be 'zeros'")
        plain_geometry = ConvGeometry.parse(kernel_size, stride, padding, dilation, groups)
        super().__init__(in_channels, out_channels, plain_geometry.groups)
        self.padding = checks.pair(padding, "padding", 0)
        self.output_padding = checks.pair(output_padding, "output_padding", 0)
        check_output_padding(self.output_padding, plain_geometry)
        self.geometry = plain_geometry.with_output_padding(*self.output_padding)
        shape = (self.in_channels, self.out_channels // groups, *self.geometry.kernel)
        self.make_parameters(shape, bias, dtype, rng)

    @property
    def scale(self) -> tuple[Fraction, Fraction]:
        return Fraction(self.geometry.stride[0]), Fraction(self.geometry.stride[1])

    def input_range(self, axis: int, start: int, stop: int) -> receptive.Range | None:
        return receptive.transposed_range(self.geometry, axis, start, stop)

    def check_input(self, x: Array) -> None:
        self.check_channels(x)
        self.geometry.transposed_size(x.shape[2:])

    def _forward(self, x: Array, **fusion: Any) -> tuple[Array, Any]:
        return backend().conv_transpose2d_forward(x, *self.kernel(x), self.geometry, **fusion), x

    def _backward(self, grad: Array, saved: Any) -> Array | None:
        weight = self.weight.read(saved.dtype)
        x_grad, *grads = backend().conv_transpose2d_backward(grad, saved, weight, self.geometry, self.input_gradient)
        self.accumulate(*grads)
        return x_grad

    def arguments(self) -> dict[str, Any]:
        return {
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel_size": list(self.geometry.kernel),
            "stride": list(self.geometry.stride),
            "padding": list(self.padding),
            "output_padding": list(self.output_padding),
            "groups": self.geometry.groups,
            "bias": self.bias is not None,
            "dilation": list(self.geometry.dilation),
        }

    def extra_repr(self) -> str:
        options = {
            "padding": (self.padding, (0, 0)),
            "output_padding": (self.output_padding, (0, 0)),
            "dilation": (self.geometry.dilation, (1, 1)),
            "groups": (self.geometry.groups, 1),
            "bias": (self.bias is not None, True),
        }
        return _described(self, self.geometry, options)


def check_output_padding(output_padding: Pair, geometry: ConvGeometry) -> None:
    """ValueError unless each output padding is less than the stride or the dilation of its axis."""
    for extra, stride, dilation in zip(output_padding, geometry.stride, geometry.dilation, strict=True):
        if extra >= max(stride, dilation):
            raise ValueError(
                f"output_padding (={extra}) must be less than stride (={stride}) or dilation (={dilation})"
            )
