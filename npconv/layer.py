"""Layer: a module that is one operation, with the checks and the keeping that all of them share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from . import checks
from .arithmetic import quiet
from .backends import backend
from .backends.base import Array
from .module import BackwardError, Module, is_grad_enabled


class Kept(NamedTuple):
    """What a layer's forward leaves for its backward."""

    saved: Any
    input_dtype: Any
    output_shape: tuple[int, ...]
    unbatched: bool


class Layer(Module):
    """A module that is one operation: checks, unbatched input and what is kept, written once for all layers.

    Subclasses write `_forward(x) -> (y, saved)` and `_backward(grad, saved) -> dx`. `takes_images`: the input is
    (N, C, H, W), or (C, H, W), which `_forward` sees as a batch of one. `pointwise`: in evaluation, a pixel of the
    output depends on the same pixel of the input alone.

    What goes in is never changed, and what has come out is never overwritten by a later call. Where nothing is computed
    (Identity, Flatten, SelectChannels, PixelShuffle by 1, Dropout in evaluation), the output may lie in the memory of
    the input, and a gradient in that of grad_output, as in PyTorch: copy one before changing it in place. Between
    forward and backward neither input nor output may be changed: backward computes with them.
    """

    takes_images: ClassVar[bool] = False
    pointwise: ClassVar[bool] = False
    _kept: Kept | None = None

    @abstractmethod
    def _forward(self, x: Array) -> tuple[Array, Any]:
        """The output for `x`, and what `_backward` needs."""

    @abstractmethod
    def _backward(self, grad: Array, saved: Any) -> Array | None:
        """Add to the parameters' gradients; return the gradient for x (None is allowed without `input_gradient`)."""

    def input_range(self, axis: int, start: int, stop: int) -> tuple[int, int] | None:
        return (start, stop) if self.pointwise else None

    def check_input(self, x: Array) -> None:
        """ValueError if a shape is wrong for this layer; `x` is (N, C, H, W) where `takes_images`."""

    def forward(self, x: Array) -> Array:
        return self._checked_forward(x, self._forward)

    def backward(self, grad_output: Array) -> Array:
        return self._checked_backward(grad_output, self._backward)

    @quiet
    def _checked_forward(self, x: Array, compute: Callable[[Array], tuple[Array, Any]]) -> Array:
        """`compute` is `_forward`, or does the same in another way."""
        who = type(self).__name__
        checks.array(x, f"the input of {who}")
        unbatched = self.takes_images and x.ndim == 3
        if self.takes_images and x.ndim not in (3, 4):
            raise ValueError(f"the input of {who}, of shape {x.shape}, must be (N, C, H, W) or (C, H, W)")
        x = x[None] if unbatched else x
        self.check_input(x)
        self._kept = None  # what the last forward kept is of no use any more, and its memory is
        y, saved = compute(x)
        y = y[0] if unbatched else backend().xp.asarray(y)  # NumPy makes a scalar of a result without axes
        self._kept = Kept(saved, x.dtype, y.shape, unbatched) if is_grad_enabled() else None
        return y

    @quiet
    def _checked_backward(self, grad_output: Array, compute: Callable[[Array, Any], Array | None]) -> Array:
        """`compute` is `_backward`, or does the same in another way."""
        who = type(self).__name__
        if self._kept is None:
            raise BackwardError(
                f"{who}.backward was called before {who}.forward (or after one under no_grad, which keeps nothing)"
            )
        kept = self._kept
        checks.array(grad_output, f"grad_output of {who}.backward")
        if grad_output.shape != kept.output_shape:
            raise ValueError(
                f"grad_output of {who}.backward has shape {grad_output.shape}, it must have the output's shape "
                f"{kept.output_shape}"
            )
        grad = grad_output.astype(kept.input_dtype, copy=False)
        x_grad = compute(grad[None] if kept.unbatched else grad, kept.saved)
        return x_grad[0] if kept.unbatched and x_grad is not None else x_grad
