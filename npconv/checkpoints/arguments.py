"""What `Model.train` is given about checkpoints: the file, with notes to be kept in it, and how often it is written."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..duration import seconds_of

EVERY_RULE = (
    "must be a number of epochs such as 1 or '5', of steps such as '500 steps', or a time such as '90s', '10m', '1h30m'"
)
_COUNTED = re.compile(r"(\d+) *(|epochs?|steps?)", re.ASCII)


@dataclass(frozen=True)
class Every:
    """How often a checkpoint is written: one of the three is given."""

    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, value: Any) -> Every:
        """From a number of epochs, or text: "5", "5 epochs", "500 steps", "90s", "10m", "1h30m".

        Raises TypeError or ValueError for anything else.
        """
        if isinstance(value, bool) or not isinstance(value, (int, np.integer, str)):
            raise TypeError(f"checkpoint_every (={value!r}) {EVERY_RULE}")
        counted = _COUNTED.fullmatch(str(value).strip())
        if counted:
            count = int(counted[1])
            if count < 1:
                raise ValueError(f"checkpoint_every (={value!r}) must be at least 1")
            return cls(steps=count) if counted[2].startswith("step") else cls(epochs=count)
        try:
            return cls(seconds=seconds_of(str(value).strip()))
        except ValueError:
            raise ValueError(f"checkpoint_every (={value!r}) {EVERY_RULE}") from None


class CheckpointFile:
    """Where the checkpoints of a training go, with plain data that is kept in them.

    path: the file. notes: numbers, text, lists and dictionaries, such as the options of a command. `written` counts the
    checkpoints so far. Raises TypeError or ValueError for a path that cannot be one, and for other notes.
    """

    def __init__(self, path: str | os.PathLike[str], notes: Any = None) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"checkpoint (={path!r}) must be the name of a file")
        self.path, self.notes, self.written = Path(path), notes, 0
        if self.path.is_dir():
            raise ValueError(f"checkpoint (={str(path)!r}) is a folder, it must be the name of a file")
        if not self.path.parent.is_dir():
            raise ValueError(f"checkpoint (={str(path)!r}) must be in a folder that exists")
        try:
            json.dumps(notes)
        except (TypeError, ValueError) as error:
            raise type(error)(f"the notes of a checkpoint must be plain data, as JSON has it: {error}") from error


def where_and_when(checkpoint: Any, every: Any, resume_from: Any) -> tuple[CheckpointFile | None, Every]:
    """Where checkpoints are written, if at all, and when: of arguments of `Model.train`, see there."""
    when = Every.of(1 if every is None else every)
    if resume_from is not None and not isinstance(resume_from, (str, os.PathLike)):
        raise TypeError(f"resume_from (={resume_from!r}) must be the name of a file")
    where = resume_from if checkpoint is None else checkpoint
    if where is None:
        if every is not None:
            raise ValueError(f"checkpoint_every (={every!r}) would have no effect without a checkpoint")
        return None, when
    return where if isinstance(where, CheckpointFile) else CheckpointFile(where), when
