"""What denoisers reach on the same noisy images: filters, npconv's recommended network, and that network in PyTorch.

    python benchmarks/denoisers.py --train FOLDER --dev FOLDER --json results.json --methods classical
    python benchmarks/denoisers.py --train FOLDER --dev FOLDER --json results.json --methods npconv --time 10m
    python benchmarks/denoisers.py --train FOLDER --dev FOLDER --json results.json --methods torch --time 10m

FOLDERs hold photographs. For each --noise, the 1,000 patches of --dev are drawn as `npconv train --validation` draws
them; Gaussian noise is measured on the whole photographs too. Rows of earlier runs stay in the JSON file, so the
methods can be run one by one: trainings need the machine to themselves. A table of all rows is printed at the end.

classical  noisy, blur, median, nlm, tv: each with the settings that are best on these very images (see classical.py)
npconv     `npconv train --time`, all else by default: the model it writes
torch      the same command, but PyTorch takes the steps (see torch_training.py), in its faster memory format
self       `npconv train --time --target self`: from the noisy photographs alone, one noise realisation of each, and the
           best epoch by noisy values of other photographs; only the table compares it with clean ones
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import classical
import machine
import numpy as np
from comparison_rows import Row, read_rows, table, write_rows
from trained import TRAINED, trained_model

from npconv import data
from npconv.cli.scenes import with_noise
from npconv.cli.sources import validation_pairs
from npconv.metrics import ssim

NOISES = ("pixel-sampling", "gaussian:25")
SEED = 0  # of the measured patches and their noise, and of the photographs' noise
CLASSICAL = ("noisy", *classical.METHODS)
GROUPS = {"classical": CLASSICAL, **{name: (name,) for name in (*CLASSICAL, *TRAINED)}}

Scenes = list[tuple[np.ndarray, np.ndarray]]  # (noisy, clean), each (C, H, W), 0..255
Denoise = Callable[[str, Scenes], classical.Found]  # "pairs" or "photographs", and their scenes


def main() -> int:
    args = parse(sys.argv[1:])
    rows = read_rows(args.json)
    for noise in args.noise:
        scenes = dict(scenes_of(args, noise))
        for method in args.methods:
            print(f"{noise}: {method} ...", file=sys.stderr, flush=True)
            rows += [measured(args, method, noise, scenes)]
            if args.json is not None:
                rows = write_rows(args.json, rows)
    print(table(rows))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options, checked; `methods` are the names of single ones, `noise` noise models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dev", type=Path, required=True, metavar="FOLDER", help="photographs to measure on")
    parser.add_argument("--train", type=Path, metavar="FOLDER", help="photographs to train on")
    parser.add_argument("--noise", action="append", metavar="NOISE", help=f"(default: {' and '.join(NOISES)})")
    parser.add_argument("--methods", nargs="+", choices=tuple(GROUPS), default=["classical"], help="(classical)")
    parser.add_argument("--time", default="10m", help="of each training (10m)")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="of PyTorch (all cores)")
    parser.add_argument("--pairs", type=int, default=1000, metavar="N", help="patches (1000)")
    parser.add_argument("--patch-size", type=int, default=32, metavar="PIXELS", help="their side (32)")
    parser.add_argument("--photographs", type=int, metavar="N", help="measure on the first N only (default: all)")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="keep the trained models here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="read rows from, and write them all to, this file")
    args = parser.parse_args(arguments)
    args.methods = list(dict.fromkeys(name for group in args.methods for name in GROUPS[group]))
    if args.train is None and any(name in TRAINED for name in args.methods):
        parser.error("trained methods need --train FOLDER")
    try:
        args.noise = [str(data.parse_noise(text)) for text in args.noise or NOISES]
    except ValueError as error:
        parser.error(str(error))
    return args


def scenes_of(args: argparse.Namespace, noise: str) -> Iterator[tuple[str, Scenes]]:
    """The patches that training validates on, as "pairs"; and, for Gaussian noise, "photographs"."""
    photos, model = data.FolderPhotos(args.dev), data.parse_noise(noise)
    inputs, targets = validation_pairs(photos, model, args.patch_size, args.pairs, SEED)
    yield "pairs", list(zip(inputs, targets, strict=True))
    if isinstance(model, data.Gaussian):
        named = zip(photos.names[: args.photographs], photos, strict=False)
        yield "photographs", [(scene.noisy, scene.clean) for scene in with_noise(named, model, SEED)]


def measured(args: argparse.Namespace, method: str, noise: str, scenes: dict[str, Scenes]) -> Row:
    """What a method reaches on all scenes of a noise."""
    denoise, facts = prepared(args, method, noise)
    figures = {}
    for name, some in scenes.items():
        found = denoise(name, some)
        figures[name] = {
            "images": len(some),
            "psnr": classical.mean_psnr(found.denoised, some),
            "ssim": float(np.mean([ssim(x, clean) for x, (_, clean) in zip(found.denoised, some, strict=True)])),
            "seconds": found.seconds,
            "setting": found.setting,
        }
    return Row(method, noise, figures, {**facts, **machine.describe(args.threads)})


def prepared(args: argparse.Namespace, method: str, noise: str) -> tuple[Denoise, dict[str, Any]]:
    """The method, ready to denoise, and facts about it: a trained one has then been trained."""
    if method == "noisy":
        return lambda _, scenes: classical.Found("not clipped", [noisy for noisy, _ in scenes], 0.0), {}
    if method in classical.METHODS:
        return lambda _, scenes: classical.best_of(method, scenes, noise.startswith("gaussian")), {}
    model, facts = trained_model(method, args.train, args.dev, noise, args.time, args.threads, args.runs)
    return lambda _, scenes: classical.timed(model.predict, scenes, "network"), {"time": args.time, **facts}


if __name__ == "__main__":
    sys.exit(main())
