"""Fits the prices of backends/cpu/choice.py to measured times.

The model is linear, time = sum of price * count, and a price is never negative: least squares of the relative errors,
by coordinate descent. A time that no prices come near, such as one that a neighbour disturbed, is given less weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from algorithm_times import Measured

from npconv.backends.cpu import choice

SWEEPS, REWEIGHTINGS = 3000, 4
Prices = dict[str, float]


def fit(times: Sequence[Measured]) -> Prices:
    """The prices, in nanoseconds, in the order in which choice.py has them."""
    matrix, taken = table(times)
    relative = matrix / taken[:, None]
    weights = np.ones(len(taken))
    for _ in range(REWEIGHTINGS):
        prices = nonnegative(relative * weights[:, None], weights)
        ratio = relative @ prices
        # Over 10 % off counts less. Dividing by the ratio: else predicting too little is cheaper than too much.
        trust = np.sqrt(np.clip(0.1 / np.maximum(abs(ratio - 1), 1e-9), 0.2, 1))
        weights = trust / np.maximum(ratio, 0.6)
    return dict(zip(choice.PRICES, prices.tolist(), strict=True))


def table(times: Sequence[Measured]) -> tuple[np.ndarray, np.ndarray]:
    """How often each time contains what has a price (times, prices), and the times."""
    rows, taken = [], []
    for measured in times:
        for kind, transform in (("output", False), ("kernel", False), ("with weights", True)):
            for name, nanoseconds in measured.times(kind).items():
                if transform and name not in measured.weights:
                    continue  # nothing to transform: the same as "output"
                counts = choice.counts(name, measured.shape.work, kind == "kernel", transform)
                rows.append([counts.get(what, 0.0) for what in choice.PRICES])
                taken.append(nanoseconds)
    return np.array(rows), np.array(taken)


def nonnegative(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The x >= 0 with the least |a x - b|."""
    scale = np.linalg.norm(a, axis=0)
    scale[scale == 0] = 1.0
    gram, wanted = (a / scale).T @ (a / scale), (a / scale).T @ b
    x = np.zeros(len(wanted))
    for _ in range(SWEEPS):
        for j in range(len(x)):
            x[j] = max(0.0, x[j] + (wanted[j] - gram[j] @ x) / max(gram[j, j], 1e-12))
    x /= scale
    return x
