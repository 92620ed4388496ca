"""stdout and stderr for the time of a command: whatever they are, a command ends as it would on a terminal.

closed, or none at all      what is printed is lost, and nothing else
/dev/full, a broken pipe    of stdout an error, exit status 1; of stderr nothing: who reads it has gone
a terminal that went away   what is printed is lost, and the command goes on
any encoding                what it cannot hold is printed as an escape
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Of the control characters lines and columns alone: a file's name must not move the cursor.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


class Output:
    """A text stream of the process that takes any text. `needed`: whether losing what is printed is an error."""

    def __init__(self, stream: Any, needed: bool) -> None:
        self._stream, self._needed = stream, needed
        self.error: OSError | None = None  # what was lost, where that is an error

    def write(self, text: str) -> int:
        """The length of `text`; OSError if it is needed and cannot be written, once: then nothing is."""
        if self._stream is not None:
            try:
                self._stream.write(self._in_its_encoding(text))
            except (OSError, ValueError) as error:
                self._lost(error)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lost(error)

    def isatty(self) -> bool:
        try:
            return self._stream is not None and bool(self._stream.isatty())
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._stream, name)

    def abandon(self) -> None:
        """Let what is still to be written go nowhere, or Python would complain of it when it ends."""
        stream, self._stream = self._stream, None
        with contextlib.suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, stream.fileno())
            finally:
                os.close(nowhere)

    def _in_its_encoding(self, text: str) -> str:
        encoding = getattr(self._stream, "encoding", None)
        if not isinstance(encoding, str):
            return text
        try:
            text.encode(encoding, getattr(self._stream, "errors", None) or "strict")
        except UnicodeEncodeError:
            return text.encode(encoding, "backslashreplace").decode(encoding)
        return text

    def _lost(self, error: OSError | ValueError) -> None:
        """ValueError: the stream is closed; EIO: the terminal has gone, and the work can go on without it."""
        self.abandon()
        if self._needed and isinstance(error, OSError) and error.errno != errno.EIO:
            broken = isinstance(error, BrokenPipeError)
            self.error = error if broken else OSError(f"cannot write to stdout: {error.strerror or error}")
            raise self.error


@contextmanager
def outputs() -> Iterator[Output]:
    """Within this, sys.stdout and sys.stderr take any text; gives stdout."""
    fill_descriptors()
    out, errors = Output(sys.stdout, needed=True), Output(sys.stderr, needed=False)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        yield out


def fill_descriptors() -> None:
    """Open those of the descriptors 0, 1 and 2 that are closed.

    The next file to be opened would get such a number, and what a library prints would be written into it.
    """
    if sys.stdin is not None and sys.stdout is not None and sys.stderr is not None:
        return
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one


def plain(text: str) -> str:
    """`text` with its control characters, but for line breaks and tabs, as escapes."""
    return text.translate(_CONTROL)


__all__ = ["Output", "fill_descriptors", "outputs", "plain"]
