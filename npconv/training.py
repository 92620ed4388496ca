"""One optimisation step over several workers, and the watch that notices a run that has collapsed.

    batch -> shares -> [replica: forward, loss, backward] per worker -> one reduction, in a fixed order -> optimizer

Every replica shares the network's parameters and has gradients of its own. The reduction is the one place where
several devices or machines could join in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .backends import backend
from .backends.base import Array
from .losses import Loss
from .module import Module, no_grad
from .random import generator_or_default


class TrainingCollapsed(RuntimeError):
    """Training has failed for good: the loss is not a number, or the network gives one picture for every input."""


def share_sizes(count: int, workers: int) -> list[slice]:
    """`count` images as contiguous shares, one a worker, that differ by one at most; none is empty."""
    workers = max(1, min(workers, count))
    bounds = [count * i // workers for i in range(workers + 1)]
    return [slice(start, stop) for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]


class Crew:
    """Replicas of a network and its loss, one a worker; made anew when either has changed.

    `rng`: what replicas that draw numbers (Dropout) draw from children of; None is the default generator.
    """

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        self._rng = rng
        self._replicas: list[tuple[Module, Loss]] = []
        self._signature: Any = None

    def gradients(self, network: Module, loss: Loss, x: Array, target: Array) -> float:
        """Forward, loss and backward on shares of the batch; the network's gradients become their sum."""
        shares = share_sizes(len(x), backend().workers if network.splits_batch else 1)
        replicas = self._ready(network, loss, len(shares))
        tasks = [
            self._task(*replica, x[share], target[share], self._weight(loss, share, len(x)))
            for replica, share in zip(replicas, shares, strict=False)
        ]
        losses = backend().run(tasks)
        self._reduce(network, [replica for replica, _ in replicas[: len(shares)]])
        return math.fsum(losses)

    @staticmethod
    def _weight(loss: Loss, share: slice, count: int) -> float:
        """A mean over the batch is the mean over its shares, each weighted by its size; a sum is a plain sum."""
        return (share.stop - share.start) / count if loss.reduction == "mean" else 1.0

    @staticmethod
    def _task(replica: Module, loss: Loss, x: Array, target: Array, weight: float) -> Callable[[], float]:
        def run() -> float:
            replica.zero_grad()
            value = loss.forward(replica.forward(x), target) * weight
            grad = loss.backward()
            replica.backward(grad if weight == 1 else grad * weight)
            return value

        return run

    def _ready(self, network: Module, loss: Loss, count: int) -> list[tuple[Module, Loss]]:
        signature = _signature(network, loss)
        if signature != self._signature:
            self._replicas, self._signature = [], signature
        while len(self._replicas) < count:
            replica = network.replica()
            replica.skip_input_gradient()
            for module in replica.modules():
                module.fork_generator(generator_or_default(self._rng))
            self._replicas.append((replica, loss.replica()))
        return self._replicas

    @staticmethod
    def _reduce(network: Module, replicas: list[Module]) -> None:
        sources = [list(replica.parameters()) for replica in replicas]
        for position, parameter in enumerate(network.parameters()):
            parameter.grad[...] = sources[0][position].grad
            for source in sources[1:]:
                parameter.grad += source[position].grad


def _signature(network: Module, loss: Loss) -> list[Any]:
    """What a replica copies: while it stays the same, a replica is up to date (arrays of parameters are shared)."""
    signature: list[Any] = [loss, loss.arguments()]
    for module in network.modules():
        buffers = [id(getattr(module, name)) for name in module.buffers]
        signature.append((module, module.training, module.extra_repr(), buffers))
    signature += [(parameter, parameter.dtype) for parameter in network.parameters()]
    return signature


class CollapseWatch:
    """Notices a network whose output no longer depends on its input.

    It compares how much the outputs for a few probe images differ from image to image with how much they did before
    training. Slow learning keeps the difference (it is there at random weights); dead ReLUs or a saturated Sigmoid
    bring it to zero, and with it all gradients: nothing can recover then.
    """

    SHARE = 0.01  # of the difference before training, below which the output counts as one picture for all
    ROUNDING = 1e-7  # of the difference of the probe images: what rounding leaves of an output that is always the same

    def __init__(self, network: Module, probe: Array) -> None:
        self.network, self.probe = network, probe
        output = self._output()
        self.output_shape: tuple[int, ...] = output.shape
        before = _difference(output)
        usual = self.SHARE * min(before, self.SHARE) if math.isfinite(before) else 0.0
        self.least = max(usual, self.ROUNDING * _difference(probe))

    def check(self, loss: float, where: str) -> None:
        """Raise TrainingCollapsed if the loss is not finite, or the output is the same for every probe image."""
        if not math.isfinite(loss):
            raise TrainingCollapsed(
                f"the loss is {loss} {where}: the numbers have overflowed. Train again with a smaller learning rate."
            )
        difference = _difference(self._output())
        if math.isnan(difference):
            raise TrainingCollapsed(
                f"the network's output is not finite {where} (loss {loss:.4g}): the numbers have overflowed. Train "
                "again with a smaller learning rate."
            )
        if difference < self.least:
            raise TrainingCollapsed(
                f"the network gives the same output, one colour, for every image {where} (loss {loss:.4g}; a denoiser "
                "in this state scores about 12.7 dB): its units are dead or saturated, and training cannot revive "
                "them. Train again with a smaller learning rate, or other initial weights (another seed)."
            )

    def _output(self) -> Array:
        with no_grad():
            return self.network.replica().eval().forward(self.probe)


def _difference(images: Array) -> float:
    """The root mean square over pixels of the standard deviation over images (of one image: over its pixels).

    NaN if the images are not finite.
    """
    if not bool(backend().xp.isfinite(images).all()):
        return math.nan
    wide = images.astype("float64")
    variance = wide.var(axis=0) if len(images) > 1 else wide.reshape(images.shape[1], -1).var(axis=1)
    return math.sqrt(float(variance.mean()))
