"""Doubling and convolving from differences: against loops, the exact adjoint, and other ways; scales and infinities."""

from __future__ import annotations

from typing import Any

import draws
import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npconv as nc
from npconv.backends import ConvGeometry
from npconv.backends.cpu import differences

pytestmark = pytest.mark.cpu

BOUNDS = {"float32": 5e-5, "float64": 1e-12}
GEOMETRY = ConvGeometry.parse(3, 1, 1, 1)
Shape = tuple[int, int, int, int]


def arrays(rng: np.random.Generator, shape: Shape, o: int) -> list[np.ndarray]:
    """Input, weight, bias and upstream gradient, float32 numbers."""
    n, c, h, w = shape
    shapes = (shape, (o, c, 3, 3), (o,), (n, o, 2 * h, 2 * w))
    return [draws.random(rng, *s, dtype="float32").astype("float64") for s in shapes]


def computed(name: str, x: Any, weight: Any, bias: Any, grad: Any) -> list[np.ndarray]:
    """Output, and gradients of input, weight and bias."""
    with pytest.MonkeyPatch.context() as patch:
        ops = nc.backend()
        patch.setattr(ops, "algorithm", name)
        y = ops.upsample_conv2d_forward(x, weight, bias, (2, 2), GEOMETRY)
        return [y, *ops.upsample_conv2d_backward(grad, x, weight, (2, 2), GEOMETRY)]


@pytest.fixture(autouse=True)
def really_from_differences(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was computed by differences.py: a test whose cases went elsewhere would prove nothing."""
    calls: list[str] = []
    for name in ("forward", "backward"):
        original = getattr(differences, name)

        def counted(*args: Any, _name: str = name, _original: Any = original) -> Any:
            calls.append(_name)
            return _original(*args)

        monkeypatch.setattr(differences, name, counted)
    return calls


shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))


@pytest.mark.parametrize("dtype", BOUNDS)
def test_it_is_the_reference(dtype: str, really_from_differences: list[str]) -> None:
    @given(shape=shapes, o=st.integers(1, 7), seed=draws.seeds)
    def check(shape: Shape, o: int, seed: int) -> None:
        given_arrays = arrays(np.random.default_rng(seed), shape, o)
        found = computed("differences", *(a.astype(dtype) for a in given_arrays))
        for a, b in zip(found, computed("im2col", *given_arrays), strict=True):
            assert a.dtype == dtype
            assert draws.error(a, b) <= BOUNDS[dtype]

    check()
    assert {"forward", "backward"} == set(really_from_differences)


def test_it_is_doubling_and_seven_loops(rng: np.random.Generator) -> None:
    x, weight, bias, grad = arrays(rng, (2, 3, 5, 4), 6)
    y, x_grad, weight_grad, _ = computed("differences", x, weight, bias, grad)
    doubled = x.repeat(2, axis=2).repeat(2, axis=3)
    assert draws.error(y, naive.conv2d(doubled, weight, bias, GEOMETRY)) < 1e-12
    # The exact adjoint, in both arguments: <grad, y(x, w)> = <x_grad, x> = <weight_grad, w>, without the bias.
    linear = float((grad * (y - bias[:, None, None])).sum())
    assert float((x_grad * x).sum()) == pytest.approx(linear, rel=1e-12)
    assert float((weight_grad * weight).sum()) == pytest.approx(linear, rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 4, 13, 9), (2, 4, 6, 5), (7, 4, 3, 4)])
@pytest.mark.parametrize("block_bytes", [1, 2000, 1 << 20])
def test_bands_of_rows_and_threads_change_nothing(
    shape: Shape, block_bytes: int, kernel_threads: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of two rows, of some, and of everything; images shared by threads as images or as bands."""
    monkeypatch.setattr(differences, "BLOCK_BYTES", block_bytes)
    given_arrays = arrays(rng, shape, 5)
    for a, b in zip(computed("differences", *given_arrays), computed("im2col", *given_arrays), strict=True):
        assert draws.error(a, b) <= 1e-12


@pytest.mark.parametrize("what", ["x", "weight", "grad"])
@pytest.mark.parametrize("pattern", ["all", "channels", "pixels", "one"])
@pytest.mark.parametrize("exponent", [-30, -6, 6, 15])
def test_the_error_limit_holds_at_every_scale(what: str, pattern: str, exponent: int, rng: np.random.Generator) -> None:
    drawn = dict(zip(("x", "weight", "bias", "grad"), arrays(rng, (2, 8, 7, 6), 8), strict=True))
    scaled = drawn[what] = drawn[what].copy()
    picked: dict[str, Any] = {"all": ..., "channels": np.s_[:, ::2], "pixels": np.s_[..., ::3], "one": (1, 3, 1, 1)}
    scaled[picked[pattern]] *= 10.0**exponent
    single = [a.astype("float32") for a in drawn.values()]
    exact = computed("im2col", *(a.astype("float64") for a in single))
    for a, b in zip(computed("differences", *single), exact, strict=True):
        assert draws.error(a, b) <= BOUNDS["float32"]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("what", ["x", "grad"])
def test_an_infinity_reaches_the_pixels_that_it_does_in_the_plain_sum(
    value: float, what: str, rng: np.random.Generator
) -> None:
    """A difference with an infinity is infinite on both sides; the result must not show it."""
    x, weight, bias, grad = (a.astype("float32") for a in arrays(rng, (2, 4, 6, 6), 4))
    weight *= 0.01
    (x if what == "x" else grad)[1, 2, 3, 4] = value
    with np.errstate(all="ignore"):
        plain = computed("unfold", x, weight, bias, grad)
        found = computed("differences", x, weight, bias, grad)
    for a, b in zip(found, plain, strict=True):
        assert np.array_equal(np.isnan(a), np.isnan(b)) and np.array_equal(np.isinf(a), np.isinf(b))
        finite = np.isfinite(b)
        assert np.allclose(a[finite], b[finite], rtol=1e-3, atol=1e-3 * abs(b[finite]).max(initial=0))


def test_auto_takes_it_for_many_channels_only(
    rng: np.random.Generator, really_from_differences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = differences.LEAST_CHANNELS - 1, differences.LEAST_CHANNELS
    for channels, expected in ((few, []), (many, ["forward", "backward"])):
        really_from_differences.clear()
        computed("auto", *arrays(rng, (2, channels, 4, 4), many))
        assert really_from_differences == expected


@pytest.mark.parametrize("scale", [(2, 3), (3, 3), (1, 2)])
@pytest.mark.parametrize(("kernel", "padding", "dilation"), [(3, 1, 1), (3, 0, 1), (3, 2, 2), (5, 2, 1)])
def test_other_enlargements_go_elsewhere(scale: Any, kernel: int, padding: int, dilation: int) -> None:
    """Forced or not: what it cannot compute is not given to it."""
    geometry = ConvGeometry.parse(kernel, 1, padding, dilation)
    x, weight = np.zeros((1, 64, 4, 4)), np.zeros((64, 64, kernel, kernel))
    for name in ("auto", "differences"):
        assert not differences.applies(name, x, weight, scale, geometry)
    assert not differences.applies("unfold", x, np.zeros((64, 64, 3, 3)), (2, 2), GEOMETRY)


def test_few_pixels_of_many_channels(rng: np.random.Generator) -> None:
    given_arrays = arrays(rng, (5, 40, 2, 2), 7)
    for a, b in zip(computed("differences", *given_arrays), computed("im2col", *given_arrays), strict=True):
        assert draws.error(a, b) <= 1e-12


@pytest.mark.parametrize("value", [1e20, 1e25])
def test_an_overflow_on_the_way_is_no_warning(value: float, rng: np.random.Generator) -> None:
    """Warnings are errors here: what the check for finite numbers overflows is nobody's concern."""
    x, weight, bias, grad = (a.astype("float32") for a in arrays(rng, (2, 4, 3, 3), 4))
    grad[0, 0, 0, 0] = value
    weight *= 1e-3
    assert np.isfinite(computed("differences", x, weight, bias, grad)[0]).all()
