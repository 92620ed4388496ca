"""Nothing that goes in is changed, nothing that has come out is overwritten, and results lie in memory of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host
from odd_layers import HANDS_ON, IMAGES, LAYERS, by_each_algorithm, title

import npconv as nc
from npconv import metrics, networks

each_layer = pytest.mark.parametrize(("make", "shape"), LAYERS, ids=title)
Case = Callable[[], nc.Module]


def locked(x: np.ndarray) -> np.ndarray:
    """A copy that raises ValueError where someone writes to it."""
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.mark.cpu  # no other backend has read-only arrays
@pytest.mark.parametrize("channels_last", [False, True])
@by_each_algorithm
def test_layers_write_to_nothing_they_are_given(
    make: Case, shape: Any, channels_last: bool, algorithm: str, rng: np.random.Generator
) -> None:
    """Read-only input and gradient, of which the bytes are compared too: a view could be made writable again."""
    lay = nc.backend().images if channels_last and len(shape) == 4 else np.ascontiguousarray
    module = make()
    x = lay(rng.standard_normal(shape).astype("float32"))
    x.flags.writeable = False
    before = x.tobytes()
    y = module(x)
    grad = rng.standard_normal(y.shape).astype("float32")
    grad = lay(grad) if grad.ndim == 4 else grad
    grad.flags.writeable = False
    grad_before = grad.tobytes()
    module.backward(grad)
    module.backward(grad)
    assert (x.tobytes(), grad.tobytes()) == (before, grad_before)


@by_each_algorithm
def test_later_calls_overwrite_no_result(make: Case, shape: Any, algorithm: str, rng: np.random.Generator) -> None:
    module, kept, copies = make(), [], []
    for _ in range(4):
        x = on_device(rng.standard_normal(shape).astype("float32"))
        y = module(x)
        x_grad = module.backward(on_device(rng.standard_normal(y.shape).astype("float32")))
        kept += [y, x_grad]
        copies += [on_host(y).copy(), on_host(x_grad).copy()]
        with nc.no_grad():
            module(x)
    assert all(np.array_equal(on_host(a), b) for a, b in zip(kept, copies, strict=True))


@pytest.mark.cpu
@each_layer
def test_results_share_no_memory_but_those_that_hand_on(make: Case, shape: Any, rng: np.random.Generator) -> None:
    """Views of the input where nothing is computed, as PyTorch; and no result lies in parameters or statistics."""
    module = make()
    x = rng.standard_normal(shape).astype("float32")
    y = module(x)
    grad = rng.standard_normal(y.shape).astype("float32")
    x_grad = module.backward(grad)
    hands_on = title(make).startswith(HANDS_ON) or title(make).endswith("eval") and "Dropout" in title(make)
    assert hands_on or not (np.shares_memory(y, x) or np.shares_memory(x_grad, grad))
    assert not np.shares_memory(x_grad, x) and not np.shares_memory(y, x_grad)
    assert not any(np.shares_memory(a, b) for a in (y, x_grad) for b in module.state_dict().values())


@pytest.mark.parametrize("make", [nc.MSE, nc.L1, nc.MaskedMSE])
def test_losses(make: Callable[[], nc.Loss], rng: np.random.Generator) -> None:
    prediction = rng.standard_normal(IMAGES).astype("float32")
    target = abs(rng.standard_normal((2, 8, 6, 8) if make is nc.MaskedMSE else IMAGES)).astype("float32")
    pair = on_device((prediction, target))
    loss = make()
    loss(*pair)
    first = loss.backward()
    kept = on_host(first).copy()
    loss(pair[0] * 2, pair[1])
    loss.backward()
    assert np.array_equal(on_host(first), kept)
    assert np.array_equal(on_host(pair[0]), prediction) and np.array_equal(on_host(pair[1]), target)


@pytest.mark.parametrize("size", [30, 70_000])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: nc.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda p: nc.SGD(p, lr=0.1, momentum=0.9, dampening=0.1),
        lambda p: nc.Adam(p, weight_decay=0.1, amsgrad=True),
    ],
)
def test_optimizers_change_no_gradient(make: Any, size: int, rng: np.random.Generator) -> None:
    parameters = [nc.Parameter(rng.standard_normal(size).astype("float32")) for _ in range(2)]
    optimizer = make(parameters)
    for _ in range(3):
        grads = [rng.standard_normal(size).astype("float32") for _ in parameters]
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad[...] = on_device(grad)
        optimizer.step()
        assert all(np.array_equal(on_host(p.grad), g) for p, g in zip(parameters, grads, strict=True))


def test_a_training_step(rng: np.random.Generator) -> None:
    x, t = (rng.random((4, 3, 8, 8), "float32") for _ in range(2))
    arrays = on_device((x, t))
    for network in (networks.strided(4), networks.unet(4, depth=1), networks.dncnn(3, 4, image_channels=3)):
        model = nc.Model(network, nc.MSE(), nc.Adam(network.parameters()))
        for _ in range(3):
            model.train_batch(*arrays)
        assert np.array_equal(on_host(arrays[0]), x) and np.array_equal(on_host(arrays[1]), t)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "float16", ">f4"])
def test_model_and_denoise(dtype: str, rng: np.random.Generator) -> None:
    images = locked(rng.uniform(5, 250, (4, 3, 9, 10)).astype(dtype))
    targets = locked(rng.uniform(5, 250, (4, 3, 9, 10)).astype(dtype))
    before = images.tobytes(), targets.tobytes()
    network = nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), nc.ReLU(), nc.Conv2d(4, 3, 3, padding=1))
    model = nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=1e-4))
    model.train(images, targets, 2, batch_size=2, validation=(images[:2], targets[:2]), seed=0)
    first = model.predict(images)
    kept = first.copy()
    for options in ({}, {"tile": 6}, {"max_memory": "30M"}):
        again = model.predict(images, **options)
        assert not np.shares_memory(again, images) and not np.shares_memory(again, first)
    model.predict(images[:, ::-1].astype("float32"))
    model.validate(images, targets)
    assert np.array_equal(first, kept)
    denoised = nc.denoise(model, images[0], white=255)
    assert denoised.dtype == images.dtype and denoised.flags.writeable and not np.shares_memory(denoised, images)
    assert (images.tobytes(), targets.tobytes()) == before


def test_a_network_that_hands_on_gives_predictions_of_their_own() -> None:
    """Even where nothing is computed, and float32 comes in and goes out."""
    images = np.full((2, 3, 4, 4), 7, "float32")
    found = nc.Model(nc.Identity()).predict(images)
    assert np.allclose(found, 7)
    found += 1
    assert (images == 7).all()


def test_metrics_change_nothing(rng: np.random.Generator) -> None:
    a, b = (locked(rng.uniform(0, 255, (2, 3, 16, 16)).astype(t)) for t in ("float32", "uint8"))
    before = a.tobytes(), b.tobytes()
    metrics.psnr(a, b), metrics.ssim(a, b), metrics.psnr(a, b, definition="pooled")
    assert (a.tobytes(), b.tobytes()) == before


def test_folding_and_state_leave_the_network_alone(rng: np.random.Generator) -> None:
    network = networks.dncnn(3, 4).eval()
    state = copy.deepcopy(on_host(network.state_dict()))
    given = {name: locked(value) for name, value in state.items()}
    nc.fold_batchnorm(network)
    network.load_state_dict(on_device(given))
    nc.Model(network).predict(rng.uniform(5, 250, (1, 1, 8, 8)))
    assert all(np.array_equal(on_host(value), state[name]) for name, value in network.state_dict().items())
    assert all(np.array_equal(given[name], state[name]) for name in state)
