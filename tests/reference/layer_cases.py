"""Every layer over a grid of its options, ours and PyTorch's twin: the table of the live comparison.

A case gives, for a random upstream gradient, the output and the gradients of the input, of the weight and of the bias,
and what the layer remembers (running statistics). Those with `stored` are in `torch_reference.npz` as well.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from comparison import Results, uniform
from devices import on_device, on_host

import npconv as nc

# Layers whose twin in PyTorch takes no unbatched image.
BATCHED_ONLY = ("UpsamplingNearest2d", "Upsampling", "BatchNorm2d")
IMAGES = (2, 4, 7, 6)
STATE = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class LayerCase:
    """One layer with its arguments, and the input it gets.

    `values`: "smooth"; "coarse" (multiples of 1/2, so that zeros and ties occur); "nan" (some pixels are NaN); "wide"
    (up to 32 in size, where a Sigmoid saturates). `passes`: how many batches go forward, of which the last comes back.
    """

    layer: str
    arguments: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = IMAGES
    values: str = "smooth"
    training: bool = True
    passes: int = 1
    stored: bool = False

    @property
    def name(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
        notes = [str(self.shape).replace(" ", "")]
        notes += [self.values] if self.values != "smooth" else []
        notes += [] if self.training else ["eval"]
        return f"{self.layer}({arguments}) {' '.join(notes)}"

    def inputs(self) -> list[np.ndarray]:
        return [self._input(f"{self.name} input {i}") for i in range(self.passes)]

    def _input(self, label: str) -> np.ndarray:
        x = uniform(self.shape, label)
        if self.values == "coarse":
            return np.round(x * 2) / 2
        if self.values == "nan":
            return np.where(uniform(self.shape, label + " nan") > 0.8, np.nan, x)
        return x * 32 if self.values == "wide" else x

    def state(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Values of the parameter or the running statistic `name`."""
        values = uniform(shape, f"{self.name} {name}")
        return abs(values) + 0.5 if name == "running_var" else values

    def upstream(self, shape: tuple[int, ...]) -> np.ndarray:
        return uniform(shape, f"{self.name} upstream")

    def ours(self, dtype: str) -> Results:
        layer = getattr(nc, self.layer)(**self.arguments).astype(dtype).train(self.training)
        values = {key: value for key, value in layer.state_dict().items() if key != "num_batches_tracked"}
        layer.load_state_dict(
            {key: self.state(key, value.shape).astype(dtype) for key, value in values.items()}, strict=False
        )
        for x in self.inputs():
            y = layer(on_device(x.astype(dtype)))
        x_grad = layer.backward(on_device(self.upstream(y.shape).astype(dtype)))
        results = {"output": y, "input": x_grad}
        results.update({key: parameter.grad for key, parameter in layer.named_parameters()})
        results.update({key: value for key, value in layer.state_dict().items() if key in STATE})
        return on_host(results)

    def theirs(self, torch: Any, dtype: str) -> Results:
        # PyTorch warns that padding="same" with an even kernel copies the input: so it does.
        warnings.filterwarnings("ignore", message="Using padding='same' with even kernel lengths")
        layer = twin(torch, self.layer, self.arguments).to(getattr(torch, dtype)).train(self.training)
        with torch.no_grad():
            for key, value in layer.state_dict().items():
                name = key.rpartition(".")[2]
                if name != "num_batches_tracked":
                    value.copy_(torch.from_numpy(self.state(name, tuple(value.shape))))
        lone = len(self.shape) == 3 and self.layer in BATCHED_ONLY
        for values in self.inputs():
            x = torch.from_numpy(values.astype(dtype)).requires_grad_()
            y = layer(x[None])[0] if lone else layer(x)
        y.backward(torch.from_numpy(self.upstream(tuple(y.shape)).astype(dtype)))
        results = {"output": y.detach(), "input": x.grad}
        results.update({key.rpartition(".")[2]: value.grad for key, value in layer.named_parameters()})
        results.update({key: value for key, value in layer.state_dict().items() if key in STATE})
        return {key: value.numpy() for key, value in results.items()}


def twin(torch: Any, layer: str, arguments: dict[str, Any]) -> Any:
    """PyTorch's module for one of ours."""
    if layer == "UpsamplingNearest2d":
        return torch.nn.Upsample(mode="nearest", **arguments)
    if layer == "Upsampling":
        return upsampling_twin(torch, **arguments)
    if layer == "Scale":
        return function_twin(torch, lambda x: arguments["factor"] * x)
    if layer == "SelectChannels":
        picked = range(arguments["start"], arguments["stop"])
        return function_twin(torch, lambda x: torch.index_select(x, -3, torch.tensor(picked)))
    return getattr(torch.nn, layer)(**arguments)


def function_twin(torch: Any, function: Callable[[Any], Any]) -> Any:
    """A module without parameters that computes `function`."""
    module = torch.nn.Module()
    module.forward = function
    return module


def upsampling_twin(
    torch: Any,
    in_channels: int,
    out_channels: int,
    kernel_size: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    bias: bool = True,
    transposeconvargs: bool = True,
    scale_factor: Any = None,
    output_padding: Any = 0,
) -> Any:
    """Nearest upsampling, zero padding and a convolution, put together from PyTorch's parts."""
    conv = {"dilation": dilation, "bias": bias}
    if not transposeconvargs:
        large = torch.nn.Upsample(scale_factor=scale_factor, mode="nearest")
        conv.update(stride=stride, padding=padding)
        return torch.nn.Sequential(large, torch.nn.Conv2d(in_channels, out_channels, kernel_size, **conv))
    sides = []
    for k, s, p, d, extra in zip(*map(both, (kernel_size, stride, padding, dilation, output_padding)), strict=True):
        total = 2 * d * (k - 1) + 1 + extra - s - 2 * p
        sides.append((total // 2, total - total // 2))
    return torch.nn.Sequential(
        torch.nn.Upsample(scale_factor=tuple(float(s) for s in both(stride)), mode="nearest"),
        torch.nn.ZeroPad2d((*sides[1], *sides[0])),
        torch.nn.Conv2d(in_channels, out_channels, kernel_size, **conv),
    )


def both(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def conv_cases() -> Iterator[LayerCase]:
    kernels, strides, paddings, dilations = (1, 3, (2, 3)), (1, 2, (4, 3)), (0, (2, 1)), (1, (1, 2))
    for k, s, p, d, g in itertools.product(kernels, strides, paddings, dilations, (1, 2, 4)):
        arguments = {"kernel_size": k, "stride": s, "padding": p, "dilation": d, "groups": g}
        yield conv(8 if g == 4 else 6, **arguments)
    small = (1, 4, 6, 5)
    yield conv(6, kernel_size=3, shape=small, stored=True)
    yield conv(3, kernel_size=3, stride=2, padding=1, shape=small, stored=True)
    yield conv(3, kernel_size=2, stride=3, shape=small, stored=True)  # stride over kernel: pixels between windows
    yield conv(3, kernel_size=3, stride=3, shape=(1, 4, 8, 7), stored=True)  # no window reaches the last rows
    yield conv(3, kernel_size=(5, 1), shape=small)
    yield conv(6, kernel_size=3, dilation=2, padding=(2, 1), groups=2, bias=False, shape=small, stored=True)
    yield conv(4, kernel_size=3, padding=1, groups=4, shape=small, stored=True)
    yield conv(8, kernel_size=3, padding=2, shape=(2, 4, 1, 1))
    yield conv(8, kernel_size=1, shape=(3, 4, 1, 1))
    yield conv(6, kernel_size=3, padding=1, shape=(0, 4, 6, 5))
    yield conv(6, kernel_size=3, padding=1, groups=2, shape=(0, 4, 6, 5))
    yield conv(3, kernel_size=3, stride=2, padding=1, shape=(4, 6, 5), stored=True)
    yield conv(4, kernel_size=3, groups=2, shape=(4, 6, 5))
    yield conv(16, kernel_size=3, padding=1, shape=(3, 4, 40, 37))
    yield conv(1, kernel_size=7, padding=3, bias=False, shape=(1, 4, 33, 18))
    for k, d in itertools.product((1, 2, 3, 4, (2, 5)), (1, 3)):
        yield conv(3, kernel_size=k, dilation=d, padding="same", shape=small, stored=(k, d) == (4, 1))
    yield conv(3, kernel_size=(2, 3), stride=2, padding="valid", shape=small)
    for mode, groups in itertools.product(("reflect", "replicate", "circular"), (1, 2)):
        yield conv(4, kernel_size=3, padding=1, padding_mode=mode, groups=groups, shape=small, stored=groups == 1)
        yield conv(4, kernel_size=5, stride=2, padding=(2, 3), padding_mode=mode, groups=groups)
        yield conv(4, kernel_size=(3, 2), dilation=2, padding="same", padding_mode=mode, groups=groups)
        yield conv(4, kernel_size=3, padding=2, padding_mode=mode, groups=groups, shape=(4, 6, 5))
    yield conv(4, kernel_size=3, padding=3, padding_mode="replicate", shape=(2, 4, 1, 1))


def conv(out_channels: int, shape: tuple[int, ...] = IMAGES, stored: bool = False, **arguments: Any) -> LayerCase:
    return LayerCase("Conv2d", {"in_channels": 4, "out_channels": out_channels, **arguments}, shape, stored=stored)


def conv_transpose_cases() -> Iterator[LayerCase]:
    kernels, strides, paddings, dilations = (1, 3, (2, 4)), (1, 2, (4, 3)), (0, (1, 0)), (1, (2, 1))
    for k, s, p, d, g, extra in itertools.product(kernels, strides, paddings, dilations, (1, 2), (0, 1)):
        if not extra or all(max(step, gap) > 1 for step, gap in zip(both(s), both(d), strict=True)):
            yield transposed(6, kernel_size=k, stride=s, padding=p, dilation=d, groups=g, output_padding=extra)
    small = (1, 4, 3, 4)
    yield transposed(3, kernel_size=4, stride=2, padding=1, shape=small, stored=True)
    yield transposed(3, kernel_size=3, stride=2, padding=1, output_padding=1, shape=small, stored=True)
    yield transposed(4, kernel_size=3, stride=(1, 2), dilation=2, groups=2, bias=False, shape=small, stored=True)
    yield transposed(4, kernel_size=2, stride=3, output_padding=(2, 1), groups=4, shape=small, stored=True)
    yield transposed(3, kernel_size=3, dilation=3, output_padding=(2, 0), shape=small)
    yield transposed(3, kernel_size=4, stride=2, padding=1, shape=(4, 3, 4))
    yield transposed(3, kernel_size=3, stride=2, shape=(2, 4, 1, 1))
    yield transposed(3, kernel_size=4, stride=2, padding=1, shape=(0, 4, 3, 4))
    yield transposed(8, kernel_size=4, stride=2, padding=1, shape=(3, 4, 20, 17))


def transposed(
    out_channels: int, shape: tuple[int, ...] = (2, 4, 4, 3), stored: bool = False, **arguments: Any
) -> LayerCase:
    channels = {"in_channels": 4, "out_channels": out_channels}
    return LayerCase("ConvTranspose2d", {**channels, **arguments}, shape, stored=stored)


def upsampling_cases() -> Iterator[LayerCase]:
    shape = (2, 3, 6, 5)
    scales = (1, 2, 3, (3, 2), 1.5, 2.3, 0.7, 1 / 3, (2.3, 1), (0.5, 1.7), 2.0)
    for scale in scales:
        yield LayerCase("UpsamplingNearest2d", {"scale_factor": scale}, shape, stored=scale in (2, 2.3, (0.5, 1.7)))
        yield LayerCase("UpsamplingNearest2d", {"scale_factor": scale}, (1, 2, 23, 31))
    for size in (1, 4, 12, (7, 9), (13, 3), (6, 10)):
        yield LayerCase("UpsamplingNearest2d", {"size": size}, shape, stored=size == (7, 9))
    yield LayerCase("UpsamplingNearest2d", {"scale_factor": 2}, (3, 6, 5))
    yield LayerCase("UpsamplingNearest2d", {"scale_factor": 2.5}, (3, 6, 5))
    yield LayerCase("UpsamplingNearest2d", {"scale_factor": 3}, (2, 3, 1, 1))

    kernels, strides, paddings, dilations = (1, 3, (2, 4)), (1, 2, (4, 3)), (0, (1, 0)), (1, (2, 1), 3)
    for k, s, p, d in itertools.product(kernels, strides, paddings, dilations):
        yield upsampling(kernel_size=k, stride=s, padding=p, dilation=d)
        yield upsampling(
            kernel_size=k, padding=p, dilation=d, scale_factor=s, transposeconvargs=False, shape=(2, 3, 7, 10)
        )
    small = (1, 3, 3, 4)
    yield upsampling(kernel_size=3, stride=2, padding=1, output_padding=1, shape=small, stored=True)
    yield upsampling(kernel_size=2, stride=4, dilation=3, padding=(1, 2), bias=False, shape=small, stored=True)
    own = {"transposeconvargs": False, "scale_factor": 2}
    yield upsampling(kernel_size=3, padding=1, shape=small, stored=True, **own)
    yield upsampling(kernel_size=4, padding="same", dilation=2, **own)
    yield upsampling(kernel_size=3, stride=(2, 3), padding=1, shape=small, stored=True, **own)
    yield upsampling(kernel_size=3, padding=1, shape=(3, 3, 4), **own)
    yield upsampling(kernel_size=3, stride=2, padding=1, shape=(3, 3, 4))
    yield upsampling(kernel_size=3, padding=1, shape=(2, 3, 1, 1), **own)


def upsampling(shape: tuple[int, ...] = (2, 3, 4, 5), stored: bool = False, **arguments: Any) -> LayerCase:
    return LayerCase("Upsampling", {"in_channels": 3, "out_channels": 4, **arguments}, shape, stored=stored)


def activation_cases() -> Iterator[LayerCase]:
    layers = [("ReLU", {}), ("LeakyReLU", {}), ("LeakyReLU", {"negative_slope": 0.2}), ("Sigmoid", {}), ("Tanh", {})]
    for layer, arguments in layers:
        for values in ("smooth", "coarse", "wide"):
            yield LayerCase(layer, arguments, (2, 3, 4, 5), values, stored=values != "smooth")
        for shape in ((3, 4, 5), (7,), (0, 3, 4, 4), (2, 3, 1, 1)):
            yield LayerCase(layer, arguments, shape)


def pooling_cases() -> Iterator[LayerCase]:
    windows: list[dict[str, Any]] = [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0)},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 3},
        {"kernel_size": 4, "stride": 5, "padding": 2},
    ]
    shapes = ((2, 4, 7, 6), (1, 2, 8, 9), (4, 7, 6), (0, 4, 7, 6))
    for window, ceil, shape in itertools.product(windows, (False, True), shapes):
        arguments = {**window, "ceil_mode": ceil}
        yield LayerCase("MaxPool2d", arguments, shape)
        yield LayerCase("AvgPool2d", arguments, shape)
        yield LayerCase("AvgPool2d", {**arguments, "count_include_pad": False}, shape)
    for dilation, ceil in itertools.product((2, (1, 3)), (False, True)):
        arguments = {"kernel_size": (3, 2), "stride": 2, "padding": 1, "dilation": dilation, "ceil_mode": ceil}
        yield LayerCase("MaxPool2d", arguments)
        yield LayerCase("MaxPool2d", arguments, values="nan")
    small = (1, 2, 7, 6)
    arguments = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    for values in ("smooth", "coarse", "nan"):
        yield LayerCase("MaxPool2d", arguments, small, values, stored=True)
    for extra in ({}, {"count_include_pad": False}, {"divisor_override": 5}):
        yield LayerCase("AvgPool2d", {**arguments, **extra}, small, stored=True)
    yield LayerCase("AvgPool2d", {"kernel_size": 2, "divisor_override": 1})
    yield LayerCase("MaxPool2d", {"kernel_size": 3, "padding": 1}, (2, 3, 1, 1))
    yield LayerCase("AvgPool2d", {"kernel_size": 3, "padding": 1}, (2, 3, 1, 1))


def batch_norm_cases() -> Iterator[LayerCase]:
    options: list[dict[str, Any]] = [
        {},
        {"eps": 0.1},
        {"momentum": 0.3},
        {"momentum": 1.0},
        {"momentum": None},
        {"affine": False},
        {"track_running_stats": False},
        {"affine": False, "track_running_stats": False},
    ]
    for extra, training in itertools.product(options, (True, False)):
        arguments = {"num_features": 3, **extra}
        stored = extra in ({}, {"momentum": None}, {"affine": False})
        yield LayerCase("BatchNorm2d", arguments, (3, 3, 4, 5), training=training, passes=3, stored=stored)
    yield LayerCase("BatchNorm2d", {"num_features": 3}, (3, 4, 5))
    yield LayerCase("BatchNorm2d", {"num_features": 3}, (3, 4, 5), training=False)
    yield LayerCase("BatchNorm2d", {"num_features": 3}, (4, 3, 1, 1))
    yield LayerCase("BatchNorm2d", {"num_features": 3}, (4, 3, 30, 31), "wide")


def other_cases() -> Iterator[LayerCase]:
    for shape, bias in itertools.product(((4, 5), (5,), (2, 3, 5), (0, 5), (2, 3, 4, 5)), (True, False)):
        arguments = {"in_features": 5, "out_features": 3, "bias": bias}
        yield LayerCase("Linear", arguments, shape, stored=shape == (2, 3, 5))
    yield LayerCase("Flatten", {}, (2, 3, 4, 5), stored=True)
    for start, end in ((0, -1), (1, 2), (-2, -1), (2, 2)):
        yield LayerCase("Flatten", {"start_dim": start, "end_dim": end}, (2, 3, 4, 5))
    for p in (0.0, 0.3, 1.0):
        yield LayerCase("Dropout", {"p": p}, (2, 3, 4, 5), training=False, stored=p == 0.3)
    yield LayerCase("Dropout", {"p": 0.0}, (2, 3, 4, 5))
    yield LayerCase("Dropout", {"p": 1.0}, (2, 3, 4, 5))
    for r, shape in itertools.product((1, 2, 3), ((2, 36, 2, 3), (36, 2, 3), (1, 36, 1, 1))):
        yield LayerCase("PixelShuffle", {"upscale_factor": r}, shape, stored=(r, shape) == (2, (36, 2, 3)))
    for r, shape in itertools.product((1, 2, 3), ((2, 2, 6, 12), (2, 6, 12))):
        yield LayerCase("PixelUnshuffle", {"downscale_factor": r}, shape, stored=(r, shape) == (2, (2, 6, 12)))
    for factor, shape in itertools.product((-1, 0, 0.3, 1e5), ((2, 3, 4, 5), (5,), (0, 3, 4, 4))):
        yield LayerCase("Scale", {"factor": factor}, shape, stored=(factor, shape) == (0.3, (5,)))
    yield LayerCase("Scale", {"factor": -2}, values="nan")
    for (start, stop), shape in itertools.product(((0, 1), (1, 3), (0, 4), (3, 4)), (IMAGES, (4, 3, 2), (0, 4, 2, 2))):
        arguments = {"in_channels": 4, "start": start, "stop": stop}
        yield LayerCase("SelectChannels", arguments, shape, stored=(start, shape) == (1, (4, 3, 2)))


LAYER_CASES = [
    *conv_cases(),
    *conv_transpose_cases(),
    *upsampling_cases(),
    *activation_cases(),
    *pooling_cases(),
    *batch_norm_cases(),
    *other_cases(),
]
