"""Images of any dtype and number of channels through a network that knows RGB or gray of 0..255.

    (C, H, W) uint8, uint16, float ...  ->  (B, network's channels, H, W), 0..255  ->  network  ->  back again

Alpha passes by untouched. Gray goes through an RGB network three times over and is averaged, RGB through a
gray network a channel at a time. Large images go through in tiles.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..containers import Concat, Parallel
from ..layers import PixelShuffle, PixelUnshuffle
from ..model import Model
from ..module import Module

TILE = 1792  # pixels, with two margins 2048; a larger image is cut
MARGIN = 128  # pixels around a tile that are computed and cut off: more than the reports' network sees


def network_channels(network: Module) -> int | None:
    """The channels of the images that a network takes; None if no layer says."""
    channels, _ = _channels(network)
    return int(channels) if channels is not None and channels.denominator == 1 else None


def _channels(module: Module) -> tuple[Fraction | None, Fraction]:
    """The channels of what a module takes, None if no layer says; and how many times as many it then gives."""
    if hasattr(module, "in_channels"):
        return Fraction(module.in_channels), Fraction(1)
    if isinstance(module, (PixelUnshuffle, PixelShuffle)):  # as many values before and after
        return None, 1 / (module.scale[0] * module.scale[1])
    children = [child for _, child in module.named_children()]
    if isinstance(module, Parallel):
        return _channels_of_branches(children, isinstance(module, Concat))
    return _channels_of_row(children)


def _channels_of_branches(branches: list[Module], concatenated: bool) -> tuple[Fraction | None, Fraction]:
    found = [_channels(branch) for branch in branches]
    known = next((channels for channels, _ in found if channels is not None), None)
    factors = [factor for _, factor in found]
    return known, sum(factors, Fraction(0)) if concatenated else factors[0]


def _channels_of_row(modules: Iterable[Module]) -> tuple[Fraction | None, Fraction]:
    factor = Fraction(1)
    for module in modules:
        channels, own = _channels(module)
        if channels is not None:
            return channels / factor, factor
        factor *= own
    return None, factor


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
    if image.dtype.name in ("uint8", "uint16"):
        return float(np.iinfo(image.dtype).max)
    if image.dtype.kind != "f":
        raise ValueError(f"{image.dtype} has no agreed value for white: say it with --range, such as --range 4095")
    largest = float(image.max())
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


def denoised(model: Model, image: np.ndarray, white: float | None = None) -> np.ndarray:
    """A (C, H, W) image denoised, with its dtype and its channels; `white` as for `white_level`."""
    colours, alpha = split_alpha(image)
    white = white_level(colours, white)
    x = colours.astype("float64" if image.dtype.name == "float64" else "float32") * (255 / white)
    y = denoised_colours(model, x)
    result = np.concatenate([_as_dtype(y.astype("float64") * (white / 255), image.dtype), alpha])
    return result.astype(image.dtype, copy=False)  # concatenate gives the machine's byte order


def denoised_colours(model: Model, x: np.ndarray) -> np.ndarray:
    """What the network makes of gray or RGB (1 or 3, H, W), floats of 0..255: the same shape."""
    channels = network_channels(model.network) or len(x)
    if len(x) == channels:
        return predict(model, x[np.newaxis])[0]
    if len(x) == 1:
        return predict(model, np.repeat(x, channels, axis=0)[np.newaxis])[0].mean(axis=0, keepdims=True)
    if channels == 1:
        return predict(model, x[:, np.newaxis])[:, 0]
    raise ValueError(f"its {len(x)} channels do not fit a network for {channels} channels")


def predict(model: Model, x: np.ndarray) -> np.ndarray:
    """`model.predict` of (N, C, H, W), in tiles if the images are large; always of the shape of x."""
    with warnings.catch_warnings():
        # A nearly black image is no sign of a wrong scale here: white_level has settled it.
        warnings.filterwarnings("ignore", "the largest value of the images", UserWarning)
        y = model.predict(x) if max(x.shape[2:]) <= TILE + 2 * MARGIN else _predict_tiles(model, x)
    if y.shape != x.shape:
        raise ValueError(f"the model makes {y.shape[1:]} of an image of shape {x.shape[1:]}: it is not a denoiser")
    return y


def _predict_tiles(model: Model, x: np.ndarray) -> np.ndarray:
    y = np.empty_like(x)
    rows, columns = (_tiles(size, step) for size, step in zip(x.shape[2:], model.network.size_multiple, strict=True))
    for row, wide_row in rows:
        for column, wide_column in columns:
            tile = model.predict(x[:, :, wide_row, wide_column])
            top, left = row.start - wide_row.start, column.start - wide_column.start
            height, width = row.stop - row.start, column.stop - column.start
            y[:, :, row, column] = tile[:, :, top : top + height, left : left + width]
    return y


def _tiles(size: int, multiple: int) -> list[tuple[slice, slice]]:
    """Tiles along one side, each without and with its margins; they start where the network's strides do."""
    tile, margin = max(1, TILE // multiple) * multiple, math.ceil(MARGIN / multiple) * multiple
    starts = range(0, size, tile)
    return [(slice(i, min(i + tile, size)), slice(max(0, i - margin), min(i + tile + margin, size))) for i in starts]


def _as_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
