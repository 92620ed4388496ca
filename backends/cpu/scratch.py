"""Scratch memory that is reused from call to call: a fresh megabyte costs more in page faults than to compute on."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

_memory = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array that is valid until this thread asks for `name` again: never hand it to a caller."""
    buffers: dict[str, np.ndarray] = _memory.__dict__.setdefault("buffers", {})
    needed = math.prod(shape) * np.dtype(dtype).itemsize
    if name not in buffers or buffers[name].nbytes < needed:
        buffers[name] = np.empty(needed, dtype=np.uint8)
    return buffers[name][:needed].view(dtype).reshape(shape)
