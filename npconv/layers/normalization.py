"""BatchNorm2d, as PyTorch's."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import checks
from ..backends import backend
from ..backends.base import Array
from ..layer import Layer
from ..module import Parameter


class BatchNorm2d(Layer):
    """(x - mean) / sqrt(variance + eps) * weight + bias for each channel (Ioffe and Szegedy, 2015).

    In training, mean and (biased) variance are those of the batch, and the running ones move towards them (the
    variance unbiased): running = (1 - momentum) running + momentum batch. In evaluation, the running ones are used.

    Args:
        num_features: channels C of (N, C, H, W), or of (C, H, W), which is a batch of one.
        eps: added to the variance, at least 0.
        momentum: in [0, 1]; None is the plain mean over all batches so far.
        affine: whether there are `weight` and `bias`.
        track_running_stats: whether there are running statistics; without, the batch's are always used.

    Raises ValueError from `forward` in training if a channel has only one value.
    """

    takes_images = True
    buffers = ("running_mean", "running_var", "num_batches_tracked")

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: Any = "float32",
    ) -> None:
        self.num_features = checks.integer(num_features, "num_features", 1)
        self.eps = checks.number(eps, "eps", 0)
        self.momentum = None if momentum is None else checks.probability(momentum, "momentum")
        self.affine = checks.flag(affine, "affine")
        self.track_running_stats = checks.flag(track_running_stats, "track_running_stats")
        ones, zeros = np.ones(num_features, "float32"), np.zeros(num_features, "float32")
        self.weight: Parameter | None = Parameter(ones) if affine else None
        self.bias: Parameter | None = Parameter(zeros) if affine else None
        asarray = backend().asarray
        self.running_mean: Array | None = asarray(zeros.copy()) if track_running_stats else None
        self.running_var: Array | None = asarray(ones.copy()) if track_running_stats else None
        self.num_batches_tracked: Array | None = asarray(np.zeros((), "int64")) if track_running_stats else None
        if dtype != "float32":
            self.astype(dtype)

    def input_range(self, axis: int, start: int, stop: int) -> tuple[int, int] | None:
        """In evaluation, each pixel by itself; None where the batch's own statistics are used even then."""
        return (start, stop) if self.track_running_stats else None

    @property
    def fresh_output(self) -> bool:
        return True

    @property
    def fresh_gradient(self) -> bool:
        return True

    @property
    def uses_batch(self) -> bool:
        """Whether the statistics are those of the batch."""
        return self.training or not self.track_running_stats

    @property
    def splits_batch(self) -> bool:
        return not self.uses_batch

    def check_input(self, x: Array) -> None:
        if x.shape[1] != self.num_features:
            raise ValueError(
                f"BatchNorm2d expects num_features (={self.num_features}) channels, got an input of shape {x.shape}"
            )
        if self.uses_batch and x.shape[0] * x.shape[2] * x.shape[3] < 2:
            raise ValueError(
                f"BatchNorm2d in training needs more than one value per channel, got an input of shape {x.shape}"
            )

    def _forward(self, x: Array) -> tuple[Array, Any]:
        batch = self.uses_batch
        if batch:
            mean, var = backend().batch_norm_statistics(x)
            if self.training and self.track_running_stats:
                self._track(mean, var, x.shape[0] * x.shape[2] * x.shape[3])
            if self.eps == 0:  # a channel without variance becomes its bias, and not 0 / 0
                var = backend().xp.where(var == 0, var.dtype.type(np.inf), var)
        else:
            assert self.running_mean is not None and self.running_var is not None  # not uses_batch
            mean, var = (s.astype(x.dtype) for s in (self.running_mean, self.running_var))
        weight, bias = (None if p is None else p.read(x.dtype) for p in (self.weight, self.bias))
        return backend().batch_norm_forward(x, mean, var, weight, bias, self.eps), (x, mean, var, batch)

    def _backward(self, grad: Array, saved: Any) -> Array:
        x, mean, var, batch = saved
        weight = None if self.weight is None else self.weight.read(x.dtype)
        x_grad, weight_grad, bias_grad = backend().batch_norm_backward(grad, x, mean, var, weight, self.eps, batch)
        if self.weight is not None and self.bias is not None:
            self.weight.accumulate(weight_grad)
            self.bias.accumulate(bias_grad)
        return x_grad

    def _track(self, mean: Array, var: Array, count: int) -> None:
        """Move the running statistics, in place: replicas share them."""
        assert self.num_batches_tracked is not None  # as the running statistics: track_running_stats
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, batch in ((self.running_mean, mean), (self.running_var, var * (count / (count - 1)))):
            assert running is not None
            running[...] = (1 - share) * running + share * batch

    def arguments(self) -> dict[str, Any]:
        return {
            "num_features": self.num_features,
            "eps": self.eps,
            "momentum": self.momentum,
            "affine": self.affine,
            "track_running_stats": self.track_running_stats,
        }

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )
