"""The options of `npconv train`. Where the default depends on the network it is None here; recipe.py fills it in."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..checkpoints import Every
from ..data import parse_noise
from ..data.patches import TARGETS
from ..duration import seconds_of
from .parser import DEFAULT_FOLDER, as_argument, whole
from .recipe import CHECKPOINT_EVERY, NETWORK, NEVER, OPTIMIZERS, PRESETS, SCHEDULES, defaults_of, length_of, size_of
from .sources import TARGET


def add_options(parser: Any) -> None:
    """All options of the command. None is the default of each: what was not given."""
    add_data(parser.add_argument_group("data"))
    add_training(parser.add_argument_group("network and training"))
    add_output(parser.add_argument_group("output"))


def add_data(group: Any) -> None:
    """What to train and to validate on."""
    group.add_argument(
        "--data",
        metavar="FOLDER|FILE",
        help="photographs: a folder, an image file, or HDF5 with `images`; or ready-made pairs: HDF5 with `input` and "
        "`target` (default: dead leaves images)",
    )
    group.add_argument(
        "--validation",
        metavar="FOLDER|FILE",
        help="what to validate on (default: 10%% of the data, held out)",
    )
    noises = defaults_of(lambda preset: preset.noise)
    group.add_argument(
        "--noise",
        type=as_argument(parse_noise),
        help="pixel-sampling, pixel-sampling:5-8, gaussian:SIGMA (8-bit steps), poisson:PEAK, each also as a range "
        f"like gaussian:0-55; or none, for images that are noisy as they are ({noises})",
    )
    group.add_argument(
        "--target",
        choices=TARGETS,
        help="what to train towards: a second noisy version; the clean image; or, from single noisy images, --noise "
        f"being drawn once for each, neighbouring pixels (self) or pixels that are hidden in the input ({TARGET})",
    )
    group.add_argument(
        "--patches", type=whole(1), metavar="N", help=f"patches drawn an epoch ({defaults_of(lambda p: p.patches)})"
    )
    group.add_argument(
        "--patch-size",
        type=whole(1),
        metavar="PIXELS",
        help=f"their side, by default half of this with --target self ({defaults_of(size_of(0))})",
    )
    group.add_argument(
        "--no-augment",
        dest="augment",
        action="store_false",
        default=None,
        help="do not turn and mirror patches at random",
    )
    group.add_argument(
        "--corrupt",
        choices=("fail", "skip"),
        help="what to do with a file of the folder that cannot be read (fail)",
    )
    group.add_argument(
        "--image-channels",
        type=int,
        choices=(1, 3),
        help="gray or RGB (default: 3, or what the HDF5 file has)",
    )
    group.add_argument(
        "--validation-pairs",
        type=whole(1),
        metavar="N",
        help=f"at most so many pairs to validate on ({defaults_of(lambda preset: preset.validation_pairs)})",
    )


def add_training(group: Any) -> None:
    """Which network, for how long, and how."""
    group.add_argument("--network", choices=tuple(PRESETS), help=f"({NETWORK})")
    group.add_argument(
        "--channels",
        type=whole(1),
        metavar="N",
        help="of the layers inside (strided: 32; strided-transposed: 48; others: their own)",
    )
    group.add_argument("--depth", type=whole(0), metavar="N", help="of unet, dncnn and ffdnet (their own)")
    yes_or_no = argparse.BooleanOptionalAction
    group.add_argument("--batch-norm", action=yes_or_no, default=None, help="of dncnn (with)")
    group.add_argument("--residual", action=yes_or_no, default=None, help="of dncnn and unet: estimate the noise (yes)")
    length = group.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=whole(1), metavar="N", help="how often to see all patches, or --time")
    length.add_argument(
        "--time",
        type=as_argument(seconds_of),
        metavar="TIME",
        help=f"how long to train: 90s, 10m, 1h30m, or seconds ({defaults_of(length_of)})",
    )
    group.add_argument(
        "--batch-size",
        type=whole(1),
        metavar="N",
        help=f"by default four times this with --target self ({defaults_of(size_of(1))})",
    )
    group.add_argument("--optimizer", choices=OPTIMIZERS, help=f"({defaults_of(lambda preset: preset.optimizer)})")
    adam = defaults_of(lambda preset: f"{preset.lr:g}")
    group.add_argument(
        "--lr", type=float, help=f"learning rate (adam: {adam}; sgd: {defaults_of(lambda p: f'{p.sgd[0]:g}')})"
    )
    group.add_argument("--momentum", type=float, help=f"of sgd ({defaults_of(lambda p: f'{p.sgd[1]:g}')})")
    group.add_argument(
        "--betas",
        type=float,
        nargs=2,
        metavar=("BETA1", "BETA2"),
        help=f"of adam ({defaults_of(lambda p: f'{p.betas[0]:g} {p.betas[1]:g}')})",
    )
    group.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="of the learning rate over the whole run: trapezoid rises to lr over 5 percent of it and falls to "
        "nothing over the last 30; rampdown falls smoothly over the last 30 (Noise2Noise); multistep multiplies by "
        "0.2 after 60 percent (DnCNN; ffdnet: by 0.1 after 80); exponential falls to a thousandth; one-cycle rises "
        "over 30 percent, then falls; cosine falls; step divides by ten after each third "
        f"({defaults_of(lambda preset: preset.schedule)})",
    )
    group.add_argument("--seed", type=whole(0), metavar="N", help="the same seed and --epochs, the same run (0)")


def add_output(group: Any) -> None:
    """Where the run goes, and how it can go on."""
    group.add_argument("-o", "--output", metavar="DIR", type=Path, help=f"folder ({DEFAULT_FOLDER})")
    group.add_argument("--overwrite", action="store_true", default=None, help="replace a model that is in the folder")
    group.add_argument(
        "--checkpoint-every",
        type=as_argument(_how_often),
        metavar="N|TIME",
        help="how often to write checkpoint.h5, from which --resume goes on after a crash: so many epochs (5), steps "
        f"('500 steps'), or a time (90s, 10m); {NEVER}: not even at the end ({CHECKPOINT_EVERY})",
    )
    group.add_argument(
        "--resume",
        metavar="DIR",
        type=Path,
        help="go on with the run in this folder, with its options: with --epochs it ends with the same bits as if it "
        "had never stopped, with --time it uses the time that is left. More --epochs or --time, another -o, and data "
        "that has moved may be given",
    )
    group.add_argument("--quiet", action="store_true", default=None, help="print nothing but errors")


def _how_often(text: str) -> str:
    if text != NEVER:
        Every.of(text)
    return text
