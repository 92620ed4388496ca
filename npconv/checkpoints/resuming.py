"""Going on from a checkpoint: all of it is read and compared first, and only then is anything changed.

Resumed(path)  ->  check(fit, model)  ->  a Course like the one that was stopped  ->  restore(course)
"""

from __future__ import annotations

import math
import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import epochs
from ..backends import backend
from ..data.rounds import Place
from ..epochs import Clock, Course, Epoch, Losses, UnderWay
from ..random import replace_default
from ..training import CollapseWatch, Crew
from ..weights import WeightsFileError
from . import file as checkpoint_file
from .file import BEST, NETWORK
from .generators import Held, check_held, check_room, hand_out, modules_of, rebuild, state_of
from .same_training import differences, is_count, optimizer_misfits
from .writing import Keeper, settings

if TYPE_CHECKING:
    from ..model import Model
    from ..schedules import Schedule

_MOST_WORKERS = 4096
_NONSENSE = (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError)


class Resumed:
    """A checkpoint to go on from.

    path: the file. Raises WeightsFileError if it is missing, damaged, or not a checkpoint.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        contents = checkpoint_file.read(path)
        self.arrays = contents.arrays
        try:
            self._parse(contents.state)
        except _NONSENSE as error:
            raise WeightsFileError(f"{self.path}: the state of the training is not whole: {error!r}") from error

    def _parse(self, state: dict[str, Any]) -> None:
        self.fit, self.notes, self.finished = dict(state["fit"]), state["notes"], bool(state["finished"])
        count = self.fit["num_epochs"]
        seconds = self.fit["seconds"]
        self.length = None if count is None else _count(count), None if seconds is None else _moment(seconds)
        given = [length for length in self.length if length is not None]
        if len(given) != 1 or not given[0]:
            raise ValueError(f"a training of {count} epochs and {seconds} seconds")
        self.longer = False  # whether it is to be; `check` finds out
        self.began = {"generator": state["began"]["generator"], "count": _count(state["began"]["count"])}
        rebuild(self.began["generator"])
        self.history = [_epoch(fields) for fields in state["history"]]
        self._parse_progress(state["progress"])
        began, drawn = state["place"]["began"], _count(state["place"]["drawn"])
        self.place = Place(began and state_of({"state": began, "seeds": None}), drawn, self.arrays["order"])
        self._parse_generators(state["generators"])
        self.settings: dict[str, Any] | None = state["schedule"] and dict(state["schedule"])
        self.count = 0 if self.settings is None else _count(self.settings["count"])
        self.options = [dict(group) for group in state["options"]]
        self.modes = [bool(mode) for mode in state["modes"]]
        self.remembered = [dict(numbers) for numbers in state["remembered"]]
        self.watch = [_number(value) for value in state["watch"]]
        if len(self.watch) != 2 or self.watch[0] is None:
            raise ValueError(f"watch (={self.watch})")
        self.best_psnr = _decibels(state["best_psnr"])

    def _parse_progress(self, stored: dict[str, Any]) -> None:
        self.first, self.done = _count(stored["first"]), _count(stored["done"])
        if self.first + self.done != len(self.history):
            raise ValueError(f"a history of {len(self.history)} epochs after {self.first} and {self.done}")
        self.validated = None if stored["validated"] is None else _count(stored["validated"])
        clock, epoch, losses = stored["clock"], stored["epoch"], stored["losses"]
        self.clock = clock and {name: _moment(clock[name]) for name in ("passed", "report", "share")}
        if (self.clock is None) != (self.length[1] is None) or (epoch is None) != (losses is None):
            raise ValueError("clock, losses and epoch contradict each other")
        if clock:
            self.clock |= {"end": _real(clock["end"]), "is_last": bool(clock["is_last"])}
            if self.clock["share"] > 1:
                raise ValueError(f"share (={self.clock['share']}) must be at most 1")
        self.epoch: dict[str, Any] | None = None
        if epoch is not None:
            self.epoch = {"lr": _real(epoch["lr"]), "seconds": _real(epoch["seconds"])}
            self.epoch |= {"steps": _count(epoch["steps"]), "trained": bool(epoch["trained"])}
            self.epoch["losses"] = _real(losses["total"]), _count(losses["images"]), _real(losses["latest"])

    @property
    def step(self) -> int:
        """Steps taken of the epoch under way."""
        return 0 if self.epoch is None else int(self.epoch["steps"])

    @property
    def passed(self) -> float:
        """Seconds of a training by time that are over."""
        return 0.0 if self.clock is None else float(self.clock["passed"])

    def _parse_generators(self, stored: dict[str, Any]) -> None:
        self.generators = [rebuild(row) for row in stored["rows"]]
        training, default = stored["training"], stored["default"]
        if not 0 <= min(training, default) <= max(training, default) < len(self.generators):
            raise ValueError(f"generators (={len(self.generators)} of them)")
        self.rng, self.default = self.generators[training], self.generators[default]
        self.of_network = modules_of(stored["network"], self.generators)
        self.of_replicas: list[dict[Held, np.random.Generator]] = [
            modules_of(rows, self.generators) for rows in stored["replicas"]
        ]
        if len(self.of_replicas) > _MOST_WORKERS:
            raise ValueError(f"replicas (={len(self.of_replicas)} of them)")

    def first_generator(self) -> np.random.Generator:
        """As the generator of the training was when it began."""
        return rebuild(self.began["generator"])

    def length_of(self, num_epochs: int | None, seconds: float | None) -> tuple[int | None, float | None]:
        """How long the training is to be, all in all; what is not given is as it was.

        Raises ValueError where it would be of another kind, or shorter than it was.
        """
        if num_epochs is None and seconds is None:
            return self.length
        given, was = ("num_epochs", "seconds"), self.length
        for name, value, stored in zip(given, (num_epochs, seconds), was, strict=True):
            if value is None:
                continue
            if stored is None:
                other = next(f"{n} (={v})" for n, v in zip(given, was, strict=True) if v is not None)
                raise ValueError(f"{name} (={value:g}) cannot go on with {self.path}, a training by {other}")
            if value < stored:
                raise ValueError(f"{name} (={value:g}) must be at least the {stored:g} of {self.path}")
        return num_epochs, seconds

    # ---- does it fit? ----
    def check(self, fit: dict[str, Any], model: Model, schedule: Schedule | None) -> None:
        """ValueError that lists all that differs from the training that was stopped, and is not allowed to.

        fit: as `same_training.describe` gives it for the training that is to go on.
        """
        self.longer = (fit["num_epochs"], fit["seconds"]) != self.length
        problems = differences(fit, self.fit)
        if not any(line.startswith("network") for line in problems):  # else it is clear why
            problems += checkpoint_file.misfits(model.network, self.arrays)
            if self.best_psnr is not None:
                problems += checkpoint_file.misfits(model.network, self.arrays, BEST)
        if not problems:
            stored = self.options, self.remembered, self.arrays["optimizer"]
            problems = optimizer_misfits(model.optimizer, *stored) or self._modules_misfit(model)
        if not problems and schedule is not None and set(settings(schedule)) != set(self.settings or ()):
            problems.append(f"schedule: {type(schedule).__name__} has other settings")
        if problems:
            raise ValueError(f"{self.path} does not fit this training:\n  " + "\n  ".join(problems))
        here, there = fit["computed by"], self.fit.get("computed by")
        if here != there:
            warnings.warn(
                f"{self.path} was computed by {there}, and goes on with {here}: the result may not be the same bit for "
                "bit",
                stacklevel=3,
            )

    def _modules_misfit(self, model: Model) -> list[str]:
        count = sum(1 for _ in model.network.modules())
        if count != len(self.modes):
            return [f"network: it has {count} modules here, {len(self.modes)} in the checkpoint"]
        try:
            check_held(model.network, self.of_network)
            for places in self.of_replicas:
                check_room(model.network, places)
        except ValueError as error:
            return [str(error)]
        return []

    # ---- going on ----
    def restore(self, course: Course, crew: Crew) -> None:
        """Put the model, and a course that has been made like the one that was stopped, where that was.

        The checkpoint then holds no arrays any more. Raises ValueError, before anything of the model changes, if the
        data cannot be at that place.
        """
        model, state = course.model, self.rng.bit_generator.state
        try:
            course.rounds.return_to(self.place)
        except _NONSENSE as error:
            raise WeightsFileError(f"{self.path}: the training cannot be at the stored place: {error}") from error
        self.rng.bit_generator.state = state
        checkpoint_file.put_into(model.network, self.arrays)
        for module, mode in zip(model.network.modules(), self.modes, strict=True):
            module.training = mode
        self._restore_optimizer(model)
        if course.schedule is not None:
            self._restore_schedule(course.schedule)
        model.history[:] = self.history
        self._restore_generators(model, crew)
        _restore_watch(course.watch, self.watch)
        if course.clock is not None:
            self._restore_clock(course.clock)
        course.go_on(self.first, self.done, self._under_way(course), self.validated)
        if course.keeper is not None:
            self._restore_best(course.keeper)
        self.release()

    def release(self) -> None:
        """Let go of the arrays, as large as network and optimizer: where they have been put, or nobody needs them."""
        self.arrays = {}

    def _restore_clock(self, clock: Clock) -> None:
        assert self.clock is not None  # a training by time goes on by time
        clock.restore(**self.clock, longer=self.longer)

    def _under_way(self, course: Course) -> UnderWay | None:
        if self.epoch is None:
            return None
        losses = Losses(course.clock is not None).restore(*self.epoch["losses"])
        started = epochs.now() - self.epoch["seconds"]
        return UnderWay(self.epoch["lr"], losses, started, self.epoch["steps"], self.epoch["trained"])

    def _restore_best(self, keeper: Keeper) -> None:
        keeper.best_psnr = self.best_psnr
        if self.best_psnr is not None:
            keeper.best = {group: self.arrays[best] for group, best in zip(NETWORK, BEST, strict=True)}

    def _restore_optimizer(self, model: Model) -> None:
        optimizer = model.optimizer
        if optimizer is None:
            return
        for group, stored in zip(optimizer.groups, self.options, strict=True):
            group.update({name: _as(group.get(name), value) for name, value in stored.items()})
            optimizer._check(group)
        parameters = [parameter for group in optimizer.groups for parameter in group["params"]]
        for state, numbers in zip(optimizer.state, self.remembered, strict=True):
            state.clear()
            state.update(numbers)
        for key, array in self.arrays["optimizer"].items():
            number, _, name = key.partition(".")
            optimizer.state[int(number)][name] = _like(parameters[int(number)].data, array)

    def _restore_schedule(self, schedule: Schedule) -> None:
        schedule.count = self.count
        if self.longer:
            schedule._apply()  # its rates are those of a longer training
        elif type(schedule).__module__.partition(".")[0] != "npconv":  # one of one's own may remember more
            for name, value in (self.settings or {}).items():
                setattr(schedule, name, _as(getattr(schedule, name), value))

    def _restore_generators(self, model: Model, crew: Crew) -> None:
        replicas = crew.prepare(model.network, model.loss, len(self.of_replicas)) if any(self.of_replicas) else []
        hand_out(model.network, self.of_network)
        for replica, generators in zip(replicas, self.of_replicas, strict=False):
            hand_out(replica, generators)
        replace_default(self.default)


def _as(current: Any, value: Any) -> Any:
    """A value that JSON has kept, which has no tuples."""
    return tuple(value) if isinstance(current, tuple) and isinstance(value, list) else value


def _like(data: Any, array: np.ndarray) -> Any:
    """`array` on the backend, in the memory order of `data` where it has its shape."""
    if array.shape != data.shape:
        return backend().asarray(array)
    room = backend().xp.zeros_like(data, dtype=array.dtype)
    room[...] = backend().asarray(array)
    return room


def _restore_watch(watch: CollapseWatch, stored: list[float | None]) -> None:
    least, watch.least_added = stored
    watch.least = least or 0.0


def _epoch(fields: Any) -> Epoch:
    epoch, validated, psnr = _count(fields["epoch"]), fields["validated"], _decibels(fields["psnr"])
    mse, pooled = (_number(fields[name]) for name in ("validation_mse", "psnr_pooled"))
    loss, seconds, lr = (_real(fields[name]) for name in ("loss", "seconds", "lr"))
    return Epoch(epoch, loss, mse, psnr, pooled, seconds, lr, None if validated is None else _count(validated))


def _count(value: Any) -> int:
    if not is_count(value):
        raise TypeError(f"{value!r} must be a whole number of at least 0")
    return int(value)


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{value!r} must be a finite number")
    return float(value)


def _moment(value: Any) -> float:
    if _real(value) < 0:
        raise ValueError(f"{value!r} must be at least 0 seconds")
    return float(value)


def _decibels(value: Any) -> float | None:
    """A mean PSNR, which is infinite where an image has been met exactly."""
    return math.inf if value == math.inf else _number(value)


def _number(value: Any) -> float | None:
    return None if value is None else _real(value)
