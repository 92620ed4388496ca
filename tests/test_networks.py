"""The networks of networks.py: counts, values, sizes, files, pictures, training, and arguments that are refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plain_networks as plain
import pytest
from devices import assert_allclose, on_device, on_host

import npconv as nc
from npconv import networks

# Small networks, their input's channels, their straight line of NumPy, and what sizes they divide.
Case = tuple[Callable[[], nc.Module], int, Callable[..., Any], int]
CASES: dict[str, Case] = {
    "dncnn gray": (partial(networks.dncnn, 5, 8, batch_norm=False), 1, partial(plain.dncnn, depth=5), 1),
    "dncnn rgb": (partial(networks.dncnn, 2, 8, 3), 3, partial(plain.dncnn, depth=2), 1),
    "dncnn plain": (
        partial(networks.dncnn, 3, 4, 3, False, residual=False), 3, partial(plain.dncnn, depth=3, residual=False), 1,
    ),
    "ffdnet gray": (partial(networks.ffdnet, 4, 8), 2, partial(plain.ffdnet, depth=4), 2),
    "ffdnet rgb": (partial(networks.ffdnet, 3, 12, 3), 4, partial(plain.ffdnet, depth=3), 2),
    "noise2noise rgb": (networks.noise2noise_unet, 3, plain.noise2noise_unet, 32),
    "noise2noise gray": (partial(networks.noise2noise_unet, 1), 1, plain.noise2noise_unet, 32),
    "unet rgb": (partial(networks.unet, 6), 3, partial(plain.unet, depth=1), 4),
    "unet gray": (partial(networks.unet, 4, 1, depth=3), 1, partial(plain.unet, depth=3), 16),
    "unet plain": (
        partial(networks.unet, 4, depth=0, residual=False), 3, partial(plain.unet, depth=0, residual=False), 2,
    ),
}  # fmt: skip
# Too much for a stand-in that works through every pixel: the layers and the other networks are seen there.
NAMES = [pytest.param(name, marks=[pytest.mark.cpu] if "noise2noise" in name else []) for name in CASES]
PUBLISHED: dict[str, Case] = {
    "dncnn-s": (partial(networks.dncnn, batch_norm=False), 1, partial(plain.dncnn, depth=17), 1),
    "ffdnet gray": (networks.ffdnet, 2, partial(plain.ffdnet, depth=15), 2),
    "ffdnet rgb": (partial(networks.ffdnet, image_channels=3), 4, partial(plain.ffdnet, depth=12), 2),
    "unet": (networks.unet, 3, partial(plain.unet, depth=1), 4),
}


def conv(inputs: int, outputs: int) -> int:
    """Parameters of a 3x3 convolution with bias."""
    return 9 * inputs * outputs + outputs


def count(network: nc.Module) -> int:
    return sum(parameter.size for parameter in network.parameters())


def images(channels: int, height: int, width: int, batch: int = 2, seed: int = 0) -> np.ndarray:
    """Values in [0, 1]; where FFDNet's noise level would be, one that is the same in each block of 2x2."""
    x = np.random.default_rng(seed).uniform(size=(batch, channels, height, width))
    blocks = x[:, -1:, ::2, ::2].repeat(2, axis=2).repeat(2, axis=3)[:, :, :height, :width]
    return np.concatenate([x[:, :-1], blocks], axis=1) if channels in (2, 4) else x


# ---- what they are ----
def test_parameters_are_as_many_as_published() -> None:
    assert count(networks.dncnn(batch_norm=False)) == 555_137 == conv(1, 64) + 15 * conv(64, 64) + conv(64, 1)
    assert count(networks.dncnn(depth=20, batch_norm=False)) == 555_137 + 3 * 36_928  # DnCNN-B: 0.67 million
    with_norms = conv(3, 64) + 18 * (conv(64, 64) + 2 * 64) + conv(64, 3)
    assert count(networks.dncnn(depth=20, image_channels=3)) == with_norms == 670_531
    assert count(networks.ffdnet()) == 485_316  # 0.49 million
    assert count(networks.ffdnet(image_channels=3)) == 852_108  # 0.85 million


def test_the_noise2noise_unet_has_the_layers_of_its_table() -> None:
    widths = [(3, 48), *[(48, 48)] * 6, (96, 96), (96, 96), *[(144, 96), (96, 96)] * 3, (99, 64), (64, 32), (32, 3)]
    network = networks.noise2noise_unet()
    shapes = [p.shape for name, p in network.named_parameters() if name.endswith("weight")]
    assert shapes == [(outputs, inputs, 3, 3) for inputs, outputs in widths]
    assert count(network) == sum(conv(*pair) for pair in widths) == 991_203
    names = [name.split(".")[-2] for name, _ in network.named_parameters() if name.endswith("weight")]
    decoder = [f"dec{level}{half}" for level in (5, 4, 3, 2, 1) for half in "ab"]
    assert names == [*(f"enc{i}" for i in range(7)), *decoder, "out"]


def test_the_authors_files_fit_by_name() -> None:
    """DnCNN-S as KAIR stores it: convolutions at even places of one Sequential called model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(17):
        inputs, outputs = (1 if i == 0 else 64), (1 if i == 16 else 64)
        shapes.update({f"model.{2 * i}.weight": (outputs, inputs, 3, 3), f"model.{2 * i}.bias": (outputs,)})
    network = networks.dncnn(batch_norm=False)
    assert [(name, p.shape) for name, p in network.named_parameters()] == list(shapes.items())
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    network.load_state_dict(state)
    assert all(np.array_equal(on_host(value), state[name]) for name, value in network.state_dict().items())
    assert [name for name, _ in networks.ffdnet(3).named_parameters()] == [
        f"model.{i}.{what}" for i in (0, 2, 4) for what in ("weight", "bias")
    ]


def test_the_batch_norms_of_dncnn_stand_between_convolution_and_relu() -> None:
    body = list(networks.dncnn(depth=4)["model"])
    inside = ["Conv2d", "BatchNorm2d", "ReLU"]
    assert [type(m).__name__ for m in body] == ["Conv2d", "ReLU", *inside, *inside, "Conv2d", "Scale"]
    assert all(m.bias is not None for m in body if isinstance(m, nc.Conv2d))
    assert [m.eps for m in body if isinstance(m, nc.BatchNorm2d)] == [1e-4, 1e-4]
    assert body[-1].factor == -1


# ---- what they compute ----
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_plain_numpy(name: str) -> None:
    make, channels, function, multiple = CASES[name]
    network = make(dtype="float64")
    for parameter in network.parameters():
        parameter.fill(parameter.data + 0.05)  # biases that are not zero
    x = images(channels, 2 * multiple, multiple)
    y = network(on_device(x))
    assert y.shape == (2, channels - (channels in (2, 4)), 2 * multiple, multiple)
    assert_allclose(y, plain.run(network, function, x), rtol=1e-9, atol=1e-9)
    assert_allclose(network(on_device(x[0])), y[0], rtol=1e-9, atol=1e-9)


@pytest.mark.cpu
@pytest.mark.parametrize("name", PUBLISHED)
def test_values_at_full_size(name: str) -> None:
    make, channels, function, _ = PUBLISHED[name]
    network, x = make(), images(channels, 16, 24, 1).astype("float32")
    y = network(on_device(x))
    assert y.dtype == "float32"
    assert_allclose(y, plain.run(network.double(), function, x.astype("float64")), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_images_of_any_size_are_mirrored_and_cut(name: str) -> None:
    """Model.predict on 37 x 29 pixels, as the straight line does it on the mirrored image."""
    make, channels, function, multiple = CASES[name]
    network, x = make(dtype="float64"), images(channels, 37, 29, 1) * 255
    more = [-size % multiple for size in x.shape[2:]]
    mirrored = np.pad(x, ((0, 0), (0, 0), (0, more[0]), (0, more[1])), mode="symmetric")
    expected = np.clip(plain.run(network, function, mirrored / 255)[:, :, :37, :29] * 255, 0, 255)
    assert_allclose(nc.Model(network).predict(x), expected, atol=1e-7)


def test_ffdnet_takes_the_mean_of_a_noise_level_that_changes() -> None:
    network, x = networks.ffdnet(3, 4, dtype="float64"), images(2, 4, 4)
    uneven = x.copy()
    uneven[:, 1, ::2] *= 0.5
    uneven[:, 1, 1::2] *= 1.5
    assert_allclose(network(on_device(uneven)), network(on_device(x)), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "channels", "rows"),
    [
        (lambda: networks.dncnn(4, 6, batch_norm=False, dtype="float64"), 1, range(15 - 4, 15 + 4 + 1)),
        (lambda: networks.ffdnet(3, 6, dtype="float64"), 2, range(14 - 6, 15 + 6 + 1)),  # 2x2 blocks, 3 to each side
    ],
)
def test_one_pixel_reaches_as_far_as_the_convolutions(make: Any, channels: int, rows: range) -> None:
    network, x = make(), np.full((1, channels, 32, 32), 0.5)
    for parameter in network.parameters():
        parameter.fill(abs(parameter.data) * (-1 if parameter.ndim == 1 else 1))  # no ReLU stops anything
    before = on_host(network(on_device(x)))
    x[0, 0, 15, 15] += 0.25
    changed = np.argwhere((on_host(network(on_device(x))) != before).any(axis=(0, 1)))
    assert changed.min(axis=0).tolist() == [rows[0], rows[0]] and changed.max(axis=0).tolist() == [rows[-1], rows[-1]]


@pytest.mark.parametrize("name", CASES)
def test_sizes(name: str) -> None:
    make, _, _, multiple = CASES[name]
    network = make()
    assert network.size_multiple == (multiple, multiple) and network.scale == (1, 1)


# ---- how they begin ----
@pytest.mark.parametrize(
    ("network", "slope"), [(networks.dncnn(), 0), (networks.ffdnet(), 0), (networks.noise2noise_unet(), 0.1)]
)
def test_initial_weights_are_hes_and_biases_zero(network: nc.Module, slope: float) -> None:
    convolutions = [module for module in network.modules() if isinstance(module, nc.Conv2d)]
    for layer in convolutions:
        fan_in = 9 * layer.in_channels
        gain = 1 if layer is convolutions[-1] else 2 / (1 + slope**2)
        share = float((layer.weight.data.astype("float64") ** 2).mean()) / (gain / fan_in)
        assert share == pytest.approx(1, abs=6 / np.sqrt(layer.weight.size))
        assert layer.bias is not None and not layer.bias.data.any()


def test_the_small_unet_begins_near_what_it_is_given() -> None:
    x = on_device(images(3, 32, 32).astype("float32"))
    difference = on_host(networks.unet()(x) - x)
    assert 0 < np.sqrt((difference**2).mean()) < 0.2


@pytest.mark.parametrize("name", NAMES)
def test_training_leaves_the_input_gradient_out(name: str) -> None:
    """As the trainer asks: nothing is computed for what nobody reads, and all other gradients stay the same."""
    make, channels, _, multiple = CASES[name]
    network = make(dtype="float64")
    short = network.replica()
    short.skip_input_gradient()
    x = on_device(images(channels, 2 * multiple, 2 * multiple))
    rng = np.random.default_rng(5)
    grad = on_device(rng.standard_normal(network(x).shape))
    short(x)
    assert network.backward(grad) is not None
    assert short.backward(grad) is None
    for (_, a), (_, b) in zip(network.param(), short.param(), strict=True):
        assert np.array_equal(on_host(a), on_host(b)) and on_host(b).any()


def test_what_a_residual_block_adds_begins_small() -> None:
    blocks = [module for module in networks.unet().modules() if isinstance(module, nc.Sequential) and len(module) == 3]
    added = [list(block)[2] for block in blocks if isinstance(list(block)[1], nc.ReLU)]
    assert len(added) == 3
    for layer in added:
        share = float((on_host(layer.weight.data).astype("float64") ** 2).mean()) * 9 * layer.in_channels
        assert share == pytest.approx(0.4**2, rel=0.1)  # of He's for what is linear


# ---- files, pictures, training ----
@pytest.mark.parametrize("name", [*NAMES, "dncnn with norms"])
def test_a_file_rebuilds_the_network(name: str, tmp_path: Path) -> None:
    make, channels, _, multiple = CASES.get(name, (partial(networks.dncnn, 4, 4), 1, None, 1))
    network = make()
    nc.save(network, tmp_path / "net.h5")
    nc.manual_seed(99)
    other = nc.load(tmp_path / "net.h5")
    x = on_device(images(channels, multiple, multiple).astype("float32"))
    assert repr(other) == repr(network) and list(other.state_dict()) == list(network.state_dict())
    assert np.array_equal(on_host(other.eval()(x)), on_host(network.eval()(x)))


@pytest.mark.cpu
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_summary_and_picture(name: str, tmp_path: Path) -> None:
    network = networks.make(name)
    shape = (4 if name == "ffdnet" else 3, 64, 64)
    text = nc.summary(network, shape)
    assert f"{count(network):,}, all trained" in text and "3 x 64 x 64" in text and "?" not in text
    pytest.importorskip("matplotlib")
    nc.draw(network, shape, tmp_path / "net.svg")
    assert (tmp_path / "net.svg").stat().st_size > 10_000


@pytest.mark.cpu  # elsewhere, layers/test_contract.py does so with fewer networks
@pytest.mark.parametrize("name", CASES)
def test_gradients_and_contract(name: str, rng: np.random.Generator) -> None:
    make, channels, _, multiple = CASES[name]
    many = "noise2noise" in name  # so many activations and maxima that a few change sides within a step of 1e-5
    x = images(channels, multiple, multiple, 1 if many else 2)
    nc.check_gradients(make(), x, directions=1, **({"step": 1e-8, "tolerance": 1e-4} if many else {}))
    nc.check_module(make(), x)


@pytest.mark.parametrize("name", [*NAMES, "dncnn with norms"])
def test_a_few_steps_reduce_the_loss(name: str) -> None:
    make, channels, _, multiple = CASES.get(name, (partial(networks.dncnn, 4, 8), 1, None, 1))
    size, colours = max(8, multiple), channels - (channels in (2, 4))
    clean = images(colours, size, size, 4)
    x = np.concatenate([clean, images(channels, size, size, 4)[:, colours:]], axis=1)
    x[:, :colours] += np.random.default_rng(1).normal(0, 0.1, clean.shape)
    network = make()
    model = nc.Model(network, optimizer=nc.Adam(network.parameters(), lr=2e-3))
    noisy, target = on_device((x.astype("float32"), clean.astype("float32")))
    losses = [model.train_batch(noisy, target) for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]


# ---- by name ----
def test_make_gives_each_network_by_name() -> None:
    made = {name: networks.make(name, 1) for name in networks.NETWORKS}
    expected = {
        "unet": networks.unet(image_channels=1),
        "noise2noise-unet": networks.noise2noise_unet(1),
        "dncnn": networks.dncnn(),
        "ffdnet": networks.ffdnet(),
        "strided": networks.strided(image_channels=1),
        "strided-transposed": networks.strided(image_channels=1, upsampling="transposed"),
    }
    assert {name: repr(network) for name, network in made.items()} == {k: repr(v) for k, v in expected.items()}
    wide = networks.make("dncnn", channels=8, depth=3, batch_norm=False, residual=False)
    assert repr(wide) == repr(networks.dncnn(3, 8, 3, False, False))
    assert count(networks.make("ffdnet", channels=8, depth=3)) == conv(13, 8) + conv(8, 8) + conv(8, 12)


ERRORS = [
    (lambda: networks.make("resnet"), ValueError, r"network \(='resnet'\) must be one of unet, noise2noise-unet, dn"),
    (lambda: networks.make(None), ValueError, r"network \(=None\) must be one of"),
    (lambda: networks.make("unet", batch_norm=True), ValueError,
     r"batch_norm \(=True\) is not an option of the network unet, which takes channels, depth, residual"),
    (lambda: networks.make("noise2noise-unet", channels=8), ValueError, r"noise2noise-unet, which takes no options"),
    (lambda: networks.make("strided", upsampling="nearest"), ValueError, r"upsampling .* which takes channels$"),
    (lambda: networks.make("unet", 0), ValueError, r"image_channels \(=0\) must be at least 1"),
    (lambda: networks.dncnn(1), ValueError, r"depth \(=1\) must be at least 2"),
    (lambda: networks.dncnn(5, 0), ValueError, r"channels \(=0\) must be at least 1"),
    (lambda: networks.dncnn(5, 8, 0), ValueError, r"image_channels \(=0\) must be at least 1"),
    (lambda: networks.dncnn(batch_norm=1), TypeError, r"batch_norm \(=1\) must be True or False"),
    (lambda: networks.dncnn(residual=None), TypeError, r"residual \(=None\) must be True or False"),
    (lambda: networks.dncnn(3, 4, dtype="int8"), TypeError, r"dtype \(='int8'\) must be float32 or float64"),
    (lambda: networks.ffdnet(1), ValueError, r"depth \(=1\) must be at least 2"),
    (lambda: networks.ffdnet(5, -1), ValueError, r"channels \(=-1\) must be at least 1"),
    (lambda: networks.ffdnet(image_channels="3"), TypeError, r"image_channels \(='3'\) must be an integer"),
    (lambda: networks.ffdnet(3, 4)(on_device(np.zeros((1, 1, 4, 4)))), ValueError,
     r"SelectChannels expects in_channels \(=2\) channels, got an input of shape \(1, 1, 4, 4\)"),
    (lambda: networks.ffdnet(3, 4)(on_device(np.zeros((1, 2, 5, 4)))), ValueError,
     r"height and width \(=5x4\) must be divisible"),
    (lambda: networks.noise2noise_unet(0), ValueError, r"image_channels \(=0\) must be at least 1"),
    (lambda: networks.unet(0), ValueError, r"channels \(=0\) must be at least 1"),
    (lambda: networks.unet(depth=-1), ValueError, r"depth \(=-1\) must be at least 0"),
    (lambda: networks.unet(residual="yes"), TypeError, r"residual \(='yes'\) must be True or False"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS)
def test_arguments_that_are_refused(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
