"""Blind spots: what a network is trained on where there are noisy images alone, with no second and no clean ones.

    noisy (C, H, W)  ->  input (C, H, W): some values replaced by neighbours
                         target (2C, H, W): the noisy values, then weights, 255 where one was replaced, else 0

A network that must say what the replaced values were can only go by their surroundings. Where the noise of a pixel
tells nothing about that of others, the best it can learn is the clean image (Krull, Buchholz, Jug, "Noise2Void:
Learning Denoising from Single Noisy Images", 2019; Batson and Royer, "Noise2Self: Blind Denoising by
Self-Supervision", 2019). `losses.MaskedMSE` counts the weighted values only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .. import checks

__all__ = ["BlindSpot"]

# In one short training each, on Gaussian noise, 1/64, 1/32 and 1/16 came within 0.3 dB of each other, this one first.
MASKED_SHARE = 1 / 32
RADIUS = 2  # of the window that a replacement comes from: 5 x 5, as in Noise2Void
WEIGHT = 255  # becomes 1 as images of 0..255 are brought to 0..1


class BlindSpot:
    """Hides a share of an image's values, the same number in every image of a size.

    The image is divided into a grid of nearly equal cells, and one random pixel of each cell is hidden. It gets the
    value of a random pixel of the 5 x 5 window around it, neither of itself nor of another hidden one: the input does
    not depend on any hidden value (J-invariance, as Batson and Royer call it).

    share: of the values, above 0 and at most 0.25. independent_channels: draw places for each channel by itself, which
    is right where the channels' noise is independent: the other channels at the same place then help. Else the
    channels of a pixel are hidden together.
    """

    def __init__(self, share: float = MASKED_SHARE, independent_channels: bool = False) -> None:
        if checks.number(share, "masked_share", above=0) > 0.25:
            raise ValueError(f"masked_share (={share!r}) must be at most 0.25: one value in four")
        self.share = float(share)
        self.independent_channels = checks.flag(independent_channels, "independent_channels")

    def mask_into(self, noisy: np.ndarray, inputs: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> None:
        """Writes the input and the target that a noisy image (C, H, W) gives into (C, H, W) and (2C, H, W) arrays.

        H and W must be at least 3.
        """
        channels, height, width = noisy.shape
        masks = channels if self.independent_channels else 1
        hidden, rows, columns = self._places(masks, height, width, rng)
        from_rows, from_columns = _neighbours(hidden, rows, columns, rng)
        inputs[...] = targets[:channels] = noisy
        targets[channels:] = 0
        for channel in range(channels):
            mask = channel if self.independent_channels else 0
            to, source = (rows[mask], columns[mask]), (from_rows[mask], from_columns[mask])
            inputs[channel][to] = noisy[channel][source]
            targets[channels + channel][to] = WEIGHT

    def _places(
        self, masks: int, height: int, width: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which pixels are hidden: (masks, H, W) flags, and their rows and columns, (masks, cells) each."""
        tops, lefts, heights, widths = _cells(height, width, self.share)
        drawn = rng.random((2, masks, len(tops)), dtype=np.float32)
        # Below 1 as float32 is, times a side it may round up to the side itself.
        rows = tops + np.minimum((drawn[0] * heights).astype(np.intp), heights - 1)
        columns = lefts + np.minimum((drawn[1] * widths).astype(np.intp), widths - 1)
        hidden = np.zeros((masks, height, width), bool)
        hidden[np.arange(masks)[:, np.newaxis], rows, columns] = True
        return hidden, rows, columns


@lru_cache(maxsize=16)
def _cells(height: int, width: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Tops, lefts, heights and widths of the cells of the grid; each side of a cell is at least 2."""
    edges = []
    for length in (height, width):
        count = min(max(1, round(length * share**0.5)), length // 2)
        edges.append(np.arange(count + 1) * length // count)
    tops, lefts = np.meshgrid(edges[0][:-1], edges[1][:-1], indexing="ij")
    heights, widths = np.meshgrid(np.diff(edges[0]), np.diff(edges[1]), indexing="ij")
    return tops.ravel(), lefts.ravel(), heights.ravel(), widths.ravel()


def _neighbours(
    hidden: np.ndarray, rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """For each hidden pixel the row and column of a random one near it that is not hidden."""
    found_rows, found_columns = np.empty_like(rows), np.empty_like(columns)
    masks = np.broadcast_to(np.arange(len(rows))[:, np.newaxis], rows.shape)
    left = np.ones(rows.shape, bool)
    # Those that came upon a hidden pixel draw again. One in each cell is hidden, so that some neighbour never is.
    while left.any():
        row, column, mask = rows[left], columns[left], masks[left]
        row, column = _stepped(row, column, hidden.shape[1:], rng)
        found_rows[left], found_columns[left] = row, column
        left[left] = hidden[mask, row, column]
    return found_rows, found_columns


def _stepped(
    rows: np.ndarray, columns: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random step from each pixel to another one of its window; steps over the border turn back."""
    height, width = shape
    radius = min(RADIUS, (min(height, width) - 1) // 2)
    side = 2 * radius + 1
    steps = rng.integers(0, side * side - 1, rows.shape)
    steps += steps >= side * side // 2  # all but the middle
    down, across = np.divmod(steps, side)
    return _turned(rows, down - radius, height), _turned(columns, across - radius, width)


def _turned(places: np.ndarray, steps: np.ndarray, length: int) -> np.ndarray:
    moved = places + steps
    outside = (moved < 0) | (moved >= length)
    moved[outside] = (places - steps)[outside]
    return moved
