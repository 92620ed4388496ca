"""How much a compressed image may grow when it is read: a file of some kilobytes can claim to be gigabytes."""

from __future__ import annotations

from ..errors import FileFormatError

# What any strip or tile, or an image of HDF5 pairs, may become: twice that and a copy still are less than 500 MB.
FREE_BYTES = 100 << 20
# What any picture, page of TIFF, photograph, or chunk of HDF5 may become, which is in memory twice at most: maps of
# labels, of 10,000 x 10,000 uint16, say, shrink to a four-hundredth.
FREE_IMAGE = 200 << 20
MOST_DEFLATED = 1100  # times: what deflate can do at most
MAX_GROWTH = 64  # of what is more: photographs shrink to a half or a tenth, drawings to a fiftieth


def check_growth(unpacked: int, packed: int, what: str, growth: int = MAX_GROWTH, free: int = FREE_BYTES) -> None:
    """FileFormatError if `packed` bytes of a file would become so many in memory that they are a bomb."""
    if unpacked > free + growth * packed:
        raise FileFormatError(
            f"{what} would take {unpacked:,} bytes of memory, of {packed:,} in the file: more than {growth} times as "
            f"many, and more than {free:,}; written anew without compression (TIFF or NPY) it is read"
        )
