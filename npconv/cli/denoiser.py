"""A model as `npconv evaluate` uses it: noisy scenes in, predictions out, told the noise level if it wants to know."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..denoising import check_denoiser, denoise
from ..model import Model
from ..noise_map import what_it_takes
from .scenes import PAIRS_AT_A_TIME, Scene, from_pairs

Predictions = Iterator[tuple[Scene, np.ndarray]]


def load_denoiser(path: str) -> Model:
    """The model in a file; FileNotFoundError if there is none, ValueError if it changes images' sizes."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no model file {path!r}: npconv train writes one, --model names it")
    model = Model.load(path)
    check_denoiser(model, f"the model of {path!r}")
    return model


def denoised_colours(model: Model, x: np.ndarray, noise_level: float | None = None) -> np.ndarray:
    """What the network makes of gray or RGB (1 or 3, H, W), values of 0..255: floats of the same shape."""
    x = x if x.dtype.kind == "f" else x.astype("float32")
    result: np.ndarray = denoise(model, x, white=255, noise_level=noise_level, axes="CHW")
    return result


def predict(model: Model, x: np.ndarray, noise_level: float | np.ndarray | None = None) -> np.ndarray:
    """`model.predict` of (N, C, H, W); always of the shape of x."""
    with warnings.catch_warnings():
        # A nearly black image is no sign of a wrong scale here.
        warnings.filterwarnings("ignore", "the largest value of the images", UserWarning)
        y: np.ndarray = model.predict(x, noise_level=noise_level)
    if y.shape != x.shape:
        raise ValueError(f"the model makes {y.shape[1:]} of an image of shape {x.shape[1:]}: it is not a denoiser")
    return y


@dataclass(frozen=True)
class Denoiser:
    """A model, and what its network is told of the noise.

    takes_level: whether it takes a noise level at all. sigma: what to tell it, in 8-bit steps; None: what the noise of
    each image has.
    """

    model: Model
    takes_level: bool = False
    sigma: float | None = None

    @property
    def image_channels(self) -> int | None:
        """The channels of the images that the network takes; None if no layer says."""
        return what_it_takes(self.model.network).image_channels

    @property
    def wants_map(self) -> bool:
        """Whether pairs must have the noise level as one more channel of their inputs."""
        return self.takes_level and self.sigma is None

    def check_channels(self, channels: int) -> None:
        """ValueError if images of so many channels do not fit the network."""
        if self.image_channels not in (None, channels):
            raise ValueError(f"the images have {channels} channel(s), and the model is for {self.image_channels}")

    def of_images(self, scenes: Iterable[Scene]) -> Predictions:
        """Each scene with what the network makes of it; gray goes through an RGB network and RGB through a gray one."""
        for scene in scenes:
            level = scene.noise_level if self.sigma is None else self.sigma
            yield scene, denoised_colours(self.model, scene.noisy, level if self.takes_level else None)

    def of_pairs(self, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Predictions:
        """Each pair of batches of two (N, C, H, W) arrays as a scene, with what the network makes of the input.

        Where the network `wants_map`, inputs have it as their last channel.
        """
        first = 0
        for inputs, targets in batches:
            yield from self._of_batch(inputs, targets, first)
            first += len(inputs)

    def _of_batch(self, inputs: np.ndarray, targets: np.ndarray, first: int) -> Predictions:
        noisy, levels = inputs[:, : targets.shape[1]], inputs[:, targets.shape[1] :]
        for start in range(0, len(inputs), PAIRS_AT_A_TIME):
            part = slice(start, start + PAIRS_AT_A_TIME)
            level = levels[part] if self.wants_map else self.sigma
            predictions = predict(self.model, noisy[part], level if self.takes_level else None)
            yield from zip(from_pairs(noisy[part], targets[part], first + start), predictions, strict=True)
