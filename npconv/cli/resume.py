"""`npconv train --resume DIR`: the options of the run that is resumed, and which of them may be others.

The checkpoint keeps the options as they were, defaults filled in. They are read by the command's own parser, which
makes the same checks as when they were given.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, NoReturn

from ..checkpoints import Resumed
from ..duration import in_words
from ..weights import WeightsFileError
from .parser import Parser
from .recipe import NEVER
from .run_folder import CHECKPOINT, MODEL
from .train_options import add_options

# The data is looked at: it must be the same, wherever it is.
CHANGEABLE = ("data", "validation", "epochs", "time", "output", "overwrite", "quiet", "checkpoint_every")
_PATHS = ("data", "validation")
_NOT_KEPT = ("overwrite", "quiet", "output", "resume", "noise_map")  # of the one call, or made from others
_REVERSED = {"augment": "--no-augment"}  # a flag that says no


class _StoredOptions(Parser):
    """A parser of what a file says, whose errors are the file's."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def kept_options(plain: dict[str, Any]) -> dict[str, Any]:
    """Of options as plain data, those that a checkpoint keeps; it may be resumed from another folder."""
    kept = {name: value for name, value in plain.items() if name not in _NOT_KEPT and value is not None}
    return {name: os.path.abspath(value) if name in _PATHS else value for name, value in kept.items()}


def open_run(folder: Path) -> Resumed:
    """The checkpoint of the run in `folder`; FileNotFoundError if there is none, WeightsFileError if it is damaged."""
    if not folder.is_dir():
        raise FileNotFoundError(f"--resume (={str(folder)!r}) must be the folder of a run: there is none")
    file = folder / CHECKPOINT
    if not file.is_file():
        other = f", only {MODEL}, the best epoch of a run without checkpoints" if (folder / MODEL).is_file() else ""
        raise FileNotFoundError(f"there is no {CHECKPOINT} in {str(folder)!r}{other}: nothing to resume")
    return Resumed(file)


def take_over(args: argparse.Namespace, run: Resumed) -> list[str]:
    """Let the options that were not given (None) be those of the run; those that changed, in words.

    Raises ValueError that names the given options which must be as they were, WeightsFileError for a checkpoint that
    `npconv train` has not written.
    """
    stored = _stored(run)
    refused: list[str] = []
    changed: list[str] = []
    if args.output is None:
        args.output = args.resume
    _check_length(args, stored)
    if args.checkpoint_every == NEVER:
        raise ValueError(f"--checkpoint-every {NEVER} does not go with --resume: the run goes on in its {CHECKPOINT}")
    for name, was in vars(stored).items():
        given = getattr(args, name, None)
        if given is None:
            setattr(args, name, was)
        elif name in _PATHS and was is not None and os.path.abspath(given) == was:
            continue
        elif str(given) != str(was) and name not in ("output", "resume", "overwrite", "quiet"):
            (changed if name in CHANGEABLE else refused).append(_contrast(name, given, was))
    if refused:
        raise ValueError(
            f"the run of {run.path} must go on with the options it has, but was given:\n  " + "\n  ".join(refused)
        )
    return changed


def _check_length(args: argparse.Namespace, stored: argparse.Namespace) -> None:
    """Before `Model.train` finds the same wrong, in the words of the command."""
    was = f"--epochs {stored.epochs}" if stored.time is None else f"--time {in_words(stored.time)}"
    for name, other in (("epochs", "time"), ("time", "epochs")):
        given, before = getattr(args, name), getattr(stored, name)
        if given is None:
            continue
        if before is None:
            raise ValueError(f"--{name} (={_shown(given)}) cannot go on with a run of {was}")
        if given < before:
            raise ValueError(f"--{name} (={_shown(given)}) must be at least that of the run: {was}")
        setattr(stored, other, None)


def _stored(run: Resumed) -> argparse.Namespace:
    """The options of the run."""
    notes = run.notes
    if not isinstance(notes, dict) or notes.get("command") != "train" or not isinstance(notes.get("options"), dict):
        raise WeightsFileError(
            f"{run.path} was not written by npconv train: go on with it in Python, with Model.train(resume_from=...)"
        )
    parser = _StoredOptions("npconv train")
    add_options(parser)
    options = vars(parser.parse_args([]))
    try:
        unknown = sorted(set(notes["options"]) - set(options) | set(notes["options"]) & set(_NOT_KEPT))
        if unknown:
            raise ValueError(f"there is no {unknown[0]!r}")
        return parser.parse_args(_as_arguments(notes["options"]))
    except (TypeError, ValueError) as error:
        raise WeightsFileError(f"{run.path} has options that npconv train does not take: {error}") from error


def _as_arguments(options: dict[str, Any]) -> list[str]:
    """As they would be written on the command line."""
    arguments = []
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if name in _REVERSED:
            arguments += [] if value else [_REVERSED[name]]
        elif isinstance(value, bool):
            arguments.append(option if value else f"--no-{option[2:]}")
        elif isinstance(value, list):
            arguments += [option, *map(str, value)]
        elif value is not None:
            arguments.append(f"{option}={value}")
    return arguments


def _contrast(name: str, given: Any, was: Any) -> str:
    if name in _REVERSED:
        return f"{_REVERSED[name]}, which it has not"
    return f"--{name.replace('_', '-')} (={_shown(given)}), not {'none' if was is None else _shown(was)}"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
