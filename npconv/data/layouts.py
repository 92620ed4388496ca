"""Which axis of a stored array is which: N pages, C channels, H rows, W columns, as one word such as "NHWC".

Layout("NHWC").read(array, pages, rows, columns)  ->  (n, C, h, w)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_CHANNELS = 4
_SAME = {"Y": "H", "X": "W", "S": "C", "T": "N", "Z": "N", "D": "N"}


@dataclass(frozen=True)
class Layout:
    """The axes of an array, each of N, C, H and W at most once, H and W always."""

    axes: str

    @classmethod
    def parse(cls, text: str) -> Layout:
        """From what a user writes: N (or T, Z, D), C (or S), H (or Y), W (or X), in any case; ValueError for others."""
        axes = "".join(_SAME.get(letter, letter) for letter in text.upper())
        if len(set(axes)) != len(axes) or not set("HW") <= set(axes) <= set("NCHW"):
            raise ValueError(f"axes (={text!r}) must name H and W, and may name N (pages) and C (channels), each once")
        return cls(axes)

    def check(self, shape: Sequence[int]) -> None:
        """ValueError unless an array of `shape` has these axes, not empty, with at most 4 channels."""
        if len(shape) != len(self.axes) or 0 in shape:
            raise ValueError(f"an array of shape {tuple(shape)} is not of the axes {self.axes}, or is empty")
        if self.full(shape)[1] > MOST_CHANNELS:
            raise ValueError(f"an array of shape {tuple(shape)} and axes {self.axes} has more than 4 channels")

    def full(self, shape: Sequence[int]) -> tuple[int, int, int, int]:
        """(N, C, H, W) of an array of `shape`; 1 for an axis that it has not."""
        lengths = dict(zip(self.axes, (int(length) for length in shape), strict=True))
        return lengths.get("N", 1), lengths.get("C", 1), lengths["H"], lengths["W"]

    def shape(self, full: Sequence[int]) -> tuple[int, ...]:
        """The shape of an array of these axes for (N, C, H, W)."""
        return tuple(full["NCHW".index(axis)] for axis in self.axes)

    def read(self, array: Any, pages: slice, rows: slice, columns: slice) -> np.ndarray:
        """A region of an array-like as (n, C, h, w)."""
        block = np.asarray(array[self._index(pages, rows, columns)])
        there = [axis for axis in "NCHW" if axis in self.axes]
        block = block.transpose([self.axes.index(axis) for axis in there])
        missing = tuple(i for i, axis in enumerate("NCHW") if axis not in self.axes)
        return np.expand_dims(block, missing)

    def write(
        self, array: Any, pages: slice, rows: slice, columns: slice, values: np.ndarray, channels: slice = slice(None)
    ) -> None:
        """Put (n, C, h, w) values into a region of an array-like, or into some of its channels."""
        missing = tuple(i for i, axis in enumerate("NCHW") if axis not in self.axes)
        there = [axis for axis in "NCHW" if axis in self.axes]
        block = values.squeeze(missing).transpose([there.index(axis) for axis in self.axes])
        array[self._index(pages, rows, columns, channels)] = block

    def _index(self, pages: slice, rows: slice, columns: slice, channels: slice = slice(None)) -> tuple[slice, ...]:
        parts = {"N": pages, "C": channels, "H": rows, "W": columns}
        return tuple(parts[axis] for axis in self.axes)


def usual_layout(shape: Sequence[int]) -> Layout:
    """The layout that an array of this shape has where nothing says it.

    (H, W); (C, H, W) if the first axis is at most 4, else (H, W, C) if the last is, else (N, H, W); (N, C, H, W) if
    the second axis is at most 4, else (N, H, W, C). Raises ValueError for any other shape.
    """
    if len(shape) == 2:
        return Layout("HW")
    if len(shape) == 3:
        return Layout("CHW" if shape[0] <= MOST_CHANNELS else "HWC" if shape[2] <= MOST_CHANNELS else "NHW")
    if len(shape) == 4 and min(shape[1], shape[3]) <= MOST_CHANNELS:
        return Layout("NCHW" if shape[1] <= MOST_CHANNELS else "NHWC")
    raise ValueError(
        f"an array of shape {tuple(shape)} is neither an image nor a stack of images of at most 4 channels"
    )


def image_layout(shape: Sequence[int]) -> Layout:
    """The layout of an array that is one image: (H, W), (C, H, W) or (H, W, C); ValueError for any other shape."""
    layout = usual_layout(shape) if len(shape) in (2, 3) else None
    if layout is None or "N" in layout.axes:
        raise ValueError(f"its array of shape {tuple(shape)} must be (H, W), (H, W, C) or (C, H, W), C at most 4")
    return layout
