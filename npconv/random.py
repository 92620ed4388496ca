"""Randomness: one generator for all that is not handed one, set by `manual_seed`; never NumPy's global state."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Any

import numpy as np

from .backends.forking import after_fork

_generator = np.random.default_rng()
_is_seeded = False
# That of a thread which has called manual_seed itself; its workers compute in its context.
_own: ContextVar[np.random.Generator | None] = ContextVar("npconv_generator", default=None)


def manual_seed(seed: int) -> None:
    """Start the default generator anew: initial weights, dropout, shuffles and noise then repeat bit for bit.

    In the main thread: that of all threads which have not called it themselves. In another: that of this thread alone,
    so that what several threads do at once repeats as well.

    Raises TypeError or ValueError if `seed` is not an integer of at least 0.
    """
    global _generator, _is_seeded
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed (={seed!r}) must be an integer")
    if seed < 0:
        raise ValueError(f"seed (={seed!r}) must be at least 0")
    generator = np.random.default_rng(int(seed))
    if threading.current_thread() is threading.main_thread():
        _generator, _is_seeded = generator, True
        _own.set(None)  # a forked child may have been a thread with its own
    else:
        _own.set(generator)


def generator_or_default(rng: np.random.Generator | None = None) -> np.random.Generator:
    """`rng`, or the generator that `manual_seed` sets; TypeError if `rng` is something else."""
    if rng is None:
        return _own.get() or _generator
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng (={rng!r}) must be a numpy.random.Generator, as numpy.random.default_rng(seed) makes")
    return rng


def replace_default(rng: np.random.Generator) -> None:
    """Let `rng` be the default generator from now on, wherever it is in its stream: as `manual_seed` does, for whom."""
    global _generator, _is_seeded
    if threading.current_thread() is threading.main_thread():
        _generator, _is_seeded = rng, True
        _own.set(None)
    else:
        _own.set(rng)


def _forked() -> None:
    """In a forked child: the numbers that the parent would draw, if it was seeded, else other ones in every child."""
    global _generator
    if _is_seeded:
        lock: Any = _generator.bit_generator.lock
        lock._at_fork_reinit()  # a thread that is not here may have held it
    else:
        _generator = np.random.default_rng()


after_fork(_forked)
