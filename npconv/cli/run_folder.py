"""The folder of a training run, brought up to date after every epoch.

    model.h5        the best epoch so far, by the mean of the validation images' PSNRs
    history.csv     a line an epoch
    curves.png      MSE and PSNR per epoch
    examples.png    input, prediction and target for some validation pairs, by the best epoch
    options.json    what the run was asked to do
    checkpoint.h5   where the training is, for --resume; written at times of its own

Each file is replaced when the new one is whole, so that a run that is killed leaves its best model behind. What the
disk does not take is kept in memory and written later; history.csv comes last, and tells of no epoch that is not in the
other files.
"""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from .. import pictures
from ..checkpoints.loss_and_optimizer import describe_loss_and_optimizer
from ..model import Epoch, Model
from ..weights import image
from ..whole_file import remove_parts, whole_file
from .files import quoted

MODEL, CHECKPOINT, HISTORY = "model.h5", "checkpoint.h5", "history.csv"
ORDER = (MODEL, "examples.png", "options.json", "curves.png", HISTORY)  # of writing
FILES = (CHECKPOINT, *ORDER)
COLUMNS = ("epoch", "loss", "validation_mse", "psnr_mean", "psnr_pooled", "seconds", "lr")


class NotWritten(OSError):
    """Files of a run that the disk does not take; the message names them, the folder and the reason."""


class RunFolder:
    """The output folder of one run; made at once.

    path: the folder; one that holds a model already is a FileExistsError without `overwrite`. options: plain
    data for options.json. has_checkpoints: whether the run writes them; if not, one of an earlier run is removed when
    the first model is written. Raises OSError if the folder cannot be written to. `best` is the best epoch recorded,
    or None.
    """

    def __init__(self, path: Path, overwrite: bool, options: dict[str, Any], has_checkpoints: bool = True) -> None:
        self.path, self._options = path, options
        self._old_checkpoint = not has_checkpoints  # whether there may be one of an earlier run, which is overwritten
        self.best: Epoch | None = None
        self._history: list[Epoch] = []
        self._saved: Epoch | None = None  # that of which the model is in the folder
        self._writers: dict[str, Callable[[Path], object]] = {}  # by name; each writes the newest contents of its file
        self._behind: set[str] = set()  # the files that have others
        self._told = False  # that they could not be written
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
        """Be where a run was that is resumed after some epochs, for the next `update`; `best_model`: of the best."""
        self._history = list(history)
        # The first of the best, as `record` has it.
        self._hold_best(max(history, key=lambda epoch: epoch.psnr or 0), best_model, validation, noisy)
        self._hold_history(noisy)

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
            self._hold_best(epoch, model, validation, noisy)
        self._history.append(epoch)
        self._hold_history(noisy)
        self.update()
        return best

    # ---- what is to be written ----
    def _hold_best(
        self,
        epoch: Epoch,
        model: Model,
        validation: tuple[np.ndarray, np.ndarray],
        noisy: tuple[float, float] | None,
    ) -> None:
        """The model, of which `epoch` is the best one from now on, and the sheet of examples."""
        # The model as it is now: the next steps change it, and the disk may take it only after them.
        training = describe_loss_and_optimizer(model.network, model.loss, model.optimizer)
        inputs, targets = (images[: pictures.EXAMPLES] for images in validation)
        predictions = model.predict(inputs)
        channels = predictions.shape[1]  # an input may have a noise map too, a target weights
        noisier, cleaner = inputs[:, :channels], targets[:, :channels]
        # Without clean images PSNRs of whole pictures would say nothing.
        draw = partial(pictures.examples, noisier, predictions, cleaner, captions=noisy is not None)
        self.best = epoch
        self._hold(MODEL, partial(self._write_model, epoch, image(model.network, training)))
        self._hold("examples.png", draw)

    def _hold_history(self, noisy: tuple[float, float] | None) -> None:
        history = list(self._history)
        if "options.json" not in self._writers:
            self._hold("options.json", partial(_write_text, json.dumps(self._options, indent=2) + "\n"))
        self._hold("curves.png", lambda path: pictures.curves(history, path, noisy))
        self._hold(HISTORY, partial(_write_text, history_csv(history)))

    def _hold(self, name: str, write: Callable[[Path], object]) -> None:
        self._writers[name] = write
        self._behind.add(name)

    def _write_model(self, epoch: Epoch, contents: bytes, path: Path) -> None:
        with whole_file(path) as part:
            part.write_bytes(contents)
        self._saved = epoch
        if self._old_checkpoint:  # not before the earlier model has gone: they belong together
            self.checkpoint.unlink(missing_ok=True)
            self._old_checkpoint = False

    # ---- writing it ----
    def update(self) -> None:
        """`write`, in the midst of a run: what cannot be written is told, once, and tried again at the next call."""
        try:
            self.write()
        except NotWritten as error:
            if not self._told:
                self._told = True  # before it is an error, where warnings are
                warnings.warn(f"training goes on, and tries again later: {error}", stacklevel=2)

    def write(self) -> None:
        """Write all that is not in the folder as it should be, or has gone from it.

        Raises NotWritten with the reason, after trying each file; what could not be written is kept for the next call.
        """
        failed: list[str] = []
        reason: OSError | None = None
        for name in (name for name in ORDER if name in self._writers):
            if name not in self._behind and os.path.exists(self.path / name):
                continue
            self._behind.add(name)
            try:
                if not failed or name != HISTORY:
                    self._writers[name](self.path / name)
                    self._behind.discard(name)
                    continue
            except OSError as error:
                reason = reason or error
            failed.append(name)
        if reason is not None:
            stay = all((self.path / name).is_file() for name in failed)
            earlier = f"; the earlier {'one stays' if len(failed) == 1 else 'ones stay'}" if stay else ""
            raise NotWritten(f"{', '.join(failed)} in {self.path} cannot be written: {reason}{earlier}") from reason
        if self._told:  # a disk that was read-only has kept what could not be removed
            remove_parts(*(self.path / name for name in FILES))
            self._told = False

    def kept(self) -> str:
        """What the folder holds now, in words."""
        there = self.model.exists()
        if self.best is None:
            old = f"; {self.model} is that of an earlier run" if there else ""
            return f"no epoch had ended, so nothing was saved{old}"
        best = f"{self.best.epoch} ({self.best.psnr:.2f} dB)"
        if self._saved is self.best and there:
            return f"{self.model} holds the best epoch, {best}"
        if self._saved is None or not there:
            old = f"; {self.model} is an older one" if there else ""
            return f"the best epoch, {best}, could not be written{old}"
        held = f"{self._saved.epoch} ({self._saved.psnr:.2f} dB)"
        return f"{self.model} holds epoch {held}, the best one, {best}, could not be written"


def is_up_to_date(path: Path, history: list[Epoch]) -> bool:
    """Whether the folder of a run has all its files, as they are after these epochs."""
    if not all((path / name).is_file() for name in FILES):
        return False
    try:
        return (path / HISTORY).read_bytes() == history_csv(history).encode()  # it is written last
    except OSError:
        return False


def resume_command(path: PurePath) -> str:
    """The command that goes on with the run in this folder."""
    return f"npconv train --resume {quoted(path)}"


def _write_text(text: str, path: Path) -> None:
    with whole_file(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def history_csv(history: list[Epoch]) -> str:
    """The epochs as CSV text; nothing is rounded but the seconds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for e in history:
        writer.writerow((e.epoch, e.loss, e.validation_mse, e.psnr, e.psnr_pooled, f"{e.seconds:.3f}", e.lr))
    return text.getvalue()
