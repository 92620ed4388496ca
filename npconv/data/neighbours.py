"""Pairs of neighbours: what a network is trained on where there are noisy images alone, blind spots aside.

    noisy (C, 2H, 2W), cells of 2x2 pixels  ->  input (C, H, W): a random pixel of each cell
                                                target (C, H, W): another one of the cell, beside or above or below it

Where the noise of a pixel tells nothing about that of the next, input and target have noise of their own, and show
nearly the same: pairs for Noise2Noise, from one image (Huang, Li, Jia, Lu and Liu, "Neighbor2Neighbor: Self-Supervised
Denoising from Single Noisy Images", CVPR 2021; without its regularisation, which asks for the network's own result at
each step: in as much time it gained nothing here). The network learns on images of half the size, and denoises those of
the whole size, which look much the same. Unlike with a blind spot it sees every pixel's own value; what it cannot learn
is detail so fine that neighbours differ by more than their noise.

On photographs, in colour if nothing else is said, the small U-Net reached (dB; blind spots, neighbours, Noise2Noise, by
steps): pixel sampling 23.4, 25.4, 25.4 (2,500); gaussian:25 28.4, 29.2, 29.9 (8,000), in gray 26.3, 28.1, 28.2 (2,500);
gaussian:8 33.1, 32.6, 34.4 (5,000), in gray 29.4, 31.9, 32.7 (1,500). Blind spots alone do as badly with new noise for
every patch (pixel sampling 23.5): what they lack is the pixel's own value, which only another channel with noise of its
own can replace, where noise is weak.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["pair_of_neighbours"]


def pair_of_neighbours(noisy: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two images (C, H, W) of an image (C, 2H, 2W): in each cell of 2x2 pixels two that have a side in common."""
    channels, height, width = noisy.shape
    drawn = rng.integers(0, 8, (height // 2, width // 2), dtype=np.uint8)
    first, turn = drawn & 3, 1 + (drawn >> 2)  # in bits: 1 for the right one, 2 for the lower one; turned over is one
    corners, places = _positions(height, width)
    flat = np.ascontiguousarray(noisy).reshape(channels, -1)
    one, other = (flat.take(corners + places.take(pixel), axis=1) for pixel in (first, first ^ turn))
    return one, other


@lru_cache(maxsize=16)
def _positions(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """In a flattened image: of each cell's first pixel, and from there to its four."""
    corners = np.arange(0, height - 1, 2)[:, np.newaxis] * width + np.arange(0, width - 1, 2)
    return corners, np.array([0, 1, width, width + 1])
