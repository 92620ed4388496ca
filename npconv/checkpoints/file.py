"""The file of a checkpoint: an npconv file of the network as it is, and beside it what the training needs to go on.

    parameters, gradients, buffers    the network; `npconv.load` and `Model.load` read them as they read any model
    optimizer, order                  arrays of the optimizer ("3.first": of parameter 3), and of the data's order
    best.parameters, ...              the network of the best epoch so far
    checkpoint                        all the rest, as JSON in UTF-8

It is put together in memory and then written as a whole: what a full disk refuses is a plain error of the system.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import weights
from ..backends import backend, to_numpy
from ..module import Module
from ..weights import WeightsFileError, architecture
from ..whole_file import whole_file

NETWORK = ("parameters", "gradients", "buffers")
BEST = tuple(f"best.{group}" for group in NETWORK)
_GROUPS = (*NETWORK, *BEST, "optimizer", "order")
_STATE = "checkpoint"

Arrays = dict[str, np.ndarray]


@dataclass
class Checkpoint:
    """What a checkpoint holds: `state`, plain data, and `arrays` of the host, by group and name."""

    state: dict[str, Any]
    arrays: dict[str, Arrays]


def network_arrays(network: Module) -> dict[str, Arrays]:
    """Copies of all arrays of a network, on the host."""
    groups = weights._groups(network)
    return {group: {name: _copy(values) for name, values in arrays.items()} for group, arrays in groups.items()}


def _copy(values: Any) -> np.ndarray:
    host: np.ndarray = to_numpy(values)
    return host.copy() if host is values else host


def write(
    path: Path,
    state: Mapping[str, Any],
    arrays: Mapping[str, Mapping[str, Any]],
    network: Module,
    training: dict[str, Any],
) -> None:
    """Write the checkpoint of a network, whose own arrays are taken as they are; `training`: as in a model's file.

    Raises WeightsFileError if it cannot be written; an earlier one then stays as it was.
    """
    text = {"state": np.frombuffer(json.dumps(state).encode(), np.uint8)}
    groups: dict[str, Mapping[str, Any]] = {**weights._groups(network), **arrays, _STATE: text}
    held = {group: {name: value for name, value in values.items() if value.size} for group, values in groups.items()}
    image = weights._image(architecture(network), training, held)
    try:
        with whole_file(path) as part:
            part.write_bytes(image)
    except OSError as error:
        kept = "; the earlier one stays" if path.is_file() else ""
        raise WeightsFileError(f"the checkpoint {path} cannot be written: {error}{kept}") from error


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """What `write` wrote. Raises WeightsFileError for a file that is missing, damaged, or no checkpoint."""
    with weights._opened(path) as file:
        texts = {name: weights._values(data) for name, data in weights._datasets(file, _STATE)}
        if "state" not in texts:
            raise WeightsFileError(f"{os.fspath(path)} is a model, not a checkpoint of a training that can go on")
        arrays = {
            group: {name: weights._values(data) for name, data in weights._datasets(file, group)} for group in _GROUPS
        }
    try:
        text = texts["state"]
        state = json.loads(text.tobytes().decode()) if text.dtype == np.uint8 else None
    except (ValueError, RecursionError) as error:
        raise WeightsFileError(f"{os.fspath(path)}: the state of the training is not JSON ({error})") from error
    if not isinstance(state, dict):
        raise WeightsFileError(f"{os.fspath(path)}: the state of the training must be a JSON object")
    return Checkpoint(state, arrays)


def misfits(network: Module, arrays: Mapping[str, Arrays], groups: tuple[str, ...] = NETWORK) -> list[str]:
    """What keeps the arrays of `groups` from being those of the network, a line for each."""
    problems = []
    for group, own in zip(groups, weights._groups(network).values(), strict=True):
        found = arrays[group]
        problems += [f"missing: {group}/{name}" for name in own if name not in found and own[name].size]
        problems += [f"unexpected: {group}/{name}" for name in found if name not in own]
        problems += [
            f"mismatched: {group}/{name} is {ours.dtype} {ours.shape} here, {found[name].dtype} {found[name].shape} in "
            "the checkpoint"
            for name, ours in own.items()
            if name in found and (ours.shape, ours.dtype) != (found[name].shape, found[name].dtype)
        ]
    return problems


def put_into(network: Module, arrays: Mapping[str, Arrays], groups: tuple[str, ...] = NETWORK) -> None:
    """Copy the arrays of `groups`, which have no `misfits`, into the network."""
    for group, own in zip(groups, weights._groups(network).values(), strict=True):
        for name, ours in own.items():
            if name in arrays[group]:
                ours[...] = backend().asarray(arrays[group][name])
