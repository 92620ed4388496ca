"""Starts the process that reads, gives it one input after the other, and starts it anew when it has ended."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .cases import Format, Input
from .outside import CANARIES, INDEX

HERE, ROOT = Path(__file__).resolve().parent, Path(__file__).resolve().parents[2]
PATIENCE = 30.0  # seconds that all readers of an input may take before the process is ended


class Server:
    """A folder for inputs, one for files beside them that nobody may open, and the process. A context manager."""

    def __init__(self, formats: list[Format], compare: bool = False) -> None:
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._folder = Path(tempfile.mkdtemp(prefix="npconv-fuzz-", dir=memory))
        self._inputs, outside = self._folder / "in", self._folder / "outside"
        self._inputs.mkdir()
        outside.mkdir()
        for name, data in CANARIES.items():
            (outside / name).write_bytes(data)
        (self._inputs / "NDTiff.index").write_bytes(INDEX)  # names one of those
        warm = ["compare"] if compare else []
        for number, (form, seed) in enumerate([(given, data) for given in formats for data in given.seeds]):
            place = self._folder / f"warm{number}"
            place.mkdir()
            (place / f"seed{form.ending}").write_bytes(seed)
            warm.append(f"{form.kind}\t{place / ('seed' + form.ending)}")
        self._command = [sys.executable, str(HERE / "child.py"), str(self._inputs), str(outside), *warm]
        self._log = open(self._folder / "log", "wb+")  # noqa: SIM115 - closed by __exit__
        self._process: Any = None

    def __enter__(self) -> Server:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._log.close()
        shutil.rmtree(self._folder)

    def _start(self) -> None:
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": paths, "NPCONV_BACKEND": "numpy", "OMP_NUM_THREADS": "1"}
        self._log.truncate(0)
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment, text=True
        )
        if self._answer(120) != "ready":
            raise RuntimeError(f"the reading process does not start: {self._words()}")

    def _stop(self) -> None:
        self._process.kill()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _answer(self, seconds: float) -> str | None:
        """The next line; None after `seconds`, "" if the process has ended."""
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            if not ready.select(seconds):
                return None
        return str(self._process.stdout.readline()).rstrip("\n")

    def _words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines[:12])

    def run(self, given: Input) -> dict[str, Any]:
        """What came of an input: outcome, faults, texts, seconds, bytes."""
        path = self._inputs / f"input{given.format.ending}"
        path.write_bytes(given.data)
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended: there will be no answer
                self._process.stdin.write(f"{given.format.kind}\t{path}\n")
                self._process.stdin.flush()
            answer = self._answer(PATIENCE)
            if answer:
                return dict(json.loads(answer))
            words = self._words()
            self._stop()
            fault = f"a hang: {PATIENCE:.0f} s" if answer is None else f"a crash ({self._process.returncode}): {words}"
            self._start()
            return {"outcome": "fault", "faults": [fault], "texts": [], "seconds": 0.0, "bytes": 0, "compared": 0}
        finally:
            path.unlink()
