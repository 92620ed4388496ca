"""How HDF5 files are opened: with a lock where the file system has locks, and without one where it has none.

HDF5 locks what it opens, and gives up where that fails: on NFS without its lock service, SMB on macOS, some clusters.
HDF5_USE_FILE_LOCKING of the environment counts for more than what is asked for here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .extras import h5py


def read_hdf5(path: str | os.PathLike[str], **options: Any) -> h5py.File:
    """The file, open for reading; options: of `h5py.File`.

    Raises OSError; of these BlockingIOError, or PermissionError, for a file that another process has locked: HDF5 does
    so while it writes.
    """
    try:
        return h5py.File(path, "r", **options)
    except OSError as error:
        # Only now without a lock: no process can have a file open both ways at once, and users open theirs with one.
        about_locks = "lock file" in str(error) or "locking" in str(error)
        if not about_locks or isinstance(error, (BlockingIOError, PermissionError)):
            raise
        try:
            return h5py.File(path, "r", locking=False, **options)
        except ValueError:  # HDF5's library is too old to do without
            raise error from None


def create_hdf5(part: Path, **options: Any) -> h5py.File:
    """A new file that nobody else knows of, such as a part of `whole_file`, and that needs no lock."""
    try:
        return h5py.File(part, "w", locking=False, **options)
    except ValueError:  # HDF5's library is too old to do without
        return h5py.File(part, "w", **options)
