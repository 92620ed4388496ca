"""Losses on the device against the reference and against exact sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from kernels_on_host import DTYPES, KERNELS, LAYOUTS, PLAIN, agree, asked_for, image, sprinkle
from standin.emulator import run_both_ways

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 4, 8, 8)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_losses_are_the_references(
    loss: str, shape: tuple[int, ...], layout: str, dtype: str, rng: np.random.Generator
) -> None:
    p, t = image(rng, shape, dtype, layout), image(rng, shape, dtype)
    value = getattr(KERNELS, f"{loss}_forward")(p, t)
    assert value.shape == () and value.dtype == np.float64
    # The reference squares in float32.
    error = 1e-6 if (loss, dtype) == ("mse", "float32") else 1e-14
    assert float(value) == pytest.approx(getattr(PLAIN, f"{loss}_forward")(p, t), rel=error)
    agree(f"{loss}_backward", p, t)
    agree(f"{loss}_backward", sprinkle(rng, p), sprinkle(rng, t, (np.inf, 1.0)))


@pytest.mark.parametrize("size", [1, 5, 4095, 4097, 100_003])
@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_sums_are_exact_to_float64(loss: str, size: int, rng: np.random.Generator) -> None:
    """Several blocks, and an end that is no whole vector; a float32 sum would be wrong from the fifth digit on."""
    p, t = (10 ** rng.uniform(-3, 3, size)).astype("float32"), np.zeros(size, "float32")
    mean = run_both_ways(lambda: getattr(KERNELS, f"{loss}_forward")(p, t))
    exact = math.fsum(float(v) ** 2 if loss == "mse" else float(v) for v in p) / size
    assert mean.shape == () and mean.dtype == np.float64
    assert float(mean) == pytest.approx(exact, rel=1e-13)


def test_vectors_and_single_elements(rng: np.random.Generator) -> None:
    memory = rng.standard_normal(2001).astype("float32")
    for x, lanes in ((memory[:2000], 4), (memory[1:], 1)):
        asked_for()
        value = KERNELS.mse_forward(x, x * 0)
        assert {defines["LANES"] for _, defines in asked_for()} == {lanes}
        assert float(value) == pytest.approx(float(np.mean(x.astype("float64") ** 2)), rel=1e-13)
        agree("mse_backward", x, x * 0, lanes=lanes)


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_nan_and_infinity_are_seen(special: float, rng: np.random.Generator) -> None:
    p, t = image(rng, (1, 2, 9, 9), "float32"), image(rng, (1, 2, 9, 9), "float32")
    p[0, 1, 8, 8] = special
    for loss in ("mse_forward", "l1_forward"):
        np.testing.assert_equal(getattr(KERNELS, loss)(p, t), special)


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_what_no_kernel_takes(loss: str) -> None:
    """Integers, and a target that is broadcast, go through the reference, on the device too."""
    p, t = np.array([1, 2, 5]), np.array([1, 4, 1])
    values: Any = {"mse": 20 / 3, "l1": 2.0}
    assert float(getattr(KERNELS, f"{loss}_forward")(p, t)) == pytest.approx(values[loss])
    assert float(getattr(KERNELS, f"{loss}_forward")(p * 1.0, t)) == pytest.approx(values[loss])
    np.testing.assert_array_equal(getattr(KERNELS, f"{loss}_backward")(p, t), getattr(PLAIN, f"{loss}_backward")(p, t))
