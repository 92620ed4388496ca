"""Dead leaves: the occlusion is right, and the pictures have the statistics of photographs."""

from __future__ import annotations

import numpy as np
import pytest

import npconv
from npconv.data import PixelSampling, dead_leaves
from npconv.data.leaves import scatter_leaves, visible_leaves


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return dead_leaves(40, 288, 288, np.random.default_rng(0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(33, 70), (70, 33), (1, 1), (5, 300)])
def test_shape_type_and_repeatability(channels, height, width):
    pictures = dead_leaves(2, height, width, np.random.default_rng(0), channels=channels)
    assert pictures.shape == (2, channels, height, width)
    assert pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures, dead_leaves(2, height, width, np.random.default_rng(0), channels))
    if height * width > 1:
        assert not np.array_equal(pictures[0], pictures[1])
        assert not np.array_equal(pictures, dead_leaves(2, height, width, np.random.default_rng(1), channels))


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("height", -1), ("width", 0)])
def test_sizes_must_be_positive(name, value):
    sizes = {"count": 1, "height": 8, "width": 8}
    with pytest.raises(ValueError, match=rf"{name} \(={value}\) must be at least 1"):
        dead_leaves(**{**sizes, name: value}, rng=np.random.default_rng(0))
    with pytest.raises(TypeError, match=rf"{name} \(=8.5\) must be an integer"):
        dead_leaves(**{**sizes, name: 8.5}, rng=np.random.default_rng(0))


def test_the_generator():
    npconv.manual_seed(3)
    default = dead_leaves(1, 8, 8)
    np.testing.assert_array_equal(default, dead_leaves(1, 8, 8, np.random.default_rng(3)))
    with pytest.raises(TypeError, match=r"rng \(=0\) must be a numpy.random.Generator"):
        dead_leaves(1, 8, 8, 0)


def test_channels_are_1_or_3():
    with pytest.raises(ValueError, match=r"channels \(=4\) must be 1 \(gray\) or 3 \(RGB\)"):
        dead_leaves(1, 8, 8, np.random.default_rng(0), channels=4)


@pytest.mark.parametrize(("height", "width", "r_min", "r_max"), [(40, 60, 1.0, 36.0), (25, 90, 8.0, 60.0)])
def test_visible_leaves_are_the_nearest(height, width, r_min, r_max):
    leaves = scatter_leaves(height, width, r_min, r_max, np.random.default_rng(0))
    expected = np.zeros((height, width), int)
    for leaf in range(1, len(leaves.rows)):  # from the furthest on, a pixel at a time
        shape = leaves.shapes[leaves.shape_of[leaf]]
        for i, j in np.argwhere(shape):
            row = round(leaves.rows[leaf]) + i - len(shape) // 2
            column = round(leaves.columns[leaf]) + j - len(shape) // 2
            if 0 <= row < height and 0 <= column < width:
                expected[row, column] = leaf
    np.testing.assert_array_equal(visible_leaves(leaves, height, width), expected)


def test_radii_follow_the_inverse_cube_and_cover_the_image():
    leaves = scatter_leaves(2000, 2000, 2.0, 20.0, np.random.default_rng(0))
    inside = (leaves.rows > 0) & (leaves.rows < 2000) & (leaves.columns > 0) & (leaves.columns < 2000)
    radii = leaves.radii[inside & (leaves.shape_of >= 0)]
    for r in (4.0, 8.0):  # part of the radii above r: (r^-2 - r_max^-2) / (r_min^-2 - r_max^-2)
        edge = np.geomspace(2, 20, 21)
        edge = edge[np.argmin(np.abs(edge - r))]
        expected = (edge**-2 - 20**-2) / (2**-2 - 20**-2)
        assert np.mean(radii > edge) == pytest.approx(expected, rel=0.05)
    covered = [len(leaves.shapes[i]) > 0 and leaves.shapes[i].sum() for i in leaves.shape_of[inside] if i >= 0]
    assert np.sum(covered) / 2000**2 == pytest.approx(4.0, rel=0.15)  # leaves over a pixel


def test_colours_are_those_of_photographs(pictures):
    pixels = pictures.transpose(1, 0, 2, 3).reshape(3, -1)
    low, median, high = np.percentile(pixels, [10, 50, 90])
    assert 20 < low < 60
    assert 80 < median < 150
    assert 170 < high < 230
    red_green, red_blue, green_blue = np.corrcoef(pixels)[[0, 0, 1], [1, 2, 2]]
    assert 0.8 < red_green < 0.97
    assert 0.55 < red_blue < 0.92
    assert 0.8 < green_blue < 0.97


def test_spectrum_falls_as_that_of_photographs(pictures):
    gray = pictures[:, :, :256, :256].mean(axis=1)
    window = np.hanning(256)
    gray = (gray - gray.mean(axis=(1, 2), keepdims=True)) * window[:, np.newaxis] * window
    power = np.mean(np.abs(np.fft.fft2(gray)) ** 2, axis=0)
    frequency = np.hypot(np.fft.fftfreq(256)[:, np.newaxis], np.fft.fftfreq(256))
    edges = np.geomspace(0.015, 0.4, 12)
    bands = [power[(frequency >= a) & (frequency < b)].mean() for a, b in zip(edges, edges[1:], strict=False)]
    slope = np.polyfit(np.log(edges[:-1]), np.log(bands), 1)[0] / 2  # of amplitudes: about -1.2 for photographs
    assert -1.5 < slope < -1.0


def test_pixel_sampling_makes_the_noise_that_it_makes_of_photographs(pictures):
    rng = np.random.default_rng(1)
    drawn = [PixelSampling().patch(pictures[i % len(pictures)], 32, rng, clean=True) for i in range(400)]
    errors = np.array([noisy - clean for noisy, clean in drawn])
    assert 18 < errors.std() < 30
    assert 7 < np.mean(errors**4) / np.mean(errors**2) ** 2 < 18  # a Gaussian has 3
    correlation = np.corrcoef(errors.transpose(1, 0, 2, 3).reshape(3, -1))
    assert 0.85 < correlation[0, 1] < 0.98
    psnr = 10 * np.log10(255**2 / np.mean(errors**2, axis=(1, 2, 3)))
    assert 20 < psnr.mean() < 24
    assert psnr.std() > 2  # busy pictures and plain ones
    neighbours = np.corrcoef(errors[..., 1:].ravel(), errors[..., :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.02  # each block is drawn by itself
