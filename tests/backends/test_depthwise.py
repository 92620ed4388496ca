"""Depthwise convolution: against loops, its gradients as exact adjoints, parts, small blocks, and against PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import draws
import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npconv.backends import ConvGeometry
from npconv.backends.cpu import depthwise

pytestmark = pytest.mark.cpu

Window = tuple[ConvGeometry, tuple[int, int, int, int]]
BOUNDS = {"float32": 5e-5, "float64": 1e-12}
BLOCKS = (1, 2000, None)  # bytes

multipliers = st.integers(1, 3)


@st.composite
def depthwise_windows(draw: st.DrawFn) -> Window:
    """A geometry with a group for each of up to 4 channels; kernels of stride 1 are as likely as all others."""
    geometry, (n, _, h, w) = draw(draws.windows(cropping=True))
    channels = draw(st.integers(1, 4))
    if draw(st.booleans()):
        geometry = replace(geometry, kernel=draw(st.tuples(st.integers(1, 6), st.integers(1, 6))), stride=(1, 1))
        if draw(st.booleans()):
            geometry = replace(geometry, dilation=(1, 1))
        h, w = (max(h, geometry.extent[0] + 4), max(w, geometry.extent[1] + 4))
    return replace(geometry, groups=channels), (n, channels, h, w)


@contextmanager
def blocks_of(size: int | None) -> Iterator[None]:
    """Blocks of `size` bytes and of a few columns; None leaves them as they are."""
    with pytest.MonkeyPatch.context() as patch:
        if size is not None:
            patch.setattr(depthwise, "BLOCK_BYTES", size)
            patch.setattr(depthwise, "STRIP", 10)
        yield


def last(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) -> contiguous (N, H, W, C)."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def first(x: np.ndarray) -> np.ndarray:
    """(N, H, W, C) -> (N, C, H, W)."""
    return x.transpose(0, 3, 1, 2)


def any_order(rng: np.random.Generator, weight: np.ndarray) -> np.ndarray:
    """The same kernel, its axes in some order in memory."""
    order = rng.permutation(4)
    return np.ascontiguousarray(weight.transpose(order)).transpose(np.argsort(order))


def arrays(window: Window, multiplier: int, seed: int) -> tuple[np.random.Generator, list[np.ndarray]]:
    """x, weight, bias and an upstream gradient, (N, C, H, W), exact in float32."""
    geometry, shape = window
    rng = np.random.default_rng(seed)
    out = shape[1] * multiplier
    shapes = (shape, (out, 1, *geometry.kernel), (out,), (shape[0], out, *geometry.output_size(shape[2:])))
    return rng, [draws.random(rng, *s, dtype="float32").astype("float64") for s in shapes]


@given(window=depthwise_windows(), multiplier=multipliers, seed=draws.seeds)
def test_forward_is_seven_loops(window: Window, multiplier: int, seed: int) -> None:
    geometry, _ = window
    rng, (x, weight, bias, grad) = arrays(window, multiplier, seed)
    some_bias = bias if rng.random() < 0.5 else None
    exact = naive.conv2d(x, weight, some_bias, geometry)
    for dtype, block_bytes in itertools.product(BOUNDS, BLOCKS):
        given_arrays = [last(x).astype(dtype), any_order(rng, weight).astype(dtype)]
        copies = [a.copy() for a in given_arrays]
        y = np.full(last(grad).shape, np.nan, dtype)
        with blocks_of(block_bytes):
            typed = None if some_bias is None else some_bias.astype(dtype)
            depthwise.forward(*given_arrays, typed, geometry, y, whole(y, 0), whole(y, 1))
        assert draws.error(first(y), exact) <= BOUNDS[dtype], (dtype, block_bytes)
        assert all(np.array_equal(a, b) for a, b in zip(given_arrays, copies, strict=True))


@given(window=depthwise_windows(), multiplier=multipliers, seed=draws.seeds)
def test_gradients_are_those_of_the_loops(window: Window, multiplier: int, seed: int) -> None:
    """The kernel's gradient, number by number, from loops over x; the input's from a transposed convolution's loops."""
    geometry, _ = window
    rng, (x, weight, _, grad) = arrays(window, multiplier, seed)
    by_loops = naive.conv_transpose2d(grad, weight, None, geometry, (x.shape[2], x.shape[3]))
    kernel_by_loops = kernel_gradient(x, grad, geometry)
    for dtype, block_bytes in itertools.product(BOUNDS, BLOCKS):
        given_arrays = [last(x).astype(dtype), last(grad).astype(dtype), any_order(rng, weight).astype(dtype)]
        copies = [a.copy() for a in given_arrays]
        pixels, upstream, kernel = given_arrays
        x_grad = np.full(pixels.shape, np.nan, dtype)
        with blocks_of(block_bytes):
            all_of = whole(upstream, 0), whole(upstream, 1)
            weight_grad = depthwise.weight_gradient(pixels, upstream, geometry, *all_of)
            depthwise.input_gradient(upstream, kernel, geometry, x_grad, whole(x_grad, 0))
        assert draws.error(first(x_grad), by_loops) <= BOUNDS[dtype], (dtype, block_bytes)
        assert weight_grad.dtype == dtype
        assert draws.error(weight_grad, kernel_by_loops) <= BOUNDS[dtype], (dtype, block_bytes)
        assert all(np.array_equal(a, b) for a, b in zip(given_arrays, copies, strict=True))


@given(window=depthwise_windows(), multiplier=multipliers, seed=draws.seeds)
def test_gradients_are_adjoints(window: Window, multiplier: int, seed: int) -> None:
    """<conv(x; W), g> = <x, input gradient> = <W, kernel gradient>: y is linear in x and in W."""
    geometry, _ = window
    _, (x, weight, _, grad) = arrays(window, multiplier, seed)
    pixels, upstream = last(x), last(grad)
    y, x_grad = np.full(upstream.shape, np.nan), np.full(pixels.shape, np.nan)
    depthwise.forward(pixels, weight, None, geometry, y, whole(y, 0), whole(y, 1))
    depthwise.input_gradient(upstream, weight, geometry, x_grad, whole(x_grad, 0))
    weight_grad = depthwise.weight_gradient(pixels, upstream, geometry, whole(y, 0), whole(y, 1))
    size = x.size * weight.size
    draws.assert_adjoint(draws.inner(y, upstream), draws.inner(pixels, x_grad), size)
    draws.assert_adjoint(draws.inner(y, upstream), draws.inner(weight.transpose(2, 3, 1, 0), weight_grad), size)


@given(window=depthwise_windows(), multiplier=multipliers, seed=draws.seeds)
def test_parts_make_the_whole(window: Window, multiplier: int, seed: int) -> None:
    """Images and output rows cut anywhere: each part fills its own, and the kernel's gradients add up."""
    geometry, shape = window
    rng, (x, weight, bias, grad) = arrays(window, multiplier, seed)
    pixels, upstream = last(x), last(grad)
    image, line = (int(rng.integers(0, size + 1)) for size in upstream.shape[:2])
    exact, exact_total = naive.conv2d(x, weight, bias, geometry), kernel_gradient(x, grad, geometry)
    by_loops = naive.conv_transpose2d(grad, weight, None, geometry, (x.shape[2], x.shape[3]))
    for block_bytes in BLOCKS:
        y, x_grad = np.full(upstream.shape, np.nan), np.full(pixels.shape, np.nan)
        total = np.zeros((*geometry.kernel, 1, weight.shape[0]))
        with blocks_of(block_bytes):
            for images in (slice(image, shape[0]), slice(0, image)):
                for lines in (slice(line, y.shape[1]), slice(0, line)):
                    before = y.copy()
                    depthwise.forward(pixels, weight, bias, geometry, y, images, lines)
                    before[images, lines] = y[images, lines]
                    assert np.array_equal(y, before, equal_nan=True)
                    total += depthwise.weight_gradient(pixels, upstream, geometry, images, lines)
                depthwise.input_gradient(upstream, weight, geometry, x_grad, images)
                assert images.start == 0 or np.isnan(x_grad[:image]).all()
        assert draws.error(first(y), exact) < 1e-12, block_bytes
        assert draws.error(first(x_grad), by_loops) < 1e-12, block_bytes
        assert draws.error(total, exact_total) < 1e-12, block_bytes


@pytest.mark.parametrize("kernel", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("dtype", BOUNDS)
def test_torch_agrees_at_the_benchmarks_size(
    kernel: int, stride: int, multiplier: int, dtype: str, rng: np.random.Generator
) -> None:
    """64 channels of 32x32 pixels, and the exact result from float64."""
    torch = pytest.importorskip("torch")
    geometry = ConvGeometry.parse(kernel, stride, kernel // 2, groups=64)
    shape = (3, 64, 32, 32)
    x, weight, bias = (
        draws.random(rng, *s, dtype="float32")
        for s in (shape, (64 * multiplier, 1, kernel, kernel), (64 * multiplier,))
    )
    exact = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (x, weight, bias)]
    expected = torch.nn.functional.conv2d(*exact, stride=stride, padding=kernel // 2, groups=64)
    grad = draws.random(rng, *expected.shape, dtype="float32")
    expected.backward(torch.tensor(grad, dtype=torch.float64))
    pixels, upstream = last(x).astype(dtype), last(grad).astype(dtype)
    y, x_grad = np.full(upstream.shape, np.nan, dtype), np.full(pixels.shape, np.nan, dtype)
    weight, bias = weight.astype(dtype), bias.astype(dtype)
    depthwise.forward(pixels, weight, bias, geometry, y, whole(y, 0), whole(y, 1))
    depthwise.input_gradient(upstream, weight, geometry, x_grad, whole(x_grad, 0))
    weight_grad = depthwise.weight_gradient(pixels, upstream, geometry, whole(y, 0), whole(y, 1))
    assert draws.error(first(y), expected.detach()) <= BOUNDS[dtype]
    assert draws.error(first(x_grad), exact[0].grad) <= BOUNDS[dtype]
    assert draws.error(weight_grad.transpose(3, 2, 0, 1), exact[1].grad) <= BOUNDS[dtype]


def whole(x: np.ndarray, axis: int) -> slice:
    return slice(0, x.shape[axis])


def kernel_gradient(x: np.ndarray, grad: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """(KH, KW, 1, C m): each number the inner product of `grad` with the convolution by a kernel of a single 1."""
    out, multiplier = grad.shape[1], grad.shape[1] // x.shape[1]
    total = np.zeros((*geometry.kernel, 1, out))
    images, upstream, (rows, columns) = x.tolist(), grad.tolist(), naive.sources(geometry, grad.shape[2:])
    for o, k, m in naive.indices(out, *geometry.kernel):
        for n, i, j in naive.indices(len(x), *grad.shape[2:]):
            row, column = rows[i][k], columns[j][m]
            inside = 0 <= row < x.shape[2] and 0 <= column < x.shape[3]
            value = images[n][o // multiplier][row][column] if inside else 0.0
            total[k, m, 0, o] += upstream[n][o][i][j] * value
    return total
