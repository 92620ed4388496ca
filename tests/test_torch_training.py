"""Losses, optimizers, schedules and training beside PyTorch's."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from comparison import Results, assert_close
from devices import on_device, on_host
from training_cases import (
    LOSS_CASES,
    OPTIMIZER_CASES,
    SCHEDULE_CASES,
    TRAINING_CASES,
    LossCase,
    OptimizerCase,
    ScheduleCase,
    TrainingCase,
)

import npconv as nc

torch = pytest.importorskip("torch")

BOUNDS = {"float64": 1e-10, "float32": 1e-5}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("case", LOSS_CASES, ids=lambda case: case.name)
def test_loss_and_gradient_agree(case: LossCase, dtype: str) -> None:
    ours = case.ours(dtype)
    assert_close(ours, case.theirs(torch, dtype), BOUNDS[dtype])
    assert ours["gradient"].dtype == dtype


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("case", OPTIMIZER_CASES, ids=lambda case: case.name)
def test_parameters_agree_after_each_step(case: OptimizerCase, dtype: str) -> None:
    ours = case.ours(dtype)
    assert_close(ours, case.theirs(torch, dtype), BOUNDS[dtype])
    assert all(values.dtype == dtype for values in ours.values())


@pytest.mark.parametrize("case", SCHEDULE_CASES, ids=lambda case: case.name)
def test_learning_rates_and_momenta_agree(case: ScheduleCase) -> None:
    assert_close(case.ours("float64"), case.theirs(torch, "float64"), 1e-10)


def test_one_cycle_ends_where_pytorchs_ends() -> None:
    """One step more than total_steps is an error on both sides."""
    ours = nc.OneCycleLR(nc.SGD([nc.Parameter(np.zeros(1))], momentum=0.9), max_lr=1.0, total_steps=3)
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    optimizer = torch.optim.SGD([parameter], momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=3)
    for _ in range(3):
        ours.step()
        optimizer.step()
        theirs.step()
    with pytest.raises(ValueError, match="Tried to step 4 times"):
        theirs.step()
    with pytest.raises(ValueError, match=r"step \(=4\) must be at most total_steps \(=3\)"):
        ours.step()


@functools.cache
def theirs(position: int, dtype: str) -> Results:
    return TRAINING_CASES[position].theirs(torch, dtype)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("case", TRAINING_CASES, ids=lambda case: case.name)
def test_ten_training_steps_agree(
    case: TrainingCase, dtype: str, bound: float, workers: int, set_workers: Callable[[int], None], algorithm: str
) -> None:
    """The loss of every step and all parameters after the tenth, from the same weights, batch by batch."""
    set_workers(workers)
    assert_close(case.ours(dtype), theirs(TRAINING_CASES.index(case), dtype), bound)


def test_training_moves_every_parameter() -> None:
    """The comparison above is of something: ten steps change each parameter by far more than the bound."""
    for case in TRAINING_CASES:
        results = case.ours("float64")
        for name in set(results) - {"loss"}:
            before = case._initial(name, results[name].shape, "float64")
            assert np.abs(results[name] - before).max() > 3e-4 * np.abs(before).max()


def test_parameter_groups_have_their_own_options() -> None:
    start, grad = np.linspace(-1, 1, 6), np.linspace(2, 3, 6)
    ours = [nc.Parameter(start[:3].copy()), nc.Parameter(start[3:].copy())]
    theirs = [torch.nn.Parameter(torch.from_numpy(start[:3].copy())), torch.nn.Parameter(torch.from_numpy(start[3:]))]
    groups = [{"lr": 0.5, "momentum": 0.1}, {"weight_decay": 0.3}]
    optimizers = (
        nc.SGD([{"params": [p], **g} for p, g in zip(ours, groups, strict=True)], lr=0.1, momentum=0.9),
        torch.optim.SGD([{"params": [p], **g} for p, g in zip(theirs, groups, strict=True)], lr=0.1, momentum=0.9),
    )
    for i, part in enumerate((grad[:3], grad[3:])):
        ours[i].grad[...] = on_device(part)
        theirs[i].grad = torch.from_numpy(part.copy())
    for _ in range(3):
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        assert np.allclose(on_host(a.data), b.detach().numpy(), rtol=1e-12, atol=0)
