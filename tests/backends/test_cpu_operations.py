"""The CPU's own elementwise, pooling, normalization and update operations against the reference's.

In every memory order, on one worker and on several, at sizes with and without a remainder, and at the special values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import npconv as nc
from npconv.backends import ConvGeometry
from npconv.backends.cpu import elementwise, normalization
from npconv.backends.reference import Reference

pytestmark = pytest.mark.cpu

Order = Callable[[np.ndarray], np.ndarray]

ORDERS: dict[str, Order] = {
    "C": np.ascontiguousarray,
    "channels-last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "a slice of channels": lambda x: ORDERS["channels-last"](np.concatenate([x, x], axis=1))[:, : x.shape[1]],
    "mirrored": lambda x: np.ascontiguousarray(x[:, :, ::-1])[:, :, ::-1],
}
SHAPES = [(2, 5, 6, 7), (3, 64, 32, 32), (0, 3, 4, 4)]
SPECIAL = [-np.inf, -3.0, -1e-40, -0.0, 0.0, 1e-40, 2.0, np.inf, np.nan, -np.nan]

UNARY = {
    "relu_forward": (),
    "leaky_relu_forward": (0.1,),
    "sigmoid_forward": (),
    "tanh_forward": (),
}
BINARY = {
    "relu_backward": (),
    "leaky_relu_backward": (0.1,),
    "sigmoid_backward": (),
    "tanh_backward": (),
    "add": (),
}


def reference(name: str, *arguments: Any) -> Any:
    return getattr(Reference, name)(nc.backend(), *arguments)


def fast(name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(nc.backend(), name)(*arguments, **options)


def draw(shape: tuple[int, ...], seed: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.fixture(params=[1, 3], ids=["one worker", "three workers"], autouse=True)
def workers(request: pytest.FixtureRequest, set_workers: Callable[[int], None], monkeypatch: Any) -> int:
    """Blocks are made so short that the larger shapes need several for each worker."""
    set_workers(request.param)
    monkeypatch.setattr(elementwise, "BLOCK", 3 * elementwise.ROW + 5)
    for module in (elementwise, normalization):
        monkeypatch.setattr(module, "WORTH_SPLITTING", 1 << 10)
    return int(request.param)


# ---- activations ----
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_the_references_in_every_memory_order(shape: tuple[int, ...], order: str, dtype: str) -> None:
    x, y = draw(shape, 0, dtype), draw(shape, 1, dtype)
    y = np.where(y < 0, 0, y)  # as an output of ReLU: many exact zeros
    a, b = ORDERS[order](x), ORDERS["channels-last"](y)
    for name, more in UNARY.items():
        np.testing.assert_array_max_ulp(fast(name, a, *more), reference(name, x, *more), 1)
    for name, more in BINARY.items():
        assert np.array_equal(fast(name, a, b, *more), reference(name, x, y, *more))
    assert np.array_equal(a, x) and np.array_equal(b, y)


@pytest.mark.parametrize("order", ORDERS)
def test_out_may_be_the_first_argument(order: str) -> None:
    x, y = draw((3, 64, 32, 32), 0), draw((3, 64, 32, 32), 1)
    for name, more in {**UNARY, **BINARY}.items():
        others = () if name in UNARY else (y,)
        expected = fast(name, ORDERS[order](x), *others, *more)
        first = ORDERS[order](x).copy(order="K")
        assert fast(name, first, *others, *more, out=first) is first
        assert np.array_equal(first, expected)
        elsewhere = ORDERS[order](np.zeros_like(x))
        assert fast(name, ORDERS[order](x), *others, *more, out=elsewhere) is elsewhere
        assert np.array_equal(elsewhere, expected)


@pytest.mark.parametrize("slope", [0.0, 0.01, 1.0, 1.5, -0.5])
def test_leaky_relu_at_any_slope(slope: float) -> None:
    x = np.array([v for v in SPECIAL if slope or not np.isinf(v)] * 3, "float32")
    grad = draw(x.shape, 0)
    y = fast("leaky_relu_forward", x, slope)
    assert np.array_equal(y, reference("leaky_relu_forward", x, slope), equal_nan=True)
    assert np.array_equal(fast("leaky_relu_forward", x, slope, out=x.copy()), y, equal_nan=True)
    assert np.array_equal(fast("leaky_relu_backward", grad, x, slope), np.where(x > 0, grad, grad * np.float32(slope)))
    if slope >= 0:
        assert np.array_equal(y > 0, x > 0)  # why backward may be given the output


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU", "Sigmoid", "Tanh"])
def test_special_values_are_pytorchs(name: str, dtype: str) -> None:
    """Infinite and NaN inputs, and gradients that are infinite or NaN where the derivative is 0."""
    torch = pytest.importorskip("torch")
    for upstream in (1.5, np.inf, -np.inf, np.nan):
        x = np.array(SPECIAL * 7, dtype)
        theirs = torch.tensor(x, requires_grad=True)
        expected = getattr(torch.nn, name)()(theirs)
        expected.backward(torch.full_like(theirs, upstream))
        layer = getattr(nc, name)()
        with np.errstate(invalid="ignore"):
            y, grad = layer.forward(x), layer.backward(np.full_like(x, upstream))
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-6, atol=1e-38)
        np.testing.assert_allclose(grad, theirs.grad.numpy(), rtol=1e-6, atol=1e-7)


def test_sigmoid_to_two_units_over_the_whole_range() -> None:
    x = np.linspace(-87, 88, 300_001, dtype="float32")
    exact = 1 / (1 + np.exp(-x.astype("float64")))
    assert np.max(abs(fast("sigmoid_forward", x) - exact) / exact) < 2e-7


def test_results_are_new_arrays_that_stay() -> None:
    """Memory is used again, but never while anyone holds an array over it."""
    x = draw((3, 64, 32, 32), 0)
    kept = [fast("relu_forward", x + shift) for shift in range(5)]
    for shift, y in enumerate(kept):
        assert np.array_equal(y, np.maximum(x + shift, 0))


@pytest.mark.parametrize("order", ORDERS)
def test_concatenate_gives_a_new_array(order: str) -> None:
    parts = [ORDERS[order](draw((4, c, 30, 31), c)) for c in (3, 1, 8)]
    joined = fast("concatenate", parts, 1)
    assert np.array_equal(joined, np.concatenate(parts, axis=1))
    alone = fast("concatenate", parts[:1], 1)
    assert np.array_equal(alone, parts[0]) and not np.shares_memory(alone, parts[0])


# ---- losses ----
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["mse", "l1"])
def test_losses(name: str, order: str) -> None:
    prediction, target = draw((3, 64, 32, 32), 0), draw((3, 64, 32, 32), 1)
    ours = fast(f"{name}_forward", ORDERS[order](prediction), target)
    difference = prediction.astype("float64") - target
    exact = np.mean(difference**2 if name == "mse" else abs(difference))
    assert ours == pytest.approx(exact, rel=5e-9)
    grad = fast(f"{name}_backward", ORDERS[order](prediction), target)
    assert np.array_equal(grad, reference(f"{name}_backward", prediction, target))


# ---- pooling and resampling ----
GEOMETRIES = [
    ConvGeometry((2, 2), (2, 2)),
    ConvGeometry((3, 2), (2, 1), ((1, 1), (1, 0))),
    ConvGeometry((2, 3), (3, 4), dilation=(2, 1)),
    ConvGeometry((1, 1), (1, 1)),
    ConvGeometry((17, 16), (5, 5)),  # more than 255 taps
]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_pooling_is_the_references(geometry: ConvGeometry, order: str) -> None:
    # Rounded, so that equal values are common and the first of them must win.
    x = ORDERS[order](np.round(draw((3, 5, 18, 21), 0)))
    y, winners = fast("max_pool2d_forward", x, geometry)
    expected, expected_winners = reference("max_pool2d_forward", x, geometry)
    assert np.array_equal(y, expected) and np.array_equal(winners, expected_winners)
    grad = ORDERS[order](draw(y.shape, 1))
    back = fast("max_pool2d_backward", grad, winners, x.shape, geometry)
    assert np.array_equal(back, reference("max_pool2d_backward", grad, winners, x.shape, geometry))
    divisor = np.random.default_rng(2).integers(1, 9, y.shape[2:])
    for weights in (divisor, np.full_like(divisor, 3)):
        means = fast("avg_pool2d_forward", x, weights, geometry)
        np.testing.assert_allclose(means, reference("avg_pool2d_forward", x, weights, geometry), rtol=1e-5, atol=1e-5)
        back = fast("avg_pool2d_backward", grad, weights, x.shape, geometry)
        expected = reference("avg_pool2d_backward", grad, weights, x.shape, geometry)
        np.testing.assert_allclose(back, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position", range(4))
def test_nan_infinity_and_zero_in_max_pooling(position: int) -> None:
    for values in ([np.nan, 1, 2, 3], [np.inf, np.inf, 1, -np.inf], [-np.inf] * 4, [0.0, -0.0, 0.0, -0.0]):
        x = np.roll(np.array(values, "float32"), position).reshape(1, 1, 2, 2)
        for got, expected in zip(
            fast("max_pool2d_forward", x, GEOMETRIES[0]),
            reference("max_pool2d_forward", x, GEOMETRIES[0]),
            strict=True,
        ):
            assert np.array_equal(got, expected, equal_nan=True)


def test_an_infinite_gradient_goes_to_the_winner_only() -> None:
    layer, x = nc.MaxPool2d(2), draw((1, 2, 4, 4), 0)
    y = layer(x)
    grad = layer.backward(np.full_like(y, np.inf))
    assert set(grad.ravel().tolist()) == {0.0, np.inf} and np.isinf(grad).sum() == y.size


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("factors", [(1, 1), (2, 2), (3, 1), (1, 4)])
def test_upsampling_by_whole_factors(factors: tuple[int, int], order: str) -> None:
    x = ORDERS[order](draw((3, 5, 6, 7), 0))
    rows, columns = (sorted(list(range(length)) * f) for length, f in zip(x.shape[2:], factors, strict=True))
    y = fast("upsample_nearest_forward", x, rows, columns)
    assert np.array_equal(y, reference("upsample_nearest_forward", x, rows, columns))
    grad = ORDERS[order](draw(y.shape, 1))
    back = fast("upsample_nearest_backward", grad, x.shape, rows, columns)
    np.testing.assert_allclose(
        back, reference("upsample_nearest_backward", grad, x.shape, rows, columns), rtol=1e-6, atol=1e-6
    )
    assert not np.shares_memory(y, x) and not np.shares_memory(back, grad)


# ---- batch normalization ----
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("offset", [0.0, 3.0, 1e4])
@pytest.mark.parametrize("batch", [True, False])
def test_batch_norm_is_exact_near_and_far_from_zero(offset: float, batch: bool, order: str) -> None:
    """Against the formulas in float64, also where the mean is ten thousand standard deviations from zero."""
    shape, rng = (3, 12, 32, 33), np.random.default_rng(0)
    x = ORDERS[order](draw(shape, 1) + np.float32(offset) * np.linspace(0, 1, 12, dtype="float32")[:, None, None])
    grad = ORDERS[order](draw(shape, 2))
    weight, bias = (rng.standard_normal(12).astype("float32") for _ in range(2))
    mean, var = fast("batch_norm_statistics", x)
    exact = x.astype("float64")
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(var, exact.var(axis=(0, 2, 3)), rtol=2e-6)
    for w, b in ((weight, bias), (None, None)):
        double = [None if v is None else v.astype("float64") for v in (w, b)]
        statistics = mean.astype("float64"), var.astype("float64")
        y = fast("batch_norm_forward", x, mean, var, w, b, 1e-5)
        expected = reference("batch_norm_forward", exact, *statistics, *double, 1e-5)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-6)
        ours = fast("batch_norm_backward", grad, x, mean, var, w, 1e-5, batch)
        theirs = reference("batch_norm_backward", grad.astype("float64"), exact, *statistics, double[0], 1e-5, batch)
        np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=4e-6)
        for got, wanted in zip(ours[1:], theirs[1:], strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-3)


def test_batch_norm_of_a_channel_that_is_constant() -> None:
    x = np.full((2, 3, 40, 40), 5, "float32")
    mean, var = fast("batch_norm_statistics", x)
    assert mean.tolist() == [5, 5, 5] and var.tolist() == [0, 0, 0]
    assert not fast("batch_norm_forward", x, mean, var, None, None, 1e-5).any()


# ---- updates ----
def state(count: int, axes: tuple[int, ...] = (0, 1, 2, 3)) -> list[Any]:
    """A parameter, its gradient, and what an optimizer remembers: none below zero, as second moments are."""
    return [abs(draw((40, 50, 3, 3), seed)).transpose(axes) for seed in range(count)]


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (3, 2, 0, 1)], ids=["C order", "as kernels lie in memory"])
@pytest.mark.parametrize("dampening", [0.0, 0.3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_gives_the_references_bits(
    axes: tuple[int, ...], dampening: float, weight_decay: float, momentum: float, nesterov: bool
) -> None:
    options = {"lr": 0.1, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
    ours, theirs = state(3, axes), state(3, axes)
    if not momentum:
        ours[2] = theirs[2] = None
    for _ in range(2):
        fast("sgd_update", *ours, nesterov=nesterov, **options)
        Reference.sgd_update(nc.backend(), *theirs, nesterov=nesterov, **options)
    for a, b in zip(ours, theirs, strict=True):
        assert a is b or np.array_equal(a, b)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_gives_the_references_bits(weight_decay: float, amsgrad: bool) -> None:
    options = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": weight_decay}
    ours, theirs = state(5), state(5)
    if not amsgrad:
        ours[4] = theirs[4] = None
    for step in (1, 2):
        fast("adam_update", *ours, step=step, **options)
        Reference.adam_update(nc.backend(), *theirs, step=step, **options)
    for a, b in zip(ours, theirs, strict=True):
        assert a is b or np.array_equal(a, b)


def test_an_update_of_arrays_in_different_orders() -> None:
    data, grad = draw((4, 5, 3, 3), 0), draw((5, 4, 3, 3), 1).transpose(1, 0, 2, 3)
    expected = data - np.float32(0.5) * grad
    fast("sgd_update", data, grad, None, lr=0.5, momentum=0, dampening=0, weight_decay=0, nesterov=False)
    assert np.array_equal(data, expected)
