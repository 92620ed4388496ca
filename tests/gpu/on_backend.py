"""The whole suite on another backend: NPCONV_TEST_BACKEND=standin (no GPU needed) or cupy, read by tests/conftest.py.

With cupy, a run in which no test marked `gpu` passed has failed: it would prove nothing.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

VARIABLE = "NPCONV_TEST_BACKEND"
CHOICES = ("numpy", "standin", "cupy")

_passed_on_gpu: set[str] = set()
_marked: set[str] = set()


def chosen() -> str:
    """What the variable says; UsageError if it is not one of CHOICES."""
    name = os.environ.get(VARIABLE) or "numpy"
    if name not in CHOICES:
        raise pytest.UsageError(f"{VARIABLE} (={name!r}) must be one of {', '.join(CHOICES)}")
    return name


def choose() -> None:
    """Make the chosen backend the active one, for the whole run."""
    name = chosen()
    if name == "numpy":
        return
    if name == "standin":
        import standin

        standin.install()
    from npconv.backends import use_backend

    use_backend("cupy")


def has_gpu() -> bool:
    """Whether the tests marked `gpu` can run: on CuPy itself, not on the stand-in."""
    if chosen() == "standin":
        return False
    from npconv.backends.gpu import unusable_because

    return unusable_because() is None


def pytest_collection_modifyitems(items: list[Any]) -> None:
    chosen()
    marked = [item for item in items if item.get_closest_marker("gpu")]
    _marked.update(item.nodeid for item in marked)
    if marked and not has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU and CuPy"))


def pytest_runtest_logreport(report: Any) -> None:
    if report.when == "call" and report.passed and report.nodeid in _marked:
        _passed_on_gpu.add(report.nodeid)


def pytest_sessionfinish(session: Any) -> None:
    if chosen() == "cupy" and not _passed_on_gpu and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"{VARIABLE}=cupy, but no test marked gpu passed: this run proves nothing", red=True)
