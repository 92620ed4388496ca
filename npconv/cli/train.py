"""`npconv train`: learn to denoise, and write the best model, the history and pictures into a folder."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter as now
from typing import Any

import numpy as np

from ..backends import backend
from ..data import Pairs
from ..epochs import part_to_validate
from ..extras import require
from ..model import Epoch, Model
from ..schedules import Schedule
from ..training import TrainingCollapsed
from ..validation import figures
from .duration import in_words
from .parser import DEFAULT_FOLDER, add_command, check_backend
from .progress import Bar, TimeBar, facts, show
from .recipe import describe_network, describe_training, fill_in, make_model, schedule_of
from .run_folder import RunFolder
from .sources import Images, Source, open_source
from .train_options import add_data, add_training

INTERRUPTED = 130

DESCRIPTION = """Train a denoiser on pairs of noisy images (Noise2Noise), towards clean ones, or on noisy images alone.

Without arguments: a small U-Net on dead leaves images with pixel-sampling noise, in two minutes.
The output folder holds model.h5 (the best epoch by validation PSNR), history.csv, curves.png, examples.png
and options.json, brought up to date after every epoch; Ctrl-C keeps the best model so far. With --time an
epoch is a twentieth of the time. Defaults stand in parentheses below; many depend on the network."""

EXAMPLE = """examples:
  npconv train --data photos/ --noise gaussian:25 --time 10m -o my-run
  npconv train --data microscope/ --noise none --target self
  npconv train --network dncnn --target clean --image-channels 1 --epochs 50

NPCONV_THREADS bounds the threads, NPCONV_BACKEND=cupy trains on a GPU: see npconv info."""


def add_parser(commands: Any) -> None:
    """Add the command to the parsers of `commands`."""
    parser = add_command(commands, "train", "train a denoiser", DESCRIPTION, EXAMPLE, prepare)
    add_data(parser.add_argument_group("data"))
    add_training(parser.add_argument_group("network and training"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        type=Path,
        default=Path(DEFAULT_FOLDER),
        help=f"folder ({DEFAULT_FOLDER})",
    )
    output.add_argument("--overwrite", action="store_true", help="replace a model that is in the folder")
    output.add_argument("--quiet", action="store_true", help="print nothing but errors")


def prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Check everything, make the output folder, and return the work."""
    check_backend()
    require("matplotlib.figure")
    fill_in(args)
    source = open_source(args)
    model = make_model(args, source.image_shape[0])
    _check_multiple(args, model, source)
    schedule = schedule_of(args, model.optimizer, source.count)
    folder = RunFolder(args.output, args.overwrite, _plain(args))
    return lambda: Training(args, model, schedule, source, folder).run()


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
    machinery = ("command", "prepare", "parser")
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
    ) -> None:
        self.args, self.model, self.schedule, self.source, self.folder = args, model, schedule, source, folder
        self.validation: Images = (np.empty(0), np.empty(0))  # until the data is loaded
        self.noisy: tuple[float, float] | None = None  # both PSNRs of the validation input
        self.bar: Bar | TimeBar | None = None
        self.total_loss = 0.0
        self.started = 0.0  # by the clock, once training has

    def run(self) -> int:
        """Train until the last epoch, Ctrl-C or a collapse; returns the exit status."""
        try:
            pairs, self.validation = self.source.load()
            self.noisy = self._noisy_psnrs()
            self._show_plan()
            self._train(pairs)
        except KeyboardInterrupt:
            print(f"npconv train: interrupted: {self.folder.kept()}", file=sys.stderr)
            return INTERRUPTED
        except TrainingCollapsed as error:
            raise TrainingCollapsed(f"training has collapsed: {error} So far {self.folder.kept()}.") from error
        except Exception:
            if self.started:
                print(f"npconv train: stopped by an error: {self.folder.kept()}", file=sys.stderr)
            raise
        self._show_result()
        return 0

    def _noisy_psnrs(self) -> tuple[float, float] | None:
        """The mean of the validation inputs' PSNRs, and the PSNR of the pooled MSE, in dB; without a noise map.

        None of single noisy images, where input and target are two parts of the same one.
        """
        inputs, targets = self.validation
        channels = self.source.image_shape[0]
        if self.source.compared:
            return None
        _, mean, pooled = figures(inputs[:, :channels], targets)
        return mean, pooled

    def _train(self, pairs: Pairs) -> None:
        self.started = now()
        try:
            self.model.train(
                pairs,
                num_epochs=self.args.epochs,
                seconds=self.args.time,
                batch_size=self.args.batch_size,
                validation=self.validation,
                seed=self.args.seed,
                schedule=self.schedule,
                schedule_every="batch",
                callback=self._epoch_done,
                batch_callback=self._batch_done,
            )
        finally:
            self._close_bar()

    # ---- what the user sees ----
    def _batch_done(self, step: int, batches: int, loss: float) -> None:
        self.total_loss = loss if step == 1 else self.total_loss + loss
        if self.bar is None:
            self.bar = self._new_bar(batches)
        last = self.model.history[-1].psnr if self.model.history else None
        psnr_text = "" if last is None else f", PSNR {last:.2f} dB"
        self.bar.advance(1, f"loss {self.total_loss / step:.5f}{psnr_text}")
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
        self.noisy = self._noisy_psnrs()
        noisy = "" if self.noisy is None else f"; noisy input: {_decibels(self.noisy)}"
        self._show_above_bar(
            f"validation is on {used:,} of the {count:,} pairs, drawn at random: all would take too long{noisy}"
        )

    def _show_plan(self) -> None:
        plan = {
            **self.source.facts,
            "network": describe_network(self.args, self.model),
            "training": describe_training(self.args),
            "backend": backend().describe(),
            "output": str(self.folder.path),
        }
        pairs = f"{len(self.validation[0]):,} validation pairs"
        if self.noisy is not None:
            plan["noisy input"] = f"{_decibels(self.noisy)}, on {pairs}"
        else:
            plan["PSNRs below"] = f"of {self.source.compared}, on {pairs}; npconv evaluate has others"
        self._show(facts(plan))
        self._show("\nepoch     loss  validation MSE  PSNR mean  PSNR pooled  seconds  (* the best so far)")

    def _show_result(self) -> None:
        best = self.folder.best
        if best is not None:
            figures = _decibels((best.psnr or 0, best.psnr_pooled or 0))
            on = f"noisy input: {_decibels(self.noisy)}" if self.noisy else f"of {self.source.compared}"
            self._show(f"\nbest epoch: {best.epoch}, {figures} ({on})")
        self._show(f"written: model.h5, history.csv, curves.png, examples.png in {self.folder.path}")
        self._show(f"next: npconv denoise IMAGE --model {self.folder.model}")

    def _show_above_bar(self, text: str) -> None:
        if self.bar is not None and not self.args.quiet:
            self.bar.print(text)
        else:
            self._show(text)

    def _show(self, text: str) -> None:
        show(text, not self.args.quiet)


def _decibels(both: tuple[float, float]) -> str:
    return f"PSNR {both[0]:.2f} dB mean of images, {both[1]:.2f} dB pooled"
