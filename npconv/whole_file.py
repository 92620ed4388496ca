"""Files that are there whole or not at all: whatever happens while one is written, the old one stays."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST = 255  # bytes of a file's name, on the usual file systems


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path`, with its ending, to write to; when the block ends, that file takes `path`'s place.

    If the block raises, the new file is removed and an old one is left as it was.
    """
    path = Path(path)
    part = path.with_name(_part_name(path))
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # onto the disk, before the name points to it
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _part_name(path: Path) -> str:
    name = f".{path.stem}.{os.getpid()}.part{path.suffix}"
    if len(os.fsencode(name)) <= _LONGEST:
        return name
    return f".{zlib.crc32(os.fsencode(path.stem)):08x}.{os.getpid()}.part{path.suffix}"
