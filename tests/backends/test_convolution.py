"""Convolutions of all algorithms: against loops, against each other as adjoints, and fast against reference.

`im2col` is the reference, `auto` chooses; where a forced algorithm does not apply, `unfold` computes.
"""

from __future__ import annotations

import itertools
from typing import Any

import draws
import naive
import numpy as np
import pytest
from convolutions import ALGORITHMS, using
from devices import on_device
from hypothesis import given
from hypothesis import strategies as st

import npconv as nc
from npconv.backends import ConvGeometry

Window = tuple[ConvGeometry, tuple[int, int, int, int]]
Transposed = tuple[ConvGeometry, tuple[int, int, int, int], tuple[int, int]]
BOUNDS = {"float32": 5e-5, "float64": 1e-12}
BLOCKS = (1, 3000, None) if nc.backend().name == "numpy" else (None,)  # bytes


@given(draws.windows(groups=True), draws.seeds)
def test_convolution_is_seven_loops(window: Window, seed: int) -> None:
    geometry, shape = window
    rng = np.random.default_rng(seed)
    out_channels = geometry.groups * int(rng.integers(1, 3))
    x = draws.random(rng, *shape)
    weight = draws.random(rng, out_channels, shape[1] // geometry.groups, *geometry.kernel)
    bias = draws.random(rng, out_channels) if rng.random() < 0.5 else None
    exact = naive.conv2d(x, weight, bias, geometry)
    for algorithm in ALGORITHMS:
        with using(algorithm) as ops:
            y = ops.conv2d_forward(x, weight, bias, geometry)
        assert draws.error(y, exact) < 1e-12, algorithm


@given(draws.transposed_windows(groups=True), draws.seeds)
def test_transposed_convolution_is_seven_loops(window: Transposed, seed: int) -> None:
    geometry, shape, size = window
    rng = np.random.default_rng(seed)
    x = draws.random(rng, *shape)
    weight = draws.random(rng, shape[1], int(rng.integers(1, 3)), *geometry.kernel)
    bias = draws.random(rng, weight.shape[1] * geometry.groups) if rng.random() < 0.5 else None
    exact = naive.conv_transpose2d(x, weight, bias, geometry, size)
    for algorithm in ALGORITHMS:
        with using(algorithm) as ops:
            y = ops.conv_transpose2d_forward(x, weight, bias, geometry)
        assert draws.error(y, exact) < 1e-12, algorithm


@given(draws.windows(groups=True), draws.seeds)
def test_a_convolution_and_its_transpose_are_adjoint(window: Window, seed: int) -> None:
    """<conv(x), y> = <x, conv^T(y)> with the same weight; conv^T gives the size that conv came from."""
    geometry, shape = window
    rng = np.random.default_rng(seed)
    out_channels = geometry.groups * 2
    weight = draws.random(rng, out_channels, shape[1] // geometry.groups, *geometry.kernel)
    out = geometry.output_size(shape[2:])
    # The rows and columns that no window reaches are output padding.
    missed = [
        shape[2 + axis]
        - ((out[axis] - 1) * geometry.stride[axis] + geometry.extent[axis] - sum(geometry.padding[axis]))
        for axis in (0, 1)
    ]
    x, y = draws.random(rng, *shape), draws.random(rng, shape[0], out_channels, *out)
    for algorithm in ALGORITHMS:
        with using(algorithm) as ops:
            forward = ops.conv2d_forward(x, weight, None, geometry)
            back = ops.conv_transpose2d_forward(y, weight, None, geometry.with_output_padding(*missed))
        draws.assert_adjoint(draws.inner(forward, y), draws.inner(x, back), x.size * weight.size, algorithm)


@given(draws.windows(groups=True), draws.seeds)
def test_gradients_of_a_convolution_are_its_adjoints(window: Window, seed: int) -> None:
    """A convolution is linear in x, in the weight and in the bias: each gradient is the adjoint of one map."""
    geometry, shape = window
    rng = np.random.default_rng(seed)
    out_channels = geometry.groups * int(rng.integers(1, 3))
    x = draws.random(rng, *shape)
    weight = draws.random(rng, out_channels, shape[1] // geometry.groups, *geometry.kernel)
    grad = draws.random(rng, shape[0], out_channels, *geometry.output_size(shape[2:]))
    dx, dw, db = draws.random(rng, *shape), draws.random(rng, *weight.shape), draws.random(rng, out_channels)
    size = x.size * weight.size
    by_x, by_weight = naive.conv2d(dx, weight, None, geometry), naive.conv2d(x, dw, None, geometry)
    by_bias = np.broadcast_to(db[:, None, None], grad.shape)
    for algorithm in ALGORITHMS:
        with using(algorithm) as ops:
            x_grad, weight_grad, bias_grad = ops.conv2d_backward(grad, x, weight, geometry)
            assert ops.conv2d_backward(grad, x, weight, geometry, input_gradient=False)[0] is None
        draws.assert_adjoint(draws.inner(by_x, grad), draws.inner(dx, x_grad), size, algorithm)
        draws.assert_adjoint(draws.inner(by_weight, grad), draws.inner(dw, weight_grad), size, algorithm)
        draws.assert_adjoint(draws.inner(by_bias, grad), draws.inner(db, bias_grad), grad.size, algorithm)


@given(draws.transposed_windows(groups=True), draws.seeds)
def test_gradients_of_a_transposed_convolution_are_its_adjoints(window: Transposed, seed: int) -> None:
    geometry, shape, size = window
    rng = np.random.default_rng(seed)
    x = draws.random(rng, *shape)
    weight = draws.random(rng, shape[1], int(rng.integers(1, 3)), *geometry.kernel)
    grad = draws.random(rng, shape[0], weight.shape[1] * geometry.groups, *size)
    dx, dw = draws.random(rng, *shape), draws.random(rng, *weight.shape)
    scale = x.size * weight.size
    by_x = naive.conv_transpose2d(dx, weight, None, geometry, size)
    by_weight = naive.conv_transpose2d(x, dw, None, geometry, size)
    for algorithm in ALGORITHMS:
        with using(algorithm) as ops:
            x_grad, weight_grad, bias_grad = ops.conv_transpose2d_backward(grad, x, weight, geometry)
            assert ops.conv_transpose2d_backward(grad, x, weight, geometry, input_gradient=False)[0] is None
        draws.assert_adjoint(draws.inner(by_x, grad), draws.inner(dx, x_grad), scale, algorithm)
        draws.assert_adjoint(draws.inner(by_weight, grad), draws.inner(dw, weight_grad), scale, algorithm)
        assert np.allclose(bias_grad, grad.sum(axis=(0, 2, 3)), rtol=1e-12, atol=1e-12), algorithm


@given(window=draws.windows(cropping=True), seed=draws.seeds)
def test_the_fast_convolution_is_the_reference(window: Window, seed: int) -> None:
    geometry, shape = window
    rng = np.random.default_rng(seed)
    arrays = _arrays(rng, shape, (int(rng.integers(1, 5)), shape[1], *geometry.kernel), 0, geometry)
    with using("im2col") as ops:
        exact = _conv2d(ops, *arrays, geometry)
    for dtype, block_bytes in itertools.product(BOUNDS, BLOCKS):
        with using("auto", block_bytes) as ops:
            fast = _conv2d(ops, *(a.astype(dtype) for a in arrays), geometry)
        _assert_close(fast, exact, dtype)


@given(window=draws.transposed_windows(cropping=True), seed=draws.seeds)
def test_the_fast_transposed_convolution_is_the_reference(window: Transposed, seed: int) -> None:
    geometry, shape, _ = window
    rng = np.random.default_rng(seed)
    arrays = _arrays(rng, shape, (shape[1], int(rng.integers(1, 5)), *geometry.kernel), 1, geometry)
    with using("im2col") as ops:
        exact = _conv_transpose2d(ops, *arrays, geometry)
    for dtype, block_bytes in itertools.product(BOUNDS, BLOCKS):
        with using("auto", block_bytes) as ops:
            fast = _conv_transpose2d(ops, *(a.astype(dtype) for a in arrays), geometry)
        _assert_close(fast, exact, dtype)


@given(window=draws.windows(cropping=True), scale=draws.pairs(1, 4), stride_one=st.booleans(), seed=draws.seeds)
def test_the_fast_upsampling_convolution_is_the_reference(
    window: Window, scale: tuple[int, int], stride_one: bool, seed: int
) -> None:
    """The image that the window fits is the small one: enlarged, it fits all the better."""
    geometry, shape = window
    if stride_one:
        geometry = ConvGeometry(geometry.kernel, (1, 1), geometry.padding, geometry.dilation)
    rng = np.random.default_rng(seed)
    x, weight, bias, _ = _arrays(rng, shape, (int(rng.integers(1, 5)), shape[1], *geometry.kernel), 0, None)
    out = geometry.output_size((shape[2] * scale[0], shape[3] * scale[1]))
    grad = draws.random(rng, shape[0], weight.shape[0], *out)

    def both(ops: Any, *arrays: np.ndarray) -> list[np.ndarray]:
        x, weight, bias, grad = arrays
        return [
            ops.upsample_conv2d_forward(x, weight, bias, scale, geometry),
            *ops.upsample_conv2d_backward(grad, x, weight, scale, geometry),
        ]

    with using("im2col") as ops:
        exact = both(ops, x, weight, bias, grad)
    for dtype in BOUNDS:
        with using("auto") as ops:
            fast = both(ops, *(a.astype(dtype) for a in (x, weight, bias, grad)))
        _assert_close(fast, exact, dtype)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("channels", [(3, 32), (32, 32), (64, 3)])
def test_the_bound_holds_at_the_sizes_of_training(
    channels: tuple[int, int], dtype: str, rng: np.random.Generator
) -> None:
    """A batch of 16 with 32x32 pixels: sums of a few thousand products."""
    geometry = ConvGeometry.parse(3, 2, 1)
    arrays = _arrays(rng, (16, channels[0], 32, 32), (channels[1], channels[0], 3, 3), 0, geometry)
    with using("im2col") as ops:
        exact = _conv2d(ops, *arrays, geometry)
    for algorithm in ALGORITHMS:
        with using(algorithm) as ops:
            found = _conv2d(ops, *(a.astype(dtype) for a in arrays), geometry)
        _assert_close(found, exact, dtype)


def test_a_result_is_not_overwritten_by_the_next_call(rng: np.random.Generator) -> None:
    """Scratch memory is reused; what a caller got is not."""
    geometry = ConvGeometry.parse(3, 1, 1)
    first, second = (_arrays(rng, (2, 3, 9, 8), (4, 3, 3, 3), 0, geometry) for _ in range(2))
    ops, first, second = nc.backend(), on_device(first), on_device(second)
    with using("auto"):
        kept = _conv2d(ops, *first, geometry)
        kept += _conv_transpose2d(ops, first[3], first[1], None, first[0], geometry)
        copies = [a.copy() for a in kept]
        _conv2d(ops, *second, geometry)
        _conv_transpose2d(ops, second[3], second[1], None, second[0], geometry)
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))


def test_the_fast_algorithms_are_in_use(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """`auto` does not go through the columns of the whole batch, `im2col` does."""
    called: list[str] = []
    original = type(nc.backend()).im2col
    monkeypatch.setattr(type(nc.backend()), "im2col", lambda *args: called.append("im2col") or original(*args))
    x, layer = on_device(draws.random(rng, 2, 3, 9, 8)), nc.Conv2d(3, 4, 3, dtype="float64")
    with using("auto"):
        layer.backward(layer(x))
    assert called == []
    with using("im2col"):
        layer.backward(layer(x))
    assert called == ["im2col", "im2col"]


def _arrays(
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    weight_shape: tuple[int, int, int, int],
    out_axis: int,
    geometry: ConvGeometry | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, weight, bias and an upstream gradient, drawn in float32 so that both dtypes see the same numbers."""
    channels = weight_shape[out_axis]
    size = (1, 1)
    if geometry is not None:
        size = geometry.transposed_size(shape[2:]) if out_axis else geometry.output_size(shape[2:])
    shapes = (shape, weight_shape, (channels,), (shape[0], channels, *size))
    x, weight, bias, grad = (draws.random(rng, *s, dtype="float32").astype("float64") for s in shapes)
    return x, weight, bias, grad


def _conv2d(ops: Any, x: Any, weight: Any, bias: Any, grad: Any, geometry: ConvGeometry) -> list[np.ndarray]:
    return [ops.conv2d_forward(x, weight, bias, geometry), *ops.conv2d_backward(grad, x, weight, geometry)]


def _conv_transpose2d(ops: Any, x: Any, weight: Any, bias: Any, grad: Any, geometry: ConvGeometry) -> list[np.ndarray]:
    forward = ops.conv_transpose2d_forward(x, weight, bias, geometry)
    return [forward, *ops.conv_transpose2d_backward(grad, x, weight, geometry)]


def _assert_close(found: list[np.ndarray], exact: list[np.ndarray], dtype: str) -> None:
    for name, a, b in zip(("output", "input", "weight", "bias"), found, exact, strict=True):
        assert a.dtype == dtype
        assert draws.error(a, b) <= BOUNDS[dtype], name
