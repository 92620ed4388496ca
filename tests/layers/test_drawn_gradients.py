"""check_gradients, whose upstream gradients are random, for shapes and options that hypothesis draws."""

from __future__ import annotations

from typing import Any

import draws
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import npconv as nc
from npconv.backends import ConvGeometry

Window = tuple[ConvGeometry, tuple[int, int, int, int]]


def options(geometry: ConvGeometry) -> dict[str, Any]:
    """The geometry as a layer's arguments, whose padding is the same on both sides."""
    padding = tuple(max(sides) for sides in geometry.padding)
    return {"stride": geometry.stride, "padding": padding, "dilation": geometry.dilation}


def check(layer: nc.Module, shape: tuple[int, ...], seed: int) -> None:
    batch = (max(1, shape[0]), *shape[1:])
    x = draws.random(np.random.default_rng(seed), *batch)
    assert nc.check_gradients(layer, x, seed=seed, directions=1) <= 1e-6


@given(draws.windows(groups=True), st.booleans(), draws.seeds)
def test_conv2d(window: Window, bias: bool, seed: int) -> None:
    geometry, shape = window
    arguments = {**options(geometry), "groups": geometry.groups, "bias": bias}
    check(nc.Conv2d(shape[1], 2 * geometry.groups, geometry.kernel, **arguments), shape, seed)


@given(draws.windows(), st.sampled_from(["reflect", "replicate", "circular"]), draws.seeds)
def test_conv2d_with_padding_modes(window: Window, mode: str, seed: int) -> None:
    geometry, shape = window
    shape = (*shape[:2], max(4, shape[2]), max(4, shape[3]))
    arguments = {**options(geometry), "padding_mode": mode}
    check(nc.Conv2d(shape[1], 2, geometry.kernel, **arguments), shape, seed)


@given(draws.transposed_windows(groups=True), st.booleans(), draws.seeds)
def test_conv_transpose2d(window: Any, bias: bool, seed: int) -> None:
    geometry, shape, _ = window
    arguments = {**options(geometry), "groups": geometry.groups, "bias": bias}
    arguments["padding"] = tuple(min(sides) for sides in geometry.padding)
    extra = tuple(seed % max(s, d) for s, d in zip(geometry.stride, geometry.dilation, strict=True))
    layer = nc.ConvTranspose2d(shape[1], 2 * geometry.groups, geometry.kernel, output_padding=extra, **arguments)
    check(layer, shape, seed)


@given(draws.transposed_windows(), st.booleans(), draws.seeds)
def test_upsampling(window: Any, bias: bool, seed: int) -> None:
    geometry, shape, _ = window
    arguments = {**options(geometry), "bias": bias}
    arguments["padding"] = tuple(min(sides) for sides in geometry.padding)
    check(nc.Upsampling(shape[1], 2, geometry.kernel, **arguments), shape, seed)


@given(draws.windows(), st.booleans(), st.booleans(), draws.seeds)
def test_pooling(window: Window, ceil_mode: bool, count_include_pad: bool, seed: int) -> None:
    geometry, shape = window
    padding = tuple(min(max(sides), k // 2) for sides, k in zip(geometry.padding, geometry.kernel, strict=True))
    shape = (*shape[:2], max(4, shape[2]), max(4, shape[3]))
    arguments: dict[str, Any] = {"stride": geometry.stride, "padding": padding, "ceil_mode": ceil_mode}
    check(nc.MaxPool2d(geometry.kernel, **arguments), shape, seed)
    check(nc.AvgPool2d(geometry.kernel, count_include_pad=count_include_pad, **arguments), shape, seed)


@given(st.integers(1, 4), st.integers(2, 5), draws.pairs(1, 4), st.booleans(), st.booleans(), draws.seeds)
def test_batch_norm(channels: int, n: int, size: tuple[int, int], affine: bool, training: bool, seed: int) -> None:
    check(nc.BatchNorm2d(channels, affine=affine).train(training), (n, channels, *size), seed)
