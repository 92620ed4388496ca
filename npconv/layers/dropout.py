"""Dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import checks
from ..backends import backend
from ..backends.base import Array
from ..layer import Layer
from ..random import generator_or_default


class Dropout(Layer):
    """In training, set each element to 0 with probability p, and multiply the others by 1 / (1 - p).

    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov (2014). `rng`: where the draws come from; the
    generator of `npconv.manual_seed` if None.
    """

    pointwise = True

    def __init__(self, p: float = 0.5, *, rng: np.random.Generator | None = None) -> None:
        self.p = checks.probability(p, "p")
        generator_or_default(rng)  # raises for anything but a generator
        self.rng = rng

    @property
    def fresh_output(self) -> bool:
        return self.training and self.p > 0

    def _forward(self, x: Array) -> tuple[Array, Any]:
        if not self.training or self.p == 0:
            return x, None
        mask = backend().keep_mask(x, 1 - self.p, generator_or_default(self.rng))
        return x * mask, mask

    def _backward(self, grad: Array, saved: Any) -> Array:
        return grad if saved is None else grad * saved

    def fork_generator(self, rng: np.random.Generator) -> None:
        self.rng = (rng if self.rng is None else self.rng).spawn(1)[0]

    def arguments(self) -> dict[str, Any]:
        return {"p": self.p}

    def extra_repr(self) -> str:
        return f"p={self.p}"
