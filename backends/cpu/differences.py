"""Doubling by nearest neighbours and then a 3x3 convolution, from the differences of neighbouring pixels.

Along one axis, the doubled image has each pixel x[v] twice, and of the three taps w two always meet the same pixel:

    y[2 v]     = w0 x[v-1] + (w1 + w2) x[v]   = s x[v] - w0 d[v]            s = w0 + w1 + w2
    y[2 v + 1] = (w0 + w1) x[v] + w2 x[v+1]   = s x[v] + w2 d[v+1]          d[v] = x[v] - x[v-1]

Three multiplications for two outputs, where two phases of two taps take four (phases.py) and the convolution of the
doubled image six. Over both axes nine for four outputs, where phases take sixteen: with T the 3x3 matrix that makes
(-w0, s, w2) of w, and U = T W T^T,

    narrow[a] = U[a, 1]             (C, O)      times x (a = 1) or the differences down (a = 0 and 2)
    wide[a]   = [U[a, 2], U[a, 0]]  (C, 2 O)    times the differences across (a = 1) or both ways (a = 0 and 2)

The products of `wide` lie such that a row of them, from its second O numbers on, is a row of y: difference u stands
between pixels u - 1 and u, and gives to the right column of the one and the left column of the other.

    y[2 v + r] = narrow[1] x[v] + narrow[2 r] dh[v + r]  (twice each)  +  wide[1] dw[v] + wide[2 r] dhw[v + r]

Backward is the adjoint, step by step. Scale 2, padding 1, stride 1 and dilation 1 only; x is (N, H, W, C).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..base import Array
from ..geometry import ConvGeometry, Pair
from .frame import BLOCK_BYTES, blocks, frame
from .memory import empty
from .prepared import prepared
from .unfold import repeated
from .winograd import finite

PRODUCTS = 9  # for each pixel of x
LEAST_CHANNELS = 24  # below, the additions cost more than the multiplications they save
GEOMETRY = ConvGeometry.parse(3, 1, 1, 1)
T = np.array([[-1, 0, 0], [1, 1, 1], [0, 0, 1]], np.float64)
TT = {dtype: np.kron(T, T).astype(dtype) for dtype in map(np.dtype, ("f4", "f8"))}  # (9, 9): the kernel's both axes
SIDES = ((0, 0), (1, 2))  # the row of a pair of output rows, and the row of U that its differences meet


def applies(algorithm: str, x: Array, weight: Array, scale: Pair, geometry: ConvGeometry) -> bool:
    """Whether this is the way: wherever it can be if `algorithm` is "differences", and where it is faster for "auto".

    Measured with 16 images of 8x8, one core, as phases.py's time over this one's, forward and backward: 16 channels
    0.8 and 1.0; 32 channels 1.1 and 1.3; 48 channels 1.5 and 1.5; 64 channels 1.7 and 1.6.
    """
    if scale != (2, 2) or geometry != GEOMETRY or x.dtype not in TT or not x.size:
        return False
    return algorithm == "differences" or (algorithm == "auto" and min(weight.shape[:2]) >= LEAST_CHANNELS)


class Matrices(NamedTuple):
    """What the kernel becomes, once a step."""

    narrow: Array  # (3, C, O)
    wide: Array  # (3, C, 2 O)


class Inputs(NamedTuple):
    """A block of the image and its differences: V rows of U pixels."""

    centre: Array  # (N, V, U, C)
    down: Array  # (N, V + 1, U, C): row v less row v - 1
    across: Array  # (N, V, U + 1, C): column u less column u - 1
    both: Array  # (N, V + 1, U + 1, C)

    @classmethod
    def of(cls, x: Array, rows: slice) -> Inputs:
        """Of these rows of x (N, H, W, C); outside the image there are zeros."""
        width, height = x.shape[2], rows.stop - rows.start
        framed = frame(x, rows.start - 1, -1, height + 2, width + 2)
        across = _difference(framed[:, :, 1:], framed[:, :, :-1])
        down = _difference(framed[:, 1:, 1:-1], framed[:, :-1, 1:-1])
        return cls(x[:, rows], down, across[:, 1:-1], _difference(across[:, 1:], across[:, :-1]))


def forward(x: Array, weight: Array, bias: Array | None, y: Array, images: slice, lines: slice) -> bool:
    """Fill the rows `lines`, an even number from an even one on, of y[images] (N, 2 H, 2 W, O); weight (O, C, 3, 3).

    Whether all that is there is finite.
    """
    matrices, x, y, all_finite = _matrices(weight), x[images], y[images], True
    for part, rows in _blocks(x, lines, weight.shape):
        inputs, target = Inputs.of(x[part], _halved(rows)), y[part, rows]
        n, height, width, _ = inputs.centre.shape
        narrow = _product(inputs.centre, matrices.narrow[1])
        if bias is not None:
            long = narrow.reshape(n * height, -1)
            long += repeated(bias, width)
        wide = _product(inputs.across, matrices.wide[1])
        for row, a in SIDES:
            pixels = _product(inputs.down[:, row : row + height], matrices.narrow[a])
            pixels += narrow
            columns = _product(inputs.both[:, row : row + height], matrices.wide[a])
            columns += wide
            o = target.shape[3]
            inner = columns.reshape(n, height, -1)[:, :, o:-o].reshape(n, height, width, 2, o)
            out = target[:, row::2].reshape(n, height, width, 2, o)
            np.add(inner, pixels.reshape(n, height, width, 1, o), out=out)
        all_finite = all_finite and finite(target)
    return all_finite


def backward(x: Array, grad: Array, weight: Array, x_grad: Array | None, images: slice) -> Array:
    """The kernel's gradient (3, 3, C, O) from these images of x and of grad (N, 2 H, 2 W, O); fills x_grad[images]."""
    o, c = weight.shape[:2]
    x, grad = x[images], grad[images]
    total = _Gradients(np.zeros((3, c, o), x.dtype), np.zeros((3, c, 2 * o), x.dtype))
    cuts = _blocks(x, slice(0, grad.shape[1]), weight.shape)
    if x_grad is not None:
        x_grad = x_grad[images]
        if len(x) and cuts[0][1].stop < grad.shape[1]:
            x_grad.fill(0)  # bands of rows add to it what reaches over their edges
    for part, rows in cuts:
        upstream = _Upstream.of(grad[part, rows])
        total.add(Inputs.of(x[part], _halved(rows)), upstream)
        if x_grad is not None:
            _lay_input_gradient(upstream, weight, x_grad[part], _halved(rows))
    # (3, C, 2, O) -> (3, 2, C, O)
    wide = total.wide.reshape(3, c, 2, o).transpose(0, 2, 1, 3)
    of_products = np.stack([wide[:, 1], total.narrow, wide[:, 0]], axis=1)
    return np.matmul(TT[x.dtype].T, of_products.reshape(9, c * o)).reshape(3, 3, c, o)


class _Upstream(NamedTuple):
    """The upstream gradient of each product, for the two rows that pixels become."""

    pixels: list[Array]  # 2 of (N, V, U, O): both columns of a pixel added up
    columns: list[Array]  # 2 of (N, V, U + 1, 2 O): columns as the products lie, zeros at both ends

    @classmethod
    def of(cls, grad: Array) -> _Upstream:
        """Of rows of grad (N, 2 V, 2 U, O)."""
        n, height, width, o = grad.shape
        pixels, columns = [], []
        for row in (0, 1):
            pairs = grad[:, row::2].reshape(n, height // 2, width // 2, 2, o)
            added = empty((n, height // 2, width // 2, o), grad.dtype)
            pixels.append(np.add(pairs[:, :, :, 0], pairs[:, :, :, 1], out=added))
            shifted = empty((n, height // 2, (width + 2) * o), grad.dtype)
            shifted[:, :, :o], shifted[:, :, -o:] = 0, 0
            shifted[:, :, o:-o] = grad[:, row::2].reshape(n, height // 2, width * o)
            columns.append(shifted.reshape(n, height // 2, width // 2 + 1, 2 * o))
        return cls(pixels, columns)


class _Gradients(NamedTuple):
    """The gradients of `Matrices`."""

    narrow: Array
    wide: Array

    def add(self, inputs: Inputs, upstream: _Upstream) -> None:
        """Add up inputs^T @ upstream over the pixels of a block."""
        height = inputs.centre.shape[1]
        self.narrow[1] += _summed_product(inputs.centre, _sum(upstream.pixels))
        self.wide[1] += _summed_product(inputs.across, _sum(upstream.columns))
        for row, a in SIDES:
            self.narrow[a] += _summed_product(inputs.down[:, row : row + height], upstream.pixels[row])
            self.wide[a] += _summed_product(inputs.both[:, row : row + height], upstream.columns[row])


def _lay_input_gradient(upstream: _Upstream, weight: Array, x_grad: Array, rows: slice) -> None:
    """The gradient of the rows `rows` of x; of a band, added to x_grad (N, H, W, C)."""
    narrow, wide = _turned_matrices(weight)
    height = rows.stop - rows.start
    whole = height == x_grad.shape[1]
    shape = (len(x_grad), height, x_grad.shape[2], x_grad.shape[3])
    total = x_grad if whole else empty(shape, x_grad.dtype)
    _product(_sum(upstream.pixels), narrow[1], total)
    across = _product(_sum(upstream.columns), wide[1])
    down, both = _of_rows(upstream.pixels, narrow), _of_rows(upstream.columns, wide)
    for sums, part in ((total, down), (across, both)):
        sums += part[:, :height]
        sums -= part[:, 1:]
    _add_differences(total, across)
    if whole:
        return
    x_grad[:, rows] += total
    # The first difference down reaches the row above the band, the last one the row below it.
    if rows.start > 0:
        above = x_grad[:, rows.start - 1 : rows.start]
        above -= down[:, :1]
        _add_differences(above, -both[:, :1])
    if rows.stop < x_grad.shape[1]:
        below = x_grad[:, rows.stop : rows.stop + 1]
        below += down[:, height:]
        _add_differences(below, both[:, height:])


def _of_rows(upstream: list[Array], matrices: Array) -> Array:
    """The gradient (N, V + 1, ., C) of differences down: those between row v - 1 and row v."""
    n, height, width, _ = upstream[0].shape
    total = empty((n, height + 1, width, matrices.shape[2]), matrices.dtype)
    _product(upstream[0], matrices[0], total[:, :height])
    total[:, height:] = 0
    total[:, 1:] += _product(upstream[1], matrices[2])
    return total


def _add_differences(total: Array, across: Array) -> None:
    """total (N, V, U, C) += the adjoint of the differences across (N, V, U + 1, C)."""
    total += across[:, :, :-1]
    total -= across[:, :, 1:]


def _matrices(weight: Array) -> Matrices:
    def make() -> Matrices:
        o, c = weight.shape[:2]
        flat = weight.transpose(2, 3, 1, 0).reshape(9, c * o)
        u = np.matmul(TT[weight.dtype], flat).reshape(3, 3, c, o)
        return Matrices(np.ascontiguousarray(u[:, 1]), np.concatenate([u[:, 2], u[:, 0]], axis=2))

    return prepared(weight, "differences", make)


def _turned_matrices(weight: Array) -> Matrices:
    """narrow (3, O, C) and wide (3, 2 O, C): a product with a matrix that is only seen transposed is slower."""

    def make() -> Matrices:
        return Matrices(*(np.ascontiguousarray(m.transpose(0, 2, 1)) for m in _matrices(weight)))

    return prepared(weight, "differences, turned", make)


def _blocks(x: Array, lines: slice, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], ...]:
    """Blocks of output rows, an even number each."""
    return blocks(len(x), lines, (x.shape[2] + 1) * max(shape[:2]) * x.dtype.itemsize, BLOCK_BYTES, 2)


def _halved(rows: slice) -> slice:
    """The rows of x that output rows come from."""
    return slice(rows.start // 2, rows.stop // 2)


def _difference(a: Array, b: Array) -> Array:
    return np.subtract(a, b, out=empty(a.shape, a.dtype))


def _sum(arrays: list[Array]) -> Array:
    return np.add(arrays[0], arrays[1], out=empty(arrays[0].shape, arrays[0].dtype))


def _product(x: Array, matrix: Array, out: Array | None = None) -> Array:
    """x (N, V, U, C) @ matrix (C, O) -> (N, V, U, O), an image at a time: small products are the fastest."""
    n, height, width, c = x.shape
    if out is None:
        out = empty((n, height, width, matrix.shape[1]), x.dtype)
    np.matmul(x.reshape(n, height * width, c), matrix, out=out.reshape(n, height * width, -1))
    return out


def _summed_product(x: Array, grad: Array) -> Array:
    """The sum over images and pixels of x (N, V, U, C)^T grad (N, V, U, O): (C, O)."""
    n, height, width, c = x.shape
    if not x.flags.c_contiguous and height * width < c:
        x = np.ascontiguousarray(x)  # or there would be a (C, O) for each image, larger than the image
    if x.flags.c_contiguous:
        return np.matmul(x.reshape(-1, c).T, grad.reshape(n * height * width, -1))
    rows = x.reshape(n, height * width, c).transpose(0, 2, 1)
    return np.matmul(rows, grad.reshape(n, height * width, -1)).sum(axis=0)
