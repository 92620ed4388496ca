"""PSNR and SSIM of noisy and denoised images, per image and over all; and those of the best Gaussian blur."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import metrics
from ..data.blur import gaussian_blur
from .scenes import Scene

BLUR_SIGMAS = tuple(round(0.3 + 0.1 * i, 1) for i in range(23))  # pixels: 0.3 to 2.5
HEADER = ("name", "psnr_noisy", "psnr_denoised", "ssim_noisy", "ssim_denoised")


@dataclass(frozen=True)
class Error:
    """How far one image is from the clean one: the MSE on values in [0, 1], over so many values."""

    mse: float
    values: int

    @property
    def psnr(self) -> float:
        """In dB; infinite for identical images."""
        return float(metrics.psnr_of_mse(np.float64(self.mse)))


@dataclass(frozen=True)
class Score:
    """The figures of one scene; `blurred` has an Error for each of BLUR_SIGMAS, or none."""

    name: str
    noisy: Error
    denoised: Error
    ssim_noisy: float
    ssim_denoised: float
    blurred: tuple[Error, ...] = ()

    def row(self) -> tuple[str, float, float, float, float]:
        """What HEADER names."""
        return self.name, self.noisy.psnr, self.denoised.psnr, self.ssim_noisy, self.ssim_denoised


def error(image: np.ndarray, clean: np.ndarray) -> Error:
    """The Error of an image of 0..255."""
    difference = (image.astype(np.float64) - clean) / 255
    return Error(float(np.mean(difference * difference)), clean.size)


def score(scene: Scene, denoised: np.ndarray, blur: bool) -> Score:
    """The figures of a scene; ValueError that names it if it is too small for SSIM."""
    try:
        similarities = metrics.ssim(scene.noisy, scene.clean), metrics.ssim(denoised, scene.clean)
    except ValueError as problem:
        raise ValueError(f"{scene.name}: {problem}") from problem
    sigmas = BLUR_SIGMAS if blur else ()
    blurred = tuple(error(gaussian_blur(scene.noisy, sigma), scene.clean) for sigma in sigmas)
    return Score(scene.name, error(scene.noisy, scene.clean), error(denoised, scene.clean), *similarities, blurred)


def mean_psnr(errors: Sequence[Error]) -> float:
    """The mean of the images' PSNRs."""
    return sum(e.psnr for e in errors) / len(errors)


def pooled_psnr(errors: Sequence[Error]) -> float:
    """The PSNR of the MSE over all values of all images, which may differ in size."""
    return metrics.pooled_psnr([e.mse for e in errors], [e.values for e in errors])


def best_blur(scores: Sequence[Score]) -> tuple[float, float, float]:
    """The sigma of the fixed Gaussian blur with the best mean PSNR, with that PSNR and the pooled one."""
    tried = [[s.blurred[i] for s in scores] for i in range(len(BLUR_SIGMAS))]
    means = [mean_psnr(errors) for errors in tried]
    best = means.index(max(means))
    return BLUR_SIGMAS[best], means[best], pooled_psnr(tried[best])


def summary_rows(scores: Sequence[Score]) -> dict[str, tuple[float, float]]:
    """Figures over all scenes: what it is -> (noisy, denoised)."""
    noisy, denoised = [s.noisy for s in scores], [s.denoised for s in scores]
    similarities = [s.ssim_noisy for s in scores], [s.ssim_denoised for s in scores]
    return {
        "mean of images' PSNRs (dB)": (mean_psnr(noisy), mean_psnr(denoised)),
        "PSNR of the pooled MSE (dB)": (pooled_psnr(noisy), pooled_psnr(denoised)),
        "mean of images' SSIMs": (float(np.mean(similarities[0])), float(np.mean(similarities[1]))),
    }


def write_csv(path: Path, scores: Sequence[Score]) -> None:
    """A line a scene, with HEADER; bytes of a file's name that are no text stand there as escapes."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(s.row() for s in scores)
