"""Sequential, Concat, Sum and Identity."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from devices import assert_allclose, on_device

import npconv as nc
from npconv import networks


def images(*shape: int, seed: int = 0) -> Any:
    return on_device(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


def three() -> nc.Sequential:
    return nc.Sequential(nc.Conv2d(2, 3, 3), nc.ReLU(), nc.Conv2d(3, 1, 1))


# ---- Sequential ----
def test_from_arguments_and_from_a_dictionary() -> None:
    numbered, named = three(), nc.Sequential({"conv": nc.Conv2d(2, 3, 3), "act": nc.ReLU()})
    assert [name for name, _ in numbered.named_children()] == ["0", "1", "2"]
    assert [name for name, _ in named.named_children()] == ["conv", "act"]
    assert (len(numbered), len(named), len(nc.Sequential())) == (3, 2, 0)
    assert named.conv is named["conv"] is named[0]


def test_positions_names_and_iteration() -> None:
    network = three()
    modules = list(network)
    assert [network[i] for i in range(3)] == modules == [network[i] for i in (-3, -2, -1)]
    assert network["1"] is modules[1] and network[np.int64(2)] is modules[2]
    assert nc.ReLU not in map(type, network[::2]) and modules[1] in network


def test_a_slice_shares_the_modules() -> None:
    network = three()
    head = network[:2]
    assert isinstance(head, nc.Sequential) and list(head) == list(network)[:2]
    head[0].weight = np.ones((3, 2, 3, 3), "float32")
    assert (network[0].weight.data == 1).all()
    assert len(network[5:]) == 0 and list(network[::-1]) == list(network)[::-1]
    x = images(1, 2, 5, 5)
    assert np.array_equal(network[2:](head(x)), network(x))


def test_set_and_append() -> None:
    network, tanh = three(), nc.Tanh()
    network[1] = tanh
    network["2"] = nc.Identity()
    assert network[1] is tanh and repr(network[-1]) == "Identity()"
    assert network.append(nc.Flatten()) is network and repr(network["3"]) == "Flatten(start_dim=1, end_dim=-1)"
    with pytest.raises(ValueError, match="is in this container already"):
        network.append(tanh)
    network[1] = tanh  # putting it back where it is changes nothing
    assert len(network) == 4


def test_append_to_named_modules_does_not_replace_one() -> None:
    network = nc.Sequential({"1": nc.ReLU()})
    network.append(nc.Tanh())
    assert [type(module).__name__ for module in network] == ["ReLU", "Tanh"]


def test_a_module_may_not_come_twice_at_any_depth() -> None:
    layer = nc.ReLU()
    for build in (
        lambda: nc.Sequential(nc.Sum(nc.Identity(), layer), layer),
        lambda: nc.Sequential(layer, nc.Sum(layer)),
    ):
        with pytest.raises(ValueError, match="make a second one"):
            build()


def test_forward_and_backward_are_the_modules_one_after_the_other() -> None:
    network, x = three(), images(2, 2, 5, 5)
    upstream = images(2, 1, 3, 3, seed=1)
    y, grad = network(x), network.backward(upstream)
    a, b, c = network.replica()
    assert np.array_equal(y, c(b(a(x))))
    assert np.array_equal(grad, a.backward(b.backward(c.backward(upstream))))


def test_an_empty_sequential_gives_its_input_back() -> None:
    x = images(2, 3)
    assert nc.Sequential()(x) is x and nc.Sequential().backward(x) is x


# ---- errors say where ----
def test_an_error_names_index_layer_and_shape() -> None:
    with pytest.raises(ValueError) as caught:
        nc.Sequential(nc.ReLU(), nc.Conv2d(3, 4, 3))(images(1, 2, 5, 5))
    assert str(caught.value).startswith(
        "Sequential, layer 1: Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1)), input of shape (1, 2, 5, 5): "
        "Conv2d expects in_channels (=3) channels"
    )
    assert type(caught.value) is ValueError and type(caught.value.__cause__) is ValueError


def test_errors_in_containers_in_containers_name_every_step() -> None:
    network = nc.Sequential({"body": nc.Sum(nc.Identity(), nc.Sequential(nc.ReLU(), nc.Linear(9, 2)))})
    with pytest.raises(ValueError) as caught:
        network(images(1, 2, 5, 5))
    text = str(caught.value)
    places = ["Sequential, layer 0 (body): Sum(", "Sum, layer 1: Sequential(", "Sequential, layer 1: Linear("]
    assert [text.find(place) for place in places] == sorted(text.find(place) for place in places)
    assert min(text.find(place) for place in places) == 0 and "in_features (=9)" in text


def test_a_type_error_stays_one_and_backward_errors_too() -> None:
    network = three()
    with pytest.raises(TypeError, match=r"^Sequential, layer 0: Conv2d.*must be float32 or float64, got int64"):
        network(on_device(np.ones((1, 2, 5, 5), "int64")))
    with pytest.raises(nc.BackwardError, match=r"^Sequential, layer 2: Conv2d.*grad_output of shape \(1, 1, 3, 3\)"):
        network.backward(images(1, 1, 3, 3))
    network(images(1, 2, 5, 5))
    with pytest.raises(ValueError, match=r"^Sequential, layer 2.*grad_output of shape \(1, 2\)"):
        network.backward(images(1, 2))


def test_errors_of_other_types_pass_as_they_are() -> None:
    class Broken(nc.Activation):
        def function(self, x: Any) -> Any:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="^'mine'$"):
        nc.Sequential(Broken())(images(2))


# ---- Concat and Sum against the same by hand ----
def test_concat() -> None:
    first, second, x = nc.Conv2d(2, 3, 3, padding=1), nc.Conv2d(2, 4, 1), images(2, 2, 5, 5)
    module = nc.Concat(first, nc.Identity(), second)
    y = module(x)
    assert np.array_equal(y, np.concatenate([first(x), x, second(x)], axis=1)) and y.shape == (2, 9, 5, 5)
    upstream = images(*y.shape, seed=1)
    module.zero_grad()
    grad = module.backward(upstream)
    a, b = first.replica(), second.replica()
    a(x), b(x)
    expected = a.backward(upstream[:, :3]) + upstream[:, 3:5] + b.backward(upstream[:, 5:])
    assert_allclose(grad, expected, rtol=1e-6, atol=1e-6)
    assert np.array_equal(first.weight.grad, a.weight.grad) and np.array_equal(second.bias.grad, b.bias.grad)


def test_sum() -> None:
    body, x = nc.Sequential(nc.Conv2d(2, 2, 3, padding=1), nc.Tanh()), images(2, 2, 5, 5)
    module = nc.Sum(nc.Identity(), body, nc.Identity())
    assert_allclose(module(x), 2 * x + body(x), rtol=1e-6)
    upstream = images(2, 2, 5, 5, seed=1)
    grad = module.backward(upstream)
    twin = body.replica()
    twin(x)
    assert_allclose(grad, 2 * upstream + twin.backward(upstream), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "module",
    [
        nc.Concat(nc.Identity(), nc.Sequential(nc.MaxPool2d(2), nc.Conv2d(2, 3, 1), nc.Upsampling(3, 2, 4, 2, 1))),
        nc.Sum(
            nc.Sequential(nc.Concat(nc.Tanh(), nc.Identity()), nc.Conv2d(4, 2, 3, padding=1)),
            nc.Conv2d(2, 2, 1),
        ),
        nc.Sequential(nc.Sum(nc.Identity(), nc.Sum(nc.Sigmoid(), nc.Tanh())), nc.Concat(nc.Identity())),
    ],
    ids=["u-net", "concat in sum", "sum in sum"],
)
@pytest.mark.parametrize("shape", [(2, 2, 4, 6), (2, 4, 6)], ids=["batch", "unbatched"])
def test_nested_branches(module: nc.Module, shape: tuple[int, ...]) -> None:
    nc.check_gradients(module, images(*shape))
    nc.check_module(module, images(*shape))


def test_a_single_branch_is_that_branch() -> None:
    layer, x = nc.Conv2d(2, 3, 3), images(1, 2, 5, 5)
    assert np.array_equal(nc.Concat(layer)(x), layer(x)) and np.array_equal(nc.Sum(layer)(x), layer(x))


def test_branches_index_like_a_sequential() -> None:
    module = nc.Concat({"skip": nc.Identity(), "deep": nc.ReLU()})
    assert module["skip"] is module[0] is module.skip and module[-1] is module.deep and len(module) == 2


def test_a_failed_forward_after_a_good_one_does_not_leave_a_mixed_backward() -> None:
    module = nc.Sum(nc.Identity(), nc.MaxPool2d(1))
    module(images(1, 2, 4, 4))
    assert module.backward(images(1, 2, 4, 4)).shape == (1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"must have the output's shape \(1, 2, 4, 4\)"):
        module.backward(images(1, 2, 4, 5))


def test_replicas_of_containers() -> None:
    network = nc.Sequential(nc.Sum({"skip": nc.Identity(), "body": three()[:0]}), nc.Concat(nc.Identity(), nc.Tanh()))
    twin = network.replica()
    assert repr(twin) == repr(network)
    originals = {id(module) for module in network.modules()}
    assert not any(id(module) in originals for module in twin.modules())
    twin[0] = nc.ReLU()
    assert isinstance(network[0], nc.Sum)


# ---- sizes ----
CASES = [
    (nc.Identity(), 1, 1),
    (nc.Conv2d(1, 1, 3, stride=2, padding=1), Fraction(1, 2), 2),
    (nc.ConvTranspose2d(1, 1, 4, stride=2, padding=1), 2, 1),
    (nc.Upsampling(1, 1, 4, stride=2, padding=1), 2, 1),
    (nc.MaxPool2d(3), Fraction(1, 3), 3),
    (nc.PixelShuffle(2), 2, 1),
    (nc.PixelUnshuffle(2), Fraction(1, 2), 2),
    (networks.strided(4), 1, 4),
    (networks.strided(4, upsampling="transposed"), 1, 4),
    (nc.Sequential(nc.MaxPool2d(2), nc.MaxPool2d(3)), Fraction(1, 6), 6),
    (nc.Sequential(nc.MaxPool2d(2), nc.UpsamplingNearest2d(scale_factor=2)), 1, 2),
    (nc.Sequential(nc.UpsamplingNearest2d(scale_factor=2), nc.MaxPool2d(2)), 1, 1),
    (nc.Sequential(nc.UpsamplingNearest2d(scale_factor=2), nc.MaxPool2d(4)), Fraction(1, 2), 2),
    (nc.Concat(nc.Identity(), nc.Sequential(nc.MaxPool2d(4), nc.UpsamplingNearest2d(scale_factor=4))), 1, 4),
    (
        nc.Sequential(nc.MaxPool2d(2), nc.Sum(nc.Sequential(nc.MaxPool2d(3), nc.UpsamplingNearest2d(scale_factor=3)))),
        Fraction(1, 2),
        6,
    ),
]


@pytest.mark.parametrize(("module", "scale", "multiple"), CASES)
def test_scale_and_size_multiple(module: nc.Module, scale: Any, multiple: int) -> None:
    assert module.scale == (scale, scale) and module.size_multiple == (multiple, multiple)


def test_height_and_width_are_told_apart() -> None:
    network = nc.Sequential(nc.Conv2d(1, 1, 3, stride=(2, 1), padding=1), nc.MaxPool2d((1, 3)))
    assert network.scale == (Fraction(1, 2), Fraction(1, 3)) and network.size_multiple == (2, 3)


@pytest.mark.parametrize(
    "network",
    [
        networks.strided(2, 1),
        networks.strided(2, 1, "transposed"),
        nc.Sequential(nc.Conv2d(1, 1, 2, stride=2), nc.MaxPool2d(3)),
    ],
)
def test_an_image_of_the_multiple_comes_out_at_scale(network: nc.Module) -> None:
    (rows, columns), scale = network.size_multiple, network.scale
    y = network(images(1, 1, 3 * rows, 5 * columns))
    assert y.shape[2:] == (3 * rows * scale[0], 5 * columns * scale[1])
