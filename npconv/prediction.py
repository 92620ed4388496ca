"""Prediction: images of any size through a network, whole or in tiles, with no more memory than is allowed.

    read a region  ->  scale to the network's input  ->  network  ->  cut the margins off  ->  write a region

Tiled and whole agree but for the rounding of float32: up to 1e-5 of the range of values for the networks of
`npconv.networks` (tiles.py says why it is not nothing). `predict_regions` takes functions that read and write;
`predict_into` arrays that are on disk; `Model.predict` arrays in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import tiles
from .backends import backend, to_numpy
from .backends.base import Array
from .backends.cpu.memory import KEPT_BYTES, keeping
from .data.values import check_finite
from .module import Module, no_grad
from .noise_map import check_channels, with_noise_level
from .plans import make_plan
from .tiles import Pair, Span
from .tracing import network_dtype

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Region:
    """Where a part of the output belongs: images, rows and columns of an output of `size` (height, width).

    `size` is None for an output that is no image: then the rest of it is whole, and only the images are a part.
    """

    images: slice
    rows: slice
    columns: slice
    size: Pair | None


# ---- through the network ----
def network_input(network: Module, images: Any) -> Array:
    """Images of 0..255 as the network sees them: its dtype, [0, 1], in the backend's memory order."""
    return backend().scaled(backend().images(backend().asarray(images), network_dtype(network)), 1 / 255)


def predict_regions(
    network: Module,
    shape: Sequence[int],
    read: Callable[[slice, slice, slice], Any],
    write: Callable[[Region, Array], object],
    *,
    tile: Any = None,
    max_memory: Any = None,
    progress: Progress | None = None,
    prepare: Callable[[Any], Array] | None = None,
) -> None:
    """The network's output for images that are read, and written, a region at a time.

    Args:
        shape: (N, C, H, W) of the images.
        read: images, rows and columns (slices) -> their values of 0..255, (n, C, h, w).
        write: gets each `Region` of the output with its values, 0..255, an array of the backend; each pixel once.
        tile, max_memory, progress: as for `Model.predict`.
        prepare: what makes the network's input of such values; `network_input` if None.

    `read`, `write` and `progress` are called from the calling thread. Raises as `make_plan`, and what they raise.
    """
    plan = make_plan(network, shape, tile, max_memory)
    prepare = prepare or partial(network_input, network)
    count, size = shape[0], (shape[2], shape[3])
    starts = range(0, count, plan.images) if count else [0]
    jobs = [
        (slice(i, min(i + plan.images, count)), rows, columns)
        for i in starts
        for rows in plan.rows
        for columns in plan.columns
    ]
    if plan.keeps < KEPT_BYTES:  # nor may what was computed before count against the limit
        backend().release_memory()
    replicas = [network.replica().eval() for _ in range(min(plan.workers, len(jobs)))]
    for first in range(0, len(jobs), len(replicas)):
        group = jobs[first : first + len(replicas)]
        inputs = [
            tiles.mirrored(partial(read, images), size, rows.seen, columns.seen) for images, rows, columns in group
        ]
        tasks = [partial(_outputs, *pair, prepare) for pair in zip(replicas, inputs, strict=False)]
        del inputs
        with no_grad(), backend().constant_weights(), keeping(plan.keeps):
            outputs = backend().run(tasks)
        del tasks
        for number, job in enumerate(group):
            values, outputs[number] = outputs[number], None
            write(*_placed(network, job, values, size, plan.is_tiled))
            del values
            if progress is not None:
                progress(first + number + 1, len(jobs))


def _outputs(replica: Module, images: Any, prepare: Callable[[Any], Array]) -> Array:
    """One task: 0..255 in, 0..255 out."""
    xp = backend().xp
    y = replica.forward(prepare(images))
    y = xp.multiply(y, 255, dtype=y.dtype)
    return xp.clip(y, 0, 255, out=y)


def _placed(
    network: Module, job: tuple[slice, Span, Span], values: Array, size: Pair, tiled: bool
) -> tuple[Region, Array]:
    """The region of the whole output that a tile's output is for, and its values without the margins."""
    images, *spans = job
    if values.ndim != 4:
        return Region(images, slice(None), slice(None), None), values
    multiples, scales = network.size_multiple, network.scale
    padded = tuple(tiles.padded_length(length, multiple) for length, multiple in zip(size, multiples, strict=True))
    seen = tuple(span.seen.stop - span.seen.start for span in spans)
    whole: Sequence[int] = values.shape[2:]
    if tiled:
        whole = tiles.total_size(
            (values.shape[2], values.shape[3]), (seen[0], seen[1]), (padded[0], padded[1]), network
        )
    if all(total == length * scale for total, length, scale in zip(whole, padded, scales, strict=True)):
        # Of what was added at the right and the bottom, nothing is wanted back.
        whole = [math.ceil(length * scale) for length, scale in zip(size, scales, strict=True)]
    places, cuts = [], []
    for span, total, scale in zip(spans, whole, scales, strict=True):
        origin = int(span.seen.start * scale)
        stop = total if span.made.stop is None else min(span.made.stop, total)
        places.append(slice(min(span.made.start, stop), stop))
        cuts.append(slice(places[-1].start - origin, stop - origin))
    return Region(images, places[0], places[1], (whole[0], whole[1])), values[:, :, cuts[0], cuts[1]]


def predict_into(
    network: Module,
    source: Any,
    target: Any,
    *,
    noise_level: Any = None,
    tile: Any = None,
    max_memory: Any = None,
    progress: Progress | None = None,
) -> None:
    """As `Model.predict`, from one array on disk into another: neither is ever in memory as a whole.

    Args:
        source: images of 0..255, (N, C, H, W); anything with `shape` and slices: an HDF5 data set, a `numpy.memmap`.
        target: of the output's shape, written by slices; where its dtype is of integers, values are rounded to it.
        noise_level, tile, max_memory, progress: as for `Model.predict`.

    Raises TypeError for a source of integers other than uint8; ValueError for one that is not 4-dimensional or has
    values that are not finite, a target of another shape than the output, and as `Model.predict`.
    """
    if len(source.shape) != 4 or 0 in source.shape[1:]:
        raise ValueError(f"source of shape {tuple(source.shape)} must be (N, C, H, W), with C, H and W at least 1")
    if np.dtype(source.dtype) != np.uint8 and np.dtype(source.dtype).kind != "f":
        raise TypeError(
            f"source (dtype {source.dtype}) must be uint8 or a float, with values of 0..255; npconv.denoise_file takes "
            "other integers, such as 16 bits"
        )
    check_channels(network, source.shape, noise_level is not None)
    shape, read = with_noise_level(network, source, noise_level)

    def read_checked(images: slice, rows: slice, columns: slice) -> Array:
        block = read(images, rows, columns)
        check_finite(to_numpy(block), "source")
        return block

    def write(region: Region, values: Array) -> None:
        if region.size is None:
            raise ValueError(f"the network's output has {values.ndim} axes: only images can be written by regions")
        expected = (shape[0], values.shape[1], *region.size)
        if tuple(target.shape) != expected:
            raise ValueError(f"target of shape {tuple(target.shape)} must have the output's shape {expected}")
        part = as_dtype(to_numpy(values), np.dtype(target.dtype))
        target[region.images, :, region.rows, region.columns] = part

    predict_regions(network, shape, read_checked, write, tile=tile, max_memory=max_memory, progress=progress)


def as_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values as a dtype; for one of integers, rounded and within its limits."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


class Collected:
    """The regions of an output put together in one array, of the backend or of the host."""

    def __init__(self, count: int, dtype: str, on_host: bool) -> None:
        self._count, self._dtype, self._on_host = count, dtype, on_host
        self.array: Any = None

    def write(self, region: Region, values: Array) -> None:
        """Put in one region; an output in one piece is not copied."""
        values = to_numpy(values) if self._on_host else values
        shape = (self._count, *values.shape[1:2], *region.size) if region.size else (self._count, *values.shape[1:])
        if values.shape == shape:
            self.array = values.astype(self._dtype, copy=False)
            return
        if self.array is None:
            xp = np if self._on_host else backend().xp
            self.array = xp.empty(shape, self._dtype)
        if region.size is None:
            self.array[region.images] = values
        else:
            self.array[region.images, :, region.rows, region.columns] = values


__all__ = ["Collected", "Region", "as_dtype", "network_input", "predict_into", "predict_regions"]
