"""fold_batchnorm gives what the network gives in evaluation, and leaves what it cannot merge."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison import relative_difference
from devices import on_device, on_host

import npconv as nc
from npconv import networks

BOUNDS = {"float64": 1e-12, "float32": 1e-5}


def with_random_statistics(network: nc.Module, seed: int = 0) -> nc.Module:
    """As after a training: no mean is 0 and no scale 1; the biases that convolutions have are not 0 either."""
    rng = np.random.default_rng(seed)
    for module in network.modules():
        if isinstance(module, nc.BatchNorm2d):
            values = {"running_mean": rng.normal(size=module.num_features)}
            values["running_var"] = rng.uniform(0.2, 5, module.num_features)
            values["weight"] = rng.uniform(-2, 2, module.num_features)
            values["bias"] = rng.normal(size=module.num_features)
            state = {key: values.get(key, value) for key, value in module.state_dict().items()}
            module.load_state_dict({key: on_host(v).astype(module.state_dict()[key].dtype) for key, v in state.items()})
        elif getattr(module, "bias", None) is not None:
            module.bias = rng.normal(size=module.bias.shape).astype(module.bias.dtype)
    return network


def norms(network: nc.Module) -> int:
    return sum(isinstance(module, nc.BatchNorm2d) for module in network.modules())


def conv(inputs: int = 4, outputs: int = 4, **options: Any) -> nc.Conv2d:
    return nc.Conv2d(inputs, outputs, 3, **{"padding": 1, **options})


def nested() -> nc.Module:
    block = nc.Sequential({"conv": conv(), "norm": nc.BatchNorm2d(4), "act": nc.ReLU()})
    inner = nc.Concat(nc.Sequential(block, conv(4, 6, bias=False), nc.BatchNorm2d(6)), nc.Identity())
    return nc.Sequential(nc.Sum(nc.Identity(), nc.Sequential(conv(), nc.BatchNorm2d(4))), inner, nc.Tanh())


# The network, and how many of its BatchNorms are left.
NETWORKS = {
    "dncnn": (lambda: networks.dncnn(5, 4, 4), 0),
    "dncnn plain": (lambda: networks.dncnn(4, 4, 4, residual=False), 0),
    "without bias": (lambda: nc.Sequential(conv(bias=False), nc.BatchNorm2d(4)), 0),
    "without affine": (lambda: nc.Sequential(conv(), nc.BatchNorm2d(4, affine=False), nc.ReLU()), 0),
    "large eps": (lambda: nc.Sequential(conv(), nc.BatchNorm2d(4, eps=0.5)), 0),
    "no eps": (lambda: nc.Sequential(conv(), nc.BatchNorm2d(4, eps=0)), 0),
    "groups": (lambda: nc.Sequential(conv(4, 6, groups=2, bias=False), nc.BatchNorm2d(6)), 0),
    "depthwise": (lambda: nc.Sequential(conv(4, 8, groups=4), nc.BatchNorm2d(8)), 0),
    "strides": (lambda: nc.Sequential(conv(4, 5, stride=2, dilation=2, padding=3), nc.BatchNorm2d(5)), 0),
    "mirrored": (lambda: nc.Sequential(conv(4, 5, padding_mode="reflect"), nc.BatchNorm2d(5)), 0),
    "transposed": (lambda: nc.Sequential(nc.ConvTranspose2d(4, 5, 4, 2, 1), nc.BatchNorm2d(5)), 0),
    "transposed groups": (
        lambda: nc.Sequential(nc.ConvTranspose2d(4, 6, 3, 2, groups=2, bias=False), nc.BatchNorm2d(6), nc.ReLU()),
        0,
    ),
    "transposed depthwise": (lambda: nc.Sequential(nc.ConvTranspose2d(4, 8, 3, groups=4), nc.BatchNorm2d(8)), 0),
    "upsampling": (lambda: nc.Sequential(nc.Upsampling(4, 5, 4, stride=2, padding=1), nc.BatchNorm2d(5)), 0),
    "nested": (nested, 0),
    "two in a row": (lambda: nc.Sequential(conv(), nc.BatchNorm2d(4), nc.BatchNorm2d(4)), 0),
    "first": (lambda: nc.Sequential(nc.BatchNorm2d(4), conv()), 1),
    "after an activation": (lambda: nc.Sequential(conv(), nc.ReLU(), nc.BatchNorm2d(4)), 1),
    "after a linear layer": (lambda: nc.Sequential(nc.Linear(8, 4), nc.BatchNorm2d(4)), 1),
    "after branches": (lambda: nc.Sequential(nc.Concat(conv(4, 2), conv(4, 3)), nc.BatchNorm2d(5)), 1),
    "without statistics": (lambda: nc.Sequential(conv(), nc.BatchNorm2d(4, track_running_stats=False)), 1),
    "alone": (lambda: nc.BatchNorm2d(4), 1),
    "none": (lambda: nc.Sequential(conv(), nc.LeakyReLU(), nc.Dropout(0.5)), 0),
}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_output_is_that_of_evaluation(name: str, dtype: str, rng: np.random.Generator) -> None:
    make, left = NETWORKS[name]
    network = with_random_statistics(make().astype(dtype))
    before = copy.deepcopy(network.state_dict())
    folded = nc.fold_batchnorm(network)
    x = on_device(rng.standard_normal((3, 4, 6, 8)).astype(dtype))
    assert norms(folded) == left
    assert all(module.training for module in network.modules()) and not any(m.training for m in folded.modules())
    assert all(np.array_equal(on_host(value), on_host(before[key])) for key, value in network.state_dict().items())
    originals = {id(module) for module in network.modules()} | {id(p) for p in network.parameters()}
    assert not originals & ({id(module) for module in folded.modules()} | {id(p) for p in folded.parameters()})
    assert all(parameter.dtype == dtype for parameter in folded.parameters())
    expected = network.eval()(x)
    assert relative_difference(folded(x), expected) <= BOUNDS[dtype]


@pytest.mark.parametrize("seed", range(20))
def test_random_stacks_of_layers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    modules: list[nc.Module] = []
    channels = 4
    for _ in range(rng.integers(2, 6)):
        kind, outputs = rng.integers(4), int(2 * rng.integers(1, 5))
        options: dict[str, Any] = {"groups": int(rng.choice([1, 2])), "bias": bool(rng.integers(2))}
        if kind < 2:
            modules.append((nc.Conv2d, nc.ConvTranspose2d)[kind](channels, outputs, 3, padding=1, **options))
            channels = outputs
        if kind != 2:
            modules.append(nc.BatchNorm2d(channels, eps=float(rng.uniform(0, 0.1)), affine=bool(rng.integers(2))))
        modules += [nc.LeakyReLU(0.2)] if rng.integers(2) else []
    network = with_random_statistics(nc.Sum(nc.Sequential(nc.Sequential(*modules), conv(channels, 4)), nc.Identity()))
    x = rng.standard_normal((2, 4, 7, 5))
    for dtype, bound in BOUNDS.items():
        images = on_device(x.astype(dtype))
        expected = network.astype(dtype).eval()(images)
        assert relative_difference(nc.fold_batchnorm(network)(images), expected) <= bound


def test_dncnn_becomes_the_one_without_batch_norms() -> None:
    """As in the published files: its parameters go into `batch_norm=False` by name, and give the same."""
    network = with_random_statistics(networks.dncnn(7, 8))
    plain = networks.dncnn(7, 8, batch_norm=False)
    plain.load_state_dict(nc.fold_batchnorm(network).state_dict())
    x = on_device(np.random.default_rng(0).uniform(size=(1, 1, 16, 17)).astype("float32"))
    assert relative_difference(plain(x), network.eval()(x)) <= 1e-5


def test_a_scale_and_a_shift_by_hand() -> None:
    """x -> 2x + 1, then (x - 3) / sqrt(15 + 1) * 8 + 5: together 4x + 1."""
    layer, norm = nc.Conv2d(1, 1, 1), nc.BatchNorm2d(1, eps=1.0)
    layer.weight, layer.bias = np.full((1, 1, 1, 1), 2, "float32"), np.ones(1, "float32")
    norm.weight, norm.bias = np.array([8], "float32"), np.array([5], "float32")
    norm.running_mean[...], norm.running_var[...] = 3, 15
    folded = nc.fold_batchnorm(nc.Sequential(layer, norm))
    assert len(folded) == 1 and folded[0].weight.data.tolist() == [[[[4]]]] and folded[0].bias.data.tolist() == [1]


def test_names_stay_where_they_are_not_numbers() -> None:
    network = nc.Sequential({"a": conv(), "norm": nc.BatchNorm2d(4), "b": conv()})
    assert [name for name, _ in nc.fold_batchnorm(network).named_children()] == ["a", "b"]
    assert [name for name, _ in nc.fold_batchnorm(nc.Sequential(*network)).named_children()] == ["0", "1"]


def test_a_scale_that_is_not_finite_is_left_to_the_norm() -> None:
    network = nc.Sequential(conv(), nc.BatchNorm2d(4, eps=0))
    network[1].running_var[...] = 0
    assert norms(nc.fold_batchnorm(network)) == 1
    network[1].running_var[...] = -1
    assert norms(nc.fold_batchnorm(network)) == 1


def test_a_convolution_that_shares_its_weight_is_left_as_it_is(rng: np.random.Generator) -> None:
    network = with_random_statistics(nc.Sequential(conv(), nc.BatchNorm2d(4), nc.ReLU(), conv()))
    vars(network[3])["weight"] = network[0].weight
    folded = nc.fold_batchnorm(network)
    x = on_device(rng.standard_normal((1, 4, 6, 6)).astype("float32"))
    assert norms(folded) == 1 and np.array_equal(on_host(folded(x)), on_host(network.eval()(x)))


class Own(nc.Module):
    """A module of a user's own, which counts on the places of its layers."""

    def __init__(self) -> None:
        self.body = nc.Sequential(conv(), nc.BatchNorm2d(4))

    def forward(self, x: Any) -> Any:
        return self.body[1](self.body[0](x))

    def backward(self, grad_output: Any) -> Any:
        return self.body.backward(grad_output)


class OwnConv(nc.Conv2d):
    """A convolution that does more than its weight says."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) ** 2


def test_modules_of_ones_own_are_copied(rng: np.random.Generator) -> None:
    network = nc.Sequential(Own(), conv(), nc.BatchNorm2d(4), OwnConv(4, 4, 3), nc.BatchNorm2d(4))
    folded = nc.fold_batchnorm(with_random_statistics(network))
    x = on_device(rng.standard_normal((1, 4, 6, 6)).astype("float32"))
    assert norms(folded) == 2 and type(folded[0]) is Own and folded[0] is not network[0]
    assert relative_difference(folded(x), network.eval()(x)) <= 1e-5


@pytest.mark.parametrize("place", ["0", "1", ""])
def test_a_module_with_a_wrapped_forward_is_left_as_it_is(place: str) -> None:
    network = nc.Sequential(conv(), nc.BatchNorm2d(4))
    wrapped: nc.Module = network[place] if place else network
    vars(wrapped)["forward"] = lambda x: x
    assert norms(nc.fold_batchnorm(network)) == 1


def test_the_folded_network_trains_and_is_stored(tmp_path: Path, rng: np.random.Generator) -> None:
    network = with_random_statistics(networks.dncnn(4, 4))
    x = on_device(rng.standard_normal((2, 1, 6, 6)).astype("float32"))
    network(x)
    folded = nc.fold_batchnorm(network)
    with pytest.raises(nc.BackwardError):
        folded.backward(x)  # what the original has kept is not in the copy
    nc.save(folded, tmp_path / "net.h5")
    assert np.array_equal(on_host(nc.load(tmp_path / "net.h5")(x)), on_host(folded(x)))
    nc.check_gradients(folded, x, directions=1)


@pytest.mark.parametrize("network", [None, "net.h5", nc.Conv2d, nc.Model(conv())])
def test_anything_but_a_module_is_refused(network: Any) -> None:
    with pytest.raises(TypeError, match=r"(?s)network \(=.*\) must be a Module; of a Model, give its network"):
        nc.fold_batchnorm(network)
