"""Pictures of a training run: the curves of MSE and PSNR, and a sheet of examples.

Both are written as PNG, beside their place and then renamed, so that a reader never sees half a picture. They
need matplotlib, which comes with the `app` extra.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import integer
from .extras import require
from .metrics import psnr_per_image
from .whole_file import whole_file

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .model import Epoch

    FilePath = str | os.PathLike[str]

EXAMPLES = 6  # rows of the sheet
_DPI = 120
_TRAINING, _MEAN, _POOLED = "tab:gray", "tab:blue", "tab:orange"  # the colours of the curves


def curves(history: Sequence[Epoch], path: FilePath, noisy: tuple[float, float] | None = None) -> None:
    """Draw MSE and PSNR over the epochs of a run into a PNG file.

    history: what `Model.train` returns, at least one epoch; figures that are None are left out. noisy: the
    PSNRs of the noisy input in dB, mean of the images' and of the pooled MSE, drawn as dotted lines. Raises
    ValueError for an empty history, ImportError without matplotlib.
    """
    if not history:
        raise ValueError("history (=[]) must have at least one epoch")
    figure = _figure(10.0, 4.6)
    errors, decibels = figure.subplots(1, 2)
    _draw(errors, history, "loss", "training loss", _TRAINING)
    _draw(errors, history, "validation_mse", "validation MSE", _MEAN)
    _label(errors, "Mean squared error", "MSE (values in 0..1)")
    _draw(decibels, history, "psnr", "mean of the images' PSNRs", _MEAN)
    _draw(decibels, history, "psnr_pooled", "PSNR of the pooled MSE", _POOLED)
    for level, name, colour in zip(noisy or (), ("mean", "pooled"), (_MEAN, _POOLED), strict=False):
        decibels.axhline(level, linestyle=":", color=colour, label=f"noisy input, {name}")
    _label(decibels, "Validation PSNR", "PSNR (dB)")
    _save(figure, path)


def examples(
    inputs: np.ndarray,
    predictions: np.ndarray,
    targets: np.ndarray,
    path: FilePath,
    count: int = EXAMPLES,
    captions: bool = True,
) -> None:
    """Draw a sheet of examples into a PNG file, a row an image: input, prediction, target.

    inputs, predictions, targets: (N, C, H, W) of one shape, values 0..255; the first `count` are shown, their
    pixels enlarged, with the PSNR against the target unless `captions` is false. RGB is shown for C = 3,
    else the mean over channels in gray. Raises ValueError for other shapes or a count below 1, ImportError without
    matplotlib.
    """
    columns = {
        "input": np.asarray(inputs),
        "prediction": np.asarray(predictions),
        "target": np.asarray(targets),
    }
    shapes = {name: images.shape for name, images in columns.items()}
    if len(set(shapes.values())) > 1 or columns["input"].ndim != 4 or columns["input"].size == 0:
        raise ValueError(f"inputs, predictions and targets must be (N, C, H, W) of one shape, got {shapes}")
    rows = min(integer(count, "count", 1), len(columns["input"]))
    figure = _figure(3 * 2.2, rows * (2.2 * _aspect(columns["input"]) + 0.3) + 0.3)
    axes = figure.subplots(rows, 3, squeeze=False)
    for place, (name, images) in enumerate(columns.items()):
        axes[0, place].set_title(name, fontweight="bold")
        for row in range(rows):
            caption = "" if name == "target" or not captions else _decibels(images[row], columns["target"][row])
            _picture(axes[row, place], images[row], caption)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; not pyplot's, which would open windows and keep a list of all figures."""
    figure: Figure = require("matplotlib.figure").Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    return figure


def _draw(axes: Axes, history: Sequence[Epoch], figure: str, label: str, colour: str) -> None:
    values = [getattr(epoch, figure) for epoch in history]
    known = [(epoch.epoch, value) for epoch, value in zip(history, values, strict=True) if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), marker="o", markersize=4, color=colour, label=label)


def _label(axes: Axes, title: str, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.set_ylabel(unit)
    axes.grid(True, alpha=0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)


def _aspect(images: np.ndarray) -> float:
    """Height over width of the pictures."""
    return float(images.shape[2] / images.shape[3])


def _decibels(image: np.ndarray, target: np.ndarray) -> str:
    value = float(psnr_per_image(image, target)[0])
    return f"{value:.2f} dB" if math.isfinite(value) else "identical"


def _picture(axes: Axes, image: np.ndarray, caption: str) -> None:
    """One (C, H, W) image of 0..255, its pixels as squares."""
    pixels = np.clip(image, 0, 255) / 255
    options: dict[str, Any] = {"interpolation": "nearest"}
    if len(pixels) == 3:
        axes.imshow(pixels.transpose(1, 2, 0), **options)
    else:
        axes.imshow(pixels.mean(axis=0), cmap="gray", vmin=0, vmax=1, **options)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(caption)


def _save(figure: Figure, path: FilePath) -> None:
    with whole_file(path) as part:
        figure.savefig(part, format="png")


__all__ = ["curves", "examples"]
