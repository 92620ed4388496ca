"""What a network takes: how many channels, and whether the last of them is a noise-level map.

images (N, C, H, W), noise level  ->  (N, C + 1, H, W), the level in the images' units, region by region
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from . import checks
from .backends import backend, to_numpy
from .backends.base import Array
from .containers import Concat, Parallel
from .layers import PixelShuffle, PixelUnshuffle
from .module import Module, structure_version
from .tracing import trace

Reader = Callable[[slice, slice, slice], Array]
_PROBE = 16  # pixels a side, at least, of the image that shows how many channels come out


@dataclass(frozen=True)
class Takes:
    """What a network takes: `channels` with a noise-level map among them, None if no layer says; `noise_map`: whether
    the last of them is one.
    """

    channels: int | None
    noise_map: bool

    @property
    def image_channels(self) -> int | None:
        """The channels of the images alone."""
        return self.channels - 1 if self.channels is not None and self.noise_map else self.channels


_found: WeakKeyDictionary[Module, tuple[int, Takes]] = WeakKeyDictionary()


def what_it_takes(network: Module) -> Takes:
    """What `network` takes; found out once, and again when a module has changed.

    It takes a noise-level map if it gives images of one channel fewer than it takes: a small image goes through it.
    """
    version, takes = _found.get(network, (-1, None))
    if takes is None or version != structure_version():
        channels = network_channels(network)
        takes = Takes(channels, channels is not None and _gives(network, channels) == channels - 1 > 0)
        _found[network] = structure_version(), takes
    return takes


def network_channels(network: Module) -> int | None:
    """The channels of what a network takes, a noise-level map included; None if no layer says."""
    channels, _ = _channels(network)
    return int(channels) if channels is not None and channels.denominator == 1 else None


def takes_noise_map(network: Module) -> bool:
    """Whether a network takes a noise-level map, as `what_it_takes` says."""
    return what_it_takes(network).noise_map


def _gives(network: Module, channels: int) -> int | None:
    """How many channels it makes of so many; None if they do not go through, or no images come out."""
    side = [-(-_PROBE // multiple) * multiple for multiple in network.size_multiple]
    try:
        shape = trace(network, (channels, *side))[0].output_shape
    except (ValueError, TypeError):  # it takes larger images, or none: then predict says so
        return None
    return shape[1] if shape is not None and len(shape) == 4 else None


def check_channels(network: Module, shape: Sequence[int], has_level: bool) -> None:
    """ValueError if images of `shape` (..., C, H, W) have not as many channels as the network takes."""
    takes, channels = what_it_takes(network), int(shape[-3])
    given = channels + 1 if has_level and takes.noise_map else channels
    if takes.channels is None or takes.channels in (given, channels + 1 if takes.noise_map else None):
        return  # where only the noise level lacks, `check_noise_level` says so
    if not takes.noise_map and _gives(network, channels) is not None:  # a module of one's own: it was a guess
        return
    wanted = takes.image_channels
    besides = " and a noise-level map" if takes.noise_map else ""
    hint = ": images are (C, H, W), not (H, W, C)" if shape[-1] == wanted else ""
    raise ValueError(
        f"the network takes {wanted} channel{'' if wanted == 1 else 's'}{besides}, the images of shape "
        f"{tuple(shape)} have {channels}{hint}"
    )


def with_noise_level(network: Module, images: Array, noise_level: Any) -> tuple[tuple[int, ...], Reader]:
    """The shape of what the network gets, and what reads a region of it, for images (N, C, H, W) of 0..255.

    `noise_level`: None, a number, or an array (H, W) or (N, 1, H, W), in 8-bit steps. Raises ValueError for one that
    the network does not take or lacks, or of another shape, and for negative or infinite levels.
    """
    shape = tuple(int(length) for length in images.shape)
    check_noise_level(network, shape[1], noise_level is not None)
    if noise_level is None:
        return shape, lambda part, rows, columns: images[part, :, rows, columns]
    level = _level(noise_level, shape)

    def read(part: slice, rows: slice, columns: slice) -> Array:
        block = images[part, :, rows, columns]
        xp = backend().xp if backend().owns(block) else np
        block = block if block.dtype.kind == "f" else block.astype("float32")
        size = (len(block), 1, *block.shape[2:])
        plane = level if level.ndim == 0 else level[part if len(level) > 1 else slice(None), :, rows, columns]
        return xp.concatenate([block, xp.broadcast_to(xp.asarray(plane, block.dtype), size)], axis=1)

    return (shape[0], shape[1] + 1, *shape[2:]), read


def check_noise_level(network: Module, channels: int, given: bool) -> None:
    """ValueError if images of so many channels need a noise level and none is given, or the other way round."""
    takes = what_it_takes(network)
    if given and not takes.noise_map:
        raise ValueError(
            "noise_level is given, but the network takes no noise-level map: it takes "
            f"{takes.channels or channels} channel(s)"
        )
    if not given and takes.noise_map and takes.image_channels == channels:
        raise ValueError(
            f"the network takes a noise-level map besides the images' {channels} channel(s): give noise_level, the "
            "noise's standard deviation in 8-bit steps"
        )


def _level(noise_level: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A number without axes, or a map (1 or N, 1, H, W)."""
    if not hasattr(noise_level, "shape") and not isinstance(noise_level, (list, tuple)):
        return np.asarray(checks.number(noise_level, "noise_level", 0))
    level = np.asarray(to_numpy(noise_level))
    if level.dtype.kind not in "uif":
        raise TypeError(f"noise_level (dtype {level.dtype}) must be numbers")
    if level.ndim == 0:
        return np.asarray(checks.number(level[()], "noise_level", 0))
    if level.shape == shape[2:]:
        level = level[None, None]
    if level.shape not in ((shape[0], 1, *shape[2:]), (1, 1, *shape[2:])):
        raise ValueError(
            f"noise_level of shape {level.shape} must be a number, (H, W) or (N, 1, H, W) of the images' {shape}"
        )
    if level.size and not (np.isfinite(level.max()) and level.min() >= 0):
        raise ValueError("noise_level must be finite and at least 0 everywhere")
    return level


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
