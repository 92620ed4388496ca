"""The driver's side of the workers: starts them, asks them in turn, and ends them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

COMMAND = (sys.executable, str(Path(__file__).parent / "worker.py"))
LAST_WORDS = 2000  # characters of a dead worker's standard error that are worth repeating


class WorkerError(RuntimeError):
    """What went wrong in a worker, in its own words; `trace` is its traceback."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


def environment(threads: int) -> dict[str, str]:
    """A worker's environment: this many threads, for npconv and for whatever BLAS is there, and the CPU."""
    count = str(threads)
    names = ("NPCONV_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, count), "NPCONV_BACKEND": "numpy"}


class Worker:
    """A process with one contender.

    It is apart from the terminal: Ctrl-C reaches the driver alone, which then ends its workers. If the driver dies,
    a worker's input ends, and with it the worker.
    """

    def __init__(self, contender: str, threads: int, command: Sequence[str] = COMMAND) -> None:
        self.name = contender
        self._errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  # closed by close()
        self._process = subprocess.Popen(
            [*command, contender, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
            env=environment(threads),
            start_new_session=True,
        )
        try:
            self.versions: dict[str, str] = self.ask("start")["versions"]
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """The worker's answer. Raises WorkerError for an error in it, and if it has died.

        Interrupted while it waits, it ends the worker: the answer that is on its way must not be taken for another's.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # a dead worker: its answer below is the end of its output
            self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            self._process.stdin.flush()
        try:
            line = self._process.stdout.readline()
        except BaseException:
            self._process.kill()
            raise
        if not line:
            raise WorkerError(f"the worker of {self.name} ended (status {self._process.wait()}): {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"], answer["trace"])
        return answer

    def results(self, folder: str) -> dict[str, np.ndarray]:
        """What comes out of the case that is built."""
        path = Path(folder) / f"{self.name}.npz"
        self.ask("results", path=str(path))
        with np.load(path) as stored:
            arrays = dict(stored)
        path.unlink()
        return arrays

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End the process, and wait for its end."""
        if self.alive:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-LAST_WORDS:].strip() or "it said nothing"


class Crew:
    """Workers by contender, started when first needed; a dead one is started anew. A context manager.

    "npconv" has `threads` threads, "npconv@1" has one.
    """

    def __init__(self, threads: int, command: Sequence[str] = COMMAND) -> None:
        self.threads, self._command = threads, command
        self._workers: dict[str, Worker] = {}
        self.versions: dict[str, str] = {}

    def __getitem__(self, name: str) -> Worker:
        if name in self._workers and not self._workers[name].alive:
            self._workers.pop(name).close()
        if name not in self._workers:
            self._workers[name] = self.fresh(name)
        return self._workers[name]

    def fresh(self, name: str) -> Worker:
        """A worker of its own process, which the caller closes."""
        contender, _, threads = name.partition("@")
        worker = Worker(contender, int(threads or self.threads), self._command)
        self.versions.update(worker.versions)
        return worker

    def forget(self, names: Sequence[str]) -> None:
        """Let these workers drop their case; a dead one has nothing to drop."""
        for name in names:
            if name in self._workers and self._workers[name].alive:
                self._workers[name].ask("forget")

    def dismiss(self, *names: str) -> None:
        """End these workers: they are not needed for a while, and their threads and memory are."""
        for name in names:
            if name in self._workers:
                self._workers.pop(name).close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dismiss(*list(self._workers))
