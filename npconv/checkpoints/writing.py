"""Checkpoints: what `Model.train` writes now and then, so that a training that was stopped can go on where it was.

    step -> mark (where the training is, in a few numbers) -> ... -> write (the marked place, and all arrays)

Arrays change within steps only, so that the last mark and the arrays belong together at any other time: when Ctrl-C or
an error ends a training there, it still leaves a checkpoint. A signal that arrives within a step waits for its end.
What callbacks change is in the mark that follows them.
"""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..backends import to_numpy
from ..held_signals import HeldSignals
from ..module import structure_version
from ..random import generator_or_default
from ..training import Crew, TrainingCollapsed
from ..weights import WeightsFileError
from ..whole_file import remove_parts
from . import file as checkpoint_file
from .arguments import CheckpointFile, Every
from .file import NETWORK, Arrays
from .generators import Table, plain_state
from .loss_and_optimizer import describe_loss_and_optimizer, without_scalars

if TYPE_CHECKING:
    from ..epochs import Course, Epoch

now = time.monotonic


@dataclass
class _Mark:
    """Where a training is between two steps: all that may change until the next step ends, but for arrays."""

    progress: dict[str, Any]
    losses: Any
    place: Any
    history: list[Epoch]
    best: dict[str, Arrays] | None  # the network of the best epoch
    best_psnr: float | None
    generators: list[tuple[Any, Any]]  # and the states of their bits
    schedule: dict[str, Any] | None
    options: list[dict[str, Any]]
    modes: list[bool]  # `training` of each module


class Keeper:
    """Writes the checkpoints of one training, of which `fit` says what must be the same where it is resumed."""

    def __init__(
        self, file: CheckpointFile, every: Every, fit: dict[str, Any], began: dict[str, Any], crew: Crew
    ) -> None:
        self.file, self.every, self.fit, self.began, self._crew = file, every, fit, began, crew
        self.best: dict[str, Arrays] | None = None  # the network of the best epoch
        self.best_psnr: float | None = None
        self._marked: _Mark  # once `keeping` has begun
        self._modes: list[bool] = []
        self._modes_of: Any = None
        self._signals = HeldSignals()
        self._in_step = self._failed = self._finished = False
        self._told = False  # that the last one could not be written
        self._steps, self._epochs, self._written = 0, 0, now()  # since the last checkpoint

    @contextmanager
    def keeping(self, course: Course) -> Iterator[None]:
        """Checkpoints of what happens in this context: when it begins and ends, and where it breaks off."""
        remove_parts(self.file.path)
        self._mark(course)
        self._write(course)  # nothing is trained that could not be kept
        with self._signals:
            try:
                yield
                self.write_finished(course)
            except BaseException as error:
                settled = self._in_step or self._failed or self._finished
                if not (settled or isinstance(error, TrainingCollapsed)):
                    self._write_at_the_end(course)
                raise

    def write_finished(self, course: Course) -> None:
        """The last one, of a training that has come to its end."""
        with self._signals.held():
            self._mark(course)
            self._write(course, finished=True)
            self._finished = True

    def is_at(self, path: str | os.PathLike[str]) -> bool:
        """Whether it writes the file `path`."""
        return self.file.path.resolve() == Path(path).resolve()

    def _write_at_the_end(self, course: Course) -> None:
        try:
            self._write(course)
        except Exception as error:  # what has ended the training is the error to be told
            warnings.warn(f"training has ended without a new checkpoint: {error}", stacklevel=2)

    @contextmanager
    def step(self, course: Course) -> Iterator[None]:
        """One step, and what belongs to it."""
        with self._signals.held():
            self._in_step = True
            yield
            self._mark(course)
            self._in_step = False

    def step_done(self, course: Course) -> None:
        """After what a step has called: write, if it is time."""
        if course.batch_callback is not None:
            with self._signals.held():
                self._marked = replace(self._marked, **self._in_reach(course))
        self._steps += 1
        enough = self.every.steps is not None and self._steps >= self.every.steps
        if enough or (self.every.seconds is not None and now() - self._written >= self.every.seconds):
            self._write_if_possible(course)

    def epoch_done(self, course: Course, epoch: Epoch) -> None:
        """After an epoch with its report, of which the model has the parameters: write, if it is time."""
        with self._signals.held():
            if epoch.psnr is not None and (self.best_psnr is None or epoch.psnr > self.best_psnr):
                self.best, self.best_psnr = checkpoint_file.network_arrays(course.model.network), epoch.psnr
            self._mark(course)
        self._epochs += 1
        if self.every.epochs is not None and self._epochs >= self.every.epochs:
            self._write_if_possible(course)

    # ---- what is kept ----
    def _mark(self, course: Course) -> None:
        self._marked = _Mark(
            progress=course.progress(),
            losses=None if course.epoch is None else course.epoch.losses.copy(),
            place=course.rounds.place(),
            history=list(course.model.history),
            best=self.best,
            best_psnr=self.best_psnr,
            **self._in_reach(course),
        )

    def _in_reach(self, course: Course) -> dict[str, Any]:
        """That part of a mark which callbacks may change."""
        network, optimizer = course.model.network, course.model.optimizer
        generators = course.rng, generator_or_default()
        if self._modes_of != (network, structure_version()):  # going through all modules takes longer than the rest
            self._modes_of = network, structure_version()
            self._modes = [module.training for module in network.modules()]
        return {
            "generators": [(generator, generator.bit_generator.state) for generator in generators],
            "schedule": None if course.schedule is None else settings(course.schedule),
            "options": [] if optimizer is None else [options(group) for group in optimizer.groups],
            "modes": self._modes,
        }

    def _write_if_possible(self, course: Course) -> None:
        """One of those that others follow: a disk that is full for a while must not end a training."""
        try:
            self._write(course)
        except WeightsFileError as error:
            self._failed = False
            self._steps, self._epochs, self._written = 0, 0, now()
            if not self._told:
                self._told = True  # before it is an error, where warnings are
                warnings.warn(f"training goes on, and tries again later: {error}", stacklevel=2)

    def _write(self, course: Course, finished: bool = False) -> None:
        try:
            with contextlib.nullcontext() if course.clock is None else course.clock.between_steps():
                self._write_marked(course, finished)
        except Exception:
            self._failed = True  # there is no use in trying again when that ends the training
            raise
        self._steps, self._epochs, self._written = 0, 0, now()
        self._told = False
        self.file.written += 1

    def _write_marked(self, course: Course, finished: bool) -> None:
        mark, model = self._marked, course.model
        state: dict[str, Any] = {
            "fit": self.fit,
            "began": self.began,
            "notes": self.file.notes,
            "finished": finished,
            "progress": {**mark.progress, "losses": None if mark.losses is None else mark.losses.state()},
            "place": {"began": plain_state(mark.place.began), "drawn": mark.place.drawn},
            "generators": self._generators(course, mark),
            "schedule": mark.schedule,
            "options": mark.options,
            "modes": mark.modes,
            "history": [asdict(epoch) for epoch in mark.history],
            "watch": [course.watch.least, course.watch.least_added],
            "best_psnr": mark.best_psnr,
        }
        arrays: dict[str, Any] = {"order": mark.place.order}
        state["remembered"], arrays["optimizer"] = _remembered(model.optimizer)
        if mark.best is not None:
            arrays.update({f"best.{group}": mark.best[group] for group in NETWORK})
        training = describe_loss_and_optimizer(model.network, model.loss, model.optimizer)
        checkpoint_file.write(self.file.path, state, arrays, model.network, training)

    def _generators(self, course: Course, mark: _Mark) -> dict[str, Any]:
        table = Table()
        training, default = (table.number(generator, state) for generator, state in mark.generators)
        model = course.model
        network = table.modules(model.network)
        replicas = [table.modules(replica) for replica in self._crew.networks(model.network, model.loss)]
        return {
            "training": training,
            "default": default,
            "network": network,
            # Where they draw nothing, a training has the same state before its replicas are made as afterwards.
            "replicas": replicas if any(replicas) else [],
            "rows": table.rows,
        }


def _remembered(optimizer: Any) -> tuple[list[dict[str, Any]], Arrays]:
    """What an optimizer remembers of each parameter: numbers, and arrays by "number.name"."""
    numbers: list[dict[str, Any]] = []
    arrays: Arrays = {}
    for index, state in enumerate([] if optimizer is None else optimizer.state):
        numbers.append({})
        for name, value in state.items():
            if isinstance(value, (bool, int, float, str)) or value is None:
                numbers[-1][name] = value
            elif hasattr(value, "shape") and hasattr(value, "dtype"):
                arrays[f"{index}.{name}"] = to_numpy(value)
            else:
                kind = type(value).__name__
                raise TypeError(f"a checkpoint cannot keep the {kind} {name!r} that {type(optimizer).__name__} holds")
    return numbers, arrays


def options(group: dict[str, Any]) -> dict[str, Any]:
    """The options in force of a group of parameters, without NumPy's scalars, which JSON has not."""
    return {name: without_scalars(value) for name, value in group.items() if name != "params"}


def settings(schedule: Any) -> dict[str, Any]:
    """All that a schedule holds but its optimizer. Raises TypeError for what is no plain data."""
    found = {name: value for name, value in vars(schedule).items() if name != "optimizer"}
    for name, value in found.items():
        if not _is_plain(value):
            kind = type(value).__name__
            raise TypeError(f"a checkpoint cannot keep the {kind} {name!r} that {type(schedule).__name__} holds")
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
