"""The course of a training: epoch after epoch of batches, what each of them gave, and when it is over.

    by passes    an epoch is every pair once; `num_epochs` of them
    by time      an epoch is a twentieth of the time, or longer; pairs come again and again until `seconds` are over

An epoch ends with its report: validation, an `Epoch` for the history, and the callback.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from . import checks
from .data.pairs import Batch, Pairs
from .data.rounds import Rounds
from .schedules import Schedule
from .training import CollapseWatch

if TYPE_CHECKING:
    from .checkpoints.writing import Keeper
    from .model import Model

CHECK_EVERY = 200  # steps between looks for a collapse within an epoch
READ_EVERY = 50  # losses that a device may be behind
BEHIND = 0.5  # and seconds, where the time counts
EPOCHS_BY_TIME = 20  # the most there are in a training by time
REPORTS = 0.1  # of the time, for all validations and callbacks together
VALIDATION = 0.05  # of the time, for one validation
LEAST = 16  # images to validate on, or all, unless they take
MOST = 0.5  # of the time
ROUNDING = 1e-6  # seconds
TIMED = 16  # images by which a validation is timed beforehand
QUICK = 0.01  # of the time, for the validation of so many

now = time.perf_counter


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What one epoch of training gave; the validation figures are None without validation pairs.

    `loss` is the mean training loss; `validation_mse` is on values in [0, 1]; `psnr` the mean of the per-image
    PSNRs, and `psnr_pooled` the PSNR of the pooled MSE, both in dB; `seconds` for the epoch with its validation.
    `validated` is on how many images; `part_to_validate` says which ones where that is not all.
    """

    epoch: int
    loss: float
    validation_mse: float | None
    psnr: float | None
    psnr_pooled: float | None
    seconds: float
    lr: float
    validated: int | None = None


def part_to_validate(images: int, count: int) -> slice | np.ndarray:
    """Which `count` of so many images a training validates on: a random choice, the same at every call."""
    if count >= images:
        return slice(None)
    return np.sort(np.random.default_rng(0).permutation(images)[:count])


class Losses:
    """The losses of an epoch. Those that a device still computes are read now and then, all at once.

    `timed`: so often that the device is never far behind the clock.
    """

    def __init__(self, timed: bool = False) -> None:
        self.total, self.images = 0.0, 0
        self.latest = 0.0  # the last one that was read; the first that is not finite, if one is not
        self._unread: list[tuple[Any, int]] = []
        self._timed, self._every, self._read_at = timed, READ_EVERY, now()

    @property
    def mean(self) -> float:
        """Over all images so far."""
        return self.total / self.images

    def add(self, loss: Any, images: int, last: bool) -> None:
        """The mean loss of a batch of so many images; `last`: read all that is left."""
        self._unread.append((loss, images))
        # The first one is read too: a callback never sees the loss of no batch.
        if last or isinstance(loss, float) or self.images == 0 or len(self._unread) >= self._every:
            self._read()

    def copy(self) -> Losses:
        """The same so far; what is added later is added to one of them."""
        twin = copy.copy(self)
        twin._unread = list(self._unread)
        return twin

    def state(self) -> dict[str, Any]:
        """All of them, read, as numbers that make an equal one by `restore`."""
        if self._unread:
            self._read()
        return {"total": self.total, "images": self.images, "latest": self.latest}

    def restore(self, total: float, images: int, latest: float) -> Losses:
        """Begin with these."""
        self.total, self.images, self.latest = total, images, latest
        return self

    def _read(self) -> None:
        for loss, count in self._unread:
            value = float(loss)
            if math.isfinite(self.latest):
                self.latest = value
            self.total, self.images = self.total + value * count, self.images + count
        if self._timed:
            at = now()
            each = (at - self._read_at) / len(self._unread)
            self._every = max(1, min(READ_EVERY, int(BEHIND / max(each, 1e-9))))
            self._read_at = at
        self._unread.clear()


class Clock:
    """The `seconds` that a training may take, from now on: when its epochs end, and what share of it is over.

    What comes after an epoch, validation and callbacks, counts as its report. Time for the last report is kept free;
    epochs are so long that all reports together take a tenth of the time at most.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = checks.number(seconds, "seconds", above=0)
        self.is_last = False  # whether this epoch is
        self._start = self._latest = now()
        self._report = 0.0  # seconds for the next one
        self._share = self._end = 0.0

    @property
    def passed(self) -> float:
        """Seconds so far."""
        return now() - self._start

    @property
    def share(self) -> float:
        """Of the time for training, from 0 to 1; it never falls."""
        whole = self.seconds - self._report
        self._share = max(self._share, min(1.0, self.passed / whole) if whole > 0 else 1.0)
        return self._share

    def state(self) -> dict[str, Any]:
        """Where it is, as numbers that `restore` takes."""
        state = {"passed": self.passed, "report": self._report, "share": self._share, "end": self._end}
        return {**state, "is_last": self.is_last}

    def restore(self, passed: float, report: float, share: float, end: float, is_last: bool, longer: bool) -> None:
        """Go on as if no time had passed since `state`; `longer`: the `seconds` have become more."""
        self._start, self._latest = now() - passed, now()
        self._report, self._end = report, end
        self._share, self.is_last = (0.0, False) if longer else (share, is_last)

    def expect_report(self, seconds: float) -> None:
        """The next one takes as long as this."""
        self._report = seconds

    def begin_epoch(self) -> None:
        """Divide the time that is left evenly into epochs, each with its report, and begin the first of them."""
        passed = self.passed
        left = max(0.0, self.seconds - passed)
        shortest = max(self.seconds / (EPOCHS_BY_TIME + 0.9), self._report / REPORTS)  # 0.9: an epoch may end late
        count = max(1, int(left / shortest))
        self.is_last = count == 1
        self._end, self._latest = passed + left / count - self._report, now()

    @contextlib.contextmanager
    def between_steps(self) -> Iterator[None]:
        """What happens in this context takes of the time as all does, but is no part of a step."""
        started = now()
        try:
            yield
        finally:
            self._latest += now() - started

    def epoch_is_over(self) -> bool:
        """To be asked after each step: whether the end of the epoch is nearer than that of another step.

        A step that would end after the time for training is not begun; then this epoch is the last.
        """
        at = now()
        step, self._latest = at - self._latest, at
        passed = at - self._start
        if passed + step > self.seconds - self._report + ROUNDING:
            self.is_last = True
            return True
        return not self.is_last and passed + step / 2 > self._end


@dataclasses.dataclass
class UnderWay:
    """An epoch that has begun and not been reported: its learning rate at first, and by the clock when it began.

    trained: its time is over; passes end with their pairs.
    """

    lr: float
    losses: Losses
    started: float
    steps: int = 0
    trained: bool = False


@dataclasses.dataclass
class Course:
    """A training of a model under way, of arguments that `Model.train` has checked; see there for their meaning.

    `take_step`: one optimisation step, whose loss may still be on its way from a device; `by_batch`: the schedule goes
    on after each batch, not after each epoch; `keeper`: writes checkpoints.
    """

    model: Model
    pairs: Pairs
    batch_size: int
    rng: np.random.Generator
    held_out: tuple[np.ndarray, np.ndarray] | None
    watch: CollapseWatch
    take_step: Callable[[Any, Any], Any]
    schedule: Schedule | None
    by_batch: bool
    callback: Callable[[Epoch], object] | None
    batch_callback: Callable[[int, int, float], object] | None
    clock: Clock | None = None
    keeper: Keeper | None = None

    def __post_init__(self) -> None:
        self.rounds = Rounds(self.pairs, self.batch_size, self.rng)
        self.first, self.done = len(self.model.history), 0  # epochs before this training, and in it
        self.epoch: UnderWay | None = None
        self.validated: int | None = None  # of the held-out images, where not all

    def run(self, num_epochs: int) -> None:
        """Until all is done, or a callback stops it."""
        if self.clock is None:
            self._by_passes(num_epochs)
        else:
            self._by_time(self.clock)

    def begin(self) -> None:
        """What comes before the first epoch of a training that is not resumed."""
        if self.clock is None:
            return
        if self.schedule is not None:
            self.schedule.follow(0.0)
        if self.held_out is not None:
            self._time_validation(self.held_out, self.clock)

    def progress(self) -> dict[str, Any]:
        """Where it is, in numbers: what `go_on` takes, but for the losses of an epoch under way."""
        epoch = self.epoch
        state: dict[str, Any] = {"first": self.first, "done": self.done, "validated": self.validated}
        state["clock"] = None if self.clock is None else self.clock.state()
        if epoch is None:
            return {**state, "epoch": None}
        seconds = now() - epoch.started
        return {
            **state,
            "epoch": {"lr": epoch.lr, "seconds": seconds, "steps": epoch.steps, "trained": epoch.trained},
        }

    def go_on(self, first: int, done: int, epoch: UnderWay | None, validated: int | None) -> None:
        """Be where another course was; what else it had, its rounds and its clock, has been restored."""
        self.first, self.done, self.epoch = first, done, epoch
        if self.held_out is not None and validated is not None:
            self._validate_part(validated)

    def _by_passes(self, num_epochs: int) -> None:
        """Every pair `num_epochs` times."""
        count = math.ceil(len(self.pairs) / self.batch_size)
        while self.done < num_epochs:
            if self._epoch(count):
                return

    def _by_time(self, clock: Clock) -> None:
        """Until the time is over; one step at least."""
        while self.epoch is not None or not clock.is_last:
            if self.epoch is None:
                clock.begin_epoch()
            if self._epoch(0):
                return

    def _time_validation(self, held_out: tuple[np.ndarray, np.ndarray], clock: Clock) -> None:
        """Take fewer images to validate on if they would take too much of the time."""
        inputs, targets = held_out
        each = self._seconds_to_validate(inputs[:1], targets[:1])
        if each <= VALIDATION * clock.seconds:
            each = self._seconds_to_validate(inputs[:1], targets[:1])  # the first call had to prepare something
        if each * TIMED < QUICK * clock.seconds:
            each = self._seconds_to_validate(inputs[:TIMED], targets[:TIMED])
        share, most = (int(part * clock.seconds / each) for part in (VALIDATION, MOST))
        count = min(len(inputs), max(1, share, min(LEAST, most)))
        self._validate_part(count)
        clock.expect_report(count * each)

    def _validate_part(self, count: int) -> None:
        assert self.held_out is not None  # whoever asks has looked
        inputs, targets = self.held_out
        part = part_to_validate(len(inputs), count)
        self.held_out, self.validated = (inputs[part], targets[part]), count

    def _seconds_to_validate(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """One of the images."""
        started = now()
        self.model.validate(inputs, targets)
        return max(now() - started, 1e-9) / len(inputs)

    def _epoch(self, count: int) -> bool:
        """Train for an epoch of `count` batches (0: as many as the clock allows) and report; whether to stop."""
        if self.epoch is None:
            optimizer = self.model.optimizer
            self.epoch = UnderWay(optimizer.lr if optimizer else 0.0, Losses(self.clock is not None), now())
        under_way = self.epoch
        self._train(under_way, count)
        ended = now()
        number = len(self.model.history) + 1
        mse = mean = pooled = validated = None
        if self.held_out is not None:
            mse, mean, pooled = self.model.validate(*self.held_out)
            validated = len(self.held_out[0])
        seconds = now() - under_way.started
        epoch = Epoch(number, under_way.losses.mean, mse, mean, pooled, seconds, under_way.lr, validated)
        self.model.history.append(epoch)
        if not self.by_batch:
            self._move_schedule()
        stop = self.callback(epoch) if self.callback is not None else False
        if self.clock is not None:
            self.clock.expect_report(now() - ended)
        self.epoch, self.done = None, self.done + 1
        if self.keeper is not None:
            self.keeper.epoch_done(self, epoch)
        return isinstance(stop, (bool, np.bool_)) and bool(stop)

    def _train(self, epoch: UnderWay, count: int) -> None:
        while not epoch.trained and (batch := self._next_batch()) is not None:
            with self._step_kept():
                self._step(epoch, batch, count)
            if self.batch_callback is not None:
                self.batch_callback(epoch.steps, count, epoch.losses.latest)
            if self.keeper is not None:
                self.keeper.step_done(self)

    def _next_batch(self) -> Batch | None:
        """Passes end with their pairs; where the time counts, pairs come again and again."""
        return self.rounds.next_of_round() if self.clock is None else self.rounds.next()

    def _step_kept(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self.keeper is None else self.keeper.step(self)

    def _step(self, epoch: UnderWay, batch: Batch, count: int) -> None:
        """One step, and what it changes."""
        x, target = batch
        loss = self.take_step(self.model.as_network_input(x), self.model.as_network_input(target))
        epoch.steps += 1
        step, losses = epoch.steps, epoch.losses
        last = step == count if self.clock is None else self.clock.epoch_is_over()
        losses.add(loss, len(x), last)
        if not math.isfinite(losses.latest) or step % CHECK_EVERY == 0 or last:
            of = f" of {count}" if count else ""
            self.watch.check(losses.latest, f"in epoch {len(self.model.history) + 1}, after step {step}{of}")
        if self.by_batch:
            self._move_schedule()
        epoch.trained = last and self.clock is not None

    def _move_schedule(self) -> None:
        if self.schedule is None:
            return
        if self.clock is None:
            self.schedule.step()
        else:
            self.schedule.follow(self.clock.share)
