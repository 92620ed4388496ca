"""Padding in four modes: against a walk along the axis, by picture, and backward as the exact adjoint."""

from __future__ import annotations

from typing import Any

import draws
import naive
import numpy as np
import pytest
from devices import FromHost, on_device
from hypothesis import given
from hypothesis import strategies as st

import npconv as nc

OPS = FromHost()
MODES = ("zeros", "reflect", "replicate", "circular")


@st.composite
def paddings(draw: Any) -> tuple[str, tuple[int, int, int, int], tuple[tuple[int, int], tuple[int, int]]]:
    """A mode, the shape of a batch, and sides that the mode allows for it; zeros may crop."""
    mode = draw(st.sampled_from(MODES))
    shape = (draw(st.integers(0, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    sides = []
    for length in shape[2:]:
        most = {"reflect": length - 1, "circular": length}.get(mode, 7)
        before, after = draw(draws.pairs(0, most))
        if mode == "zeros":
            before, after = draw(st.integers(1 - length, 5)), after
        sides.append((before, after))
    return mode, shape, (sides[0], sides[1])


@given(paddings(), draws.seeds)
def test_padding_is_the_walk(case: tuple[Any, ...], seed: int) -> None:
    mode, shape, sides = case
    x = draws.random(np.random.default_rng(seed), *shape)
    assert np.array_equal(OPS.pad2d_forward(x, sides, mode), naive.pad2d(x, sides, mode))


@given(paddings(), draws.seeds)
def test_backward_is_the_adjoint(case: tuple[Any, ...], seed: int) -> None:
    mode, shape, sides = case
    rng = np.random.default_rng(seed)
    x = draws.random(rng, *shape)
    padded = OPS.pad2d_forward(x, sides, mode)
    y = draws.random(rng, *padded.shape)
    back = OPS.pad2d_backward(y, shape, sides, mode)
    draws.assert_adjoint(draws.inner(padded, y), draws.inner(x, back), padded.size)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("zeros", "00123400"), ("reflect", "32123432"), ("replicate", "11123444"), ("circular", "34123412")],
)
def test_the_pictures_of_the_documentation(mode: str, expected: str) -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    padded = OPS.pad2d_forward(x, ((0, 0), (2, 2)), mode)
    assert "".join(str(int(v)) for v in padded[0, 0, 0]) == expected


@pytest.mark.parametrize("mode", MODES)
def test_numpy_pads_alike(mode: str, rng: np.random.Generator) -> None:
    """np.pad knows the four modes under other names."""
    name = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}.get(mode, mode)
    x = draws.random(rng, 2, 3, 5, 4)
    expected = np.pad(x, ((0, 0), (0, 0), (1, 3), (2, 0)), mode=name)  # type: ignore[call-overload]
    assert np.array_equal(OPS.pad2d_forward(x, ((1, 3), (2, 0)), mode), expected)


@pytest.mark.parametrize("mode", MODES[1:])
@given(draws.windows(), draws.seeds)
def test_a_convolution_with_a_mode_is_padding_then_convolution(
    mode: str, window: tuple[Any, tuple[int, int, int, int]], seed: int
) -> None:
    geometry, shape = window
    pad = tuple(min(p[0], length - 1) for p, length in zip(geometry.padding, shape[2:], strict=True))
    if any(length + 2 * p < e for length, p, e in zip(shape[2:], pad, geometry.extent, strict=True)):
        return
    x = draws.random(np.random.default_rng(seed), *shape)
    options: dict[str, Any] = {"stride": geometry.stride, "dilation": geometry.dilation, "dtype": "float64"}
    layer = nc.Conv2d(shape[1], 2, geometry.kernel, padding=pad, padding_mode=mode, **options)
    padded = naive.pad2d(x, ((pad[0], pad[0]), (pad[1], pad[1])), mode)
    inner = nc.Conv2d(shape[1], 2, geometry.kernel, **options)
    inner.load_state_dict(layer.state_dict())
    assert draws.error(layer(on_device(x)), inner(on_device(padded))) < 1e-12
