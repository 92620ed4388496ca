"""A published figure measured here: DnCNN-S for sigma 25 on Set12, 30.436 dB by the protocol of its authors' scripts.

    python benchmarks/published.py WEIGHTS.npz IMAGE|FOLDER...

WEIGHTS.npz holds the published arrays, `w0`..`w16` (out, in, 3, 3) and `b0`..`b16`. The network is put together by hand
here, and `npconv evaluate --protocol kair` measures it; half a minute for the twelve images on one core. The authors'
weights and the images are found through https://github.com/cszn/KAIR.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import npconv
from npconv.cli import main as npconv_command

SIGMA, PUBLISHED = 25, 30.436  # dB, mean of the twelve images
CONVOLUTIONS = 17


def dncnn_s(arrays: Mapping[str, np.ndarray]) -> npconv.Module:
    """DnCNN-S with these weights: x minus what the convolutions make of x; the last one's signs are turned round."""
    layers: list[npconv.Module] = []
    for i in range(CONVOLUTIONS):
        weight, bias = arrays[f"w{i}"], arrays[f"b{i}"]
        sign = -1 if i == CONVOLUTIONS - 1 else 1
        convolution = npconv.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
        convolution.weight.data[...] = npconv.asarray(sign * weight)
        convolution.bias.data[...] = npconv.asarray(sign * bias)
        layers += [convolution, npconv.ReLU()]
    return npconv.Sum(npconv.Identity(), npconv.Sequential(*layers[:-1]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", metavar="WEIGHTS.npz", type=Path)
    parser.add_argument("images", metavar="IMAGE|FOLDER", nargs="+")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "dncnn.h5"
        with np.load(args.weights, allow_pickle=False) as arrays:
            npconv.Model(dncnn_s(arrays)).save(model)
        noise = ["--noise", f"gaussian:{SIGMA}", "--protocol", "kair"]
        status = npconv_command(["evaluate", *args.images, *noise, "--model", str(model)])
    print(f"published for the twelve images of Set12: {PUBLISHED} dB")
    return status


if __name__ == "__main__":
    sys.exit(main())
