"""A model as `npconv evaluate` uses it: noisy scenes in, predictions out, told the noise level if it wants to know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from ..model import Model
from ..noise_map import network_channels
from .pixels import denoised_colours, predict
from .scenes import Scene, from_pairs

BATCH = 250  # patches predicted at a time
Predictions = Iterator[tuple[Scene, np.ndarray]]


@dataclass(frozen=True)
class Denoiser:
    """A model, and the noise level that its network is told, in 8-bit steps; None: it takes none."""

    model: Model
    noise_level: float | None = None

    @property
    def image_channels(self) -> int | None:
        """The channels of the images that the network takes; None if no layer says."""
        channels = network_channels(self.model.network)
        return channels if channels is None or self.noise_level is None else channels - 1

    def check_channels(self, channels: int) -> None:
        """ValueError if images of so many channels do not fit the network."""
        if self.image_channels not in (None, channels):
            raise ValueError(f"the images have {channels} channel(s), and the model is for {self.image_channels}")

    def of_images(self, scenes: Iterable[Scene]) -> Predictions:
        """Each scene with what the network makes of it; gray goes through an RGB network and RGB through a gray one."""
        for scene in scenes:
            yield scene, denoised_colours(self.model, scene.noisy, *self._level())

    def of_pairs(self, inputs: np.ndarray, targets: np.ndarray) -> Predictions:
        """Each pair of two (N, C, H, W) arrays as a scene, with what the network makes of the input."""
        for start in range(0, len(inputs), BATCH):
            part = slice(start, start + BATCH)
            predictions = predict(self.model, inputs[part], *self._level())
            yield from zip(from_pairs(inputs[part], targets[part], start), predictions, strict=True)

    def _level(self) -> tuple[float, ...]:
        return () if self.noise_level is None else (self.noise_level,)
