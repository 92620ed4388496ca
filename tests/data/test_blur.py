"""Gaussian blur against a naive sum over the mirrored image."""

from __future__ import annotations

import math

import numpy as np
import pytest

from npconv.data.blur import gaussian_blur


def mirrored(index: int, size: int) -> int:
    """dcba|abcd|dcba: the place in the image that an index outside of it stands for."""
    index %= 2 * size
    return index if index < size else 2 * size - 1 - index


def naive_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Every pixel as a weighted mean over the plane, with a two-dimensional kernel."""
    height, width = image.shape
    reach = math.ceil(4 * sigma)
    blurred = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            total = weights = 0.0
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    weight = math.exp(-(dy * dy + dx * dx) / (2 * sigma * sigma))
                    total += weight * image[mirrored(y + dy, height), mirrored(x + dx, width)]
                    weights += weight
            blurred[y, x] = total / weights
    return blurred


@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.7])
@pytest.mark.parametrize("size", [(6, 9), (3, 1)])
def test_it_is_the_weighted_mean_of_the_mirrored_image(sigma, size):
    images = np.random.default_rng(0).uniform(0, 255, (2, 2, *size))
    blurred = gaussian_blur(images, sigma)
    expected = [[naive_blur(channel, sigma) for channel in image] for image in images]
    np.testing.assert_allclose(blurred, expected, rtol=1e-10)


def test_it_keeps_the_mean_and_the_dtype_and_leaves_its_input_alone():
    image = np.random.default_rng(1).uniform(0, 255, (3, 20, 30)).astype(np.float32)
    before = image.copy()
    blurred = gaussian_blur(image, 2.0)
    assert blurred.dtype == np.float32 and blurred.std() < 0.5 * image.std()
    np.testing.assert_allclose(blurred.mean(axis=(1, 2)), image.mean(axis=(1, 2)), rtol=1e-4)  # mirroring keeps it
    np.testing.assert_array_equal(image, before)
    assert gaussian_blur(np.zeros((4, 4), np.uint8), 1).dtype == np.float32


def test_sigma_0_changes_nothing():
    image = np.random.default_rng(2).uniform(0, 255, (5, 7))
    np.testing.assert_array_equal(gaussian_blur(image, 0), image)


@pytest.mark.parametrize("sigma", [-1, math.nan, math.inf])
def test_a_wrong_sigma_is_an_error(sigma):
    with pytest.raises(ValueError, match=rf"sigma \(={sigma}\) must be (at least 0|finite)"):
        gaussian_blur(np.zeros((4, 4)), sigma)


def test_what_is_no_image_is_an_error():
    with pytest.raises(ValueError, match=r"images \(shape \(4,\)\) must be \(\.\.\., H, W\)"):
        gaussian_blur(np.zeros(4), 1)
    with pytest.raises(TypeError, match="dtype complex128"):
        gaussian_blur(np.zeros((4, 4), complex), 1)
