"""Every module of npconv, with a few of its options each, keeps the contract of a Module and has right gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from convolutions import algorithms_of
from devices import on_device

import npconv as nc
from npconv import layers, networks

IMAGES = (3, 4, 7, 6)
Case = tuple[Callable[[], nc.Module], tuple[int, ...]]


class Softplus(nc.Activation):
    """An activation as a user writes one: f and f', nothing else."""

    def function(self, x: np.ndarray) -> np.ndarray:
        return np.logaddexp(0, x)

    def derivative(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return 1 - np.exp(-y)


CASES: list[Case] = [
    (lambda: nc.Conv2d(4, 3, 3), IMAGES),
    (lambda: nc.Conv2d(4, 3, 3, stride=2, padding=1), IMAGES),
    (lambda: nc.Conv2d(4, 3, 2, stride=3, bias=False), IMAGES),
    (lambda: nc.Conv2d(4, 6, (3, 2), dilation=2, padding=(2, 1), groups=2), IMAGES),
    (lambda: nc.Conv2d(4, 4, 3, padding="same", groups=4, padding_mode="reflect"), IMAGES),
    (lambda: nc.Conv2d(4, 3, 5, stride=2, padding=2, padding_mode="replicate"), IMAGES),
    (lambda: nc.Conv2d(4, 3, 3, padding=2, padding_mode="circular"), (4, 7, 6)),
    (lambda: nc.ConvTranspose2d(4, 3, 4, stride=2, padding=1), IMAGES),
    (lambda: nc.ConvTranspose2d(4, 6, 3, stride=(2, 3), output_padding=1, groups=2, dilation=2), IMAGES),
    (lambda: nc.ConvTranspose2d(4, 3, 2, bias=False), (4, 7, 6)),
    (lambda: nc.Upsampling(4, 3, 3, stride=2, padding=1, output_padding=1), IMAGES),
    (lambda: nc.Upsampling(4, 3, (2, 3), stride=3, dilation=2, bias=False), IMAGES),
    (lambda: nc.Upsampling(4, 3, 3, padding=1, transposeconvargs=False, scale_factor=2), (4, 7, 6)),
    (lambda: nc.Upsampling(4, 3, 3, stride=2, transposeconvargs=False, scale_factor=(2, 3)), IMAGES),
    (lambda: nc.UpsamplingNearest2d(scale_factor=2), IMAGES),
    (lambda: nc.UpsamplingNearest2d(scale_factor=(1.5, 0.7)), IMAGES),
    (lambda: nc.UpsamplingNearest2d(size=(5, 11)), (4, 7, 6)),
    (lambda: nc.ReLU(), IMAGES),
    (lambda: nc.LeakyReLU(0.2), IMAGES),
    (lambda: nc.Sigmoid(), IMAGES),
    (lambda: nc.Tanh(), (5,)),
    (lambda: Softplus(), IMAGES),
    (lambda: nc.MaxPool2d(2), IMAGES),
    (lambda: nc.MaxPool2d(3, stride=2, padding=1, dilation=2, ceil_mode=True), IMAGES),
    (lambda: nc.AvgPool2d(2, stride=1), IMAGES),
    (lambda: nc.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, count_include_pad=False), (4, 7, 6)),
    (lambda: nc.BatchNorm2d(4), IMAGES),
    (lambda: nc.BatchNorm2d(4, momentum=None), IMAGES),
    (lambda: nc.BatchNorm2d(4, affine=False, track_running_stats=False), IMAGES),
    (lambda: nc.BatchNorm2d(4).eval(), IMAGES),
    (lambda: nc.Linear(5, 3), (4, 5)),
    (lambda: nc.Linear(6, 2, bias=False), IMAGES),
    (lambda: nc.Flatten(), IMAGES),
    (lambda: nc.Flatten(0, 2), IMAGES),
    (lambda: nc.Dropout(0.5).eval(), IMAGES),
    (lambda: nc.Dropout(0.0), IMAGES),
    (lambda: nc.PixelShuffle(2), IMAGES),
    (lambda: nc.PixelUnshuffle(2), (3, 2, 6, 8)),
    (lambda: nc.Scale(-1), IMAGES),
    (lambda: nc.Scale(0.5), (5,)),
    (lambda: nc.SelectChannels(4, 1, 3), IMAGES),
    (lambda: nc.SelectChannels(4, 0, 4), (4, 7, 6)),
    (lambda: nc.Concat(nc.SelectChannels(4, 2, 4), nc.SelectChannels(4, 0, 3)), IMAGES),
    (lambda: nc.Identity(), IMAGES),
    (lambda: nc.Sequential(nc.Identity()), IMAGES),
    (lambda: nc.Sequential(nc.Conv2d(4, 5, 3), nc.Tanh(), nc.Conv2d(5, 2, 3)), IMAGES),
    (lambda: nc.Sequential({"norm": nc.BatchNorm2d(4), "act": nc.LeakyReLU()}), IMAGES),
    (lambda: nc.Sum(nc.Identity(), nc.Conv2d(4, 4, 3, padding=1)), IMAGES),
    (lambda: nc.Concat(nc.Identity(), nc.Sequential(nc.Conv2d(4, 3, 1), nc.Sigmoid())), IMAGES),
    (lambda: nc.Concat(nc.Conv2d(4, 2, 3, padding=1), nc.Sum(nc.Identity(), nc.Identity())), (4, 7, 6)),
    (lambda: networks.strided(4, upsampling="nearest"), (2, 3, 8, 12)),
    (lambda: networks.strided(4, upsampling="transposed"), (2, 3, 8, 12)),
    (lambda: networks.strided(3, image_channels=1), (1, 4, 4)),
    (lambda: networks.dncnn(4, 5, batch_norm=False), (2, 1, 5, 6)),
    (lambda: networks.dncnn(4, 5, image_channels=3).eval(), (2, 3, 5, 6)),
    (lambda: networks.dncnn(4, 5, residual=False).eval(), (2, 1, 5, 6)),
    (lambda: networks.ffdnet(3, 5), (2, 2, 4, 6)),
    (lambda: networks.ffdnet(2, 4, image_channels=3), (4, 4, 4)),
    (lambda: networks.unet(4, depth=1), (2, 3, 8, 4)),
]


def title(case: object) -> str:
    return repr(case()).replace("\n", "").replace("  ", " ") if callable(case) else str(case)


by_each_algorithm = pytest.mark.parametrize(
    ("make", "shape", "algorithm"),
    [(make, shape, algorithm) for make, shape in CASES for algorithm in algorithms_of(make())],
    ids=title,
    indirect=["algorithm"],
)


@by_each_algorithm
def test_the_module_keeps_the_contract(
    make: Callable[[], nc.Module], shape: tuple[int, ...], algorithm: str, rng: np.random.Generator
) -> None:
    nc.check_module(make(), rng.standard_normal(shape))


@by_each_algorithm
def test_gradients_are_those_of_finite_differences(
    make: Callable[[], nc.Module], shape: tuple[int, ...], algorithm: str, rng: np.random.Generator
) -> None:
    """With random upstream gradients, for the input and every parameter, in float64."""
    assert nc.check_gradients(make(), rng.standard_normal(shape)) <= 1e-6


def test_every_class_is_in_the_table() -> None:
    checked = {type(module) for make, _ in CASES for module in make().modules()}
    public = {getattr(layers, name) for name in layers.__all__} - {nc.Activation}
    assert public | {nc.Sequential, nc.Concat, nc.Sum, nc.Identity} <= checked
    assert any(issubclass(kind, nc.Activation) and kind.__module__ == __name__ for kind in checked)


@pytest.mark.parametrize(("make", "shape"), CASES, ids=title)
def test_the_gradient_of_each_worker_is_its_own(
    make: Callable[[], nc.Module], shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    """Two replicas go forward in turns, then backward in turns: nothing that one keeps reaches the other."""
    module = make().double()
    first, second = module.replica(), module.replica()
    x, z = on_device((rng.standard_normal(shape), rng.standard_normal(shape)))
    alone = module.replica()
    grad = on_device(rng.standard_normal(alone(x).shape))
    alone(x)
    expected = alone.backward(grad)
    first(x)
    second(z)
    assert np.array_equal(first.backward(grad), expected)
    second.backward(grad)
    for (_, a), (_, b) in zip(first.param(), alone.param(), strict=True):
        assert np.array_equal(a, b)
