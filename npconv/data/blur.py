"""Gaussian blur: the plainest denoiser, which a trained one has to beat."""

from __future__ import annotations

import math

import numpy as np

from ..checks import number

__all__ = ["gaussian_blur"]

_REACH = 4.0  # the kernel is cut off at so many sigma, where it has fallen to 0.0003 of its middle


def gaussian_blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs images with a Gaussian kernel, the border mirrored (dcba|abcd|dcba).

    images: (..., H, W), any real numbers; sigma: standard deviation in pixels, at least 0 (0 changes
    nothing). Returns floats of the images' dtype (float32 for integers). Raises ValueError or TypeError for
    anything else.
    """
    images = np.asarray(images)
    if images.ndim < 2 or images.size == 0:
        raise ValueError(f"images (shape {images.shape}) must be (..., H, W), and not empty")
    if images.dtype.kind not in "uif":
        raise TypeError(f"images (dtype {images.dtype}) must be of real numbers")
    sigma = number(sigma, "sigma", 0)
    images = images if images.dtype.kind == "f" else images.astype(np.float32)
    weights = _kernel(sigma).astype(images.dtype)
    return _along_rows(_along_rows(images.swapaxes(-1, -2), weights).swapaxes(-1, -2), weights)


def _kernel(sigma: float) -> np.ndarray:
    """The weights of a pixel's neighbours, from -reach to reach; they add up to 1."""
    reach = math.ceil(_REACH * sigma)
    if reach == 0:
        return np.ones(1)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return weights / weights.sum()


def _along_rows(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted mean of the pixels around each one in its row."""
    reach, width = len(weights) // 2, images.shape[-1]
    padded = np.pad(images, [(0, 0)] * (images.ndim - 1) + [(reach, reach)], mode="symmetric")
    blurred = weights[0] * padded[..., :width]
    for i, weight in enumerate(weights[1:], 1):
        blurred += weight * padded[..., i : i + width]
    return blurred
