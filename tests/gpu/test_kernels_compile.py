"""Every kernel compiles for the GPUs that npconv is for (sm_80, sm_90), with every set of macros, and without spills.

A file's first lines say which macros it takes, one set a line, of which every combination is compiled:

    // compile: REAL=float,double; TILE=32,64

Without such a line it is compiled for float and double. Of each line the first and the last combination are compiled;
NPCONV_TEST_KERNELS=all compiles all of them, which takes minutes.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from standin.emulator import folder_of_compiled

from npconv.backends.gpu.launching import KERNELS, REALS, compile_options, source

ARCHITECTURES = ("80", "90")
FAMILIES = sorted(path.stem for path in KERNELS.glob("*.cu"))
LINE = re.compile(r"// compile: *(.*)")


def combinations(text: str, ends: bool = False) -> Iterator[dict[str, str]]:
    """The sets of macros that a kernel file asks for; ValueError for a line that is not understood.

    `ends`: of each line the first and the last only.
    """
    lines = [found[1] for line in text.splitlines() if (found := LINE.fullmatch(line.rstrip()))]
    seen = []
    for line in lines or ["REAL=" + ",".join(REALS.values())]:
        choices = {}
        for part in line.split(";"):
            name, equals, values = (piece.strip() for piece in part.partition("="))
            if not equals or not re.fullmatch(r"\w+", name) or not re.fullmatch(r"\w+(\s*,\s*\w+)*", values):
                raise ValueError(f"a compile line has NAME=value,value; ..., got {part!r}")
            choices[name] = [value.strip() for value in values.split(",")]
        choices.setdefault("REAL", list(REALS.values()))
        if not set(choices["REAL"]) <= set(REALS.values()):
            raise ValueError(f"REAL is float or double, got {choices['REAL']}")
        products = list(itertools.product(*choices.values()))
        for values in products[:: max(1, len(products) - 1)] if ends else products:
            macros = dict(zip(choices, values, strict=True))
            if macros not in seen:
                seen.append(macros)
                yield macros


CASES = [
    pytest.param(family, macros, id=f"{family}-{'-'.join(f'{k}={v}' for k, v in macros.items())}")
    for family in FAMILIES
    for macros in combinations(
        (KERNELS / f"{family}.cu").read_text(encoding="utf-8"), ends=os.environ.get("NPCONV_TEST_KERNELS") != "all"
    )
]


def compile_with_nvcc(text: str, macros: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """What nvcc says of a source text; ptxas counts spills for each kernel and architecture."""
    file = folder / "kernel.cu"
    file.write_text(text, encoding="utf-8")
    options = compile_options(macros["REAL"], {name: value for name, value in macros.items() if name != "REAL"})
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]
    command = ["nvcc", "-fatbin", *targets, "-Xptxas", "-v", *options, "-o", str(folder / "kernel.fatbin"), str(file)]
    return subprocess.run(command, capture_output=True, text=True)


def reported(text: str, macros: dict[str, str], folder: Path) -> str:
    """What nvcc says of a source text that it takes; kept with the emulator's kernels, as a text takes it seconds."""
    key = hashlib.sha256("\0".join([version_of_nvcc(), text, str(macros), *ARCHITECTURES]).encode()).hexdigest()[:24]
    kept = folder_of_compiled() / f"{key}.nvcc.txt"
    if not kept.exists():
        done = compile_with_nvcc(text, macros, folder)
        assert done.returncode == 0, done.stderr
        written = kept.with_suffix(f".{os.getpid()}")
        written.write_text(done.stderr, encoding="utf-8")
        written.replace(kept)
    return kept.read_text(encoding="utf-8")


@cache
def version_of_nvcc() -> str:
    return subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout


def spilling(report: str) -> list[str]:
    """The kernels that spill registers, from the report of ptxas -v."""
    spills, name = [], ""
    for line in report.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            name = f"{found[1]} ({found[2]})"
        found = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)
        if found and (int(found[1]) or int(found[2])):
            spills.append(f"{name}: {found[0]}")
    return spills


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on this machine")


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize(("family", "macros"), CASES)
def test_compiles_without_spills(family: str, macros: dict[str, str], tmp_path: Path) -> None:
    report = reported(source(family), macros, tmp_path)
    for number in ARCHITECTURES:
        assert f"for 'sm_{number}'" in report
    assert not spilling(report)
    assert "warning" not in report, report


@needs_nvcc
def test_a_spill_is_found(tmp_path: Path) -> None:
    """300 values that live at once, in at most 32 registers."""
    text = """
    extern "C" __global__ void __launch_bounds__(1024, 2) spills(float* x) {
        float v[300];
        #pragma unroll
        for (int i = 0; i < 300; i++) v[i] = x[i * 1024 + threadIdx.x];
        __syncthreads();
        #pragma unroll
        for (int i = 0; i < 300; i++) x[i * 1024 + threadIdx.x] = v[i] * v[299 - i];
    }"""
    done = compile_with_nvcc(text, {"REAL": "float"}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(spilling(done.stderr)) == 2 and spilling(done.stderr)[0].startswith("spills (sm_")


def test_there_are_kernels() -> None:
    assert FAMILIES


def test_every_kernel_file_has_kernels_of_c_names() -> None:
    for family in FAMILIES:
        assert re.search(r'extern "C" __global__ void (__launch_bounds__\(.*?\) )?\w+\(', source(family)), family


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("// no line", [{"REAL": "float"}, {"REAL": "double"}]),
        ("// compile: REAL=float", [{"REAL": "float"}]),
        ("// compile: TILE=8", [{"TILE": "8", "REAL": "float"}, {"TILE": "8", "REAL": "double"}]),
        ("// compile: REAL=float; A=1,2", [{"REAL": "float", "A": "1"}, {"REAL": "float", "A": "2"}]),
        (
            "// compile: REAL=float; A=1\n// compile: REAL=double; A=2\n// compile: REAL=float; A=1",
            [{"REAL": "float", "A": "1"}, {"REAL": "double", "A": "2"}],
        ),
    ],
)
def test_the_compile_lines(text: str, expected: list[dict[str, str]]) -> None:
    assert list(combinations(text)) == expected


def test_the_ends_of_a_line() -> None:
    text = "// compile: REAL=float,double; A=1,2\n// compile: REAL=float; A=3"
    found = [tuple(macros.values()) for macros in combinations(text, ends=True)]
    assert found == [("float", "1"), ("double", "2"), ("float", "3")]


@pytest.mark.parametrize("line", ["// compile: REAL", "// compile: REAL=half", "// compile: A=1;", "// compile: A="])
def test_a_wrong_compile_line_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"compile line|REAL is"):
        list(combinations(line))
