"""Images of any dtype and number of channels through a network that knows RGB or gray of 0..255.

    (C, H, W) uint8, uint16, float ...  ->  (B, network's channels, H, W), 0..255  ->  network  ->  back again

Alpha passes by untouched. Gray goes through an RGB network three times over and is averaged, RGB through a
gray network a channel at a time. Large images go through in tiles.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import to_numpy
from ..data.stack_writers import Target
from ..data.stacks import Stack
from ..model import Model
from ..noise_map import check_noise_level, network_channels, takes_noise_map, with_noise_level
from ..prediction import Region, as_dtype, predict_regions
from ..receptive import is_local

USUAL_MEMORY = "1G"  # what tiles are made for where neither --tile nor --max-memory says
SCANNED = 1 << 24  # values that are looked at in one piece


@dataclass(frozen=True)
class Options:
    """How `npconv denoise` computes: `white`, `sigma` (in 8-bit steps, or None), and the limits of tiles."""

    white: float | None = None
    sigma: float | None = None
    tile: int | None = None
    max_memory: int | None = None

    def limits(self, model: Model) -> dict[str, Any]:
        """Tile and memory for a model; without any, what may see the whole image takes what it needs."""
        memory: Any = self.max_memory
        if self.tile is None and memory is None and is_local(model.network):
            memory = USUAL_MEMORY
        return {"tile": self.tile, "max_memory": memory}


def load_denoiser(path: str) -> Model:
    """The model in a file; FileNotFoundError if there is none, ValueError if it changes images' sizes."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no model file {path!r}: npconv train writes one, --model names it")
    model = Model.load(path)
    if any(factor != 1 for factor in model.network.scale):
        factors = " x ".join(str(factor) for factor in model.network.scale)
        raise ValueError(f"the model of {path!r} changes the size of images by {factors}: it is not a denoiser")
    return model


def white_level(image: np.ndarray, white: float | None = None) -> float:
    """The value that stands for white, the largest brightness: `white` if given, else as the dtype has it.

    uint8: 255; uint16: 65535; floats: 1 if no value is above 1, 255 if the values look like 0..255. Raises
    ValueError if the image does not show which it is.
    """
    if white is not None:
        return white
    return white_for(image.dtype, lambda: float(image.max()))


def white_for(dtype: np.dtype, largest_value: Callable[[], float]) -> float:
    """As `white_level`; `largest_value()` is asked for floats only, and is NaN if any value is."""
    if dtype.name in ("uint8", "uint16"):
        return float(np.iinfo(dtype).max)
    if dtype.kind != "f":
        raise ValueError(f"{dtype} has no agreed value for white: say it with --range, such as --range 4095")
    largest = largest_value()
    if not math.isfinite(largest):
        raise ValueError("it has values that are not finite (NaN or infinity)")
    if largest <= 1:
        return 1.0
    if 4 < largest <= 510:  # 0..255 with noise; a picture whose white is 255 and that stays below 4 is black
        return 255.0
    raise ValueError(f"its largest value ({largest:.6g}) fits neither 0..1 nor 0..255: say with --range what is white")


def split_alpha(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colours and the alpha of a (C, H, W) image: alpha is the last of 2 or of 4 channels."""
    colours = 1 if len(image) <= 2 else 3
    return image[:colours], image[colours:]


def denoised_colours(model: Model, x: np.ndarray, sigma: float | None = None) -> np.ndarray:
    """What the network makes of gray or RGB (1 or 3, H, W), floats of 0..255: the same shape.

    `sigma`: the noise level in 8-bit steps, for a network with a noise-level map.
    """
    channels = image_channels(model) or len(x)
    go = partial(predict, model, sigma=sigma)
    if len(x) == channels:
        return go(x[np.newaxis])[0]
    if len(x) == 1:
        return go(np.repeat(x, channels, axis=0)[np.newaxis])[0].mean(axis=0, keepdims=True)
    if channels == 1:
        return go(x[:, np.newaxis])[:, 0]
    raise ValueError(f"its {len(x)} channels do not fit a network for {channels} channels")


def image_channels(model: Model) -> int | None:
    """The channels of the images that a model takes, without a noise-level map; None if no layer says."""
    channels = network_channels(model.network)
    return channels - 1 if channels is not None and takes_noise_map(model.network) else channels


def predict(model: Model, x: np.ndarray, sigma: float | np.ndarray | None = None) -> np.ndarray:
    """`model.predict` of (N, C, H, W), with the noise level `sigma`; always of the shape of x."""
    with warnings.catch_warnings():
        # A nearly black image is no sign of a wrong scale here: white_level has settled it.
        warnings.filterwarnings("ignore", "the largest value of the images", UserWarning)
        y = model.predict(x, noise_level=sigma)
    if y.shape != x.shape:
        raise ValueError(f"the model makes {y.shape[1:]} of an image of shape {x.shape[1:]}: it is not a denoiser")
    return y


# ---- files ----
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
            raise ValueError("it has values that are not finite (NaN or infinity)")
        x = block.astype("float64" if self.stack.dtype.name == "float64" else "float32") * (255 / self.white)
        return np.repeat(x, self.repeat, axis=1) if self.repeat > 1 else x


def stack_white(stack: Stack, white: float | None) -> float:
    """The value that stands for white in all pages; raises as `white_level`."""
    if white is not None:
        return white
    colours = 1 if stack.shape[1] <= 2 else 3
    return white_for(stack.dtype, lambda: _largest(stack, colours))


def _largest(stack: Stack, colours: int) -> float:
    """Of the colours of all pages; NaN if there is one."""
    count, channels, height, width = stack.shape
    rows = max(1, SCANNED // (channels * width))
    largest = -math.inf
    for page in range(count):
        for top in range(0, height, rows):
            part = stack.read(slice(page, page + 1), slice(top, min(top + rows, height)), slice(0, width))
            largest = float(np.maximum(largest, part[:, :colours].max()))  # passes NaN on
    return largest


def check_fits(model: Model, stack: Stack, options: Options) -> None:
    """ValueError if the images' channels, or a noise level, do not fit the model."""
    channels, colours = image_channels(model), 1 if stack.shape[1] <= 2 else 3
    if channels not in (None, colours, 1) and colours != 1:
        raise ValueError(f"its {colours} channels do not fit a network for {channels} channels")
    try:
        check_noise_level(model.network, channels or colours, options.sigma is not None)
    except ValueError as error:
        hint = "--sigma says it" if options.sigma is None else "leave --sigma away"
        raise ValueError(f"{error}: {hint}") from error


def denoise_stack(
    model: Model,
    stack: Stack,
    target: Target,
    options: Options,
    white: float,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Denoise all pages of a stack into a target of the same shape and dtype, region by region.

    `white`: as `stack_white` gives it; `progress`: as for `Model.predict`, for the whole stack.
    """
    channels, colours = image_channels(model), 1 if stack.shape[1] <= 2 else 3
    apart = colours if channels == 1 else 1  # a gray network sees one colour after the other
    repeat = channels if channels is not None and channels > colours == 1 else 1
    for turn in range(apart):
        part = slice(turn, turn + 1) if apart > 1 else slice(0, colours)
        source = _Scaled(stack, part, white, repeat)
        write = partial(_write, stack, target, white, part, source.shape, alpha=turn == 0)
        shape, read = with_noise_level(model.network, source, options.sigma)
        report = None if progress is None else partial(_report, progress, turn, apart)
        prepare = model.as_network_input
        predict_regions(model.network, shape, read, write, progress=report, prepare=prepare, **options.limits(model))


def _report(progress: Callable[[int, int], object], turn: int, turns: int, done: int, total: int) -> None:
    progress(turn * total + done, turns * total)


def _write(
    stack: Stack,
    target: Target,
    white: float,
    part: slice,
    shape: tuple[int, ...],
    region: Region,
    values: Any,
    *,
    alpha: bool,
) -> None:
    """Put a region of the output into its channels, and the alpha that belongs to it."""
    y = to_numpy(values)
    if region.size != shape[2:] or y.shape[1] != shape[1]:
        made = (y.shape[1], *(region.size or y.shape[2:]))
        raise ValueError(f"the model makes {made} of an image of shape {shape[1:]}: it is not a denoiser")
    y = y.astype("float64" if stack.dtype.name == "float64" else "float32", copy=False)
    y = y.mean(axis=1, keepdims=True) if part.stop - part.start < y.shape[1] else y
    place = region.images, region.rows, region.columns
    target.write(*place, as_dtype(y.astype("float64") * (white / 255), stack.dtype), part)
    colours = 1 if stack.shape[1] <= 2 else 3
    if alpha and stack.shape[1] > colours:
        target.write(*place, stack.read(*place)[:, colours:], slice(colours, None))
