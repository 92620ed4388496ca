"""Photographs that are read when they are asked for, in bounded memory: what folders and HDF5 files share.

    small photo             read whole, remembered in a cache of `cache_bytes`
    large, readable apart   (an uncompressed file, a data set) read region by region, not remembered
    large, compressed       decoded whole; the last one is remembered until the next is read

Large is more than an eighth of the cache.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod

import numpy as np

from ..checks import integer
from .photos import AT_ONCE, LRUCache, Photos

__all__ = ["CACHE_BYTES", "LazyPhotos"]

CACHE_BYTES = 2**28
LARGE = 1 / 8  # of the cache


class LazyPhotos(Photos):
    """Photographs that are read when they are asked for.

    cache_bytes: how much of what was read is remembered, the least recently used forgotten first. corrupt: "fail" or
    "skip", what drawing from a photograph does that cannot be used.
    """

    def __init__(self, cache_bytes: int, corrupt: str) -> None:
        if corrupt not in ("fail", "skip"):
            raise ValueError(f"corrupt (={corrupt!r}) must be 'fail' or 'skip'")
        self.skips_corrupt = corrupt == "skip"
        self._cache = LRUCache(integer(cache_bytes, "cache_bytes", 0))
        self._rejected: dict[int, str] = {}

    @abstractmethod
    def _load(self, index: int) -> np.ndarray:
        """Photograph `index`, read now."""

    @abstractmethod
    def _typical_bytes(self) -> list[int]:
        """How much memory photographs take when they are read whole; of large collections, of a few of them."""

    def _read(self, index: int) -> np.ndarray:
        return self._cache.get(index, self._load)

    def _is_large(self, nbytes: int) -> bool:
        return nbytes > self._cache.max_bytes * LARGE

    @property
    def at_once(self) -> int:
        sizes = self._typical_bytes() if len(self) > 1 else []
        return max(1, min(AT_ONCE, self._cache.max_bytes // max(sizes))) if sizes else AT_ONCE

    def reject(self, index: int, reason: str) -> None:
        if index not in self._rejected:
            self._rejected[index] = reason
            name = self.name(index)
            known = reason if name in reason else f"{name}: {reason}"
            warnings.warn(f"skipped, since it cannot be used: {known}", stacklevel=2)

    def rejected(self, index: int) -> str | None:
        return self._rejected.get(index)
