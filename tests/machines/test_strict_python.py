"""Python without asserts and docstrings (-O, -OO), and Python that makes an error of every warning (-W error)."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import npconv
from npconv import backends, data
from npconv.cli import main

Job = Callable[..., dict[str, Any]]

PACKAGE, BACKENDS = Path(npconv.__file__).parent, Path(backends.__file__).parent
FILES = sorted({*PACKAGE.rglob("*.py"), *BACKENDS.rglob("*.py")})


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    """What was computed, and the exit status and stderr of each command."""
    status = {
        name: (value["status"], value["err"])
        for name, value in result.items()
        if isinstance(value, dict) and "status" in value
    }
    return {"computed": result["computed"], **status}


@pytest.mark.cpu
def test_asserts_and_docstrings_change_nothing(whole_job: Job, usual: dict[str, Any]) -> None:
    result = whole_job("assert False", PYTHONOPTIMIZE="2", draws=True)  # as -OO
    assert result.pop("stderr") == ""
    assert without_times(result) == without_times(usual)


def test_every_assert_tells_the_type_checker_what_is_not_none() -> None:
    """With -O they are gone: none may be what keeps a wrong value out."""
    asserts = [
        (path.name, node.test)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    for name, test in asserts:
        for part in test.values if isinstance(test, ast.BoolOp) else [test]:
            narrowing = isinstance(part, ast.Call) and ast.unparse(part.func) == "isinstance"
            assert narrowing or ast.unparse(part).endswith(" is not None"), f"{name}: assert {ast.unparse(test)}"


def test_no_docstring_is_used() -> None:
    used = [path.name for path in FILES if "__doc__" in path.read_text(encoding="utf-8")]
    assert used == []


@pytest.mark.cpu
def test_nothing_warns(whole_job: Job, usual: dict[str, Any]) -> None:
    """On import, in training and prediction, and in every command; of files without a close, and of encodings too."""
    flags = ("-W", "error", "-X", "warn_default_encoding", "-X", "dev")
    encodings = (  # matplotlib leaves some open
        "import warnings; warnings.filterwarnings('ignore', category=EncodingWarning); "
        "warnings.filterwarnings('error', category=EncodingWarning, module='npconv')"
    )
    result = whole_job(encodings, flags, draws=True)
    assert without_times(result) == without_times(usual)
    assert "Warning" not in result["stderr"] and "Exception ignored" not in result["stderr"]


def test_a_warning_that_python_makes_an_error_is_one_line(tmp_path: Path, capsys: Any) -> None:
    import numpy as np

    npconv.Model(npconv.networks.strided(4, 1)).save(tmp_path / "model.h5")
    np.save(tmp_path / "pages.npy", np.zeros((2, 8, 8), np.uint8))  # gray and alpha, or two pages: a warning
    arguments = [
        "denoise",
        str(tmp_path / "pages.npy"),
        "--model",
        str(tmp_path / "model.h5"),
        "-o",
        str(tmp_path) + "/o/",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err.startswith("npconv denoise: error: ") and "is read as gray and alpha" in err and err.count("\n") == 1
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(arguments) == 0
    assert capsys.readouterr().err.startswith("npconv: warning: ")
    assert data.read_image(tmp_path / "o/pages.npy").shape == (2, 8, 8)
