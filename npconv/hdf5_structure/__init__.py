"""Whether an HDF5 file's structures are whole, before HDF5's own library follows them: `check_structure`.

bytes.py     the file by addresses, the fields of a structure, the messages of a header
types.py     messages that say what an array is: shape, datatype, layout, filters; and attributes
trees.py     trees and heaps: a group's members, an array's chunks, an attribute's text
headers.py   the walk from the superblock through all objects
"""

from __future__ import annotations

from .headers import MAX_TEXT, check_object, check_structure, edges_are_whole
from .types import CHECKSUM, DEFLATE, FLETCHER, LZF, N_BIT, SCALE_OFFSET, SHUFFLE

__all__ = [
    "CHECKSUM",
    "DEFLATE",
    "FLETCHER",
    "LZF",
    "MAX_TEXT",
    "N_BIT",
    "SCALE_OFFSET",
    "SHUFFLE",
    "check_object",
    "check_structure",
    "edges_are_whole",
]
