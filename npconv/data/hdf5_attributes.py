"""Attributes of data sets of HDF5 files by others, which are kept when an image is written again."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np

from ..errors import FileFormatError
from ..extras import h5py
from .sizes import FREE_BYTES


def attributes(dataset: h5py.Dataset) -> dict[str, Any]:
    """Numbers and texts; what leads to other places of the file, is of several parts or of a type of its own, is left.

    dataset: one whose header was looked at (`check_object`). Raises FileFormatError for attributes that are more than
    the file has.
    """
    found: dict[str, Any] = {}
    left = os.path.getsize(dataset.file.filename)
    # Newer headers may have theirs elsewhere, where texts could all be the same one: then only as many as do no harm.
    most = FREE_BYTES // left if h5py.h5o.get_info(dataset.id).hdr.version > 1 else left
    for name in dataset.attrs:
        stored = dataset.attrs.get_id(name)
        kind, count = stored.dtype, math.prod(stored.shape or ())
        if not _is_plain(kind) or stored.get_type().committed() or (kind.kind == "O" and count > max(1, most)):
            continue
        left -= count * kind.itemsize
        if left >= 0:
            found[name] = dataset.attrs[name]
            left -= _letters(found[name]) if kind.kind == "O" else 0
        if left < 0:
            raise FileFormatError(f"{dataset.file.filename}: the attributes of {dataset.name!r} are more than the file")
    return found


def _is_plain(kind: np.dtype[Any]) -> bool:
    return kind.fields is None and kind.subdtype is None and (kind.kind != "O" or bool(h5py.check_string_dtype(kind)))


def _letters(value: Any) -> int:
    texts = value.ravel() if isinstance(value, np.ndarray) else [value] if isinstance(value, (str, bytes)) else []
    return sum(map(len, texts))


__all__ = ["attributes"]
