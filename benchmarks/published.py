"""A published figure measured here: DnCNN-S for sigma 25 on Set12, 30.436 dB by the protocol of its authors' scripts.

    python benchmarks/published.py WEIGHTS IMAGE|FOLDER...

WEIGHTS is the authors' dncnn_25.pth, or an .npz with the same arrays, `w0`..`w16` (out, in, 3, 3) and `b0`..`b16`. They
become a model as anybody's would, and `npconv evaluate --protocol kair` measures it; half a minute for the twelve
images on one core. The exit status is 1 if the mean is more than 0.02 dB from what is published. The weights and the
images are found through https://github.com/cszn/KAIR.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from pathlib import Path

import npconv
from npconv import networks
from npconv.cli import main as npconv_command

SIGMA, PUBLISHED, TOLERANCE = 25, 30.436, 0.02  # dB, mean of the twelve images


def dncnn_s(path: str | os.PathLike[str]) -> npconv.Module:
    """DnCNN-S with the weights of a file: by the authors' names, or by order within kernels and biases."""
    network, state = networks.dncnn(batch_norm=False), npconv.read_state(path)
    npconv.load_state(network, state, "names" if "model.0.weight" in state else "kinds")
    return network


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", metavar="WEIGHTS", type=Path)
    parser.add_argument("images", metavar="IMAGE|FOLDER", nargs="+")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, table = Path(folder) / "dncnn.h5", Path(folder) / "figures.csv"
        npconv.Model(dncnn_s(args.weights)).save(model)
        noise = ["--noise", f"gaussian:{SIGMA}", "--protocol", "kair"]
        status = npconv_command(["evaluate", *args.images, *noise, "--model", str(model), "--csv", str(table)])
        if status:
            return status
        with open(table, newline="", encoding="utf-8") as file:
            figures = [float(row["psnr_denoised"]) for row in csv.DictReader(file)]
    mean = sum(figures) / len(figures)
    print(f"mean of {len(figures)}: {mean:.3f} dB; published for the twelve images of Set12: {PUBLISHED} dB")
    return int(abs(mean - PUBLISHED) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
