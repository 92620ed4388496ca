"""Report D's figures 2 and 3: PSNR and MSE of every epoch of its network, and the seconds of an epoch.

    python benchmarks/report_curve.py [--data FOLDER] [--pairs 50000] [--epochs 50] [--plot FILE]

As in the report: 48 channels, 3x3 kernels, both upsamplings transposed convolutions (k=3, s=2, p=1, one more row and
column of output), SGD with learning rate 5, 50 epochs, 50,000 noisy/noisy pairs of 32 x 32 pixels, 1,000 pairs with
clean targets to judge by. It gives no batch size: 32 here. `--data` is a folder of photographs; without it, dead
leaves. Of the photographs (or leaves), a tenth is for validation only. It takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import npconv
from npconv import data

LEARNING_RATE, CHANNELS = 5.0, 48
REPORT = "report D: 24.46 dB after 50 epochs, on its own data; 115 s an epoch, 50 s in PyTorch, on Google Colaboratory"


def network(channels: int = CHANNELS) -> npconv.Sequential:
    """The report's network: two strided convolutions, two transposed ones."""

    def enlarge(out_channels: int) -> npconv.Module:
        return npconv.ConvTranspose2d(channels, out_channels, 3, stride=2, padding=1, output_padding=1)

    return npconv.Sequential(
        npconv.Conv2d(3, channels, 3, stride=2, padding=1),
        npconv.ReLU(),
        npconv.Conv2d(channels, channels, 3, stride=2, padding=1),
        npconv.ReLU(),
        enlarge(channels),
        npconv.ReLU(),
        enlarge(3),
        npconv.Sigmoid(),
    )


def stored_pairs(folder: str | None, count: int, held_out: int) -> tuple[data.ArrayPairs, data.ArrayPairs]:
    """`count` noisy/noisy pairs to train on, and `held_out` noisy/clean ones of other photographs."""
    rng = np.random.default_rng(0)
    photos = data.FolderPhotos(folder) if folder else data.ArrayPhotos(data.dead_leaves(110, 320, 320, rng))
    train, validation = photos.split(0.1, rng)
    noise = data.PixelSampling()
    drawn = (
        data.PatchPairs(train, noise).take(count, rng),
        data.PatchPairs(validation, noise, target="clean").take(held_out, rng),
    )
    first, second = (data.ArrayPairs(*(images.astype("uint8") for images in pairs)) for pairs in drawn)
    return first, second


def train(pairs: data.ArrayPairs, validation: data.ArrayPairs, epochs: int) -> list[npconv.Epoch]:
    """The epochs of one run, each printed as it ends; fewer if training collapses, which is printed too."""
    npconv.manual_seed(0)
    made = network()
    model = npconv.Model(made, optimizer=npconv.SGD(made.parameters(), lr=LEARNING_RATE))
    print("epoch   training MSE   validation MSE   mean PSNR   pooled PSNR   seconds")
    try:
        model.train(pairs, num_epochs=epochs, validation=validation, seed=0, callback=_print_epoch)
    except npconv.TrainingCollapsed as error:
        print(f"collapsed: {error}")
    history: list[npconv.Epoch] = model.history
    return history


def _print_epoch(epoch: npconv.Epoch) -> None:
    print(
        f"{epoch.epoch:5}   {epoch.loss:12.5f}   {epoch.validation_mse:14.5f}   {epoch.psnr:9.2f}"
        f"   {epoch.psnr_pooled:11.2f}   {epoch.seconds:7.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FOLDER", help="photographs (default: dead leaves)")
    parser.add_argument("--pairs", type=int, default=50000)
    parser.add_argument("--validation-pairs", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves to this PNG")
    args = parser.parse_args()
    history = train(*stored_pairs(args.data, args.pairs, args.validation_pairs), args.epochs)
    if history:
        best = max(history, key=lambda epoch: epoch.psnr or 0.0)
        seconds = np.mean([epoch.seconds for epoch in history])
        print(f"ours: {best.psnr:.2f} dB (mean of the images' PSNRs) in epoch {best.epoch}, {seconds:.1f} s an epoch")
    print(REPORT)
    if args.plot and history:
        from plots import plot_curve

        plot_curve(history, args.plot)
        print(f"curves: {args.plot}")


if __name__ == "__main__":
    main()
