"""Padding of height and width, in four modes, and its adjoint.

    zeros      1234 -> 00123400        replicate  1234 -> 11123444
    reflect    1234 -> 32123432        circular   1234 -> 34123412

Both directions go one axis at a time: padding an image is padding its rows, then the columns of the result.
"""

from __future__ import annotations

from ..base import Array, Backend
from ..geometry import Pair, Sides


def check_padding(padding: Sides, size: Pair, mode: str) -> None:
    """ValueError if an image of `size` is too small to be padded so: reflect and circular read inside it."""
    for (before, after), length, axis in zip(padding, size, ("height", "width"), strict=True):
        limit = {"reflect": length - 1, "circular": length}.get(mode)
        if limit is not None and max(before, after) > limit:
            raise ValueError(
                f"padding (={max(before, after)}) in mode {mode!r} must be at most {limit} for an image of "
                f"{axis} {length}"
            )


class PaddingOps(Backend):
    """pad2d, written over one axis at a time."""

    def pad2d_forward(self, x: Array, padding: Sides, mode: str) -> Array:
        for axis, sides in zip((2, 3), padding, strict=True):
            if sides != (0, 0):
                x = self._pad_axis(x, axis, sides, mode)
        return x

    def pad2d_backward(self, grad: Array, shape: tuple[int, ...], padding: Sides, mode: str) -> Array:
        for axis, sides in zip((3, 2), reversed(padding), strict=True):
            if sides != (0, 0):
                grad = self._unpad_axis(grad, axis, sides, shape[axis], mode)
        return grad

    def _pad_axis(self, x: Array, axis: int, sides: Pair, mode: str) -> Array:
        length = x.shape[axis]
        if mode != "zeros":
            return self.xp.take(x, self.xp.asarray(_sources(length, sides, mode)), axis=axis)
        shape = list(x.shape)
        shape[axis] += sum(sides)
        padded = _zeros_like(self, x, shape)
        kept_from, kept_to, start = _kept(length, sides)
        _along(padded, axis, start, start + kept_to - kept_from)[...] = _along(x, axis, kept_from, kept_to)
        return padded

    def _unpad_axis(self, grad: Array, axis: int, sides: Pair, length: int, mode: str) -> Array:
        shape = list(grad.shape)
        shape[axis] = length
        x_grad = _zeros_like(self, grad, shape)
        if mode == "zeros":
            kept_from, kept_to, start = _kept(length, sides)
            _along(x_grad, axis, kept_from, kept_to)[...] = _along(grad, axis, start, start + kept_to - kept_from)
            return x_grad
        # Every padded pixel hands its gradient back to the pixel that it is a copy of.
        for position, source in enumerate(_sources(length, sides, mode)):
            _along(x_grad, axis, source, source + 1)[...] += _along(grad, axis, position, position + 1)
        return x_grad


def _along(x: Array, axis: int, start: int, stop: int) -> Array:
    return x[(slice(None),) * axis + (slice(start, stop),)]


def _kept(length: int, sides: Pair) -> tuple[int, int, int]:
    """Zeros mode: input pixels [from, to) survive, and begin at `start` of the output."""
    before, after = sides
    return max(0, -before), max(max(0, -before), length - max(0, -after)), max(0, before)


def _sources(length: int, sides: Pair, mode: str) -> list[int]:
    """For each padded position, the input position it copies."""
    positions = range(-sides[0], length + sides[1])
    if mode == "replicate":
        return [min(max(p, 0), length - 1) for p in positions]
    if mode == "circular":
        return [p % length for p in positions]
    mirrored = [abs(p) for p in positions]
    return [p if p < length else 2 * (length - 1) - p for p in mirrored]


def _zeros_like(ops: Backend, x: Array, shape: list[int]) -> Array:
    """Zeros of (N, C, H, W) `shape`, channels-last in memory."""
    n, c, h, w = shape
    return ops.xp.zeros((n, h, w, c), dtype=x.dtype).transpose(0, 3, 1, 2)
