"""The fully connected layer: y = x W^T + b over the last axis."""

from __future__ import annotations

import math

from ..base import Array, Backend


class DenseOps(Backend):
    """linear."""

    def linear_forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        y = self.xp.matmul(self._in_rows(x), weight.T)  # (..., in) @ (in, out) -> (..., out)
        return y if bias is None else y + bias

    def linear_backward(self, grad: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
        grad = self._in_rows(grad)
        rows = grad.reshape(math.prod(grad.shape[:-1]), weight.shape[0])  # (P, out)
        columns = self._in_rows(x).reshape(len(rows), weight.shape[1])  # (P, in)
        # (P, out) @ (out, in), (out, P) @ (P, in)
        return self.xp.matmul(grad, weight), self.xp.matmul(rows.T, columns), rows.sum(axis=0)

    def _in_rows(self, x: Array) -> Array:
        """x in C order: a BLAS rounds otherwise where it reads columns, and NumPy where addresses are not aligned.

        The same numbers give the same bits in any layout.
        """
        x = self.xp.ascontiguousarray(x)
        return x if getattr(x.flags, "aligned", True) else x.copy()
