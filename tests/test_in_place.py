"""Modules that compute in place: a convolution and its activation need one array, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from devices import assert_allclose, on_device

import npconv as nc


def images(*shape: int, seed: int = 0) -> Any:
    return on_device(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


class Keeping(nc.Module):
    """A module of a user's own, which keeps what it gave."""

    def forward(self, x: Any) -> Any:
        self.output = 2 * x
        return self.output

    def backward(self, grad_output: Any) -> Any:
        self.gradient = 2 * grad_output
        return self.gradient


class KeepingConv(nc.Conv2d):
    """A subclass that keeps what its parent made, and so may not promise what its parent does."""

    def forward(self, x: Any) -> Any:
        self.output = super().forward(x)
        return self.output


class KeepingReLU(nc.ReLU):
    """A subclass that keeps its input."""

    def _forward(self, x: Any) -> Any:
        self.input = x
        return super()._forward(x)


def one_by_one(module: nc.Module, x: Any, upstream: Any) -> tuple[Any, Any]:
    """Forward and backward through containers by hand, so that nothing is overwritten."""
    if isinstance(module, nc.Sequential):
        outputs = [x]
        for child in module:
            outputs.append(one_by_one_forward(child, outputs[-1]))
        for child in reversed(list(module)):
            upstream = one_by_one(child, outputs[list(module).index(child)], upstream)[1]
        return outputs[-1], upstream
    if isinstance(module, (nc.Concat, nc.Sum)):
        results, start = [], 0
        for branch in module:
            y = one_by_one_forward(branch, x)
            part = upstream if isinstance(module, nc.Sum) else upstream[:, start : start + y.shape[1]]
            start += y.shape[1]
            results.append(one_by_one(branch, x, part.copy()))
        outputs, grads = zip(*results, strict=True)
        y = sum(outputs[1:], outputs[0]) if isinstance(module, nc.Sum) else np.concatenate(outputs, axis=1)
        return y, sum(grads[1:], grads[0])
    y = module.forward(x.copy()).copy()
    return y, module.backward(upstream.copy()).copy()


def one_by_one_forward(module: nc.Module, x: Any) -> Any:
    if isinstance(module, nc.Sequential):
        for child in module:
            x = one_by_one_forward(child, x)
        return x
    if isinstance(module, nc.Sum):
        outputs = [one_by_one_forward(branch, x) for branch in module]
        return sum(outputs[1:], outputs[0])
    if isinstance(module, nc.Concat):
        return np.concatenate([one_by_one_forward(branch, x) for branch in module], axis=1)
    return module.forward(x.copy()).copy()


def conv() -> nc.Conv2d:
    return nc.Conv2d(2, 2, 3, padding=1)


NETWORKS = {
    "conv and activations": lambda: nc.Sequential(
        conv(), nc.ReLU(), conv(), nc.LeakyReLU(0.1), conv(), nc.Sigmoid(), conv(), nc.Tanh(), conv(), nc.LeakyReLU(-1)
    ),
    "activation after activation": lambda: nc.Sequential(conv(), nc.Tanh(), nc.ReLU(), nc.ReLU(), nc.Sigmoid()),
    "activation first": lambda: nc.Sequential(nc.ReLU(), nc.Sigmoid(), conv()),
    "nested": lambda: nc.Sequential(nc.Sequential(nc.Sequential(conv()), nc.ReLU()), nc.Sequential(nc.Tanh(), conv())),
    "identity between": lambda: nc.Sequential(conv(), nc.Identity(), nc.ReLU(), nc.Sequential(), nc.Sigmoid()),
    "u-net": lambda: nc.Sequential(nc.Concat(nc.Identity(), nc.Sequential(conv(), nc.ReLU())), nc.Sigmoid()),
    "residual": lambda: nc.Sequential(nc.Sum(nc.Identity(), nc.Sequential(conv(), nc.Tanh(), conv())), nc.ReLU()),
    "sum of three": lambda: nc.Sequential(nc.Sum(conv(), nc.ReLU(), conv()), nc.Tanh(), nc.Sum(nc.Identity(), conv())),
    "sum of the input and itself": lambda: nc.Sequential(nc.Sum(nc.Identity(), nc.Identity()), nc.ReLU()),
    "sum of one": lambda: nc.Sequential(nc.Sum(nc.Identity()), nc.ReLU(), nc.Sum(nc.ReLU()), nc.Tanh()),
    "pooling and upsampling": lambda: nc.Sequential(
        nc.MaxPool2d(2), nc.ReLU(), nc.UpsamplingNearest2d(scale_factor=2), nc.ReLU(), nc.AvgPool2d(1), nc.Sigmoid()
    ),
    "batch norm": lambda: nc.Sequential(
        conv(), nc.BatchNorm2d(2), nc.ReLU(), nc.UpsamplingNearest2d(size=4), nc.Tanh()
    ),
    "scale and channels": lambda: nc.Sequential(
        conv(), nc.Scale(3), nc.ReLU(), nc.SelectChannels(2, 0, 1), nc.Tanh(), nc.Scale(-1), nc.SelectChannels(1, 0, 1)
    ),
    "channels side by side": lambda: nc.Sequential(
        nc.Concat(nc.SelectChannels(2, 1, 2), nc.Sequential(nc.SelectChannels(2, 0, 1), nc.ReLU()), nc.Scale(2)),
        nc.Sum(nc.Identity(), nc.Sequential(nc.Tanh(), nc.Scale(-1))),
        nc.ReLU(),
    ),
    "views": lambda: nc.Sequential(conv(), nc.Flatten(), nc.Tanh(), nc.Linear(32, 3), nc.ReLU()),
    "a module of one's own": lambda: nc.Sequential(conv(), Keeping(), nc.ReLU(), Keeping(), nc.Sigmoid()),
}


@pytest.mark.parametrize("order", ["C", "channels-last"])
@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_overwritten_that_anyone_needs(name: str, order: str) -> None:
    network, x = NETWORKS[name](), images(3, 2, 4, 4)
    if order == "channels-last":
        x = nc.backend().images(x)
    before = x.copy()
    y = network(x)
    upstream = images(*y.shape, seed=1)
    upstream_before = upstream.copy()
    grad = network.backward(upstream)
    grads = [parameter.grad.copy() for parameter in network.parameters()]
    y_before, grad_before = y.copy(), grad.copy()
    expected, expected_grad = one_by_one(network.replica(), x, upstream)
    assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-6)
    # What forward and backward gave and got stays as it is when the network runs again on something else.
    network.zero_grad()
    network(images(3, 2, 4, 4, seed=2))
    network.backward(images(*y.shape, seed=3))
    assert np.array_equal(y, y_before) and np.array_equal(grad, grad_before)
    assert np.array_equal(x, before) and np.array_equal(upstream, upstream_before)
    network.zero_grad()
    network(x), network.backward(upstream)
    for parameter, once in zip(network.parameters(), grads, strict=True):
        assert_allclose(parameter.grad, once, rtol=1e-5, atol=1e-6)
    nc.check_module(network.eval(), images(3, 2, 4, 4))


def test_what_modules_of_ones_own_keep_stays() -> None:
    first, second, last, x = Keeping(), KeepingConv(2, 2, 3), KeepingReLU(), images(1, 2, 6, 6)
    network = nc.Sequential(conv(), first, nc.Sigmoid(), second, nc.ReLU(), nc.Tanh())
    network(x)
    assert np.array_equal(first.output, 2 * network[0].replica()(x))
    assert second.output.min() < 0  # ReLU would have taken these away
    network.backward(images(1, 2, 4, 4, seed=1))
    kept = first.gradient.copy()
    network.backward(images(1, 2, 4, 4, seed=1))
    assert np.array_equal(first.gradient, kept)
    nc.Sequential(conv(), last)(x)
    assert last.input.min() < 0
    assert not KeepingConv(2, 2, 3).fresh_output and nc.Conv2d(2, 2, 3).fresh_gradient


def recorded(function: Callable[..., Any], seen: list[tuple[Any, ...]]) -> Callable[..., Any]:
    """`function`, which also notes its arguments and its result."""

    def call(*arguments: Any) -> Any:
        result = function(*arguments)
        seen.append((*arguments, result))
        return result

    return call


@pytest.mark.parametrize("wrapped", [(0,), (1,), (0, 1)])
def test_a_wrapper_on_a_module_sees_arrays_that_stay(wrapped: tuple[int, ...]) -> None:
    """As `trace` puts them: forward replaced on the object."""
    network = nc.Sequential(conv(), nc.ReLU())
    seen: list[tuple[Any, ...]] = []
    for index in wrapped:
        vars(network[index])["forward"] = recorded(network[index].forward, seen)
    y = network(images(1, 2, 6, 6))
    before = seen[0][1] if 0 in wrapped else seen[0][0]
    assert before.min() < 0 and not np.shares_memory(before, y)


@pytest.mark.parametrize("activation", [nc.ReLU, nc.Tanh])
def test_a_convolution_and_its_activation_take_one_array(activation: type[nc.Activation]) -> None:
    """Also where the convolution applies the activation itself: then only backward is the activation's."""
    act = activation()
    seen: list[tuple[Any, ...]] = []
    vars(act)["apply"] = recorded(act.apply, seen)
    vars(act)["apply_backward"] = recorded(act.apply_backward, seen)
    network = nc.Sequential(conv(), act, conv())
    network.backward(network(images(1, 2, 6, 6)))
    *forward, (grad, _, grad_out, x_grad) = seen
    assert len(forward) == (0 if activation.__name__.lower() in nc.backend().fused_activations else 1)
    assert all(x is x_out is y for x, x_out, y in forward)
    assert grad is grad_out is x_grad
