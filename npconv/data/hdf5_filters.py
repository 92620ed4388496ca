"""Filters of HDF5 chunks: what their decoders take on trust is looked at before HDF5's library runs them.

    shuffle, fletcher32      give as many bytes as they get, fletcher32 four less
    gzip, LZF                give what their data say, and for LZF memory that its parameters name
    n-bit, scale-offset      give what their parameters say, and read on behind data that are too short for it

HDF5 takes what comes out for a whole chunk, however little it is: so each chunk is followed through its filters, and
must become exactly as many bytes as it has. Other filters (szip, those of plug-ins) cannot be followed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np

from ..errors import FileFormatError
from ..extras import h5py
from ..hdf5_structure import CHECKSUM, DEFLATE, FLETCHER, LZF, N_BIT, SCALE_OFFSET, SHUFFLE

# A filter's number and its parameters; of a chunk, in the order in which they have packed it.
Filter = tuple[int, tuple[int, ...]]
NAMES = {N_BIT: "n-bit", SCALE_OFFSET: "scale-offset", LZF: "LZF", SHUFFLE: "shuffle", 4: "szip"}
ATOMIC = 1  # n-bit's class of numbers
INTEGERS = 0  # the class of scale-offset
SCALED_HEAD = 21  # bytes before the values that scale-offset has packed
# By the first byte of a piece that LZF has packed: how many bytes it has, and how many it becomes. Bytes that follow
# (below 32), or some that were there before; from 224 on the next byte says how many, and no step stands for that.
_LZF_STEPS = bytes([*range(2, 34), *[2] * 192, *[0] * 32])
_LZF_SIZES = bytes([*range(1, 33), *[(head >> 5) + 2 for head in range(32, 224)], *[0] * 32])
_PIECE, _STEP = 1 << 16, 1 << 20  # bytes that go into, and come out of, zlib at a time
_SPARE, _SPARE_SHARE = 4096, 64  # what a packer may add to a chunk that it cannot make smaller: bytes, and a 64th


def chunk_filters(dataset: h5py.Dataset) -> list[Filter]:
    """The filters of a data set."""
    properties = dataset.id.get_create_plist()
    try:
        found = [properties.get_filter(i) for i in range(properties.get_nfilters())]
    except AssertionError as error:
        raise ValueError(f"a filter has more parameters than any that is known: {error}") from None
    return [(number, tuple(values)) for number, _, values, _ in found]


def element_bytes(dataset: h5py.Dataset) -> int:
    """Bytes of an element in the file: of unusual floats h5py makes others, which have more or fewer."""
    return int(dataset.id.get_type().get_size())


def check_filters(dataset: h5py.Dataset, what: str) -> None:
    """FileFormatError for filters through which a chunk could become anything."""
    try:
        filters = chunk_filters(dataset)
    except ValueError as error:
        raise FileFormatError(f"{what}: {error}") from None
    numbers = [number for number, _ in filters]
    after = numbers[numbers.index(DEFLATE) + 1 :] if DEFLATE in numbers else []
    if set(after) - {FLETCHER}:
        raise FileFormatError(
            f"{what} is packed with gzip and then once more (filters {numbers}), which is not read; written anew with "
            "gzip alone it is"
        )
    count, size = math.prod(dataset.chunks), element_bytes(dataset)
    for place, (number, values) in enumerate(filters):
        named = f"{what}: its filter {number}" + (f" ({NAMES[number]})" if number in NAMES else "")
        if number not in (DEFLATE, FLETCHER, *NAMES) or number == 4:
            raise FileFormatError(
                f"{named} is not read, since nothing tells what it makes of a chunk; written anew with gzip it is"
            )
        if place and number in (N_BIT, SCALE_OFFSET):
            raise FileFormatError(f"{named} is not read after others (filters {numbers}); written anew with gzip it is")
        if not _fits_chunk(number, values, count, size):
            raise FileFormatError(f"{named} is for chunks of another size, or has parameters that are wrong")


def _fits_chunk(number: int, values: tuple[int, ...], count: int, size: int) -> bool:
    """Whether a filter's parameters are for chunks of `count` elements of `size` bytes."""
    if number == SHUFFLE:
        return len(values) == 1 and values[0] > 0
    if number == LZF:
        return len(values) < 3 or values[2] in (0, count * size)
    if number == SCALE_OFFSET:
        return len(values) > 8 and (values[2], values[4]) == (count, size)
    if number != N_BIT:
        return True
    if len(values) < 5 or (values[0], values[2], values[4]) != (len(values), count, size):
        return False
    if values[1]:  # it has left all as it was
        return True
    if len(values) != 8 or values[3] != ATOMIC:
        return False
    order, precision, offset = values[5:]
    return order in (0, 1) and 0 < precision <= precision + offset <= 8 * size


def check_chunk(data: bytes, used: Sequence[Filter], whole: int, size: int) -> None:
    """ValueError unless `data`, packed by the filters `used`, become exactly `whole` bytes, elements of `size`.

    For filters that `check_filters` lets pass.
    """
    most = [whole]  # that each filter can have got: where another has packed before, it is less, or hardly more
    for number, _ in used:
        added = {SHUFFLE: 0, FLETCHER: CHECKSUM}.get(number, _SPARE + most[-1] // _SPARE_SHARE)
        most.append(most[-1] + added)
    left: bytes | None = data
    made = len(data)
    for place in reversed(range(len(used))):
        number, values = used[place]
        kept = any(other in (LZF, SCALE_OFFSET) for other, _ in used[:place])  # whether the bytes are looked at again
        before = made
        if number == FLETCHER:
            made -= CHECKSUM
            left = left[:made] if left is not None and made > 0 else None
        elif number == SHUFFLE:
            left = _in_order(left, values[0]) if kept and left is not None else None
        elif number == N_BIT:
            made = _n_bit(made, values, whole)
        elif left is None:  # all others look at the bytes, and so they are kept for them
            made = 0
        elif number == SCALE_OFFSET:
            made = _scaled(left, values, whole, size)
        elif number == DEFLATE:
            made, left = _inflated(left, most[place], kept)
        else:
            made, left = _lzf(left, most[place], kept)
        if not 0 < made <= most[place]:
            name = NAMES.get(number, "gzip" if number == DEFLATE else "fletcher32")
            raise ValueError(f"does not unpack to its {most[place]:,} bytes ({name}, of {before:,})")
    if made != whole:
        raise ValueError(f"does not unpack to its {whole:,} bytes, but to {made:,}")


def _in_order(data: bytes, width: int) -> bytes:
    """Elements of `width` bytes whose first bytes come first, then all second ones; what is left over comes last."""
    count = len(data) // width
    if width == 1 or count < 2:
        return data
    return np.frombuffer(data, "u1", count * width).reshape(width, count).T.tobytes() + data[count * width :]


def _n_bit(held: int, values: tuple[int, ...], whole: int) -> int:
    """What n-bit makes of so many bytes; 0 of too few."""
    if values[1]:
        return held
    return whole if held > values[2] * values[6] // 8 else 0


def _scaled(data: bytes, values: tuple[int, ...], whole: int, size: int) -> int:
    """How many bytes scale-offset makes of some; 0 of too few."""
    if values[3] == INTEGERS and values[1] == 8 * size:  # it has left all as it was
        return len(data)
    bits = int.from_bytes(data[:4], "little")
    packed = whole if bits == 8 * size else values[2] * bits // 8 + 1
    return whole if bits <= 8 * size and len(data) >= SCALED_HEAD + packed else 0


def _inflated(data: bytes, most: int, kept: bool) -> tuple[int, bytes | None]:
    """How many bytes some deflated ones become, 0 if they do not end or become more than `most`; and, kept, these."""
    unpacker, made, parts = zlib.decompressobj(), 0, []
    try:
        for start in range(0, len(data), _PIECE):
            piece, got = data[start : start + _PIECE], _STEP
            while got == _STEP and made <= most:  # else zlib has given all that it has
                part = unpacker.decompress(piece, _STEP)
                got = len(part)
                made, piece = made + got, unpacker.unconsumed_tail
                parts += [part] if kept else []
            if made > most or unpacker.eof:
                break
    except zlib.error as error:
        raise ValueError(f"does not unpack: {error}") from error
    if made > most or not unpacker.eof:
        return 0, None
    return made, b"".join(parts) if kept else None


def _lzf(data: bytes, most: int, kept: bool) -> tuple[int, bytes | None]:
    """The same of bytes that LZF has packed."""
    try:
        if kept:
            unpacked = _lzf_bytes(data, most)
            return len(unpacked), unpacked
        steps, sizes = data.translate(_LZF_STEPS), data.translate(_LZF_SIZES)
        at = made = 0
        while at < len(data):
            if step := steps[at]:
                made += sizes[at]
                at += step
            else:
                made += data[at + 1] + 9
                at += 3
        return (made if at == len(data) else 0), None
    except IndexError:
        return 0, None


def _lzf_bytes(data: bytes, most: int) -> bytes:
    """What LZF has packed; IndexError for data that are cut off, that repeat what is not there, or are too long."""
    found, at = bytearray(), 0
    while at < len(data):
        head = data[at]
        at += 1
        if head < 32:
            data[at + head]
            found += data[at : at + head + 1]
            at += head + 1
            continue
        length = head >> 5
        if length == 7:
            length += data[at]
            at += 1
        back, at = ((head & 31) << 8) + data[at] + 1, at + 1
        if back > len(found) or len(found) > most:
            raise IndexError("before the first byte, or too long")
        part = found[len(found) - back :][: length + 2]
        found += (part * (-(-(length + 2) // len(part))))[: length + 2]
    return bytes(found)
