"""A fixed choice of hostile files, read under guard in a process of its own; and that the guard would see a fault."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("PIL.Image")
pytest.importorskip("tifffile")
pytestmark = [
    pytest.mark.cpu,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the guards are Linux's"),
]

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from fuzzing.cases import Format, make  # noqa: E402  # the benchmarks are scripts, not a package
from fuzzing.formats import formats  # noqa: E402
from fuzzing.random_bytes import GENERIC  # noqa: E402
from fuzzing.server import Server  # noqa: E402

FORMATS = {form.name: form for form in formats()}
# How many of each mutation: blind ones are cheap, those that know the format each make several kinds of files.
BLIND, KNOWING = 1, 3


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(list(FORMATS.values())) as started:
        yield started


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_files_are_loaded_rightly_or_refused(name: str, server: Server) -> None:
    form = FORMATS[name]
    outcomes = {"loaded": 0, "refused": 0}
    for mutation in (*GENERIC, *form.mutations):
        for seed in range(BLIND if mutation in GENERIC else KNOWING):
            result = server.run(make(form, mutation, seed, GENERIC))
            assert not result["faults"], (mutation, seed)
            outcomes[result["outcome"]] += 1
    assert min(outcomes.values()) > 0, outcomes


@pytest.mark.parametrize("name", FORMATS)
def test_valid_files_are_loaded(name: str, server: Server) -> None:
    form = FORMATS[name]
    for seed in form.seeds:
        result = server.run(make(Format(name, form.ending, form.kind, [seed], {}), "none", 0, GENERIC))
        assert result["outcome"] == "loaded" and not result["faults"], result


BAD_READERS = """
import json, os, subprocess, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from fuzzing import child, guards
inputs, outside = Path(sys.argv[2]) / "in", Path(sys.argv[2]) / "outside"
path = inputs / "a.pth"
from npconv import FileFormatError

class Known:
    kinds = {}
    bits = 0
    def changed(self): return self.bits != 0
    def restore(self): self.bits = 0

known = Known()
def refuse(text):
    def read(path): raise FileFormatError(text)
    return read
def change(path):
    known.bits = 1
    raise FileFormatError(f"{path}: byte 17 is wrong")
def starved(path):
    try: np.ones(1 << 40)
    except MemoryError: raise FileFormatError(f"{path}: byte 17 is wrong") from None
readers = {
    "good": lambda path: path.read_bytes(), "refused": refuse(f"{path}: byte 17 is wrong"),
    "no place": refuse("it is wrong"),
    "other error": lambda path: 1 / 0, "outside": lambda path: (outside / "raw").read_bytes(),
    "beside": lambda path: open("/etc/hostname").read(), "written": lambda path: open(inputs / "b", "w").close(),
    "system": lambda path: os.system("true"), "program": lambda path: subprocess.run(["true"]),
    "code": lambda path: exec("1"), "memory": lambda path: np.ones(80_000_000), "starved": starved, "changed": change,
    "slow": lambda path: time.sleep(0.3),
}
child.SECONDS = 0.2
watch = guards.Watch(inputs, outside)
guards.limit_memory()
found = {}
for name, read in readers.items():
    known.kinds = {"x": [(name, read)]}
    found[name] = child.examine(known, watch, "x", path)
print(json.dumps(found))
"""


def test_the_guard_sees_faults(tmp_path: Path) -> None:
    for folder in ("in", "outside"):
        (tmp_path / folder).mkdir()
    (tmp_path / "in/a.pth").write_bytes(b"x")
    (tmp_path / "outside/raw").write_bytes(b"x")
    command = [sys.executable, "-c", BAD_READERS, str(BENCHMARKS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["good"]["outcome"] == "loaded" and found["refused"]["outcome"] == "refused"
    expected = {
        "no place": "it does not say where",
        "other error": "ZeroDivisionError",
        "outside": "opened raw",
        "beside": "open('/etc/hostname'",
        "written": "open(",
        "system": "os.system",
        "program": "subprocess.Popen",
        "code": "exec(",
        "memory": " MB",
        "starved": "memory was asked for",
        "changed": "the network has changed",
        "slow": "0.3 s",
    }
    for name, text in expected.items():
        assert found[name]["outcome"] == "fault", name
        assert any(text in fault for fault in found[name]["faults"]), (name, found[name]["faults"])


def test_a_crash_and_a_hang_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    form = FORMATS["PNG"]
    given = make(form, "none", 0, GENERIC)
    with Server([form]) as started:
        monkeypatch.setattr("fuzzing.server.PATIENCE", 0.2)
        os.kill(started._process.pid, signal.SIGSTOP)
        result = started.run(given)
        assert result["outcome"] == "fault" and "a hang" in result["faults"][0]
        monkeypatch.setattr("fuzzing.server.PATIENCE", 30.0)
        assert started.run(given)["outcome"] == "loaded"  # with a new process
        started._process.kill()
        started._process.wait()
        result = started.run(given)
        assert result["outcome"] == "fault" and "a crash (-9)" in result["faults"][0]
        assert started.run(given)["outcome"] == "loaded"
