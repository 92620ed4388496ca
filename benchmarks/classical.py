"""Denoisers without training, each with the settings that are best on the images it is measured on.

    best_of("nlm", scenes)  ->  Found: the setting, the denoised images, the seconds they took

The best setting is chosen by the clean images, which a user does not have: what is found here is the most that a method
can give. All see values / 255 and their output is clipped to 0..255. Needs scikit-image and SciPy (the `bench` extra).
"""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from npconv.data.blur import gaussian_blur
from npconv.metrics import psnr_per_image

Scenes = Sequence[tuple[np.ndarray, np.ndarray]]  # (noisy, clean), each (C, H, W), 0..255
Filter = Callable[[np.ndarray], np.ndarray]  # (C, H, W) -> the same shape

Level = Callable[[np.ndarray], float]  # an image's noise level, 0..1
Levels = list[tuple[str, Level]]

MANY, STEP = 20, 10  # of many images every tenth is enough to sort the settings by; then the best FINALISTS see all
FINALISTS = 3
LEAST_LEVEL = 0.005  # where an image is flat the estimate may be 0, which some filters do not take


class Setting(NamedTuple):
    """A method with its parameters: what they are, and the filter."""

    text: str
    filter: Filter


class Found(NamedTuple):
    """The best setting of a method, what it made of every image (0..255), and the seconds that took."""

    setting: str
    denoised: list[np.ndarray]
    seconds: float


def blurs(_: Levels) -> Iterator[Setting]:
    """Gaussian blurs of fixed sigma in pixels."""
    for sigma in np.arange(0.3, 2.55, 0.1):
        yield Setting(f"sigma {sigma:.1f}", functools.partial(gaussian_blur, sigma=float(sigma)))


def medians(_: Levels) -> Iterator[Setting]:
    """Median filters of 3 x 3 and 5 x 5 pixels, a channel by itself."""
    from scipy.ndimage import median_filter

    for size in (3, 5):
        yield Setting(f"{size} x {size}", functools.partial(median_filter, size=(1, size, size), mode="reflect"))


def nlm(levels: Levels) -> Iterator[Setting]:
    """scikit-image's non-local means (fast mode), with and without the noise's variance taken off the distances."""
    from skimage.restoration import denoise_nl_means

    def made(level: Level, known: bool, size: int, distance: int, factor: float) -> Filter:
        def denoised(x: np.ndarray) -> np.ndarray:
            strength = level(x)
            options = {"patch_size": size, "patch_distance": distance, "h": factor * strength, "channel_axis": 0}
            result: np.ndarray = denoise_nl_means(x, sigma=known * strength, fast_mode=True, **options)
            return result

        return denoised

    shapes = ((3, 6), (5, 6), (7, 11))
    strengths = [(True, f) for f in (0.45, 0.6, 0.8, 1.0, 1.3)] + [(False, f) for f in (0.6, 0.8, 1.0, 1.3, 1.7)]
    for (name, level), (known, factor), shape in itertools.product(levels, strengths, shapes):
        text = f"patch {shape[0]}, distance {shape[1]}, h {factor:g} x {name}, sigma {'given' if known else '0'}"
        yield Setting(text, made(level, known, *shape, factor))


def tv(levels: Levels) -> Iterator[Setting]:
    """scikit-image's total-variation denoiser by Chambolle's method."""
    from skimage.restoration import denoise_tv_chambolle

    def made(level: Level, factor: float) -> Filter:
        return lambda x: denoise_tv_chambolle(x, weight=factor * level(x), eps=1e-5, channel_axis=0)

    for (name, level), factor in itertools.product(levels, (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0)):
        yield Setting(f"weight {factor:g} x {name}", made(level, factor))


METHODS: dict[str, Callable[[Levels], Iterator[Setting]]] = {"blur": blurs, "median": medians, "nlm": nlm, "tv": tv}


def noise_levels(scenes: Scenes, everywhere: bool) -> Levels:
    """Ways to know the noise level: its true standard deviation over all images; and, unless the noise is the same
    `everywhere`, an estimate for each image.
    """
    squares = [np.mean(np.square((noisy - clean) / 255.0)) for noisy, clean in scenes]
    sigma = float(np.sqrt(np.mean(squares)))
    found: Levels = [("true level", lambda _: sigma)]
    return found if everywhere else [*found, ("estimated level", lambda x: max(estimated_sigma(x), LEAST_LEVEL))]


def estimated_sigma(image: np.ndarray) -> float:
    """Donoho and Johnstone's estimate of Gaussian noise's sigma: median |finest diagonal Haar coefficient| / 0.6745."""
    height, width = (length // 2 * 2 for length in image.shape[1:])
    a, b, c, d = (image[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
    return float(np.median(np.abs(a - b - c + d)) / 2 / 0.6745)


def best_of(method: str, scenes: Scenes, everywhere: bool = False) -> Found:
    """The setting of a method of METHODS with the best mean PSNR; `everywhere`: the noise is the same in all images."""
    tried_on = scenes[::STEP] if len(scenes) >= MANY else scenes
    made = METHODS[method](noise_levels(scenes, everywhere))
    settings = sorted(made, key=lambda setting: -_measured(setting, tried_on)[0])
    _, best = max((_measured(setting, scenes) for setting in settings[:FINALISTS]), key=lambda result: result[0])
    return best


def _measured(setting: Setting, scenes: Scenes) -> tuple[float, Found]:
    """The mean PSNR of a setting, and what it found."""
    found = timed(lambda x: np.clip(setting.filter(x / np.float32(255)) * 255, 0, 255), scenes, setting.text)
    return mean_psnr(found.denoised, scenes), found


def timed(denoise: Filter, scenes: Scenes, setting: str) -> Found:
    """What `denoise` makes of the noisy images of 0..255, one by one, and how long that takes."""
    started = time.perf_counter()
    denoised = [denoise(noisy) for noisy, _ in scenes]
    return Found(setting, denoised, time.perf_counter() - started)


def mean_psnr(denoised: Sequence[Any], scenes: Scenes) -> float:
    """The mean of the images' PSNRs, in dB."""
    return float(np.mean([psnr_per_image(x, clean)[0] for x, (_, clean) in zip(denoised, scenes, strict=True)]))
