"""Errors that several parts of the library raise, and how those of decoders become them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FileFormatError(OSError, ValueError):
    """A file that is damaged, not of the format it should be, or does not fit: the message names file and place.

    It is an OSError, as other failures to read a file are, and a ValueError, as other unusable values are.
    """


class FileTypeError(FileFormatError, TypeError):
    """A file whose values are of a kind that is not read; a TypeError too, as for such an array in memory."""


class WeightsFileError(FileFormatError):
    """A file that cannot be written, or is not a whole npconv file, or does not fit the network."""


@contextmanager
def about_a_file(name: str) -> Iterator[None]:
    """ValueError and TypeError about what the file `name` holds, as FileFormatError of the same words, and the name."""
    try:
        yield
    except FileFormatError:
        raise
    except TypeError as error:
        raise FileTypeError(_with_name(error, name)) from error
    except ValueError as error:
        raise FileFormatError(_with_name(error, name)) from error


def _with_name(error: Exception, name: str) -> str:
    return str(error) if name in str(error) else f"{name}: {error}"


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """FileFormatError that says what cannot be read, of whatever decoders raise on a damaged file."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        known = str(error).startswith((repr(name), name, "cannot read"))
        text = str(error) if known else f"cannot read {name!r}: {error}"
        raise FileFormatError(text) from error
