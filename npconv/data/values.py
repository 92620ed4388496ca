"""What counts as an image of values 0..255, and how arrays of other types become one."""

from __future__ import annotations

from typing import Any

import numpy as np

_STRIP = 256  # rows that are worked on at a time
_GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # luma of ITU-R BT.601, as pillow's and OpenCV's gray


def in_8bit_steps(array: np.ndarray, name: str) -> np.ndarray:
    """An array with values 0..255: uint8 and floats as they are, uint16 divided by 257 (65535 -> 255), as
    float32.

    name: what the array is, for the messages. Raises TypeError for other types, ValueError for floats that
    are not finite.
    """
    check_dtype(array.dtype, name)
    if array.dtype.kind == "u":
        if array.dtype.itemsize == 1:
            return array
        steps = array.astype(np.float32)
        steps /= np.float32(257)  # in place: a large image is not in memory thrice
        return steps
    check_finite(array, name)
    return array


def as_array(images: Any, name: str) -> np.ndarray:
    """Images as an array; ValueError for lists of unequal lengths."""
    try:
        return np.asarray(images)
    except ValueError as error:
        raise ValueError(f"{name} must be an array of (N, C, H, W) numbers: {error}") from error


def check_dtype(dtype: np.dtype, name: str) -> None:
    """uint8, uint16, or a float."""
    if dtype.kind == "f" or (dtype.kind == "u" and dtype.itemsize <= 2):
        return
    raise TypeError(f"{name} (dtype {dtype}) must be uint8, uint16 or a float: convert with .astype")


def check_finite(array: np.ndarray, name: str) -> None:
    """No NaN and no infinity; found through the extremes (both pass NaN on), which takes no memory."""
    if array.dtype.kind == "f" and array.size and not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise ValueError(f"{name} has values that are not finite (NaN or infinity)")


def check_scale(array: np.ndarray, name: str) -> None:
    """Floats of 0..1, noisy ones too, are in another unit than a noise's sigma and the model: steps of 0..255."""
    if array.dtype.kind == "f" and array.size and 0 < (largest := array.max()) <= 1:
        raise ValueError(f"{name} has values in 0..1 (largest: {largest:.3g}), not 0..255: multiply by 255")


def colour_count(channels: int) -> int:
    """How many of an image's channels are colours: 1 (gray) of 1 and 2, 3 (RGB) of 3 and 4; the last may be alpha."""
    return 1 if channels <= 2 else 3


def with_channels(photo: np.ndarray, channels: int) -> np.ndarray:
    """A (C, H, W) photo as gray (channels=1) or RGB (3): alpha is dropped, gray repeated, RGB weighted."""
    photo = photo[: colour_count(photo.shape[0])]
    if photo.shape[0] == channels:
        return photo
    if photo.shape[0] == 1:
        return np.repeat(photo, channels, axis=0)
    gray = np.empty((1, *photo.shape[1:]), photo.dtype)
    for top in range(0, photo.shape[1], _STRIP):  # the product is floats, which a large photo has no room for
        strip = np.tensordot(_GRAY, photo[:, top : top + _STRIP], axes=(0, 0))
        gray[0, top : top + _STRIP] = np.rint(strip) if photo.dtype == np.uint8 else strip
    return gray


def check_share(share: float, count: int, name: str) -> int:
    """How many of `count` things a validation share keeps back: at least one, and at least one is left."""
    if not 0 < share < 1:
        raise ValueError(f"share (={share}) must be above 0 and below 1: the part kept for validation")
    if count < 2:
        raise ValueError(f"{name} (={count}) must be at least 2 to be split")
    return min(max(round(share * count), 1), count - 1)
