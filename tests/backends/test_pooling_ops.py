"""Pooling against its definition, and its backward as the exact adjoint."""

from __future__ import annotations

import dataclasses
from typing import Any

import draws
import naive
import numpy as np
from devices import FromHost, on_device, on_host
from hypothesis import given

import npconv as nc
from npconv.backends import ConvGeometry

OPS = FromHost()
Window = tuple[ConvGeometry, tuple[int, int, int, int]]


def halved(geometry: ConvGeometry) -> ConvGeometry:
    """Padding of at most half the kernel, so that no window lies outside the image."""
    sides = [
        (min(before, k // 2), min(after, k // 2))
        for (before, after), k in zip(geometry.padding, geometry.kernel, strict=True)
    ]
    return dataclasses.replace(geometry, padding=(sides[0], sides[1]), dilation=(1, 1))


@given(draws.windows(), draws.seeds)
def test_max_pooling_is_its_definition(window: Window, seed: int) -> None:
    geometry, shape = halved(window[0]), (*window[1][:2], *(max(4, s) for s in window[1][2:]))
    rng = np.random.default_rng(seed)
    # All values different, and all below zero: a padded zero would win.
    x = (rng.permutation(np.prod(shape)) - np.prod(shape) - 1.0).reshape(shape)
    y, winners = OPS.max_pool2d_forward(x, geometry)
    expected, wins = naive.max_pool2d(x, geometry)
    assert np.array_equal(y, expected)
    assert np.array_equal(OPS.max_pool2d_backward(np.ones_like(y), winners, shape, geometry), wins)


@given(draws.windows(), draws.seeds)
def test_max_pooling_backward_is_the_adjoint_of_picking_the_winners(window: Window, seed: int) -> None:
    """With the winners fixed, pooling is linear: <y, g> = <x, backward(g)> for the x that chose them."""
    geometry, shape = halved(window[0]), (*window[1][:2], *(max(4, s) for s in window[1][2:]))
    rng = np.random.default_rng(seed)
    x = draws.random(rng, *shape)
    y, winners = OPS.max_pool2d_forward(x, geometry)
    grad = draws.random(rng, *y.shape)
    back = OPS.max_pool2d_backward(grad, winners, shape, geometry)
    draws.assert_adjoint(draws.inner(y, grad), draws.inner(x, back), y.size)


@given(draws.windows(), draws.seeds)
def test_average_pooling_is_its_definition_and_backward_its_adjoint(window: Window, seed: int) -> None:
    geometry, shape = window
    rng = np.random.default_rng(seed)
    x = draws.random(rng, *shape)
    divisor = rng.integers(1, 9, geometry.output_size(shape[2:]))
    y = OPS.avg_pool2d_forward(x, divisor, geometry)
    assert draws.error(y, naive.window_sums(x, geometry) / divisor) < 1e-12
    grad = draws.random(rng, *y.shape)
    back = OPS.avg_pool2d_backward(grad, divisor, shape, geometry)
    draws.assert_adjoint(draws.inner(y, grad), draws.inner(x, back), x.size * geometry.taps)


def test_ties_go_to_the_first_pixel_and_nan_wins() -> None:
    x = np.array([[[[1.0, 1.0, 0.0, 2.0], [1.0, 1.0, np.nan, 5.0]]]])
    layer = nc.MaxPool2d(2)
    y = on_host(layer(on_device(x)))
    assert y[0, 0, 0, 0] == 1 and np.isnan(y[0, 0, 0, 1])
    grad: Any = layer.backward(on_device(np.array([[[[3.0, 7.0]]]])))
    assert grad.tolist() == [[[[3, 0, 0, 0], [0, 0, 7, 0]]]]
