"""Each convolution algorithm where it applies: error limits at all scales, parts, infinities, and reused memory."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import draws
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npconv as nc
from npconv.backends import ConvGeometry
from npconv.backends.cpu import memory, prepared, unfold
from npconv.backends.cpu.winograd import Winograd

pytestmark = pytest.mark.cpu

BOUNDS = {"float32": 5e-5, "float64": 1e-12}
FAST = ("unfold", "winograd2", "winograd4", "thin")
Shape = tuple[int, int, int, int]


@st.composite
def three_by_threes(draw: Any) -> tuple[ConvGeometry, Shape, int]:
    """What Winograd and thin take: 3x3, stride 1, any padding, and sizes around multiples of the tiles."""
    padding = (draw(draws.pairs(-1, 3)), draw(draws.pairs(-1, 3)))
    size = tuple(draw(st.integers(max(1, 3 - sum(sides), 1 - min(sides)), 14)) for sides in padding)
    geometry = ConvGeometry((3, 3), (1, 1), padding, (1, 1))
    return geometry, (draw(st.integers(0, 3)), draw(st.integers(1, 5)), size[0], size[1]), draw(st.integers(1, 9))


def computed(name: str, x: Any, weight: Any, bias: Any, grad: Any, geometry: ConvGeometry) -> list[np.ndarray]:
    """Output, and gradients of input, weight and bias, by one algorithm."""
    with pytest.MonkeyPatch.context() as patch:
        ops = nc.backend()
        patch.setattr(ops, "algorithm", name)
        return [ops.conv2d_forward(x, weight, bias, geometry), *ops.conv2d_backward(grad, x, weight, geometry)]


def arrays(rng: np.random.Generator, geometry: ConvGeometry, shape: Shape, o: int) -> list[np.ndarray]:
    out = geometry.output_size(shape[2:])
    shapes = (shape, (o, shape[1], *geometry.kernel), (o,), (shape[0], o, *out))
    return [draws.random(rng, *s, dtype="float32").astype("float64") for s in shapes]


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", FAST)
@given(case=three_by_threes(), seed=draws.seeds)
def test_a_forced_algorithm_is_the_reference(name: str, dtype: str, case: Any, seed: int) -> None:
    geometry, shape, o = case
    given_arrays = arrays(np.random.default_rng(seed), geometry, shape, o)
    exact = computed("im2col", *given_arrays, geometry)
    found = computed(name, *(a.astype(dtype) for a in given_arrays), geometry)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == dtype
        assert draws.error(a, b) <= BOUNDS[dtype]


@pytest.mark.parametrize("name", [*FAST, "auto"])
@pytest.mark.parametrize("what", ["x", "weight", "grad"])
@pytest.mark.parametrize("pattern", ["all", "channels", "pixels", "one"])
@pytest.mark.parametrize("exponent", [-30, -6, 6, 15])
def test_the_error_limit_holds_at_every_scale(
    name: str, what: str, pattern: str, exponent: int, rng: np.random.Generator
) -> None:
    """Very large or small numbers: everywhere, in every other channel, in every third pixel, or in one place."""
    geometry = ConvGeometry.parse(3, 1, 1)
    drawn = dict(zip(("x", "weight", "bias", "grad"), arrays(rng, geometry, (2, 8, 13, 10), 8), strict=True))
    scaled = drawn[what] = drawn[what].copy()
    picked: dict[str, Any] = {"all": ..., "channels": np.s_[:, ::2], "pixels": np.s_[..., ::3], "one": (1, 3, 1, 1)}
    scaled[picked[pattern]] *= 10.0**exponent
    single = [a.astype("float32") for a in drawn.values()]
    exact = computed("im2col", *(a.astype("float64") for a in single), geometry)
    for a, b in zip(computed(name, *single, geometry), exact, strict=True):
        assert draws.error(a, b) <= BOUNDS["float32"]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("name", ["winograd2", "winograd4"])
def test_an_infinity_reaches_the_pixels_that_it_does_in_the_plain_sum(
    name: str, value: float, rng: np.random.Generator
) -> None:
    """Winograd mixes a whole tile; the result must not show it. 3e38 overflows within a tile only."""
    geometry = ConvGeometry.parse(3, 1, 1)
    x, weight, bias, grad = (a.astype("float32") for a in arrays(rng, geometry, (2, 3, 12, 12), 4))
    x[1, 2, 5, 6] = value
    weight *= 0.01
    grad[0, 1, 3, 3] = value
    with np.errstate(all="ignore"):
        plain = computed("unfold", x, weight, bias, grad, geometry)
        found = computed(name, x, weight, bias, grad, geometry)
    for a, b in zip(found, plain, strict=True):
        assert np.array_equal(np.isnan(a), np.isnan(b)) and np.array_equal(np.isinf(a), np.isinf(b))
        finite = np.isfinite(b)
        assert np.allclose(a[finite], b[finite], rtol=1e-3, atol=1e-3 * abs(b[finite]).max(initial=0))


@pytest.mark.parametrize("m", [2, 4])
def test_winograds_matrices_compute_a_correlation(m: int) -> None:
    """A^T [(G g) * (B^T d)] is the m outputs of 3 taps over m + 2 inputs: an identity, for any g and d."""
    rng = np.random.default_rng(m)
    bb, gg, aa = Winograd(m).matrices[np.dtype("f8")]
    d, g = rng.standard_normal((m + 2, m + 2)), rng.standard_normal((3, 3))
    y = aa @ ((gg @ g.reshape(-1)) * (bb @ d.reshape(-1)))
    plain = [[(d[i : i + 3, j : j + 3] * g).sum() for j in range(m)] for i in range(m)]
    assert np.allclose(y.reshape(m, m), plain, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("shape", [(1, 6, 13, 9), (2, 6, 13, 9), (7, 6, 5, 6)])
def test_threads_that_share_an_operation_change_nothing(
    name: str, shape: Shape, kernel_threads: int, rng: np.random.Generator
) -> None:
    """One image is shared by bands of rows, several by images."""
    geometry = ConvGeometry.parse(3, 1, 1)
    given_arrays = arrays(rng, geometry, shape, 5)
    exact = computed("im2col", *given_arrays, geometry)
    for a, b in zip(computed(name, *given_arrays, geometry), exact, strict=True):
        assert draws.error(a, b) <= 1e-12


@pytest.mark.parametrize("name", FAST)
def test_few_pixels_are_shared_by_channels(name: str, kernel_threads: int, rng: np.random.Generator) -> None:
    geometry = ConvGeometry.parse(3, 1, 1)
    given_arrays = arrays(rng, geometry, (1, 48, 3, 3), 40)
    assert nc.backend()._few_pixels(np.empty((1, 3, 3, 40)), 40 * 48 * 9) == (kernel_threads > 1)
    exact = computed("im2col", *given_arrays, geometry)
    for a, b in zip(computed(name, *given_arrays, geometry), exact, strict=True):
        assert draws.error(a, b) <= 1e-12


def test_no_result_of_a_hundred_calls_is_overwritten(algorithm: str, rng: np.random.Generator) -> None:
    """Large enough that every array comes from memory that is used again; all are kept, and looked at again."""
    layers = [nc.Conv2d(8, 8, 3, padding=1), nc.ConvTranspose2d(8, 8, 4, 2, 1), nc.ReLU(), nc.MaxPool2d(2)]
    layers += [nc.Conv2d(8, 3, 3, padding=1), nc.BatchNorm2d(8), nc.Upsampling(8, 8, 4, 2, 1), nc.Sigmoid()]
    kept, copies = [], []
    for call in range(100):
        layer = layers[call % len(layers)]
        x = nc.backend().images(rng.standard_normal((2, 8, 64, 64)).astype("float32"))
        y = layer(x)
        grad = nc.backend().images(rng.standard_normal(y.shape).astype("float32"))
        x_grad = layer.backward(grad)
        kept += [x, y, grad, x_grad]
        copies += [a.copy() for a in (x, y, grad, x_grad)]
        if call % 3 == 0:  # some are let go, so that there is memory to use again
            del kept[:2], copies[:2]
    assert all(a.nbytes >= memory.SMALL for a in kept if a.shape[1] == 8)
    assert all(np.array_equal(a, b) for a, b in zip(kept, copies, strict=True))


@pytest.mark.parametrize("processes", ["0", "1"])
@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_steady_training_allocates_nothing_large(
    upsampling: str, processes: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once every thread has had every share: which of them takes one is a matter of chance."""
    monkeypatch.setenv("NPCONV_PROCESSES", processes)
    memory.release()  # earlier tests may have left blocks of all sizes
    blocks, make = [], memory._new_block  # tracemalloc does not see what comes straight from the system
    monkeypatch.setattr(memory, "_new_block", lambda size, free: blocks.append(size) or make(size, free))
    model = nc.Model(nc.networks.strided(16, 3, upsampling))
    x, t = (nc.backend().images(rng.random((32, 3, 32, 32), dtype="float32")) for _ in range(2))
    for _ in range(16):
        model.train_batch(x, t)
    assert blocks
    made = len(blocks)
    peaks, left = zip(*(_allocated(lambda: model.train_batch(x, t)) for _ in range(6)), strict=True)
    # A thread may meet a share that is new to it; without free blocks each of the 36 steps would ask for some.
    assert len(blocks) <= made + 12, "steps go on asking for memory"
    activation = 32 * 16 * 16 * 16 * 4
    # Kernels by phase, masks and Python's own: 155 KB in one worker, 262 KB where two have them at the same moment.
    assert min(peaks) < 0.6 * activation, "a step allocates an array as large as an activation"
    assert min(left) < 20_000, "steps leave memory behind"


def _allocated(step: Callable[[], Any]) -> tuple[int, int]:
    """Bytes that five steps allocate at their peak, and leave."""
    tracemalloc.start()
    try:
        step()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(5):
            step()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak - before, after - before


def test_memory_comes_back_when_the_last_view_is_gone() -> None:
    x = memory.empty((100, 300), np.float32)
    address, view = x.ctypes.data, x[5:].T
    assert address % 64 == 0  # a cache line
    del x
    assert memory.empty((100, 300), np.float32).ctypes.data != address
    del view
    taken = [memory.empty((100, 300), np.float32).ctypes.data for _ in range(1)]
    assert taken == [address]


def test_views_of_the_owner_of_memory_own_nothing(recwarn: pytest.WarningsRecorder) -> None:
    x = memory.empty((100, 300), np.float32)
    part, twin = x.base[:10], copy.deepcopy(x.base)
    del part, twin
    assert memory.empty((100, 300), np.float32).ctypes.data != x.ctypes.data


def test_free_memory_beyond_the_bound_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEPT_BYTES", 1 << 22)
    memory.release()
    most = 0
    for exponent in range(17, 23):
        memory.empty((1 << exponent,), np.uint8)
        most = max(most, sum(size * len(blocks) for size, blocks in memory._mine.free.items()))
    assert (1 << 21) < most <= 1 << 22
    memory.release()
    assert not any(memory._mine.free.values())


def test_effective_weights_are_computed_once_a_step(rng: np.random.Generator) -> None:
    weight, made = rng.standard_normal((2, 2, 3, 3)), []

    def make() -> int:
        made.append(1)
        return len(made)

    assert [prepared.prepared(weight, "a", make) for _ in range(2)] == [1, 2]
    with prepared.constant_weights():
        assert [prepared.prepared(weight, "a", make) for _ in range(3)] == [3, 3, 3]
        assert prepared.prepared(weight.copy(), "a", make) == 4
    assert prepared.prepared(weight, "a", make) == 5


def test_a_step_follows_the_weights(rng: np.random.Generator) -> None:
    """What is kept within a step is not kept for the next: a change of the weights by hand shows at once."""
    model = nc.Model(nc.Sequential(nc.Conv2d(3, 8, 3, padding=1), nc.Upsampling(8, 3, 4, 2, 1)))
    x = (rng.random((2, 3, 8, 8)) * 255).astype("float32")
    before = model.predict(x)
    for parameter in model.network.parameters():
        parameter.data[...] = 0
    assert before.any() and not model.predict(x).any()


def test_a_product_that_does_not_fit_its_target_is_copied_there(rng: np.random.Generator) -> None:
    """Some channels of a larger array, as for groups: there the product has no place of its own."""
    geometry = ConvGeometry.parse(3, 1, 1)
    x, weight = rng.standard_normal((2, 5, 6, 4)), rng.standard_normal((3, 4, 3, 3))
    whole, large = np.empty((2, 5, 6, 3)), np.zeros((2, 5, 6, 7))
    for y in (whole, large[..., 2:5]):
        unfold.forward(x, weight, None, geometry, y, slice(0, 2), slice(0, 5))
    assert np.array_equal(large[..., 2:5], whole) and not large[..., :2].any() and not large[..., 5:].any()


def test_memory_that_is_not_there_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="no memory for an array of"):
        memory.empty((1 << 50,), np.float32)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_does_not_write_into_our_memory() -> None:
    """In a fresh interpreter: a fork of this one, with its threads, would be warned of."""
    script = """
import os
import npconv
from npconv.backends.cpu import memory
x = memory.empty((100, 300), "float32")
x.fill(1)
child = os.fork()
if child == 0:
    x.fill(2)
    os._exit(0)
os.waitpid(child, 0)
assert (x == 1).all()
"""
    subprocess.run([sys.executable, "-c", script], check=True)
