"""Which layers, losses and optimizers are looked at under extreme numbers: the groups of extreme_cases.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from extreme_cases import (
    DENSES,
    EVERY,
    NORMALIZED,
    PAIRS,
    SINGLES,
    STATISTICS,
    WEIGHTS,
    LayerGroup,
    LossGroup,
    OptimizerGroup,
)

IMAGES = (2, 4, 7, 6)
ALL = len(EVERY) + 8  # of every_value


def group(layer: str, shape: tuple[int, ...], plants: list[Any], training: bool = True, **arguments: Any) -> LayerGroup:
    return LayerGroup(layer, tuple(arguments.items()), shape, tuple(tuple(p.items()) for p in plants), training)


def convolutions() -> Iterator[LayerGroup]:
    def conv(out_channels: int, shape: tuple[int, ...] = IMAGES, **arguments: Any) -> LayerGroup:
        arguments = {"in_channels": shape[-3], "out_channels": out_channels, **arguments}
        return group("Conv2d", shape, SINGLES + WEIGHTS, **arguments)

    yield conv(6, kernel_size=3, padding=1)  # Winograd, thin
    yield conv(9, kernel_size=3)
    yield conv(3, kernel_size=3, padding=1, shape=(4, 7, 6))
    yield conv(5, kernel_size=3, padding=2, shape=(2, 1, 9, 10))
    yield conv(1, kernel_size=3, padding=1, bias=False, shape=(3, 4, 5, 5))
    yield conv(6, kernel_size=1)
    yield conv(6, kernel_size=(5, 1), padding=(2, 0))
    yield conv(4, kernel_size=4, padding="same")
    yield conv(6, kernel_size=3, stride=2, padding=1)  # a kernel that is not whole phases of the stride
    yield conv(6, kernel_size=4, stride=2, padding=1)
    yield conv(6, kernel_size=2, stride=3)
    yield conv(6, kernel_size=5, stride=(1, 3), padding=2)
    yield conv(6, kernel_size=3, dilation=2, padding=2)  # phases of a dilation
    yield conv(6, kernel_size=3, dilation=2, padding=2, groups=2)
    yield conv(6, kernel_size=3, dilation=2, stride=2, padding=1)  # fold
    yield conv(6, kernel_size=3, padding=1, groups=2)
    yield conv(6, kernel_size=3, stride=2, padding=1, groups=2)
    yield conv(4, kernel_size=3, padding=1, groups=4)  # depthwise
    yield conv(8, kernel_size=3, stride=2, padding=1, groups=4)
    yield conv(4, kernel_size=3, dilation=2, padding=2, groups=4)
    for mode in ("reflect", "replicate", "circular"):
        yield conv(4, kernel_size=3, padding=1, padding_mode=mode)


def transposed() -> Iterator[LayerGroup]:
    def convt(out_channels: int, shape: tuple[int, ...] = (2, 4, 4, 3), **arguments: Any) -> LayerGroup:
        arguments = {"in_channels": 4, "out_channels": out_channels, **arguments}
        return group("ConvTranspose2d", shape, SINGLES + WEIGHTS, **arguments)

    yield convt(6, kernel_size=4, stride=2, padding=1)
    yield convt(3, kernel_size=3, stride=2, padding=1, output_padding=1)
    yield convt(3, kernel_size=3, padding=1)
    yield convt(3, kernel_size=2, stride=3, output_padding=1)
    yield convt(3, kernel_size=5, stride=3, padding=2)
    yield convt(4, kernel_size=3, stride=(1, 2), dilation=2, groups=2)
    yield convt(4, kernel_size=3, stride=2, groups=2, padding=1, shape=(4, 4, 3))
    yield convt(4, kernel_size=3, stride=2, padding=1, groups=4, bias=False)


def upsampling() -> Iterator[LayerGroup]:
    def up(shape: tuple[int, ...] = (2, 3, 4, 5), **arguments: Any) -> LayerGroup:
        arguments = {"in_channels": 3, "out_channels": 4, **arguments}
        return group("Upsampling", shape, SINGLES + WEIGHTS, **arguments)

    own = {"transposeconvargs": False, "scale_factor": 2}
    yield up(kernel_size=3, stride=2, padding=1, output_padding=1)
    yield up(kernel_size=3, stride=1, dilation=2, padding=1)
    yield up(kernel_size=2, stride=3, dilation=3, padding=1)
    yield up(kernel_size=3, padding=1, **own)  # differences
    yield up(kernel_size=4, padding="same", dilation=2, **own)
    yield up(kernel_size=3, stride=2, padding=1, **own)
    for arguments in ({"scale_factor": 2}, {"scale_factor": (2.3, 0.7)}, {"size": (7, 9)}):
        yield group("UpsamplingNearest2d", (2, 3, 4, 5), SINGLES, **arguments)


def activations() -> Iterator[LayerGroup]:
    for layer in ("ReLU", "Sigmoid", "Tanh"):
        yield group(layer, (ALL, ALL), PAIRS)
        yield group(layer, (2, 3, 4, 5), DENSES)
    for slope in (0.01, 0.2, 0.0, 1.5, -0.5, 1e-50):
        yield group("LeakyReLU", (ALL, ALL), PAIRS, negative_slope=slope)
        yield group("LeakyReLU", (2, 3, 4, 5), DENSES, negative_slope=slope)
    for factor in (-1, 0, 0.3, 1e25):
        yield group("Scale", (ALL, ALL), PAIRS, factor=factor)
    for p in (0.0, 1.0):
        yield group("Dropout", (ALL, ALL), PAIRS, p=p)
    yield group("Dropout", (ALL, ALL), PAIRS, training=False, p=0.5)


def poolings() -> Iterator[LayerGroup]:
    windows: list[dict[str, Any]] = [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 0), "ceil_mode": True},
    ]
    for window in windows:
        yield group("MaxPool2d", IMAGES, SINGLES + DENSES, **window)
        yield group("AvgPool2d", IMAGES, SINGLES + DENSES, **window)
    yield group("MaxPool2d", (4, 7, 6), SINGLES + DENSES, kernel_size=2, dilation=2, padding=1)
    yield group("AvgPool2d", IMAGES, SINGLES, kernel_size=3, padding=1, count_include_pad=False)
    yield group("AvgPool2d", IMAGES, SINGLES, kernel_size=2, divisor_override=3)


def normalizations() -> Iterator[LayerGroup]:
    options: list[dict[str, Any]] = [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}]
    for extra in options:
        tracks = extra.get("track_running_stats", True)
        plants = [plant for plant in SINGLES + WEIGHTS + NORMALIZED if tracks or not STATISTICS & set(plant)]
        for training in (True, False):
            yield group("BatchNorm2d", (3, 3, 4, 5), plants, training, num_features=3, **extra)
    yield group("BatchNorm2d", (3, 3, 4, 5), SINGLES + NORMALIZED, False, num_features=3, eps=0.0)
    yield group("BatchNorm2d", (2, 3, 3), SINGLES, num_features=2)


def others() -> Iterator[LayerGroup]:
    for shape, bias in (((4, 5), True), ((2, 3, 5), False), ((5,), True)):
        yield group("Linear", shape, SINGLES + WEIGHTS, in_features=5, out_features=3, bias=bias)
    yield group("Flatten", (2, 3, 4, 5), DENSES)
    yield group("PixelShuffle", (2, 8, 2, 3), DENSES, upscale_factor=2)
    yield group("PixelUnshuffle", (2, 2, 4, 6), DENSES, downscale_factor=2)
    yield group("SelectChannels", IMAGES, DENSES, in_channels=4, start=1, stop=3)


def optimizers() -> Iterator[OptimizerGroup]:
    sgd: list[dict[str, Any]] = [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    ]
    adam: list[dict[str, Any]] = [
        {},
        {"betas": (0.3, 0.9)},
        {"eps": 0.0},
        {"weight_decay": 0.1},
        {"amsgrad": True, "lr": 0.1},
    ]
    yield from (OptimizerGroup("SGD", tuple(options.items())) for options in sgd)
    yield from (OptimizerGroup("Adam", tuple(options.items())) for options in adam)


CONVOLUTIONS = [*convolutions(), *transposed(), *upsampling()]
LAYERS = [*activations(), *poolings(), *normalizations(), *others()]
LOSSES = [LossGroup(loss, reduction) for loss in ("MSE", "L1") for reduction in ("mean", "sum")]
OPTIMIZERS = list(optimizers())
GROUPS: list[Any] = [*CONVOLUTIONS, *LAYERS, *LOSSES, *OPTIMIZERS]
