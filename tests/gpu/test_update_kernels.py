"""The optimizers' steps on the device against the reference, with options as arguments and from device memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernels_on_host import DTYPES, KERNELS, PLAIN, asked_for, close
from standin.emulator import run_both_ways

ERROR = {"float32": 3e-7, "float64": 1e-15}
SGD = [
    {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False},
    {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.1, "nesterov": False},
    {"momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False},
    {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01, "nesterov": False},
    {"momentum": 0.8, "dampening": 0.0, "weight_decay": 0.01, "nesterov": True},
]
ADAM = [
    {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
    {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    {"betas": (0.0, 0.0), "eps": 1e-8, "weight_decay": 0.0},
]


def several(rng: np.random.Generator, size: int, dtype: str, count: int) -> list[Any]:
    return [rng.standard_normal(size).astype(dtype) for _ in range(count)]


def same(ours: list[Any], expected: list[Any], dtype: str) -> None:
    for mine, theirs in zip(ours, expected, strict=True):
        close(mine, theirs, ERROR[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 7, 64, 1031])
@pytest.mark.parametrize("options", SGD, ids=str)
def test_sgd(options: dict[str, Any], size: int, dtype: str, rng: np.random.Generator) -> None:
    data, velocity = several(rng, size, dtype, 2)
    ours = [data.copy(), velocity.copy()] if options["momentum"] else [data.copy(), None]
    theirs = [None if array is None else array.copy() for array in ours]
    for lr in (0.1, 0.02, 0.3):
        (grad,) = several(rng, size, dtype, 1)
        changed = [array for array in ours if array is not None]
        run_both_ways(lambda g=grad, r=lr: KERNELS.sgd_update(ours[0], g, ours[1], lr=r, **options), *changed)
        PLAIN.sgd_update(theirs[0], grad, theirs[1], lr=lr, **options)
        same(changed, [array for array in theirs if array is not None], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", SGD, ids=str)
def test_sgd_with_options_on_the_device(options: dict[str, Any], dtype: str, rng: np.random.Generator) -> None:
    """The learning rate changes in memory; the first velocity is the gradient, whatever the dampening."""
    data = several(rng, 103, dtype, 1)[0]
    ours, theirs = [data.copy(), np.zeros_like(data)], [data.copy(), np.zeros_like(data)]
    memory = np.array([0.0, 0, options["momentum"], options["dampening"], options["weight_decay"]])
    moving = options["momentum"] > 0
    for step, lr in enumerate((0.1, 0.02, 0.3), start=1):
        (grad,) = several(rng, 103, dtype, 1)
        memory[:2] = lr, step
        run_both_ways(
            lambda g=grad: KERNELS.sgd_update_device(
                ours[0], g, ours[1] if moving else None, memory, nesterov=options["nesterov"]
            ),
            *ours,
        )
        plain = {**options, "dampening": 0.0} if step == 1 else options
        PLAIN.sgd_update(theirs[0], grad, theirs[1] if moving else None, lr=lr, **plain)
        same(ours, theirs, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 7, 1031])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("options", ADAM, ids=str)
def test_adam(options: dict[str, Any], amsgrad: bool, size: int, dtype: str, rng: np.random.Generator) -> None:
    data = several(rng, size, dtype, 1)[0]
    ours = [data.copy(), *(np.zeros_like(data) for _ in range(3))]
    theirs, on_device = [array.copy() for array in ours], [array.copy() for array in ours]
    memory = np.array([0.0, 0, *options["betas"], options["eps"], options["weight_decay"]])

    def largest(state: list[Any]) -> Any:
        return state[3] if amsgrad else None

    for step, lr in enumerate((0.1, 0.02, 0.3), start=1):
        (grad,) = several(rng, size, dtype, 1)
        grad[: size // 3] = 0  # the second moment stays at zero
        how = {"step": step, "lr": lr, **options}
        run_both_ways(lambda g=grad, h=how: KERNELS.adam_update(ours[0], g, *ours[1:3], largest(ours), **h), *ours)
        PLAIN.adam_update(theirs[0], grad, *theirs[1:3], largest(theirs), **how)
        same(ours, theirs, dtype)
        memory[:2] = lr, step
        run_both_ways(
            lambda g=grad: KERNELS.adam_update_device(on_device[0], g, *on_device[1:3], largest(on_device), memory),
            *on_device,
        )
        same(on_device, theirs, dtype)
    assert (ours[3] > 0).any() == amsgrad


def test_amsgrad_keeps_the_largest_and_sees_nan() -> None:
    data, grad, first, second = (np.zeros(3, "float32") for _ in range(4))
    largest, grad[2] = np.array([4, 0, 0], "float32"), np.nan
    with np.errstate(all="ignore"):
        KERNELS.adam_update(
            data, grad, first, second, largest, step=1, lr=0.1, betas=(0.9, 0.9), eps=1e-8, weight_decay=0.0
        )
    np.testing.assert_array_equal(largest, np.array([4, 0, np.nan], "float32"))


def test_kernels_of_a_layer_in_their_order_of_memory(rng: np.random.Generator) -> None:
    """Weights (O, C, KH, KW) that lie as (KH, KW, C, O) are one run; where the gradient is not, no kernel runs."""
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
    for order, kernels in ((None, ["sgd"]), ("C", [])):
        data, grad, velocity = (rng.standard_normal((3, 3, 2, 5)).transpose(3, 2, 0, 1) for _ in range(3))
        grad = grad if order is None else np.ascontiguousarray(grad)
        expected, moving = data.copy(), velocity.copy()
        PLAIN.sgd_update(expected, grad, moving, **options)
        asked_for()
        KERNELS.sgd_update(data, grad, velocity, **options)
        assert [name for name, _ in asked_for()] == kernels
        same([data, velocity], [expected, moving], "float64")


def test_a_part_of_a_flat_buffer_at_any_place(rng: np.random.Generator) -> None:
    """What lies around the part stays."""
    data, grad = several(rng, 50, "float32", 2)
    expected = data.copy()
    expected[3:40] -= np.float32(0.5) * grad[3:40]
    options = np.array([0.5, 1, 0, 0, 0])
    KERNELS.sgd_update_device(data[3:40], grad[3:40], None, options, nesterov=False)
    np.testing.assert_array_equal(data, expected)


@pytest.mark.parametrize("wrong", [np.zeros((2, 2), "float32"), np.zeros(8, "float32")[::2], np.zeros(4)], ids=str)
def test_the_devices_update_takes_flat_memory_only(wrong: Any) -> None:
    data = np.zeros(4, "float32")
    with pytest.raises(ValueError, match="contiguous 1-D arrays of one size and one dtype"):
        KERNELS.sgd_update_device(data, wrong, None, np.zeros(5), nesterov=False)
    with pytest.raises(ValueError, match="contiguous 1-D arrays of one size and one dtype"):
        KERNELS.adam_update_device(data, data, data, wrong, None, np.zeros(6))
