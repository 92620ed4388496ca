"""One optimisation step over several workers, and the watch that notices a run that has collapsed.

    batch -> shares -> [replica: forward, loss, backward] per worker -> one reduction, in a fixed order -> optimizer

Every replica shares the network's parameters and has gradients of its own. The reduction is the one place where
several devices or machines could join in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .backends import backend
from .backends.base import Array
from .losses import Loss
from .module import Module, no_grad


class TrainingCollapsed(RuntimeError):
    """Training has failed for good: the loss is not a number, or the network gives one picture for every input."""


def share_sizes(count: int, workers: int) -> list[slice]:
    """`count` images as contiguous shares, one a worker, that differ by one at most; none is empty."""
    workers = max(1, min(workers, count))
    bounds = [count * i // workers for i in range(workers + 1)]
    return [slice(start, stop) for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]


class Crew:
    """Replicas of a network and its loss, one a worker; made anew when the network has changed."""

    def __init__(self, network: Module, loss: Loss) -> None:
        self.network, self.loss = network, loss
        self._replicas: list[tuple[Module, Loss]] = []
        self._signature: Any = None

    def gradients(self, x: Array, target: Array) -> float:
        """Forward, loss and backward on shares of the batch; the network's gradients become their sum."""
        shares = share_sizes(len(x), backend().workers if self.network.splits_batch else 1)
        replicas = self._ready(len(shares))
        tasks = [
            self._task(*replica, x[share], target[share], self._weight(share, len(x)))
            for replica, share in zip(replicas, shares, strict=False)
        ]
        losses = backend().run(tasks)
        self._reduce([replica for replica, _ in replicas[: len(shares)]])
        return math.fsum(losses)

    def _weight(self, share: slice, count: int) -> float:
        """A mean over the batch is the mean over its shares, each weighted by its size; a sum is a plain sum."""
        return (share.stop - share.start) / count if self.loss.reduction == "mean" else 1.0

    @staticmethod
    def _task(replica: Module, loss: Loss, x: Array, target: Array, weight: float) -> Callable[[], float]:
        def run() -> float:
            replica.zero_grad()
            value = loss.forward(replica.forward(x), target) * weight
            grad = loss.backward()
            replica.backward(grad if weight == 1 else grad * weight)
            return value

        return run

    def _ready(self, count: int) -> list[tuple[Module, Loss]]:
        signature = [(id(m), m.training, m.extra_repr()) for m in self.network.modules()]
        if signature != self._signature:
            self._replicas, self._signature = [], signature
        while len(self._replicas) < count:
            replica = self.network.replica()
            replica.skip_input_gradient()
            for module in replica.modules():
                module.fork_generator()
            self._replicas.append((replica, self.loss.replica()))
        return self._replicas

    def _reduce(self, replicas: list[Module]) -> None:
        sources = [list(replica.parameters()) for replica in replicas]
        for position, parameter in enumerate(self.network.parameters()):
            parameter.grad[...] = sources[0][position].grad
            for source in sources[1:]:
                parameter.grad += source[position].grad


class CollapseWatch:
    """Notices a network whose output no longer depends on its input.

    It compares how much the outputs for a few probe images differ from image to image with how much they did before
    training. Slow learning keeps the difference (it is there at random weights); dead ReLUs or a saturated Sigmoid
    bring it to zero, and with it all gradients: nothing can recover then.
    """

    SHARE = 0.01  # of the difference before training, below which the output counts as one picture for all

    def __init__(self, network: Module, probe: Array) -> None:
        self.network, self.probe = network, probe
        self.before = self._difference()

    def check(self, loss: float, where: str) -> None:
        """Raise TrainingCollapsed if the loss is not finite, or the output is the same for every probe image."""
        if not math.isfinite(loss):
            raise TrainingCollapsed(
                f"the loss is {loss} {where}: the numbers have overflowed. Train again with a smaller learning rate."
            )
        difference = self._difference()
        if self.before > 0 and not difference > self.SHARE * min(self.before, self.SHARE):
            raise TrainingCollapsed(
                f"the network gives the same output, one colour, for every image {where} (loss {loss:.4g}; a denoiser "
                "in this state scores about 12.7 dB): its units are dead or saturated, and training cannot revive "
                "them. Train again with a smaller learning rate, or other initial weights (another seed)."
            )

    def _difference(self) -> float:
        """The root mean square over pixels of the standard deviation over images (of one image: over pixels)."""
        replica = self.network.replica().eval()
        with no_grad():
            output = replica.forward(self.probe)
        variance = output.var(axis=0) if len(output) > 1 else output.reshape(output.shape[1], -1).var(axis=1)
        return math.sqrt(max(0.0, float(variance.mean()))) if bool(backend().xp.isfinite(variance).all()) else math.nan
