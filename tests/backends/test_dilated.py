"""Convolutions taken apart: dilation by phases, groups by blocks of channels, both gradients from one copy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import draws
import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npconv as nc
from npconv.backends import ConvGeometry
from npconv.backends.cpu import choice, dilated, grouped, unfold, winograd

pytestmark = pytest.mark.cpu

BOUNDS = {"float32": 5e-5, "float64": 1e-12}
WINOGRAD = ("winograd2", "winograd4")
FAST = ("unfold", *WINOGRAD, "thin")
Case = tuple[ConvGeometry, tuple[int, int, int, int], int]


@st.composite
def cases(draw: Any, kernel: tuple[int, int] | None = None, dilation: int = 5) -> Case:
    """Stride 1, any padding and cropping, up to 3 groups, sizes around multiples of the phases and tiles."""
    sides = draw(draws.pairs(-2, 7)), draw(draws.pairs(-2, 7))
    groups = draw(st.integers(1, 3))
    gaps = draw(draws.pairs(1, dilation))
    geometry = ConvGeometry(kernel or draw(draws.pairs(1, 5)), (1, 1), sides, gaps, groups)
    size = []
    for axis in (0, 1):
        least = max(1, geometry.extent[axis] - sum(sides[axis]), 1 - min(sides[axis]))
        size.append(draw(st.integers(least, least + 13)))
    channels, outputs = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 9))
    return geometry, (draw(st.integers(0, 3)), channels, size[0], size[1]), outputs


def arrays(seed: int, case: Case) -> list[np.ndarray]:
    """Input, weight, bias and upstream gradient."""
    geometry, shape, o = case
    rng, out = np.random.default_rng(seed), geometry.output_size(shape[2:])
    shapes = (shape, (o, shape[1] // geometry.groups, *geometry.kernel), (o,), (shape[0], o, *out))
    return [draws.random(rng, *s, dtype="float32").astype("float64") for s in shapes]


def computed(name: str, x: Any, weight: Any, bias: Any, grad: Any, geometry: ConvGeometry) -> list[np.ndarray]:
    """Output, and gradients of input, weight and bias, by one algorithm."""
    with pytest.MonkeyPatch.context() as patch:
        ops = nc.backend()
        patch.setattr(ops, "algorithm", name)
        return [ops.conv2d_forward(x, weight, bias, geometry), *ops.conv2d_backward(grad, x, weight, geometry)]


def check(name: str, dtype: str, case: Case, seed: int) -> None:
    given_arrays = arrays(seed, case)
    found = computed(name, *(a.astype(dtype) for a in given_arrays), case[0])
    for a, b in zip(found, computed("im2col", *given_arrays, case[0]), strict=True):
        assert a.dtype == dtype
        assert draws.error(a, b) <= BOUNDS[dtype], name


@given(case=cases((3, 3)), seed=draws.seeds)
def test_phases_and_groups_are_the_reference(case: Case, seed: int) -> None:
    for name in (*WINOGRAD, "auto"):
        for dtype in BOUNDS:
            check(name, dtype, case, seed)


@given(case=cases(), seed=draws.seeds)
def test_unfolding_is_the_reference(case: Case, seed: int) -> None:
    """Both gradients from columns of the upstream one, where there are no more outputs than inputs."""
    for dtype in BOUNDS:
        check("unfold", dtype, case, seed)


@given(case=cases((3, 3), 3), seed=draws.seeds)
def test_the_output_is_seven_loops(case: Case, seed: int) -> None:
    geometry, (x, weight, bias, grad) = case[0], arrays(seed, case)
    exact = naive.conv2d(x, weight, bias, geometry)
    for name in ("unfold", *WINOGRAD):
        y = computed(name, x, weight, bias, grad, geometry)[0]
        assert draws.error(y, exact) < 1e-12, name


@pytest.mark.parametrize("name", ["unfold", *WINOGRAD, "auto"])
@pytest.mark.parametrize("shape", [(1, 6, 29, 11), (2, 6, 29, 11), (7, 6, 6, 6)])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 2)])
@pytest.mark.parametrize(("dilation", "groups"), [((2, 3), 1), ((1, 1), 3), ((3, 1), 2)])
def test_threads_that_share_an_operation_change_nothing(
    name: str, shape: Any, kernel: Any, dilation: Any, groups: int, kernel_threads: int
) -> None:
    """One image is shared by bands of rows, which begin and end within a phase; several by images."""
    check(name, "float64", (ConvGeometry(kernel, (1, 1), ((4, 3), (2, 5)), dilation, groups), shape, 6), 1)


@pytest.mark.parametrize("name", ["unfold", *WINOGRAD, "auto"])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
def test_transposed_groups_are_loops_and_adjoints(
    name: str, stride: Any, dilation: Any, kernel_threads: int, rng: np.random.Generator
) -> None:
    geometry = ConvGeometry((3, 3), stride, ((1, 0), (2, 1)), dilation, 2)
    x, weight, bias = (draws.random(rng, *s) for s in ((2, 6, 9, 7), (6, 2, 3, 3), (4,)))
    size = geometry.transposed_size((9, 7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nc.backend(), "algorithm", name)
        y = nc.backend().conv_transpose2d_forward(x, weight, bias, geometry)
        grad = draws.random(rng, *y.shape)
        found = nc.backend().conv_transpose2d_backward(grad, x, weight, geometry)
        patch.setattr(nc.backend(), "algorithm", "im2col")
        exact = nc.backend().conv_transpose2d_backward(grad, x, weight, geometry)
    assert draws.error(y, naive.conv_transpose2d(x, weight, bias, geometry, size)) < 1e-12
    assert all(draws.error(a, b) < 1e-12 for a, b in zip(found, exact, strict=True))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("name", ["unfold", *WINOGRAD])
@pytest.mark.parametrize(("dilation", "groups"), [(2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("place", [(5, 6), (0, 11)])
def test_an_infinity_reaches_what_it_does_in_the_plain_sum(
    name: str, value: float, dilation: int, groups: int, place: tuple[int, int]
) -> None:
    """At the edge, some taps never see it, although there are zeros of a padding to multiply it with."""
    geometry = ConvGeometry.parse(3, 1, dilation, dilation, groups)
    x, weight, bias, grad = (a.astype("float32") for a in arrays(0, (geometry, (2, 4, 12, 12), 4)))
    x[(1, 2, *place)] = value
    weight *= 0.01
    if not np.isfinite(value):  # of several numbers of 3e38, the order would decide which sums overflow
        grad[0, 1, 3, 3] = value
    with np.errstate(all="ignore"):
        plain = computed("im2col", x, weight, bias, grad, geometry)
        found = computed(name, x, weight, bias, grad, geometry)
    for a, b in zip(found, plain, strict=True):
        assert np.array_equal(np.isnan(a), np.isnan(b)) and np.array_equal(np.isinf(a), np.isinf(b))
        finite = np.isfinite(b)
        assert np.allclose(a[finite], b[finite], rtol=1e-3, atol=1e-3 * abs(b[finite]).max(initial=0))


@given(st.integers(1, 20), st.integers(-9, 9), st.integers(1, 6), st.integers(1, 5))
def test_phases_see_what_the_taps_see(size: int, padding: int, dilation: int, kernel: int) -> None:
    """Pixel by pixel, along one axis: each output is in one phase, and each of its taps where the phase says."""
    seen, pixels = [], np.arange(200) - 100  # numbers of the input's pixels, far beyond its edges
    for phase in dilated.phases(size, padding, dilation):
        outputs = np.arange(size)[phase.outputs]
        for v, o in enumerate(outputs):
            taps = [phase.inputs.start + dilation * (v + t - phase.before) for t in range(kernel)]
            assert taps == [o - padding + dilation * t for t in range(kernel)]
            assert 0 <= phase.inputs.start < dilation and phase.inputs.step == dilation and taps[0] in pixels
        seen += list(outputs)
    assert sorted(seen) == list(range(size))


def work(dilation: int, kernel: int = 3, channels: int = 64) -> choice.Work:
    geometry = ConvGeometry.parse(kernel, 1, dilation * (kernel // 2), dilation)
    return choice.Work(16, 32, 32, channels, channels, geometry)


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("name", FAST)
def test_one_group_costs_what_a_convolution_does(name: str, kernel: bool) -> None:
    """And what groups multiply is shared out: of four, each has a quarter of the products over channels."""
    one = work(1, channels=8)
    assert grouped.cost(name, one, 1, kernel) == pytest.approx(choice.cost(name, one, kernel))
    assert grouped.cost(name, one, 4, kernel) < choice.cost(name, work(1, channels=32), kernel) or name == "thin"
    forced = [grouped.algorithm(forced, one, 4, kernel) for forced in FAST]
    assert forced == [algorithm if algorithm in choice.applicable(one, kernel) else "unfold" for algorithm in FAST]
    assert grouped.algorithm("auto", one, 8, kernel) in WINOGRAD  # for one alone it would be unfold


@pytest.mark.parametrize("kernel", [False, True])
def test_phases_are_taken_where_they_are_cheaper(kernel: bool) -> None:
    assert dilated.for_phases("auto", work(2), 1, kernel) in WINOGRAD
    assert dilated.for_phases("auto", work(2, channels=16), 4, kernel) in WINOGRAD
    assert dilated.for_phases("auto", work(2, channels=16), 1, kernel) is None
    assert dilated.for_phases("auto", work(32), 1, kernel) is None  # tiles for a pixel each
    assert dilated.for_phases("auto", work(2, channels=1), 1, kernel) is None
    for name in ("auto", *WINOGRAD):
        assert dilated.for_phases(name, work(1), 1, kernel) is None
        assert dilated.for_phases(name, work(2, kernel=5), 1, kernel) is None
    assert [dilated.for_phases(name, work(2), 1, kernel) for name in ("unfold", "thin", *WINOGRAD)] == [
        None, None, *WINOGRAD,
    ]  # fmt: skip
    strided = replace(work(2).geometry, stride=(2, 2))
    assert dilated.for_phases("winograd4", work(2)._replace(geometry=strided), 1, kernel) is None


@pytest.mark.parametrize("name", WINOGRAD)
@pytest.mark.parametrize(("dilation", "groups"), [(2, 1), (2, 2), (1, 2)])
def test_winograd_computes_what_it_is_forced_to(
    name: str, dilation: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not im2col behind its back."""
    geometry = ConvGeometry.parse(3, 1, dilation, dilation, groups)
    given_arrays = arrays(0, (geometry, (2, 4, 9, 8), 6))
    for module in (unfold, winograd.unfold, grouped.unfold):
        monkeypatch.setattr(module, "column_blocks", None)
    found = computed(name, *given_arrays, geometry)
    for a, b in zip(found, computed("im2col", *given_arrays, geometry), strict=True):
        assert draws.error(a, b) <= 1e-12


@pytest.mark.parametrize(("channels", "outputs", "shared"), [(6, 4, True), (4, 4, True), (4, 6, False)])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_the_thinner_side_is_unfolded_once(
    channels: int, outputs: int, shared: bool, kernel_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    geometry = ConvGeometry.parse(kernel_size, 1, 1)
    unfolded, blocks = [], unfold.column_blocks

    def counted(x: Any, *arguments: Any) -> Any:
        unfolded.append(x.shape[3])
        return blocks(x, *arguments)

    x, weight, _, grad = arrays(0, (geometry, (2, channels, 20, 20), outputs))
    monkeypatch.setattr(unfold, "column_blocks", counted)
    monkeypatch.setattr(nc.backend(), "algorithm", "unfold")
    nc.backend().run([lambda: nc.backend().conv2d_backward(grad, x, weight, geometry)])
    assert set(unfolded) == ({outputs} if shared else {channels, outputs})


@pytest.mark.parametrize("name", FAST)
def test_groups_share_one_split(
    name: str, kernel_threads: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Of the images, and not one for each group."""
    splits, ops = [], nc.backend()
    split = ops._pool.split
    monkeypatch.setattr(ops, "algorithm", name)
    monkeypatch.setattr(ops._pool, "split", lambda *arguments: splits.append(arguments[0]) or split(*arguments))
    geometry = ConvGeometry.parse(3, 1, 1, 1, 4)
    x, weight = rng.standard_normal((4, 16, 16, 32)), rng.standard_normal((32, 8, 3, 3))
    ops._correlate(x, weight, None, geometry, np.empty_like(x))
    ops._kernel_gradient(x, x, geometry)
    assert splits == ([1, 1] if kernel_threads == 1 else [4, 4])
