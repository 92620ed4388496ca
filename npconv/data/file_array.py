"""An array that lies in a file as it is, read and written a region at a time with no more of it in memory than that."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..npy_header import npy_header

_BLOCK = 1 << 20  # bytes that are read and written at once


@dataclass(frozen=True)
class FileArray:
    """An array at `offset` of a file.

    Each access maps the file anew, because what is mapped counts as this process's memory.
    """

    path: Path
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    order: Any = "C"
    writable: bool = False

    @classmethod
    def of(cls, array: np.memmap, path: Path, writable: bool = False) -> FileArray:
        """What a memmap of the file at `path` maps."""
        order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        return cls(path, array.dtype, int(array.offset), array.shape, order, writable)

    def _map(self) -> np.memmap:
        mode: Any = "r+" if self.writable else "r"
        return np.memmap(self.path, self.dtype, mode, self.offset, self.shape, self.order)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.array(self._map()[index])

    def __setitem__(self, index: Any, values: np.ndarray) -> None:
        self._map()[index] = values


def npy_array(path: Path) -> FileArray:
    """The array of numbers in an NPY file; FileFormatError if it is none, or the file is too short for it."""
    with open(path, "rb") as file:
        shape, fortran, dtype = npy_header(file, os.fstat(file.fileno()).st_size, "the array")
        return FileArray(path, dtype, file.tell(), shape, "F" if fortran else "C")


def reserve(path: Path) -> None:
    """Give a file the room on the disk that its length needs; what is in it stays.

    A new file that is mapped has holes, and where the disk is full, writing into them ends the process (SIGBUS). Raises
    OSError that says so instead, before anything is written.
    """
    with open(path, "rb+") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if not _allocated(file.fileno(), size):
                _fill_holes(file.fileno())
        except OSError as error:
            text = f"the disk of {str(path.parent)!r} has too little room for {size:,} bytes: {error.strerror}"
            raise OSError(error.errno, text) from error


def _allocated(handle: int, size: int) -> bool:
    """Whether the system gives the file that room without a byte being written."""
    if os.name == "nt":
        return True  # where a file has no holes unless it is asked for them
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            return False  # a file system that cannot tell
        raise
    return True


def _fill_holes(handle: int) -> None:
    """Write all that is read back to its place: zeros, where a hole is."""
    at = 0
    while block := os.pread(handle, _BLOCK, at):
        at += os.pwrite(handle, block, at)
    os.fsync(handle)  # network file systems say only now that their disk is full
