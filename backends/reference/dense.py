"""The fully connected layer: y = x W^T + b over the last axis."""

from __future__ import annotations

from ..base import Array, Backend


class DenseOps(Backend):
    """linear."""

    def linear_forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        y = self.xp.matmul(x, weight.T)  # (..., in) @ (in, out) -> (..., out)
        return y if bias is None else y + bias

    def linear_backward(self, grad: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
        rows = grad.reshape(-1, weight.shape[0])  # (P, out)
        weight_grad = self.xp.matmul(rows.T, x.reshape(-1, weight.shape[1]))  # (out, P) @ (P, in)
        return self.xp.matmul(grad, weight), weight_grad, rows.sum(axis=0)
