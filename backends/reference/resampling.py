"""Nearest-neighbour upsampling, pixel shuffle and their adjoints."""

from __future__ import annotations

from collections.abc import Sequence

from ..base import Array, Backend


class ResamplingOps(Backend):
    """Moves pixels; computes nothing."""

    def upsample_nearest_forward(self, x: Array, rows: Sequence[int], columns: Sequence[int]) -> Array:
        pixels = x.transpose(0, 2, 3, 1)
        large = pixels[:, self.xp.asarray(rows)][:, :, self.xp.asarray(columns)]
        return large.transpose(0, 3, 1, 2)

    def upsample_nearest_backward(
        self, grad: Array, shape: tuple[int, ...], rows: Sequence[int], columns: Sequence[int]
    ) -> Array:
        grad = self._gather(grad, 2, shape[2], rows)
        return self._gather(grad, 3, shape[3], columns)

    def _gather(self, grad: Array, axis: int, length: int, indices: Sequence[int]) -> Array:
        """Add up, along `axis`, the gradients of all copies of each of `length` pixels."""
        n, c, h, w = grad.shape
        size = (n, length, w, c) if axis == 2 else (n, h, length, c)
        total = self.xp.zeros(size, dtype=grad.dtype).transpose(0, 3, 1, 2)
        first, count = [0] * length, [0] * length
        for position, source in reversed(list(enumerate(indices))):
            first[source], count[source] = position, count[source] + 1
        before = (slice(None),) * axis
        # Round k takes the k-th copy of every pixel that has one: never two copies at once, so += is safe.
        for k in range(max(count, default=0)):
            sources = [s for s in range(length) if count[s] > k]
            copies = self.xp.asarray([first[s] + k for s in sources])
            total[before + (self.xp.asarray(sources),)] += grad[before + (copies,)]
        return total

    def pixel_shuffle(self, x: Array, factor: int) -> Array:
        n, c, h, w = x.shape
        channels = c // factor**2
        # (N, C, r, r, H, W) -> (N, H, r, W, r, C): channels-last in memory
        parts = x.reshape(n, channels, factor, factor, h, w).transpose(0, 4, 2, 5, 3, 1)
        return parts.reshape(n, h * factor, w * factor, channels).transpose(0, 3, 1, 2)

    def pixel_unshuffle(self, x: Array, factor: int) -> Array:
        n, c, h, w = x.shape
        oh, ow = h // factor, w // factor
        # (N, C, H, r, W, r) -> (N, H, W, C, r, r)
        parts = x.reshape(n, c, oh, factor, ow, factor).transpose(0, 2, 4, 1, 3, 5)
        return parts.reshape(n, oh, ow, c * factor**2).transpose(0, 3, 1, 2)
