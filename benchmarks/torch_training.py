"""A Model that trains in PyTorch: the same data, schedule, time budget and validation, but PyTorch's steps.

`TorchModel` overrides `Model.train_batch` alone, so `Model.train` and `npconv train` do with it all that they do with
any model. Whatever the batches cost to draw, both libraries pay.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from torch_network import TorchNetwork

import npconv

PROBE_STEPS = 4  # of which the first does not count, to choose a memory format
WRITE_BACK_EVERY = 20  # steps


class TorchModel(npconv.Model):
    """`model` with its steps taken by PyTorch: forward, loss, backward, and the optimizer of the same kind.

    threads: for PyTorch; batch_shape: (N, C, H, W) of the batches, on which the faster memory format is chosen; None
    is channels_last without a trial. Raises TypeError for a loss or an optimizer without a counterpart here.
    """

    def __init__(self, model: npconv.Model, threads: int, batch_shape: tuple[int, ...] | None = None) -> None:
        import torch

        super().__init__(model.network, model.loss, model.optimizer)
        torch.set_num_threads(threads)
        self.torch: Any = torch
        self._loss_of = _loss(torch, model.loss)
        self._stale, self._steps = False, 0
        self.memory_format = torch.channels_last
        if batch_shape is not None:
            formats = (torch.channels_last, torch.contiguous_format)
            self.memory_format = min(formats, key=lambda layout: self._seconds(layout, batch_shape))
        self._prepare()

    def train_batch(self, x: Any, t: Any) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._ours.lr  # which the schedule sets
        loss = self._loss_of(self._theirs.module(self._tensor(x)), self._tensor(t))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._steps += 1
        self._stale = True
        if self._steps % WRITE_BACK_EVERY == 0:  # Model.train looks at the network now and then, for a collapse
            self.write_back()
        return float(loss.item())

    def predict(self, *arguments: Any, **options: Any) -> Any:
        """As `Model.predict`, with the values that PyTorch's parameters have now."""
        self.write_back()
        return super().predict(*arguments, **options)

    def save(self, *arguments: Any) -> None:
        self.write_back()
        super().save(*arguments)

    def write_back(self) -> None:
        """Give the network the values that training has reached."""
        if self._stale:
            self._theirs.write_back()
            self._stale = False

    def _prepare(self) -> None:
        assert self.optimizer is not None  # a network to train has parameters
        self._ours = self.optimizer
        self._theirs = TorchNetwork(self.torch, self.network)
        self._theirs.module.to(memory_format=self.memory_format).train()
        self._optimizer = _optimizer(self.torch, self._ours, self._theirs.parameters)
        self._stale, self._steps = False, 0

    def _tensor(self, array: Any) -> Any:
        tensor = self.torch.from_numpy(npconv.to_numpy(array))
        return tensor.contiguous(memory_format=self.memory_format)

    def _seconds(self, layout: Any, batch_shape: tuple[int, ...]) -> float:
        """How long a step takes in this memory format; what it trains is thrown away."""
        self.memory_format = layout
        self._prepare()
        # The shape of the target is that of the output, whatever the network makes of the batch.
        x = self.as_network_input(np.random.default_rng(0).uniform(0, 255, batch_shape))
        with self.torch.no_grad():
            t = self._theirs.module(self._tensor(x)).numpy()
        seconds = [_timed(lambda: self.train_batch(x, t)) for _ in range(PROBE_STEPS)]
        return min(seconds[1:])


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _loss(torch: Any, loss: npconv.Loss) -> Callable[[Any, Any], Any]:
    counterparts = {"MSE": torch.nn.functional.mse_loss, "L1": torch.nn.functional.l1_loss}
    if type(loss).__name__ not in counterparts:
        raise TypeError(f"the loss (={loss!r}) has no counterpart here: {', '.join(counterparts)}")
    found: Callable[[Any, Any], Any] = counterparts[type(loss).__name__]
    return found


def _optimizer(torch: Any, ours: npconv.Optimizer, parameters: list[Any]) -> Any:
    """PyTorch's Adam or SGD with the same options."""
    options = {name: value for name, value in ours.groups[0].items() if name not in ("params", "initial_lr")}
    if len(ours.groups) > 1 or type(ours).__name__ not in ("Adam", "SGD"):
        raise TypeError(f"the optimizer (={ours!r}) has no counterpart here: Adam or SGD with one group")
    return getattr(torch.optim, type(ours).__name__)(parameters, **options)
