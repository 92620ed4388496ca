"""Tests of the GPU backend: on a stand-in for CuPy, and its kernels on the CPU, where there is no GPU."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from npconv import backends

sys.path.insert(0, str(Path(__file__).parent))

# CuPy 14 needs NumPy 2, and so does the stand-in.
collect_ignore_glob = ["test_*.py"] if np.lib.NumpyVersion(np.__version__) < "2.1.0" else []


@pytest.fixture(autouse=True)
def compiler() -> None:
    """Skips where kernels cannot be run on the CPU: the emulator is made for g++ on Linux."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("the kernels run on the CPU through g++ on Linux, which is not here")


@pytest.fixture
def cupy_standin() -> Iterator[ModuleType]:
    """The stand-in, where `import cupy` finds it; what was counted before is forgotten."""
    import standin

    before = sys.modules.get("cupy")
    cupy = standin.install()
    standin.reset()
    yield cupy
    if before is not cupy:  # else the whole run is on the stand-in
        standin.uninstall()


@pytest.fixture
def on_standin(cupy_standin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Runs a test with the cupy backend on the stand-in; after it all is as before."""
    import standin

    monkeypatch.setattr(backends, "_made", {})
    monkeypatch.setattr(backends, "_active", None)
    monkeypatch.setenv("NPCONV_BACKEND", "cupy")
    assert backends.backend().name == "cupy"
    standin.reset()
    return cupy_standin
