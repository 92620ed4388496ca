"""Errors that several parts of the library raise."""

from __future__ import annotations


class FileFormatError(OSError, ValueError):
    """A file that is damaged, not of the format it should be, or does not fit: the message names file and place.

    It is an OSError, as other failures to read a file are, and a ValueError, as other unusable values are.
    """
