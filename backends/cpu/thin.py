"""Convolution with few output channels (an image of 3): as planes, because a product 3 columns wide wastes the BLAS.

Every tap and output channel is one row of a product over all pixels of the zero padded frame, and the taps are added
up afterwards, each shifted by its place in the kernel:

    D = W @ X^T                             (K O, C) @ (C, P) -> (K O, P), P = N HP WP pixels of the frame
    y[o, p] = sum over taps t of D[t, o, p + offset(t)]

In flat memory a shift by (i, j) pixels is an offset of i WP + j, so each tap is one addition of long rows. What runs
over the right edge lands in columns of the frame that are not copied out. Stride 1 only; nothing is unfolded.
"""

from __future__ import annotations

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry, Pair
from .frame import blocks, frame
from .memory import empty
from .prepared import prepared

PLANE_BYTES = 1 << 19  # of the products D of one block


def forward(
    x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry, y: Array, images: slice, lines: slice
) -> None:
    """Fill y[images, lines] (N, OH, OW, O) from x (N, H, W, C) and weight (O, C, KH, KW)."""
    matrix = prepared(weight, "thin", lambda: tap_rows(weight))
    x, y, (eh, ew), (top, _), (left, _) = x[images], y[images], geometry.extent, *geometry.padding
    out_width, o = y.shape[2:]
    line_bytes = (out_width + ew - 1) * matrix.shape[0] * x.dtype.itemsize
    for part, rows in blocks(x.shape[0], lines, line_bytes, PLANE_BYTES):
        height = rows.stop - rows.start
        framed = frame(x[part], rows.start - top, -left, height + eh - 1, out_width + ew - 1)
        planes = summed_planes(framed, matrix, geometry.kernel, geometry.dilation)
        for channel in range(o):
            # One channel at a time: NumPy would make the three channels its inner loop.
            source, target = planes[channel, :, :height, :out_width], y[part, rows, :, channel]
            np.add(source, 0 if bias is None else bias[channel], out=target)


def tap_rows(weight: Array) -> Array:
    """(O, C, KH, KW) -> (KH KW O, C)."""
    return np.ascontiguousarray(weight.transpose(2, 3, 0, 1)).reshape(-1, weight.shape[1])


def summed_planes(framed: Array, matrix: Array, kernel: Pair, dilation: Pair) -> Array:
    """The taps of matrix (KH KW O, C), multiplied with framed (N, HP, WP, C) and added up: (O, N, HP, WP).

    Valid where a whole window fits into the frame: windows begin at the position they are written to.
    """
    n, height, width, c = framed.shape
    taps = kernel[0] * kernel[1]
    flat = np.ascontiguousarray(framed).reshape(-1, c)
    products = empty((matrix.shape[0], flat.shape[0]), framed.dtype)
    np.matmul(matrix, flat.T, out=products)
    products = products.reshape(taps, -1, flat.shape[0])
    offsets = [i * dilation[0] * width + j * dilation[1] for i in range(kernel[0]) for j in range(kernel[1])]
    length = flat.shape[0] - offsets[-1]
    total = products[0]
    for tap in range(1, taps):
        total[:, :length] += products[tap, :, offsets[tap] : offsets[tap] + length]
    return total.reshape(-1, n, height, width)
