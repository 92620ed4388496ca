"""`npconv train`: learn to denoise, and write the best model, the history and pictures into a folder."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from time import perf_counter as now
from typing import Any

import numpy as np

from ..backends import backend
from ..checkpoints import CheckpointFile, Resumed
from ..checkpoints.file import BEST, NETWORK, misfits, put_into
from ..data import Pairs
from ..duration import in_words
from ..epochs import part_to_validate
from ..extras import require
from ..model import Epoch, Model
from ..schedules import Schedule
from ..training import TrainingCollapsed
from ..validation import figures
from ..weights import WeightsFileError
from .files import quoted
from .parser import add_command, check_backend
from .progress import Bar, TimeBar, facts, show
from .recipe import NEVER, describe_network, describe_options, fill_in, make_model, schedule_of
from .resume import kept_options, open_run, take_over
from .run_folder import NotWritten, RunFolder, is_up_to_date, resume_command
from .sources import Images, Source, open_source
from .termination import in_one_word, status_of, terminable
from .train_options import add_options

DESCRIPTION = """Train a denoiser on pairs of noisy images (Noise2Noise), towards clean ones, or on noisy images alone.

Without arguments: a small U-Net on dead leaves images with pixel-sampling noise, in two minutes.
The output folder holds model.h5 (the best epoch by validation PSNR), history.csv, curves.png, examples.png
and options.json, brought up to date after every epoch, and checkpoint.h5, from which --resume goes on with a
run that Ctrl-C, SIGTERM or a crash has ended. With --time an epoch is a twentieth of the time. Defaults stand
in parentheses below; many depend on the network."""

EXAMPLE = """examples:
  npconv train --data photos/ --noise gaussian:25 --time 10m -o my-run
  npconv train --data microscope/ --noise none --target self
  npconv train --network dncnn --target clean --image-channels 1 --epochs 50
  npconv train --resume my-run

NPCONV_THREADS bounds the threads, NPCONV_BACKEND=cupy trains on a GPU: see npconv info."""


def add_parser(commands: Any) -> None:
    """Add the command to the parsers of `commands`."""
    parser = add_command(commands, "train", "train a denoiser", DESCRIPTION, EXAMPLE, prepare)
    add_options(parser)


def prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Check everything, make the output folder, and return the work."""
    check_backend()
    require("matplotlib.figure")
    require("h5py")
    run = None if args.resume is None else open_run(args.resume)
    changes = [] if run is None else take_over(args, run)
    fill_in(args)
    goes_on_here = args.resume is not None and args.output.resolve() == args.resume.resolve()
    over = run is not None and run.finished and (args.epochs, args.time) == run.length
    if run is not None and over and goes_on_here and is_up_to_date(args.output, run.history):
        return lambda: _nothing_to_do(args, run)
    source = open_source(args)
    model = make_model(args, source.image_shape[0])
    _check_multiple(args, model, source)
    schedule = schedule_of(args, model.optimizer, source.count)
    keeps = args.checkpoint_every != NEVER
    folder = RunFolder(args.output, args.overwrite or goes_on_here, _plain(args), keeps)
    return lambda: Training(args, model, schedule, source, folder, run, changes).run()


def _nothing_to_do(args: argparse.Namespace, run: Resumed) -> int:
    count = len(run.history)
    best = max(run.history, key=lambda epoch: epoch.psnr or 0)
    more = "--epochs" if args.time is None else "--time"
    epochs = f"{count} epoch{'' if count == 1 else 's'}, the best one {best.epoch} ({best.psnr or 0:.2f} dB)"
    text = f"{args.resume}: this run is finished after {epochs}: nothing to do; with more {more} it would go on"
    show(text, not args.quiet)
    return 0


def _check_multiple(args: argparse.Namespace, model: Model, source: Source) -> None:
    """Training compares prediction and target, so the network must give them the same size."""
    height, width = source.image_shape[1:]
    multiple = math.lcm(*model.network.size_multiple)
    if height % multiple == 0 and width % multiple == 0:
        return
    rule = f"(={height} x {width}) must be divisible by {multiple} for --network {args.network}"
    if args.patch_size is None:
        raise ValueError(f"the sides of the images of {args.data} {rule}")
    larger = -(-args.patch_size // multiple) * multiple
    raise ValueError(f"the sides of the patches {rule}: choose --patch-size {larger}")


def _plain(args: argparse.Namespace) -> dict[str, Any]:
    """The options as plain data, defaults filled in."""
    machinery = ("command", "prepare", "parser", "resume")
    options = {name: value for name, value in vars(args).items() if name not in machinery}
    simple = (int, float, str, bool, list, type(None))
    return {name: value if isinstance(value, simple) else str(value) for name, value in options.items()}


class Training:
    """A prepared run: load the data, train, keep the folder and the user up to date."""

    def __init__(
        self,
        args: argparse.Namespace,
        model: Model,
        schedule: Schedule | None,
        source: Source,
        folder: RunFolder,
        resumed: Resumed | None = None,
        changes: Sequence[str] = (),
    ) -> None:
        self.args, self.model, self.schedule, self.source, self.folder = args, model, schedule, source, folder
        self.resumed, self.changes = resumed, changes
        self.held_out: Images = (np.empty(0), np.empty(0))  # until the data is loaded
        self.validation = self.held_out  # or the part of it that the training finds time for
        self.best_before: Model | None = None  # of a run that is resumed, until its folder has been restored
        keeps = args.checkpoint_every != NEVER
        notes = {"command": "train", "options": kept_options(_plain(args))}
        self.checkpoint = CheckpointFile(folder.checkpoint, notes) if keeps else None
        self.noisy: tuple[float, float] | None = None  # both PSNRs of the validation input
        self.checkpoints_seen = 0  # after each one the folder is looked at
        self.bar: Bar | TimeBar | None = None
        self.total_loss: float | None = None  # of the steps of this epoch
        self.started = 0.0  # by the clock, once training has

    def run(self) -> int:
        """Train until the last epoch, Ctrl-C, SIGTERM or a collapse; returns the exit status."""
        with terminable():
            try:
                pairs, self.held_out = self.source.load()
                self.validation, self.noisy = self.held_out, self._noisy_psnrs(self.held_out)
                self._show_plan()
                if self.resumed is not None:
                    self.best_before = _best_of(self.resumed) if self.resumed.history else None
                    self.resumed.release()  # training reads the file for itself
                self._train(pairs)
                self._restore_folder()
                self.folder.write()
            except KeyboardInterrupt as interrupt:
                print(f"npconv train: {in_one_word(interrupt)}: {self._kept()}", file=sys.stderr)
                return status_of(interrupt)
            except TrainingCollapsed as error:
                raise TrainingCollapsed(f"training has collapsed: {error} So far {self._held()}.") from error
            except NotWritten as error:
                raise NotWritten(f"training is finished, but {error}; {self._left()}") from error
            except Exception:
                if self._begun:
                    print(f"npconv train: stopped by an error: {self._kept()}", file=sys.stderr)
                raise
        self._show_result()
        return 0

    @property
    def _begun(self) -> bool:
        """Whether training has begun, which it does when it has found that all fits."""
        return self.started > 0 and (self.checkpoint is None or self.checkpoint.written > 0)

    def _kept(self) -> str:
        """What there is of the run, and how it goes on, in words."""
        if self.resumed is not None and not self._begun:
            return f"{self.args.resume} is as it was; {resume_command(self.args.resume)} goes on"
        goes_on = self._begun and self.checkpoint is not None and self.folder.checkpoint.is_file()
        return f"{self._held()}; {self.folder.resume_command} goes on" if goes_on else self._held()

    def _left(self) -> str:
        """Where there is what a finished run could not write, in words."""
        file = self.folder.checkpoint
        if self.checkpoint is None or not file.is_file():
            return self.folder.kept()
        return f"{file} has it all, and {self.folder.resume_command} writes it"

    def _held(self) -> str:
        """What the folder holds of a run that has begun, in words."""
        with contextlib.suppress(Exception):  # an interrupt or another error is to be told; the checkpoint has it all
            self._restore_folder()
            self.folder.write()
        return self.folder.kept()

    def _restore_folder(self) -> None:
        """Of a run that is resumed: the best epoch so far, and the history, whatever has come after the checkpoint.

        Not before training has found that all fits: until then, the folder stays as it is, and it is not written here.
        """
        if self.best_before is not None and self.resumed is not None:
            self._follow_part(self.resumed.history[-1])
            self.folder.restore(self.resumed.history, self.best_before, self.validation, self.noisy)
            self.best_before = None

    def _noisy_psnrs(self, pairs: Images) -> tuple[float, float] | None:
        """The mean of the validation inputs' PSNRs, and the PSNR of the pooled MSE, in dB; without a noise map.

        None of single noisy images, where input and target are two parts of the same one.
        """
        inputs, targets = pairs
        channels = self.source.image_shape[0]
        if self.source.compared:
            return None
        _, mean, pooled = figures(inputs[:, :channels], targets)
        return mean, pooled

    def _train(self, pairs: Pairs) -> None:
        self.started = now() - (0.0 if self.resumed is None else self.resumed.passed)
        try:
            self.model.train(
                pairs,
                num_epochs=self.args.epochs,
                seconds=self.args.time,
                batch_size=self.args.batch_size,
                validation=self.held_out,
                seed=self.args.seed,
                schedule=self.schedule,
                schedule_every="batch",
                callback=self._epoch_done,
                batch_callback=self._batch_done,
                checkpoint=self.checkpoint,
                checkpoint_every=None if self.checkpoint is None else self.args.checkpoint_every,
                resume_from=None if self.resumed is None else self.resumed.path,
            )
        finally:
            self._close_bar()

    # ---- what the user sees ----
    def _batch_done(self, step: int, batches: int, loss: float) -> None:
        self._restore_folder()
        if self.checkpoint is not None and self.checkpoint.written > self.checkpoints_seen:
            self.checkpoints_seen = self.checkpoint.written
            self.folder.update()  # what takes a checkpoint may take what it has refused before
        # Of an epoch that is resumed in its middle, the first loss stands for those before it.
        self.total_loss = loss * step if step == 1 or self.total_loss is None else self.total_loss + loss
        count = 1
        if self.bar is None:
            self.bar, count = self._new_bar(batches), step
        last = self.model.history[-1].psnr if self.model.history else None
        psnr_text = "" if last is None else f", PSNR {last:.2f} dB"
        self.bar.advance(count, f"loss {self.total_loss / step:.5f}{psnr_text}")
        if step == batches:
            self._close_bar()

    def _new_bar(self, batches: int) -> Bar | TimeBar:
        """Of the whole run, if it lasts for some time; else of this epoch."""
        shown = not self.args.quiet
        if self.args.time is not None:
            return TimeBar(in_words(self.args.time), self.args.time, self.started, shown)
        return Bar(f"epoch {len(self.model.history) + 1}/{self.args.epochs}", batches, shown)

    def _close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _epoch_done(self, epoch: Epoch) -> None:
        self._restore_folder()
        self._follow_part(epoch)
        best = self.folder.record(epoch, self.model, self.validation, self.noisy)
        self._show_above_bar(
            f"{epoch.epoch:>5}  {epoch.loss:.5f}  {epoch.validation_mse:>14.5f}  {epoch.psnr:>6.2f} dB"
            f"  {epoch.psnr_pooled:>8.2f} dB  {epoch.seconds:>7.1f}{' *' if best else ''}"
        )

    def _follow_part(self, epoch: Epoch) -> None:
        """Look at those validation pairs alone that the training found time for, and say so, once."""
        count, used = len(self.validation[0]), epoch.validated
        if used is None or used == count:
            return
        part = part_to_validate(count, used)
        self.validation = self.validation[0][part], self.validation[1][part]
        self.noisy = self._noisy_psnrs(self.validation)
        noisy = "" if self.noisy is None else f"; noisy input: {_decibels(self.noisy)}"
        self._show_above_bar(
            f"validation is on {used:,} of the {count:,} pairs, drawn at random: all would take too long{noisy}"
        )

    def _show_plan(self) -> None:
        plan = {
            **self.source.facts,
            "network": describe_network(self.args, self.model),
            "training": describe_options(self.args),
            "backend": backend().describe(),
            "output": str(self.folder.path),
        }
        if self.resumed is not None:
            plan["resumed"] = f"{self.resumed.path}, {self._place(self.resumed)}"
        if self.changes:
            plan["changed"] = "; ".join(self.changes)
        pairs = f"{len(self.validation[0]):,} validation pairs"
        if self.noisy is not None:
            plan["noisy input"] = f"{_decibels(self.noisy)}, on {pairs}"
        else:
            plan["PSNRs below"] = f"of {self.source.compared}, on {pairs}; npconv evaluate has others"
        self._show(facts(plan))
        self._show("\nepoch     loss  validation MSE  PSNR mean  PSNR pooled  seconds  (* the best so far)")

    def _place(self, run: Resumed) -> str:
        epochs = len(run.history)
        steps = f" and {run.step:,} step{'' if run.step == 1 else 's'}" if run.step else ""
        return f"after {epochs} epoch{'' if epochs == 1 else 's'}{steps}"

    def _show_result(self) -> None:
        best = self.folder.best
        if best is not None:
            figures = _decibels((best.psnr or 0, best.psnr_pooled or 0))
            on = f"noisy input: {_decibels(self.noisy)}" if self.noisy else f"of {self.source.compared}"
            self._show(f"\nbest epoch: {best.epoch}, {figures} ({on})")
        self._show(f"written: model.h5, history.csv, curves.png, examples.png in {self.folder.path}")
        self._show(f"next: npconv denoise IMAGE --model {quoted(self.folder.model)}")

    def _show_above_bar(self, text: str) -> None:
        """A line of a training under way, which a log on a full disk must not end; at its end it is an error."""
        try:
            if self.bar is not None and not self.args.quiet:
                self.bar.print(text)
            else:
                self._show(text)
        except BrokenPipeError:  # who reads it has gone, and wants no more
            raise
        except OSError as error:
            warnings.warn(f"training goes on, but no more of it is shown: {error}", stacklevel=2)

    def _show(self, text: str) -> None:
        show(text, not self.args.quiet)


def _best_of(run: Resumed) -> Model:
    """The model of the best epoch so far. WeightsFileError if the checkpoint has another one than its network."""
    best, groups = Model.load(run.path), BEST if run.best_psnr is not None else NETWORK
    problems = misfits(best.network, run.arrays, groups)
    if problems:
        raise WeightsFileError(f"{run.path} contradicts itself:\n  " + "\n  ".join(problems))
    put_into(best.network, run.arrays, groups)
    return best


def _decibels(both: tuple[float, float]) -> str:
    return f"PSNR {both[0]:.2f} dB mean of images, {both[1]:.2f} dB pooled"
