"""Pythons that lack parts of the standard library: built without them, or for a browser (Pyodide), without threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npconv
from npconv import data
from npconv.backends.cpu.blas import BlasThreads
from npconv.backends.cpu.workers import WorkerPool
from npconv.data import tiff_segments

pytestmark = pytest.mark.cpu

Job = Callable[..., dict[str, Any]]

ABSENT = """
import sys
import numpy, threadpoolctl
sys.modules.update(dict.fromkeys({names!r}))
"""
# What Python for a browser has not, and nothing else that npconv uses may want while it is imported.
BROWSER = (
    "_multiprocessing", "multiprocessing.connection", "multiprocessing.shared_memory", "_posixsubprocess",
    "_posixshmem", "fcntl", "resource", "pwd", "grp", "termios", "ssl", "_ssl", "lzma", "_lzma", "sqlite3", "msvcrt",
)  # fmt: skip
NO_THREADS = """
import _thread, threading
def refused(*_, **__): raise RuntimeError("can't start new thread")
_thread.start_new_thread = threading._start_new_thread = refused
if hasattr(_thread, "start_joinable_thread"):  # Python 3.13
    _thread.start_joinable_thread = threading._start_joinable_thread = refused
"""
NO_FORK = "import os; del os.fork; sys.platform = 'emscripten'\n"


@pytest.mark.skipif(sys.platform != "linux", reason="takes away what Linux has")
@pytest.mark.parametrize(
    "code",
    [
        ABSENT.format(names=BROWSER) + NO_THREADS + NO_FORK,
        ABSENT.format(names=("_multiprocessing", "multiprocessing.connection")),
        ABSENT.format(names=("multiprocessing",)),
    ],
    ids=["a browser's", "without _multiprocessing", "without multiprocessing"],
)
def test_python_without_some_of_its_library_computes_the_same_bits(
    code: str, whole_job: Job, usual: dict[str, Any]
) -> None:
    result = whole_job(code, commands=False)
    assert result["computed"] == {**usual["computed"], "processes": False} and result["stderr"] == ""


def test_importing_npconv_needs_none_of_it(environment: Callable[..., dict[str, str]], inputs: Path) -> None:
    code = (
        ABSENT.format(names=(*BROWSER, "multiprocessing", "subprocess"))
        + NO_THREADS
        + "import npconv, npconv.cli, npconv.data, npconv.interchange\n"
        + "sys.exit(npconv.cli.main(['info']))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "" and "1 worker thread(s)" in done.stdout


def test_an_lzma_tiff_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((8, 8), "u1"), metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["Compression"].overwrite(34_925)
    with pytest.raises(npconv.FileFormatError, match=r"a\.tif.*strip or tile 1 is damaged"):
        data.read_image(path)
    monkeypatch.setitem(sys.modules, "_lzma", None)
    said = r"a\.tif.*page 1 is compressed with LZMA \(34925\), and this Python has no lzma"
    with pytest.raises(npconv.FileFormatError, match=said):
        data.read_image(path)


def test_strips_are_unpacked_without_threads_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile = pytest.importorskip("tifffile")

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    values = np.random.default_rng(0).integers(0, 9, (60, 40), dtype="u1")
    tifffile.imwrite(tmp_path / "a.tif", values, compression="zlib", rowsperstrip=3, metadata=None)
    monkeypatch.setattr(tiff_segments, "WORTH_THREADS", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(threading.Thread, "start", refused)
    np.testing.assert_array_equal(data.read_image(tmp_path / "a.tif")[0], values)


# ---- BLAS ----
def test_a_blas_that_is_not_known_says_what_comes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = WorkerPool(1)
    monkeypatch.setattr(pool, "_blas", blas := BlasThreads())
    monkeypatch.setattr(blas, "_libraries", [])
    assert pool.blas() == (
        "BLAS: not recognised by threadpoolctl: npconv cannot bound its threads, so speed, and the last bits of "
        "results, may depend on them"
    )
