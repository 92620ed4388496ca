"""Report B's table I: validation MSE and PSNR of the reports' network for several learning rates.

    python benchmarks/learning_rates.py [--data FOLDER] [--pairs 50000] [--epochs 15]

As in the report: noisy/noisy pairs of 32 x 32 pixels, of which 20 % are held out for validation (against their noisy
targets: there are no others), batches of 32, plain SGD. `--data` is a folder of photographs; without it, dead leaves.
The full table takes about 20 minutes on two cores.
"""

from __future__ import annotations

import argparse

import numpy as np

import npconv
from npconv import data

RATES = (0.05, 0.1, 0.2, 0.3, 0.4)
REPORT = {0.05: (0.0227, 20.24), 0.1: (0.0198, 21.09), 0.2: (0.0228, 19.78), 0.3: (0.0207, 20.75), 0.4: (0.0207, 20.59)}


def stored_pairs(folder: str | None, count: int) -> data.ArrayPairs:
    """`count` noisy/noisy pairs, the same for every learning rate."""
    rng = np.random.default_rng(0)
    photos = data.FolderPhotos(folder) if folder else data.ArrayPhotos(data.dead_leaves(100, 320, 320, rng))
    inputs, targets = data.PatchPairs(photos, data.PixelSampling()).take(count, rng)
    return data.ArrayPairs(inputs.astype("uint8"), targets.astype("uint8"))


def train(pairs: data.ArrayPairs, lr: float, epochs: int) -> npconv.Epoch:
    """The best epoch of a run with this learning rate."""
    npconv.manual_seed(0)
    network = npconv.networks.strided()
    model = npconv.Model(network, optimizer=npconv.SGD(network.parameters(), lr=lr))
    history = model.train(pairs, num_epochs=epochs, validation=0.2, seed=0)
    return max(history, key=lambda epoch: epoch.psnr_pooled or 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FOLDER")
    parser.add_argument("--pairs", type=int, default=50000)
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    pairs = stored_pairs(args.data, args.pairs)
    print("                report B            ours, best epoch of each (validation against noisy targets)")
    print("    lr      MSE    PSNR      MSE   pooled PSNR   mean PSNR   epoch")
    for lr in RATES:
        best = train(pairs, lr, args.epochs)
        print(
            f"{lr:>6}   {REPORT[lr][0]:.4f}   {REPORT[lr][1]:.2f}   "
            f"{best.validation_mse:.4f}        {best.psnr_pooled:.2f}"
            f"       {best.psnr:.2f}   {best.epoch:>5}",
            flush=True,
        )


if __name__ == "__main__":
    main()
