"""The noise models: their statistics, what they draw from, their texts, and their errors."""

from __future__ import annotations

import numpy as np
import pytest

from npconv.data import Gaussian, NoNoise, PixelSampling, Poisson, parse_noise

MODELS = [Gaussian(25), Poisson(30), PixelSampling()]


def numbered_photo(channels: int, height: int, width: int) -> np.ndarray:
    """A photo whose every pixel is its own number, a channel 1/4 above the last: places can be read off."""
    numbers = np.arange(height * width, dtype=np.float32).reshape(1, height, width)
    return numbers + np.arange(channels, dtype=np.float32)[:, np.newaxis, np.newaxis] / 4


def blockwise(photo: np.ndarray, block: int):
    """Every (i, j, pixels of that block), the slow way."""
    for i in range(photo.shape[1] // block):
        for j in range(photo.shape[2] // block):
            yield i, j, photo[:, i * block : (i + 1) * block, j * block : (j + 1) * block]


@pytest.mark.parametrize("noise", MODELS, ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_corrupt_gives_float32_images_of_one_shape(noise, dtype):
    photo = np.random.default_rng(0).integers(0, 256, (3, 40, 56)).astype(dtype)
    before = photo.copy()
    noisy, clean = noise.corrupt(photo, np.random.default_rng(1), copies=3)
    assert len(noisy) == 3
    assert {image.dtype for image in [*noisy, clean]} == {np.dtype(np.float32)}
    assert {image.shape for image in noisy} == {clean.shape}
    assert not np.array_equal(noisy[0], noisy[1])
    np.testing.assert_array_equal(photo, before)


@pytest.mark.parametrize("noise", MODELS, ids=str)
@pytest.mark.parametrize("clean", [False, True])
def test_patch_shape_dtype_and_repeatability(noise, clean):
    photo = np.random.default_rng(0).integers(0, 256, (3, 90, 70), dtype=np.uint8)
    first = noise.patch(photo, 8, np.random.default_rng(3), clean)
    again = noise.patch(photo, 8, np.random.default_rng(3), clean=clean)
    for a, b in zip(first, again, strict=True):
        assert a.shape == (3, 8, 8)
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(*first)


@pytest.mark.parametrize("noise", MODELS, ids=str)
def test_noise_has_mean_zero_and_two_draws_are_independent(noise):
    photo = np.random.default_rng(0).integers(60, 200, (1, 16, 16), dtype=np.uint8)
    noise = PixelSampling(4, 4) if isinstance(noise, PixelSampling) else noise
    noisy, clean = noise.corrupt(photo, np.random.default_rng(1), copies=4000)
    errors = np.stack(noisy) - clean
    deviation = errors.std(axis=0)
    assert np.abs(errors.mean(axis=0)).max() < 5 * deviation.max() / np.sqrt(4000)
    correlation = np.mean(errors[::2] * errors[1::2]) / np.mean(deviation**2)
    assert abs(correlation) < 5 / np.sqrt(2000 * clean.size)


def test_gaussian_has_its_sigma_and_is_not_clipped():
    noisy, clean = Gaussian(25).corrupt(np.zeros((3, 200, 200), np.uint8), np.random.default_rng(0), copies=1)
    assert np.std(noisy[0]) == pytest.approx(25, rel=0.02)
    assert noisy[0].min() < -50
    np.testing.assert_array_equal(clean, 0)
    noisy, clean = Gaussian(0).corrupt(np.full((1, 4, 4), 7, np.uint8), np.random.default_rng(0))
    np.testing.assert_array_equal(noisy[0], clean)


def test_poisson_variance_is_that_of_photons():
    # mean x, and photons have their mean as variance: var = x / 255 * peak * (255 / peak)^2 = 255 x / peak
    noisy, _ = Poisson(30).corrupt(np.full((1, 300, 300), 51, np.uint8), np.random.default_rng(0), copies=1)
    assert noisy[0].mean() == pytest.approx(51, rel=0.01)
    assert noisy[0].var() == pytest.approx(255 * 51 / 30, rel=0.03)
    photons = noisy[0] * 30 / 255
    np.testing.assert_allclose(photons, np.rint(photons), atol=1e-4)


def test_the_largest_peak_can_be_drawn():
    noisy, clean = Poisson(1e18).corrupt(np.full((1, 8, 8), 255, np.uint8), np.random.default_rng(0))
    np.testing.assert_allclose(noisy[0], clean, rtol=1e-6)


def test_pixel_sampling_takes_one_pixel_of_each_block_the_same_for_all_channels():
    photo = numbered_photo(3, 24, 31)  # 31: a remainder is left out
    noisy, clean = PixelSampling(6, 6).corrupt(photo, np.random.default_rng(0), copies=2)
    assert clean.shape == (3, 4, 5)
    for i, j, pixels in blockwise(photo, 6):
        np.testing.assert_allclose(clean[:, i, j], pixels.mean(axis=(1, 2)), rtol=1e-6)
        for image in noisy:
            assert image[0, i, j] in pixels[0]
            np.testing.assert_array_equal(image[:, i, j] - image[0, i, j], [0, 0.25, 0.5])


def test_pixel_sampling_draws_every_pixel_of_a_block_equally_often():
    photo = numbered_photo(1, 5, 5)
    noisy, _ = PixelSampling(5, 5).corrupt(photo, np.random.default_rng(0), copies=25000)
    counts = np.bincount(np.stack(noisy).astype(int).ravel(), minlength=25)
    assert counts.sum() == 25000
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


@pytest.mark.parametrize("contiguous", [True, False])
def test_pixel_sampling_patch_is_a_patch_of_blocks(contiguous):
    photo = numbered_photo(3, 40, 50)
    if not contiguous:
        photo = np.asfortranarray(photo)
    rng = np.random.default_rng(0)
    corners = set()
    for _ in range(200):
        noisy, clean = PixelSampling(5, 5).patch(photo, 4, rng, clean=True)
        # the mean of a block of numbered pixels is its middle pixel's number, here of the first block
        row, column = divmod(round(float(clean[0, 0, 0])), 50)
        top, left = row - 2, column - 2
        corners.add((top, left))
        area = np.asarray(photo)[:, top : top + 20, left : left + 20]
        assert area.shape == (3, 20, 20)
        for i, j, pixels in blockwise(area, 5):
            np.testing.assert_allclose(clean[:, i, j], pixels.mean(axis=(1, 2)), rtol=1e-6)
            assert noisy[0, i, j] in pixels[0]
            assert noisy[2, i, j] == noisy[0, i, j] + 0.5
    assert {top for top, _ in corners} == set(range(21))
    assert {left for _, left in corners} == set(range(31))


def test_two_noisy_patches_are_of_the_same_place():
    photo = numbered_photo(1, 60, 60) // 60 // 6 * 6  # a value a band of 6 rows
    rng = np.random.default_rng(0)
    for _ in range(20):
        noisy, second = PixelSampling(2, 2).patch(photo, 30, rng)
        np.testing.assert_allclose(noisy, second, atol=6)
    noisy, second = Gaussian(0).patch(photo, 10, rng)
    np.testing.assert_array_equal(noisy, second)


def test_pixel_sampling_uses_the_blocks_that_fit():
    rng = np.random.default_rng(0)
    photo = np.zeros((1, 32, 100), np.uint8)
    widths = {PixelSampling().corrupt(photo, rng)[1].shape[2] for _ in range(100)}
    assert widths == {100 // b for b in (5, 6, 7, 8)}
    small = numbered_photo(1, 6, 6)
    widths = {PixelSampling().corrupt(small, rng)[1].shape for _ in range(100)}
    assert widths == {(1, 1, 1)}
    means = {float(PixelSampling().corrupt(small, rng)[1][0, 0, 0]) for _ in range(100)}
    assert means == {float(small[0, :b, :b].mean()) for b in (5, 6)}


def test_smallest_photo():
    assert PixelSampling().smallest_photo(32) == 160
    assert Gaussian(25).smallest_photo(32) == 32
    photo = np.zeros((3, 160, 160), np.uint8)
    PixelSampling().patch(photo, 32, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"the photo \(159 x 160\) must be at least 160 x 160 pixels"):
        PixelSampling().patch(photo[:, :159], 32, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"the photo \(8 x 4\) must be at least 5 x 5 pixels"):
        PixelSampling().corrupt(photo[:, :8, :4], np.random.default_rng(0))


@pytest.mark.parametrize(
    ("text", "noise"),
    [
        ("pixel-sampling", PixelSampling(5, 8)),
        ("pixel-sampling:3-4", PixelSampling(3, 4)),
        ("pixel-sampling:6", PixelSampling(6, 6)),
        ("gaussian:25", Gaussian(25)),
        (" gaussian:12.345678 ", Gaussian(12.345678)),
        ("gaussian:0", Gaussian(0)),
        ("poisson:30", Poisson(30)),
        ("poisson:1e3", Poisson(1000)),
        ("gaussian:0-55", Gaussian(0, 55)),
        ("gaussian:5-5", Gaussian(5, 5)),
        ("gaussian:1e-3", Gaussian(0.001)),
        ("gaussian:1e-3-2.5e-2", Gaussian(0.001, 0.025)),
        ("poisson:10-50", Poisson(10, 50)),
        ("none", NoNoise()),
    ],
)
def test_parse_noise_and_back(text, noise):
    assert parse_noise(text) == noise
    assert parse_noise(str(noise)) == noise


def test_text_of_a_noise():
    assert str(Gaussian(25)) == "gaussian:25"
    assert str(Poisson(np.float32(0.5))) == "poisson:0.5"
    assert str(PixelSampling()) == "pixel-sampling:5-8"
    assert str(Gaussian(0, 55)) == "gaussian:0-55"
    assert str(Poisson(10, 50)) == "poisson:10-50"
    assert str(NoNoise()) == "none"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("salt", "there is no noise named 'salt'"),
        ("", "there is no noise named ''"),
        ("gaussian", r"the number \(sigma\) is missing"),
        ("gaussian:", r"the number \(sigma\) is missing"),
        ("gaussian:loud", r"sigma \(='loud'\) is not a number"),
        ("gaussian:-3", r"sigma \(=-3.0\) must be at least 0"),
        ("gaussian:5--3", r"largest \(=-3.0\) must be at least sigma \(=5\)"),
        ("gaussian:5-nan", r"largest \(=nan\) must be finite"),
        ("gaussian:5-", r"sigma \(='5-'\) is not a number, and no range of two"),
        ("gaussian:1-2-3", r"sigma \(='1-2-3'\) is not a number"),
        ("poisson:0-30", r"peak \(=0.0\) must be greater than 0"),
        ("poisson:1e19", r"peak \(=1e\+19\) must be at most 1e\+18 photons: more cannot be drawn"),
        ("poisson:1-1e30", r"largest \(=1e\+30\) must be at most 1e\+18 photons"),
        ("poisson:30-20", r"largest \(=20.0\) must be at least peak \(=30\)"),
        ("none:3", "none takes no number"),
        ("gaussian:nan", r"sigma \(=nan\) must be finite"),
        ("gaussian:inf", r"sigma \(=inf\) must be finite"),
        ("poisson:0", r"peak \(=0.0\) must be greater than 0"),
        ("poisson", r"the number \(peak\) is missing"),
        ("pixel-sampling:8-5", r"largest \(=5\) must be at least smallest \(=8\)"),
        ("pixel-sampling:1-5", r"smallest \(=1\) must be at least 2"),
        ("pixel-sampling:x", r"block sides \(='x'\) must be two whole numbers"),
        ("pixel-sampling:", r"block sides \(=''\) must be two whole numbers"),
    ],
)
def test_parse_noise_errors_name_the_problem_and_the_choices(text, problem):
    with pytest.raises(ValueError, match=f"{problem}.*choices: pixel-sampling.*gaussian:SIGMA.*poisson:PEAK"):
        parse_noise(text)


def test_wrong_arguments():
    rng, photo = np.random.default_rng(0), np.zeros((1, 20, 20), np.uint8)
    with pytest.raises(ValueError, match=r"sigma \(=-3\) must be at least 0"):
        Gaussian(-3)
    with pytest.raises(TypeError, match=r"sigma \(='25'\) must be a number"):
        Gaussian("25")
    with pytest.raises(TypeError, match=r"smallest \(=5.5\) must be an integer"):
        PixelSampling(5.5)
    with pytest.raises(TypeError, match=r"copies \(=2.0\) must be an integer"):
        Gaussian(1).corrupt(photo, rng, copies=2.0)
    with pytest.raises(ValueError, match=r"photo \(shape \(20, 20\)\) must be \(C, H, W\)"):
        Gaussian(1).corrupt(photo[0], rng)
    with pytest.raises(ValueError, match=r"copies \(=0\)"):
        Gaussian(1).corrupt(photo, rng, copies=0)
    with pytest.raises(ValueError, match=r"size \(=0\) must be at least 1"):
        Gaussian(1).patch(photo, 0, rng)
    with pytest.raises(TypeError, match=r"size \(=2.0\)"):
        Gaussian(1).patch(photo, 2.0, rng)
    with pytest.raises(ValueError, match=r"least value \(=-1.0\) must be at least 0"):
        Poisson(1).corrupt(photo.astype(np.float32) - 1, rng)


# ---- ranges, and none ----
def test_a_range_draws_its_strength_for_every_picture_uniformly():
    rng, photo = np.random.default_rng(0), np.zeros((1, 40, 40), np.uint8)
    sigmas = np.array([np.std(Gaussian(10, 50).corrupt(photo, rng, copies=1)[0][0]) for _ in range(400)])
    assert 9 < sigmas.min() < 11.5 and 48.5 < sigmas.max() < 53
    # uniform: the mean is 30 and the standard deviation 40 / sqrt(12) = 11.5
    assert sigmas.mean() == pytest.approx(30, abs=5 * 11.5 / 20)
    assert sigmas.std() == pytest.approx(40 / 12**0.5, rel=0.1)
    gray = np.full((1, 40, 40), 100, np.uint8)
    peaks = np.array([255 * 100 / np.var(Poisson(10, 50).corrupt(gray, rng, copies=1)[0][0]) for _ in range(400)])
    assert 8 < peaks.min() < 12 and 47 < peaks.max() < 58
    assert peaks.mean() == pytest.approx(30, abs=3)


def test_both_images_of_a_pair_are_of_one_draw():
    rng, photo = np.random.default_rng(0), np.zeros((1, 60, 60), np.uint8)
    for _ in range(20):
        first, second = Gaussian(0, 55).patch(photo, 50, rng)
        assert np.std(first) == pytest.approx(np.std(second), rel=0.1)
        assert not np.array_equal(first, second)
        noisy, _ = Gaussian(0, 55).corrupt(photo, rng, copies=3)
        assert np.std([np.std(image) for image in noisy]) < 0.1 * np.std(noisy[0])


def test_what_a_range_draws_is_a_noise_with_its_level():
    rng = np.random.default_rng(0)
    drawn = Gaussian(10, 50).drawn(rng)
    assert drawn.largest is None and 10 <= drawn.sigma <= 50 and drawn.noise_level == drawn.sigma
    noisy, _ = drawn.corrupt(np.zeros((1, 200, 200), np.uint8), rng, 1)
    assert np.std(noisy[0]) == pytest.approx(drawn.noise_level, rel=0.03)
    assert Gaussian(10, 50).noise_level is None and Gaussian(10, 50).has_noise_level
    assert Gaussian(25).noise_level == 25 and Gaussian(25).drawn(rng) is not None
    for noise in (Poisson(30), Poisson(10, 50), PixelSampling(), NoNoise()):
        assert noise.noise_level is None and not noise.has_noise_level
    before = rng.bit_generator.state
    for noise in (*MODELS, NoNoise()):
        assert noise.drawn(rng) is noise
    assert rng.bit_generator.state == before  # a fixed noise takes no numbers from the generator


def test_no_noise_is_for_one_version_alone():
    rng, photo = np.random.default_rng(0), np.random.default_rng(1).integers(0, 256, (3, 9, 9), dtype=np.uint8)
    (alone,) = NoNoise().versions(photo, 9, rng, 1)
    np.testing.assert_array_equal(alone, photo)
    assert alone.dtype == np.float32
    message = "noise 'none' takes images as noisy as they are: there is no clean version"
    for call in (
        lambda: NoNoise().corrupt(photo, rng),
        lambda: NoNoise().patch(photo, 4, rng),
        lambda: NoNoise().patch(photo, 4, rng, clean=True),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_channels_are_independent_where_the_noise_is():
    rng, photo = np.random.default_rng(0), np.random.default_rng(1).integers(50, 200, (1, 64, 64), dtype=np.uint8)
    photo = np.repeat(photo, 3, axis=0)
    for noise in (*MODELS, Gaussian(0, 55), Poisson(10, 50)):
        noisy, clean = noise.corrupt(photo, rng, copies=1)
        errors = (noisy[0] - clean).reshape(3, -1)
        correlation = abs(np.corrcoef(errors)[0, 1])
        assert (correlation < 0.1) if noise.independent_channels else (correlation > 0.9)
    assert not NoNoise().independent_channels
