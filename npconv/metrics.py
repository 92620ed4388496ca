"""How near a denoised image is to the clean one: PSNR, in its two definitions, and SSIM.

    prediction, target: (N, C, H, W) or (C, H, W), values 0..peak  ->  one number, or one an image

The two definitions of PSNR differ by about 0.8 dB on the same images, so a figure must say which one it is:

    "mean"      the mean over the images of 10 log10(peak^2 / MSE of the image)
    "pooled"    -10 log10(MSE over all images + 1e-8), on values divided by peak
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .arithmetic import quiet
from .checks import number, unmasked

__all__ = ["pooled_psnr", "psnr", "psnr_of_mse", "psnr_per_image", "ssim", "ssim_per_image"]

_WINDOW = 11  # pixels; with sigma, K1 and K2 these are the constants of the SSIM paper
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


def psnr(prediction: np.ndarray, target: np.ndarray, definition: str = "mean", peak: float = 255.0) -> float:
    """The peak signal-to-noise ratio in dB: the "mean" of the images' PSNRs, or the PSNR of the "pooled" MSE.

    prediction, target: (N, C, H, W) or (C, H, W), values 0..peak. Identical images have an infinite "mean"
    PSNR and a "pooled" one of 80 dB. Raises ValueError for unequal shapes, values that aren't finite, or
    another definition.
    """
    if definition == "mean":
        return float(np.mean(psnr_per_image(prediction, target, peak)))
    if definition == "pooled":
        return pooled_psnr(_squared_errors(prediction, target, peak))
    raise ValueError(f"definition (={definition!r}) must be 'mean' or 'pooled'")


def psnr_per_image(prediction: np.ndarray, target: np.ndarray, peak: float = 255.0) -> np.ndarray:
    """The PSNR of each image in dB: (N,), float64; infinite where the images are identical.

    prediction, target: (N, C, H, W) or (C, H, W), values 0..peak. Raises as `psnr` does.
    """
    return psnr_of_mse(_squared_errors(prediction, target, peak))


def psnr_of_mse(errors: np.ndarray) -> np.ndarray:
    """The PSNR of each image in dB from its mean squared error on values divided by peak; infinite for 0."""
    with np.errstate(divide="ignore"):
        return -10.0 * np.log10(errors)


def pooled_psnr(errors: Sequence[float] | np.ndarray, sizes: Sequence[int] | None = None) -> float:
    """The PSNR in dB of the MSE over all values of all images, from the MSEs of the images.

    errors: the images' mean squared errors on values divided by peak; sizes: how many values each image has
    (None: all equally many).
    """
    return float(-10.0 * np.log10(np.average(errors, weights=sizes) + 1e-8))


def ssim(prediction: np.ndarray, target: np.ndarray, peak: float = 255.0) -> float:
    """The structural similarity, 1 for identical images: the mean of the images' SSIMs.

    prediction, target: (N, C, H, W) or (C, H, W), values 0..peak, at least 11 x 11 pixels. Wang, Bovik,
    Sheikh and Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004:
    Gaussian window of 11 x 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03; a channel by itself, then the mean
    over channels; only windows that lie wholly inside the image. Raises ValueError for unequal shapes, values
    that aren't finite, small images.
    """
    return float(np.mean(ssim_per_image(prediction, target, peak)))


@quiet
def ssim_per_image(prediction: np.ndarray, target: np.ndarray, peak: float = 255.0) -> np.ndarray:
    """The SSIM of each image, as `ssim` describes it: (N,), float64."""
    images, others = _check(prediction, target, peak)
    if min(images.shape[2:]) < _WINDOW:
        height, width = images.shape[2:]
        raise ValueError(f"images ({height} x {width}) must be at least {_WINDOW} x {_WINDOW} pixels")
    return np.array([_ssim_of_image(x, y, peak) for x, y in zip(images, others, strict=True)])


def _ssim_of_image(x: np.ndarray, y: np.ndarray, peak: float) -> float:
    """Equation (13) of the paper for each window of a (C, H, W) pair, then the mean over all of them."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    mean_x, mean_y = _windowed(x), _windowed(y)
    variance_x = _windowed(x * x) - mean_x * mean_x
    variance_y = _windowed(y * y) - mean_y * mean_y
    covariance = _windowed(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x * mean_x + mean_y * mean_y + c1) * (variance_x + variance_y + c2)
    return float(similarity.mean())


def _windowed(image: np.ndarray) -> np.ndarray:
    """The Gaussian-weighted mean around each pixel: (C, H, W) -> (C, H - 10, W - 10), down, then across."""
    distance = np.arange(_WINDOW) - _WINDOW // 2
    weights = np.exp(-(distance**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    height, width = image.shape[1] - _WINDOW + 1, image.shape[2] - _WINDOW + 1
    down = sum(weight * image[:, i : i + height] for i, weight in enumerate(weights))
    return sum(weight * down[:, :, i : i + width] for i, weight in enumerate(weights))


@quiet
def _squared_errors(prediction: np.ndarray, target: np.ndarray, peak: float) -> np.ndarray:
    """The mean squared error of each image on values divided by peak: (N,), float64."""
    predictions, targets = _check(prediction, target, peak)
    errors = np.empty(len(predictions))
    for i, (p, t) in enumerate(zip(predictions, targets, strict=True)):  # one at a time, to bound the memory
        errors[i] = np.mean(np.square(np.subtract(p, t, dtype=np.float64)))
    return errors / peak**2


def _check(prediction: np.ndarray, target: np.ndarray, peak: float) -> tuple[np.ndarray, np.ndarray]:
    """Both as (N, C, H, W), of one shape and finite."""
    prediction, target = np.asarray(unmasked(prediction, "prediction")), np.asarray(unmasked(target, "target"))
    if prediction.shape != target.shape:
        raise ValueError(f"shapes of prediction {prediction.shape} and target {target.shape} must be equal")
    if prediction.ndim not in (3, 4) or prediction.size == 0:
        shape = prediction.shape
        raise ValueError(f"images (shape {shape}) must be (N, C, H, W) or (C, H, W), and not empty")
    number(peak, "peak", above=0)
    for name, images in (("prediction", prediction), ("target", target)):
        if images.dtype.kind not in "uif":
            raise TypeError(f"{name} (dtype {images.dtype}) must be of real numbers")
        if images.dtype.kind == "f" and not np.isfinite(images).all():
            raise ValueError(f"{name} has values that are not finite (NaN or infinity)")
    if prediction.ndim == 3:
        return prediction[np.newaxis], target[np.newaxis]
    return prediction, target
