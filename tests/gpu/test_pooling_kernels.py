"""Max and average pooling on the device against the reference, bit for bit."""

from __future__ import annotations

import dataclasses
from typing import Any

import draws
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_on_host import DTYPES, KERNELS, LAYOUTS, agree, image, sprinkle

from npconv.backends import ConvGeometry

GEOMETRIES = [
    (ConvGeometry((1, 1)), (1, 4, 1, 1)),
    (ConvGeometry((2, 2), stride=(2, 2)), (2, 8, 7, 5)),  # the last row and column are in no window
    (ConvGeometry((3, 3), stride=(2, 2), padding=((1, 1), (1, 1))), (2, 3, 9, 8)),
    (ConvGeometry((2, 3), stride=(3, 4), padding=((0, 1), (1, 0))), (1, 4, 8, 11)),
    (ConvGeometry((3, 2), dilation=(2, 3), padding=((1, 0), (1, 1))), (1, 5, 6, 7)),
    (ConvGeometry((3, 3), padding=((3, 3), (0, 4))), (1, 4, 4, 4)),  # windows in the padding alone
    (ConvGeometry((2, 2), padding=((-1, 1), (1, -2))), (2, 4, 5, 6)),  # crops
    (ConvGeometry((2, 2), stride=(2, 2)), (0, 4, 4, 4)),  # an empty batch
]


def check_max(x: Any, geometry: ConvGeometry, rng: np.random.Generator, lanes: int | None = None) -> None:
    y, winners = agree("max_pool2d_forward", x, geometry, lanes=lanes)
    grad = rng.standard_normal(y.shape).astype(x.dtype)
    agree("max_pool2d_backward", grad, winners, x.shape, geometry, lanes=lanes)
    agree("max_pool2d_backward", sprinkle(rng, grad), winners.astype(np.int32), x.shape, geometry, lanes=lanes)


def check_average(x: Any, geometry: ConvGeometry, rng: np.random.Generator, lanes: int | None = None) -> None:
    divisor = rng.integers(1, 9, geometry.output_size(x.shape[2:]))
    y = agree("avg_pool2d_forward", x, divisor, geometry, lanes=lanes)
    agree("avg_pool2d_backward", rng.standard_normal(y.shape).astype(x.dtype), divisor, x.shape, geometry, lanes=lanes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("geometry", "shape"), GEOMETRIES)
def test_pooling_is_the_references(
    geometry: ConvGeometry, shape: tuple[int, ...], layout: str, dtype: str, rng: np.random.Generator
) -> None:
    check_max(image(rng, shape, dtype, layout), geometry, rng)
    check_average(image(rng, shape, dtype, layout), geometry, rng)


@settings(max_examples=40)
@given(draws.windows(), st.sampled_from([1, 2, 4]), draws.seeds)
def test_any_geometry(window: Any, channels: int, seed: int) -> None:
    geometry, (n, c, h, w) = window
    rng = np.random.default_rng(seed)
    x = image(rng, (n, c * channels, h, w), "float32")
    check_max(x, geometry, rng)
    check_average(x, geometry, rng)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("specials", [(np.nan, np.inf, -np.inf), (-np.inf,), (0.0, -0.0, 1.0), (np.nan,)])
def test_ties_infinities_and_nan_win_as_in_the_reference(
    specials: tuple[float, ...], dtype: str, rng: np.random.Generator
) -> None:
    geometry = ConvGeometry((3, 3), stride=(2, 2), padding=((1, 1), (1, 1)))
    check_max(sprinkle(rng, image(rng, (2, 4, 7, 7), dtype), specials), geometry, rng)
    check_max(np.full((1, 4, 5, 5), specials[0], dtype), geometry, rng)
    check_average(sprinkle(rng, image(rng, (2, 4, 7, 7), dtype), specials), geometry, rng)


def test_overlapping_windows_hand_back_to_one_pixel() -> None:
    """Four windows of 2x2 that all see a single peak."""
    x = np.zeros((1, 1, 3, 3), "float32")
    x[0, 0, 1, 1] = 1
    geometry = ConvGeometry((2, 2))
    _, winners = KERNELS.max_pool2d_forward(x, geometry)
    assert winners.ravel().tolist() == [3, 2, 1, 0]
    grad = np.array([[[[1, 2], [3, 4]]]], "float32")
    assert KERNELS.max_pool2d_backward(grad, winners, x.shape, geometry).ravel().tolist() == [0] * 4 + [10] + [0] * 4


@pytest.mark.parametrize("kernel", [(16, 16), (17, 16)])
def test_as_many_taps_as_a_byte_counts_and_more(kernel: tuple[int, int], rng: np.random.Generator) -> None:
    x, geometry = image(rng, (1, 1, 18, 17), "float32"), ConvGeometry(kernel)
    check_max(x, geometry, rng)
    _, winners = KERNELS.max_pool2d_forward(-np.cumsum(np.ones_like(x), 2)[:, :, ::-1], geometry)
    assert winners.dtype == (np.uint8 if geometry.taps == 256 else np.int32)


@pytest.mark.parametrize(("channels", "lanes"), [(8, 4), (6, 1)])
def test_channels_go_in_vectors(channels: int, lanes: int, rng: np.random.Generator) -> None:
    x, geometry = image(rng, (1, channels, 5, 5), "float32"), ConvGeometry((2, 2), stride=(2, 2))
    check_max(x, geometry, rng, lanes)
    check_average(x, geometry, rng, lanes)


@pytest.mark.parametrize("divisor", [np.array(4), np.array([[3], [5]]), np.array([[2.5, 4.0]])], ids=str)
def test_divisors_are_broadcast(divisor: Any, rng: np.random.Generator) -> None:
    x, geometry = image(rng, (2, 4, 4, 4), "float32"), ConvGeometry((2, 2), stride=(2, 2))
    y = agree("avg_pool2d_forward", x, divisor, geometry)
    agree("avg_pool2d_backward", np.ascontiguousarray(y), divisor, x.shape, geometry)


def test_backward_is_the_adjoint_of_average_pooling(rng: np.random.Generator) -> None:
    geometry = ConvGeometry((3, 2), stride=(2, 1), padding=((1, 0), (0, 1)))
    geometry = dataclasses.replace(geometry, dilation=(1, 2))
    x, divisor = image(rng, (2, 2, 7, 8), "float64"), np.array(6)
    y = KERNELS.avg_pool2d_forward(x, divisor, geometry)
    grad = rng.standard_normal(y.shape)
    back = KERNELS.avg_pool2d_backward(grad, divisor, x.shape, geometry)
    draws.assert_adjoint(draws.inner(y, grad), draws.inner(x, back), y.size)
