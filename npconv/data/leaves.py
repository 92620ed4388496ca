"""Random leaves, and which one each pixel shows: the geometry of dead_leaves.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SHAPES = 20  # sizes that the leaves of an image have, with one shape for each
_MEAN_COVER = 4.0  # leaves over a pixel on average: exp(-4), 2 %, of the pixels show the ground
_RECTANGLES = 0.35  # of all shapes; the others are ellipses
_MOST_STRETCH = 0.4  # of the logarithm of a shape's length over its radius
_REACH = 1.5  # a shape's furthest point over its radius: exp(0.4) for ellipses, a little less for rectangles
_FEW_PIXELS = 4000  # up to here a shape's leaves are laid all at once, above it one at a time


@dataclass(frozen=True)
class Leaves:
    """Leaves in the order of their depth, the furthest first; leaf 0 is the ground."""

    rows: np.ndarray  # (leaves,) middles, in pixels
    columns: np.ndarray
    radii: np.ndarray
    shape_of: np.ndarray  # (leaves,) number of each leaf's shape; -1 for the ground
    shapes: list[np.ndarray]  # square masks of odd side


def scatter_leaves(height: int, width: int, r_min: float, r_max: float, rng: np.random.Generator) -> Leaves:
    """Leaves with radii of density r^-3 between r_min and r_max, over and around an image, enough for it."""
    margin = _REACH * r_max
    area = (height + 2 * margin) * (width + 2 * margin)
    mean_square_radius = 2 * np.log(r_max / r_min) / (r_min**-2 - r_max**-2)
    count = int(_MEAN_COVER * area / (np.pi * mean_square_radius)) + 1
    edges = np.geomspace(r_min, r_max, _SHAPES + 1)
    radii = np.sqrt(edges[:-1] * edges[1:])
    # The distribution function of the density, (r_min^-2 - r^-2) / (r_min^-2 - r_max^-2), at the inner edges.
    below = (r_min**-2 - edges[1:-1] ** -2) / (r_min**-2 - r_max**-2)
    shape_of = np.searchsorted(below, rng.random(count))
    rows = rng.uniform(-margin, height + margin, count)
    columns = rng.uniform(-margin, width + margin, count)
    reach = _REACH * radii[shape_of] + 1
    near = np.abs(rows - height / 2) < height / 2 + reach
    near &= np.abs(columns - width / 2) < width / 2 + reach
    return Leaves(
        rows=np.append(height / 2, rows[near]),
        columns=np.append(width / 2, columns[near]),
        radii=np.append(max(height, width) / 2, radii[shape_of[near]]),
        shape_of=np.append(-1, shape_of[near]),
        shapes=[_shape(radius, rng) for radius in radii],
    )


def _shape(radius: float, rng: np.random.Generator) -> np.ndarray:
    """A turned ellipse or rectangle of the area of a circle of this radius, as a mask."""
    reach = int(_REACH * radius) + 1
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1] / radius
    angle = rng.uniform(0, np.pi)
    stretch = np.exp(rng.uniform(-_MOST_STRETCH, _MOST_STRETCH))
    length = (across * np.cos(angle) + down * np.sin(angle)) / stretch
    breadth = (down * np.cos(angle) - across * np.sin(angle)) * stretch
    if rng.random() < _RECTANGLES:
        return np.maximum(np.abs(length), np.abs(breadth)) <= np.sqrt(np.pi) / 2
    return length**2 + breadth**2 <= 1


def visible_leaves(leaves: Leaves, height: int, width: int) -> np.ndarray:
    """The number of the nearest leaf at each pixel: (height, width), intp."""
    shown = np.zeros((height, width), np.intp)
    for number, shape in enumerate(leaves.shapes):
        members = np.flatnonzero(leaves.shape_of == number)
        if np.count_nonzero(shape) > _FEW_PIXELS:
            _lay_one_by_one(shown, leaves, members, shape)
        elif len(members):
            _lay_at_once(shown, leaves, members, shape)
    return shown


def _lay_one_by_one(shown: np.ndarray, leaves: Leaves, members: np.ndarray, shape: np.ndarray) -> None:
    """For shapes that are large, and so few: the part of each that lies inside the image."""
    height, width = shown.shape
    side = len(shape)
    for leaf in members:
        top = round(leaves.rows[leaf]) - side // 2
        left = round(leaves.columns[leaf]) - side // 2
        rows = slice(max(top, 0), min(top + side, height))
        columns = slice(max(left, 0), min(left + side, width))
        if rows.start < rows.stop and columns.start < columns.stop:
            part = shape[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            np.maximum(shown[rows, columns], part * leaf, out=shown[rows, columns])


def _lay_at_once(shown: np.ndarray, leaves: Leaves, members: np.ndarray, shape: np.ndarray) -> None:
    """For shapes that are small, and so many: all pixels in one assignment, on a canvas with a margin."""
    height, width = shown.shape
    margin = len(shape)  # whole shapes: middles lie at most half a shape outside the image
    canvas = np.zeros((height + 2 * margin, width + 2 * margin), np.intp)
    rows, columns = np.nonzero(shape)
    pixels = (rows - margin // 2) * canvas.shape[1] + columns - margin // 2  # of a shape, from its middle
    down = np.rint(leaves.rows[members]).astype(np.intp) + margin
    across = np.rint(leaves.columns[members]).astype(np.intp) + margin
    places = (down * canvas.shape[1] + across)[:, np.newaxis] + pixels
    # Where leaves overlap, the last assignment stays, that of the nearest: members ascend.
    canvas.reshape(-1)[places.reshape(-1)] = np.repeat(members, len(pixels))
    np.maximum(shown, canvas[margin:-margin, margin:-margin], out=shown)
