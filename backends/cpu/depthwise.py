"""Depthwise convolution: a kernel of its own for each channel, so there is no matrix product over channels.

With m output channels for each of C input channels, y[.., c m + j] = sum over taps of W[tap, c m + j] * x[.., c]. A row
of y is OW C m numbers long, and a tap sees as long a row of a zero padded x, some pixels further on; its weights are
tiled to that length. `np.einsum` then multiplies and adds whole rows, without a temporary, in one call for a block:

    y[n, r]  = sum over taps (a, b) of x[n, r + a, columns of b] * W[a, b]       rows of OW C m numbers
    dW[a, b] = sum over n, r of x[n, r + a, columns of b] * dY[n, r]             then over the OW pixels of a row

One call, because two threads that make many short ones wait for each other. A stride across splits the columns of x by
their residue, which makes rows contiguous again. The gradient of the input is, for each residue of the pixel's row and
column modulo the stride, a correlation of stride 1 of dY with those taps, turned round, that reach such pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry, Pair
from .frame import blocks, frame
from .memory import empty
from .prepared import prepared

BLOCK_BYTES = 5 << 19  # of the padded part of x that one block sees: large, so that there are few calls
STRIP = 4096  # numbers of a row, at most: a row of x, of the weights and of y together stay in the L1 cache
SUMMANDS = 512  # of a partial sum of the kernel's gradient, which are added up in float64


@dataclass(frozen=True)
class Phase:
    """The taps j = first, first + step, .. of a row of the kernel, which see columns of x of the same residue modulo
    the stride: their columns are `gap` apart among those."""

    taps: slice
    count: int
    column: int  # of the padded image, that the first tap sees first
    gap: int


def phases(kernel: int, stride: int, dilation: int) -> list[Phase]:
    """All taps of a row of the kernel, by the residues of the columns they see."""
    common = math.gcd(stride, dilation)
    step, gap = stride // common, dilation // common
    firsts = range(min(step, kernel))
    return [Phase(slice(j, kernel, step), len(range(j, kernel, step)), j * dilation, gap) for j in firsts]


class Correlation:
    """What a correlation of x (N, H, W, C) with a kernel (KH, KW, C) shares between its blocks."""

    def __init__(self, geometry: ConvGeometry, dtype: np.dtype, channels: int) -> None:
        self.kernel, self.stride, self.row_gap = geometry.kernel, geometry.stride, geometry.dilation[0]
        self.top, self.left = geometry.padding[0][0], geometry.padding[1][0]
        self.phases = phases(geometry.kernel[1], geometry.stride[1], geometry.dilation[1])
        self.channels, self.itemsize = channels, dtype.itemsize

    def strip(self, out_width: int) -> int:
        """How many columns a block has, at most."""
        return max(1, min(out_width, STRIP // self.channels))

    def blocks(self, n: int, lines: slice, out_width: int, most: int) -> Iterator[tuple[slice, slice, slice]]:
        """Blocks of images, output rows and output columns, of at most `most` rows of all images together."""
        if lines.start >= lines.stop:
            return
        width = self.strip(out_width)
        line_bytes = width * self.channels * self.itemsize * len(self.phases) * self.stride[0]
        for start in range(0, out_width, width):
            columns = slice(start, min(start + width, out_width))
            for images, rows in blocks(n, lines, max(line_bytes, BLOCK_BYTES / most), BLOCK_BYTES):
                yield images, rows, columns

    def inputs(self, x: Array, rows: slice, columns: slice) -> Iterator[tuple[slice, Array]]:
        """For each phase, its place among the KW taps and what they see: (n, KH, taps, rows, OW C), a view."""
        count, width = rows.stop - rows.start, columns.stop - columns.start
        height = (count - 1) * self.stride[0] + (self.kernel[0] - 1) * self.row_gap + 1
        x, place = repeated(x, self.channels), 0
        for phase in self.phases:
            wide = width + (phase.count - 1) * phase.gap
            first = columns.start * self.stride[1] + phase.column - self.left
            thinned = x[:, :, first % self.stride[1] :: self.stride[1]]
            top = rows.start * self.stride[0] - self.top
            framed = adjacent(frame(thinned, top, first // self.stride[1], height, wide))
            image, line, pixel, number = framed.strides
            shape = (x.shape[0], self.kernel[0], phase.count, count, width * self.channels)
            strides = (image, self.row_gap * line, phase.gap * pixel, self.stride[0] * line, number)
            yield slice(place, place + phase.count), as_strided(framed, shape, strides)
            place += phase.count

    def weights(self, kernel: Array, width: int) -> Array:
        """(KH, KW, width C) of the kernel (KH, KW, C): a row's taps by phases, each tiled to `width` pixels."""
        kh, kw, c = kernel.shape
        tiled = empty((kh, kw, width, c), kernel.dtype)
        tiled[...] = np.concatenate([kernel[:, phase.taps] for phase in self.phases], axis=1)[:, :, None]
        return tiled.reshape(kh, kw, width * c)

    def fill(self, x: Array, weights: Array, bias: Array | None, y: Array, lines: slice) -> None:
        """y[:, lines] (N, OH, OW, C / k), each channel the sum of k adjacent ones of the correlation."""
        run = None if bias is None else np.tile(bias, self.strip(y.shape[2]))
        for images, rows, columns in self.blocks(x.shape[0], lines, y.shape[2], BLOCK_BYTES):
            target = y[images, rows, columns]
            n, high, wide, channels = target.shape
            shape = (n, high, wide * self.channels)
            direct = channels == self.channels and is_adjacent(target)
            result = target.reshape(shape) if direct else empty(shape, x.dtype)
            for taps, view in self.inputs(x[images], rows, columns):
                factors = weights[:, taps, : shape[2]]
                part = result if taps.start == 0 else empty(shape, x.dtype)
                np.einsum("nabri,abi->nri", view, factors, out=part)
                if part is not result:
                    result += part
            if run is not None:
                result += run[: shape[2]]
            if not direct:
                add_up(result.reshape(n, high, wide, channels, -1), target)

    def kernel_gradient(self, x: Array, grad: Array, lines: slice) -> Array:
        """The kernel's gradient (KH, KW, C), in float64, of the output rows `lines`."""
        gradient = np.zeros((*self.kernel, self.channels))
        for images, rows, columns in self.blocks(x.shape[0], lines, grad.shape[2], SUMMANDS):
            upstream = grad[images, rows, columns]
            n, high, wide, _ = upstream.shape
            upstream = upstream.reshape(n, high, wide * self.channels)
            views = self.inputs(x[images], rows, columns)
            for phase, (_, view) in zip(self.phases, views, strict=True):
                sums = empty((self.kernel[0], phase.count, upstream.shape[2]), x.dtype)
                np.einsum("nabri,nri->abi", view, upstream, out=sums)
                # (KH, taps, OW C) -> (KH, taps, C)
                pixels = sums.reshape(self.kernel[0], phase.count, wide, self.channels)
                gradient[:, phase.taps] += pixels.sum(axis=2, dtype=np.float64)
        return gradient


def forward(
    x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array, images: slice, lines: slice
) -> None:
    """Fill y[images, lines] (N, OH, OW, C m) from x (N, H, W, C) and weight (C m, 1, KH, KW)."""
    work = Correlation(geometry, x.dtype, weight.shape[0])
    width = work.strip(y.shape[2])
    key = ("depthwise", width, geometry.stride, geometry.dilation)
    weights = prepared(weight, key, lambda: work.weights(kernel(weight), width))
    work.fill(x[images], weights, bias, y[images], lines)


def weight_gradient(x: Array, grad: Array, geometry: ConvGeometry, images: slice, lines: slice) -> Array:
    """The kernel's gradient (KH, KW, 1, C m) from x (N, H, W, C) and grad (N, OH, OW, C m), of these rows."""
    work = Correlation(geometry, x.dtype, grad.shape[3])
    return work.kernel_gradient(x[images], grad[images], lines)[:, :, None].astype(x.dtype)


def input_gradient(grad: Array, weight: Array, geometry: ConvGeometry, x_grad: Array, images: slice) -> None:
    """Fill x_grad[images] (N, H, W, C) from grad (N, OH, OW, C m) and weight (C m, 1, KH, KW)."""
    (sh, sw), x_part = geometry.stride, x_grad[images]
    for row in range(min(sh, x_part.shape[1])):
        for column in range(min(sw, x_part.shape[2])):
            _fill_residue(grad[images], weight, geometry, (row, column), x_part[:, row::sh, column::sw])


def _fill_residue(grad: Array, weight: Array, geometry: ConvGeometry, start: Pair, target: Array) -> None:
    """Fill `target`, the pixels start, start + stride, .. of the input's gradient."""
    down, across = (_residue_taps(geometry, axis, start[axis]) for axis in (0, 1))
    if down is None or across is None:
        target.fill(0)
        return
    part = kernel(weight)[down[0], across[0]][::-1, ::-1]
    adjoint = ConvGeometry(part.shape[:2], (1, 1), ((down[1], 0), (across[1], 0)), (down[2], across[2]))
    work = Correlation(adjoint, grad.dtype, grad.shape[3])
    width = work.strip(target.shape[2])
    key = ("depthwise adjoint", width, geometry.stride, geometry.dilation, down[0].start, across[0].start)
    weights = prepared(weight, key, lambda: work.weights(part, width))
    work.fill(grad, weights, None, target, slice(0, target.shape[1]))


def _residue_taps(geometry: ConvGeometry, axis: int, start: int) -> tuple[slice, int, int] | None:
    """Which taps along `axis` reach the pixels start, start + stride, ..; None if none does.

    With them, the padding before and the dilation of the correlation of dY with these taps turned round.
    """
    kernel_size, stride, dilation = geometry.kernel[axis], geometry.stride[axis], geometry.dilation[axis]
    position, common = start + geometry.padding[axis][0], math.gcd(stride, dilation)
    first = next((i for i in range(kernel_size) if (position - i * dilation) % stride == 0), None)
    if first is None:
        return None
    taps, gap = slice(first, kernel_size, stride // common), dilation // common
    span = (len(range(kernel_size)[taps]) - 1) * gap
    return taps, span - (position - first * dilation) // stride, gap


def kernel(weight: Array) -> Array:
    """(C m, 1, KH, KW) -> (KH, KW, C m)."""
    return weight[:, 0].transpose(1, 2, 0)


def repeated(x: Array, channels: int) -> Array:
    """x (N, H, W, C) with each channel repeated, so that there are `channels`."""
    return x if x.shape[3] == channels else np.repeat(x, channels // x.shape[3], axis=3)


def is_adjacent(x: Array) -> bool:
    """Whether the pixels of a row of x (N, H, W, C) lie one after another."""
    return bool(x.strides[3] == x.itemsize and (x.shape[2] == 1 or x.strides[2] == x.shape[3] * x.itemsize))


def adjacent(x: Array) -> Array:
    """x (N, H, W, C), copied if the pixels of a row do not lie one after another."""
    if x.strides[3] == x.itemsize and x.strides[2] == x.shape[3] * x.itemsize:
        return x
    copied = empty(x.shape, x.dtype)
    copied[...] = x
    return copied


def as_strided(x: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """A view of x that begins where x does."""
    if x.flags.c_contiguous:
        return np.ndarray(shape, x.dtype, x, 0, strides)  # as_strided, in a tenth of its time
    return np.lib.stride_tricks.as_strided(x, shape, strides)


def add_up(parts: Array, out: Array) -> None:
    """out (..) = the sum of parts (.., k) over its last axis."""
    np.copyto(out, parts[..., 0])
    for j in range(1, parts.shape[-1]):
        out += parts[..., j]
