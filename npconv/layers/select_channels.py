"""SelectChannels: some of an image's channels."""

from __future__ import annotations

from typing import Any

from .. import checks
from ..backends import backend
from ..backends.base import Array
from ..layer import Layer


class SelectChannels(Layer):
    """Channels start, ..., stop - 1 of (N, in_channels, H, W) or (in_channels, H, W).

    Beside others in a Concat it gives each branch its own part of the input, such as the image and the noise level of
    `networks.ffdnet`. Raises ValueError unless 0 <= start < stop <= in_channels, and from `forward` for an input that
    has not `in_channels` channels.
    """

    takes_images = True
    pointwise = True

    def __init__(self, in_channels: int, start: int, stop: int) -> None:
        self.in_channels = checks.integer(in_channels, "in_channels", 1)
        self.start = checks.integer(start, "start", 0)
        self.stop = checks.integer(stop, "stop", 1)
        if self.stop <= self.start:
            raise ValueError(f"stop (={self.stop}) must be greater than start (={self.start})")
        if self.stop > self.in_channels:
            raise ValueError(f"stop (={self.stop}) must be at most in_channels (={self.in_channels})")

    @property
    def fresh_gradient(self) -> bool:
        return True

    def check_input(self, x: Array) -> None:
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f"SelectChannels expects in_channels (={self.in_channels}) channels, "
                f"got an input of shape {x.shape} with {x.shape[1]}"
            )

    def _forward(self, x: Array) -> tuple[Array, Any]:
        return x[:, self.start : self.stop], x.shape  # a view: so the output is not fresh

    def _backward(self, grad: Array, saved: Any) -> Array:
        x_grad = backend().images(backend().xp.zeros(saved, grad.dtype))
        x_grad[:, self.start : self.stop] = grad
        return x_grad

    def arguments(self) -> dict[str, Any]:
        return {"in_channels": self.in_channels, "start": self.start, "stop": self.stop}

    def extra_repr(self) -> str:
        return f"{self.in_channels}, start={self.start}, stop={self.stop}"
