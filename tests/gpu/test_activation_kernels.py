"""Activations, sums and joins on the device against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernels_on_host import DTYPES, KERNELS, LAYOUTS, PLAIN, agree, close, image, sprinkle
from standin.emulator import run_both_ways

from npconv.backends.gpu import grid

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 8, 4, 4), (0, 4, 2, 2), (3, 17)]
EXACT = {"float32": 0.0, "float64": 0.0}
CLOSE = {"float32": 3e-7, "float64": 1e-15}  # one exponential is not another
OPERATIONS: list[tuple[str, int, tuple[float, ...], dict[str, float]]] = [
    ("relu_forward", 1, (), EXACT),
    ("relu_backward", 2, (), EXACT),
    ("leaky_relu_forward", 1, (0.1,), EXACT),
    ("leaky_relu_backward", 2, (0.1,), EXACT),
    ("sigmoid_forward", 1, (), CLOSE),
    ("sigmoid_backward", 2, (), EXACT),
    ("tanh_forward", 1, (), CLOSE),
    ("tanh_backward", 2, (), EXACT),
    ("add", 2, (), EXACT),
]
NAMES = [operation[0] for operation in OPERATIONS]


def draw(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, layout: str) -> Any:
    if len(shape) == 4:
        return image(rng, shape, dtype, layout)
    return rng.standard_normal((shape[0], 2 * shape[1])).astype(dtype)[:, :: 2 if layout == "strided" else 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "count", "numbers", "error"), OPERATIONS, ids=NAMES)
def test_activations_are_the_references(
    name: str, count: int, numbers: tuple[float, ...], error: dict[str, float], shape: tuple[int, ...], layout: str,
    dtype: str, rng: np.random.Generator,
) -> None:  # fmt: skip
    arrays = [draw(rng, shape, dtype, layout) for _ in range(count)]
    agree(name, *arrays, *numbers, error=error[dtype])
    agree(
        name, *(sprinkle(rng, array, (np.nan, np.inf, -np.inf, 0.0)) for array in arrays), *numbers, error=error[dtype]
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "count", "numbers", "error"), OPERATIONS, ids=NAMES)
def test_results_are_written_where_asked(
    name: str, count: int, numbers: tuple[float, ...], error: dict[str, float], layout: str, rng: np.random.Generator
) -> None:
    """Over the first argument, and into an array of any layout."""
    arrays = [image(rng, (2, 6, 3, 5), "float32", layout) for _ in range(count)]
    expected = getattr(PLAIN, name)(*arrays, *numbers)
    for other in LAYOUTS:
        out = image(rng, (2, 6, 3, 5), "float32", other)
        assert getattr(KERNELS, name)(*arrays, *numbers, out=out) is out
        close(out, expected, error["float32"])
    first = arrays[0].copy(order="K")
    assert getattr(KERNELS, name)(first, *arrays[1:], *numbers, out=first) is first
    close(first, expected, error["float32"])


def test_arrays_of_two_layouts(rng: np.random.Generator) -> None:
    grad, output = (image(rng, (2, 4, 3, 5), "float32", layout) for layout in ("C", "channels-last"))
    agree("relu_backward", grad, np.maximum(output, 0))
    agree("add", output, grad)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_neither_overflows_nor_loses_digits(dtype: str) -> None:
    x = np.array([-np.inf, -1e4, -800, -700, -104, -90, -88, -87, -20, 0, 20, 90, 800, np.inf], dtype)
    y = KERNELS.sigmoid_forward(x)
    exact = 1 / (1 + np.exp(np.clip(-x.astype("longdouble"), -11000, 11000)))
    rounding = np.finfo(dtype).eps
    np.testing.assert_allclose(y, exact.astype("float64"), rtol=4 * rounding, atol=float(np.finfo(dtype).tiny) * 2)


def test_the_end_of_an_array_that_is_no_whole_vector(rng: np.random.Generator) -> None:
    for size in (1, 3, 4, 5, 1023, 1025, 5000):
        x = rng.standard_normal(size).astype("float32")
        agree("relu_forward", x, lanes=4)
        agree("add", x, x[::-1].copy(), lanes=4)
        agree("add", x, np.concatenate([x, x])[size:], lanes=4 if size % 4 == 0 else 1)


def test_more_elements_than_the_grid_has_threads(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(grid, "MOST_BLOCKS", 2)
    x = rng.standard_normal(4099).astype("float32")  # 2 blocks of 256 threads do 2048 at once
    agree("relu_forward", x, lanes=4)
    agree("add", x[1:], x[:-1], lanes=1)


def test_scaled(rng: np.random.Generator) -> None:
    for layout in LAYOUTS:
        agree("scaled", sprinkle(rng, image(rng, (2, 3, 4, 5), "float32", layout)), 0.3)
    assert KERNELS.scaled(np.array([1.0, 2.0]), 0.5).tolist() == [0.5, 1.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [(3, 1), (8, 4, 12), (2, 6), (5,)])
def test_channels_are_joined(channels: tuple[int, ...], layout: str, dtype: str, rng: np.random.Generator) -> None:
    arrays = [sprinkle(rng, image(rng, (2, c, 3, 4), dtype, layout)) for c in channels]
    joined = run_both_ways(lambda: KERNELS.concatenate(arrays, 1))
    np.testing.assert_array_equal(joined, np.concatenate(arrays, 1))
    assert joined.transpose(0, 2, 3, 1).flags.c_contiguous
    np.testing.assert_array_equal(KERNELS.concatenate(arrays, -3), joined)
    assert not any(np.shares_memory(joined, array) for array in arrays)


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_other_axes_keep_the_channels_last(axis: int, rng: np.random.Generator) -> None:
    arrays = [image(rng, (2, 3, 4, 5), "float32"), image(rng, (2, 3, 4, 5), "float32", "C")]
    joined = KERNELS.concatenate(arrays, axis)
    np.testing.assert_array_equal(joined, np.concatenate(arrays, axis))
    assert joined.transpose(0, 2, 3, 1).flags.c_contiguous


def test_vectors_of_features_are_joined(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((2, 5))
    np.testing.assert_array_equal(KERNELS.concatenate([rows, rows], 1), np.concatenate([rows, rows], 1))


@pytest.mark.parametrize(
    ("activation", "biased", "dtype", "channels"),
    [
        ("none", True, "float32", 8),
        ("relu", True, "float32", 8),
        ("relu", False, "float32", 3),
        ("relu", True, "float64", 2),
        ("leaky_relu", True, "float32", 3),
        ("leaky_relu", False, "float64", 2),
        ("sigmoid", True, "float32", 3),
        ("tanh", True, "float64", 3),
        ("tanh", False, "float32", 8),
    ],
)
def test_bias_and_activation_in_one(
    activation: str, biased: bool, dtype: str, channels: int, rng: np.random.Generator
) -> None:
    x = sprinkle(rng, image(rng, (2, channels, 5, 7), dtype), (np.nan, np.inf, -np.inf, 0.0))
    bias = rng.standard_normal(channels + 1).astype(dtype)[1:] if biased else None  # at an address like any other
    moved = x if bias is None else x + bias[:, None, None]
    with np.errstate(all="ignore"):
        expected = {
            "none": lambda: moved,
            "relu": lambda: PLAIN.relu_forward(moved),
            "leaky_relu": lambda: PLAIN.leaky_relu_forward(moved, 0.2),
            "sigmoid": lambda: PLAIN.sigmoid_forward(moved),
            "tanh": lambda: PLAIN.tanh_forward(moved),
        }[activation]()
    expected, y = expected.copy(), x.copy(order="K")
    result = run_both_ways(lambda: KERNELS.bias_activation(y, bias, activation, 0.2).copy(), y)
    assert np.shares_memory(KERNELS.bias_activation(y, None), y)  # in place
    close(result, expected, CLOSE[dtype] if activation in ("sigmoid", "tanh") else 0.0)


def test_bias_of_an_image_in_another_layout(rng: np.random.Generator) -> None:
    x, bias = image(rng, (1, 3, 4, 4), "float32", "C"), np.arange(3, dtype="float32")
    before = x.copy()
    np.testing.assert_array_equal(KERNELS.bias_activation(x, bias, "relu"), np.maximum(before + bias[:, None, None], 0))
