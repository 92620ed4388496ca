"""Parameter, Module and Layer: what every part of a network promises."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from devices import assert_allclose, on_device

import npconv as nc
from npconv import networks

STRIDED = """Sequential(
  (0): Conv2d(3, 32, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
  (1): ReLU()
  (2): Conv2d(32, 32, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1))
  (3): ReLU()
  (4): Upsampling(32, 32, scale_factor=(2, 2), kernel_size=(3, 3), padding=((1, 1), (1, 1)))
  (5): ReLU()
  (6): Upsampling(32, 3, scale_factor=(2, 2), kernel_size=(3, 3), padding=((1, 1), (1, 1)))
  (7): Sigmoid()
)"""


def net() -> nc.Sequential:
    nc.manual_seed(0)
    return nc.Sequential(nc.Conv2d(2, 3, 3, padding=1), nc.BatchNorm2d(3), nc.ReLU(), nc.Conv2d(3, 2, 1, bias=False))


def images(*shape: int, dtype: str = "float32") -> Any:
    return on_device(np.random.default_rng(7).standard_normal(shape).astype(dtype))


def with_gradients(network: nc.Module, *shape: int) -> nc.Module:
    y = network.forward(images(*shape))
    network.backward(images(*y.shape))
    return network


class Shared(nc.Module):
    """Two layers with one weight, and a parameter of its own."""

    def __init__(self) -> None:
        self.first, self.second = nc.Linear(4, 4), nc.Linear(4, 4)
        self.second.weight = self.first.weight
        self.scale_by = nc.Parameter(np.full(1, 2, "float32"))

    def forward(self, x: Any) -> Any:
        return self.second(self.first(x)) * self.scale_by.data

    def backward(self, grad_output: Any) -> Any:
        return self.first.backward(self.second.backward(grad_output * self.scale_by.data))


# ---- the parts of a module ----
def test_names_are_pytorchs() -> None:
    network = nc.Sequential({"conv": nc.Conv2d(1, 2, 3), "rest": nc.Concat(nc.Identity(), nc.Linear(2, 2))})
    names = ["conv.weight", "conv.bias", "rest.1.weight", "rest.1.bias"]
    assert [name for name, _ in network.named_parameters()] == names
    assert list(network.state_dict()) == names
    assert [name for name, _ in network.named_modules()] == ["", "conv", "rest", "rest.0", "rest.1"]
    assert [name for name, _ in network.named_children()] == ["conv", "rest"]
    assert [type(m).__name__ for m in network.modules()] == [
        "Sequential",
        "Conv2d",
        "Concat",
        "Identity",
        "Linear",
    ]


def test_buffers_are_part_of_the_state_and_no_parameters() -> None:
    norm = nc.BatchNorm2d(3)
    assert [name for name, _ in norm.named_parameters()] == ["weight", "bias"]
    assert list(norm.state_dict()) == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    assert list(nc.BatchNorm2d(3, affine=False, track_running_stats=False).state_dict()) == []


def test_param_lists_the_live_arrays() -> None:
    network = with_gradients(net(), 2, 2, 5, 5)
    pairs = network.param()
    assert len(pairs) == 5
    for (data, grad), parameter in zip(pairs, network.parameters(), strict=True):
        assert data is parameter.data and grad is parameter.grad and grad.shape == data.shape
    pairs[0][0][...] = 3
    assert (network[0].weight.data == 3).all()
    assert nc.ReLU().param() == [] and nc.Sequential(nc.Flatten()).param() == []


def test_a_shared_parameter_is_listed_once_and_gets_both_gradients() -> None:
    module = Shared()
    names = [name for name, _ in module.named_parameters()]
    assert names == ["scale_by", "first.weight", "first.bias", "second.bias"]
    x, upstream = images(3, 4), images(3, 4)
    module.forward(x)
    module.backward(upstream)
    weight, hidden = module.first.weight.data, module.first(x)
    grad = 2 * upstream
    expected = grad.T @ hidden + (grad @ weight).T @ x
    assert_allclose(module.first.weight.grad, expected, rtol=1e-4, atol=1e-4)


def test_a_replica_keeps_sharing_what_is_shared() -> None:
    twin = Shared().replica()
    assert twin.first.weight is twin.second.weight
    assert len(list(twin.parameters())) == 4


# ---- gradients and updates ----
def test_zero_grad() -> None:
    network = with_gradients(net(), 2, 2, 5, 5)
    grads = [grad for _, grad in network.param()]
    assert all(grad.any() for grad in grads)
    network.zero_grad()
    assert not any(grad.any() for grad in grads)  # in place


def test_gradients_add_up() -> None:
    layer, x, upstream = nc.Linear(3, 2), images(4, 3), images(4, 2)
    for count in (1, 2, 3):
        layer.forward(x)
        layer.backward(upstream)
        assert_allclose(layer.weight.grad, count * upstream.T @ x, rtol=1e-5)


@pytest.mark.parametrize("method", ["update_param", "update_params"])
def test_update_param_takes_values_or_a_learning_rate(method: str) -> None:
    network = with_gradients(net(), 2, 2, 5, 5)
    before = [(data.copy(), grad.copy()) for data, grad in network.param()]
    getattr(network, method)(lr=0.5)
    for (old, grad), (new, _) in zip(before, network.param(), strict=True):
        assert_allclose(new, old - 0.5 * grad, rtol=1e-6)
    getattr(network, method)([old for old, _ in before])
    assert all(np.array_equal(old, new) for (old, _), (new, _) in zip(before, network.param(), strict=True))


def test_update_param_with_a_wrong_value_changes_nothing() -> None:
    network = net()
    before = network.state_dict()
    values = [np.zeros_like(data) for data, _ in network.param()]
    with pytest.raises(ValueError, match="must have the parameters' shapes"):
        network.update_param([*values[:-1], values[0]])
    assert all(np.array_equal(before[name], value) for name, value in network.state_dict().items())


# ---- state ----
def test_state_dict_gives_copies() -> None:
    network = net()
    state = network.state_dict()
    for values in state.values():
        values[...] = 7
    assert not any((value == 7).any() for value in network.state_dict().values())


def test_load_state_dict_copies_into_the_same_arrays() -> None:
    network, other = net(), net()
    arrays = [data for data, _ in network.param()]
    for parameter in other.parameters():
        parameter.fill(np.random.default_rng(0).standard_normal(parameter.shape))
    state = other.state_dict()
    assert network.load_state_dict(state) == ([], [])
    state["0.weight"][...] = 0
    assert all(a is b for a, (b, _) in zip(arrays, network.param(), strict=True))
    assert all(np.array_equal(other.state_dict()[k], v) for k, v in network.state_dict().items())


def test_not_strict_loads_what_matches_and_says_what_does_not() -> None:
    network = net()
    loaded = network.load_state_dict({"0.bias": np.ones(3, "float32"), "more": np.ones(1)}, strict=False)
    assert loaded.unexpected == ["more"] and "0.weight" in loaded.missing and "0.bias" not in loaded.missing
    assert (network[0].bias.data == 1).all()
    with pytest.raises(ValueError, match=r"mismatched: 0\.bias"):
        network.load_state_dict({"0.bias": np.ones(4, "float32")}, strict=False)


# ---- modes ----
def test_train_and_eval_reach_every_module_and_return_self() -> None:
    network = nc.Sequential(nc.Sum(nc.Identity(), nc.Sequential(nc.Dropout())), nc.BatchNorm2d(3))
    assert all(module.training for module in network.modules())
    assert network.eval() is network and not any(module.training for module in network.modules())
    assert network.train() is network and all(module.training for module in network.modules())
    network.train(False)
    assert not any(module.training for module in network.modules())


def test_evaluation_changes_batch_norm_and_dropout_only() -> None:
    x = images(2, 3, 6, 6)
    for module in (
        nc.Conv2d(3, 2, 3),
        nc.ReLU(),
        nc.MaxPool2d(2),
        nc.Upsampling(3, 2, 4, 2, 1),
        nc.Sigmoid(),
    ):
        assert np.array_equal(module.train()(x), module.eval()(x))
    assert not np.array_equal(nc.Dropout(0.5).train()(x), nc.Dropout(0.5).eval()(x))
    assert not np.array_equal(nc.BatchNorm2d(3).train()(x), nc.BatchNorm2d(3).eval()(x))


def test_backward_works_in_evaluation_mode() -> None:
    network = net().eval()
    y = network(images(2, 2, 5, 5))
    assert network.backward(np.ones_like(y)).shape == (2, 2, 5, 5)


# ---- replicas ----
def test_a_replica_shares_data_and_buffers_but_no_gradients() -> None:
    network = net()
    twin = network.replica()
    assert repr(twin) == repr(network) and twin is not network and twin[0] is not network[0]
    assert all(a is b for (a, _), (b, _) in zip(network.param(), twin.param(), strict=True))
    assert twin[1].running_mean is network[1].running_mean
    with_gradients(twin, 2, 2, 5, 5)
    assert all(grad.any() for _, grad in twin.param()) and not any(grad.any() for _, grad in network.param())


def test_a_replica_follows_new_values_and_modes_are_its_own() -> None:
    network = net()
    twin = network.replica()
    network[0].weight = np.ones((3, 2, 3, 3), "float32")
    assert (twin[0].weight.data == 1).all()
    twin[0].bias = np.full(3, 5, "float32")
    assert (network[0].bias.data == 5).all()
    twin.eval()
    assert network[1].training and not twin[1].training


def test_a_replica_has_no_forward_behind_it() -> None:
    network = net()
    y = network(images(1, 2, 4, 4))
    with pytest.raises(nc.BackwardError):
        network.replica().backward(y)
    network.backward(y)


# ---- parameters ----
def test_assigning_an_array_gives_the_same_parameter_new_values() -> None:
    layer = nc.Conv2d(1, 2, 3)
    weight, values = layer.weight, images(2, 1, 3, 3)
    layer.weight = values
    assert layer.weight is weight and np.array_equal(weight.data, values)
    values[...] = 0
    assert weight.data.any()  # a copy was taken


def test_assigning_a_parameter_or_none_replaces_it() -> None:
    layer = nc.Conv2d(1, 2, 3)
    other = nc.Parameter(images(2, 1, 3, 3))
    layer.weight, layer.bias = other, None
    assert layer.weight is other and [name for name, _ in layer.named_parameters()] == ["weight"]


def test_a_parameter_knows_its_shape_and_reads_as_an_array() -> None:
    parameter = nc.Parameter(images(4, 3))
    assert (parameter.shape, parameter.ndim, parameter.size, len(parameter)) == ((4, 3), 2, 12, 4)
    assert parameter.dtype == np.float32 and not parameter.grad.any()
    if nc.backend().name == "numpy":
        assert np.array_equal(np.asarray(parameter), parameter.data)
    else:  # as CuPy's arrays
        with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
            np.asarray(parameter)
    assert repr(parameter).startswith("Parameter(4, 3) float32\narray(")


# ---- dtypes ----
def test_float64_input_on_float32_parameters_gives_float64() -> None:
    network = net()
    x = images(2, 2, 5, 5, dtype="float64")
    y = network(x)
    grad = network.backward(np.ones_like(y))
    assert y.dtype == grad.dtype == np.float64
    assert all(data.dtype == g.dtype == np.float32 for data, g in network.param())
    assert_allclose(y, net()(x.astype("float32")), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        nc.Conv2d(2, 2, 1),
        nc.Linear(5, 5),
        nc.BatchNorm2d(2),
        nc.ConvTranspose2d(2, 2, 1),
        nc.Upsampling(2, 2, 1),
    ],
    ids=repr,
)
def test_float32_input_on_float64_parameters_is_an_error_with_both_ways_out(module: nc.Module) -> None:
    with pytest.raises(TypeError, match=r"x\.astype\('float64'\), or the network with network\.astype\('float32'\)"):
        module.astype("float64")(images(2, 2, 5, 5))


def test_astype_converts_parameters_gradients_and_float_buffers() -> None:
    network = with_gradients(net(), 2, 2, 5, 5)
    grads = [grad.copy() for _, grad in network.param()]
    assert network.astype("float64") is network
    assert all(data.dtype == grad.dtype == np.float64 for data, grad in network.param())
    assert all(np.array_equal(a, b) for a, (_, b) in zip(grads, network.param(), strict=True))
    assert network[1].running_var.dtype == np.float64 and network[1].num_batches_tracked.dtype == np.int64
    assert {data.dtype.name for data, _ in network.float().param()} == {"float32"}
    assert {data.dtype.name for data, _ in network.double().param()} == {"float64"}


def test_the_gradient_comes_back_in_the_inputs_dtype() -> None:
    layer = nc.Conv2d(2, 3, 3)
    y = layer(images(1, 2, 5, 5))
    assert layer.backward(y.astype("float64")).dtype == np.float32


# ---- no_grad ----
def test_no_grad_nests_and_ends() -> None:
    assert nc.is_grad_enabled()
    with nc.no_grad():
        with nc.no_grad():
            assert not nc.is_grad_enabled()
        assert not nc.is_grad_enabled()
    assert nc.is_grad_enabled()


def test_no_grad_as_a_decorator_and_after_an_error() -> None:
    @nc.no_grad()
    def inside() -> bool:
        return nc.is_grad_enabled()

    assert (inside(), inside(), nc.is_grad_enabled()) == (False, False, True)
    with pytest.raises(ZeroDivisionError), nc.no_grad():
        raise ZeroDivisionError
    assert nc.is_grad_enabled()


def test_no_grad_does_not_reach_other_threads() -> None:
    seen: list[bool] = []
    with nc.no_grad():
        thread = threading.Thread(target=lambda: seen.append(nc.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_no_grad_keeps_nothing_and_drops_what_was_kept() -> None:
    network = net()
    y = network(images(1, 2, 5, 5))
    with nc.no_grad():
        assert np.array_equal(network(images(1, 2, 5, 5)), y)
    assert all(layer._kept is None for layer in network)
    with pytest.raises(nc.BackwardError, match=r"no_grad, which keeps nothing"):
        network.backward(y)


def test_a_backward_error_is_what_pytorch_users_catch() -> None:
    with pytest.raises(RuntimeError, match="before ReLU.forward"):
        nc.ReLU().backward(images(3))


# ---- inputs ----
MODULES = [
    nc.Conv2d(4, 4, 3, padding=1), nc.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    nc.ConvTranspose2d(4, 2, 4, 2, 1), nc.Upsampling(4, 2, 4, 2, 1), nc.UpsamplingNearest2d(scale_factor=2),
    nc.MaxPool2d(2), nc.AvgPool2d(2), nc.BatchNorm2d(4), nc.Linear(6, 2), nc.Flatten(), nc.Dropout(),
    nc.PixelShuffle(2), nc.PixelUnshuffle(2), nc.Scale(2), nc.SelectChannels(4, 1, 2),
    nc.ReLU(), nc.LeakyReLU(), nc.Sigmoid(), nc.Tanh(),
    nc.Identity(), nc.Sum(nc.Identity(), nc.ReLU()), nc.Concat(nc.ReLU(), nc.Identity()),
]  # fmt: skip


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_inputs_and_gradients_are_never_changed(module: nc.Module) -> None:
    x = images(2, 4, 6, 6)
    before = x.copy()
    y = module(x)
    result = y.copy()
    upstream = images(*y.shape)
    upstream_before = upstream.copy()
    module.backward(upstream)
    assert np.array_equal(x, before) and np.array_equal(upstream, upstream_before) and np.array_equal(y, result)


def test_outputs_stay_as_they_are_after_later_calls() -> None:
    network = net()
    y = network(images(2, 2, 6, 6))
    grad = network.backward(np.ones_like(y))
    copies = y.copy(), grad.copy()
    for _ in range(3):
        network.backward(network(3 * images(2, 2, 6, 6)))
    assert np.array_equal(y, copies[0]) and np.array_equal(grad, copies[1])


# ---- repr ----
def test_the_repr_is_pytorchs() -> None:
    assert repr(networks.strided()) == STRIDED
    nested = nc.Sequential(nc.Sequential({"a": nc.Linear(2, 3)}), nc.LeakyReLU())
    assert repr(nested) == (
        "Sequential(\n  (0): Sequential(\n    (a): Linear(in_features=2, out_features=3, bias=True)\n  )\n"
        "  (1): LeakyReLU(negative_slope=0.01)\n)"
    )
    assert repr(nc.Sequential()) == "Sequential()"
