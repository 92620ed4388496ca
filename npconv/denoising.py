"""Images as people have them through a network that knows RGB or gray of 0..255: any dtype, alpha, stacks, files.

    image, uint8, uint16, float ...  ->  (N, network's channels, H, W), 0..255  ->  network  ->  back again

Alpha passes by untouched. Gray goes through an RGB network three times over and is averaged, RGB through a gray network
a channel at a time. Large images go through in tiles, and those of files are never in memory as a whole, where the
format allows that.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import checks
from .backends import backend, to_numpy
from .data.layouts import Layout, usual_layout
from .data.stack_writers import Target, new_stack
from .data.stacks import Stack, open_stack
from .data.values import colour_count
from .model import Model
from .noise_map import check_noise_level, what_it_takes, with_noise_level
from .prediction import Progress, Region, as_dtype, predict_regions

_SCANNED = 1 << 24  # values that are looked at in one piece
_SAY_WHITE = "say what is white, such as white=4095 (--range 4095 on the command line)"


@dataclass(frozen=True)
class Denoised:
    """What `denoise_file` has denoised: (N, C, H, W), its dtype, and the value that counted as white."""

    shape: tuple[int, int, int, int]
    dtype: np.dtype
    white: float


def denoise(
    model: Model,
    image: Any,
    *,
    white: float | None = None,
    noise_level: Any = None,
    axes: str | None = None,
    tile: Any = None,
    max_memory: int | str | None = None,
    progress: Progress | None = None,
) -> Any:
    """An image, or a stack of them, denoised: an array of the same shape and dtype (uint8 for bool).

    Args:
        model: whose network gives images of the size, and the channels, that it takes.
        image: (H, W); (C, H, W) where the first axis is at most 4, else (H, W, C) where the last is, else a stack
            (N, H, W); (N, C, H, W) where the second axis is at most 4, else (N, H, W, C). Of 2 or 4 channels the last
            is alpha, which stays as it is.
        white: the value that stands for white. None: 255 for uint8, 65535 for uint16; for floats 1 if no value is
            above 1, and 255 if they look like that.
        noise_level: for a network that takes a noise-level map, in steps of white / 255: a number, or one for each
            pixel, (H, W) or (N, 1, H, W).
        axes: the order of the axes where it is another one, such as "NHW" for a stack of three gray images.
        tile, max_memory, progress: as for `Model.predict`.

    Values beyond 0..white are clipped; integers are rounded. Raises TypeError for anything but a Model and an array of
    numbers; ValueError for a shape that is no image's, values that are not finite or do not show what is white,
    channels that do not fit the network, a model that is no denoiser, and as `Model.predict`.
    """
    _check_model(model)
    array = to_numpy(checks.unmasked(image, "image"))
    if array.dtype.kind not in "buif":
        raise TypeError(f"image (dtype {array.dtype}) must be numbers")
    layout = usual_layout(array.shape) if axes is None else Layout.parse(axes)
    layout.check(array.shape)
    dtype = np.dtype(np.uint8) if array.dtype == bool else array.dtype
    stack = Stack(Path("image"), array, layout, dtype, layout.full(array.shape))
    job = _Job(model, stack, _white_of(stack, white), noise_level, {"tile": tile, "max_memory": max_memory})
    job.check()
    result = np.empty(array.shape, dtype)
    job.run(Target(result, layout), progress)
    return backend().asarray(result) if backend().owns(image) else result


def denoise_file(
    model: Model,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    white: float | None = None,
    noise_level: Any = None,
    axes: str | None = None,
    dataset: str | None = None,
    tile: Any = None,
    max_memory: int | str | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> Denoised:
    """As `denoise`, from one file to another: PNG, JPEG, TIFF, NPY and HDF5, a region at a time where that is possible.

    Args:
        source: an image, or a stack of them.
        target: its ending chooses the format. The file is whole at the end, or not there; it has the dtype, channels
            and pages of the source, and what else the format keeps (ICC profile, resolution, layout, attributes).
        axes: of an NPY, HDF5 or TIFF file. dataset: of an HDF5 file (its only one, or `images`).
        overwrite: whether a target that exists is replaced; the source never is.
        white, noise_level, tile, max_memory, progress: as for `denoise`.

    Raises FileNotFoundError and FileExistsError; ValueError for a file that is damaged or no such image, a target that
    is the source or whose format cannot hold it, and as `denoise`.
    """
    _check_model(model)
    source, target = Path(source), Path(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"target (={str(target)!r}) must be another file than the source, which is never overwritten")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{str(target)!r} exists already: choose another name, or overwrite=True")
    with open_stack(source, axes, dataset) as stack:
        limits = {"tile": tile, "max_memory": max_memory}
        job = _Job(model, stack, math.nan, noise_level, limits)
        job.check()  # before the values are looked at, which may take a while
        job = _Job(model, stack, _white_of(stack, white), noise_level, limits)
        with new_stack(target, stack) as written:
            job.run(written, progress)
            backend().release_memory()  # writing a picture takes memory too
        return Denoised(stack.shape, stack.dtype, job.white)


def check_denoiser(model: Model, name: str = "the model") -> None:
    """ValueError for a model that changes the size of images."""
    if any(factor != 1 for factor in model.network.scale):
        factors = " x ".join(str(factor) for factor in model.network.scale)
        raise ValueError(f"{name} changes the size of images by {factors}: it is not a denoiser")


def _check_model(model: Any) -> None:
    if not isinstance(model, Model):
        raise TypeError(
            f"model ({type(model).__name__}) must be a Model: Model(network) makes one, Model.load reads one"
        )
    check_denoiser(model)


# ---- what is white ----
def white_level(image: np.ndarray, white: float | None = None) -> float:
    """The value that stands for white, the largest brightness: `white` if given, else as the dtype has it.

    uint8: 255; uint16: 65535; floats: 1 if no value is above 1, 255 if the values look like 0..255. Raises ValueError
    if the image does not show which it is.
    """
    if white is not None:
        return checks.number(white, "white", above=0)
    return _white_for(image.dtype, lambda: float(image.max()))


def _white_of(stack: Stack, white: float | None) -> float:
    """As `white_level`, the same for all pages of a stack."""
    if white is not None:
        return checks.number(white, "white", above=0)
    return _white_for(stack.dtype, lambda: _largest(stack))


def _white_for(dtype: np.dtype, largest_value: Callable[[], float]) -> float:
    """`largest_value()` is asked for floats only, and is NaN if any value is."""
    if dtype.name in ("uint8", "uint16"):
        return float(np.iinfo(dtype).max)
    if dtype.kind != "f":
        raise ValueError(f"{dtype} has no agreed value for white: {_SAY_WHITE}")
    largest = largest_value()
    if not math.isfinite(largest):
        raise ValueError("the image has values that are not finite (NaN or infinity)")
    if largest <= 1:
        return 1.0
    if 4 < largest <= 510:  # 0..255 with noise; a picture whose white is 255 and that stays below 4 is black
        return 255.0
    raise ValueError(f"the image's largest value ({largest:.6g}) fits neither 0..1 nor 0..255: {_SAY_WHITE}")


def _largest(stack: Stack) -> float:
    """Of the colours of all pages; NaN if there is one."""
    count, channels, height, width = stack.shape
    rows = max(1, _SCANNED // (channels * width))
    largest = -math.inf
    for page in range(count):
        for top in range(0, height, rows):
            part = stack.read(slice(page, page + 1), slice(top, min(top + rows, height)), slice(0, width))
            largest = float(np.maximum(largest, part[:, : colour_count(channels)].max()))  # passes NaN on
    return largest


# ---- through the network ----
@dataclass(frozen=True)
class _Scaled:
    """Some channels of a stack, as (N, C, H, W) floats of 0..255, region by region."""

    stack: Stack
    channels: slice
    white: float
    repeat: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        count, channels, height, width = self.stack.shape
        return count, len(range(*self.channels.indices(channels))) * self.repeat, height, width

    def __getitem__(self, index: tuple[slice, slice, slice, slice]) -> np.ndarray:
        pages, _, rows, columns = index
        block = self.stack.read(pages, rows, columns)[:, self.channels]
        if not (np.isfinite(block.min()) and np.isfinite(block.max())):
            raise ValueError("the image has values that are not finite (NaN or infinity)")
        x = block.astype("float64" if self.stack.dtype.name == "float64" else "float32") * (255 / self.white)
        return np.repeat(x, self.repeat, axis=1) if self.repeat > 1 else x


@dataclass(frozen=True)
class _Job:
    """A stack to denoise, and how."""

    model: Model
    stack: Stack
    white: float
    noise_level: Any
    limits: dict[str, Any]  # of tiles

    @property
    def _colours(self) -> int:
        return colour_count(self.stack.shape[1])

    def check(self) -> None:
        """ValueError if the images' channels, or a noise level, do not fit the model."""
        channels, colours = what_it_takes(self.model.network).image_channels, self._colours
        if channels not in (None, colours, 1) and colours != 1:
            raise ValueError(f"the image's {colours} channels do not fit a network for {channels} channels")
        try:
            check_noise_level(self.model.network, channels or colours, self.noise_level is not None)
        except ValueError as error:
            raise ValueError(f"{error} (noise_level is --sigma on the command line)") from error

    def run(self, target: Target, progress: Progress | None) -> None:
        """Denoise all pages into a target of the same shape and dtype, region by region."""
        channels, colours = what_it_takes(self.model.network).image_channels, self._colours
        turns = colours if channels == 1 else 1  # a gray network sees one colour after the other
        repeat = channels if channels is not None and channels > colours == 1 else 1
        for turn in range(turns):
            part = slice(turn, turn + 1) if turns > 1 else slice(0, colours)
            source = _Scaled(self.stack, part, self.white, repeat)
            write = partial(self._write, target, part, source.shape, turn == 0)
            shape, read = with_noise_level(self.model.network, source, self.noise_level)
            report = None if progress is None else partial(_report, progress, turn, turns)
            prepare = self.model.as_network_input
            predict_regions(self.model.network, shape, read, write, progress=report, prepare=prepare, **self.limits)

    def _write(
        self, target: Target, part: slice, shape: tuple[int, ...], with_alpha: bool, region: Region, values: Any
    ) -> None:
        """Put a region of the output into its channels, and the alpha that belongs to it."""
        stack, y = self.stack, to_numpy(values)
        if region.size != shape[2:] or y.shape[1] != shape[1]:
            made = (y.shape[1], *(region.size or y.shape[2:]))
            raise ValueError(f"the model makes {made} of an image of shape {shape[1:]}: it is not a denoiser")
        y = y.astype("float64" if stack.dtype.name == "float64" else "float32", copy=False)
        y = y.mean(axis=1, keepdims=True) if part.stop - part.start < y.shape[1] else y
        place = region.images, region.rows, region.columns
        target.write(*place, as_dtype(y.astype("float64") * (self.white / 255), stack.dtype), part)
        if with_alpha and stack.shape[1] > self._colours:
            target.write(*place, stack.read(*place)[:, self._colours :], slice(self._colours, None))


def _report(progress: Progress, turn: int, turns: int, done: int, total: int) -> None:
    progress(turn * total + done, turns * total)


__all__ = ["Denoised", "check_denoiser", "denoise", "denoise_file", "white_level"]
