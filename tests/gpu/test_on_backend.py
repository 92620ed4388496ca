"""A run on another backend cannot pass by having tested nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import on_backend
import pytest

PLAIN = "def test_plain(): pass\n"
MARKED = "import pytest\n@pytest.mark.gpu\ndef test_marked(): assert {}\n"


def run(folder: Path, tests: str, gpu: bool, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest in a folder of its own, with or without a GPU to be found."""
    (folder / "conftest.py").write_text(
        "import on_backend\nfrom on_backend import pytest_collection_modifyitems, pytest_runtest_logreport, "
        f"pytest_sessionfinish\non_backend.has_gpu = lambda: {gpu}\n"
    )
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a GPU\n")
    (folder / "test_it.py").write_text(tests)
    variables = {**os.environ, "PYTHONPATH": str(Path(on_backend.__file__).parent), **environment}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", str(folder)]
    return subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("tests", "gpu", "backend", "status", "said"),
    [
        (PLAIN, True, "cupy", 1, "this run proves nothing"),
        (PLAIN + MARKED.format(True), False, "cupy", 1, "this run proves nothing"),
        (PLAIN + MARKED.format(True), True, "cupy", 0, "2 passed"),
        (PLAIN + MARKED.format(False), True, "cupy", 1, "1 failed, 1 passed"),
        (PLAIN + MARKED.format(True), False, "numpy", 0, "1 passed, 1 skipped"),
        (PLAIN, False, "standin", 0, "1 passed"),
        (PLAIN, True, "torch", 4, "NPCONV_TEST_BACKEND (='torch') must be one of numpy, standin, cupy"),
    ],
)
def test_a_run(tmp_path: Path, tests: str, gpu: bool, backend: str, status: int, said: str) -> None:
    done = run(tmp_path, tests, gpu, NPCONV_TEST_BACKEND=backend)
    assert said in done.stdout + done.stderr and done.returncode == status


def test_a_test_that_needs_a_gpu_is_not_for_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(on_backend.VARIABLE, "standin")
    assert not on_backend.has_gpu()
