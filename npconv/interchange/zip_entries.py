"""The entries of a zip archive, which may not unpack to more than they should."""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..errors import FileFormatError

# What an archive may unpack to: weights hardly shrink (PyTorch does not even try), and some megabytes may be zeros.
MAX_RATIO, SPARE_BYTES = 8, 16 << 20
MAX_DIRECTORY = 4 << 20  # bytes: the names and places of some 40,000 entries, each of which takes a kilobyte in memory


@contextmanager
def opened_zip(path: str) -> Iterator[zipfile.ZipFile]:
    """The archive, open; FileFormatError if it cannot be opened. What happens in the block is not looked at."""
    with open(path, "rb", buffering=0) as raw, _Bounded(raw) as file:
        with zip_errors():
            archive = zipfile.ZipFile(file)
        file.most = None
        with archive:
            yield archive


class _Bounded(io.BufferedReader):
    """A file of which `most` bytes can be read at once (None: any number): zipfile reads the whole directory so."""

    most: int | None = MAX_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if self.most is not None and size is not None and size > self.most:
            raise FileFormatError(f"the directory of the archive has {size:,} bytes, it may have {self.most:,}")
        return super().read(size)


def archive_size(archive: zipfile.ZipFile) -> int:
    """Bytes of the file."""
    return os.stat(str(archive.filename)).st_size


@contextmanager
def zip_errors() -> Iterator[None]:
    """Whatever zipfile finds wrong, as FileFormatError."""
    try:
        yield
    except FileFormatError:
        raise
    # zipfile has no one error for damaged archives: these are what it lets through.
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        RuntimeError,  # NotImplementedError too: another compression, an encrypted entry
        ValueError,
        OverflowError,
    ) as error:
        raise FileFormatError(f"a damaged zip archive: {error}") from None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise FileFormatError("a damaged zip archive: it points before its beginning or beyond any file") from None


def entries_of(archive: zipfile.ZipFile, spare: int = SPARE_BYTES) -> dict[str, zipfile.ZipInfo]:
    """The entries by name; FileFormatError if a name is there twice, or if together they are more than they can be.

    Nothing is read here: what the entries claim must fit into the file, and may unpack to so many times its size and
    `spare` bytes more.
    """
    entries: dict[str, zipfile.ZipInfo] = {}
    size = archive_size(archive)
    for entry in archive.infolist():
        if entry.filename in entries:
            raise FileFormatError(f"{entry.filename[:100]!r} is in the archive twice")
        if entry.header_offset < 0:
            raise FileFormatError(f"{entry.filename[:100]!r} begins before the archive")
        if entry.header_offset >= size:
            raise FileFormatError(
                f"{entry.filename[:100]!r} begins at byte {entry.header_offset:,}, the file has {size:,}"
            )
        entries[entry.filename] = entry
    packed = sum(entry.compress_size for entry in entries.values())
    unpacked = sum(entry.file_size for entry in entries.values())
    if packed > size:
        raise FileFormatError(f"the entries of the archive have {packed:,} bytes, the file has {size:,}")
    if unpacked > MAX_RATIO * packed + spare:
        raise FileFormatError(
            f"the archive has {packed:,} bytes that would unpack to {unpacked:,}: more than {MAX_RATIO} times as many, "
            f"and more than {spare:,}; written anew without compression it is read"
        )
    return entries


def checked_entry(
    entries: Mapping[str, zipfile.ZipInfo], name: str, size: int | None, limit: int | None = None
) -> zipfile.ZipInfo:
    """The entry `name`, which has `size` bytes (None: any up to `limit`); FileFormatError if it has not."""
    if name not in entries:
        raise FileFormatError(f"{name[:100]!r} is not in the archive")
    entry = entries[name]
    if size is not None and entry.file_size != size:
        raise FileFormatError(f"{name[:100]!r} has {entry.file_size:,} bytes, it must have {size:,}")
    if limit is not None and entry.file_size > limit:
        raise FileFormatError(f"{name[:100]!r} has {entry.file_size:,} bytes, it may have {limit:,}")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FileFormatError(f"{name[:100]!r} must be stored or deflated")
    if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
        raise FileFormatError(f"{name[:100]!r} is stored, and must have one size")
    return entry


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of a checked entry; zipfile compares their checksum.

    No more are unpacked than the entry says, so that what was checked of its size holds.
    """
    with zip_errors(), archive.open(entry) as file:
        data = file.read(entry.file_size)
        data += file.read(1)  # at the end zipfile compares the checksum, even of nothing
    if len(data) != entry.file_size:
        raise FileFormatError(f"{entry.filename[:100]!r} is cut short")
    return data
