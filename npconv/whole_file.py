"""Files that are there whole or not at all: whatever happens while one is written, the old one stays."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

_LONGEST = 255  # bytes of a file's name, on the usual file systems
_DAY = 86400  # seconds after which a part is nobody's, even if a process has the number in its name
_numbers = itertools.count(1)  # several threads may write the same file
_under_way: set[Path] = set()
_WINDOWS = os.name == "nt"
_WAITS = [0.01 * 2**i for i in range(8)]  # seconds, 2.5 in all


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path`, with its ending, to write to; when the block ends, that file takes `path`'s place.

    If the block raises, the new file is removed and an old one is left as it was.
    """
    path = Path(path)
    part = path.with_name(_part_name(path))
    _under_way.add(part)
    try:
        yield part
        with _patiently(lambda: open(part, "rb+")) as file:
            _onto_disk(file.fileno())  # before the name points to it
        _patiently(lambda: os.replace(part, path))
        _name_onto_disk(path.parent)
    finally:
        with contextlib.suppress(OSError):  # a folder that is gone, or read-only by now: what went wrong is being told
            part.unlink(missing_ok=True)
        _under_way.discard(part)


def _patiently(action: Callable[[], T]) -> T:
    """What `action` returns, where Windows lets it: virus scanners and others hold a new file for a moment."""
    for wait in _WAITS if _WINDOWS else []:
        try:
            return action()
        except PermissionError:
            time.sleep(wait)
    return action()


def _onto_disk(handle: int) -> None:
    """Have what was written on the disk itself: on macOS, fsync leaves it to the drive, which loses it with power."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        with contextlib.suppress(OSError):  # file systems of other systems do not have it
            fcntl.fcntl(handle, fcntl.F_FULLFSYNC)
            return
    os.fsync(handle)


def remove_parts(*paths: str | os.PathLike[str]) -> None:
    """Remove what processes that were killed while they wrote these files have left beside them.

    The paths must be in one folder. What a living process is writing stays.
    """
    stems = [f".{stem}." for path in map(Path, paths) for stem in (path.stem, _short(path))]
    pattern = re.compile(f"(?:{'|'.join(map(re.escape, stems))})(\\d+)-\\d+\\.part")
    with contextlib.suppress(OSError), os.scandir(Path(paths[0]).parent) as entries:
        for entry in entries:
            match = pattern.match(entry.name)
            if match and _is_abandoned(Path(entry.path), int(match[1])):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _is_abandoned(part: Path, process: int) -> bool:
    if process == os.getpid():
        return part not in _under_way  # of an earlier process with our number, as containers give it again and again
    if os.name != "posix":
        return True  # where a file that is open cannot be removed
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    with contextlib.suppress(OSError):
        return time.time() - part.stat().st_mtime > _DAY
    return False


def _part_name(path: Path) -> str:
    end = f"{os.getpid()}-{next(_numbers)}.part{path.suffix}"
    name = f".{path.stem}.{end}"
    return name if len(os.fsencode(name)) <= _LONGEST else f".{_short(path)}.{end}"


def _short(path: Path) -> str:
    return f"{zlib.crc32(os.fsencode(path.stem)):08x}"


def _name_onto_disk(folder: Path) -> None:
    """After a loss of power the name leads to the new file too, where the system lets a folder be written out."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            _onto_disk(handle)
        finally:
            os.close(handle)
