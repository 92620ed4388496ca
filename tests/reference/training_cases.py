"""Losses, optimizers, learning-rate schedules and ten steps of the reports' network, ours and PyTorch's twin."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from comparison import Results, uniform
from devices import on_device, on_host

import npconv as nc


def described(name: str, arguments: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


@dataclass(frozen=True)
class LossCase:
    """The value of a loss, and its gradient."""

    loss: str
    reduction: str
    shape: tuple[int, ...]
    coarse: bool = False
    stored: bool = False

    @property
    def name(self) -> str:
        return f"{self.loss}({self.reduction}) {str(self.shape).replace(' ', '')}{' coarse' if self.coarse else ''}"

    def _arrays(self, dtype: str) -> list[np.ndarray]:
        arrays = [uniform(self.shape, f"{self.name} {which}") for which in ("prediction", "target")]
        return [(np.round(a * 2) / 2 if self.coarse else a).astype(dtype) for a in arrays]

    def ours(self, dtype: str) -> Results:
        loss = getattr(nc, self.loss)(self.reduction)
        value = loss(*on_device(self._arrays(dtype)))
        return {"value": np.asarray(value), "gradient": on_host(loss.backward())}

    def theirs(self, torch: Any, dtype: str) -> Results:
        prediction, target = (torch.from_numpy(a) for a in self._arrays(dtype))
        prediction.requires_grad_()
        value = getattr(torch.nn, self.loss + "Loss")(reduction=self.reduction)(prediction, target)
        value.backward()
        return {"value": value.detach().numpy(), "gradient": prediction.grad.numpy()}


@dataclass(frozen=True)
class OptimizerCase:
    """Two parameters after each of ten steps, with gradients that are random."""

    optimizer: str
    options: dict[str, Any] = field(default_factory=dict)
    stored: bool = True
    shapes = ((3, 4), (5,))
    steps = 10

    @property
    def name(self) -> str:
        return described(self.optimizer, self.options)

    def _initial(self, position: int, dtype: str) -> np.ndarray:
        return uniform(self.shapes[position], f"{self.name} {position}").astype(dtype)

    def _gradient(self, position: int, step: int, dtype: str) -> np.ndarray:
        return uniform(self.shapes[position], f"{self.name} {position} step {step}").astype(dtype)

    def ours(self, dtype: str) -> Results:
        parameters = [nc.Parameter(self._initial(i, dtype)) for i in range(2)]
        optimizer = getattr(nc, self.optimizer)(parameters, **self.options)
        history: list[list[np.ndarray]] = [[], []]
        for step in range(self.steps):
            for i, parameter in enumerate(parameters):
                parameter.grad[...] = on_device(self._gradient(i, step, dtype))
            optimizer.step()
            for i, parameter in enumerate(parameters):
                history[i].append(on_host(parameter.data).copy())
        return {str(i): np.stack(values) for i, values in enumerate(history)}

    def theirs(self, torch: Any, dtype: str) -> Results:
        parameters = [torch.nn.Parameter(torch.from_numpy(self._initial(i, dtype))) for i in range(2)]
        optimizer = getattr(torch.optim, self.optimizer)(parameters, **self.options)
        history: list[list[np.ndarray]] = [[], []]
        for step in range(self.steps):
            for i, parameter in enumerate(parameters):
                parameter.grad = torch.from_numpy(self._gradient(i, step, dtype))
            optimizer.step()
            for i, parameter in enumerate(parameters):
                history[i].append(parameter.detach().numpy().copy())
        return {str(i): np.stack(values) for i, values in enumerate(history)}


@dataclass(frozen=True)
class ScheduleCase:
    """The learning rate, and the momentum or Adam's first beta, before and after each of `steps` steps."""

    schedule: str
    options: dict[str, Any]
    steps: int
    optimizer: str = "SGD"
    stored: bool = True

    @property
    def name(self) -> str:
        return f"{described(self.schedule, self.options)} {self.optimizer}"

    @property
    def _optimizer_options(self) -> dict[str, Any]:
        return {"lr": 0.4, "momentum": 0.9} if self.optimizer == "SGD" else {"lr": 0.4}

    def ours(self, dtype: str) -> Results:
        optimizer = getattr(nc, self.optimizer)([nc.Parameter(np.zeros(2, dtype))], **self._optimizer_options)
        schedule = getattr(nc, self.schedule)(optimizer, **self.options)
        seen = [_rates(optimizer.groups[0])]
        for _ in range(self.steps):
            optimizer.step()
            schedule.step()
            seen.append(_rates(optimizer.groups[0]))
        return dict(zip(("lr", "momentum"), np.array(seen).T, strict=True))

    def theirs(self, torch: Any, dtype: str) -> Results:
        parameter = torch.nn.Parameter(torch.zeros(2))
        parameter.grad = torch.zeros(2)
        optimizer = getattr(torch.optim, self.optimizer)([parameter], **self._optimizer_options)
        schedule = getattr(torch.optim.lr_scheduler, self.schedule)(optimizer, **self.options)
        seen = [_rates(optimizer.param_groups[0])]
        for _ in range(self.steps):
            optimizer.step()
            schedule.step()
            seen.append(_rates(optimizer.param_groups[0]))
        return dict(zip(("lr", "momentum"), np.array(seen).T, strict=True))


def _rates(group: dict[str, Any]) -> tuple[float, float]:
    return float(group["lr"]), float(group["betas"][0] if "betas" in group else group["momentum"])


@dataclass(frozen=True)
class TrainingCase:
    """The loss of each of ten steps of the reports' network, and all its parameters after them.

    The images are small on purpose. Where a value before a ReLU is within rounding of 0, two float32 runs may differ
    in its sign, and then by 1e-4 after ten steps at learning rate 5: with 8 images of 32x32, PyTorch's float32 run
    differs so from its own float64 run for about one seed in ten.
    """

    upsampling: str
    options: dict[str, float]
    channels: int
    shape: tuple[int, ...]
    stored: bool = False
    steps = 10

    @property
    def name(self) -> str:
        network = f"strided({self.channels}, {self.upsampling}) {str(self.shape).replace(' ', '')}"
        return f"{network} {described('SGD', self.options)}"

    def _batch(self, step: int, dtype: str) -> list[np.ndarray]:
        """Input and target in [0, 1)."""
        arrays = [uniform(self.shape, f"{self.name} {which} {step}") for which in ("input", "target")]
        return [(a / 2 + 0.5).astype(dtype) for a in arrays]

    def _initial(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Uniform, with PyTorch's bound for the weights."""
        bound = (1 / math.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        return (uniform(shape, f"{self.name} {name}") * bound).astype(dtype)

    def ours(self, dtype: str) -> Results:
        network = nc.networks.strided(self.channels, upsampling=self.upsampling, dtype=dtype)
        for name, parameter in network.named_parameters():
            parameter.fill(self._initial(name, parameter.shape, dtype))
        model = nc.Model(network, nc.MSE(), nc.SGD(network.parameters(), **self.options))
        losses = [model.train_batch(*on_device(self._batch(step, dtype))) for step in range(self.steps)]
        return on_host({"loss": np.array(losses), **{n: p.data for n, p in network.named_parameters()}})

    def theirs(self, torch: Any, dtype: str) -> Results:
        network = strided_twin(torch, self.channels, self.upsampling).to(getattr(torch, dtype))
        names = [name for name, _ in nc.networks.strided(self.channels, upsampling=self.upsampling).named_parameters()]
        parameters = dict(zip(names, network.parameters(), strict=True))
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.from_numpy(self._initial(name, tuple(parameter.shape), dtype)))
        optimizer = torch.optim.SGD(network.parameters(), **self.options)
        losses = [self._torch_step(torch, network, optimizer, step, dtype) for step in range(self.steps)]
        return {"loss": np.array(losses), **{n: p.detach().numpy() for n, p in parameters.items()}}

    def _torch_step(self, torch: Any, network: Any, optimizer: Any, step: int, dtype: str) -> float:
        x, target = (torch.from_numpy(a) for a in self._batch(step, dtype))
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(network(x), target)
        loss.backward()
        optimizer.step()
        return float(loss.item())


def strided_twin(torch: Any, channels: int, upsampling: str) -> Any:
    """The reports' network out of PyTorch's modules."""
    nn = torch.nn

    def enlarge(out_channels: int) -> list[Any]:
        if upsampling == "transposed":
            return [nn.ConvTranspose2d(channels, out_channels, 4, stride=2, padding=1)]
        return [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(channels, out_channels, 3, padding=1)]

    return nn.Sequential(
        nn.Conv2d(3, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        *enlarge(channels),
        nn.ReLU(),
        *enlarge(3),
        nn.Sigmoid(),
    )


def loss_cases() -> Iterator[LossCase]:
    for loss, reduction in itertools.product(("MSE", "L1"), ("mean", "sum")):
        yield LossCase(loss, reduction, (2, 3, 4, 5), stored=True)
        yield LossCase(loss, reduction, (2, 3, 4, 5), coarse=True)
        yield LossCase(loss, reduction, (7,))
        yield LossCase(loss, reduction, (16, 3, 64, 64))


def optimizer_cases() -> Iterator[OptimizerCase]:
    sgd: list[dict[str, Any]] = [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
        {"lr": 0.1, "weight_decay": 0.2},
        {"lr": 0.1, "momentum": 0.5, "dampening": 1.0, "weight_decay": 0.1},
        {"lr": 0.0, "momentum": 0.9},
    ]
    adam: list[dict[str, Any]] = [
        {},
        {"lr": 0.1},
        {"lr": 0.1, "betas": (0.5, 0.9)},
        {"lr": 0.1, "betas": (0.0, 0.99)},
        {"lr": 0.1, "eps": 0.1},
        {"lr": 0.1, "weight_decay": 0.1},
        {"lr": 0.1, "amsgrad": True},
        {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-3},
    ]
    yield from (OptimizerCase("SGD", options) for options in sgd)
    yield from (OptimizerCase("Adam", options) for options in adam)


def schedule_cases() -> Iterator[ScheduleCase]:
    yield ScheduleCase("StepLR", {"step_size": 3}, 12)
    yield ScheduleCase("StepLR", {"step_size": 1, "gamma": 0.7}, 12)
    yield ScheduleCase("StepLR", {"step_size": 4, "gamma": 2.0}, 12, "Adam")
    yield ScheduleCase("CosineAnnealingLR", {"T_max": 10}, 10)
    yield ScheduleCase("CosineAnnealingLR", {"T_max": 7, "eta_min": 0.05}, 25)
    yield ScheduleCase("CosineAnnealingLR", {"T_max": 1}, 4, "Adam")
    for strategy, optimizer, cycle in itertools.product(("cos", "linear"), ("SGD", "Adam"), (True, False)):
        options = {"max_lr": 0.8, "total_steps": 20, "anneal_strategy": strategy, "cycle_momentum": cycle}
        yield ScheduleCase("OneCycleLR", options, 20, optimizer)
    options = {"pct_start": 0.45, "base_momentum": 0.6, "max_momentum": 0.99, "div_factor": 4, "final_div_factor": 50}
    yield ScheduleCase("OneCycleLR", {"max_lr": 5.0, "total_steps": 17, **options}, 17)
    yield ScheduleCase("OneCycleLR", {"max_lr": 5.0, "total_steps": 2}, 2)


def training_cases() -> Iterator[TrainingCase]:
    for upsampling, options in itertools.product(
        ("nearest", "transposed"), ({"lr": 0.5, "momentum": 0.9}, {"lr": 5.0})
    ):
        yield TrainingCase(upsampling, options, 32, (4, 3, 16, 16))
        yield TrainingCase(upsampling, options, 4, (5, 3, 12, 8), stored=True)


LOSS_CASES = list(loss_cases())
OPTIMIZER_CASES = list(optimizer_cases())
SCHEDULE_CASES = list(schedule_cases())
TRAINING_CASES = list(training_cases())
