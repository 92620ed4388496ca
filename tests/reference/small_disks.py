"""Small file systems for tests: disks that are full, or read-only, in earnest."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A small file system at `place`; skipped where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "npconv-test", str(place)]
    done = subprocess.run(command, capture_output=True, check=False) if shutil.which("mount") else None
    if done is None or done.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> None:
    """Leave no byte of the disk free; removing the file `filler` frees it again."""
    with contextlib.suppress(OSError), open(place / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def remount(place: Path, how: str) -> None:
    """`ro` or `rw`."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)
