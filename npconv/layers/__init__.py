"""The layers, a family a file."""

from __future__ import annotations

from .activation import Activation, LeakyReLU, ReLU, Sigmoid, Tanh
from .conv import Conv2d, ConvTranspose2d
from .dropout import Dropout
from .linear import Flatten, Linear
from .normalization import BatchNorm2d
from .pooling import AvgPool2d, MaxPool2d
from .scale import Scale
from .select_channels import SelectChannels
from .upsampling import PixelShuffle, PixelUnshuffle, Upsampling, UpsamplingNearest2d

__all__ = [
    "Activation",
    "AvgPool2d",
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Flatten",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "PixelShuffle",
    "PixelUnshuffle",
    "ReLU",
    "Scale",
    "SelectChannels",
    "Sigmoid",
    "Tanh",
    "Upsampling",
    "UpsamplingNearest2d",
]
