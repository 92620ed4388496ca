"""The networks beside the same in PyTorch, written from the papers: outputs, and gradients of input and parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from comparison import relative_difference
from devices import on_device, on_host

import npconv as nc
from npconv import networks

torch = pytest.importorskip("torch")
F = torch.nn.functional
Twin = Callable[[Any, list[Any]], Any]  # of the input and the parameters, in their order


def conv(x: Any, weights: list[Any]) -> Any:
    return F.conv2d(x, weights.pop(0), weights.pop(0), padding=1)


def leaky(x: Any, weights: list[Any]) -> Any:
    return F.leaky_relu(conv(x, weights), 0.1)


def up_beside(x: Any, skip: Any) -> Any:
    return torch.cat([F.interpolate(x, scale_factor=2, mode="nearest"), skip], 1)


def row(x: Any, weights: list[Any], norm: bool, training: bool) -> Any:
    """Convolutions until no parameter is left; between the first and the last perhaps batch normalisations."""
    x = conv(x, weights).relu()
    while len(weights) > 2:
        x = conv(x, weights)
        if norm:
            statistics = (
                None if training else torch.zeros(x.shape[1]).to(x),
                None if training else torch.ones(x.shape[1]).to(x),
            )
            x = F.batch_norm(x, *statistics, weights.pop(0), weights.pop(0), training, eps=1e-4)
        x = x.relu()
    return conv(x, weights)


def dncnn(norm: bool = False, training: bool = False, residual: bool = True) -> Twin:
    def run(x: Any, weights: list[Any]) -> Any:
        noise = row(x, weights, norm, training)
        return x - noise if residual else noise

    return run


def authors_unshuffle(x: Any) -> Any:
    """FFDNet's reversible downsampling, as its authors define it: the places within a 2x2 block behind the channel."""
    n, c, h, w = x.shape
    return x.view(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(n, 4 * c, h // 2, w // 2)


def ffdnet(x: Any, weights: list[Any]) -> Any:
    """One noise level an image: the authors' input, spread over an image of half the size."""
    image, level = x[:, :-1], x[:, -1:].mean((2, 3), keepdim=True)
    down = authors_unshuffle(image)
    return F.pixel_shuffle(row(torch.cat([down, level.expand(-1, 1, *down.shape[2:])], 1), weights, False, False), 2)


def noise2noise_unet(x: Any, weights: list[Any]) -> Any:
    pool1 = F.max_pool2d(leaky(leaky(x, weights), weights), 2)
    pool2 = F.max_pool2d(leaky(pool1, weights), 2)
    pool3 = F.max_pool2d(leaky(pool2, weights), 2)
    pool4 = F.max_pool2d(leaky(pool3, weights), 2)
    pool5 = F.max_pool2d(leaky(pool4, weights), 2)
    y = leaky(pool5, weights)
    y = leaky(leaky(up_beside(y, pool4), weights), weights)
    y = leaky(leaky(up_beside(y, pool3), weights), weights)
    y = leaky(leaky(up_beside(y, pool2), weights), weights)
    y = leaky(leaky(up_beside(y, pool1), weights), weights)
    y = leaky(leaky(up_beside(y, x), weights), weights)
    return conv(y, weights)


def unet(x: Any, weights: list[Any]) -> Any:
    """Of depth 2."""

    def block(y: Any) -> Any:
        return y + conv(F.relu(conv(y, weights)), weights)

    enc0 = block(conv(F.pixel_unshuffle(x, 2), weights))
    enc1 = block(F.conv2d(enc0, weights.pop(0), weights.pop(0), stride=2))
    enc2 = block(F.conv2d(enc1, weights.pop(0), weights.pop(0), stride=2))
    dec1 = block(enc1 + F.conv_transpose2d(enc2, weights.pop(0), weights.pop(0), stride=2))
    dec0 = block(enc0 + F.conv_transpose2d(dec1, weights.pop(0), weights.pop(0), stride=2))
    return x + F.pixel_shuffle(conv(dec0, weights), 2)


nc.manual_seed(0)  # the same weights in every run
CASES: dict[str, tuple[nc.Module, tuple[int, ...], Twin]] = {
    "dncnn": (networks.dncnn(4, 6, batch_norm=False), (2, 1, 9, 7), dncnn()),
    "dncnn rgb": (networks.dncnn(4, 6, 3, batch_norm=False, residual=False), (2, 3, 9, 7), dncnn(residual=False)),
    "dncnn, training": (networks.dncnn(5, 6), (3, 1, 9, 7), dncnn(norm=True, training=True)),
    "dncnn, evaluation": (networks.dncnn(5, 6).eval(), (3, 1, 9, 7), dncnn(norm=True)),
    "dncnn-s": (networks.dncnn(batch_norm=False), (1, 1, 21, 20), dncnn()),
    "dncnn-b": (networks.dncnn(depth=20), (2, 1, 12, 20), dncnn(norm=True, training=True)),
    "ffdnet": (networks.ffdnet(4, 6), (2, 2, 10, 8), ffdnet),
    "ffdnet gray": (networks.ffdnet(), (1, 2, 20, 24), ffdnet),
    "ffdnet rgb": (networks.ffdnet(image_channels=3), (1, 4, 20, 24), ffdnet),
    "noise2noise gray": (networks.noise2noise_unet(1), (1, 1, 64, 32), noise2noise_unet),
    "noise2noise rgb": (networks.noise2noise_unet(), (2, 3, 32, 64), noise2noise_unet),
    "unet gray": (networks.unet(4, 1, depth=2), (2, 1, 16, 24), unet),
    "unet rgb": (networks.unet(depth=2), (2, 3, 24, 32), unet),
}


# Of outputs, relative to the largest; of gradients, relative to their length: in float32 a value near 0 may be on
# either side of a ReLU, or another of four be the largest, and a few elements of a gradient differ by much.
BOUNDS = {"float64": (1e-12, 1e-10), "float32": (5e-5, 2e-2)}


def distance(ours: Any, theirs: Any) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.mark.cpu  # on other backends, test_networks.py compares with NumPy
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", CASES)
def test_network_agrees_with_pytorch(name: str, dtype: str) -> None:
    network, shape, twin = CASES[name]
    network = copy.deepcopy(network).astype(dtype)
    rng = np.random.default_rng(0)
    x = rng.uniform(size=shape).astype(dtype)
    if twin is ffdnet:
        x[:, -1] = rng.uniform(size=(shape[0], 1, 1))
    weights = [torch.from_numpy(on_host(data).copy()).requires_grad_() for data, _ in network.param()]
    theirs_x = torch.from_numpy(x.copy()).requires_grad_()
    left = list(weights)
    theirs = twin(theirs_x, left)
    assert left == []
    ours = network(on_device(x))
    upstream = rng.standard_normal(ours.shape).astype(dtype)
    theirs.backward(torch.from_numpy(upstream))
    network.zero_grad()
    x_grad = on_host(network.backward(on_device(upstream)))

    output_bound, bound = BOUNDS[dtype]
    assert relative_difference(ours, theirs.detach().numpy()) <= output_bound
    images = shape[1] - (twin is ffdnet)  # one level for a whole image has the sum of the gradients of its pixels
    assert distance(x_grad[:, :images], theirs_x.grad.numpy()[:, :images]) <= bound
    grads = [on_host(parameter.grad).ravel() for parameter in network.parameters()]
    assert distance(np.concatenate(grads), np.concatenate([w.grad.numpy().ravel() for w in weights])) <= bound
    if dtype == "float64":  # each by itself; a bias before a BatchNorm has no gradient but rounding
        size = max(np.abs(grad).max() for grad in grads)
        for grad, weight in zip(grads, weights, strict=True):
            assert np.abs(grad - weight.grad.numpy().ravel()).max() <= 1e-10 * min(size, max(1, np.abs(grad).max()))
