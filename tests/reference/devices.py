"""Arrays to the active backend and back, so that one test runs on NumPy, on CuPy and on the stand-in for CuPy.

On NumPy nothing moves: each function gives the very array it was given.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import npconv as nc


def on_device(value: Any) -> Any:
    """NumPy's arrays in `value` (also within lists, tuples and dictionaries) as arrays of the active backend."""
    return _each(value, lambda x: nc.asarray(x) if isinstance(x, np.ndarray) else x)


def on_host(value: Any) -> Any:
    """Arrays of the active backend in `value` as NumPy's."""
    return _each(value, lambda x: nc.to_numpy(x) if nc.backend().owns(x) else x)


def _each(value: Any, move: Any) -> Any:
    if isinstance(value, dict):
        return {key: _each(item, move) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_each(item, move) for item in value)
    return move(value)


class FromHost:
    """The active backend (or what `of` is) with arrays of the host: each call takes NumPy's arrays and gives them."""

    def __init__(self, of: Any = None) -> None:
        self._of = nc.backend() if of is None else of

    def __getattr__(self, name: str) -> Any:
        return FromHost(getattr(self._of, name))

    def __call__(self, *args: Any, **options: Any) -> Any:
        return on_host(self._of(*on_device(args), **on_device(options)))


def assert_allclose(found: Any, expected: Any, rtol: float = 1e-7, atol: float = 0.0) -> None:
    """NumPy's assert_allclose, for arrays of any backend."""
    np.testing.assert_allclose(on_host(found), on_host(expected), rtol=rtol, atol=atol)
