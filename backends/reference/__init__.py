"""Every operation once, plainly, over `xp` (NumPy or CuPy): what a learner reads first, and what tests trust.

A family of operations a file, each a class with forward and backward side by side; `Reference` is all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from ..base import Array
from .activation import ActivationOps
from .conv import ConvOps
from .dense import DenseOps
from .loss import LossOps
from .normalization import NormalizationOps
from .padding import PaddingOps
from .pooling import PoolingOps
from .resampling import ResamplingOps
from .update import UpdateOps
from .windows import WindowOps


class Reference(
    ConvOps,
    PoolingOps,
    WindowOps,
    PaddingOps,
    ResamplingOps,
    ActivationOps,
    NormalizationOps,
    DenseOps,
    LossOps,
    UpdateOps,
):
    """The operations of a backend, written over `xp`; a backend adds its arrays and workers.

    A step is taken as it is written down, unless a backend says otherwise: the whole batch, one parameter at a time.
    """

    def constant(self, key: Hashable, make: Callable[[], Any]) -> Array:
        return self.asarray(make())

    @property
    def shares_batch(self) -> bool:
        return False

    @property
    def updates_flat(self) -> bool:
        return False

    @property
    def fused_activations(self) -> frozenset[str]:
        return frozenset()

    def step_recorder(self) -> Any | None:
        return None


__all__ = ["Reference"]
