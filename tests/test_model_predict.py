"""Model.predict: any size, any type, one image or many, and nothing changed by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host

import npconv as nc
from npconv import networks, noise_map
from npconv.backends.cpu.workers import WorkerPool


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Sets the number of worker threads."""

    def set_to(count: int) -> None:
        if nc.backend().name == "numpy":
            monkeypatch.setattr(nc.backend(), "_pool", WorkerPool(count))
        elif count > 1:
            pytest.skip("worker threads are the CPU backend's")

    set_to(1)
    yield set_to


def small(seed: int = 3, **options: Any) -> nc.Sequential:
    nc.manual_seed(seed)
    return networks.strided(channels=4, **options)


def photos(count: int = 8, size: int = 8, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Images of one colour each, 0..255: easy to learn, and different from each other."""
    colours = np.random.default_rng(seed).uniform(40, 215, (count, channels, 1, 1))
    return np.broadcast_to(colours, (count, channels, size, size)).astype("float32")


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (8, 8), (13, 4), (512, 512)])
def test_any_size_comes_back_in_0_to_255(size: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, *size), dtype="uint8")
    output = nc.Model(small()).predict(images)
    assert output.shape == images.shape and output.dtype == np.float32
    assert output.min() >= 0 and output.max() <= 255
    assert np.isfinite(output).all()


def test_values_beyond_the_range_are_clipped() -> None:
    network = nc.Sequential(nc.Conv2d(1, 1, 1))
    network[0].weight = np.full((1, 1, 1, 1), 3, "float32")
    network[0].bias = np.full(1, -1, "float32")
    image = np.array([[[0, 50, 100, 250]]], "uint8")
    expected = np.clip(3 * image.astype(float) - 255, 0, 255)
    np.testing.assert_allclose(nc.Model(network).predict(image), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("dtype", "result"),
    [
        ("uint8", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
        ("int32", "float32"),
        ("float16", "float32"),
    ],
)
def test_dtypes(dtype: str, result: str) -> None:
    image = np.random.default_rng(0).integers(2, 256, (3, 8, 8)).astype(dtype)
    model = nc.Model(small())
    output = model.predict(image)
    assert output.dtype == result and output.shape == (3, 8, 8)
    np.testing.assert_allclose(output, model.predict(image.astype("float32")), rtol=1e-6)


def test_a_float64_network_predicts_in_float64() -> None:
    network, image = small(dtype="float64"), photos(1, 8)[0].astype("float64")
    expected = np.clip(on_host(network(on_device(image / 255))) * 255, 0, 255)
    np.testing.assert_allclose(nc.Model(network).predict(image), expected, rtol=1e-12)


def test_lists_and_unbatched_images() -> None:
    model, image = nc.Model(small()), photos(1, 4)[0]
    np.testing.assert_allclose(model.predict(image.tolist()), model.predict(image), rtol=1e-6)
    np.testing.assert_allclose(model.predict(image), model.predict(image[None])[0], rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_images_of_a_batch_do_not_see_each_other(workers: Callable[[int], None], count: int) -> None:
    workers(count)
    network = nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), nc.BatchNorm2d(4), nc.ReLU(), nc.Conv2d(4, 3, 1))
    model = nc.Model(network)
    images = np.random.default_rng(0).uniform(0, 255, (5, 3, 9, 9)).astype("float32")
    each = np.stack([model.predict(image) for image in images])
    np.testing.assert_allclose(model.predict(images), each, rtol=0, atol=1e-4)


def test_a_large_batch_is_split_into_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = nc.Model(small()), photos(9, 8)
    whole = model.predict(images)
    monkeypatch.setattr("npconv.plans.PREDICT_PIXELS", 130)  # two images at a time
    np.testing.assert_allclose(model.predict(images), whole, atol=1e-4)


def test_an_empty_batch_gives_an_empty_batch() -> None:
    assert nc.Model(small()).predict(np.zeros((0, 3, 8, 8))).shape == (0, 3, 8, 8)


def test_predict_leaves_modes_buffers_and_gradients_alone() -> None:
    network = nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), nc.BatchNorm2d(4), nc.Dropout(), nc.Conv2d(4, 3, 1))
    network.train()
    network[2].eval()
    y = network(on_device(photos(2) / 255))
    network.backward(nc.backend().xp.ones_like(y))
    before = on_host(network.state_dict())
    grads = [on_host(grad.copy()) for _, grad in network.param()]
    output = nc.Model(network).predict(photos(2))
    assert np.array_equal(output, nc.Model(network).predict(photos(2)))  # no Dropout: evaluation mode
    assert [module.training for module in network] == [True, True, False, True] and network.training
    assert all(np.array_equal(before[name], value) for name, value in on_host(network.state_dict()).items())
    assert all(np.array_equal(a, on_host(b)) for a, (_, b) in zip(grads, network.param(), strict=True))


@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_odd_sizes_are_mirrored_at_the_right_and_the_bottom_and_cropped(upsampling: str) -> None:
    network = small(upsampling=upsampling)
    image = np.random.default_rng(0).uniform(0, 255, (3, 5, 7)).astype("float32")
    rows, columns = [0, 1, 2, 3, 4, 4, 3, 2], [0, 1, 2, 3, 4, 5, 6, 6]  # to multiples of 4
    padded = image[:, rows][:, :, columns]
    expected = on_host(network(on_device(padded / 255)))[:, :5, :7] * 255
    np.testing.assert_allclose(nc.Model(network).predict(image), expected, atol=1e-3)


def test_a_network_that_enlarges_gives_enlarged_images() -> None:
    network = nc.Sequential(nc.Conv2d(3, 12, 3, stride=2, padding=1), nc.Upsampling(12, 3, 4, stride=4, padding=0))
    assert network.scale == (2, 2) and network.size_multiple == (2, 2)
    assert nc.Model(network).predict(photos(1, 5)).shape == (1, 3, 10, 10)


def test_images_of_0_to_1_are_warned_about() -> None:
    with pytest.warns(UserWarning, match=r"largest value of the images is 0\.8.*0\.\.255"):
        nc.Model(small()).predict(np.full((3, 8, 8), 0.8))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int64", "uint32"])
def test_integers_are_of_0_to_255_or_an_error(dtype: str) -> None:
    model, image = nc.Model(small()), np.random.default_rng(0).integers(0, 256, (3, 8, 8))
    np.testing.assert_array_equal(model.predict(image.astype(dtype)), model.predict(image.astype("uint8")))
    message = rf"images of {dtype} must have values of 0\.\.255, got 0\.\.1000: scale them .*npconv\.denoise"
    image[0, 0, 0], image[0, 0, 1] = 0, 1000
    with pytest.raises(TypeError, match=message):
        model.predict(image.astype(dtype))
    if dtype.startswith("int"):
        with pytest.raises(TypeError, match=r"got -3\.\.0"):
            model.predict(np.minimum(0, image - 1003).clip(-3).astype(dtype) * np.eye(8, dtype=dtype))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 16, 16), "the network takes 3 channels, the images of shape (4, 16, 16) have 4"),
        ((2, 1, 8, 8), "the network takes 3 channels, the images of shape (2, 1, 8, 8) have 1"),
        ((16, 20, 3), "the images of shape (16, 20, 3) have 16: images are (C, H, W), not (H, W, C)"),
        ((5, 16, 20, 3), "the images of shape (5, 16, 20, 3) have 16: images are (C, H, W), not (H, W, C)"),
    ],
)
def test_other_channels_than_the_network_takes_are_one_line(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        nc.Model(small()).predict(np.zeros(shape, "uint8"))
    assert str(caught.value).endswith(message) and "\n" not in str(caught.value)


def test_other_channels_than_a_network_with_a_noise_level_takes() -> None:
    model = nc.Model(networks.ffdnet(2, 4, 3))
    for shape, level in (((1, 8, 8), 25), ((1, 8, 8), None), ((4, 8, 8), 25), ((5, 8, 8), None)):
        with pytest.raises(ValueError, match="the network takes 3 channels and a noise-level map, the images of shape"):
            model.predict(np.zeros(shape, "uint8"), noise_level=level)


def test_a_module_of_ones_own_may_take_other_channels_than_its_first_layer() -> None:
    class Doubling(nc.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nc.Conv2d(2, 1, 1)

        def forward(self, x: Any) -> Any:
            return self.conv(nc.backend().xp.concatenate([x, x], axis=1))

        def backward(self, grad: Any) -> Any:
            return self.conv.backward(grad).sum(axis=1, keepdims=True)

    assert nc.Model(Doubling()).predict(np.zeros((1, 8, 8), "uint8")).shape == (1, 8, 8)


def test_what_a_network_takes_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    found = noise_map.trace
    monkeypatch.setattr(noise_map, "trace", lambda *given: calls.append(given) or found(*given))
    network = networks.ffdnet(2, 4, 1)
    for _ in range(3):
        nc.Model(network).predict(np.zeros((1, 8, 8), "uint8"), noise_level=1)
    assert len(calls) == 1
    takes = noise_map.what_it_takes(network)
    assert (takes.channels, takes.image_channels, takes.noise_map) == (2, 1, True)
    plain = noise_map.what_it_takes(small())
    assert (plain.channels, plain.image_channels, plain.noise_map) == (3, 3, False)
