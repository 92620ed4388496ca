"""Files that are there whole or not at all: whatever happens while one is written, the old one stays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path`, with its ending, to write to; when the block ends, that file takes `path`'s place.

    If the block raises, the new file is removed and an old one is left as it was.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # onto the disk, before the name points to it
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
