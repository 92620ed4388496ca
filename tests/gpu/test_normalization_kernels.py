"""Batch normalization and sums over pixels on the device, against the reference and against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernels_on_host import DTYPES, KERNELS, LAYOUTS, PLAIN, agree, close, image, sprinkle
from standin.emulator import run_both_ways

from npconv.backends.gpu.grid import parts_of

ERROR = {"float32": 1e-6, "float64": 1e-14}
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 4, 9, 4), (3, 40, 6, 5), (2, 1, 30, 40)]
LARGE = (4, 3, 64, 97)  # several parts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, LARGE])
def test_sums_over_pixels(shape: tuple[int, ...], layout: str, dtype: str, rng: np.random.Generator) -> None:
    x = image(rng, shape, dtype, layout)
    total = run_both_ways(lambda: KERNELS.channel_sum(x))
    exact = x.astype("float64").sum(axis=(0, 2, 3))
    assert total.dtype == x.dtype
    np.testing.assert_allclose(total, exact, rtol=float(np.finfo(dtype).eps), atol=1e-13 * x.size)


def test_sums_over_no_pixels_and_of_integers() -> None:
    assert KERNELS.channel_sum(np.zeros((0, 3, 2, 2), "float32")).tolist() == [0, 0, 0]
    assert KERNELS.channel_sum(np.arange(8).reshape(1, 2, 2, 2)).tolist() == [6, 22]


def test_infinities_and_nan_stay_in_their_channel() -> None:
    x = np.zeros((2, 3, 4, 4), "float32")
    x[0, 0, 1, 1], x[1, 1, 2, 2] = np.nan, -np.inf
    np.testing.assert_array_equal(KERNELS.channel_sum(x), np.array([np.nan, -np.inf, 0], "float32"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, LARGE])
def test_statistics(shape: tuple[int, ...], layout: str, dtype: str, rng: np.random.Generator) -> None:
    agree("batch_norm_statistics", image(rng, shape, dtype, layout) * 3 + 1, error=ERROR[dtype])


def test_the_large_shape_has_parts() -> None:
    """Else the tests above would not see how parts are put together."""
    n, c, h, w = LARGE
    parts, run = parts_of(n * h * w, c)
    assert parts > 8
    assert (n * h * w) % run  # and the last one is shorter
    assert parts_of(10**9, 64)[0] <= 1024
    assert parts_of(10**9, 4096)[0] * 4096 // 32 <= 1024


@pytest.mark.parametrize("first", [None, 1e4, -1e7])
@pytest.mark.parametrize("mean", [0.0, 1e3, 1e6])
def test_variance_keeps_its_digits_far_from_zero(mean: float, first: float | None, rng: np.random.Generator) -> None:
    """Also where the first pixel, near which the sums are taken, is far from all others."""
    x = (image(rng, LARGE, "float64") + mean).astype("float32")
    if first is not None:
        x[0, :, 0, 0] = first
    exact = x.astype("longdouble")
    _, var = KERNELS.batch_norm_statistics(x)
    np.testing.assert_allclose(var, exact.var(axis=(0, 2, 3)).astype("float64"), rtol=2e-7)
    double, large = x.astype("float64"), exact.var(axis=(0, 2, 3)).astype("float64")
    np.testing.assert_allclose(KERNELS.batch_norm_statistics(double)[1], large, rtol=1e-10)


def test_a_constant_channel_has_no_variance() -> None:
    x = np.full(LARGE, 0.1, "float32")
    mean, var = KERNELS.batch_norm_statistics(x)
    assert mean.tolist() == [float(np.float32(0.1))] * 3
    assert var.tolist() == [0.0] * 3


@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_statistics_of_infinities_and_nan(place: int, special: float, rng: np.random.Generator) -> None:
    x = image(rng, LARGE, "float32")
    x[place, 1, place, place] = special
    agree("batch_norm_statistics", x, error=ERROR["float32"])


def parameters(rng: np.random.Generator, c: int, dtype: str) -> tuple[Any, ...]:
    """Mean, variance, weight, bias, each at an address that suits no vector."""
    mean, weight, bias = (rng.standard_normal(c + 1).astype(dtype)[1:] for _ in range(3))
    return mean, rng.uniform(0.1, 2, c + 1).astype(dtype)[1:], weight, bias


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, (0, 4, 2, 2)])
def test_forward(shape: tuple[int, ...], layout: str, dtype: str, rng: np.random.Generator) -> None:
    mean, var, weight, bias = parameters(rng, shape[1], dtype)
    x = sprinkle(rng, image(rng, shape, dtype, layout))
    for w, b in ((weight, bias), (None, None), (weight, None), (None, bias)):
        agree("batch_norm_forward", x, mean, var, w, b, 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [*SHAPES, LARGE])
@pytest.mark.parametrize("batch", [True, False])
def test_backward(batch: bool, shape: tuple[int, ...], layout: str, dtype: str, rng: np.random.Generator) -> None:
    mean, var, weight, _ = parameters(rng, shape[1], dtype)
    grad, x = image(rng, shape, dtype), image(rng, shape, dtype, layout)
    if batch:
        mean, var = PLAIN.batch_norm_statistics(x)
    for w in (weight, None):
        agree("batch_norm_backward", grad, x, mean, var, w, 1e-5, batch, error=2 * ERROR[dtype])


def test_backward_sees_nan(rng: np.random.Generator) -> None:
    mean, var, weight, _ = parameters(rng, 3, "float32")
    x, grad = image(rng, (2, 3, 4, 4), "float32"), image(rng, (2, 3, 4, 4), "float32")
    grad[1, 2, 3, 3] = np.nan
    for batch in (True, False):
        agree("batch_norm_backward", grad, x, mean, var, weight, 1e-5, batch, error=ERROR["float32"])


def test_channels_go_in_vectors(rng: np.random.Generator) -> None:
    """A parameter's address does not matter, that of the images does."""
    mean, var, weight, bias = parameters(rng, 8, "float32")
    x = image(rng, (1, 8, 3, 3), "float32")
    agree("batch_norm_forward", x, mean, var, weight, bias, 1e-5, lanes=4)
    agree("batch_norm_forward", x.ravel()[1:65].reshape(1, 4, 4, 4), mean[:4], var[:4], None, None, 1e-5, lanes=4)
    wide = rng.standard_normal(129).astype("float32")[1:].reshape(1, 4, 4, 8).transpose(0, 3, 1, 2)
    agree("batch_norm_forward", wide, mean, var, weight, bias, 1e-5, lanes=1)


def test_another_dtype_of_the_statistics_takes_the_reference(rng: np.random.Generator) -> None:
    mean, var, weight, bias = parameters(rng, 3, "float64")
    x = image(rng, (1, 3, 2, 2), "float32")
    y = KERNELS.batch_norm_forward(x, mean, var, weight, bias, 1e-5)
    assert y.dtype == np.float64
    close(y, PLAIN.batch_norm_forward(x, mean, var, weight, bias, 1e-5), 0.0)
