"""The kernels of the convolutions, run by the emulator, against the reference; and with threads in reverse order."""

from __future__ import annotations

from typing import Any

import draws
import numpy as np
import pytest
from convolutions_on_host import PLAIN, Convolutions, agree, image, kernel, same
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_on_host import DTYPES
from standin.emulator import run_both_ways

from npconv.backends import ConvGeometry
from npconv.backends.cpu.upsample import enlarged_kernel, kernel_gradient
from npconv.backends.gpu import conv_work, implicit_gemm

SAME = ((1, 1), (1, 1))
THREE = ConvGeometry((3, 3), padding=SAME)
GEOMETRIES = [  # kernel, stride, padding, dilation
    ConvGeometry((1, 1)),
    THREE,
    ConvGeometry((3, 3), (2, 2), SAME),
    ConvGeometry((2, 3), (3, 1), ((0, 2), (3, 1))),  # some pixels are seen by no window
    ConvGeometry((3, 2), (1, 1), ((2, 0), (1, 4)), (2, 3)),
    ConvGeometry((4, 3), (2, 3), ((1, 1), (2, 1)), (2, 2)),  # stride and dilation share a factor in one axis
    ConvGeometry((3, 3), (3, 2), ((3, 0), (2, 2)), (3, 1)),  # whole phases without a tap
    ConvGeometry((2, 2), (1, 2), ((-1, 2), (1, -2))),  # crops
]
IMPLICIT, AUTO = Convolutions("implicit"), Convolutions()


def transposed_size(geometry: ConvGeometry, size: tuple[int, int]) -> bool:
    try:
        geometry.transposed_size(size)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("channels", "out_channels", "dtype"), [(5, 6, "float64"), (8, 4, "float64"), (5, 6, "float32"), (8, 4, "float32")]
)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_products_of_any_geometry(geometry: ConvGeometry, channels: int, out_channels: int, dtype: str) -> None:
    agree(IMPLICIT, geometry, (2, channels, 8, 7), out_channels, dtype)
    agree(IMPLICIT, geometry, (2, channels, 3, 4), out_channels, dtype, transposed=True)


@pytest.mark.parametrize(
    ("channels", "out_channels"), [(1, 1), (3, 33), (33, 3), (16, 32), (32, 16), (64, 33), (5, 64)]
)
def test_products_of_any_channels(channels: int, out_channels: int) -> None:
    agree(IMPLICIT, THREE, (1, channels, 4, 5), out_channels, "float32")


@pytest.mark.parametrize("pixels", [1, 15, 16, 17, 63, 64, 65])
@pytest.mark.parametrize("channels", [32, 36])
def test_edges_of_tiles(pixels: int, channels: int) -> None:
    agree(IMPLICIT, ConvGeometry((1, 1)), (1, 4, 1, pixels), channels, "float32")
    agree(IMPLICIT, ConvGeometry((1, 1)), (1, channels, pixels, 1), 4, "float32")


@pytest.mark.parametrize("channels", [(40, 36), (33, 41)])
def test_large_tiles(channels: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implicit_gemm, "ENOUGH_BLOCKS", 0)
    IMPLICIT.defines()
    agree(IMPLICIT, THREE, (2, channels[0], 9, 8), channels[1], "float32")
    tiles = {defines.get("TILE_M") for defines in IMPLICIT.defines()} - {None}
    assert tiles == {implicit_gemm.LARGE[0]}


@pytest.mark.parametrize("algorithm", ["implicit", "direct"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("groups", "channels", "out_channels"), [(2, 8, 4), (3, 6, 9), (4, 16, 32)])
def test_groups(groups: int, channels: int, out_channels: int, dtype: str, algorithm: str) -> None:
    geometry = ConvGeometry((3, 2), (2, 1), SAME, (1, 2), groups)
    agree(Convolutions(algorithm), geometry, (2, channels, 6, 5), out_channels, dtype)
    agree(Convolutions(algorithm), geometry, (1, channels, 3, 5), out_channels, dtype, transposed=True)


@pytest.mark.parametrize(
    ("channels", "out_channels", "dtype"),
    [(3, 32, "float64"), (32, 3, "float64"), (3, 20, "float32"), (3, 9, "float32"), (7, 3, "float32")],
)
@pytest.mark.parametrize("geometry", GEOMETRIES[1:])
def test_few_channels(geometry: ConvGeometry, channels: int, out_channels: int, dtype: str) -> None:
    AUTO.families()
    agree(AUTO, geometry, (2, channels, 8, 7), out_channels, dtype)
    assert AUTO.families() <= DIRECT | {"kernel_gradient", "channel_sum_partial", "channel_sum_total", "add_partials"}
    if transposed_size(geometry, (3, 4)):
        agree(AUTO, geometry, (1, channels, 3, 4), out_channels, dtype, transposed=True)


DIRECT = {f"{way}_{side}_few" for way in ("forward", "adjoint") for side in ("from", "to")}


@pytest.mark.parametrize(("channels", "out_channels"), [(1, 1), (1, 17), (4, 80), (65, 1), (64, 8), (8, 8)])
def test_other_numbers_of_few_channels(channels: int, out_channels: int) -> None:
    agree(AUTO, THREE, (1, channels, 5, 17), out_channels, "float32")


@pytest.mark.parametrize(
    ("channels", "many", "dtype"),
    [(4, 1, "float64"), (6, 1, "float32"), (36, 1, "float32"), (3, 2, "float64"), (40, 3, "float32")],
)
@pytest.mark.parametrize("geometry", [*GEOMETRIES[1:], ConvGeometry((5, 4), (1, 1), ((2, 2), (2, 2)))])
def test_a_group_for_each_channel(geometry: ConvGeometry, channels: int, many: int, dtype: str) -> None:
    geometry = ConvGeometry(geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, channels)
    AUTO.launcher.asked.clear()
    agree(AUTO, geometry, (2, channels, 8, 7), channels * many, dtype)
    lanes = {defines["LANES"] for name, defines in AUTO.launcher.asked if name in ("forward", "adjoint")}
    assert lanes == {4 if channels % 4 == 0 and many == 1 else 1}
    if many == 1:
        agree(AUTO, geometry, (2, channels, 4, 4), channels, dtype, transposed=True)


@pytest.mark.parametrize("convolutions", [IMPLICIT, AUTO])
@settings(max_examples=20)
@given(draws.windows(groups=True, cropping=True), st.sampled_from([1, 2, 4]), draws.seeds)
def test_any_window(convolutions: Convolutions, window: Any, many: int, seed: int) -> None:
    geometry, (n, c, h, w) = window
    agree(convolutions, geometry, (n, many * c, h, w), geometry.groups * many, "float32", seed=seed)


@pytest.mark.parametrize("convolutions", [IMPLICIT, AUTO])
@pytest.mark.parametrize(("channels", "groups"), [((8, 12), 1), ((3, 16), 1), ((4, 4), 4)])
def test_gradients_without_that_of_the_input(
    channels: tuple[int, int], groups: int, convolutions: Convolutions
) -> None:
    rng = np.random.default_rng(7)
    geometry = ConvGeometry((3, 3), padding=SAME, groups=groups)
    x, weight = (
        image(rng, (1, channels[0], 4, 5), "float32"),
        kernel(rng, (channels[1], channels[0] // groups, 3, 3), "float32"),
    )
    grad = image(rng, (1, channels[1], 4, 5), "float32")
    both = convolutions.conv2d_backward(grad, x, weight, geometry)
    convolutions.families()
    found = convolutions.conv2d_backward(grad, x, weight, geometry, input_gradient=False)
    assert not any("forward" in name or "adjoint" in name for name in convolutions.families())
    assert found[0] is None
    for value, other in zip(found[1:], both[1:], strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.mark.parametrize("convolutions", [IMPLICIT, AUTO])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("channels", [(8, 12), (3, 32), (32, 3)])
def test_an_empty_batch(channels: tuple[int, int], transposed: bool, convolutions: Convolutions) -> None:
    agree(convolutions, THREE, (0, channels[0], 5, 5), channels[1], "float32", transposed)


@pytest.mark.parametrize("convolutions", [IMPLICIT, AUTO])
@pytest.mark.parametrize(
    ("channels", "out_channels", "groups"), [(8, 12, 1), (3, 16, 1), (12, 2, 1), (8, 8, 8), (4, 8, 4)]
)
def test_sums_cut_into_ranges(
    channels: int, out_channels: int, groups: int, convolutions: Convolutions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranges of few pixels: many of them, the last one shorter."""
    monkeypatch.setattr(conv_work, "LEAST_RANGE", 20)
    convolutions.families()
    agree(convolutions, ConvGeometry((3, 2), (1, 1), SAME, groups=groups), (3, channels, 7, 9), out_channels, "float64")
    assert "add_partials" in convolutions.families()


def test_ranges_depend_on_sizes_only() -> None:
    assert conv_work.pixel_ranges(100, 1, 16) == (1, 112)
    assert conv_work.pixel_ranges(512 * 32 * 32, 5, 16) == (102, 5152)
    assert conv_work.pixel_ranges(512 * 32 * 32, 10**6, 16) == (1, 512 * 32 * 32)
    for pixels, tiles in [(1, 1), (257, 3), (10**10, 10**6), (2**31 + 5, 600)]:
        count, run = conv_work.pixel_ranges(pixels, tiles, 16)
        assert (count - 1) * run < pixels <= count * run
        assert run <= 2**30
        assert run % 16 == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("convolutions", [IMPLICIT, AUTO, Convolutions("im2col")])
@pytest.mark.parametrize(
    ("channels", "out_channels", "groups"), [(5, 12, 1), (3, 16, 1), (12, 3, 1), (4, 4, 4), (4, 8, 2)]
)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_activations_after_the_sum(
    activation: str, channels: int, out_channels: int, groups: int, convolutions: Convolutions, dtype: str
) -> None:
    rng = np.random.default_rng(1)
    geometry = ConvGeometry((3, 3), (2, 1), SAME, groups=groups)
    x, bias = image(rng, (1, channels, 5, 4), dtype), rng.standard_normal(out_channels).astype(dtype)
    bias[0] = np.nan
    for name, many, few in [("conv2d", out_channels, channels), ("conv_transpose2d", channels, out_channels)]:
        weight = kernel(rng, (many, few // groups, 3, 3), dtype)
        y = getattr(convolutions, f"{name}_forward")(x, weight, bias, geometry, activation, 0.25)
        expected = getattr(PLAIN, f"{name}_forward")(x, weight, bias, geometry)
        assert (expected < 0).any()
        expected = PLAIN.relu_forward(expected) if activation == "relu" else PLAIN.leaky_relu_forward(expected, 0.25)
        same(y, expected, weight[0].size)
        assert np.isnan(y[:, 0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("convolutions", [IMPLICIT, AUTO, Convolutions("im2col")])
@pytest.mark.parametrize(
    ("geometry", "scale"),
    [
        (THREE, (2, 2)),
        (ConvGeometry((2, 4), padding=((0, 1), (3, 0)), dilation=(2, 1)), (3, 1)),
        (ConvGeometry((3, 3), (2, 1), SAME), (1, 2)),  # a stride: the reference's upsampling, then a convolution
    ],
)
def test_upsampling_and_convolution(
    geometry: ConvGeometry, scale: tuple[int, int], convolutions: Convolutions, dtype: str
) -> None:
    rng = np.random.default_rng(2)
    x, weight = image(rng, (2, 5, 4, 5), dtype), kernel(rng, (6, 5, *geometry.kernel), dtype)
    bias = rng.standard_normal(6).astype(dtype)
    y = run_both_ways(lambda: convolutions.upsample_conv2d_forward(x, weight, bias, scale, geometry))
    same(y, PLAIN.upsample_conv2d_forward(x, weight, bias, scale, geometry), weight[0].size)
    grad = image(rng, y.shape, dtype)
    found = run_both_ways(lambda: convolutions.upsample_conv2d_backward(grad, x, weight, scale, geometry))
    expected = PLAIN.upsample_conv2d_backward(grad, x, weight, scale, geometry)
    for value, other, terms in zip(found, expected, (weight.size * 9, grad.size, grad.size), strict=True):
        same(value, other, terms)
    assert convolutions.upsample_conv2d_backward(grad, x, weight, scale, geometry, False)[0] is None


@pytest.mark.parametrize("scale", [(2, 2), (3, 4)])
@pytest.mark.parametrize("geometry", [THREE, ConvGeometry((2, 5), dilation=(3, 2))])
def test_enlarged_kernels(geometry: ConvGeometry, scale: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    weight = kernel(rng, (3, 4, *geometry.kernel), "float64")
    expected = enlarged_kernel(weight, scale, geometry)
    sizes = (4, 3, *geometry.kernel, *scale, *geometry.dilation)
    large = np.full((*expected.shape[2:], 3, 4), np.nan)
    enlarge = IMPLICIT.launcher.kernel("enlarged", "enlarge", "float64")
    given_kernel = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
    run_both_ways(lambda: IMPLICIT.launcher.over(enlarge, large.size, given_kernel, large, *sizes), large)
    np.testing.assert_allclose(large.transpose(3, 2, 0, 1), expected, atol=1e-14)
    grad, small = rng.standard_normal(large.shape), np.full(given_kernel.shape, np.nan)
    back = IMPLICIT.launcher.kernel("enlarged", "enlarge_backward", "float64")
    run_both_ways(lambda: IMPLICIT.launcher.over(back, small.size, grad, small, *sizes), small)
    exact = kernel_gradient(grad.transpose(3, 2, 0, 1), weight.shape, scale, geometry)
    np.testing.assert_allclose(small.transpose(3, 2, 0, 1), exact, atol=1e-13)


@pytest.mark.parametrize("convolutions", [IMPLICIT, AUTO])
@pytest.mark.parametrize(("channels", "out_channels", "groups"), [(8, 12, 1), (3, 16, 1), (12, 4, 1), (8, 8, 8)])
def test_arrays_that_are_not_aligned(channels: int, out_channels: int, groups: int, convolutions: Convolutions) -> None:
    """A view that begins inside an array, 4 bytes behind a multiple of 16."""
    rng = np.random.default_rng(4)
    geometry = ConvGeometry((3, 3), padding=SAME, groups=groups)
    shape, weight = (2, channels, 4, 5), kernel(rng, (out_channels, channels // groups, 3, 3), "float32")
    memory = np.zeros(np.prod(shape) + 8, "float32")
    offset = next(i for i in range(8) if (memory.ctypes.data + 4 * i) % 16 == 4)
    x = memory[offset : offset + np.prod(shape)].reshape(2, 4, 5, channels).transpose(0, 3, 1, 2)
    x[...] = rng.standard_normal(shape)
    y = convolutions.conv2d_forward(x, weight, None, geometry)
    same(y, PLAIN.conv2d_forward(x, weight, None, geometry), weight[0].size)
    found = convolutions.conv2d_backward(x[:, :1] + np.zeros_like(y), x, weight, geometry)
    expected = PLAIN.conv2d_backward(x[:, :1] + np.zeros_like(y), x, weight, geometry)
    for value, other in zip(found, expected, strict=True):
        same(value, other, 400)


def rounded(x: Any) -> Any:
    """float32 numbers to 10 bits of mantissa, to nearest, ties away from zero: frexp gives 0.5 <= |m| < 1."""
    mantissa, exponent = np.frexp(x.astype("float64"))
    steps = np.floor(np.abs(mantissa) * 2**11 + 0.5)
    return np.copysign(np.ldexp(steps, exponent - 11), x)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(("channels", "out_channels", "groups"), [(16, 16, 1), (20, 36, 1), (17, 34, 1), (32, 32, 2)])
def test_tf32_is_the_product_of_rounded_operands(
    channels: int, out_channels: int, groups: int, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor = Convolutions("implicit", tf32=True)
    tile = implicit_gemm.LARGE if large else implicit_gemm.SMALL
    monkeypatch.setattr(implicit_gemm, "LARGE", tile)
    monkeypatch.setattr(implicit_gemm, "SMALL", tile)
    rng = np.random.default_rng(5)
    geometry = ConvGeometry((2, 2), (1, 2), ((1, 0), (1, 1)), groups=groups)
    x, bias = image(rng, (1, channels, 5, 6), "float32"), rng.standard_normal(out_channels).astype("float32")
    weight = kernel(rng, (out_channels, channels // groups, 2, 2), "float32")
    y = run_both_ways(lambda: tensor.conv2d_forward(x, weight, bias, geometry))
    exact = PLAIN.conv2d_forward(rounded(x), rounded(weight), bias.astype("float64"), geometry)
    assert draws.error(y, exact) < 1e-6
    assert draws.error(y, PLAIN.conv2d_forward(x, weight, bias, geometry)) > 1e-5, "the operands were not rounded"
    grad = image(rng, y.shape, "float32")
    x_grad, weight_grad, bias_grad = run_both_ways(lambda: tensor.conv2d_backward(grad, x, weight, geometry))
    exact = PLAIN.conv2d_backward(rounded(grad), rounded(x), rounded(weight), geometry)
    assert draws.error(x_grad, exact[0]) < 1e-6
    assert draws.error(weight_grad, exact[1]) < 1e-6
    same(bias_grad, grad.sum(axis=(0, 2, 3)), 30)  # not a product: not rounded
    assert {(d["TILE_M"], d["TILE_N"]) for _, d in tensor.launcher.asked if "TILE_M" in d} == {tile}


def test_tf32_keeps_infinities_and_nan() -> None:
    rng = np.random.default_rng(6)
    x, weight = image(rng, (1, 16, 3, 4), "float32"), kernel(rng, (16, 16, 1, 1), "float32")
    x[0, 3, 1, 1], x[0, 4, 2, 2] = np.inf, np.nan
    x.transpose(0, 2, 3, 1).view(np.uint32)[0, 0, 0, 0] = 0x7FFFFFFF  # the NaN of a GPU: adding to it gives -0
    with np.errstate(invalid="ignore"):
        expected = PLAIN.conv2d_forward(x, weight, None, ConvGeometry((1, 1)))
    y = Convolutions("implicit", tf32=True).conv2d_forward(x, weight, None, ConvGeometry((1, 1)))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))
    np.testing.assert_array_equal(y[np.isinf(expected)], expected[np.isinf(expected)])
    assert np.isnan(y[0, :, 0, 0]).all()


@pytest.mark.parametrize(("dtype", "channels"), [("float64", 16), ("float32", 15)])
def test_tf32_is_for_float32_and_many_channels(dtype: str, channels: int) -> None:
    agree(Convolutions("implicit", tf32=True), THREE, (1, channels, 4, 4), 16, dtype)
