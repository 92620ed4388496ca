"""Which backend is active, and why.

The environment variable NPCONV_BACKEND chooses: `numpy` (the default; never imports CuPy), `cupy`, or `auto` (CuPy
if it can be used, else NumPy, with one warning that says why). It is read when a backend is first needed.
`use_backend(name)` switches later. The active backend is one for all threads of the process.
"""

from __future__ import annotations

import os
import threading
import warnings
from types import TracebackType
from typing import Any

from .base import Array, Backend
from .forking import after_fork
from .geometry import ConvGeometry

CHOICES = ("numpy", "cupy", "auto")

_made: dict[str, Backend] = {}
_active: tuple[Backend, str] | None = None
_choosing = threading.RLock()  # or threads that need the first backend at once would make several, with workers each


def _forked() -> None:
    global _choosing
    _choosing = threading.RLock()


after_fork(_forked)


def backend() -> Backend:
    """The active backend.

    Raises ValueError if NPCONV_BACKEND is none of `CHOICES`, RuntimeError if it asks for CuPy and CuPy cannot be
    used, with the cause and the fix.
    """
    return _current()[0]


def backend_reason() -> str:
    """Why the active backend is the active one, in words."""
    return _current()[1]


class use_backend:
    """Switch to the backend `name`: at once, and back again if used in a `with` statement.

    Called like a function, hence the small letters.

    Arrays and networks that exist stay where they are: make new ones, or move arrays with `npconv.asarray`.
    It switches for all threads: switch before they begin to compute, and not from several at once.
    Raises what `backend` raises; on an error the active backend stays.
    """

    def __init__(self, name: str) -> None:
        global _active
        with _choosing:
            self._before = _active
            _active = _select(name, f"use_backend({name!r})")

    def __enter__(self) -> Backend:
        return backend()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _active
        _active = self._before


def asarray(x: Any, dtype: Any = None) -> Array:
    """`x` (nested lists, or an array of any backend) as an array of the active backend."""
    return backend().asarray(x, dtype)


def to_numpy(x: Any) -> Any:
    """`x`, an array of any backend, as a NumPy array."""
    return backend().to_numpy(x)


def _current() -> tuple[Backend, str]:
    global _active
    active = _active  # another thread may switch at any time
    if active is None:
        with _choosing:
            active = _active
            if active is None:
                asked = os.environ.get("NPCONV_BACKEND")
                by = f"NPCONV_BACKEND={asked}" if asked else "the default"
                active = _active = _select(asked or "numpy", by)
    return active


def _select(name: str, asked_by: str) -> tuple[Backend, str]:
    if name not in CHOICES:
        raise ValueError(f"backend (={name!r}, {asked_by}) must be one of {', '.join(CHOICES)}")
    if name != "auto":
        return _make(name), asked_by
    from .gpu import unusable_because

    reason = unusable_because()
    if reason is None:
        return _make("cupy"), f"{asked_by}, and CuPy can be used"
    warnings.warn(f"npconv computes with NumPy: {reason}", RuntimeWarning, stacklevel=4)
    return _make("numpy"), f"{asked_by}, but {reason}"


def _make(name: str) -> Backend:
    """The backend `name`, made once: it owns worker threads, or a device."""
    if name not in _made:
        if name == "cupy":
            from .gpu import CupyBackend  # here, so that the numpy backend never imports CuPy

            _made[name] = CupyBackend()
        else:
            from .cpu import NumpyBackend

            _made[name] = NumpyBackend()
    return _made[name]


__all__ = ["CHOICES", "Array", "Backend", "ConvGeometry", "asarray", "backend", "backend_reason", "to_numpy",
           "use_backend"]  # fmt: skip
