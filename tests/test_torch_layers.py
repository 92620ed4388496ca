"""Every layer beside PyTorch's, over a grid of options: forward, and gradients of input, weight and bias.

The bound is on max |ours - theirs| / max |theirs|, each array by itself.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from comparison import Results, assert_close
from convolutions import algorithms_of
from devices import FromHost, on_device, on_host
from layer_cases import LAYER_CASES, LayerCase, both

import npconv as nc

torch = pytest.importorskip("torch")

BOUNDS = {"float64": 1e-10, "float32": 1e-5}


@functools.cache
def theirs(position: int, dtype: str) -> Results:
    return LAYER_CASES[position].theirs(torch, dtype)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    ("position", "case", "algorithm"),
    [(position, case, name) for position, case in enumerate(LAYER_CASES) for name in algorithms_of(case.layer)],
    ids=lambda value: getattr(value, "name", None),
    indirect=["algorithm"],
)
def test_layer_agrees_with_pytorch(position: int, case: LayerCase, dtype: str, algorithm: str) -> None:
    ours = case.ours(dtype)
    assert_close(ours, theirs(position, dtype), BOUNDS[dtype])
    assert ours["output"].dtype == ours["input"].dtype == dtype


@pytest.mark.parametrize("memory", ["channels first", "channels last", "every other pixel", "reversed"])
@pytest.mark.parametrize("layer", ["Conv2d", "ConvTranspose2d", "Upsampling", "MaxPool2d", "BatchNorm2d", "ReLU"])
def test_the_memory_order_of_input_and_gradient_does_not_matter(
    layer: str, memory: str, algorithm: str, rng: np.random.Generator
) -> None:
    case = next(c for c in LAYER_CASES if c.layer == layer and len(c.shape) == 4 and c.stored)
    module = getattr(nc, layer)(**case.arguments).double()
    x = rng.standard_normal((2, *case.shape[1:]))
    y = module(on_device(x))
    grad = rng.standard_normal(y.shape)
    x_grad = module.backward(on_device(grad))
    assert np.allclose(module(laid_out(on_device(x), memory)), y, rtol=1e-12, atol=1e-12)
    assert np.allclose(module.backward(laid_out(on_device(grad), memory)), x_grad, rtol=1e-12, atol=1e-12)


def laid_out(x: Any, memory: str) -> Any:
    """x, the same numbers, with other strides."""
    contiguous = nc.backend().xp.ascontiguousarray
    if memory == "channels last":
        return contiguous(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    if memory == "every other pixel":
        return on_device(on_host(x).repeat(2, axis=2).repeat(2, axis=3))[:, :, ::2, ::2]
    if memory == "reversed":
        return contiguous(x[:, :, ::-1, ::-1])[:, :, ::-1, ::-1]
    return contiguous(x)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, (2, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3, (4, 1)])
@pytest.mark.parametrize("dilation", [1, 2, (3, 1)])
def test_upsampling_has_the_shape_of_a_transposed_convolution(
    kernel: int | tuple[int, int], stride: int | tuple[int, int], dilation: int | tuple[int, int]
) -> None:
    """At every padding and output padding for which the transposed convolution has an output."""
    shapes = 0
    for padding, extra, size in itertools.product((0, 1, 2, (3, 0)), (0, 1, (0, 2)), ((1, 1), (4, 3), (5, 6))):
        limits = map(max, zip(both(stride), both(dilation), strict=True))
        if any(e >= limit for e, limit in zip(both(extra), limits, strict=True)):
            continue
        options = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra}
        x = torch.zeros(1, 1, *size)
        try:
            expected = torch.nn.ConvTranspose2d(1, 1, kernel, **options)(x).shape
        except RuntimeError:  # the output size is negative
            expected = (1, 1, 0, 0)
        if min(expected[2:]) < 1:
            with pytest.raises(ValueError, match="the output of this transposed convolution would be"):
                nc.Upsampling(1, 1, kernel, **options)(on_device(x.numpy()))
            continue
        assert nc.Upsampling(1, 1, kernel, **options)(on_device(x.numpy())).shape == tuple(expected)
        shapes += 1
    assert shapes > 5


@pytest.mark.parametrize("scale", [1.5, 2.3, 0.7, 1 / 3, 1.01, 2.01, 2.0000001, 1.9999999, 3.7, 0.9999, 12.34])
def test_fractional_scales_pick_pytorchs_pixels_at_every_size(scale: float) -> None:
    """One row of pixels 0, 1, 2, ...: the output says which of them each output pixel copies."""
    for width in range(4, 120, 5):
        x = np.arange(width, dtype="float32").reshape(1, 1, 1, width)
        ours = FromHost(nc.UpsamplingNearest2d(scale_factor=(1.0, scale)))(x)
        if ours.shape[3] in (width, 2 * width) and ours.shape[3] > 120:
            # A scale of 1.01 or 2.01 that gives exactly one or two times the width: PyTorch takes it for 1 or 2, as
            # we do, in the kernel it has for small outputs, and not in the one for large outputs.
            continue
        theirs = torch.nn.functional.interpolate(torch.from_numpy(x), scale_factor=(1.0, scale), mode="nearest")
        assert np.array_equal(ours, theirs.numpy())
        sized = FromHost(nc.UpsamplingNearest2d(size=ours.shape[2:]))(x)
        expected = torch.nn.functional.interpolate(torch.from_numpy(x), size=ours.shape[2:], mode="nearest")
        assert np.array_equal(sized, expected.numpy())


def test_initial_weights_have_pytorchs_bounds() -> None:
    """U(-k, k): the largest of 10,000 draws is within 1 % of k, and k is what PyTorch's reach as well."""
    pairs = [
        (nc.Conv2d(16, 70, 3), torch.nn.Conv2d(16, 70, 3)),
        (nc.Conv2d(64, 640, 3, groups=4), torch.nn.Conv2d(64, 640, 3, groups=4)),
        (nc.ConvTranspose2d(70, 16, 3), torch.nn.ConvTranspose2d(70, 16, 3)),
        (nc.ConvTranspose2d(64, 32, (5, 3), groups=2), torch.nn.ConvTranspose2d(64, 32, (5, 3), groups=2)),
        (nc.Linear(100, 120), torch.nn.Linear(100, 120)),
    ]
    for ours, theirs in pairs:
        largest = float(np.abs(ours.weight.data).max())
        assert largest == pytest.approx(float(theirs.weight.detach().abs().max()), rel=0.01)
        assert 0.5 * largest < float(np.abs(ours.bias.data).max()) <= 1.01 * largest
        assert abs(float(ours.weight.data.mean())) < 0.03 * largest
