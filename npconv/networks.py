"""Networks built from the layers."""

from __future__ import annotations

from typing import Any

from . import checks
from .containers import Sequential
from .layers import Conv2d, ConvTranspose2d, ReLU, Sigmoid, Upsampling
from .module import Module

UPSAMPLINGS = ("nearest", "transposed")


def strided(
    channels: int = 32, image_channels: int = 3, upsampling: str = "nearest", dtype: Any = "float32"
) -> Sequential:
    """The denoiser of the five reports: two strided convolutions, two upsamplings.

        Conv(stride 2), ReLU, Conv(stride 2), ReLU, Upsampling, ReLU, Upsampling, Sigmoid

    Input and output are (N, image_channels, H, W) with values in [0, 1]; H and W multiples of 4 come out as they
    went in (`Model.predict` takes any). All convolutions are 3x3. `upsampling`: "nearest", enlarging twice and then
    a 3x3 convolution, or "transposed", a transposed convolution of kernel 4, stride 2, padding 1.
    """
    checks.integer(channels, "channels", 1)
    checks.integer(image_channels, "image_channels", 1)
    if upsampling not in UPSAMPLINGS:
        raise ValueError(f"upsampling (={upsampling!r}) must be one of {', '.join(UPSAMPLINGS)}")

    def enlarge(out_channels: int) -> Module:
        if upsampling == "transposed":
            return ConvTranspose2d(channels, out_channels, 4, stride=2, padding=1, dtype=dtype)
        return Upsampling(channels, out_channels, 3, padding=1, transposeconvargs=False, scale_factor=2, dtype=dtype)

    return Sequential(
        Conv2d(image_channels, channels, 3, stride=2, padding=1, dtype=dtype),
        ReLU(),
        Conv2d(channels, channels, 3, stride=2, padding=1, dtype=dtype),
        ReLU(),
        enlarge(channels),
        ReLU(),
        enlarge(image_channels),
        Sigmoid(),
    )
