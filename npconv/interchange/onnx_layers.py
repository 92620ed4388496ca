"""Every layer as ONNX operators: `EXPORTERS` is the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Flatten,
    LeakyReLU,
    Linear,
    MaxPool2d,
    PixelShuffle,
    PixelUnshuffle,
    Upsampling,
    UpsamplingNearest2d,
)
from ..module import Module
from .onnx_graph import Graph

Export = Callable[[Graph, Any, str, str], str]  # (graph, layer, name of its input, its path) -> name of its output

PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}


def simple(operator: str) -> Export:
    """A layer that is one operator without attributes."""
    return lambda graph, layer, x, path: graph.add(operator, x)


def unchanged(graph: Graph, layer: Module, x: str, path: str) -> str:
    """Identity, and Dropout in evaluation."""
    return x


def leaky_relu(graph: Graph, layer: LeakyReLU, x: str, path: str) -> str:
    return graph.add("LeakyRelu", x, alpha=layer.negative_slope)


def scale(graph: Graph, layer: Any, x: str, path: str) -> str:
    return graph.add("Mul", x, graph.scalar(layer.arguments()["factor"]))


def select_channels(graph: Graph, layer: Any, x: str, path: str) -> str:
    arguments = layer.arguments()
    return graph.slice(x, 1, arguments["start"], arguments["stop"])


# ---- convolutions ----
def _kernel(graph: Graph, layer: Any, path: str) -> list[str]:
    """Weight and bias (where there is one) as constants."""
    prefix = f"{path}." if path else ""
    names = ["weight"] if layer.bias is None else ["weight", "bias"]
    return [graph.constant(getattr(layer, name).data, "float32", prefix + name) for name in names]


def _convolution(graph: Graph, layer: Any, x: str, path: str) -> str:
    """The convolution of a Conv2d or an Upsampling; a Pad before it where padding is not zeros, or crops."""
    geometry, mode = layer.geometry, getattr(layer, "padding_mode", "zeros")
    sides = geometry.padding
    if mode == "circular":
        x, sides = graph.pad_circular(x, sides), ((0, 0), (0, 0))
    elif mode != "zeros" or min(sides[0] + sides[1]) < 0:
        x, sides = graph.pad(x, sides, PADDING_MODES[mode]), ((0, 0), (0, 0))
    return graph.add(
        "Conv",
        x,
        *_kernel(graph, layer, path),
        kernel_shape=geometry.kernel,
        strides=geometry.stride,
        dilations=geometry.dilation,
        group=geometry.groups,
        pads=[sides[0][0], sides[1][0], sides[0][1], sides[1][1]],
    )


def conv2d(graph: Graph, layer: Conv2d, x: str, path: str) -> str:
    return _convolution(graph, layer, x, path)


def conv_transpose2d(graph: Graph, layer: ConvTranspose2d, x: str, path: str) -> str:
    weight, *bias = _kernel(graph, layer, path)
    window = {
        "kernel_shape": layer.geometry.kernel,
        "strides": layer.geometry.stride,
        "dilations": layer.geometry.dilation,
        "group": layer.geometry.groups,
    }
    (rows, columns), extra = layer.padding, layer.output_padding
    if all(more < step for more, step in zip(extra, layer.geometry.stride, strict=True)):
        pads = [rows, columns, rows, columns]
        return graph.add("ConvTranspose", x, weight, *bias, **window, pads=pads, output_padding=extra)
    # Runtimes want output_padding below the stride. What is added takes back padding, then is zeros and the bias.
    taken = min(rows, extra[0]), min(columns, extra[1])
    y = graph.add("ConvTranspose", x, weight, **window, pads=[rows, columns, rows - taken[0], columns - taken[1]])
    y = graph.pad(y, ((0, extra[0] - taken[0]), (0, extra[1] - taken[1])))
    return graph.add("Add", y, graph.add("Reshape", bias[0], graph.constant([1, -1, 1, 1]))) if bias else y


def linear(graph: Graph, layer: Linear, x: str, path: str) -> str:
    weight, *bias = _kernel(graph, layer, path)
    y = graph.add("MatMul", x, graph.add("Transpose", weight, perm=[1, 0]))
    return graph.add("Add", y, bias[0]) if bias else y


# ---- enlarging ----
def _enlarged(graph: Graph, x: str, factors: tuple[int, int]) -> str:
    """Every pixel `factors` times, down and across."""
    if factors == (1, 1):
        return x
    scales = graph.constant([1, 1, *factors], "float32")
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.add("Resize", x, "", scales, **how)


def upsampling(graph: Graph, layer: Upsampling, x: str, path: str) -> str:
    return _convolution(graph, layer, _enlarged(graph, x, layer.factors), path)


def upsampling_nearest2d(graph: Graph, layer: UpsamplingNearest2d, x: str, path: str) -> str:
    scales = layer.scale_factor
    if scales is not None and all(factor == int(factor) for factor in scales):
        return _enlarged(graph, x, (int(scales[0]), int(scales[1])))
    for axis in (0, 1):
        size = None if layer.size is None else layer.size[axis]
        x = _resampled(graph, x, axis + 2, size, None if scales is None else scales[axis])
    return x


def _resampled(graph: Graph, x: str, axis: int, size: int | None, factor: float | None) -> str:
    """Nearest-neighbour resampling along one axis, with the layer's own indices.

    A Resize computes them in another way, and where a pixel lies on the border between two it takes the other one.
    """
    length = graph.add("Squeeze", graph.shape(x, axis, axis + 1))  # a number without axes, as Range wants
    floats = graph.add("Cast", length, to=1)
    if factor is None:
        out = graph.constant(size)
        step = graph.add("Div", floats, graph.scalar(float(size or 1)))
    else:
        exact = graph.add("Mul", graph.add("Cast", length, to=11), graph.constant(factor, "float64"))
        out = graph.add("Cast", graph.add("Floor", exact), to=7)
        step = graph.constant(np.float32(1.0 / factor), "float32")
    # Where nothing changes, or all is doubled, the layer takes whole steps, whatever the factor's reciprocal is.
    double = graph.add("Mul", length, graph.constant(2))
    step = graph.add("Where", graph.add("Equal", out, double), graph.scalar(0.5), step)
    step = graph.add("Where", graph.add("Equal", out, length), graph.scalar(1.0), step)
    positions = graph.add("Cast", graph.add("Range", graph.constant(0), out, graph.constant(1)), to=1)
    indices = graph.add("Cast", graph.add("Floor", graph.add("Mul", positions, step)), to=7)
    last = graph.add("Sub", length, graph.constant(1))
    return graph.add("Gather", x, graph.add("Min", indices, last), axis=axis)


def pixel_shuffle(graph: Graph, layer: PixelShuffle, x: str, path: str) -> str:
    return graph.add("DepthToSpace", x, blocksize=layer.upscale_factor, mode="CRD")


def pixel_unshuffle(graph: Graph, layer: PixelUnshuffle, x: str, path: str) -> str:
    """SpaceToDepth has the pixels before the channels: (N, r r, C, H, W) -> (N, C, r r, H, W) -> (N, C r r, H, W)."""
    y = graph.add("SpaceToDepth", x, blocksize=layer.downscale_factor)
    size = graph.shape(y, 2)
    y = graph.reshape(y, graph.constant([0, layer.downscale_factor**2, -1]), size)
    return graph.reshape(graph.add("Transpose", y, perm=[0, 2, 1, 3, 4]), graph.constant([0, -1]), size)


def flatten(graph: Graph, layer: Flatten, x: str, path: str) -> str:
    start, end = layer.start_dim, layer.end_dim
    sizes = [graph.shape(x, 0, start)] if start != 0 else []
    sizes += [graph.constant([-1])]
    sizes += [graph.shape(x, end + 1)] if end != -1 else []
    return graph.reshape(x, *sizes)


# ---- pooling ----
def max_pool2d(graph: Graph, layer: MaxPool2d, x: str, path: str) -> str:
    window = {
        "kernel_shape": layer.geometry.kernel,
        "strides": layer.geometry.stride,
        "dilations": layer.geometry.dilation,
    }
    if not layer.ceil_mode:
        return graph.add("MaxPool", x, **window, pads=[*layer.padding, *layer.padding])
    return graph.add("MaxPool", graph.pad(x, _ceil_sides(layer), value=-np.inf), **window)


def avg_pool2d(graph: Graph, layer: AvgPool2d, x: str, path: str) -> str:
    window = {"kernel_shape": layer.geometry.kernel, "strides": layer.geometry.stride}
    if layer.ceil_mode:
        return _ceil_average(graph, layer, x, window)
    counted = layer.count_include_pad or layer.divisor_override is not None
    pads = [*layer.padding, *layer.padding]
    y = graph.add("AveragePool", x, **window, pads=pads, count_include_pad=int(counted))
    return _divided(graph, layer, y)


def _divided(graph: Graph, layer: AvgPool2d, y: str) -> str:
    """A mean over all pixels of a window as what `divisor_override` makes of it."""
    if layer.divisor_override is None:
        return y
    return graph.add("Mul", y, graph.scalar(layer.geometry.taps / layer.divisor_override))


def _ceil_average(graph: Graph, layer: AvgPool2d, x: str, window: dict[str, Any]) -> str:
    """The mean with ceil_mode: of the padded image, divided by the share of each window that counts.

    Runtimes do not agree on what windows beyond the padding are divided by; without them there is nothing to agree on.
    """
    sides = _ceil_sides(layer)
    y = graph.add("AveragePool", graph.pad(x, sides), **window)
    if layer.divisor_override is not None:
        return _divided(graph, layer, y)
    ones = graph.add(
        "Expand", graph.scalar(1.0), graph.add("Concat", graph.constant([1, 1]), graph.shape(x, 2, 4), axis=0)
    )
    if layer.count_include_pad:
        rows, columns = layer.padding
        ones = graph.pad(ones, ((rows, rows), (columns, columns)), value=1.0)
        sides = (0, sides[0][1] - rows), (0, sides[1][1] - columns)
    return graph.add("Div", y, graph.add("AveragePool", graph.pad(ones, sides), **window))


def _ceil_sides(layer: Any) -> Any:
    """The padding that makes `ceil_mode` of rounding down.

    stride - 1 more at the bottom and the right round up; but less than a window, since none may begin beyond the image
    and its padding.
    """
    steps, extents = layer.geometry.stride, layer.geometry.extent
    ends = [min(p + s - 1, e - 1) for p, s, e in zip(layer.padding, steps, extents, strict=True)]
    return (layer.padding[0], ends[0]), (layer.padding[1], ends[1])


# ---- normalization ----
def batch_norm2d(graph: Graph, layer: BatchNorm2d, x: str, path: str) -> str:
    """As in evaluation: with the running statistics, or with the batch's where there are none."""
    prefix, count = (f"{path}." if path else ""), layer.num_features
    weight = graph.constant(np.ones(count) if layer.weight is None else layer.weight.data, "float32", prefix + "weight")
    bias = graph.constant(np.zeros(count) if layer.bias is None else layer.bias.data, "float32", prefix + "bias")
    if layer.running_mean is not None and layer.running_var is not None:
        mean = graph.constant(layer.running_mean, "float32", prefix + "running_mean")
        var = graph.constant(layer.running_var, "float32", prefix + "running_var")
        return graph.add("BatchNormalization", x, weight, bias, mean, var, epsilon=layer.eps)
    centred = graph.add("Sub", x, graph.add("ReduceMean", x, axes=[0, 2, 3], keepdims=1))
    var = graph.add("ReduceMean", graph.add("Mul", centred, centred), axes=[0, 2, 3], keepdims=1)
    y = graph.add("Div", centred, graph.add("Sqrt", graph.add("Add", var, graph.scalar(layer.eps))))
    channels = graph.constant([1, count, 1, 1])
    y = graph.add("Mul", y, graph.add("Reshape", weight, channels))
    return graph.add("Add", y, graph.add("Reshape", bias, channels))


EXPORTERS: dict[str, Export] = {
    "AvgPool2d": avg_pool2d,
    "BatchNorm2d": batch_norm2d,
    "Conv2d": conv2d,
    "ConvTranspose2d": conv_transpose2d,
    "Dropout": unchanged,
    "Flatten": flatten,
    "Identity": unchanged,
    "LeakyReLU": leaky_relu,
    "Linear": linear,
    "MaxPool2d": max_pool2d,
    "PixelShuffle": pixel_shuffle,
    "PixelUnshuffle": pixel_unshuffle,
    "ReLU": simple("Relu"),
    "Scale": scale,
    "SelectChannels": select_channels,
    "Sigmoid": simple("Sigmoid"),
    "Tanh": simple("Tanh"),
    "Upsampling": upsampling,
    "UpsamplingNearest2d": upsampling_nearest2d,
}
