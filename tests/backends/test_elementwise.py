"""Activations, batch statistics and losses, against Python's math module and exact sums."""

from __future__ import annotations

import math
import warnings

import draws
import numpy as np
import pytest
from devices import FromHost
from hypothesis import given
from hypothesis import strategies as st

import npconv as nc

floats = st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=20)
FORMULAS = {
    "ReLU": lambda v: max(v, 0.0),
    "LeakyReLU": lambda v: v if v > 0 else 0.01 * v,
    "Sigmoid": lambda v: 1 / (1 + math.exp(-v)) if v > -700 else 0.0,
    "Tanh": math.tanh,
}
ULPS = {"float32": 2.5e-7, "float64": 5e-16}


@pytest.mark.parametrize("dtype", ULPS)
@pytest.mark.parametrize("name", FORMULAS)
@given(values=floats)
def test_activations_are_their_formulas(name: str, dtype: str, values: list[float]) -> None:
    """To two units in the last place, without a warning, at any size of x."""
    x = np.array(values, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = FromHost(getattr(nc, name)())(x)
    exact = np.array([FORMULAS[name](float(v)) for v in x])
    assert np.all(abs(y - exact) <= ULPS[dtype] * abs(exact) + 1e-37)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sigmoid_at_the_ends_of_the_range(dtype: str) -> None:
    largest = float(np.finfo(dtype).max)
    y = FromHost(nc.Sigmoid())(np.array([-math.inf, -largest, -800, 0, 800, largest, math.inf, math.nan], dtype))
    assert y.dtype == dtype
    assert y[:3].max() < 1e-37 and y[3] == 0.5 and y[4:7].tolist() == [1, 1, 1] and math.isnan(y[7])


@given(st.integers(1, 4), st.integers(2, 30), st.sampled_from([0.0, 10.0, 3000.0]), draws.seeds)
def test_batch_statistics_are_exact_in_float32(channels: int, count: int, offset: float, seed: int) -> None:
    """Also far from zero, where mean(x^2) - mean(x)^2 in float32 has no digit left."""
    x = draws.random(np.random.default_rng(seed), count, channels, 2, 3, dtype="float32") + np.float32(offset)
    mean, var = FromHost().batch_norm_statistics(x)
    exact = x.astype("float64")
    assert mean.dtype == var.dtype == "float32"
    assert np.allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=1e-6, atol=1e-7)
    assert np.allclose(var, exact.var(axis=(0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("loss", ["MSE", "L1"])
@given(values=floats, seed=draws.seeds)
def test_losses_are_exact_sums(loss: str, values: list[float], seed: int) -> None:
    prediction = np.array(values)
    target = draws.random(np.random.default_rng(seed), len(values))
    differences = [float(p) - float(t) for p, t in zip(prediction, target, strict=True)]
    terms = [d * d if loss == "MSE" else abs(d) for d in differences]
    for reduction, count in (("mean", len(values)), ("sum", 1)):
        ours = FromHost(getattr(nc, loss)(reduction))
        assert ours(prediction, target) == pytest.approx(math.fsum(terms) / count, rel=1e-13)
        slopes = [2 * d if loss == "MSE" else math.copysign(1, d) for d in differences]
        assert np.allclose(ours.backward(), np.array(slopes) / count, rtol=1e-13, atol=0)


def test_the_loss_of_float32_images_keeps_more_digits_than_float32(rng: np.random.Generator) -> None:
    """The rounding of each term averages out; that of a float32 sum would not."""
    prediction, target = (draws.random(rng, 30_000, dtype="float32") for _ in range(2))
    exact = math.fsum((prediction.astype("float64") - target) ** 2) / 30_000
    assert FromHost(nc.MSE())(prediction, target) == pytest.approx(exact, rel=5e-9)
