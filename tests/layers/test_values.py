"""Small numbers worked out by hand, and what layers promise beside their values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from devices import FromHost, on_device, on_host

import npconv as nc


def image(*rows: list[float]) -> Any:
    return on_device(np.array([[rows]], dtype="float64"))


def test_a_convolution_by_hand() -> None:
    layer = nc.Conv2d(1, 1, 2, dtype="float64")
    layer.weight, layer.bias = image([1, 2], [3, 4]), np.array([10.0])
    assert layer(image([1, 0, 2], [0, 1, 0])).tolist() == [[[[1 + 4 + 10, 4 + 3 + 10]]]]
    x_grad = layer.backward(image([1, -1]))
    assert x_grad.tolist() == [[[[1, 1, -2], [3, 1, -4]]]]
    assert layer.weight.grad.tolist() == [[[[1 - 0, 0 - 2], [0 - 1, 1 - 0]]]]
    assert layer.bias.grad.tolist() == [0]


def test_a_transposed_convolution_by_hand() -> None:
    layer = nc.ConvTranspose2d(1, 1, 2, stride=2, bias=False, dtype="float64")
    layer.weight = image([1, 2], [3, 4])
    assert layer(image([1, 10])).tolist() == [[[[1, 2, 10, 20], [3, 4, 30, 40]]]]
    assert layer.backward(image([1, 0, 0, 0], [0, 0, 0, 1])).tolist() == [[[[1, 4]]]]


def test_upsampling_by_hand() -> None:
    layer = nc.UpsamplingNearest2d(scale_factor=(1, 2))
    assert layer(image([1, 2])).tolist() == [[[[1, 1, 2, 2]]]]
    assert layer.backward(image([1, 2, 3, 4])).tolist() == [[[[3, 7]]]]


def test_the_derivative_of_relu_at_0_is_0() -> None:
    layer = nc.ReLU()
    assert layer(on_device(np.array([-1.0, 0.0, 2.0]))).tolist() == [0, 0, 2]
    assert layer.backward(on_device(np.ones(3))).tolist() == [0, 0, 1]


def test_the_gradient_of_mse_is_twice_the_difference_over_all_elements() -> None:
    loss = FromHost(nc.MSE())
    assert loss(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[0.0, 2.0], [3.0, 6.0]])) == (1 + 4) / 4
    assert loss.backward().tolist() == [[0.5, 0], [0, -1]]


def test_batch_normalization_by_hand() -> None:
    """Values -1 and 1 have mean 0 and biased variance 1, unbiased 2."""
    layer = nc.BatchNorm2d(1, eps=0.0, momentum=0.5, dtype="float64")
    layer.weight, layer.bias = np.array([3.0]), np.array([5.0])
    assert layer(image([-1, 1])).tolist() == [[[[2, 8]]]]
    assert layer.running_mean.tolist() == [0] and layer.running_var.tolist() == [0.5 * 1 + 0.5 * 2]
    layer.eval()
    assert np.allclose(on_host(layer(image([0, np.sqrt(1.5)]))), [[[[5, 8]]]], rtol=1e-14)


def test_pooling_by_hand() -> None:
    x = image([1, 5, 2], [3, 4, 9])
    assert nc.MaxPool2d(2)(x).tolist() == [[[[5]]]]
    assert nc.MaxPool2d(2, ceil_mode=True)(x).tolist() == [[[[5, 9]]]]
    assert nc.AvgPool2d(2, ceil_mode=True)(x).tolist() == [[[[13 / 4, 11 / 2]]]]
    assert nc.AvgPool2d((1, 3), padding=(0, 1), stride=(2, 1))(x).tolist() == [[[[2, 8 / 3, 7 / 3]]]]


def test_scale_and_channels_by_hand() -> None:
    layer = nc.Scale(-2)
    assert layer(image([1, -3])).tolist() == [[[[-2, 6]]]] and layer.backward(image([5, 0.5])).tolist() == [
        [[[-10, -1]]]
    ]
    x = on_device(np.arange(6.0).reshape(1, 3, 1, 2))
    pick = nc.SelectChannels(3, 1, 3)
    assert pick(x).tolist() == [[[[2, 3]], [[4, 5]]]] and pick(x[0]).tolist() == [[[2, 3]], [[4, 5]]]
    assert pick.backward(x[0, :2]).tolist() == [[[0, 0]], [[0, 1]], [[2, 3]]]


@pytest.mark.parametrize("layer", [nc.Conv2d(2, 3, 3), nc.ConvTranspose2d(2, 3, 3), nc.Linear(6, 3)])
def test_float64_input_with_float32_weights_is_computed_in_float64(layer: Any, rng: np.random.Generator) -> None:
    """The weights lose nothing; float32 input with float64 weights would, and is an error."""
    x = on_device(rng.standard_normal((2, 5, 6)))
    y = layer(x)
    assert y.dtype == "float64"
    expected = layer.double()(x)
    assert np.allclose(y, expected, rtol=1e-13, atol=1e-13)
    with pytest.raises(TypeError, match="the input is float32 and the parameters are float64: convert the input"):
        layer(x.astype("float32"))


@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_the_first_layer_may_leave_its_input_gradient_out(upsampling: str, rng: np.random.Generator) -> None:
    """As the trainer asks it to; all other gradients stay the same."""
    network = nc.networks.strided(4, upsampling=upsampling, dtype="float64")
    short = network.replica()
    short.skip_input_gradient()
    x = on_device(rng.standard_normal((2, 3, 8, 8)))
    grad = on_device(rng.standard_normal(network(x).shape))
    short(x)
    assert network.backward(grad) is not None
    assert short.backward(grad) is None
    for (_, a), (_, b) in zip(network.param(), short.param(), strict=True):
        assert np.array_equal(a, b)
