"""The protocol by which denoisers' PSNRs are published: that of the KAIR repository's test scripts.

    clean = read_image("01.png")                              (C, H, W), 8 bits
    output = rounded(model.predict(noisy(clean, 25)))
    metrics.psnr(output, clean)                               of each image; then the mean of the images

K. Zhang, "Image restoration toolbox", https://github.com/cszn/KAIR (main_test_dncnn.py, main_test_ffdnet.py). Of every
image the noise begins with the same seed and is not clipped, the output is rounded to 8 bits, and nothing is cut off
at the border.
"""

from __future__ import annotations

import numpy as np

from . import checks

__all__ = ["noisy", "rounded"]

SEED = 0


def noisy(image: np.ndarray, sigma: float, seed: int = SEED) -> np.ndarray:
    """An 8-bit image with the protocol's noise: (C, H, W), float32 in 8-bit steps, not clipped.

    image: (C, H, W), uint8; sigma: in 8-bit steps. The noise has the values that `numpy.random.seed(seed)` and
    `numpy.random.normal(0, sigma / 255, (H, W, C))` give, added to image / 255 in float32. Raises ValueError or
    TypeError for another image, a sigma below 0, or a seed that is not a whole number from 0 to 2**32 - 1.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise TypeError(f"the image ({getattr(image, 'dtype', type(image).__name__)}) must be an array of uint8")
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"the image (shape {image.shape}) must be (C, H, W), and not empty")
    sigma = checks.number(sigma, "sigma", 0)
    seed = checks.integer(seed, "seed", 0)
    if seed >= 2**32:
        raise ValueError(f"seed (={seed}) must be below 2**32: NumPy's legacy generator takes no other")
    values = (image.transpose(1, 2, 0) / 255.0).astype(np.float32)  # (C, H, W) -> (H, W, C): the order of the draws
    # The published figures are of this generator, which is why it is not a numpy.random.Generator.
    values += np.random.RandomState(seed).normal(0, sigma / 255.0, values.shape)
    return np.ascontiguousarray(values.transpose(2, 0, 1)) * np.float32(255)


def rounded(output: np.ndarray) -> np.ndarray:
    """A network's output of 0..255 as 8-bit values: clamped, and rounded to the nearest (halves to the even one).

    Raises ValueError for NaN, which no 8-bit value stands for.
    """
    if np.isnan(output).any():
        raise ValueError("the network's output has values that are not numbers (NaN)")
    return np.rint(np.clip(output, 0, 255)).astype(np.uint8)
