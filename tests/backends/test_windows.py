"""im2col and col2im: against plain loops, and against each other as adjoints."""

from __future__ import annotations

import draws
import naive
import numpy as np
import pytest
from devices import FromHost, on_device
from hypothesis import given

import npconv as nc
from npconv.backends import ConvGeometry

OPS = FromHost()
Window = tuple[ConvGeometry, tuple[int, int, int, int]]


@given(draws.windows(cropping=True), draws.seeds)
def test_im2col_is_what_loops_give(window: Window, seed: int) -> None:
    geometry, shape = window
    x = draws.random(np.random.default_rng(seed), *shape)
    columns = OPS.im2col(x, geometry)
    assert np.array_equal(columns, naive.im2col(x, geometry))


@given(draws.windows(cropping=True), draws.seeds)
def test_col2im_is_the_adjoint_of_im2col(window: Window, seed: int) -> None:
    geometry, shape = window
    rng = np.random.default_rng(seed)
    x = draws.random(rng, *shape)
    columns = OPS.im2col(x, geometry)
    c = draws.random(rng, *columns.shape)
    image = OPS.col2im(c, shape, geometry)
    assert image.shape == shape
    draws.assert_adjoint(draws.inner(columns, c), draws.inner(x, image), columns.size)


@given(draws.windows(), draws.seeds)
def test_col2im_counts_the_windows_that_see_each_pixel(window: Window, seed: int) -> None:
    """col2im(im2col(x)) is x times a count: 1s go through both, and say how many windows each pixel is in."""
    geometry, shape = window
    x = draws.random(np.random.default_rng(seed), *shape)
    columns = OPS.im2col(x, geometry)
    counts = OPS.col2im(np.ones_like(columns), shape, geometry)
    assert np.allclose(OPS.col2im(columns, shape, geometry), x * counts, rtol=1e-12, atol=1e-12)
    expected = np.zeros(shape[2:])
    for i, j in naive.indices(*naive.output_size(shape[2:], geometry)):
        for tap in naive.indices(*geometry.kernel):
            row, column = naive.source(geometry, (i, j), tap)
            if 0 <= row < shape[2] and 0 <= column < shape[3]:
                expected[row, column] += 1
    assert np.array_equal(counts, np.broadcast_to(expected, shape))


@given(draws.windows(cropping=True))
def test_the_geometry_counts_windows_as_loops_do(window: Window) -> None:
    geometry, shape = window
    assert geometry.output_size(shape[2:]) == naive.output_size(shape[2:], geometry)


@given(draws.transposed_windows())
def test_the_transposed_size_undoes_the_output_size(
    window: tuple[ConvGeometry, tuple[int, int, int, int], tuple[int, int]],
) -> None:
    geometry, shape, size = window
    if min(length + sum(p) for length, p in zip(size, geometry.padding, strict=True)) > 0:
        assert geometry.output_size(size) == shape[2:]


def test_im2col_by_hand() -> None:
    """Two 2x2 windows on a 2x3 image of one channel."""
    x = np.array([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
    columns = nc.im2col(on_device(x), 2)
    assert columns.tolist() == [[1, 2, 4, 5], [2, 3, 5, 6]]
    assert nc.col2im(columns, x.shape, 2).tolist() == [[[[1, 4, 3], [4, 10, 6]]]]


def test_channels_run_fastest() -> None:
    """The columns of one tap stand together: C neighbours in memory, which are copied in one run."""
    x = np.arange(2 * 2 * 2, dtype="float64").reshape(1, 2, 2, 2)
    assert nc.im2col(on_device(x), 2).tolist() == [[0, 4, 1, 5, 2, 6, 3, 7]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_unbatched_images_and_their_dtype(dtype: str, rng: np.random.Generator) -> None:
    x = on_device(draws.random(rng, 2, 5, 4, dtype=dtype))
    columns = nc.im2col(x, 3, stride=2, padding=1, dilation=1)
    assert columns.dtype == dtype
    assert np.array_equal(columns, nc.im2col(x[None], 3, stride=2, padding=1))
    assert nc.col2im(columns, x.shape, 3, stride=2, padding=1).shape == x.shape


def test_a_convolution_is_a_product_with_the_columns(rng: np.random.Generator) -> None:
    """The line in im2col's docstring."""
    x = on_device(draws.random(rng, 2, 3, 7, 6))
    layer = nc.Conv2d(3, 5, (3, 2), stride=2, padding=1, bias=False, dtype="float64")
    matrix = layer.weight.data.transpose(2, 3, 1, 0).reshape(-1, 5)
    y = (nc.im2col(x, (3, 2), 2, 1) @ matrix).reshape(2, 4, 4, 5).transpose(0, 3, 1, 2)
    assert np.allclose(y, layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: nc.im2col(x[0, 0], 2), r"of shape \(4, 4\), must be \(N, C, H, W\) or \(C, H, W\)"),
        (lambda x: nc.im2col(x, 5), r"kernel_size \(=5x5.*must fit into the padded image"),
        (lambda x: nc.col2im(nc.im2col(x, 2), (1, 2, 5, 4), 2), r"columns of shape \(9, 8\) must have .* \(12, 8\)"),
        (lambda x: nc.col2im(nc.im2col(x, 2), (4, 4), 2), r"input_shape \(=\(4, 4\)\) must be"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(on_device(np.zeros((1, 2, 4, 4))))  # type: ignore[operator]
