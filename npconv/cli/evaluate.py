"""`npconv evaluate`: how near noisy and denoised images are to the clean ones."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data import NoNoise, Pairs, Photos, open_data, parse_noise
from ..model import Model
from ..noise_map import what_it_takes
from ..protocols import rounded
from .denoiser import Denoiser, load_denoiser
from .files import check_new, image_files
from .parser import (
    DEFAULT_FOLDER,
    add_command,
    as_argument,
    check_backend,
    given,
    not_negative,
    positive,
    refuse_ignored,
    whole,
)
from .progress import Bar, show
from .scenes import (
    FilePhotos,
    Scene,
    all_pairs,
    noisy_files,
    read_scaled,
    with_files,
    with_kair_noise,
    with_noise,
)
from .scores import Score, best_blur, score, summary_rows, write_csv
from .sources import PATCH_SIZE, validation_pairs

HDF5_ENDINGS = (".h5", ".hdf5")
SSIM_WINDOW = 11  # pixels: SSIM needs images of at least this size

DESCRIPTION = """Measure a denoiser: PSNR and SSIM of noisy and of denoised images against clean ones.

The images named are clean: --noise adds noise to them (pixel-sampling: their block means are then the clean
images), --noisy FOLDER has noisy versions with the same file names. An HDF5 file may hold photographs
(`images`), or pairs (`input` noisy, `target` clean). PSNR is given by both definitions in use: the mean of
the images' PSNRs, and the PSNR of the mean squared error pooled over all images.

--protocol kair is the one of the KAIR repository's test scripts, by which the PSNRs of DnCNN, FFDNet and others are
published: 8-bit image files, read as gray for a gray network and as RGB for an RGB one; x / 255 in float32, to
which numpy.random.normal(0, SIGMA / 255, (height, width, channels)) is added after numpy.random.seed(0), the same
seed before each image; the noise is not clipped; the network sees whole images; its output is clamped to 0..1,
multiplied by 255 and rounded to 8 bits (halves to the even one); PSNR of each image with peak 255 and no border
cut off, then the mean of the images. --protocol npconv, the default: other noise for every image, drawn by NumPy's
present generator; nothing is rounded; images keep their channels and their bits, gray or RGB."""

EXAMPLE = """examples:
  npconv evaluate photos/ --noise gaussian:25 --blur
  npconv evaluate photos/ --noise pixel-sampling --pairs 1000 --model my-run/model.h5
  npconv evaluate Set12/ --noise gaussian:25 --protocol kair --model dncnn.h5"""

PROTOCOLS = {
    "npconv": "npconv (other noise for every image, nothing rounded)",
    "kair": "kair (seed {seed} before each image, noise not clipped, output rounded to 8 bits, no border cut off)",
}
DECIMALS = {"npconv": 2, "kair": 3}  # of the means, in dB: published figures have more


def add_parser(commands: Any) -> None:
    """Add the command to the parsers of `commands`."""
    parser = add_command(commands, "evaluate", "measure PSNR and SSIM", DESCRIPTION, EXAMPLE, prepare)
    parser.add_argument("images", nargs="+", metavar="IMAGE|FOLDER", help="clean images; or one FILE.h5")
    default = f"{DEFAULT_FOLDER}/model.h5"
    parser.add_argument("--model", metavar="FILE", default=default, help=f"written by npconv train ({default})")
    parser.add_argument(
        "--noise",
        type=as_argument(parse_noise),
        help="noise to add: pixel-sampling, gaussian:SIGMA (8-bit steps) or poisson:PEAK; gaussian:0-55 draws one for "
        "each image",
    )
    parser.add_argument("--noisy", metavar="FOLDER", type=Path, help="noisy versions of the images")
    parser.add_argument("--seed", type=whole(0), metavar="N", help="of the noise (0)")
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="npconv", help="described above (npconv)")
    parser.add_argument(
        "--sigma",
        type=not_negative,
        metavar="STEPS",
        help="the noise level that a network with an input for it is told, in 8-bit steps (that of gaussian:SIGMA)",
    )
    parser.add_argument(
        "--pairs",
        type=whole(1),
        metavar="N",
        help="measure on N patches, as training validates, not on whole images",
    )
    parser.add_argument("--patch-size", type=whole(SSIM_WINDOW), metavar="PIXELS", help=f"their side ({PATCH_SIZE})")
    parser.add_argument("--range", type=positive, metavar="WHITE", help="the value that stands for white")
    parser.add_argument("--blur", action="store_true", help="compare with the best fixed Gaussian blur")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write the figures of every image to this file")
    parser.add_argument("--overwrite", action="store_true", help="replace the CSV file if it exists")


@dataclass(frozen=True)
class Plan:
    """What to measure on: `count` scenes, each with the model's output; patches get no lines of their own."""

    count: int
    patches: bool
    measure: Callable[[], Iterator[tuple[Scene, np.ndarray]]]


def prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Check everything and return the work."""
    check_backend()
    if args.csv is not None:
        _check_csv(args.csv, args.overwrite)
    data = _open(args.images)
    _check_options(args, data)
    model = load_denoiser(args.model)
    denoiser = Denoiser(model, _takes_level(args, model), args.sigma)
    plan = _plan_kair(args, data, denoiser) if args.protocol == "kair" else _plan(args, data, denoiser)
    return lambda: _report(args, plan)


def _open(names: list[str]) -> list[Path] | Photos | Pairs:
    """Image files, or what one HDF5 file holds."""
    if len(names) == 1 and Path(names[0]).suffix.lower() in HDF5_ENDINGS:
        return open_data(names[0])
    return image_files(names)


def _check_options(args: argparse.Namespace, data: list[Path] | Photos | Pairs) -> None:
    """ValueError for options that are missing, or that would have no effect."""
    if isinstance(args.noise, NoNoise):
        raise ValueError("--noise none adds no noise to measure: give other noise, or --noisy FOLDER")
    if args.protocol == "kair":
        _check_kair(args, data)
        return
    if isinstance(data, Pairs):
        refuse_ignored(args, "a file of pairs", "noise", "noisy", "seed", "pairs", "patch_size", "range")
        return
    if isinstance(data, Photos):
        refuse_ignored(args, "an HDF5 file", "noisy", "range")
    if (args.noise is None) == (args.noisy is None):
        raise ValueError("give --noise, such as gaussian:25, or --noisy FOLDER, and not both")
    if args.noisy is not None:
        refuse_ignored(args, "--noisy", "seed", "pairs", "patch_size")
        noisy_files(args.noisy, data if isinstance(data, list) else [])
    if args.pairs is None:
        refuse_ignored(args, "whole images (no --pairs)", "patch_size")


def _check_kair(args: argparse.Namespace, data: list[Path] | Photos | Pairs) -> None:
    """ValueError for what contradicts the protocol."""
    if not isinstance(data, list):
        raise ValueError("--protocol kair measures image files, not an HDF5 file")
    contradicting = given(args, "noisy", "pairs", "patch_size", "range")
    if contradicting:
        raise ValueError(f"{', '.join(contradicting)} contradicts --protocol kair: whole 8-bit images and their noise")
    if args.noise is None or args.noise.noise_level is None:
        other = "" if args.noise is None else f", not {args.noise}"
        raise ValueError(f"--protocol kair needs --noise gaussian:SIGMA with one sigma{other}")
    if (args.seed or 0) >= 2**32:
        raise ValueError(f"--seed (={args.seed}) must be below 2**32 for --protocol kair")


def _takes_level(args: argparse.Namespace, model: Model) -> bool:
    """Whether the network is told how strong the noise is.

    Raises ValueError if it needs a level that nobody has given, or would not hear one that somebody has.
    """
    if not what_it_takes(model.network).noise_map:
        refuse_ignored(args, "a network without an input for the noise level", "sigma")
        return False
    if args.sigma is None and (args.noise is None or not args.noise.has_noise_level):
        noise = "" if args.noise is None else f", which {args.noise} does not say"
        raise ValueError(f"the network takes the noise level{noise}: give --sigma, such as --sigma 25")
    return True


def _check_csv(path: Path, overwrite: bool) -> None:
    check_new(path, overwrite)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} for the CSV file")


def _plan_kair(args: argparse.Namespace, data: Any, denoiser: Denoiser) -> Plan:
    channels, sigma = denoiser.image_channels, args.noise.noise_level
    if channels not in (None, 1, 3):
        raise ValueError(f"--protocol kair is for gray and RGB networks, and the model takes {channels} channels")
    assert sigma is not None  # _check_kair has asked
    scenes = functools.partial(with_kair_noise, data, channels, sigma, args.seed or 0)
    rounding = functools.partial(_rounded, denoiser)
    return Plan(len(data), False, lambda: rounding(scenes()))


def _rounded(denoiser: Denoiser, scenes: Iterable[Scene]) -> Iterator[tuple[Scene, np.ndarray]]:
    for scene, prediction in denoiser.of_images(scenes):
        yield scene, rounded(prediction)


def _plan(args: argparse.Namespace, data: list[Path] | Photos | Pairs, denoiser: Denoiser) -> Plan:
    if isinstance(data, Pairs):
        denoiser.check_channels(data.image_shape[0])
        return Plan(len(data), True, lambda: denoiser.of_pairs(all_pairs(data)))
    if isinstance(data, Photos):
        denoiser.check_channels(data.channels)
    if args.pairs is not None:
        return _plan_patches(args, data, denoiser)
    return Plan(len(data), False, lambda: denoiser.of_images(_scenes(args, data)))


def _plan_patches(args: argparse.Namespace, data: list[Path] | Photos, denoiser: Denoiser) -> Plan:
    """Patches as training validates on; images of files are converted to the model's channels."""
    size, seed = args.patch_size or PATCH_SIZE, args.seed or 0
    photos = data
    if not isinstance(photos, Photos):
        photos = FilePhotos(photos, denoiser.image_channels or 3, args.range)
    pairs = functools.partial(validation_pairs, photos, args.noise, size, args.pairs, seed, denoiser.wants_map)
    return Plan(args.pairs, True, lambda: denoiser.of_pairs([pairs()]))


def _scenes(args: argparse.Namespace, data: list[Path] | Photos) -> Iterator[Scene]:
    """Whole images; those of files keep their channels, as they do in `npconv denoise`."""
    if isinstance(data, Photos):
        return with_noise(zip(data.names, data, strict=True), args.noise, args.seed or 0)
    named = ((path.name, read_scaled(path, args.range)) for path in data)
    if args.noisy is None:
        return with_noise(named, args.noise, args.seed or 0)
    return with_files(named, noisy_files(args.noisy, data), args.range)


# ---- the report ----
def _report(args: argparse.Namespace, plan: Plan) -> int:
    scores: list[Score] = []
    show(f"protocol: {PROTOCOLS[args.protocol].format(seed=args.seed or 0)}")
    if not plan.patches:
        show(f"{'PSNR noisy':>42}  PSNR denoised  SSIM noisy  SSIM denoised")
    with Bar("evaluating", plan.count) as bar:
        for scene, prediction in plan.measure():
            scores.append(score(scene, prediction, args.blur))
            if not plan.patches:
                bar.print(_line(scores[-1]))
            bar.advance()
    show(_summary(scores, args.blur, DECIMALS[args.protocol]))
    if args.csv is not None:
        write_csv(args.csv, scores)
        show(f"written: {args.csv}")
    return 0


def _line(scored: Score) -> str:
    name, *figures = scored.row()
    name = name if len(name) <= 30 else "..." + name[-27:]
    return "{:<30}  {:>7.2f} dB  {:>10.2f} dB  {:>10.4f}  {:>13.4f}".format(name, *figures)


def _summary(scores: list[Score], blur: bool, decimals: int) -> str:
    lines = [f"\n{len(scores)} image{'s' if len(scores) > 1 else ''}{'noisy':>29}   denoised"]
    for name, figures in summary_rows(scores).items():
        form = "{:.4f}" if "SSIM" in name else f"{{:.{decimals}f}} dB"
        lines.append(f"{name:<27}  " + "  ".join(f"{form.format(figure):>9}" for figure in figures))
    if blur:
        sigma, mean, pooled = best_blur(scores)
        lines.append(f"the best Gaussian blur, sigma {sigma:g}: {mean:.2f} dB mean of images, {pooled:.2f} dB pooled")
    return "\n".join(lines)
