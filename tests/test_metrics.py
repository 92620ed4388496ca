"""PSNR and SSIM against hand-computed values and naive loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

from npconv.metrics import pooled_psnr, psnr, psnr_per_image, ssim, ssim_per_image


def random_images(seed: int, shape: tuple[int, ...] = (3, 2, 15, 13)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, shape)


def test_psnr_by_hand():
    target = np.zeros((2, 1, 2, 2), np.uint8)
    prediction = target.copy()
    prediction[0] = 51  # MSE 0.04 in units of the peak: 13.979 dB
    prediction[1, 0, 0, 0] = 51  # MSE 0.01: 20 dB
    np.testing.assert_allclose(psnr_per_image(prediction, target), [13.9794, 20.0], atol=1e-4)
    assert psnr(prediction, target) == pytest.approx((13.9794 + 20.0) / 2, abs=1e-4)
    assert psnr(prediction, target, "pooled") == pytest.approx(-10 * math.log10(0.025 + 1e-8), abs=1e-9)
    assert psnr(prediction / 255, target / 255, peak=1.0) == pytest.approx(psnr(prediction, target))
    assert psnr(prediction[1], target[1]) == pytest.approx(20.0)


def test_psnr_of_unsigned_images_does_not_wrap():
    dark, bright = np.zeros((1, 1, 1, 1), np.uint8), np.full((1, 1, 1, 1), 255, np.uint8)
    assert psnr(dark, bright) == psnr(bright, dark) == 0.0


def test_psnr_of_identical_images_is_infinite_without_warnings():
    images = random_images(0)
    other = images.copy()
    other[1] += 10
    assert psnr(images, images) == math.inf
    assert psnr(images, other) == math.inf
    assert np.isfinite(psnr_per_image(images, other)).tolist() == [False, True, False]
    assert psnr(images, images, "pooled") == pytest.approx(80.0)


def test_pooled_psnr_counts_values_not_images():
    rng = np.random.default_rng(0)
    differences = [rng.normal(0, scale, size) for scale, size in ((0.1, 7), (0.3, 20), (0.02, 400))]
    expected = -10 * math.log10(np.mean(np.concatenate(differences) ** 2) + 1e-8)
    errors, sizes = [float(np.mean(d**2)) for d in differences], [d.size for d in differences]
    assert pooled_psnr(errors, sizes) == pytest.approx(expected, abs=1e-9)
    assert abs(pooled_psnr(errors) - expected) > 1


def naive_ssim(x: np.ndarray, y: np.ndarray, peak: float) -> float:
    """The mean over channels and windows of the paper's equation (13), a window at a time."""
    distance = np.arange(-5, 6)
    window = np.exp(-(distance[:, np.newaxis] ** 2 + distance**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = []
    for channel in range(x.shape[0]):
        for i in range(x.shape[1] - 10):
            for j in range(x.shape[2] - 10):
                a, b = x[channel, i : i + 11, j : j + 11], y[channel, i : i + 11, j : j + 11]
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
                cov = (window * (a - mean_a) * (b - mean_b)).sum()
                numerator = (2 * mean_a * mean_b + c1) * (2 * cov + c2)
                values.append(numerator / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("peak", [255.0, 1.0])
def test_ssim_is_that_of_the_naive_loop(peak):
    x = random_images(0) * peak / 255
    y = 0.7 * x + 0.3 * random_images(1) * peak / 255
    expected = [naive_ssim(a, b, peak) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ssim_per_image(x, y, peak), expected, rtol=1e-9)
    assert ssim(x, y, peak) == pytest.approx(np.mean(expected))
    assert ssim(x[2], y[2], peak) == pytest.approx(expected[2])


def test_ssim_of_flat_images_by_hand():
    # no variance and no covariance: (2 a b + C1) / (a^2 + b^2 + C1), C1 = 2.55^2
    x, y = np.full((1, 11, 11), 100, np.uint8), np.full((1, 11, 11), 150, np.uint8)
    c1 = 2.55**2
    assert ssim(x, y) == pytest.approx((2 * 15000 + c1) / (10000 + 22500 + c1))
    assert ssim(x, x) == pytest.approx(1.0)


def test_ssim_needs_a_whole_window():
    with pytest.raises(ValueError, match=r"images \(10 x 20\) must be at least 11 x 11 pixels"):
        ssim(np.zeros((1, 10, 20)), np.zeros((1, 10, 20)))


@pytest.mark.parametrize("metric", [psnr, psnr_per_image, ssim, ssim_per_image])
def test_errors(metric):
    images = random_images(0)
    with pytest.raises(ValueError, match=r"shapes of prediction \(3, 2, 15, 13\) and target \(2, 15, 13\)"):
        metric(images, images[0])
    with pytest.raises(ValueError, match=r"images \(shape \(15, 13\)\) must be \(N, C, H, W\) or \(C, H, W\)"):
        metric(images[0, 0], images[0, 0])
    with pytest.raises(ValueError, match="not empty"):
        metric(images[:0], images[:0])
    for bad in (np.nan, np.inf):
        damaged = images.copy()
        damaged[1, 1, 3, 4] = bad
        with pytest.raises(ValueError, match="prediction has values that are not finite"):
            metric(damaged, images)
        with pytest.raises(ValueError, match="target has values that are not finite"):
            metric(images, damaged)
    with pytest.raises(TypeError, match=r"target \(dtype complex128\) must be of real numbers"):
        metric(images, images.astype(complex))
    for peak in (0, -1, np.nan):
        with pytest.raises(ValueError, match=rf"peak \(={peak}\) must be (greater than 0|finite)"):
            metric(images, images, peak=peak)


@pytest.mark.parametrize("definition", ["median", "", None])
def test_unknown_definition(definition):
    with pytest.raises(ValueError, match=rf"definition \(={definition!r}\) must be 'mean' or 'pooled'"):
        psnr(random_images(0), random_images(1), definition)
