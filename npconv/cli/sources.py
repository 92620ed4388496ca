"""Where the training pairs and the validation pairs of `npconv train` come from.

    --data nothing          dead leaves, made when training starts; others of them to validate on
    --data FOLDER|FILE.h5   photographs; some of them are held out to validate on
    --data IMAGE            one photograph, to be learned from alone (--target self), or with --validation
    --data FILE.h5          ready-made pairs (`input`, `target`); some of them are held out

With --target self or blind-spot the photographs may be noisy themselves (--noise none), and are taken so if --noise is
not given; other noise is drawn once for each of them. Validation is then against noisy values too, of neighbours or of
hidden pixels: whoever has single noisy images has nothing else.

`open_source` checks all that can be checked without long work and returns a `Source`, whose `load` does the
work. Validation pairs are drawn with a fixed seed, the same for every run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import (
    ArrayPhotos,
    Noise,
    NoNoise,
    Pairs,
    PatchPairs,
    Photos,
    dead_leaves,
    open_data,
)
from ..data.images import ENDINGS
from ..data.pairs import Shape, StoredPairs
from ..data.patches import SINGLE, check_target, drawn_size
from .parser import given
from .progress import Bar
from .recipe import PRESETS, noise_of
from .usable import ImageFile, usable

TARGET = "noisy"  # the default; others are the network's, in recipe.py
PATCH_SIZE = 32  # of `npconv evaluate`
VALIDATION_SEED = 0
VALIDATION_NOISE_SEED = 2**32 - 1  # another one than --seed, which the noise to train on has
HELD_OUT = 0.1  # the share of photographs, or of ready-made pairs, to validate on

LEAVES, LEAVES_TO_VALIDATE = 240, 40  # images; together they take about six seconds on one core
LEAVES_SIDE = 320  # pixels: room for patches of 32 at the largest block of pixel sampling, 8, in many places
LEAVES_AT_A_TIME = 20

COMPARED = {
    "self": "pixels against noisy neighbours",
    "blind-spot": "hidden pixels against their noisy values",
}

Images = tuple[np.ndarray, np.ndarray]


@dataclass
class Validation:
    """The pairs to validate on, where they come from in words, and `Source.compared`."""

    load: Callable[[], Images]
    where: str
    compared: str = ""

    def __str__(self) -> str:
        return f"{self.where}; {self.compared}" if self.compared else self.where


@dataclass
class Source:
    """Data that has been checked: `load` gives the pairs to train on, and (input, target) to validate on.

    The shapes are those of `Pairs`: of the images, and of what a network is given and compared with.
    """

    image_shape: Shape
    input_shape: Shape
    target_shape: Shape
    count: int  # pairs an epoch
    facts: dict[str, str]
    load: Callable[[], tuple[Pairs, Images]]
    compared: str = ""  # what validation compares with what, in words, where that is no denoised image with a clean one


def open_source(args: argparse.Namespace) -> Source:
    """The data that the options name; options that were not given (None) are filled in.

    Raises FileNotFoundError, ValueError and TypeError for what is missing, unreadable, too small or
    contradictory.
    """
    data = None if args.data is None else _open(args.data, args.image_channels, _corrupt(args))
    if isinstance(data, ImageFile) and _skipping(args):
        raise ValueError(f"--corrupt skip would have no effect with the one image {args.data}")
    if isinstance(data, Pairs):
        ignored = given(args, "noise", "target", "patch_size", "patches") + _skipping(args)
        ignored += [] if _augment(args) else ["--no-augment"]
        if ignored:
            raise ValueError(f"{args.data} holds ready-made pairs: {', '.join(ignored)} would have no effect")
        if _noise_map(args):
            raise ValueError(f"{args.data} holds ready-made pairs, without the noise level that the network takes")
        return _from_pairs(args, data)
    _fill_in(args)
    if _noise_map(args) and isinstance(args.noise, NoNoise) and args.target in SINGLE:
        raise ValueError(
            f"--network {args.network} takes the noise level, and --target {args.target} takes the images as they are, "
            "with noise that nobody has measured: choose another network, or give --noise gaussian:SIGMA for clean ones"
        )
    check_target(args.target, args.noise, _noise_map(args))
    return _from_leaves(args) if data is None else _from_photos(args, data)


def _open(path: str, channels: int | None, corrupt: str) -> Photos | Pairs:
    """What `open_data` opens, or one image file."""
    if Path(path).suffix.lower() in ENDINGS and Path(path).is_file():
        return ImageFile(Path(path), channels or 3)
    return open_data(path, channels, corrupt)


def _fill_in(args: argparse.Namespace) -> None:
    preset, noise = PRESETS[args.network], noise_of(args)
    size, _ = preset.sizes(noise, args.target)
    defaults = {"noise": noise, "target": TARGET, "patch_size": size, "patches": preset.patches}
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _corrupt(args: argparse.Namespace) -> str:
    """What to do with photographs that cannot be used: "fail" or "skip"."""
    return getattr(args, "corrupt", None) or "fail"


def _skipping(args: argparse.Namespace) -> list[str]:
    return ["--corrupt skip"] if _corrupt(args) == "skip" else []


def _noise_map(args: argparse.Namespace) -> bool:
    """Whether the network takes the noise level as one channel more."""
    return bool(getattr(args, "noise_map", False))


def _augment(args: argparse.Namespace) -> bool:
    return bool(getattr(args, "augment", True))


def _pairs(args: argparse.Namespace, photos: Photos) -> PatchPairs:
    """The pairs to train on, drawn from photographs."""
    return _patches(args, photos, args.patches, _augment(args), args.seed)


def _patches(args: argparse.Namespace, photos: Photos, count: int, augment: bool, noise_seed: int) -> PatchPairs:
    """noise_seed: of the noise where that is drawn once for each photograph."""
    once = args.target in SINGLE and not isinstance(args.noise, NoNoise)
    return PatchPairs(
        photos,
        args.noise,
        count,
        args.patch_size,
        args.target,
        augment,
        noise_map=_noise_map(args),
        noise_seed=noise_seed if once else None,
    )


# ---- photographs ----
def _from_photos(args: argparse.Namespace, photos: Photos) -> Source:
    photos = usable(photos, args.data, args.noise, args.target, args.patch_size, getattr(args, "output", None))
    if args.validation is None:
        photos, validation = _held_out(args, photos)
    else:
        validation = _given_validation(args, photos.channels)
    pairs = _pairs(args, photos)
    facts = {"data": f"{_images(len(photos))} of {args.data}", "noise": _describe(args), "validation": str(validation)}
    shapes = pairs.image_shape, pairs.input_shape, pairs.target_shape
    return Source(*shapes, len(pairs), facts, lambda: (pairs, validation.load()), validation.compared)


def _held_out(args: argparse.Namespace, photos: Photos) -> tuple[Photos, Validation]:
    """Photographs to train on, and the pairs to validate on."""
    if len(photos) > 1:
        kept, others = photos.split(HELD_OUT, np.random.default_rng(VALIDATION_SEED))
        return kept, _drawn(args, others, f"{_images(len(others))} of {args.data}, held out")
    if args.target not in SINGLE:
        raise ValueError(f"{args.data} has one photo only: give others to validate on with --validation")
    # One noisy image, and nothing else: its noise is the same here. The network is trained on all of its pixels, those
    # that are compared here too.
    return photos, _drawn(args, photos, "the same image", args.seed)


def _from_leaves(args: argparse.Namespace) -> Source:
    if isinstance(args.noise, NoNoise):
        raise ValueError("dead leaves images (no --data) are clean: give --noise, such as gaussian:25")
    if _skipping(args):
        raise ValueError("--corrupt skip would have no effect without --data")
    channels = args.image_channels or 3
    side = max(LEAVES_SIDE, args.noise.smallest_photo(drawn_size(args.target, args.patch_size)) * 3 // 2)
    # Larger images, fewer of them: the time to make them stays the same.
    fewer = (LEAVES_SIDE / side) ** 2
    count, others = (max(8, round(number * fewer)) for number in (LEAVES, LEAVES_TO_VALIDATE))
    validation = _drawn_from_leaves(args, others, side, channels)
    if args.validation is not None:
        validation = _given_validation(args, channels)

    def load() -> tuple[Pairs, Images]:
        photos = _made("dead leaves", count, side, channels, args.seed, not args.quiet)
        return _pairs(args, photos), validation.load()

    facts = {"data": f"{count} dead leaves images", "noise": _describe(args), "validation": str(validation)}
    alike = _pairs(args, ArrayPhotos(np.zeros((1, channels, side, side), np.uint8)))  # for its shapes
    shapes = alike.image_shape, alike.input_shape, alike.target_shape
    return Source(*shapes, args.patches, facts, load, validation.compared)


def _drawn_from_leaves(args: argparse.Namespace, count: int, side: int, channels: int) -> Validation:
    where = f"{count} dead leaves images more, the same in every run"

    def load() -> Images:
        photos = _made("dead leaves to validate on", count, side, channels, None, not args.quiet)
        return _drawn(args, photos, where).load()

    return Validation(load, where, COMPARED.get(args.target, ""))


def _made(label: str, count: int, side: int, channels: int, seed: int | None, shown: bool) -> Photos:
    """Dead leaves images; `seed` None is the stream of the validation images, which is nobody's --seed."""
    rng = np.random.default_rng([VALIDATION_SEED, 1] if seed is None else seed)
    parts = []
    with Bar(label, count, shown) as bar:
        for start in range(0, count, LEAVES_AT_A_TIME):
            parts.append(dead_leaves(min(LEAVES_AT_A_TIME, count - start), side, side, rng, channels))
            bar.advance(len(parts[-1]))
    return ArrayPhotos(np.concatenate(parts))


# ---- ready-made pairs ----
def _from_pairs(args: argparse.Namespace, pairs: Pairs) -> Source:
    if not isinstance(pairs, StoredPairs):  # open_data gives no others; said so for the type checker
        raise TypeError(f"{args.data} must hold stored pairs")
    total = len(pairs)
    if args.validation is None:
        share = min(HELD_OUT, args.validation_pairs / total)
        pairs, others = pairs.split(share, np.random.default_rng(VALIDATION_SEED))
        where = f"{len(others):,} of the pairs, held out; against their targets as they are, noisy or clean"
        validation = _taken(args, others, where)
    else:
        validation = _given_validation(args, pairs.image_shape[0], photos_allowed=False)
    chosen = pairs
    facts = {
        "data": f"{len(chosen):,} pairs of {args.data}, input and target as they are",
        "validation": str(validation),
    }
    shapes = pairs.image_shape, pairs.input_shape, pairs.target_shape
    return Source(*shapes, len(pairs), facts, lambda: (chosen, validation.load()))


# ---- validation ----
def _given_validation(args: argparse.Namespace, channels: int, photos_allowed: bool = True) -> Validation:
    """Validation pairs from --validation."""
    data = _open(args.validation, channels, _corrupt(args))
    if isinstance(data, StoredPairs):
        if _noise_map(args):
            raise ValueError(f"{args.validation} holds pairs, without the noise level that the network takes")
        return _taken(args, data, f"pairs of {args.validation}, input against target")
    if not isinstance(data, Photos) or not photos_allowed:
        raise ValueError(f"{args.validation} must hold pairs ('input' and 'target'), as {args.data} does")
    data = usable(data, args.validation, args.noise, args.target, args.patch_size, getattr(args, "output", None))
    return _drawn(args, data, f"{_images(len(data))} of {args.validation}")


def _drawn(args: argparse.Namespace, photos: Photos, where: str, noise_seed: int = VALIDATION_NOISE_SEED) -> Validation:
    """Patches against clean ones; of single noisy images, pairs as those to train on."""
    count, noise_map = args.validation_pairs, _noise_map(args)
    if args.target not in SINGLE:
        noise, size = args.noise, args.patch_size
        return Validation(lambda: validation_pairs(photos, noise, size, count, VALIDATION_SEED, noise_map), where)
    pairs = _patches(args, photos, count, False, noise_seed)
    return Validation(lambda: pairs.take(count, np.random.default_rng(VALIDATION_SEED)), where, COMPARED[args.target])


def _taken(args: argparse.Namespace, pairs: StoredPairs, where: str) -> Validation:
    count = min(args.validation_pairs, len(pairs))
    return Validation(lambda: pairs.take(count, np.random.default_rng(VALIDATION_SEED)), where)


def validation_pairs(
    photos: Photos, noise: Noise, patch_size: int, count: int, seed: int, noise_map: bool = False
) -> Images:
    """The same `count` pairs at every call, noisy and clean: (count, C, patch_size, patch_size) each.

    With a noise map the noisy ones have one channel more. Raises ValueError for noise `none`: nothing is clean then.
    """
    pairs = PatchPairs(photos, noise, count, patch_size, "clean", augment=False, noise_map=noise_map)
    return pairs.take(count, np.random.default_rng(seed))


def _describe(args: argparse.Namespace) -> str:
    size = f"{args.patch_size} x {args.patch_size}"
    noise = "none added: the images are noisy as they are" if isinstance(args.noise, NoNoise) else str(args.noise)
    if args.target in SINGLE and not isinstance(args.noise, NoNoise):
        noise += ", once for each image"
    targets = {"self": "neighbours of their pixels as", "blind-spot": "their own hidden pixels as"}
    return f"{noise}; {args.patches:,} patches of {size} an epoch, {targets.get(args.target, args.target)} targets"


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"
