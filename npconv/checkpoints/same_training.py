"""What must be the same where a training goes on from a checkpoint, as plain data, and what differs, in words."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backends import backend
from ..data.pairs import Pairs
from ..data.patches import PatchPairs
from ..optim import SGD, Adam
from ..weights import architecture
from .loss_and_optimizer import describe_loss, describe_optimizer
from .writing import options, settings

CLOSE = 0.02  # of 8-bit steps: the mean of an image that another machine has read or drawn
SHOWN = 100  # characters of a value
MOST = 2**62  # that anything is counted up to
# What an optimizer remembers of a parameter once there has been a step, and what it may remember too.
_REMEMBERED: dict[type, tuple[set[str], set[str]]] = {
    SGD: ({"velocity"}, set()),
    Adam: ({"step", "first", "second"}, {"largest"}),
}

Images = tuple[np.ndarray, np.ndarray]
_ALLOWED = ("num_epochs", "seconds", "computed by")  # to be different, within rules that others look after
_MEANS = "mean values"


def describe(
    model: Any,
    pairs: Pairs,
    probe: Images,
    held_out: Images | None,
    schedule: Any,
    *,
    num_epochs: int | None,
    seconds: float | None,
    batch_size: int,
    schedule_every: str,
    seed: int | None,
) -> dict[str, Any]:
    """What a training is made of. probe, held_out: some pairs to train on, always the same ones, and to validate on.

    Raises TypeError for options of an optimizer or a schedule of one's own that are no plain data.
    """
    data: dict[str, Any] = {"kind": type(pairs).__name__, "number": len(pairs)}
    data |= {"input": pairs.input_shape, "target": pairs.target_shape, _MEANS: _means(probe)}
    if isinstance(pairs, PatchPairs) and pairs.photos.has_lasting_names:
        data["CRC-32 of the photographs' names"] = _names_checksum(pairs.photos.names)
    validation = None
    if held_out is not None:
        validation = {"input": held_out[0].shape, "target": held_out[1].shape, _MEANS: _means(held_out, whole=True)}
    fit = {
        "network": architecture(model.network),
        "loss": describe_loss(model.loss),
        "optimizer": describe_optimizer(model.network, model.optimizer),
        "schedule": None if schedule is None else _described(schedule),
        "schedule_every": schedule_every,
        "batch_size": batch_size,
        "seed": seed,
        "training data": data,
        "validation": validation,
        "num_epochs": num_epochs,
        "seconds": seconds,
        "computed by": _computed_by(),
    }
    try:
        plain: dict[str, Any] = json.loads(json.dumps(fit))
    except TypeError as error:
        raise TypeError(f"a checkpoint cannot keep this training, what it holds is no plain data: {error}") from error
    return plain


def _computed_by() -> str:
    """What the last bits depend on, beside the arguments."""
    names = ("NPCONV_CONV",) if backend().name == "numpy" else ("NPCONV_GPU_CONV", "NPCONV_TF32")
    forced = [f"{name}={value}" for name in names if (value := os.environ.get(name)) not in (None, "", "auto", "0")]
    return ", ".join([f"the {backend().name} backend", backend().describe(), *forced])


def _names_checksum(names: list[str]) -> str:
    """Their order counts: photographs are drawn by number. Names need not be UTF-8."""
    return f"{zlib.crc32(chr(0).join(names).encode(errors='surrogateescape')):08x}"


def _described(schedule: Any) -> dict[str, Any]:
    return {"type": type(schedule).__name__, **{n: v for n, v in settings(schedule).items() if n != "count"}}


def _means(images: Images, whole: bool = False) -> list[float]:
    """Of each image, or of all together, inputs and then targets."""
    axes = None if whole else (1, 2, 3)
    return [round(float(mean), 4) for part in images for mean in np.atleast_1d(part.mean(axis=axes, dtype="float64"))]


def differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """What keeps a training from going on from a checkpoint, a line for each; both as `describe` gives them.

    A training that is to be longer may have another schedule of the same kind. A seed that is not given is the old one.
    """
    longer = any(here[name] != there.get(name) for name in ("num_epochs", "seconds"))
    lines: list[str] = []
    for name, value in here.items():
        other = there.get(name)
        if name in _ALLOWED or (name == "seed" and value is None):
            continue
        if name == "schedule" and longer and value is not None and isinstance(other, dict):
            value, other = value["type"], other.get("type")
        lines += _different(value, other, name)
    return lines


def _different(here: Any, there: Any, name: str) -> Iterator[str]:
    if isinstance(here, dict) and isinstance(there, dict):
        for key in {**here, **there}:
            yield from _different(here.get(key), there.get(key), f"{name}: {key}")
    elif isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        if name.endswith(_MEANS):
            if not _close(here, there):
                yield f"{name} are {_short(here)} here, {_short(there)} in the checkpoint"
            return
        for index, (ours, theirs) in enumerate(zip(here, there, strict=True)):
            yield from _different(ours, theirs, f"{name}[{index}]")
    elif _are_parts(here) and _are_parts(there):
        yield f"{name}: their number is {len(here)} here, {len(there)} in the checkpoint"
    elif here != there or isinstance(here, bool) != isinstance(there, bool):
        yield f"{name} is {_short(here)} here, {_short(there)} in the checkpoint"


def _are_parts(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(part, dict) for part in value)


def _close(here: list[Any], there: list[Any]) -> bool:
    numbers = all(isinstance(value, (int, float)) for value in there)
    return numbers and all(math.isclose(a, b, rel_tol=0, abs_tol=CLOSE) for a, b in zip(here, there, strict=True))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


# ---- what the optimizer has remembered ----
def optimizer_misfits(
    optimizer: Any, stored: list[dict[str, Any]], remembered: list[dict[str, Any]], arrays: dict[str, np.ndarray]
) -> list[str]:
    """What keeps an optimizer from going on with stored options of its groups, numbers and arrays of its parameters."""
    groups = [] if optimizer is None else optimizer.groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    counts = (len(groups), len(stored), "groups of parameters"), (len(parameters), len(remembered), "parameters")
    problems = [
        f"optimizer: number of {what} is {here} here, {there} in the checkpoint"
        for here, there, what in counts
        if here != there
    ]
    if problems:
        return problems
    names = [set(numbers) for numbers in remembered]
    known = _REMEMBERED.get(type(optimizer))
    for key, array in arrays.items():
        number, _, name = key.partition(".")
        if not number.isdecimal() or len(number) > 9 or int(number) >= len(parameters):
            problems.append(f"optimizer: there is no parameter for {key}")
            continue
        names[int(number)].add(name)
        ours = parameters[int(number)].data
        if known and (array.shape, array.dtype) != (ours.shape, ours.dtype):
            problems.append(f"optimizer: {key} is {array.dtype} {array.shape}, the parameter {ours.dtype} {ours.shape}")
    for index, (found, numbers) in enumerate(zip(names, remembered, strict=True)):
        whole = not found or (known and known[0] <= found <= known[0] | known[1])
        if known and not (whole and set(numbers) <= {"step"} and all(map(is_count, numbers.values()))):
            problems.append(f"optimizer: it cannot remember {sorted(found)} of parameter {index}")
    for group, values in zip(groups, stored, strict=True):
        problems += _wrong_options(optimizer, group, values)
    return problems


def _wrong_options(optimizer: Any, group: dict[str, Any], stored: dict[str, Any]) -> list[str]:
    """What keeps the options of a group from being these, also those that a schedule began with."""
    others = {name for name in set(options(group)) ^ set(stored) if not name.startswith("initial_")}
    if others:
        return [f"optimizer: the options {sorted(others)} are not on both sides"]
    begun = {name[len("initial_") :]: value for name, value in stored.items() if name.startswith("initial_")}
    if not set(begun) <= set(stored):
        return [f"optimizer: there are no options {sorted(set(begun) - set(stored))}"]
    try:
        optimizer._check({**group, **stored})
        optimizer._check({**group, **stored, **begun})
    except (TypeError, ValueError) as error:
        return [f"optimizer: {error}"]
    return []


def is_count(value: Any) -> bool:
    """Whether a value from a file is a whole number of at least 0, and not beyond all counting."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST
