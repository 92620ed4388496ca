"""Inputs for small jobs, and processes of their own to run them in: machines differ by what is set at the start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npconv
from npconv import data
from npconv.interchange import write_state
from npconv.model import Model

ROOT = Path(npconv.__file__).parent.parent
JOB = Path(__file__).parent / "whole_job.py"


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its weights as .npz, a noisy image in three formats, and a folder of photographs."""
    pytest.importorskip("PIL.Image")
    pytest.importorskip("tifffile")
    folder = tmp_path_factory.mktemp("inputs")
    npconv.manual_seed(0)
    model = Model(npconv.networks.strided(4))
    model.save(folder / "model.h5")
    write_state(model.network, folder / "weights.npz")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 20, 24), dtype=np.uint8)
    for ending in ("png", "tif", "npy"):
        data.write_image(folder / f"noisy.{ending}", image)
    (folder / "photos").mkdir()
    for i, photo in enumerate(data.dead_leaves(3, 40, 44, rng)):
        data.write_image(folder / f"photos/{i}.png", photo)
    return folder


def clean_environment(**changes: str | None) -> dict[str, str]:
    """This process's environment without npconv's own variables, and with changes (None: not set)."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NPCONV_")}
    path = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    merged = {**kept, "PYTHONPATH": os.pathsep.join(path), "NPCONV_THREADS": "1", **changes}
    return {name: value for name, value in merged.items() if value is not None}


@pytest.fixture(scope="session")
def environment() -> Callable[..., dict[str, str]]:
    return clean_environment


@pytest.fixture
def whole_job(inputs: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs whole_job.py on a machine that differs by `code`, flags of Python's and variables: what it printed.

    `commands`: the commands too; `draws`: the pictures of a training too.
    """

    def run(
        code: str = "",
        flags: tuple[str, ...] = (),
        *,
        commands: bool = True,
        draws: bool = False,
        outputs: Path | None = None,
        **env: Any,
    ) -> dict[str, Any]:
        command = [sys.executable, *flags, str(JOB), str(inputs), str(outputs or tmp_path), code]
        command += [] if commands else ["compute"]
        command += [] if draws else ["blank"]
        done = subprocess.run(command, env=clean_environment(**env), capture_output=True, check=False)
        error = done.stderr.decode("utf-8", "backslashreplace")
        assert done.returncode == 0, error[-4000:]
        result: dict[str, Any] = json.loads(done.stdout)
        result["stderr"] = error
        return result

    return run


@pytest.fixture(scope="session")
def usual(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the job prints on this machine as it is."""
    command = [sys.executable, str(JOB), str(inputs), str(tmp_path_factory.mktemp("usual")), ""]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result
