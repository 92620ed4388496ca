"""One optimisation step over several workers, and the watch that notices a run that has collapsed.

    batch -> shares -> [replica: slice by slice forward, loss, backward] per worker -> one reduction -> optimizer

Every replica shares the network's parameters and has gradients of its own. Slices, shares and the reduction have a
fixed order, so the same seed and number of workers give the same bits. The reduction is the one place where several
devices or machines could join in.
"""

from __future__ import annotations

import copy
import math
import os
import threading
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from . import processes
from .arithmetic import quiet
from .backends import backend
from .backends.base import Array
from .flat import whole_arrays
from .losses import Loss
from .module import Module, no_grad, structure_version
from .optim import Optimizer
from .parameter import Parameter
from .processes import Team
from .random import generator_or_default
from .replica import Replica, total
from .tracing import trace

THREAD_WORK = 30_000_000  # multiply-adds for which a worker is worth waking, as a thread
PROCESS_WORK = 15_000_000  # and as a process
STEPS_BY_THREADS = 12  # before processes are started: for fewer they do not pay
MOST_LOST = 3  # times that processes die, for want of memory perhaps, before no others are started
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
    """How a batch is shared out: `workers` of them, each of which takes up to `images` at a time.

    `turns_count`: the step is so short that the turns which threads take at the interpreter are a part of it.
    """

    workers: int
    images: int
    turns_count: bool = False

    @classmethod
    def of(cls, network: Module, loss: Loss, shape: tuple[int, ...]) -> Shares:
        """For batches of `shape`: workers that have enough to do, and slices that stay in the cache.

        Networks whose images see each other get the whole batch as one slice; the operations share it out themselves.
        So does a device that is parallel by itself.
        """
        if not network.splits_batch or not backend().shares_batch:
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
            least = PROCESS_WORK if processes.possible(network, loss) else THREAD_WORK
            workers = max(1, min(workers, shape[0] * work // least))
        images = max(1, SLICE_MEMORY // memory, -(-SLICE_WORK // max(1, work)))
        return cls(workers, images, 0 < shape[0] * work < processes.LARGE)

    def cut(self, count: int) -> list[list[slice]]:
        """For each worker, its slices of `count` images: as even as can be, none empty."""
        return _cut(count, self.workers, self.images)


@lru_cache(maxsize=64)
def _cut(count: int, workers: int, images: int) -> list[list[slice]]:
    shares = [(share.start, share.stop - share.start) for share in share_sizes(count, workers)]
    return [[_moved(part, start) for part in share_sizes(size, -(-size // images))] for start, size in shares]


class Crew:
    """Replicas of a network and its loss, one a worker; made anew when either has changed.

    `rng`: what replicas that draw numbers (Dropout) draw from children of; None is the default generator.
    """

    def __init__(self, rng: np.random.Generator | None = None) -> None:
        self._rng = rng
        self._replicas: list[Replica] = []
        self._shares: dict[tuple[int, ...], Shares] = {}
        self._parameters: list[Parameter] = []
        self._signature: Any = None
        self._seen: Any = None  # the network, and the count of changes anywhere, when its own number was asked for
        self._structure = 0
        self._team: Team | None = None
        self._steps: float = 0
        self._lost = 0
        self._changes = 0  # of network, loss or where the parameters' arrays are
        self._arrays: list[Array] = []  # held, so that no other array can be in the same place
        self._alone: bool | None = None
        self._recorder: Any = None
        self._recorder_of: Any = None
        self.trained_by: threading.Thread | None = None  # while `Model.train` is under way

    def step(self, network: Module, loss: Loss, optimizer: Optimizer, x: Array, target: Array) -> Any:
        """One optimisation step; the loss as `gradients` gives it."""
        if self._recorder_of is not backend():
            self._recorder, self._recorder_of = backend().step_recorder(), backend()
        compute = partial(self.gradients, network, loss)
        if self._recorder is not None and optimizer.repeats and self._computes_alone(network, loss):
            with optimizer.restored_on_error():
                updates = optimizer.updates()  # may move arrays
                return self._recorder.step(self._version(), compute, updates, x, target)
        value = compute(x, target)
        optimizer.step()
        return value

    def _version(self) -> int:
        """Another number after any change of network or loss, and when an array of a parameter is another one."""
        arrays = [array for parameter in self._parameters for array in (parameter.data, parameter.grad)]
        known = self._arrays
        if len(known) != len(arrays) or any(a is not b for a, b in zip(known, arrays, strict=True)):
            self._arrays = arrays
            self._changes += 1
        return self._changes

    def _computes_alone(self, network: Module, loss: Loss) -> bool:
        """processes.computes_alone, looked at again when something has changed."""
        self._follow(network, loss)
        if self._alone is None:
            self._alone = processes.computes_alone(network, loss)
        return self._alone

    @quiet
    def gradients(self, network: Module, loss: Loss, x: Array, target: Array) -> Any:
        """Forward, loss and backward on shares of the batch; the network's gradients become their sum.

        The loss is a number, or an array without axes that a device may still be computing.
        """
        self._follow(network, loss)
        if x.shape not in self._shares:
            self._shares[x.shape] = Shares.of(network, loss, x.shape)
        plan = self._shares[x.shape]
        shares = plan.cut(len(x))
        replicas = self._ready(network, loss, len(shares))
        if not backend().shares_batch:
            self._adopt(replicas[0])
        team = self._team_for(network, loss, x, target, shares) if plan.turns_count else None
        losses = None if team is None else team.gradients(x, target, shares)
        if losses is None:
            self._lost += team is not None
            pairs = zip(replicas, shares, strict=False)
            tasks = [partial(replica.gradients, x, target, slices, len(x)) for replica, slices in pairs]
            with backend().constant_weights():
                losses = backend().run(tasks)
        if backend().shares_batch:
            self._reduce(replicas[: len(shares)])
        return total(losses)

    def _team_for(self, network: Module, loss: Loss, x: Array, target: Array, shares: list[list[slice]]) -> Team | None:
        """Processes for this batch, if it is one that they pay for and the network has been seen often enough."""
        if len(shares) < 2 or self._lost >= MOST_LOST:
            return None
        if self._team is None or not self._team.alive:
            self._steps += 1
            if self._steps <= STEPS_BY_THREADS or not processes.possible(network, loss):
                return None
            most = max(share[-1].stop - share[0].start for share in shares)
            try:
                self._team = Team(network, self._replicas[: len(shares)], x, target, most)
            except processes.Busy:  # another thread computes; later, perhaps
                self._steps = 0
                return None
            except (OSError, RuntimeError):  # no more processes, no memory for them, or the interpreter ends
                self._steps = -math.inf
                return None
            self._steps = 0
        return self._team if self._team.fits(x, target, shares) else None

    def forget_recordings(self) -> None:
        """Give up what a device has recorded, and its memory."""
        self._recorder = self._recorder_of = None
        self._arrays = []

    def networks(self, network: Module, loss: Loss) -> list[Module]:
        """What the workers compute with; none of those that are out of date."""
        self._follow(network, loss)
        return [replica.network for replica in self._replicas]

    def prepare(self, network: Module, loss: Loss, count: int) -> list[Module]:
        """Replicas for so many workers, made now, which draw from nothing yet that `rng` or the network's are to give.

        A training that is resumed lets them draw from what they drew from before.
        """
        self._follow(network, loss)
        rng, self._rng = self._rng, np.random.default_rng(0)  # making a replica takes a child of it
        try:
            self._ready(network, loss, count)
        finally:
            self._rng = rng
        return self.networks(network, loss)

    def close(self) -> None:
        """End the worker processes, if there are any."""
        if self._team is not None:
            self._team.close()
        self._team, self._steps = None, 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Crew:
        return Crew(copy.deepcopy(self._rng, memo))  # the copy makes replicas and processes of its own

    def __getstate__(self) -> dict[str, Any]:
        return vars(Crew(self._rng))

    def _follow(self, network: Module, loss: Loss) -> None:
        seen = network, structure_version()
        if seen != self._seen:  # something has changed, here or in what another thread is making
            self._seen, self._structure = seen, network.structure_number()
        # A forked copy of this process must not share the gradients of our worker processes.
        signature = (network, loss, loss.arguments(), os.getpid(), self._structure)
        if signature != self._signature:
            self.close()
            self._replicas, self._shares, self._signature, self._alone = [], {}, signature, None
            self._changes += 1
            self._parameters = list(network.parameters())

    def _ready(self, network: Module, loss: Loss, count: int) -> list[Replica]:
        while len(self._replicas) < count:
            replica = network.replica()
            replica.skip_input_gradient()
            for module in replica.modules():
                module.fork_generator(generator_or_default(self._rng))
            self._replicas.append(Replica(replica, loss.replica()))
        return self._replicas

    def _adopt(self, replica: Replica) -> None:
        """Let the only replica add to the network's own gradients: there is nothing to sum up afterwards."""
        grads = [parameter.grad for parameter in self._parameters]
        if any(own.grad is not grad for own, grad in zip(replica.parameters, grads, strict=True)):
            replica.adopt_gradients(self._parameters, whole_arrays(grads))

    def _reduce(self, replicas: list[Replica]) -> None:
        first, *others = replicas
        for other in others[:-1]:
            first.add(other)
        add = backend().xp.add
        for i, parameter in enumerate(self._parameters):
            if others:
                add(first.parameters[i].grad, others[-1].parameters[i].grad, out=parameter.grad)
            else:
                parameter.grad[...] = first.parameters[i].grad


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


class CollapseWatch:
    """Notices a network whose output no longer depends on its input.

    It compares how much the outputs for a few probe images differ from image to image with how much they did before
    training. Slow learning keeps the difference (it is there at random weights); dead ReLUs or a saturated Sigmoid
    bring it to zero, and with it all gradients: nothing can recover then. A residual network hands its input on also
    when the branch that should find the noise is dead: there it is what the output adds to the input that no longer
    differs. Running statistics are used as they are, as in prediction, and stay as they are.
    """

    SHARE = 0.01  # of the difference before training, below which the output counts as one picture for all
    DIVERGED = 1e9  # a loss that no images of 0 to 1 give, not even summed up
    ROUNDING = 1e-7  # of the difference of the probe images: what rounding leaves of an output that is always the same
    RESIDUAL_ROUNDING = 1e-6  # the same, of output less input: two roundings of values larger than what is left

    def __init__(self, network: Module, probe: Array) -> None:
        self.network, self.probe = network, probe
        output = self._output()
        self.output_shape: tuple[int, ...] = output.shape
        before = _difference(output)
        usual = self.SHARE * min(before, self.SHARE) if math.isfinite(before) else 0.0
        self.least = max(usual, self.ROUNDING * _difference(probe))
        added, least = self._added(output), self.RESIDUAL_ROUNDING * _difference(probe)
        # A branch that adds nothing before training, by its initial weights, may well learn.
        self.least_added = least if added is not None and _difference(added) >= least else None

    def check(self, loss: float, where: str) -> None:
        """Raise TrainingCollapsed if the loss is not finite, or the output is the same for every probe image."""
        if not math.isfinite(loss):
            raise TrainingCollapsed(
                f"the loss is {loss} {where}: the numbers have overflowed. Train again with a smaller learning rate."
            )
        output = self._output()
        difference = _difference(output)
        if math.isnan(difference):
            raise TrainingCollapsed(
                f"the network's output is not finite {where} (loss {loss:.4g}): the numbers have overflowed. Train "
                "again with a smaller learning rate."
            )
        if loss > self.DIVERGED:
            raise TrainingCollapsed(
                f"the loss is {loss:.2g} {where}, for images of 0 to 1: training has diverged. Train again with a "
                "smaller learning rate."
            )
        if difference < self.least:
            raise TrainingCollapsed(
                f"the network gives the same output, one colour, for every image {where} (loss {loss:.4g}; a denoiser "
                "in this state scores about 12.7 dB): its units are dead or saturated, and training cannot revive "
                "them. Train again with a smaller learning rate, or other initial weights (another seed)."
            )
        added = self._added(output)
        if self.least_added is not None and added is not None and _difference(added) < self.least_added:
            raise TrainingCollapsed(
                f"the network gives its input back, but for one colour, {where} (loss {loss:.4g}): the units of its "
                "residual branch are dead, and training cannot revive them. Train again with a smaller learning rate, "
                "or other initial weights (another seed)."
            )

    def _added(self, output: Array) -> Array | None:
        """Output less input; None where they are not images of one size. Further channels of the input are left out."""
        if output.ndim != 4 or output.shape[2:] != self.probe.shape[2:] or output.shape[1] > self.probe.shape[1]:
            return None
        return output - self.probe[:, : output.shape[1]]

    def _output(self) -> Array:
        with no_grad():
            return self.network.replica().eval().forward(self.probe)


@quiet
def _difference(images: Array) -> float:
    """The root mean square over pixels of the standard deviation over images (of one image: over its pixels).

    NaN if the images are not finite.
    """
    if not bool(backend().xp.isfinite(images).all()):
        return math.nan
    wide = images.astype("float64")
    variance = wide.var(axis=0) if len(images) > 1 else wide.reshape(images.shape[1], -1).var(axis=1)
    return math.sqrt(float(variance.mean()))
