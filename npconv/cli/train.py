"""`npconv train`: learn to denoise, and write the best model, the history and pictures into a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import backend
from ..data import Pairs, parse_noise
from ..extras import require
from ..metrics import psnr
from ..model import Epoch, Model
from ..schedules import Schedule
from ..training import TrainingCollapsed
from .parser import DEFAULT_FOLDER, add_command, as_argument, check_backend, whole
from .progress import Bar, facts, show
from .recipe import (
    ADAM_LR,
    NETWORKS,
    OPTIMIZERS,
    SCHEDULE,
    SCHEDULES,
    describe_network,
    describe_training,
    fill_in,
    make_model,
    make_schedule,
)
from .run_folder import RunFolder
from .sources import NOISE, PATCH_SIZE, PATCHES, TARGET, VALIDATION_PAIRS, Images, Source, open_source

# With sources.PATCHES an epoch: about two minutes on two cores, at about 10 ms for a batch of 32.
EPOCHS, BATCH_SIZE = 15, 32
INTERRUPTED = 130

DESCRIPTION = """Train a denoiser on pairs of noisy images (Noise2Noise).

Without arguments: the reports' network on dead leaves images with pixel-sampling noise, in about two minutes.
The output folder holds model.h5 (the best epoch by validation PSNR), history.csv, curves.png, examples.png
and options.json, brought up to date after every epoch; Ctrl-C keeps the best model so far. Defaults stand in
parentheses below."""

EXAMPLE = """example:
  npconv train --data photos/ --noise gaussian:25 --epochs 20 -o my-run

NPCONV_THREADS bounds the threads, NPCONV_BACKEND=cupy trains on a GPU: see npconv info."""


def add_parser(commands: Any) -> None:
    """Add the command to the parsers of `commands`."""
    parser = add_command(commands, "train", "train a denoiser", DESCRIPTION, EXAMPLE, prepare)
    _add_data(parser.add_argument_group("data"))
    _add_training(parser.add_argument_group("network and training"))
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


def _add_data(group: Any) -> None:
    group.add_argument(
        "--data",
        metavar="FOLDER|FILE.h5",
        help="photographs: a folder, or HDF5 with `images`; or ready-made pairs: HDF5 with `input` and "
        "`target` (default: dead leaves images)",
    )
    group.add_argument(
        "--validation",
        metavar="FOLDER|FILE.h5",
        help="what to validate on (default: 10%% of the data, held out)",
    )
    group.add_argument(
        "--noise",
        type=as_argument(parse_noise),
        help=f"pixel-sampling, pixel-sampling:5-8, gaussian:SIGMA (8-bit steps) or poisson:PEAK ({NOISE})",
    )
    group.add_argument("--target", choices=("noisy", "clean"), help=f"what to train towards ({TARGET})")
    group.add_argument("--patches", type=whole(1), metavar="N", help=f"patches drawn an epoch ({PATCHES})")
    group.add_argument("--patch-size", type=whole(1), metavar="PIXELS", help=f"their side ({PATCH_SIZE})")
    group.add_argument(
        "--image-channels",
        type=int,
        choices=(1, 3),
        help="gray or RGB (default: 3, or what the HDF5 file has)",
    )
    group.add_argument(
        "--validation-pairs",
        type=whole(1),
        default=VALIDATION_PAIRS,
        metavar="N",
        help=f"at most so many pairs to validate on ({VALIDATION_PAIRS})",
    )


def _add_training(group: Any) -> None:
    presets = "; ".join(f"{name}: {p.channels}" for name, p in NETWORKS.items())
    rates = "; ".join(f"{name}: {p.lr:g}" for name, p in NETWORKS.items())
    momenta = "; ".join(f"{name}: {p.momentum:g}" for name, p in NETWORKS.items())
    group.add_argument("--network", choices=tuple(NETWORKS), default="strided", help="(strided)")
    group.add_argument("--channels", type=whole(1), metavar="N", help=f"of the layers inside ({presets})")
    group.add_argument("--epochs", type=whole(1), default=EPOCHS, metavar="N", help=f"({EPOCHS})")
    group.add_argument("--batch-size", type=whole(1), default=BATCH_SIZE, metavar="N", help=f"({BATCH_SIZE})")
    group.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd", help="(sgd)")
    group.add_argument("--lr", type=float, help=f"learning rate ({rates}; adam: {ADAM_LR:g})")
    group.add_argument("--momentum", type=float, help=f"of sgd ({momenta})")
    group.add_argument(
        "--schedule",
        choices=SCHEDULES,
        default=SCHEDULE,
        help="of the learning rate over the whole run: trapezoid rises to lr over 5 percent of the steps and falls "
        "to nothing over the last 30; one-cycle rises over 30 percent, then falls; cosine falls; step divides by ten "
        f"after each third ({SCHEDULE})",
    )
    group.add_argument("--seed", type=whole(0), default=0, metavar="N", help="the same seed, the same run (0)")


def prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Check everything, make the output folder, and return the work."""
    check_backend()
    require("matplotlib.figure")
    fill_in(args)
    source = open_source(args)
    model = make_model(args, source.image_shape[0])
    _check_multiple(model, source)
    schedule = make_schedule(args.schedule, model.optimizer, args.epochs * -(-source.count // args.batch_size))
    folder = RunFolder(args.output, args.overwrite, _plain(args))
    return lambda: Training(args, model, schedule, source, folder).run()


def _check_multiple(model: Model, source: Source) -> None:
    """Training compares prediction and target, so the network must give them the same size."""
    sizes = zip(source.image_shape[1:], model.network.size_multiple, strict=True)
    if any(size % multiple for size, multiple in sizes):
        height, width = source.image_shape[1:]
        multiple = max(model.network.size_multiple)
        raise ValueError(f"the sides of the patches (={height} x {width}) must be divisible by {multiple}")


def _plain(args: argparse.Namespace) -> dict[str, Any]:
    """The options as plain data, defaults filled in."""
    machinery = ("command", "prepare", "parser")
    options = {name: value for name, value in vars(args).items() if name not in machinery}
    simple = (int, float, str, bool, type(None))
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
        self.noisy = (0.0, 0.0)  # both PSNRs of the validation input
        self.bar: Bar | None = None
        self.total_loss = 0.0

    def run(self) -> int:
        """Train until the last epoch, Ctrl-C or a collapse; returns the exit status."""
        try:
            pairs, self.validation = self.source.load()
            self.noisy = both_psnrs(*self.validation)
            self._show_plan()
            self._train(pairs)
        except KeyboardInterrupt:
            print(f"npconv train: interrupted: {self.folder.kept()}", file=sys.stderr)
            return INTERRUPTED
        except TrainingCollapsed as error:
            raise TrainingCollapsed(f"training has collapsed: {error} So far {self.folder.kept()}.") from error
        self._show_result()
        return 0

    def _train(self, pairs: Pairs) -> None:
        try:
            self.model.train(
                pairs,
                num_epochs=self.args.epochs,
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
        if self.bar is None:
            number, self.total_loss = len(self.model.history) + 1, 0.0
            self.bar = Bar(f"epoch {number}/{self.args.epochs}", batches, not self.args.quiet)
        self.total_loss += loss
        last = self.model.history[-1].psnr if self.model.history else None
        psnr_text = "" if last is None else f", PSNR {last:.2f} dB"
        self.bar.advance(1, f"loss {self.total_loss / step:.5f}{psnr_text}")
        if step == batches:
            self._close_bar()

    def _close_bar(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _epoch_done(self, epoch: Epoch) -> None:
        best = self.folder.record(epoch, self.model, self.validation, self.noisy)
        self._show(
            f"{epoch.epoch:>5}  {epoch.loss:.5f}  {epoch.validation_mse:>14.5f}  {epoch.psnr:>6.2f} dB"
            f"  {epoch.psnr_pooled:>8.2f} dB  {epoch.seconds:>7.1f}{' *' if best else ''}"
        )

    def _show_plan(self) -> None:
        plan = {
            **self.source.facts,
            "network": describe_network(self.args, self.model),
            "training": describe_training(self.args, self.model),
            "backend": backend().describe(),
            "output": str(self.folder.path),
            "noisy input": f"{_decibels(self.noisy)}, on {len(self.validation[0]):,} validation pairs",
        }
        self._show(facts(plan))
        self._show("\nepoch     loss  validation MSE  PSNR mean  PSNR pooled  seconds  (* the best so far)")

    def _show_result(self) -> None:
        best = self.folder.best
        if best is not None:
            figures = _decibels((best.psnr or 0, best.psnr_pooled or 0))
            self._show(f"\nbest epoch: {best.epoch}, {figures} (noisy input: {_decibels(self.noisy)})")
        self._show(f"written: model.h5, history.csv, curves.png, examples.png in {self.folder.path}")
        self._show(f"next: npconv denoise IMAGE --model {self.folder.model}")

    def _show(self, text: str) -> None:
        show(text, not self.args.quiet)


def both_psnrs(inputs: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """The mean of the images' PSNRs, and the PSNR of the pooled MSE, in dB."""
    return psnr(inputs, targets), psnr(inputs, targets, definition="pooled")


def _decibels(both: tuple[float, float]) -> str:
    return f"PSNR {both[0]:.2f} dB mean of images, {both[1]:.2f} dB pooled"
