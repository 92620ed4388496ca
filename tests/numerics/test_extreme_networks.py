"""Extreme numbers in whole networks: prediction, denoising, training steps, and what refuses them by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import plain_networks as plain
import pytest
from devices import on_device, on_host
from extreme_cases import MIXED, VALUES, classes, planted
from odd_layers import by_each_algorithm
from training_cases import strided_twin

import npconv as nc
from npconv import metrics, networks

pytestmark = pytest.mark.cpu  # see test_extreme_layers.py

NETWORKS: dict[str, tuple[Callable[..., nc.Module], int, Callable[..., Any]]] = {
    "dncnn": (partial(networks.dncnn, 3, 8, batch_norm=False), 1, partial(plain.dncnn, depth=3)),
    "unet": (partial(networks.unet, 4, depth=1), 3, partial(plain.unet, depth=1)),
}
PLANTS = [(value,) for value in ("denormal", "-0", "large", "inf", "-inf", "nan")] + [MIXED, ("all", "large")]


@cache
def planted_images(name: str, dtype: str) -> list[tuple[Any, np.ndarray, np.ndarray]]:
    """For each plant, the images, and the classes of what straight lines of NumPy make of them."""
    make, channels, function = NETWORKS[name]
    nc.manual_seed(0)
    network = make(dtype=dtype)
    x, found = np.random.default_rng(5).uniform(0, 1, (2, channels, 12, 16)), []
    for words in PLANTS:
        images = planted(x, words, dtype, name).astype(dtype)
        with np.errstate(all="ignore"):
            found.append((words, images, classes(plain.run(network, function, images))))
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, dtype: str, algorithm: str) -> None:
    images = planted_images(name, dtype)
    nc.manual_seed(0)
    network = NETWORKS[name][0](dtype=dtype)
    for words, x, expected in images:
        assert np.array_equal(classes(network(on_device(x))), expected), words


@pytest.mark.parametrize("value", ["denormal", "-0", "large", "largest"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_prediction_of_finite_extremes(value: str, dtype: str) -> None:
    """A number, 0..255, where 32-bit arithmetic gives one; also in tiles, and for 64-bit images beyond 32 bits."""
    network = networks.dncnn(3, 8, batch_norm=False)
    x = np.random.default_rng(5).uniform(5, 250, (2, 1, 24, 30))
    images = planted(x, (value,), dtype, "image").astype(dtype)
    with np.errstate(all="ignore"):
        y = plain.run(network, partial(plain.dncnn, depth=3), (images.astype("float32") / np.float32(255))) * 255
    expected = np.clip(y, 0, 255)
    model = nc.Model(network)
    for options in ({}, {"tile": 12}):
        found = model.predict(images, **options)
        assert np.array_equal(np.isnan(found), np.isnan(expected))
        there = ~np.isnan(expected) & (abs(y) < 1e4)  # beside a number like 1e30, the others are lost to rounding
        assert np.allclose(found[there], expected[there], atol=1e-2)
    if abs(images).max() < 500:
        assert np.isfinite(nc.denoise(model, images[0], white=255)).all()


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_images_that_are_not_finite_are_refused(value: str, dtype: str) -> None:
    """By every entry point, wherever the number is."""
    network = nc.Sequential(nc.Conv2d(1, 1, 3, padding=1))
    model = nc.Model(network)
    clean = np.full((3, 1, 12, 12), 90.0).astype(dtype)
    before = [on_host(data).copy() for data, _ in network.param()]
    for place in (0, 200, -1):
        images = clean.copy()
        images.reshape(-1)[place] = VALUES["float32"][value]
        for call in (
            lambda x: model.predict(x),
            lambda x: nc.denoise(model, x, white=255),
            lambda x: nc.denoise(model, x),
            lambda x: nc.predict_into(network, x, np.zeros(x.shape, "float32")),
            lambda x: model.train(x, clean),
            lambda x: model.train(clean, x),
            lambda x: model.train(clean, clean, validation=(x, clean)),
            lambda x: model.validate(x, clean),
            lambda x: model.validate(clean, x),
            lambda x: metrics.psnr(x, clean),
            lambda x: metrics.ssim(clean, x),
        ):
            with pytest.raises(ValueError, match="finite"):
                call(images)
    assert all(np.array_equal(on_host(data), kept) for (data, _), kept in zip(network.param(), before, strict=True))


@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
@pytest.mark.parametrize("where", ["x", "t", "both"])
def test_a_training_step_is_of_pytorchs_class(where: str, upsampling: str) -> None:
    """The loss, and every parameter after the step; gradients that are NaN reach the same numbers."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    x, t = rng.random((2, 1, 3, 16, 16), "float32")
    for words in ((), *PLANTS, ("largest",)):
        network = networks.strided(4, upsampling=upsampling)
        other = strided_twin(torch, 4, upsampling)
        with torch.no_grad():
            for theirs, (ours, _) in zip(other.parameters(), network.param(), strict=True):
                theirs.copy_(torch.from_numpy(on_host(ours).copy()))
        arrays = [planted(a, words, "float32", n) if where in (n, "both") else a for n, a in (("x", x), ("t", t))]
        model = nc.Model(network, nc.MSE(), nc.SGD(network.parameters(), lr=0.1, momentum=0.9))
        loss = model.train_batch(*on_device(arrays))
        optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings for other devices
            with torch.backends.mkldnn.flags(enabled=False):  # see extreme_cases.py
                value = torch.nn.functional.mse_loss(other(torch.from_numpy(arrays[0])), torch.from_numpy(arrays[1]))
                value.backward()
        optimizer.step()
        assert classes(loss) == classes(value.detach()), words
        for theirs, (ours, _) in zip(other.parameters(), network.param(), strict=True):
            assert np.array_equal(classes(ours), classes(theirs.detach())), words


@pytest.mark.parametrize("value", ["large", "inf", "nan"])
def test_training_of_broken_parameters_says_so(value: str) -> None:
    network = nc.Sequential(nc.Conv2d(1, 4, 3, padding=1), nc.ReLU(), nc.Conv2d(4, 1, 3, padding=1))
    network[0].weight.data[1, 0, 1, 1] = VALUES["float32"][value]
    images = np.random.default_rng(0).uniform(5, 250, (8, 1, 8, 8)).astype("float32")
    with pytest.raises(nc.TrainingCollapsed):
        nc.Model(network, optimizer=nc.Adam(network.parameters())).train(images, images, 2, batch_size=4, seed=0)


@by_each_algorithm
def test_no_warning_leaves_a_layer(make: Callable[[], nc.Module], shape: Any, algorithm: str) -> None:
    """Even where the caller has NumPy raise for overflow, underflow, division by zero and invalid operations."""
    module, rng = make(), np.random.default_rng(3)
    x = planted(rng.standard_normal(shape), MIXED, "float32", "x").astype("float32")
    y = np.empty_like(module(x))
    grad = planted(rng.standard_normal(y.shape), MIXED, "float32", "grad").astype("float32")
    with np.errstate(all="raise"):
        module(x)
        module.backward(grad)
        module.eval()
        nc.Model(nc.Sequential(module)).network(x)
        assert np.geterr()["over"] == "raise"  # and the caller's settings are as they were


def test_no_warning_leaves_losses_optimizers_and_models() -> None:
    rng = np.random.default_rng(3)
    x, t = rng.uniform(5, 250, (2, 4, 1, 8, 8)).astype("float32")
    wild = planted(x, MIXED, "float32", "x").astype("float32")
    large = planted(x, ("large",), "float32", "x").astype("float32")
    model = nc.Model(nc.Sequential(nc.Conv2d(1, 1, 3, padding=1), nc.Sum(nc.Identity(), nc.Sigmoid())))
    parameter = nc.Parameter(wild)
    parameter.grad[...] = wild
    with np.errstate(all="raise"):
        for loss in (nc.MSE(), nc.L1("sum")):
            loss(wild, t)
            loss.backward()
        nc.MaskedMSE()(wild, np.concatenate([t, t], axis=1))
        for optimizer in (nc.SGD([parameter], momentum=0.9), nc.Adam([parameter])):
            optimizer.step()
        nc.col2im(nc.im2col(wild, 3), wild.shape, 3)
        model.predict(large)
        model.predict(large.astype("float64") * 1e270)
        model.train_batch(wild, t)
        metrics.psnr(large, x)
        metrics.ssim(*(np.full((1, 16, 16), 1e200), np.full((1, 16, 16), -1e200)))


def test_a_channel_without_variance_and_without_eps_becomes_its_bias() -> None:
    """PyTorch refuses eps=0 in training; the limit of small eps is the bias."""
    norm = nc.BatchNorm2d(2, eps=0)
    norm.bias.fill(on_device(np.array([3.0, -1.0], "float32")))
    x = np.random.default_rng(0).standard_normal((2, 2, 4, 4)).astype("float32")
    x[:, 0] = 7
    y, limit = norm(on_device(x)), nc.BatchNorm2d(2, eps=1e-20)
    limit.bias.fill(norm.bias.data)
    assert np.allclose(on_host(y), on_host(limit(on_device(x)))) and (on_host(y)[:, 0] == 3).all()
    assert np.isfinite(on_host(norm.backward(y))).all()


@pytest.mark.parametrize("algorithm_name", ["sum of squares", "running maximum"])
def test_adam_takes_gradients_whose_squares_overflow(algorithm_name: str) -> None:
    """Where (1 - beta) g^2 is still a number, so is the step: 1e19 squared times 0.001 is one."""
    grad = np.array([1e19, -2e19, 5e20], "float32")
    for size in (1, 30_000):
        parameter = nc.Parameter(np.ones(3 * size, "float32"))
        parameter.grad[...] = on_device(np.tile(grad, size))
        nc.Adam([parameter], lr=0.5, amsgrad=algorithm_name == "running maximum").step()
        assert np.allclose(on_host(parameter.data), np.tile([0.5, 1.5, 0.5], size), rtol=1e-4)
