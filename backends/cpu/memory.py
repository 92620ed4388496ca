"""Arrays whose memory comes back: a fresh megabyte costs more in page faults than the arithmetic on it.

`empty` hands out an array over a block of memory. When the last array over that block is gone, the block goes back to
a list of free ones, and the next `empty` of about that size takes it. So nothing that anyone still holds is ever
overwritten, and training allocates nothing large once every size has been seen.

How a block notices: NumPy keeps the owner of an array's memory alive through `.base`. The owner here is a `_Lease`, an
array over plain pages of memory, which all views of the array lead back to; when it dies, it returns its pages.
"""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..forking import after_fork

SMALL = 1 << 16  # bytes below which the C library's allocator uses its memory again by itself
KEPT_BYTES = 1 << 28  # a thread that has so much free, and asks for a size of which none is, gives it all up
BYTE = np.dtype(np.uint8)
_kept_bytes: ContextVar[int | None] = ContextVar("kept_bytes", default=None)  # workers compute in the caller's context
# Windows knows no such flags, and no fork.
PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


class _Lease(np.ndarray):
    """Owns a block while any array over it lives."""

    __slots__ = ("block", "home")
    block: mmap.mmap
    home: deque[mmap.mmap]  # where it returns to

    def __del__(self) -> None:
        block = getattr(self, "block", None)
        if block is not None:  # a view of a lease has none
            self.home.append(block)  # atomic: any thread may be the last to hold the array


class _Free(dict[int, deque[mmap.mmap]]):
    """Free blocks by size; a dictionary that can be referred to weakly."""

    __hash__ = object.__hash__  # type: ignore[assignment]


_all: weakref.WeakSet[_Free] = weakref.WeakSet()
_joining = threading.Lock()


class _Threads(threading.local):
    """The free blocks of each thread, by size: what a thread used last is in the cache of its core."""

    def __init__(self) -> None:
        self.free: _Free = _Free()
        with _joining:
            _all.add(self.free)  # while the thread lives


_mine = _Threads()


def _forked() -> None:
    """The other threads are gone, and with them what they had free."""
    global _all, _joining
    _all, _joining = weakref.WeakSet(), threading.Lock()
    _all.add(_mine.free)


after_fork(_forked)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised C-contiguous array; its memory is used again when nothing refers to it any more."""
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    if needed < SMALL:
        return np.empty(shape, dtype)
    # One of two sizes for each power of two: at most a third is left over, and arrays of about a size share blocks.
    step = 1 << (needed.bit_length() - 2)
    size = -(-needed // step) * step
    free = _mine.free
    home = free.get(size)
    if home is None:
        home = free[size] = deque()
    try:
        block = home.pop()
    except IndexError:
        block = _new_block(size, free)
    lease = _Lease(size, BYTE, block)
    lease.home, lease.block = home, block
    return np.ndarray(shape, dtype, lease)


def release() -> None:
    """Give up the free blocks of all threads."""
    with _joining:
        threads = list(_all)
    for free in threads:
        for blocks in list(free.values()):
            blocks.clear()


@contextmanager
def keeping(size: int) -> Iterator[None]:
    """A thread keeps up to `size` bytes free, in place of KEPT_BYTES, for what is computed in the block."""
    before = _kept_bytes.set(size)
    try:
        yield
    finally:
        _kept_bytes.reset(before)


def _new_block(size: int, free: dict[int, deque[mmap.mmap]]) -> mmap.mmap:
    """Whole pages, straight from the system and straight back to it: the C library would keep most of what is freed.

    Private to this process, or a forked one would write into the same memory. Raises MemoryError.
    """
    kept = sum(length * len(blocks) for length, blocks in free.items())
    limit = _kept_bytes.get()
    if kept + size > (KEPT_BYTES if limit is None else limit):
        for blocks in free.values():
            blocks.clear()
    try:
        return mmap.mmap(-1, size, **PRIVATE)
    except OSError as error:
        raise MemoryError(f"no memory for an array of {size:,} bytes") from error


def empty_images(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """As `empty`, of (N, C, H, W) shape and channels-last in memory."""
    n, c, h, w = shape
    return empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)


def empty_like(x: np.ndarray) -> np.ndarray:
    """As `empty`, of the shape of `x` and in its memory order where that is channels-last, else C order."""
    if x.ndim == 4 and not x.flags.c_contiguous:
        return empty_images(x.shape, x.dtype)
    return empty(x.shape, x.dtype)
