"""A 10,000 x 10,000 image through `npconv denoise`: how long it takes, and how much memory at most.

    python benchmarks/large_image.py                              the reports' network, untrained; PNG and TIFF
    python benchmarks/large_image.py --network noise2noise-unet --format tif --side 6000

The image is a 500 x 500 picture of dead leaves with noise, repeated. The command runs in a process of its own, whose
peak is what Linux says (VmHWM), with all libraries and what the format needs. Exit status 1 above --limit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import npconv
from npconv import data, networks

PICTURE = 500  # pixels a side of what is repeated
NOISE = 25  # its noise's sigma
LIMIT = 2e9  # bytes

# Not ru_maxrss: that of a new process begins at what its parent had.
COMMAND = """
import sys
from npconv.cli import main
status = main(["denoise", *sys.argv[1:]])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
raise SystemExit(status)
"""


def write_image(path: Path, side: int) -> None:
    """An RGB image of 8 bits, `side` pixels a side."""
    rng = np.random.default_rng(0)
    picture = data.dead_leaves(1, PICTURE, PICTURE, rng)[0]
    noisy = np.clip(np.rint(picture + rng.normal(0, NOISE, picture.shape)), 0, 255).astype("uint8")
    times = -(-side // PICTURE)
    data.write_image(path, np.tile(noisy, (1, times, times))[:, :side, :side])


def measured(folder: Path, name: str, options: Sequence[str]) -> tuple[float, float]:
    """Seconds and bytes of the command for one image; SystemExit if it fails."""
    arguments = [name, "--model", "model.h5", "-o", f"out{Path(name).suffix}", "--overwrite", *options]
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    run = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    if run.returncode:
        raise SystemExit(run.stderr or f"npconv denoise ended with {run.returncode}")
    return time.perf_counter() - started, int(run.stdout.split()[-1]) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=tuple(networks.NETWORKS), default="strided")
    parser.add_argument("--side", type=int, default=10_000, help="pixels (10000)")
    parser.add_argument("--format", choices=("png", "tif"), help="one of the two only")
    parser.add_argument("--max-memory", metavar="SIZE", help="as for npconv denoise")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="BYTES", help=f"of the peak ({LIMIT:g})")
    args = parser.parse_args()
    options = ["--max-memory", args.max_memory] if args.max_memory else []
    options += ["--sigma", str(NOISE)] if args.network == "ffdnet" else []
    largest = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        npconv.Model(networks.make(args.network)).save(folder / "model.h5")
        for ending in [args.format] if args.format else ["png", "tif"]:
            write_image(folder / f"image.{ending}", args.side)
            seconds, peak = measured(folder, f"image.{ending}", options)
            largest = max(largest, peak)
            what = f"{args.network}, {args.side:,} x {args.side:,} RGB, {ending.upper()}"
            print(f"{what}: {seconds:.1f} s, {peak / 1e9:.2f} GB at most", flush=True)
    if largest > args.limit:
        print(f"more than {args.limit / 1e9:g} GB", file=sys.stderr)
    return 1 if largest > args.limit else 0


if __name__ == "__main__":
    raise SystemExit(main())
