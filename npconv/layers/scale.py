"""Scale: multiply by a constant."""

from __future__ import annotations

from typing import Any

from .. import checks
from ..backends import backend
from ..backends.base import Array
from ..layer import Layer


class Scale(Layer):
    """factor x, for an input of any shape; `factor` is a finite number, and is not trained.

    `Sum(Identity(), Sequential(..., Scale(-1)))` subtracts what the Sequential gives from its input.
    """

    pointwise = True

    def __init__(self, factor: float) -> None:
        self.factor = checks.number(factor, "factor")

    @property
    def fresh_output(self) -> bool:
        return True

    @property
    def fresh_gradient(self) -> bool:
        return True

    def _forward(self, x: Array) -> tuple[Array, Any]:
        return backend().scaled(x, self.factor), None

    def _backward(self, grad: Array, saved: Any) -> Array:
        return backend().scaled(grad, self.factor)

    def arguments(self) -> dict[str, Any]:
        return {"factor": self.factor}

    def extra_repr(self) -> str:
        return f"factor={self.factor}"
