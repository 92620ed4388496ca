"""Small trainings of every kind, to be stopped and resumed: models, data, schedules, and what they end with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from devices import on_host

import npconv as nc
from npconv import data
from npconv.data.pairs import Batch, Pairs

SHAPE = (3, 8, 8)


class Stopped(Exception):
    """What ends a training in these tests."""


class OwnPairs(Pairs):
    """Pairs of one's own, which know nothing of checkpoints: random images, drawn when they are needed."""

    def __len__(self) -> int:
        return 11

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return SHAPE

    def _epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        for start in range(0, len(self), batch_size):
            yield self._take(min(batch_size, len(self) - start), rng)

    def _take(self, count: int, rng: np.random.Generator) -> Batch:
        images = rng.uniform(0, 255, (count, *SHAPE)).astype("float32")
        return images, images * 0.9


class Noisy(nc.Module):
    """A module of one's own that draws from the default generator, as the data does where no seed is given."""

    def forward(self, x: Any) -> Any:
        draw = nc.random.generator_or_default().normal() if self.training else 0.0
        return x * (1 + 0.01 * draw)

    def backward(self, grad_output: Any) -> Any:
        return grad_output


class Plateau(nc.Schedule):
    """A schedule of one's own that remembers more than how many steps it has taken."""

    def __init__(self, optimizer: nc.Optimizer) -> None:
        self.seen: list[float] = []
        super().__init__(optimizer)

    def rate(self, initial: float, step: int) -> float:
        return initial / (1 + len(self.seen))

    def step(self) -> None:
        if self.count % 3 == 2:
            self.seen = [*self.seen, float(self.count)]
        super().step()


class Averaged(nc.Optimizer):
    """An optimizer of one's own: gradients averaged over all steps so far, with an array of another shape beside."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    def _check(self, group: dict[str, Any]) -> None:
        pass

    def _update(self, parameter: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state.update(steps=0, mean=parameter.grad * 0, norms=parameter.grad.reshape(-1)[:1] * 0)
        state["steps"] += 1
        state["mean"] += (parameter.grad - state["mean"]) / state["steps"]
        state["norms"] += abs(state["mean"]).sum()
        parameter.data -= group["lr"] * state["mean"]


def plain(*middle: nc.Module) -> nc.Module:
    return nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), nc.ReLU(), *middle, nc.Conv2d(4, 3, 3, padding=1))


def without_bias() -> nc.Module:
    """Of a black image, it makes a black one, exactly."""
    return nc.Sequential(
        nc.Conv2d(3, 4, 3, padding=1, bias=False), nc.ReLU(), nc.Conv2d(4, 3, 3, padding=1, bias=False)
    )


def images(count: int = 11, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), dtype=np.uint8)


def photos() -> data.Photos:
    return data.ArrayPhotos(images(5, 3).repeat(2, axis=2).repeat(2, axis=3))


def patches(noise: data.Noise, **options: Any) -> data.PatchPairs:
    return data.PatchPairs(photos(), noise, 11, 8, **options)


def adam(network: nc.Module, **options: Any) -> nc.Optimizer:
    return nc.Adam(network.parameters(), lr=0.01, **options)


def sgd(network: nc.Module) -> nc.Optimizer:
    return nc.SGD(network.parameters(), lr=0.05, momentum=0.9, dampening=0.1)


class Case:
    """How to make a model, its data and its schedule, as often as needed, always the same."""

    def __init__(
        self,
        network: Callable[[], nc.Module] = plain,
        optimizer: Callable[[nc.Module], nc.Optimizer] = adam,
        source: Callable[[Path], tuple[Any, ...]] = lambda path: (images(), images()),
        schedule: Callable[[nc.Optimizer], nc.Schedule] | None = None,
        loss: Callable[[], nc.Loss] = nc.MSE,
        **options: Any,
    ) -> None:
        self.network, self.optimizer, self.source, self.schedule = network, optimizer, source, schedule
        self.loss, self.options = loss, {"num_epochs": 2, "batch_size": 4, "seed": 5, **options}

    def model(self) -> nc.Model:
        nc.manual_seed(0)
        network = self.network()
        return nc.Model(network, self.loss(), self.optimizer(network))

    def train(self, model: nc.Model, folder: Path, **options: Any) -> list[nc.Epoch]:
        if self.schedule is not None:
            options["schedule"] = self.schedule(model.optimizer)
        return model.train(*self.source(folder), **{**self.options, **options})


def hdf5_pairs(folder: Path) -> tuple[Pairs]:
    if not (folder / "pairs.h5").exists():
        data.write_pairs(folder / "pairs.h5", images(), images(seed=1))
    return (data.HDF5Pairs(folder / "pairs.h5"),)


CASES = {
    "arrays": Case(validation=(images(4), images(4))),
    "a validation met exactly": Case(without_bias, validation=(images(2) * 0, images(2) * 0)),
    "a share held out": Case(validation=0.3, source=lambda _: (images(16), images(16))),
    "without a seed": Case(seed=None, validation=0.3, source=lambda _: (images(16), images(16))),
    "dropout": Case(lambda: plain(nc.Dropout(0.3), nc.Dropout(0.1)), source=lambda _: (patches(data.Gaussian(9)),)),
    "dropout without a seed": Case(lambda: plain(nc.Dropout(0.3)), source=lambda _: (OwnPairs(),), seed=None),
    "dropout of a generator": Case(lambda: plain(nc.Dropout(0.3, rng=np.random.Generator(np.random.MT19937(3))))),
    "batch normalisation": Case(lambda: plain(nc.BatchNorm2d(4)), sgd, source=hdf5_pairs),
    "a module that draws": Case(lambda: plain(Noisy()), source=lambda _: (patches(data.Gaussian(0, 20)),), seed=None),
    "pixel sampling": Case(source=lambda _: (patches(data.parse_noise("pixel-sampling:2-2")),)),
    "single noisy images": Case(
        source=lambda _: (patches(data.Gaussian(9), target="blind-spot"),),
        loss=nc.MaskedMSE,
        validation=(images(4), images(4)),
    ),
    "pairs of one's own": Case(source=lambda _: (OwnPairs(),)),
    "amsgrad, cosine": Case(
        optimizer=lambda network: adam(network, amsgrad=True),
        schedule=lambda optimizer: nc.CosineAnnealingLR(optimizer, 6),
        schedule_every="batch",
    ),
    "one cycle": Case(
        optimizer=sgd, schedule=lambda optimizer: nc.OneCycleLR(optimizer, 0.1, 6), schedule_every="batch"
    ),
    "by epoch": Case(schedule=lambda optimizer: nc.StepLR(optimizer, 1)),
    "a schedule of one's own": Case(schedule=Plateau, schedule_every="batch"),
    "an optimizer of one's own": Case(optimizer=lambda network: Averaged(network.parameters(), 0.01)),
}


def result(model: nc.Model) -> dict[str, Any]:
    """All that training has made of a model, but for seconds, in comparable form."""
    state = [{name: _bytes(value) for name, value in each.items()} for each in model.optimizer.state]
    options = [{k: v for k, v in group.items() if k != "params"} for group in model.optimizer.groups]
    return {
        "network": {name: _bytes(array) for name, array in model.network.state_dict().items()},
        "optimizer": (state, options),
        "history": [{k: v for k, v in vars(epoch).items() if k != "seconds"} for epoch in model.history],
    }


def _bytes(value: Any) -> Any:
    return on_host(value).tobytes() if hasattr(value, "shape") else value


def every_checkpoint(case: Case, folder: Path) -> tuple[dict[str, Any], list[Path]]:
    """What an undisturbed training gives, and copies of its checkpoints: one before the first step, one after each."""
    copies: list[Path] = []

    def keep(*_: object) -> None:  # called before the checkpoint of this step is written
        copies.append(folder / f"copy{len(copies)}.h5")
        shutil.copy(folder / "all.h5", copies[-1])

    model = case.model()
    case.train(model, folder, checkpoint=folder / "all.h5", checkpoint_every="1 step", batch_callback=keep)
    return result(model), copies
