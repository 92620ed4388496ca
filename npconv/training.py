"""One optimisation step over several workers, and the watch that notices a run that has collapsed.

    batch -> shares -> [replica: slice by slice forward, loss, backward] per worker -> one reduction -> optimizer

Every replica shares the network's parameters and has gradients of its own. Slices, shares and the reduction have a
fixed order, so the same seed and number of workers give the same bits. The reduction is the one place where several
devices or machines could join in.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .backends import backend
from .backends.base import Array
from .losses import Loss
from .module import Module, no_grad, structure_version
from .parameter import Parameter
from .random import generator_or_default
from .tracing import trace

WORKER_WORK = 30_000_000  # multiply-adds for which a worker is worth waking
SLICE_MEMORY = 1 << 25  # bytes of activations and gradients of one slice; smaller ones only cost calls
SLICE_WORK = 100_000_000  # multiply-adds of one slice at least, beside which the calls are few


class TrainingCollapsed(RuntimeError):
    """Training has failed for good: the loss is not a number, or the network gives one picture for every input."""


def share_sizes(count: int, workers: int) -> list[slice]:
    """`count` images as contiguous shares, one a worker, that differ by one at most; none is empty."""
    workers = max(1, min(workers, count))
    bounds = [count * i // workers for i in range(workers + 1)]
    return [slice(start, stop) for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]


class Shares(NamedTuple):
    """How a batch is shared out: `workers` of them, each of which takes up to `images` at a time."""

    workers: int
    images: int

    @classmethod
    def of(cls, network: Module, shape: tuple[int, ...]) -> Shares:
        """For batches of `shape`: workers that have enough to do, and slices that stay in the cache.

        Networks whose images see each other get the whole batch as one slice; the operations share it out themselves.
        """
        if not network.splits_batch:
            return cls(1, shape[0])
        try:
            nodes = trace(network, shape[1:])
        except Exception:
            # A module of one's own that cannot be copied, or run apart, still trains: one slice a worker.
            return cls(backend().workers, shape[0])
        work = 3 * (nodes[0].multiply_adds or 0)  # forward, and two products in backward
        memory = 2 * sum(node.output_bytes for node in nodes) or 1  # of activations and their gradients
        workers = backend().workers
        if nodes[0].multiply_adds is not None:
            workers = max(1, min(workers, shape[0] * work // WORKER_WORK))
        return cls(workers, max(1, SLICE_MEMORY // memory, -(-SLICE_WORK // max(1, work))))

    def cut(self, count: int) -> list[list[slice]]:
        """For each worker, its slices of `count` images: as even as can be, none empty."""
        shares = share_sizes(count, self.workers)
        return [[_moved(part, share.start) for part in self._slices(share)] for share in shares]

    def _slices(self, share: slice) -> list[slice]:
        length = share.stop - share.start
        return share_sizes(length, -(-length // self.images))


class Crew:
    """Replicas of a network and its loss, one a worker; made anew when either has changed.

    `rng`: what replicas that draw numbers (Dropout) draw from children of; None is the default generator.
    """

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        self._rng = rng
        self._replicas: list[Replica] = []
        self._shares: dict[tuple[int, ...], list[list[slice]]] = {}
        self._parameters: list[Parameter] = []
        self._signature: Any = None

    def gradients(self, network: Module, loss: Loss, x: Array, target: Array) -> float:
        """Forward, loss and backward on shares of the batch; the network's gradients become their sum."""
        self._follow(network, loss)
        if x.shape not in self._shares:
            self._shares[x.shape] = Shares.of(network, x.shape).cut(len(x))
        shares = self._shares[x.shape]
        replicas = self._ready(network, loss, len(shares))
        tasks = [partial(r.gradients, x, target, slices) for r, slices in zip(replicas, shares, strict=False)]
        with backend().constant_weights():
            losses = backend().run(tasks)
        self._reduce(replicas[: len(shares)])
        return math.fsum(losses)

    def _follow(self, network: Module, loss: Loss) -> None:
        signature = (network, loss, loss.arguments(), structure_version())
        if signature != self._signature:
            self._replicas, self._shares, self._signature = [], {}, signature
            self._parameters = list(network.parameters())

    def _ready(self, network: Module, loss: Loss, count: int) -> list[Replica]:
        while len(self._replicas) < count:
            replica = network.replica()
            replica.skip_input_gradient()
            for module in replica.modules():
                module.fork_generator(generator_or_default(self._rng))
            self._replicas.append(Replica(replica, loss.replica()))
            self._signature = (*self._signature[:3], structure_version())  # making a replica is no change
        return self._replicas

    def _reduce(self, replicas: list[Replica]) -> None:
        first, *others = replicas
        for other in others:
            first.add(other)
        for parameter, summed in zip(self._parameters, first.parameters, strict=True):
            parameter.grad[...] = summed.grad


class Replica:
    """What one worker computes with: a replica of the network and one of the loss."""

    def __init__(self, network: Module, loss: Loss) -> None:
        self.network, self.loss = network, loss
        self.parameters = list(network.parameters())
        self._gradients = _in_one_piece(self.parameters)

    def gradients(self, x: Array, target: Array, slices: list[slice]) -> float:
        """Add up the gradients over slices of the batch; the loss of all of them, as a part of the batch's."""
        for gradients in self._gradients:
            gradients.fill(0)
        return math.fsum([self._slice(x[part], target[part], self._weight(part, len(x))) for part in slices])

    def add(self, other: Replica) -> None:
        """Add the gradients of another replica of the same network."""
        for total, part in zip(self._gradients, other._gradients, strict=True):
            total += part

    def _slice(self, x: Array, target: Array, weight: float) -> float:
        value = self.loss.forward(self.network.forward(x), target) * weight
        grad = self.loss.backward()
        if weight == 1:
            self.network.backward(grad)
        else:
            self.network.backward_in_place(backend().scaled(grad, weight))
        return value

    def _weight(self, part: slice, count: int) -> float:
        """A mean over the batch is the mean over its parts, each weighted by its size; a sum is a plain sum."""
        return (part.stop - part.start) / count if self.loss.reduction == "mean" else 1.0


def _in_one_piece(parameters: list[Parameter]) -> list[Array]:
    """Lay the gradients of a dtype side by side in one array, so that all are cleared or added up at once."""
    pieces = []
    for dtype in sorted({parameter.dtype for parameter in parameters}, key=str):
        same = [parameter for parameter in parameters if parameter.dtype == dtype]
        whole, start = backend().xp.zeros(sum(parameter.size for parameter in same), dtype), 0
        for parameter in same:
            parameter.grad = _laid_out_like(parameter.data, whole[start : start + parameter.size])
            start += parameter.size
        pieces.append(whole)
    return pieces


def _laid_out_like(x: Array, flat: Array) -> Array:
    """The 1-D array `flat` in the shape of x, and in its memory order: the longest stride first."""
    axes = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    return flat.reshape([x.shape[axis] for axis in axes]).transpose([axes.index(axis) for axis in range(x.ndim)])


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


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
