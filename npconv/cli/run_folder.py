"""The folder of a training run, brought up to date after every epoch.

    model.h5        the best epoch so far, by the mean of the validation images' PSNRs
    history.csv     a line an epoch
    curves.png      MSE and PSNR per epoch
    examples.png    input, prediction and target for some validation pairs, by the best epoch
    options.json    what the run was asked to do
    checkpoint.h5   where the training is, for --resume; written at times of its own

Each file is replaced when the new one is whole, so that a run that is killed leaves its best model behind.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .. import pictures
from ..model import Epoch, Model
from ..whole_file import remove_parts, whole_file

MODEL, CHECKPOINT = "model.h5", "checkpoint.h5"
FILES = (MODEL, CHECKPOINT, "history.csv", "curves.png", "examples.png", "options.json")
COLUMNS = ("epoch", "loss", "validation_mse", "psnr_mean", "psnr_pooled", "seconds", "lr")


class RunFolder:
    """The output folder of one run; made at once.

    path: the folder; one that holds a model already is a FileExistsError without `overwrite`. options: plain
    data for options.json. Raises OSError if the folder cannot be written to. `best` is the best epoch
    recorded, or None.
    """

    def __init__(self, path: Path, overwrite: bool, options: dict[str, Any]) -> None:
        self.path, self._options = path, options
        self.best: Epoch | None = None
        self._history: list[Epoch] = []
        for there in (self.model, self.checkpoint):
            if there.exists() and not overwrite:
                go_on = f"; {self.resume_command} goes on with its run" if self.checkpoint.exists() else ""
                raise FileExistsError(
                    f"{str(there)!r} exists already: choose another folder with -o, or give --overwrite{go_on}"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.path):  # writing must not fail when the first epoch is over
            pass
        remove_parts(*(self.path / name for name in FILES))

    @property
    def model(self) -> Path:
        return self.path / MODEL

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def resume_command(self) -> str:
        """The command that goes on with the run."""
        return resume_command(self.path)

    def restore(
        self,
        history: list[Epoch],
        best_model: Model,
        validation: tuple[np.ndarray, np.ndarray],
        noisy: tuple[float, float] | None,
    ) -> None:
        """Bring the folder to where a run was that is resumed after some epochs; `best_model` is that of the best."""
        self._history = list(history)
        # The first of the best, as `record` has it.
        self.best = max(history, key=lambda epoch: epoch.psnr or 0)
        self._write_best(best_model, validation, noisy)
        self._write_history(noisy)

    def record(
        self,
        epoch: Epoch,
        model: Model,
        validation: tuple[np.ndarray, np.ndarray],
        noisy: tuple[float, float] | None,
    ) -> bool:
        """Write what belongs to `epoch`, of which `model` has the parameters; whether it is the best so far.

        validation: the pairs; noisy: both PSNRs of their inputs, for the curves; None without clean images.
        """
        best = self.best is None or (epoch.psnr or 0) > (self.best.psnr or 0)
        if best:
            self._write_best(model, validation, noisy, epoch)
        self._history.append(epoch)
        self._write_history(noisy)
        return best

    def _write_best(
        self,
        model: Model,
        validation: tuple[np.ndarray, np.ndarray],
        noisy: tuple[float, float] | None,
        epoch: Epoch | None = None,
    ) -> None:
        """The model, of which `epoch` is the best one from now on, and the sheet of examples."""
        model.save(self.model)
        self.best = epoch or self.best
        inputs, targets = (images[: pictures.EXAMPLES] for images in validation)
        predictions = model.predict(inputs)
        channels = predictions.shape[1]  # an input may have a noise map too, a target weights
        noisier, cleaner = inputs[:, :channels], targets[:, :channels]
        # Without clean images PSNRs of whole pictures would say nothing.
        pictures.examples(noisier, predictions, cleaner, self.path / "examples.png", captions=noisy is not None)

    def _write_history(self, noisy: tuple[float, float] | None) -> None:
        self._write("options.json", json.dumps(self._options, indent=2) + "\n")
        self._write("history.csv", history_csv(self._history))
        pictures.curves(self._history, self.path / "curves.png", noisy)

    def kept(self) -> str:
        """What the folder holds now, in words."""
        if self.best is None:
            old = f"; {self.model} is that of an earlier run" if self.model.exists() else ""
            return f"no epoch had ended, so nothing was saved{old}"
        return f"{self.model} holds the best epoch, {self.best.epoch} ({self.best.psnr:.2f} dB)"

    def _write(self, name: str, text: str) -> None:
        with whole_file(self.path / name) as part, open(part, "w", encoding="utf-8", newline="") as file:
            file.write(text)


def is_whole(path: Path) -> bool:
    """Whether the folder of a run has all its files."""
    return all((path / name).is_file() for name in FILES)


def resume_command(path: Path) -> str:
    """The command that goes on with the run in this folder."""
    return f"npconv train --resume {shlex.quote(str(path))}"


def history_csv(history: list[Epoch]) -> str:
    """The epochs as CSV text; nothing is rounded but the seconds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for e in history:
        writer.writerow((e.epoch, e.loss, e.validation_mse, e.psnr, e.psnr_pooled, f"{e.seconds:.3f}", e.lr))
    return text.getvalue()
