"""What only a GPU can show: the kernels as NVRTC compiles them, graphs, that nothing waits, and very large arrays.

Everything here is skipped without a GPU. The kernels' arithmetic is tested on the CPU as well, by the other files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from devices import FromHost

import npconv as nc
from npconv import backends
from npconv.backends import ConvGeometry
from npconv.backends.gpu import CupyBackend

pytestmark = pytest.mark.gpu

BOUNDS = {"float64": 1e-12, "float32": 2e-5, "tf32": 5e-3}  # on max |difference| / max |value|
SAME = ((1, 1), (1, 1))
LARGE_BYTES = 24 * 2**30
SPIN = """
extern "C" __global__ void spin(long long cycles) {
    long long start = clock64();
    while (clock64() - start < cycles) {}
}
"""

# channels, output channels, (N, H, W), geometry
CONVOLUTIONS = [
    (3, 64, (4, 33, 29), ConvGeometry((3, 3), padding=SAME)),
    (64, 3, (4, 33, 29), ConvGeometry((3, 3), padding=SAME)),
    (64, 64, (4, 32, 32), ConvGeometry((3, 3), padding=SAME)),
    (32, 48, (3, 17, 23), ConvGeometry((3, 3), (2, 2), SAME)),
    (48, 32, (2, 16, 20), ConvGeometry((4, 4), (2, 2), SAME)),
    (20, 36, (2, 19, 18), ConvGeometry((5, 3), (1, 2), ((2, 1), (0, 1)), (2, 1))),
    (64, 128, (3, 9, 11), ConvGeometry((1, 1))),
    (64, 64, (2, 24, 24), ConvGeometry((3, 3), padding=SAME, groups=64)),
    (32, 64, (2, 15, 14), ConvGeometry((3, 3), padding=SAME, groups=4)),
]
SHAPE, POOLED = (3, 12, 18, 15), (3, 12, 9, 15)
POOL = ConvGeometry((3, 2), (2, 1), ((1, 1), (0, 1)))
# Operations with the shapes of their arrays, and what else they take.
OPERATIONS: list[tuple[str, list[tuple[int, ...]], tuple[Any, ...]]] = [
    ("max_pool2d_forward", [SHAPE], (POOL,)),
    ("avg_pool2d_forward", [SHAPE, (9, 15)], (POOL,)),
    ("avg_pool2d_backward", [POOLED, (9, 15)], (SHAPE, POOL)),
    ("upsample_nearest_forward", [(2, 5, 3, 2)], ([0, 0, 1, 2, 2], [0, 1, 1])),
    ("upsample_nearest_backward", [(2, 5, 5, 3)], ((2, 5, 3, 2), [0, 0, 1, 2, 2], [0, 1, 1])),
    ("pixel_shuffle", [SHAPE], (2,)),
    ("pixel_unshuffle", [(2, 3, 6, 8)], (2,)),
    ("pad2d_forward", [SHAPE], (((1, 2), (2, 1)), "reflect")),
    ("pad2d_backward", [(3, 12, 21, 18)], (SHAPE, ((1, 2), (2, 1)), "replicate")),
    ("relu_forward", [SHAPE], ()),
    ("relu_backward", [SHAPE, SHAPE], ()),
    ("leaky_relu_forward", [SHAPE], (0.1,)),
    ("leaky_relu_backward", [SHAPE, SHAPE], (0.1,)),
    ("sigmoid_forward", [SHAPE], ()),
    ("sigmoid_backward", [SHAPE, SHAPE], ()),
    ("tanh_forward", [SHAPE], ()),
    ("tanh_backward", [SHAPE, SHAPE], ()),
    ("add", [SHAPE, SHAPE], ()),
    ("scaled", [SHAPE], (0.5,)),
    ("mse_forward", [SHAPE, SHAPE], ()),
    ("mse_backward", [SHAPE, SHAPE], ()),
    ("l1_forward", [SHAPE, SHAPE], ()),
    ("l1_backward", [SHAPE, SHAPE], ()),
    ("batch_norm_statistics", [SHAPE], ()),
    ("batch_norm_forward", [SHAPE, (12,), (12,), (12,), (12,)], (1e-5,)),
    ("batch_norm_backward", [SHAPE, SHAPE, (12,), (12,), (12,)], (1e-5, True)),
    ("linear_forward", [(5, 40), (30, 40), (30,)], ()),
    ("linear_backward", [(5, 30), (5, 40), (30, 40)], ()),
]

NETWORKS: dict[str, Callable[[], nc.Module]] = {
    "nearest": lambda: nc.networks.strided(32),
    "transposed": lambda: nc.networks.strided(32, upsampling="transposed"),
    "norm": lambda: nc.Sequential(
        nc.Conv2d(3, 16, 3, padding=1),
        nc.BatchNorm2d(16),
        nc.LeakyReLU(0.1),
        nc.MaxPool2d(2),
        nc.Concat(nc.Identity(), nc.Conv2d(16, 16, 3, padding=1, groups=16)),
        nc.UpsamplingNearest2d(scale_factor=2),
        nc.Conv2d(32, 3, 3, padding=1),
        nc.Sigmoid(),
    ),
}
OPTIMIZERS: dict[str, Callable[[Any], nc.optim.Optimizer]] = {
    "momentum": lambda parameters: nc.SGD(parameters, lr=0.01, momentum=0.9),
    "adam": lambda parameters: nc.Adam(parameters, lr=1e-3),
}


@pytest.fixture(autouse=True)
def compiler() -> None:
    """Instead of the fixture of this name that looks for g++: here a GPU runs the kernels."""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Callable[..., CupyBackend]:
    """Makes the cupy backend anew, for NPCONV_<name> = value of what it is given, and activates it."""

    def make(**settings: str) -> CupyBackend:
        for name, value in settings.items():
            monkeypatch.setenv(f"NPCONV_{name}", value)
        made = CupyBackend()
        monkeypatch.setitem(backends._made, "cupy", made)
        monkeypatch.setattr(backends, "_active", (made, "a test"))
        return made

    return make


@functools.cache
def cpu() -> Any:
    with nc.use_backend("numpy") as made:
        return made


def several(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_near(found: Any, expected: Any, bound: float) -> None:
    for one, other in zip(several(found), several(expected), strict=True):
        one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= bound * max(np.abs(other).max(), 1e-30)


def policy(dtype: str) -> tuple[str, str]:
    """The dtype of arrays, and NPCONV_TF32."""
    return ("float32", "1") if dtype == "tf32" else (dtype, "0")


# ---- kernels ----
@pytest.mark.parametrize("algorithm", ["auto", "implicit", "im2col"])
@pytest.mark.parametrize("dtype", list(BOUNDS))
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: f"{case[0]}-{case[1]}-{case[3].kernel}")
def test_convolutions(case: Any, dtype: str, algorithm: str, device: Any, rng: np.random.Generator) -> None:
    channels, out_channels, (n, height, width), geometry = case
    arrays, tf32 = policy(dtype)
    ours, reference, bound = FromHost(device(TF32=tf32, GPU_CONV=algorithm)), cpu(), BOUNDS[dtype]

    def draw(*shape: int) -> tuple[Any, Any]:
        values = rng.standard_normal(shape).astype(arrays)
        return values, values.astype("float64")

    x, wide_x = draw(n, channels, height, width)
    weight, wide_weight = draw(out_channels, channels // geometry.groups, *geometry.kernel)
    (bias, wide_bias), (back, wide_back) = draw(out_channels), draw(channels)
    y = reference.conv2d_forward(wide_x, wide_weight, wide_bias, geometry)
    grad, wide_grad = draw(*y.shape)
    assert_near(ours.conv2d_forward(x, weight, bias, geometry), y, bound)
    assert_near(ours.conv2d_forward(x, weight, bias, geometry, "leaky_relu", 0.1), np.where(y > 0, y, y * 0.1), bound)
    expected = reference.conv2d_backward(wide_grad, wide_x, wide_weight, geometry)
    assert_near(ours.conv2d_backward(grad, x, weight, geometry), expected, bound)
    expected = reference.conv_transpose2d_forward(wide_grad, wide_weight, wide_back, geometry)
    assert_near(ours.conv_transpose2d_forward(grad, weight, back, geometry), expected, bound)
    upstream, wide_upstream = draw(*expected.shape)
    expected = reference.conv_transpose2d_backward(wide_upstream, wide_grad, wide_weight, geometry)
    assert_near(ours.conv_transpose2d_backward(upstream, grad, weight, geometry), expected, bound)
    if geometry.groups > 1 or geometry.stride != (1, 1):
        return
    expected = reference.upsample_conv2d_forward(wide_x, wide_weight, wide_bias, (2, 2), geometry)
    assert_near(ours.upsample_conv2d_forward(x, weight, bias, (2, 2), geometry), expected, bound)
    upstream, wide_upstream = draw(*expected.shape)
    expected = reference.upsample_conv2d_backward(wide_upstream, wide_x, wide_weight, (2, 2), geometry)
    assert_near(ours.upsample_conv2d_backward(upstream, x, weight, (2, 2), geometry), expected, bound)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "shapes", "rest"), OPERATIONS, ids=[case[0] for case in OPERATIONS])
def test_operations(
    name: str, shapes: list[tuple[int, ...]], rest: tuple[Any, ...], dtype: str, device: Any, rng: np.random.Generator
) -> None:
    values = [rng.standard_normal(shape) for shape in shapes]  # images of either sign; variances and divisors of one
    arrays = [(x if x.ndim == 4 else np.abs(x) + 0.1).astype(dtype) for x in values]
    expected = getattr(cpu(), name)(*[array.astype("float64") for array in arrays], *rest)
    assert_near(getattr(FromHost(device()), name)(*arrays, *rest), expected, BOUNDS[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_max_pooling_backward(dtype: str, device: Any, rng: np.random.Generator) -> None:
    x, grad = (rng.standard_normal(shape).astype(dtype) for shape in (SHAPE, POOLED))
    ours = FromHost(device())
    _, winners = ours.max_pool2d_forward(x, POOL)
    back = cpu().max_pool2d_backward(grad, cpu().max_pool2d_forward(x, POOL)[1], SHAPE, POOL)
    assert_near(ours.max_pool2d_backward(grad, winners, SHAPE, POOL), back, BOUNDS[dtype])


@pytest.mark.parametrize("name", ["masked_mse_forward", "masked_mse_backward"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masked_loss(name: str, dtype: str, device: Any, rng: np.random.Generator) -> None:
    prediction, target = (rng.standard_normal(SHAPE).astype(dtype) for _ in range(2))
    weight = (rng.random(SHAPE) < 0.3).astype(dtype)
    expected = getattr(cpu(), name)(*[array.astype("float64") for array in (prediction, target, weight)])
    assert_near(getattr(FromHost(device()), name)(prediction, target, weight), expected, BOUNDS[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_updates(dtype: str, device: Any, rng: np.random.Generator) -> None:
    backend = device()
    host = [np.abs(rng.standard_normal((16, 5, 3, 3))).astype(dtype) for _ in range(4)]
    moved = [backend.asarray(array) for array in host]
    for step in (1, 2, 3):
        sgd: dict[str, Any] = {
            "lr": 0.1,
            "momentum": 0.9,
            "dampening": 0.1,
            "weight_decay": 0.01,
            "nesterov": step == 2,
        }
        adam: dict[str, Any] = {"step": step, "lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01}
        for made, arrays in ((backend, moved), (cpu(), host)):
            made.sgd_update(*arrays[:3], **sgd)
            made.adam_update(*arrays, None, **adam)
    for ours, theirs in zip(moved, host, strict=True):
        assert_near(ours.get(), theirs, BOUNDS[dtype])


# ---- training ----
def batches(sizes: list[int], seed: int = 1) -> list[tuple[Any, Any]]:
    """Pairs of batches of the active backend."""
    rng = np.random.default_rng(seed)
    drawn = [[rng.random((size, 3, 32, 32), dtype="float32") for _ in range(2)] for size in sizes]
    return [tuple(nc.backend().images(nc.asarray(images)) for images in pair) for pair in drawn]


def model(network: str, optimizer: str) -> nc.Model:
    nc.manual_seed(0)
    made = NETWORKS[network]()
    return nc.Model(made, nc.MSE(), OPTIMIZERS[optimizer](made.parameters()))


def trained(network: str, optimizer: str, sizes: list[int]) -> tuple[list[Any], bool]:
    """Losses and parameters after a training on the active backend; whether some of it was recorded."""
    made = model(network, optimizer)
    losses = [made._step(*batch) for batch in batches(sizes)]
    arrays = [*losses, *(parameter.data for parameter in made.network.parameters())]
    recorder = made._crew._recorder
    recorded = recorder is not None and any(recorder._recordings.values())
    return [nc.to_numpy(array) for array in arrays], recorded


@pytest.mark.parametrize("tf32", ["0", "1"])
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("network", list(NETWORKS))
def test_a_graphs_steps_are_eager_steps_bit_for_bit(network: str, optimizer: str, tf32: str, device: Any) -> None:
    """And the same seed gives the same bits twice."""
    sizes = [8] * 7 + [5] + [8] * 5  # with the smaller batch that ends an epoch
    found = []
    for graphs in ("1", "0", "1"):
        device(GPU_GRAPHS=graphs, TF32=tf32)
        arrays, recorded = trained(network, optimizer, sizes)
        assert recorded == (graphs == "1")
        found.append(arrays)
    for graph, eager, again in zip(*found, strict=True):
        assert np.isfinite(graph).all()
        np.testing.assert_array_equal(graph, eager)
        np.testing.assert_array_equal(graph, again)


@pytest.mark.parametrize("graphs", ["0", "1"])
@pytest.mark.parametrize("network", list(NETWORKS))
def test_no_step_waits_for_the_device(network: str, graphs: str, device: Any) -> None:
    """A kernel that takes half a second is put before some steps, which are called while it still runs."""
    cupy = device(GPU_GRAPHS=graphs).xp
    spin = cupy.RawModule(code=SPIN, options=("-std=c++17",)).get_function("spin")
    made, (batch,) = model(network, "momentum"), batches([8])
    for _ in range(6):
        made._step(*batch)
    spin((1,), (1,), (np.int64(1),))
    cupy.cuda.Device().synchronize()
    spin((1,), (1,), (np.int64(10**9),))
    passed = cupy.cuda.Event()
    passed.record()
    losses = [made._step(*batch) for _ in range(3)]
    assert not passed.done
    assert all(np.isfinite(float(loss)) for loss in losses) and passed.done


def test_a_training_on_cpu_and_gpu_has_the_same_losses(device: Any) -> None:
    device()
    on_gpu, recorded = trained("nearest", "momentum", [16] * 100)
    with nc.use_backend("numpy"):
        on_cpu, _ = trained("nearest", "momentum", [16] * 100)
    assert recorded
    np.testing.assert_allclose(on_gpu[:100], on_cpu[:100], rtol=1e-3)


# ---- sizes ----
def test_arrays_of_more_than_2_to_the_31_elements(device: Any) -> None:
    """All zeros but the very last pixel: an index of 32 bits would miss it, or write elsewhere."""
    backend = device()
    cupy = backend.xp
    backend.release_memory()
    free = cupy.cuda.Device().mem_info[0]
    if free < LARGE_BYTES:
        pytest.skip(f"needs {LARGE_BYTES >> 30} GiB of free memory, there are {free / 2**30:.1f}")
    memory = cupy.zeros((33, 1024, 1024, 64), dtype="float32")
    last = np.arange(64, dtype="float32") - 8
    memory[-1, -1, -1] = cupy.asarray(last)
    x = memory.transpose(0, 3, 1, 2)
    assert x.size > 2**31
    pooled, winners = backend.max_pool2d_forward(x, ConvGeometry((2, 2), (2, 2)))
    np.testing.assert_array_equal(pooled[-1, :, -1, -1].get(), np.maximum(last, 0))
    assert float(pooled.sum(dtype="float64")) == np.maximum(last, 0).sum()
    del pooled, winners
    assert backend.relu_forward(x, out=x) is not None
    last = np.maximum(last, 0)
    np.testing.assert_array_equal(memory[-1, -1, -1].get(), last)
    geometry = ConvGeometry((3, 3), padding=SAME)
    for out_channels in (16, 3):  # by the implicit product, and directly
        weight = backend.asarray(np.random.default_rng(0).standard_normal((out_channels, 64, 3, 3)).astype("float32"))
        y = backend.conv2d_forward(x, weight, None, geometry)
        assert_near(y[-1, :, -1, -1].get(), weight[:, :, 1, 1].get() @ last, BOUNDS["float32"])
        assert int((y != 0).sum()) == 4 * out_channels  # the pixels whose windows have the last one
        y.fill(1)
        _, weight_grad, _ = backend.conv2d_backward(y, x, weight, geometry, input_gradient=False)
        expected = np.zeros((out_channels, 64, 3, 3))
        expected[:, :, 1:, 1:] = last[:, None, None]
        assert_near(weight_grad.get(), expected, BOUNDS["float32"])
        del y
    del memory, x
    backend.release_memory()
