"""Pictures: how the cost grows, and report D's curve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contenders import titles
from growth import Grown

COLOURS = {"npconv": "#c0392b", "torch": "#2471a3", "torch-channels-last": "#229954", "torch-compile": "#7d6608"}


def pyplot() -> Any:
    """matplotlib.pyplot, drawing to files. Raises ImportError, with what to install."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError('--plot needs matplotlib: pip install "npconv[bench]"') from error
    return plt


def plot_growth(all_grown: Sequence[Grown], path: Path) -> None:
    """A log-log panel a series, with a dashed line of linear growth under npconv's first point."""
    plt = pyplot()
    columns = min(3, len(all_grown))
    rows = -(-len(all_grown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.9 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(all_grown) :]:
        axis.set_visible(False)
    for axis, grown in zip(axes.flat, all_grown, strict=False):
        _growth_panel(axis, grown)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _growth_panel(axis: Any, grown: Grown) -> None:
    from matplotlib import ticker

    for name, title in zip(grown.seconds, titles(grown.seconds), strict=True):
        label = f"{title}: exponent {grown.exponents[name]:.2f}"
        milliseconds = [1e3 * value for value in grown.seconds[name]]
        axis.loglog(grown.sizes, milliseconds, "o-", label=label, color=COLOURS.get(name), markersize=4)
    if "npconv" in grown.seconds:
        start = 1e3 * grown.seconds["npconv"][0]
        linear = [start * size / grown.sizes[0] for size in grown.sizes]
        axis.loglog(grown.sizes, linear, "--", color="0.6", linewidth=1, label="linear")
    axis.set(title=grown.name.removeprefix("growth/"), xlabel=grown.along, ylabel="ms")
    axis.set_xticks(grown.sizes, [f"{size}" for size in grown.sizes], rotation=45)
    axis.minorticks_off()
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def plot_curve(epochs: Sequence[Any], path: Path) -> None:
    """PSNR and MSE of each `npconv.Epoch`, as report D's figures 2 and 3."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    ours, other = COLOURS["npconv"], COLOURS["torch"]
    numbers = [epoch.epoch for epoch in epochs]
    left.plot(numbers, [epoch.psnr for epoch in epochs], color=ours, label="mean of the images' PSNRs")
    left.plot(numbers, [epoch.psnr_pooled for epoch in epochs], color=other, label="PSNR of the pooled MSE")
    left.axhline(24.46, color="0.5", linestyle="--", label="report D: 24.46 dB, on its own data")
    left.set(xlabel="epoch", ylabel="validation PSNR, dB")
    right.plot(numbers, [epoch.loss for epoch in epochs], color=other, label="training, noisy targets")
    right.plot(numbers, [epoch.validation_mse for epoch in epochs], color=ours, label="validation, clean targets")
    right.set(xlabel="epoch", ylabel="MSE, values in [0, 1]")
    for axis in (left, right):
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
