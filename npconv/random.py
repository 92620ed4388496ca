"""Randomness: one generator for all that is not handed one, set by `manual_seed`; never NumPy's global state."""

from __future__ import annotations

import numpy as np

_generator = np.random.default_rng()


def manual_seed(seed: int) -> None:
    """Start the default generator anew: initial weights, dropout, shuffles and noise then repeat bit for bit.

    Raises TypeError or ValueError if `seed` is not an integer of at least 0.
    """
    global _generator
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed (={seed!r}) must be an integer")
    if seed < 0:
        raise ValueError(f"seed (={seed!r}) must be at least 0")
    _generator = np.random.default_rng(int(seed))


def generator_or_default(rng: np.random.Generator | None = None) -> np.random.Generator:
    """`rng`, or the generator that `manual_seed` sets; TypeError if `rng` is something else."""
    if rng is None:
        return _generator
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng (={rng!r}) must be a numpy.random.Generator, as numpy.random.default_rng(seed) makes")
    return rng
