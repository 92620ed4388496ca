"""A program: what a user does, small. What it prints must be the same on every machine.

    python whole_job.py INPUTS OUTPUTS CODE [compute] [blank]

INPUTS: the folder that conftest.py makes; OUTPUTS: a folder to write to; CODE: Python to run before npconv is
imported, which makes this machine another one; compute: no commands; blank: pictures of a training are composed and
their files written, but not drawn, which takes as long as all the rest. Prints JSON: the bits of what was computed in
Python, and the exit status, stdout and stderr of each command. Two workers, and processes after three steps.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(NPCONV_THREADS="2", NPCONV_BACKEND="numpy")


def computed() -> dict[str, Any]:
    """Training, prediction and numbers of a fixed network, without any file."""
    import numpy as np

    import npconv
    from npconv import training

    training.PROCESS_WORK = training.THREAD_WORK = 1  # or a network this small would have one worker
    training.STEPS_BY_THREADS = 3
    npconv.manual_seed(0)
    network = npconv.networks.strided(4)
    model = npconv.Model(network, npconv.MSE(), npconv.Adam(network.parameters(), lr=1e-2))
    rng = np.random.default_rng(0)
    x, t = rng.random((2, 6, 3, 16, 16), np.float32)
    losses = [model.train_batch(x, t) for _ in range(8)]
    processes = model._crew._team is not None
    images = (255 * x).astype("uint8")
    model.train(images, images, num_epochs=1, batch_size=3, validation=(images, images))
    bits = [np.asarray(values).tobytes() for values in (*network.state_dict().values(), model.predict(images))]
    return {"bits": hashlib.sha256(b"".join(bits)).hexdigest(), "losses": losses, "processes": processes}


def commands(inputs: Path, outputs: Path) -> dict[str, list[str]]:
    """One of each command, and more of those that need other packages."""
    model, noisy, out = str(inputs / "model.h5"), str(inputs / "noisy"), str(outputs)
    small = ["--network", "strided", "--channels", "4", "--patches", "8", "--validation-pairs", "4", "--epochs", "1",
             "--patch-size", "16", "--batch-size", "4", "--noise", "gaussian:25"]  # fmt: skip
    return {
        "info": ["info"],
        "info FILE": ["info", model],
        "train": ["train", "--data", str(inputs / "photos"), *small, "-o", f"{out}/run"],
        "denoise png": ["denoise", noisy + ".png", "--model", model, "-o", f"{out}/a.png"],
        "denoise tif": ["denoise", noisy + ".tif", "--model", model, "-o", f"{out}/a.tif"],
        "denoise npy": ["denoise", noisy + ".npy", "--model", model, "-o", f"{out}/a.npy"],
        "evaluate": ["evaluate", noisy + ".png", "--noise", "gaussian:25", "--model", model, "--csv", f"{out}/a.csv"],
        "npz to h5": ["convert", str(inputs / "weights.npz"), f"{out}/a.h5", "--network", "strided"],
        "npz to safetensors": ["convert", str(inputs / "weights.npz"), f"{out}/a.safetensors"],
        "h5 to npz": ["convert", model, f"{out}/a.npz"],
        "h5 to onnx": ["convert", model, f"{out}/a.onnx"],
    }


def draw_nothing() -> None:
    from npconv import pictures
    from npconv.whole_file import whole_file

    def save(figure: object, path: Path) -> None:
        with whole_file(path) as part:
            Path(part).write_bytes(b"\x89PNG\r\n\x1a\n")

    pictures._save = save


def main(inputs: Path, outputs: Path, run_commands: bool) -> None:
    result: dict[str, Any] = {}
    try:
        result["computed"] = computed()
    except ImportError as error:
        result["computed"] = f"ImportError: {error}"
    from npconv.cli import main as npconv_command

    for name, arguments in commands(inputs, outputs).items() if run_commands else ():
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = npconv_command(arguments)
        result[name] = {"status": status, "out": out.getvalue(), "err": err.getvalue()}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    exec(sys.argv[3])
    if "blank" in sys.argv[4:]:
        draw_nothing()
    main(Path(sys.argv[1]), Path(sys.argv[2]), "compute" not in sys.argv[4:])
