"""What all tests share: the folder of helpers, one profile for hypothesis, single-threaded PyTorch, and fixtures."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

import npconv as nc
from npconv import pictures
from npconv.backends.cpu import conv, elementwise, operations
from npconv.backends.cpu.workers import WorkerPool
from npconv.whole_file import whole_file

# Test files are not a package (pytest's importlib mode): helpers that several need are modules in this folder.
sys.path.insert(0, str(Path(__file__).parent / "reference"))
sys.path.insert(0, str(Path(__file__).parent / "gpu"))

import on_backend
from on_backend import pytest_runtest_logreport, pytest_sessionfinish  # noqa: F401

on_backend.choose()  # before any test file makes an array

from convolutions import ALGORITHMS, using  # noqa: E402 - the algorithms of the backend that was chosen

# The same examples in every run: a failure seen once is seen again.
hypothesis.settings.register_profile("npconv", deadline=None, max_examples=100, derandomize=True, database=None)
hypothesis.settings.load_profile("npconv")

with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    on_backend.pytest_collection_modifyitems(items)
    if nc.backend().name != "numpy":
        for item in items:
            if item.get_closest_marker("cpu"):
                item.add_marker(pytest.mark.skip(reason="of the CPU backend alone"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test with every convolution algorithm, as NPCONV_CONV (or NPCONV_GPU_CONV) would choose them."""
    with using(request.param):
        yield str(request.param)


@pytest.fixture(params=[1, 3])
def kernel_threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Runs a test with one thread, and with three that share even the smallest operation."""
    _of_the_cpu()
    monkeypatch.setattr(nc.backend(), "_pool", WorkerPool(request.param))
    for module in (conv, elementwise, operations):
        monkeypatch.setattr(module, "WORTH_SPLITTING", 1)
    return int(request.param)


@pytest.fixture
def set_workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Changes the number of workers that share a batch, as NPCONV_THREADS would."""

    def change(count: int) -> None:
        if count == nc.backend().workers == 1:
            return
        _of_the_cpu()
        monkeypatch.setattr(nc.backend()._pool, "size", count)

    return change


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pictures of a training are composed, but not drawn, which would take a third of a second each epoch."""

    def save(figure: object, path: Path) -> None:
        with whole_file(path) as part:
            Path(part).write_bytes(b"\x89PNG\r\n\x1a\n")

    monkeypatch.setattr(pictures, "_save", save)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Initial weights and dropout masks repeat, whichever tests ran before."""
    nc.manual_seed(0)
    yield


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT is Ctrl-C, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _of_the_cpu() -> None:
    if nc.backend().name != "numpy":
        pytest.skip("threads of the CPU")
