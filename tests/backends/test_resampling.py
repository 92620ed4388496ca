"""Nearest upsampling and pixel shuffle: against their definitions, and backward as the exact adjoint."""

from __future__ import annotations

import math
from fractions import Fraction

import draws
import numpy as np
import pytest
from devices import FromHost
from hypothesis import given
from hypothesis import strategies as st

import npconv as nc

shapes = st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
# Multiples of 1/8: floor(i / scale) has an exact answer in fractions, and float32 holds the scale.
scales = st.integers(1, 40).map(lambda eighths: eighths / 8)


@given(shapes, scales, scales, draws.seeds)
def test_each_output_pixel_is_the_nearest_input_pixel(
    shape: tuple[int, int, int, int], down: float, across: float, seed: int
) -> None:
    size = (math.floor(shape[2] * down), math.floor(shape[3] * across))
    if min(size) < 1:
        return
    x = draws.random(np.random.default_rng(seed), *shape)
    y = FromHost(nc.UpsamplingNearest2d(scale_factor=(down, across)))(x)
    assert y.shape == (*shape[:2], *size)
    rows, columns = (sources(*sizes) for sizes in zip(shape[2:], size, (down, across), strict=True))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            assert np.array_equal(y[:, :, i, j], x[:, :, row, column])


def sources(length: int, out: int, scale: float) -> list[int]:
    """floor(i / scale); where the output has exactly one or two times the pixels, that is the scale."""
    exact = Fraction(out, length) if out in (length, 2 * length) else Fraction(scale)
    return [min(math.floor(i / exact), length - 1) for i in range(out)]


@given(shapes, scales, scales, draws.seeds)
def test_backward_is_the_adjoint(shape: tuple[int, int, int, int], down: float, across: float, seed: int) -> None:
    if min(math.floor(shape[2] * down), math.floor(shape[3] * across)) < 1:
        return
    rng = np.random.default_rng(seed)
    x, layer = draws.random(rng, *shape), FromHost(nc.UpsamplingNearest2d(scale_factor=(down, across)))
    y = layer(x)
    grad = draws.random(rng, *y.shape)
    draws.assert_adjoint(draws.inner(y, grad), draws.inner(x, layer.backward(grad)), y.size)


@given(shapes, st.integers(1, 5), st.integers(1, 5), draws.seeds)
def test_whole_scales_repeat_pixels(shape: tuple[int, int, int, int], down: int, across: int, seed: int) -> None:
    x = draws.random(np.random.default_rng(seed), *shape)
    y = FromHost(nc.UpsamplingNearest2d(scale_factor=(down, across)))(x)
    assert np.array_equal(y, x.repeat(down, axis=2).repeat(across, axis=3))


@given(shapes, st.integers(1, 3), draws.seeds)
def test_pixel_shuffle_moves_channels_into_pixels(shape: tuple[int, int, int, int], r: int, seed: int) -> None:
    """y[n, c, h r + a, w r + b] = x[n, c r^2 + a r + b, h, w] (Shi et al., 2016), and unshuffle takes it back."""
    n, c, h, w = shape
    rng = np.random.default_rng(seed)
    x = draws.random(rng, n, c * r * r, h, w)
    y = FromHost(nc.PixelShuffle(r))(x)
    assert y.shape == (n, c, h * r, w * r)
    for channel, a, b in np.ndindex(c, r, r):
        assert np.array_equal(y[:, channel, a::r, b::r], x[:, channel * r * r + a * r + b])
    assert np.array_equal(FromHost(nc.PixelUnshuffle(r))(y), x)
    grad = draws.random(rng, *y.shape)
    layer = FromHost(nc.PixelShuffle(r))
    layer(x)
    draws.assert_adjoint(draws.inner(y, grad), draws.inner(x, layer.backward(grad)), y.size)


@pytest.mark.parametrize("size", [(7, 9), 4, (1, 1), (3, 10)])
def test_size_picks_floor_of_i_times_in_over_out(size: int | tuple[int, int], rng: np.random.Generator) -> None:
    x = draws.random(rng, 1, 2, 5, 6)
    y = FromHost(nc.UpsamplingNearest2d(size=size))(x)
    height, width = size if isinstance(size, tuple) else (size, size)
    rows, columns = [i * 5 // height for i in range(height)], [j * 6 // width for j in range(width)]
    assert np.array_equal(y, x[:, :, rows][:, :, :, columns])
