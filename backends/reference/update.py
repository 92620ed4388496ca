"""The steps of the optimizers, in place, as PyTorch defines them."""

from __future__ import annotations

from ..base import Array, Backend


class UpdateOps(Backend):
    """sgd and adam."""

    def sgd_update(
        self,
        data: Array,
        grad: Array,
        velocity: Array | None,
        *,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        step = grad + weight_decay * data if weight_decay else grad
        if velocity is not None:
            velocity *= momentum
            velocity += (1 - dampening) * step if dampening else step
            step = step + momentum * velocity if nesterov else velocity
        data -= lr * step

    def adam_update(
        self,
        data: Array,
        grad: Array,
        first: Array,
        second: Array,
        largest: Array | None,
        *,
        step: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        """Kingma and Ba (2015), algorithm 1; `largest`: AMSGrad, Reddi, Kale and Kumar (2018)."""
        if weight_decay:
            grad = grad + weight_decay * data
        first += (1 - betas[0]) * (grad - first)
        second *= betas[1]
        second += ((1 - betas[1]) * grad) * grad  # in this order: grad * grad would overflow where PyTorch does not
        if largest is not None:
            self.xp.maximum(largest, second, out=largest)
            second = largest
        deviation = self.xp.sqrt(second) / (1 - betas[1] ** step) ** 0.5 + eps
        data -= (lr / (1 - betas[0] ** step)) * (first / deviation)
