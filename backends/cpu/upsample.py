"""Nearest upsampling by s, then a convolution with kernel k and dilation D, is one transposed convolution.

Each input pixel i fills the s pixels i s + r of the large image, and tap t carries them to output i s + r - t D + p
(p: the padding before). So pixel i reaches output i s + m - (D (k - 1) - p) with the kernel

    K[m] = sum of W[t] over all r, t with r + D (k - 1 - t) = m,        0 <= m < s + D (k - 1)

and the large image never exists: stride s, kernel s + D (k - 1), D (k - 1) - p cropped in front. K = A W A^T with a
matrix A of zeros and ones for each axis, so the gradient of W is A^T dK A: with A x A, one small product each. (Where
s = 2 and k = 3: 16 taps for 4 output pixels instead of 36.)
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry, Pair


def spreading_matrix(kernel: int, scale: int, dilation: int) -> np.ndarray:
    """A (s + D (k - 1), k): A[m, t] = 1 where some r in 0..s-1 has r + D (k - 1 - t) = m."""
    matrix = np.zeros((scale + dilation * (kernel - 1), kernel))
    for t in range(kernel):
        start = dilation * (kernel - 1 - t)
        matrix[start : start + scale, t] = 1
    return matrix


@lru_cache(maxsize=256)
def _both_axes(scale: Pair, geometry: ConvGeometry, dtype: np.dtype) -> tuple[np.ndarray, Pair]:
    """A x A (MH MW, KH KW), the Kronecker product over both axes, and (MH, MW)."""
    down = spreading_matrix(geometry.kernel[0], scale[0], geometry.dilation[0])
    across = spreading_matrix(geometry.kernel[1], scale[1], geometry.dilation[1])
    return np.kron(down, across).astype(dtype), (len(down), len(across))


def enlarged_kernel(weight: Array, scale: Pair, geometry: ConvGeometry) -> Array:
    """W (O, C, KH, KW) -> K (C, O, MH, MW), in the layout of a transposed convolution's weight."""
    matrix, size = _both_axes(scale, geometry, weight.dtype)
    o, c = weight.shape[:2]
    # (MH MW, KH KW) @ (KH KW, C O); our layers keep the kernel in memory so
    large = np.matmul(matrix, weight.transpose(2, 3, 1, 0).reshape(-1, c * o))
    return large.reshape(*size, c, o).transpose(2, 3, 0, 1)


def kernel_gradient(grad: Array, shape: tuple[int, ...], scale: Pair, geometry: ConvGeometry) -> Array:
    """The adjoint of `enlarged_kernel`: dK (C, O, MH, MW) -> dW of `shape` (O, C, KH, KW)."""
    matrix, _ = _both_axes(scale, geometry, grad.dtype)
    o, c, kh, kw = shape
    # (KH KW, MH MW) @ (MH MW, O C); the transposed convolution's gradient lies in memory so
    small = np.matmul(matrix.T, grad.transpose(2, 3, 1, 0).reshape(-1, o * c))
    return small.reshape(kh, kw, o, c).transpose(2, 3, 0, 1)


@lru_cache(maxsize=1024)
def transposed_geometry(shape: tuple[int, ...], scale: Pair, geometry: ConvGeometry, size: Pair) -> ConvGeometry:
    """The transposed convolution, for a `geometry` of stride 1, that turns an image of `shape` into one of `size`."""
    reach = [d * (k - 1) for d, k in zip(geometry.dilation, geometry.kernel, strict=True)]
    kernel = (scale[0] + reach[0], scale[1] + reach[1])
    sides = []
    for axis in (0, 1):
        before = reach[axis] - geometry.padding[axis][0]
        full = (shape[2 + axis] - 1) * scale[axis] + kernel[axis]
        sides.append((before, full - before - size[axis]))
    return ConvGeometry(kernel, scale, (sides[0], sides[1]))
