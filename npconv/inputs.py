"""What users hand to Model, checked and brought into one form: images, training pairs, validation."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from . import checks
from .backends import backend, to_numpy
from .backends.base import Array
from .data.pairs import ArrayPairs, Pairs, StoredPairs

HELD_OUT_BYTES = 2**28  # of validation images, as float32


def as_images(images: Any) -> tuple[Array, bool]:
    """Images of 0..255 as an array of the active backend, and whether they came from the host."""
    on_host = not backend().owns(images) or backend().name == "numpy"
    return backend().asarray(_checked(images)), on_host


def _checked(images: Any) -> Any:
    """Images of 0..255 as an array, looked at where they are: those of the host stay there."""
    several = images if isinstance(images, (list, tuple)) and images else [images]
    for image in several:
        checks.unmasked(image, "images")
    first = several[0]
    there = backend().owns(first)
    xp = backend().xp if there else np
    try:
        x = backend().asarray(images) if there else to_numpy(images)
    except ValueError as error:  # lists of unequal lengths
        raise ValueError(f"images must be an array of (N, C, H, W) or (C, H, W) numbers: {error}") from error
    if x.dtype.kind not in "uif":
        raise TypeError(f"images must be numbers (uint8 or float), got {x.dtype}")
    if x.dtype.kind in "ui" and x.dtype.name != "uint8" and x.size and not (x.min() >= 0 and x.max() <= 255):
        raise TypeError(
            f"images of {x.dtype} must have values of 0..255, got {int(x.min())}..{int(x.max())}: scale them to that, "
            "or use npconv.denoise, which keeps 16 bits"
        )
    if x.ndim not in (3, 4) or 0 in x.shape[-3:]:
        raise ValueError(f"images of shape {x.shape} must be (N, C, H, W) or (C, H, W), with C, H and W at least 1")
    if x.dtype.kind == "f":
        if x.size and not bool(xp.isfinite(x.min()) & xp.isfinite(x.max())):  # both pass NaN on, and take no memory
            raise ValueError("images must be finite, got NaN or infinity")
        if x.size and 0 < float(x.max()) <= 1:
            warnings.warn(
                f"the largest value of the images is {float(x.max()):.3g}: Model takes values of 0..255",
                stacklevel=4,  # the caller of Model.predict or Model.train
            )
    return x


def as_pairs(train_input: Any, train_target: Any) -> Pairs:
    """`train_input` if it is a Pairs, else the pairs of two arrays of images."""
    if isinstance(train_input, Pairs):
        if train_target is not None:
            raise ValueError("train_target must be None where train_input is a Pairs, which draws both")
        return train_input
    if train_target is None:
        raise ValueError("train_target must be given where train_input is an array of images")
    inputs = to_numpy(_checked(train_input))  # no comprehension: to Python 3.11 it is a caller of its own, for warnings
    return ArrayPairs(inputs, to_numpy(_checked(train_target)))


def held_out_images(pairs: Pairs, validation: Any, rng: np.random.Generator) -> tuple[Pairs, Any]:
    """The pairs to train on, and the (input, target) images to validate on, or None.

    Of pairs that are not in memory, at most HELD_OUT_BYTES of images are taken, at random.
    """
    if validation is None:
        return pairs, None
    if isinstance(validation, Pairs):
        validation = validation.take(_most(validation), np.random.default_rng(0))
    if isinstance(validation, (tuple, list)):
        if len(validation) != 2:
            raise ValueError(f"validation must be a share or (input, target), got {len(validation)} things")
        images = to_numpy(validation[0]), to_numpy(validation[1])
        _check_held_out(*images, pairs)
        return pairs, images
    share = checks.number(validation, "validation", above=0)
    if share >= 1:
        raise ValueError(f"validation (={validation!r}) must be less than 1: a share of the pairs")
    if not isinstance(pairs, StoredPairs):
        raise TypeError("validation as a share needs stored pairs; give (input, target) for pairs drawn on demand")
    kept, held_out = pairs.split(share, rng)
    return kept, held_out.take(_most(held_out), rng)


def _most(pairs: Pairs) -> int:
    """How many of the pairs may be held in memory to validate on, at least one."""
    if isinstance(pairs, ArrayPairs):
        return len(pairs)
    pair_bytes = 4 * (math.prod(pairs.input_shape) + math.prod(pairs.target_shape))
    return min(len(pairs), max(1, HELD_OUT_BYTES // pair_bytes))


def _check_held_out(inputs: np.ndarray, targets: np.ndarray, pairs: Pairs) -> None:
    """Raise unless these can validate a training on `pairs`.

    An input may have a noise map beside its image, as the pairs' have; a target is an image, or what the pairs' are.
    """
    if pairs.input_shape == pairs.target_shape:
        ArrayPairs(inputs, targets)  # raises for what is not a pair of stacks of images
    else:
        for images in (inputs, targets):
            ArrayPairs(images, images)
        if len(inputs) != len(targets) or inputs.shape[2:] != targets.shape[2:]:
            raise ValueError(
                f"validation inputs {inputs.shape} and targets {targets.shape} must have one number, height and width"
            )
    if inputs.shape[1] != pairs.input_shape[0]:
        raise ValueError(
            f"validation images have {inputs.shape[1]} channels, they must have the {pairs.input_shape[0]} of the "
            "training images"
        )
    if targets.shape[1] not in (pairs.image_shape[0], pairs.target_shape[0]):
        raise ValueError(
            f"validation targets have {targets.shape[1]} channels, they must have the {pairs.image_shape[0]} of the "
            f"images or the {pairs.target_shape[0]} of the training targets"
        )
