"""Networks as plain data, which each contender builds with its own library.

A network is a list of layers, a layer is [class, arguments, options]. The classes are PyTorch's, whose names and
arguments npconv shares, and two more:

    ["Upsampling", [C_in, C_out], {}]     nearest enlarging by 2, then a 3x3 convolution with padding 1
    ["Concat", [branch, branch], {}]      the outputs of the branches (networks) side by side; [] is the input itself
"""

from __future__ import annotations

from typing import Any

Layer = list[Any]
Network = list[Layer]

POOL: Layer = ["MaxPool2d", [2], {}]
ENLARGE: Layer = ["UpsamplingNearest2d", [], {"scale_factor": 2}]


def layer(name: str, *arguments: Any, **options: Any) -> Layer:
    """One layer: the class `name` with its arguments."""
    return [name, list(arguments), options]


def conv(in_channels: int, out_channels: int, kernel_size: int = 3, **options: Any) -> Layer:
    """A convolution that keeps height and width, unless `options` say otherwise."""
    return layer("Conv2d", in_channels, out_channels, kernel_size, **{"padding": kernel_size // 2, **options})


def strided(channels: int, upsampling: str = "nearest") -> Network:
    """The reports' network: two strided convolutions, two upsamplings.

    `upsampling`: "nearest", or a transposed convolution "k4" (k=4, s=2, p=1), "k3" (k=3, s=2, p=1, one more row and
    column of output: report D's 3x3 kernels) or "k2" (k=2, s=2).
    """
    return [
        conv(3, channels, stride=2),
        layer("ReLU"),
        conv(channels, channels, stride=2),
        layer("ReLU"),
        _enlarging(upsampling, channels, channels),
        layer("ReLU"),
        _enlarging(upsampling, channels, 3),
        layer("Sigmoid"),
    ]


def _enlarging(kind: str, in_channels: int, out_channels: int) -> Layer:
    if kind == "nearest":
        return layer("Upsampling", in_channels, out_channels)
    options = {"k4": {"padding": 1}, "k3": {"padding": 1, "output_padding": 1}, "k2": {}}[kind]
    return layer("ConvTranspose2d", in_channels, out_channels, int(kind[1]), stride=2, **options)


def dncnn(channels: int = 64, depth: int = 17) -> Network:
    """DnCNN (Zhang et al. 2017) as it is run: its batch normalisations are folded into the convolutions."""
    inner = [part for _ in range(depth - 2) for part in (conv(channels, channels), layer("ReLU"))]
    return [conv(3, channels), layer("ReLU"), *inner, conv(channels, 3)]


def unet() -> Network:
    """The U-Net of Noise2Noise (Lehtinen et al. 2018, table 2), built from the inside out.

    Each join puts a decoder's enlarged output beside what went into the encoder there: pool4 to pool1, the input.
    """
    inside = [*_leaky(48, 48), POOL, *_leaky(48, 48), ENLARGE]  # enc5, pool5, enc6: on the output of pool4
    for skip, width in ((4, 96), (3, 144), (2, 144), (1, 144)):
        joined = [layer("Concat", inside, []), *_leaky(width, 96), *_leaky(96, 96), ENLARGE]
        first = [] if skip > 1 else _leaky(3, 48)
        inside = [*first, *_leaky(48, 48), POOL, *joined]
    return [layer("Concat", inside, []), *_leaky(99, 64), *_leaky(64, 32), conv(32, 3)]


def _leaky(in_channels: int, out_channels: int) -> Network:
    return [conv(in_channels, out_channels), layer("LeakyReLU", 0.1)]
