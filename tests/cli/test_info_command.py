"""`npconv info`, and what all commands share: help, version, errors."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

import npconv
from npconv.cli import main
from npconv.model import Model

COMMANDS = ("train", "denoise", "evaluate", "convert", "info")


def run_info(**environment: str) -> subprocess.CompletedProcess[str]:
    """`npconv info` in a process of its own: the environment is read once."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NPCONV_")}
    command = [sys.executable, "-m", "npconv.cli", "info"]
    return subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=False)


def test_info_says_what_computes_and_why(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert f"npconv         {npconv.__version__}\n" in out
    assert f"{npconv.backend().name} ({npconv.backend_reason()})" in out
    assert npconv.backend().describe() in out
    for name in ("NPCONV_BACKEND", "NPCONV_THREADS", "NPCONV_CONV"):
        assert f"  {name} " in out


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_info_says_how_to_get_cupy(capsys):
    main(["info"])
    assert 'cannot be used: CuPy is not installed; pip install "npconv[cuda12]"' in capsys.readouterr().out


def test_info_survives_a_broken_environment():
    done = run_info(NPCONV_BACKEND="fortran", NPCONV_THREADS="3")
    assert done.returncode == 1
    message = "backend (='fortran', NPCONV_BACKEND=fortran) must be one of numpy, cupy, auto"
    assert done.stderr == f"npconv info: error: {message}\n"
    assert f"none: {message}" in done.stdout
    assert "NPCONV_BACKEND = fortran" in done.stdout and "NPCONV_THREADS = 3" in done.stdout
    assert "CuPy " in done.stdout


def test_info_shows_values_of_the_environment():
    done = run_info(NPCONV_THREADS="1", NPCONV_CONV="im2col")
    assert done.returncode == 0 and done.stderr == ""
    assert "1 worker thread(s)" in done.stdout and "NPCONV_CONV = im2col" in done.stdout
    assert "NPCONV_BACKEND (not set)" in done.stdout


def test_info_of_a_model_file(tmp_path, capsys):
    network = npconv.networks.strided(4)
    model = Model(network, npconv.L1(), npconv.Adam(network.parameters(), lr=0.02))
    model.save(tmp_path / "model.h5")
    assert main(["info", str(tmp_path / "model.h5")]) == 0
    out = capsys.readouterr().out
    # 3 convolutions of 3 or 4 channels to 4, and one of 4 to 3, 3 x 3, with biases
    count = 4 * 27 + 4 + 2 * (4 * 36 + 4) + 3 * 36 + 3
    assert f"parameters  {count}\n" in out and "L1()" in out and "Adam(lr=0.02" in out
    assert "  (0): Conv2d(3, 4, kernel_size=(3, 3), stride=(2, 2)" in out.replace("    (0)", "  (0)")


def test_info_of_what_is_no_model(tmp_path, capsys):
    path = tmp_path / "model.h5"
    assert main(["info", str(path)]) == 1
    assert capsys.readouterr().err == f"npconv info: error: {path} is not a file\n"


# ---- shared by all commands ----
def test_without_a_command_there_is_help(capsys):
    assert main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: npconv ") and all(f"  {name} " in out for name in COMMANDS)
    assert "npconv denoise photo.png -o clean.png" in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"npconv {npconv.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: npconv {command} " in out and f"\n  npconv {command}" in out.partition("example")[2]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["fly"], "npconv: error: argument COMMAND: invalid choice: 'fly'"),
        (["--fly"], "npconv: error: unrecognized arguments: --fly"),
        (["info", "--fly"], "npconv info: error: unrecognized arguments: --fly (see npconv info --help)"),
        (["denoise"], "npconv denoise: error: the following arguments are required: IMAGE"),
    ],
)
def test_usage_errors_are_one_line(arguments, error, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(error) and err.count("\n") == 1


def test_a_backend_that_cannot_be_used_is_one_line(capsys, monkeypatch):
    def unusable():
        raise RuntimeError("the cupy backend cannot be used: there is no GPU")

    monkeypatch.setattr("npconv.cli.parser.backend", unusable)
    assert main(["train"]) == 2
    expected = "npconv train: error: the cupy backend cannot be used: there is no GPU\n"
    assert capsys.readouterr().err == expected


def test_a_reader_that_leaves_is_no_error():
    script = "import sys; from npconv.cli import main; sys.stdin.read(); sys.exit(main(['info']))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()  # before anything is written
    process.stdin.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1 and err == b""
