"""Effective weights, computed once a step: kernels transformed for Winograd, flipped for a gradient, enlarged for an
upsampling. Within `constant_weights`, what was made from a weight is kept and shared by all workers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from ..base import Array

Made = TypeVar("Made")

# Workers run in copies of the caller's context, which hold the same dictionary.
_kept: ContextVar[dict[Hashable, tuple[Array, object]] | None] = ContextVar("npconv_prepared", default=None)


@contextmanager
def constant_weights() -> Iterator[None]:
    """Weights do not change within this context, nor within one that it is in."""
    if _kept.get() is not None:
        yield
        return
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def prepared(weight: Array, what: Hashable, make: Callable[[], Made]) -> Made:
    """`make()`, which depends on `weight` and `what` alone: kept for the next call within `constant_weights`."""
    kept = _kept.get()
    if kept is None:
        return make()
    key = (id(weight), what)
    found = kept.get(key)
    if found is None:
        found = kept[key] = (weight, make())  # holds the weight: its id must not come to mean another array
    return found[1]  # type: ignore[return-value]
