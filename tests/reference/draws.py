"""What hypothesis draws: geometries, images that they fit, and random arrays; and the error that tests bound."""

from __future__ import annotations

from typing import Any

import numpy as np
from devices import on_host
from hypothesis import strategies as st

from npconv.backends import ConvGeometry

seeds = st.integers(0, 2**32 - 1)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def geometries(draw: Any, groups: bool = False, cropping: bool = False) -> ConvGeometry:
    """Any kernel up to 4, stride up to 4, dilation up to 3, padding that need not be the same on both sides."""
    least = -2 if cropping else 0
    return ConvGeometry(
        kernel=draw(pairs(1, 4)),
        stride=draw(pairs(1, 4)),
        padding=(draw(pairs(least, 3)), draw(pairs(least, 3))),
        dilation=draw(pairs(1, 3)),
        groups=draw(st.integers(1, 3)) if groups else 1,
    )


@st.composite
def windows(draw: Any, **options: bool) -> tuple[ConvGeometry, tuple[int, int, int, int]]:
    """A geometry, and the shape of a batch that at least one window fits into; the batch may be empty."""
    geometry = draw(geometries(**options))
    size = []
    for axis in (0, 1):
        least = max(1, geometry.extent[axis] - sum(geometry.padding[axis]), -geometry.padding[axis][0] + 1)
        size.append(draw(st.integers(least, least + 6)))
    return geometry, (draw(st.integers(0, 3)), geometry.groups * draw(st.integers(1, 2)), size[0], size[1])


@st.composite
def transposed_windows(draw: Any, **options: bool) -> tuple[ConvGeometry, tuple[int, int, int, int], tuple[int, int]]:
    """A geometry, the shape of a transposed convolution's input, and the size of its output."""
    geometry = draw(geometries(**options))
    size = []
    for axis in (0, 1):
        cut, reach, stride = sum(geometry.padding[axis]), geometry.extent[axis], geometry.stride[axis]
        least = max(1, -(-(1 + cut - reach) // stride) + 1)
        size.append(draw(st.integers(least, least + 3)))
    shape = (draw(st.integers(0, 3)), geometry.groups * draw(st.integers(1, 2)), size[0], size[1])
    return geometry, shape, geometry.transposed_size((size[0], size[1]))


def random(rng: np.random.Generator, *shape: int, dtype: str = "float64") -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def inner(a: Any, b: Any) -> float:
    """<a, b>: the sum over all elements of their product."""
    a, b = on_host(a), on_host(b)
    assert a.shape == b.shape
    return float((a.astype("float64") * b.astype("float64")).sum())


def error(value: Any, exact: Any) -> float:
    """The largest error, relative to the largest exact value."""
    value, exact = np.asarray(on_host(value), "float64"), np.asarray(on_host(exact), "float64")
    assert value.shape == exact.shape
    if value.size == 0:
        return 0.0
    return float(abs(value - exact).max()) / max(float(abs(exact).max()), 1e-30)


def assert_adjoint(left: float, right: float, scale: float, what: str = "") -> None:
    """<A x, y> = <x, A^T y> to rounding, `scale` being the size of what is summed."""
    assert abs(left - right) <= 1e-12 * max(scale, 1.0), what
