"""The wrappers of the memory-bound kernels on the stand-in's arrays: nothing goes to the host or waits for it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import standin
from kernels_on_host import KERNELS, KernelOps, image

from npconv.backends import ConvGeometry
from npconv.backends.gpu.launching import Launcher

GEOMETRY = ConvGeometry((3, 2), stride=(2, 1), padding=((1, 1), (0, 1)))
SHAPE, OUT = (2, 4, 6, 5), (2, 4, 3, 5)
SIDES = ((1, 2), (2, 1))
INDICES = [0, 0, 1, 2, 2, 3, 4, 5], [0, 1, 1, 2, 3, 4]

# Each operation with the shapes of its arrays, and with what else it takes.
CASES: list[tuple[str, list[tuple[int, ...]], tuple[Any, ...]]] = [
    ("im2col", [SHAPE], (GEOMETRY,)),
    ("col2im", [(30, 24)], (SHAPE, GEOMETRY)),
    ("max_pool2d_forward", [SHAPE], (GEOMETRY,)),
    ("avg_pool2d_forward", [SHAPE, (3, 5)], (GEOMETRY,)),
    ("avg_pool2d_backward", [OUT, (3, 5)], (SHAPE, GEOMETRY)),
    ("upsample_nearest_forward", [SHAPE], INDICES),
    ("upsample_nearest_backward", [(2, 4, 8, 6)], (SHAPE, *INDICES)),
    ("pixel_shuffle", [SHAPE], (2,)),
    ("pixel_unshuffle", [(1, 3, 4, 6)], (2,)),
    *(("pad2d_forward", [SHAPE], (SIDES, mode)) for mode in ("zeros", "reflect", "replicate", "circular")),
    ("pad2d_backward", [(2, 4, 9, 8)], (SHAPE, SIDES, "reflect")),
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
    ("bias_activation", [SHAPE, (4,)], ("leaky_relu", 0.2)),
    ("mse_forward", [SHAPE, SHAPE], ()),
    ("mse_backward", [SHAPE, SHAPE], ()),
    ("l1_forward", [SHAPE, SHAPE], ()),
    ("l1_backward", [SHAPE, SHAPE], ()),
    ("channel_sum", [SHAPE], ()),
    ("batch_norm_statistics", [SHAPE], ()),
    ("batch_norm_forward", [SHAPE, (4,), (4,), (4,), (4,)], (1e-5,)),
    ("batch_norm_backward", [SHAPE, SHAPE, (4,), (4,), (4,)], (1e-5, True)),
]


class OnDevice(KernelOps):
    """The wrappers as the cupy backend has them."""

    name = "device"

    def __init__(self, xp: ModuleType) -> None:
        self.xp, self.launcher = xp, Launcher(xp)


def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Positive numbers: among them are variances and divisors."""
    return abs(image(rng, shape, "float32") if len(shape) == 4 else rng.standard_normal(shape).astype("float32")) + 0.1


def upload(xp: ModuleType, x: Any) -> Any:
    """x on the device, images channels-last in memory (CuPy's asarray alone makes C order of them)."""
    if x.ndim != 4:
        return xp.asarray(x)
    return xp.asarray(np.ascontiguousarray(x.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)


def several(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize(("name", "shapes", "rest"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES])
def test_device_arrays(
    name: str, shapes: list[tuple[int, ...]], rest: tuple[Any, ...], cupy_standin: ModuleType, rng: np.random.Generator
) -> None:
    device, arrays = OnDevice(cupy_standin), [draw(rng, shape) for shape in shapes]
    on_device = [upload(cupy_standin, array) for array in arrays]
    expected = several(getattr(KERNELS, name)(*[array.copy(order="K") for array in arrays], *rest))
    getattr(device, name)(*[array.copy(order="K") for array in on_device], *rest)  # tables are uploaded, once
    standin.reset()
    result = several(getattr(device, name)(*on_device, *rest))
    seen = standin.counts()
    assert (seen.to_device, seen.to_host, seen.synchronisations) == (0, 0, 0)
    assert seen.launches == sum(seen.kernels.values()) > 0  # our kernels, and no copy or operation beside them
    for ours, theirs in zip(result, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_array_equal(cupy_standin.asnumpy(ours), theirs)
        if ours.ndim == 4:
            assert ours.transpose(0, 2, 3, 1).flags.c_contiguous


@pytest.mark.parametrize(("name", "shapes", "rest"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES])
def test_a_captured_operation_reads_its_arrays_anew(
    name: str, shapes: list[tuple[int, ...]], rest: tuple[Any, ...], cupy_standin: ModuleType, rng: np.random.Generator
) -> None:
    device, arrays = OnDevice(cupy_standin), [draw(rng, shape) for shape in shapes]
    on_device = [upload(cupy_standin, draw(rng, shape)) for shape in shapes]
    getattr(device, name)(*on_device, *rest)  # kernels are compiled and tables uploaded, which a capture refuses
    stream, pool = cupy_standin.cuda.Stream(non_blocking=True), cupy_standin.cuda.MemoryPool()
    with stream, cupy_standin.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        result = several(getattr(device, name)(*on_device, *rest))
        graph = stream.end_capture()
    for mine, array in zip(on_device, arrays, strict=True):
        mine[...] = upload(cupy_standin, array)
    graph.launch(stream)
    expected = several(getattr(KERNELS, name)(*arrays, *rest))
    for ours, theirs in zip(result, expected, strict=True):
        np.testing.assert_array_equal(cupy_standin.asnumpy(ours), theirs)


def test_pooling_backward(cupy_standin: ModuleType, rng: np.random.Generator) -> None:
    device, x, grad = OnDevice(cupy_standin), draw(rng, SHAPE), draw(rng, OUT)
    _, winners = KERNELS.max_pool2d_forward(x, GEOMETRY)
    ours = [upload(cupy_standin, array) for array in (grad, winners)]
    standin.reset()
    back = device.max_pool2d_backward(*ours, SHAPE, GEOMETRY)
    assert standin.counts().launches == 1
    expected = KERNELS.max_pool2d_backward(grad, winners, SHAPE, GEOMETRY)
    np.testing.assert_array_equal(cupy_standin.asnumpy(back), expected)


def test_channels_are_joined(cupy_standin: ModuleType, rng: np.random.Generator) -> None:
    device, parts = OnDevice(cupy_standin), [draw(rng, (2, c, 3, 5)) for c in (4, 8)]
    ours = [upload(cupy_standin, part) for part in parts]
    standin.reset()
    joined = device.concatenate(ours, 1)
    assert standin.counts().kernels == {"copy_channels": 2} and standin.counts().launches == 2
    np.testing.assert_array_equal(cupy_standin.asnumpy(joined), np.concatenate(parts, 1))


def test_a_captured_update_follows_the_options_in_memory(cupy_standin: ModuleType, rng: np.random.Generator) -> None:
    """One launch a step; the graph counts the steps itself, and the learning rate is written between two of them."""
    device = OnDevice(cupy_standin)
    data, grad, first, second = (draw(rng, (37,)) for _ in range(4))
    ours = [upload(cupy_standin, array) for array in (data, grad, first, second)]
    options = cupy_standin.asarray(np.array([0.0, 1, 0.9, 0.99, 1e-8, 0.01]))
    copies = [array.copy() for array in ours]
    standin.reset()
    device.adam_update_device(*copies, None, options)  # compiles, which a capture refuses
    assert standin.counts().kernels == {"adam_device": 1} and standin.counts().launches == 1
    stream = cupy_standin.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        device.adam_update_device(*ours, None, options)
        options[1:2] += 1
        graph = stream.end_capture()
    how: dict[str, Any] = {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01}
    for step, lr in enumerate((0.1, 0.2, 0.05), start=1):
        options[:1] = lr
        graph.launch(stream)
        KERNELS.adam_update(data, grad, first, second, None, step=step, lr=lr, **how)
        np.testing.assert_allclose(cupy_standin.asnumpy(ours[0]), data, rtol=1e-6)


def test_a_loss_is_a_number_for_who_asks(cupy_standin: ModuleType, rng: np.random.Generator) -> None:
    device, arrays = OnDevice(cupy_standin), [draw(rng, SHAPE) for _ in range(2)]
    ours = [upload(cupy_standin, array) for array in arrays]
    standin.reset()
    loss = device.l1_forward(*ours)
    assert (standin.counts().to_host, standin.counts().synchronisations) == (0, 0)
    assert float(loss) == KERNELS.l1_forward(*arrays)
    assert standin.counts().to_host == 1
