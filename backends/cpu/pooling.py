"""Pooling: long rows where the window allows it, and selections without branches (see activation.py)."""

from __future__ import annotations

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry
from ..reference.windows import tap_slices
from .elementwise import Elementwise, bits, least_images, suits
from .memory import empty
from .pixels import add_up, enlarge, images, pixels, taps

NO_PADDING = ((0, 0), (0, 0))


class PoolingOps(Elementwise):
    """max_pool2d and avg_pool2d."""

    def max_pool2d_forward(self, x: Array, geometry: ConvGeometry) -> tuple[Array, Array]:
        if not suits(x) or _crops(geometry):
            return super().max_pool2d_forward(x, geometry)
        n, c = x.shape[:2]
        out = geometry.output_size(x.shape[2:])
        padded = _padded(x, geometry, -np.inf)
        best = empty((n, *out, c), x.dtype)
        winners = empty(best.shape, np.uint8 if geometry.taps < 256 else np.int32)

        def pool(part: slice) -> bool:
            return _largest(padded[part], geometry, best[part], winners[part])

        if not all(self.split(n, pool, least_images(x))):
            # NaN is neither larger nor equal; and minus infinity not larger than the padding, which must not win.
            return super().max_pool2d_forward(x, geometry)
        return images(best), images(winners)

    def max_pool2d_backward(self, grad: Array, winners: Array, shape: tuple[int, ...], geometry: ConvGeometry) -> Array:
        if not suits(grad) or _crops(geometry):
            return super().max_pool2d_backward(grad, winners, shape, geometry)
        small, chosen = pixels(grad), pixels(winners)
        padded = _empty_padded(shape, geometry, grad.dtype)
        apart = _apart(geometry)
        covered = apart and _covers(geometry, padded.shape, small.shape)

        def spread(part: slice) -> None:
            if not covered:
                padded[part] = 0
            _to_winners(small[part], chosen[part], geometry, padded[part], apart)

        self.split(shape[0], spread, least_images(padded))
        return self.pad2d_backward(images(padded), shape, geometry.padding, "zeros")

    def avg_pool2d_forward(self, x: Array, divisor: Array, geometry: ConvGeometry) -> Array:
        if not suits(x) or _crops(geometry):
            return super().avg_pool2d_forward(x, divisor, geometry)
        n, c = x.shape[:2]
        out = geometry.output_size(x.shape[2:])
        padded, total = _padded(x, geometry, 0), empty((n, *out, c), x.dtype)
        divide_by = _divisor(divisor, x.dtype)

        def pool(part: slice) -> None:
            _window_sums(padded[part], geometry, total[part])
            np.divide(total[part], divide_by, out=total[part])

        self.split(n, pool, least_images(x))
        return images(total)

    def avg_pool2d_backward(self, grad: Array, divisor: Array, shape: tuple[int, ...], geometry: ConvGeometry) -> Array:
        if not suits(grad) or _crops(geometry):
            return super().avg_pool2d_backward(grad, divisor, shape, geometry)
        small, divide_by = pixels(grad), _divisor(divisor, grad.dtype)
        padded = _empty_padded(shape, geometry, grad.dtype)
        repeated = _apart(geometry) and _covers(geometry, padded.shape, small.shape)

        def spread(part: slice) -> None:
            share = np.divide(small[part], divide_by, out=empty(small[part].shape, grad.dtype))
            if repeated:
                enlarge(share, geometry.kernel, padded[part])
            else:
                _add_windows(share, geometry, padded[part])

        self.split(shape[0], spread, least_images(padded))
        return self.pad2d_backward(images(padded), shape, geometry.padding, "zeros")


def _padded(x: Array, geometry: ConvGeometry, value: float) -> Array:
    """(N, H, W, C), with `value` around the image."""
    inside = pixels(x)
    if geometry.padding == NO_PADDING:
        return inside
    n, h, w, c = inside.shape
    (top, bottom), (left, right) = geometry.padding
    padded = empty((n, h + top + bottom, w + left + right, c), x.dtype)
    padded.fill(value)
    padded[:, top : top + h, left : left + w] = inside
    return padded


def _empty_padded(shape: tuple[int, ...], geometry: ConvGeometry, dtype: np.dtype) -> Array:
    n, c, h, w = shape
    return empty((n, *geometry.padded_size((h, w)), c), dtype)


def _crops(geometry: ConvGeometry) -> bool:
    return min(min(sides) for sides in geometry.padding) < 0


def _apart(geometry: ConvGeometry) -> bool:
    """Whether no two windows share a pixel."""
    return all(extent <= stride for extent, stride in zip(geometry.extent, geometry.stride, strict=True))


def _covers(geometry: ConvGeometry, size: tuple[int, ...], out: tuple[int, ...]) -> bool:
    """Whether the windows (N, OH, OW, C) cover every pixel (N, H, W, C), side by side."""
    return geometry.kernel == geometry.stride and all(
        size[axis] == out[axis] * geometry.kernel[axis - 1] for axis in (1, 2)
    )


def _largest(padded: Array, geometry: ConvGeometry, best: Array, winners: Array) -> bool:
    """The largest value of each window and its tap, the first of equals; False if not all of these are finite.

    Each tap is copied first: copying short runs is fast, and so is arithmetic on long ones.
    """
    values = empty(best.shape, best.dtype)
    better, number = empty(best.shape, np.bool_), empty(best.shape, winners.dtype)
    for i, j, (rows, columns) in tap_slices(geometry, (best.shape[1], best.shape[2])):
        tap = i * geometry.kernel[1] + j
        np.copyto(values if tap else best, padded[:, rows, columns])
        if tap == 0:
            winners.fill(0)
            continue
        np.greater(values, best, out=better)
        np.maximum(best, values, out=best)
        # Later taps have larger numbers, so the largest number of a tap that was better is the last one's.
        np.multiply(better.view(np.uint8), winners.dtype.type(tap), out=number)
        np.maximum(winners, number, out=winners)
    flat = best.reshape(-1)
    return bool(np.isfinite(np.dot(flat, flat)))


def _to_winners(grad: Array, winners: Array, geometry: ConvGeometry, padded: Array, apart: bool) -> None:
    won = empty(grad.shape, np.bool_)
    for i, j, (rows, columns) in tap_slices(geometry, (grad.shape[1], grad.shape[2])):
        np.equal(winners, i * geometry.kernel[1] + j, out=won)
        target = padded[:, rows, columns]
        if apart:
            np.multiply(bits(grad), won, out=bits(target))
        else:
            part = empty(grad.shape, grad.dtype)
            np.multiply(bits(grad), won, out=bits(part))
            target += part


def _divisor(divisor: Array, dtype: np.dtype) -> Array:
    """(OH, OW) to stand beside (N, OH, OW, C); one number if all are the same."""
    first = divisor.flat[0]
    return dtype.type(first) if (divisor == first).all() else divisor.astype(dtype)[:, :, None]


def _window_sums(padded: Array, geometry: ConvGeometry, total: Array) -> None:
    """Down the columns first, whole rows at a time, then along the rows."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    n, oh, ow, c = total.shape
    lines = empty((n, oh, padded.shape[2], c), total.dtype)
    add_up([padded[:, rows] for rows in taps(kh, sh, dh, oh)], lines)
    add_up([lines[:, :, columns] for columns in taps(kw, sw, dw, ow)], total)


def _add_windows(share: Array, geometry: ConvGeometry, padded: Array) -> None:
    """The adjoint of `_window_sums`."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    n, oh, ow, c = share.shape
    lines = empty((n, oh, padded.shape[2], c), share.dtype)
    lines.fill(0)
    for columns in taps(kw, sw, dw, ow):
        lines[:, :, columns] += share
    padded.fill(0)
    for rows in taps(kh, sh, dh, oh):
        padded[:, rows] += lines
