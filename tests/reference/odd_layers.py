"""One or two of each layer, for tests of what goes in and comes out rather than of what is computed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from convolutions import algorithms_of

import npconv as nc

IMAGES = (2, 4, 6, 8)
LAYERS: list[tuple[Callable[[], nc.Module], tuple[int, ...]]] = [
    (lambda: nc.Conv2d(4, 3, 3, padding=1), IMAGES),
    (lambda: nc.Conv2d(4, 16, 3), IMAGES),
    (lambda: nc.Conv2d(4, 6, 1), IMAGES),
    (lambda: nc.Conv2d(4, 3, 3, stride=2, padding=1, bias=False), IMAGES),
    (lambda: nc.Conv2d(4, 8, 3, padding=2, dilation=2, groups=2), IMAGES),
    (lambda: nc.Conv2d(4, 8, 3, padding=1, groups=4), IMAGES),
    (lambda: nc.Conv2d(4, 3, 3, padding=2, padding_mode="reflect"), IMAGES),
    (lambda: nc.ConvTranspose2d(4, 3, 4, stride=2, padding=1), IMAGES),
    (lambda: nc.ConvTranspose2d(4, 6, 3, stride=(2, 3), output_padding=1, groups=2, dilation=2), IMAGES),
    (lambda: nc.Upsampling(4, 3, 3, stride=2, padding=1), IMAGES),
    (lambda: nc.Upsampling(4, 3, 3, padding=1, transposeconvargs=False, scale_factor=2), IMAGES),
    (lambda: nc.UpsamplingNearest2d(scale_factor=2), IMAGES),
    (lambda: nc.UpsamplingNearest2d(size=(5, 11)), IMAGES),
    (lambda: nc.UpsamplingNearest2d(scale_factor=1), IMAGES),
    (nc.ReLU, IMAGES),
    (lambda: nc.LeakyReLU(0.2), IMAGES),
    (lambda: nc.LeakyReLU(-0.5), IMAGES),
    (nc.Sigmoid, IMAGES),
    (nc.Tanh, IMAGES),
    (lambda: nc.MaxPool2d(2), IMAGES),
    (lambda: nc.MaxPool2d(3, stride=2, padding=1), IMAGES),
    (lambda: nc.MaxPool2d(1), IMAGES),
    (lambda: nc.AvgPool2d(2), IMAGES),
    (lambda: nc.AvgPool2d(3, stride=2, padding=1, ceil_mode=True), IMAGES),
    (lambda: nc.AvgPool2d(1), IMAGES),
    (lambda: nc.BatchNorm2d(4), IMAGES),
    (lambda: nc.BatchNorm2d(4, affine=False).eval(), IMAGES),
    (lambda: nc.Linear(8, 5), IMAGES),
    (lambda: nc.Linear(6, 5, bias=False), (7, 6)),
    (nc.Flatten, IMAGES),
    (lambda: nc.Dropout(0.5), IMAGES),
    (lambda: nc.Dropout(0.5).eval(), IMAGES),
    (lambda: nc.PixelShuffle(2), IMAGES),
    (lambda: nc.PixelShuffle(1), IMAGES),
    (lambda: nc.PixelUnshuffle(2), IMAGES),
    (lambda: nc.Scale(0.3), IMAGES),
    (lambda: nc.Scale(1), IMAGES),
    (lambda: nc.SelectChannels(4, 1, 3), IMAGES),
    (nc.Identity, IMAGES),
    (lambda: nc.Sequential(nc.Conv2d(4, 4, 3, padding=1), nc.ReLU(), nc.BatchNorm2d(4), nc.Sigmoid()), IMAGES),
    (lambda: nc.Sequential(nc.Identity(), nc.Flatten(0, 1), nc.Identity(), nc.ReLU()), IMAGES),
    (lambda: nc.Sum(nc.Identity(), nc.Conv2d(4, 4, 3, padding=1), nc.Identity()), IMAGES),
    (lambda: nc.Concat(nc.Identity(), nc.Sequential(nc.Identity(), nc.ReLU()), nc.SelectChannels(4, 0, 2)), IMAGES),
]

# Those whose result may lie in the memory of what they were given, as in PyTorch (which copies in PixelShuffle(1)).
HANDS_ON = ("Identity", "Flatten", "SelectChannels", "PixelShuffle(upscale_factor=1)", "Dropout eval")


def title(case: object) -> str:
    if not callable(case):
        return str(case)
    module = case()
    return repr(module).replace("\n", "").replace("  ", " ") + ("" if module.training else " eval")


by_each_algorithm = pytest.mark.parametrize(
    ("make", "shape", "algorithm"),
    [(make, shape, algorithm) for make, shape in LAYERS for algorithm in algorithms_of(make())],
    ids=title,
    indirect=["algorithm"],
)
