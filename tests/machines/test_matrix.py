"""`.ci/matrix.py`: which combinations it runs, what it installs, and how it goes on and ends when some fail."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci/matrix.py"
if not SCRIPT.is_file():
    pytest.skip("not in a checkout", allow_module_level=True)


@pytest.fixture(scope="module")
def matrix() -> ModuleType:
    spec = importlib.util.spec_from_file_location("matrix_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pip(matrix: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Runs the script with Pythons that are there but for 3.13, with what pip and pytest then answer."""
    monkeypatch.setattr(matrix, "find_python", lambda version: None if version == "3.13" else f"python{version}")
    commands: list[list[str]] = []

    def run(answers: dict[str, tuple[int, str]], *arguments: str) -> tuple[int, list[dict[str, Any]], list[list[str]]]:
        installed: dict[str, str] = {}

        def logged(command: list[str], log: Path, limit: float | None, **variables: str) -> tuple[int, str]:
            commands.append(command)
            name = log.stem
            if "venv" in command:
                return 0, ""
            if "pip" in command:
                installed[name] = next(part for part in command if part.startswith("numpy"))
                return answers.get(f"pip {name}", (0, ""))
            if "-c" in command:
                if f"-c {name}" in answers:
                    return answers[f"-c {name}"]
                numpy = installed[name].partition("==")[2].replace("*", "9") or "2.5.9"
                return 0, json.dumps({"python": name[6:10] + ".1", "numpy": numpy, "h5py": "3.16.0"}) + "\n"
            return answers.get(command[-1], answers.get(name, (0, "....\n7 passed, 2 skipped in 1.00s\n")))

        monkeypatch.setattr(matrix, "_logged", logged)
        status = matrix.main([*arguments, "--work", str(tmp_path), "--json", str(tmp_path / "out.json")])
        return status, json.loads((tmp_path / "out.json").read_text(encoding="utf-8")), commands

    return run


def test_every_python_that_setup_cfg_names_is_tried(matrix: ModuleType) -> None:
    text = (SCRIPT.parents[1] / "setup.cfg").read_text(encoding="utf-8")
    named = [line.rpartition(":: ")[2] for line in text.splitlines() if "Python :: 3." in line]
    assert list(matrix.SERIES) == named and named[0] == text.partition("python_requires = >=")[2].split()[0]
    for series in matrix.SERIES.values():
        assert series[-1] == "newest" and {"1.26"} <= set(series)


def test_the_lowest_versions_are_those_of_setup_cfg(matrix: ModuleType) -> None:
    pinned = matrix.requirements("lowest")
    assert {"numpy==1.26", "h5py==3.11", "threadpoolctl==3.7", "pytest==7.4"} <= set(pinned)
    assert pinned.pop() == "pyparsing<3.3"
    assert all(">" not in line and line.count("==") == 1 for line in pinned)
    assert matrix.requirements("2.2") == ["numpy==2.2.*"] and matrix.requirements("newest") == ["numpy"]


def test_combinations(matrix: ModuleType) -> None:
    everything = matrix.combinations(None, None)
    assert len(everything) == sum(map(len, matrix.SERIES.values())) == len(set(everything))
    assert matrix.combinations(["3.12"], ["newest", "2.0"]) == [("3.12", "newest"), ("3.12", "2.0")]
    assert matrix.combinations(["3.14"], None) == [("3.14", "newest")]


@pytest.mark.parametrize(
    ("printed", "counts"),
    [
        ("...\n20 passed, 2 skipped in 1.2s\n", {"passed": 20, "skipped": 2}),
        ("FAILED a.py - 3 failed\n1 failed, 35 passed, 2 skipped in 9s\n", {"failed": 1, "passed": 35, "skipped": 2}),
        ("1 passed, 2 errors in 3s\nended after 3 s\n", {"passed": 1, "error": 2}),
        ("5 skipped, 1 error in 0.1s", {"skipped": 5, "error": 1}),
        ("no tests ran in 0.01s", {}),
    ],
)  # fmt: skip
def test_how_many_tests_passed(matrix: ModuleType, printed: str, counts: dict[str, int]) -> None:
    assert matrix.counts(printed) == counts


def test_all_that_can_be_had_passes(pip: Any, capsys: Any) -> None:
    gone = "ERROR: No matching distribution found for numpy==2.0.*\n"
    status, outcomes, commands = pip({"pip python3.12-numpy-2.0": (1, gone)}, "--tests", "tests/layers")
    assert status == 0
    results = {(o["python"], o["numpy"]): o["result"] for o in outcomes}
    assert {result for (python, _), result in results.items() if python == "3.13"} == {"no such Python here"}
    assert results["3.12", "2.0"] == "no wheel" and results["3.11", "lowest"] == "passed"
    assert {results[key] for key in results if key[0] in ("3.10", "3.11")} == {"passed"}
    tests = [command for command in commands if "pytest" in command]
    assert len(tests) == list(results.values()).count("passed") and all(t[-1] == "tests/layers" for t in tests)
    installs = [command for command in commands if "install" in command]
    assert all(c[c.index("-e") : c.index("-e") + 2] == ["-e", ".[test]"] for c in installs)
    table = capsys.readouterr().out
    assert "| 3.11.1 | 1.26.9 (1.26) | 3.16.0 | passed | 7 |  | 2 |" in table
    assert "| 3.13 | (newest) |  | no such Python here |" in table


def test_it_goes_on_after_failures_and_says_so_at_the_end(pip: Any, capsys: Any) -> None:
    answers = {
        "python3.11-numpy-2.0": (1, "FAILED tests/a.py::b - AssertionError\n1 failed, 6 passed in 1s\n"),
        "pip python3.12-numpy-1.26": (1, "error: subprocess-exited-with-error\n"),
        "python3.12-numpy-2.0": (5, "no tests ran in 0.01s\n"),
        "python3.12-numpy-2.2": (124, "....\nended after 3 s\n"),
    }
    status, outcomes, _ = pip(answers, "--python", "3.11", "3.12")
    failed = {(o["python"], o["numpy"]): o["why"] for o in outcomes if o["result"] == "FAILED"}
    assert status == 1 and len(outcomes) == 9 and [o["result"] for o in outcomes].count("passed") == 5
    assert failed["3.11", "2.0"].startswith("tests/a.py::b; ")
    assert failed["3.12", "1.26"] == "error: subprocess-exited-with-error"
    assert failed["3.12", "2.0"].startswith("no tests ran") and failed["3.12", "2.2"].startswith("ended after 3 s")
    assert "| FAILED | 6 | 1 |  |" in capsys.readouterr().out


def test_what_was_run_already_is_not_run_again(pip: Any) -> None:
    status, outcomes, _ = pip({}, "--python", "3.11", "--numpy", "2.5", "newest")
    assert status == 0 and [o["result"] for o in outcomes] == ["passed", "the same again"]
    assert outcomes[1]["why"] == "NumPy 2.5.9, as 2.5"


def test_pairs_are_a_python_and_a_numpy(matrix: ModuleType, pip: Any, capsys: Any) -> None:
    status, outcomes, _ = pip({}, "--pairs", "3.12+newest", "3.10+1.26")
    assert status == 0 and [(o["python"], o["numpy"]) for o in outcomes] == [("3.12", "newest"), ("3.10", "1.26")]
    for wrong in (["--pairs", "3.12"], ["--pairs", "3.12+two"], ["--pairs", "3.12+2.0", "--python", "3.12"]):
        with pytest.raises(SystemExit):
            matrix.main(wrong)
    assert "'3.12+two' must be a Python and a NumPy, such as 3.12+newest" in capsys.readouterr().err


def test_pieces_are_run_apart_and_listed(pip: Any, capsys: Any) -> None:
    """One that ends early, or has nothing to test, takes nothing from the others."""
    answers = {"tests/layers": (124, "...\n"), "tests/gpu": (5, "1 skipped in 0.1s\n")}
    answers["tests/cli"] = (0, "SKIPPED [2] tests/cli/a.py:3: no torch | here\n5 passed, 2 skipped in 1s\n")
    arguments = ["--pieces", "--tests", "tests/layers", "tests/gpu", "tests/cli", "tests/test_t[ho]*.py"]
    status, (outcome,), commands = pip(answers, "--pairs", "3.12+2.0", *arguments, "--through", "nice -n 19")
    assert status == 1 and outcome["result"] == "FAILED" and outcome["why"].startswith("...; ")
    assert outcome["counts"] == {"passed": 12, "skipped": 5} and outcome["skipped"] == {"no torch | here": 2}
    tests = [command for command in commands if "pytest" in command]
    assert [command[-1] for command in tests[:3]] == ["tests/layers", "tests/gpu", "tests/cli"]
    assert "tests/test_threads.py" in tests[3] and all(command[:3] == ["nice", "-n", "19"] for command in tests)
    printed = capsys.readouterr().out
    for line in ("| tests/gpu | 1 skipped |", "| tests/layers | ..., status 124 |", "| no torch / here | 2 |",
                 "| tests/test_t[ho]*.py | 7 passed, 2 skipped |"):  # fmt: skip
        assert line in printed


def test_every_test_is_in_a_piece(matrix: ModuleType) -> None:
    root = SCRIPT.parents[1]
    given = sum(matrix.pieces([], True).values(), [])
    files = [file for path in given for file in (root / path).rglob("test_*.py")] + [root / path for path in given]
    assert set(root.glob("tests/**/test_*.py")) <= set(files) and matrix.pieces([], False) == {"tests": []}
    assert matrix.expanded("tests/no[thing].py tests/cli") == ["tests/no[thing].py", "tests/cli"]


def test_environments_that_are_there_are_used_as_they_are(pip: Any, tmp_path: Path) -> None:
    for name in ("python3.12-numpy-newest", "python3.12-numpy-2.0"):
        (tmp_path / "made" / name / "bin").mkdir(parents=True)
        (tmp_path / "made" / name / "bin/python").touch()
    found = {name: json.dumps({"python": "3.12.1", "numpy": "2.5.9", "h5py": "3.16.0"}) for name in ("newest", "2.0")}
    answers = {f"-c python3.12-numpy-{name}": (0, text + "\n") for name, text in found.items()}
    pairs = ["3.12+newest", "3.12+2.0", "3.12+1.26"]
    status, outcomes, commands = pip(answers, "--environments", str(tmp_path / "made"), "--pairs", *pairs)
    assert [o["result"] for o in outcomes] == ["passed", "FAILED", "no such environment"] and status == 1
    assert outcomes[1]["why"].endswith("has Python 3.12.1 and NumPy 2.5.9")
    assert not any("pip" in command or "venv" in command for command in commands)
    assert (tmp_path / "made/python3.12-numpy-newest/bin/python").exists()
    laid_out = tmp_path / "npconv-laid-out/npconv"
    assert (laid_out / "backends/cpu/conv.py").is_file() and (laid_out / "cli/train.py").is_file()


def test_nothing_at_all_is_no_success(pip: Any) -> None:
    assert pip({}, "--python", "3.13")[0] == 1


def test_it_lists_what_there_would_be() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--list", "--python", "3.99"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Python 3.99 (no such Python here), NumPy newest: numpy\n")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    done = subprocess.run([sys.executable, SCRIPT, "--list", "--python", version], capture_output=True, text=True)
    assert f"Python {version} ({sys.executable}), NumPy 1.26: numpy==1.26.*\n" in done.stdout


def test_a_command_that_takes_too_long_is_ended_and_logged(matrix: ModuleType, tmp_path: Path) -> None:
    code = "import os, sys, time; print('begun', os.environ.get('NPCONV_THREADS'), flush=True); time.sleep(60)"
    status, text = matrix._logged([sys.executable, "-c", code], tmp_path / "a.log", 1.0)
    assert status == 124 and text.startswith("begun None") and text.endswith("ended after 1 s\n")
    assert (tmp_path / "a.log").read_text(encoding="utf-8").endswith(text)
