"""How good predictions are: the figures of a validation, also where only some of the target's elements count.

    predictions (N, C, H, W), targets (N, C, H, W)     every element counts
                              targets (N, 2C, H, W)    C channels of values, then C of weights, 0..255 for 0..1

Weights are what blind spots train with: they say at which pixels the input hides what the target shows.
"""

from __future__ import annotations

import math

import numpy as np

from .metrics import pooled_psnr, psnr, psnr_of_mse

__all__ = ["Figures", "figures"]

Figures = tuple[float, float, float]  # MSE on values in [0, 1], mean of the images' PSNRs, PSNR of the pooled MSE


def figures(predictions: np.ndarray, targets: np.ndarray) -> Figures:
    """MSE on values in [0, 1], mean of the per-image PSNRs and PSNR of the pooled MSE, both in dB.

    predictions: (N, C, H, W), 0..255; targets: of the same shape, or (N, 2C, H, W) with weights as `losses.MaskedMSE`
    takes them. An image without any weight does not count. Raises ValueError for other shapes, values that are not
    finite, and weights that are all 0.
    """
    predictions, targets = np.asarray(predictions, "float64"), np.asarray(targets, "float64")
    channels = predictions.shape[1]
    if targets.ndim == predictions.ndim == 4 and targets.shape[1] == 2 * channels:
        if targets[:, :channels].shape != predictions.shape:
            raise ValueError(
                f"shapes of predictions {predictions.shape} and targets {targets.shape} must be equal but for channels"
            )
        return _weighted(predictions, targets[:, :channels], targets[:, channels:] / 255)
    means = psnr(predictions, targets), psnr(predictions, targets, definition="pooled")  # these check the shapes
    return float(np.mean(((predictions - targets) / 255) ** 2)), *means


def _weighted(predictions: np.ndarray, values: np.ndarray, weights: np.ndarray) -> Figures:
    errors = (weights * ((predictions - values) / 255) ** 2).sum(axis=(1, 2, 3))
    weight = weights.sum(axis=(1, 2, 3))
    if not (np.isfinite(errors).all() and weight.sum() > 0):
        raise ValueError("predictions and targets must be finite, and some of the weights above 0")
    each = errors[weight > 0] / weight[weight > 0]
    mse = math.fsum(errors) / math.fsum(weight)
    return mse, float(np.mean(psnr_of_mse(each))), pooled_psnr([mse])
