"""Blind spots: what is hidden, what takes its place, and that no hidden value is anywhere in the input."""

from __future__ import annotations

import time

import numpy as np
import pytest

from npconv.data import ArrayPhotos, BlindSpot, Gaussian, NoNoise, PatchPairs, PixelSampling, Poisson

SIZES = [(3, 3, 3), (1, 3, 8), (2, 4, 4), (3, 5, 7), (3, 32, 32), (1, 33, 64)]


def masked(spot: BlindSpot, noisy: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The input, the values of the target, and where it counts them."""
    channels = len(noisy)
    inputs = np.full(noisy.shape, np.nan, np.float32)
    targets = np.full((2 * channels, *noisy.shape[1:]), np.nan, np.float32)
    spot.mask_into(noisy, inputs, targets, np.random.default_rng(seed))
    assert set(np.unique(targets[channels:])) == {0, 255}
    return inputs, targets[:channels], targets[channels:] == 255


def numbered(shape: tuple[int, int, int]) -> np.ndarray:
    """Every value is its own number."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("independent", [True, False])
@pytest.mark.parametrize("share", [0.25, 1 / 16, 1 / 64])
@pytest.mark.parametrize("shape", SIZES)
def test_hidden_values_get_those_of_unhidden_neighbours(shape, share, independent):
    noisy = numbered(shape)
    for seed in range(10):
        inputs, values, hidden = masked(BlindSpot(share, independent), noisy, seed)
        np.testing.assert_array_equal(values, noisy)
        np.testing.assert_array_equal(inputs[~hidden], noisy[~hidden])
        for channel, row, column in np.argwhere(hidden):
            source = np.argwhere(noisy == inputs[channel, row, column])[0]
            assert source[0] == channel
            assert 1 <= np.abs(source[1:] - (row, column)).max() <= 2
            assert not hidden[tuple(source)]


@pytest.mark.parametrize("independent", [True, False])
def test_the_input_does_not_depend_on_any_hidden_value(independent):
    noisy = np.random.default_rng(0).normal(100, 20, (3, 24, 24)).astype(np.float32)
    inputs, _, hidden = masked(BlindSpot(1 / 8, independent), noisy)
    other = np.where(hidden, np.float32(1e6), noisy)
    again, values, _ = masked(BlindSpot(1 / 8, independent), other)
    np.testing.assert_array_equal(again, inputs)
    assert (values[hidden] == 1e6).all()
    unhidden = np.where(hidden, noisy, np.float32(1e6))
    assert not np.array_equal(masked(BlindSpot(1 / 8, independent), unhidden)[0], inputs)


@pytest.mark.parametrize("share", [1 / 4, 1 / 32, 1 / 64])
def test_one_pixel_of_each_cell_is_hidden_and_all_equally_often(share):
    shape, spot = (1, 32, 48), BlindSpot(share)
    counts, draws = np.zeros(shape), 2000
    cells = [round(side * share**0.5) for side in shape[1:]]
    for seed in range(draws):
        _, _, hidden = masked(spot, np.zeros(shape, np.float32), seed)
        counts += hidden
        assert hidden.sum() == np.prod(cells)
        assert hidden.mean() == pytest.approx(share, rel=0.15)
    rows, columns = (
        [side * i // count for i in range(count + 1)] for side, count in zip(shape[1:], cells, strict=True)
    )
    for top, bottom in zip(rows, rows[1:], strict=False):
        for left, right in zip(columns, columns[1:], strict=False):
            cell = counts[0, top:bottom, left:right]
            assert cell.sum() == draws
            expected = draws / cell.size
            assert np.abs(cell - expected).max() < 5 * expected**0.5 + 1


def test_channels_are_hidden_together_or_each_by_itself():
    noisy = numbered((3, 32, 32))
    _, _, hidden = masked(BlindSpot(1 / 16), noisy)
    np.testing.assert_array_equal(hidden[1:], hidden[[0, 0]])
    _, _, hidden = masked(BlindSpot(1 / 16, independent_channels=True), noisy)
    assert hidden.sum(axis=(1, 2)).tolist() == [64, 64, 64]
    assert (hidden[0] & hidden[1]).sum() < 20  # 64 / 16 = 4 are expected


def test_arguments():
    with pytest.raises(ValueError, match=r"masked_share \(=0.5\) must be at most 0.25"):
        BlindSpot(0.5)
    with pytest.raises(ValueError, match=r"masked_share \(=0\) must be greater than 0"):
        BlindSpot(0)
    with pytest.raises(TypeError, match=r"independent_channels \(=1\) must be True or False"):
        BlindSpot(independent_channels=1)


# ---- as training pairs ----
def photos(channels: int = 3, side: int = 80) -> ArrayPhotos:
    return ArrayPhotos(np.random.default_rng(0).integers(0, 256, (4, channels, side, side), dtype=np.uint8))


def test_a_single_noisy_image_is_enough():
    image = np.random.default_rng(0).normal(100, 20, (2, 40, 50)).astype(np.float32)
    pairs = PatchPairs(ArrayPhotos([image]), NoNoise(), 20, 16, "blind-spot")
    assert (pairs.image_shape, pairs.input_shape, pairs.target_shape) == ((2, 16, 16), (2, 16, 16), (4, 16, 16))
    for inputs, targets in pairs.batches(8, np.random.default_rng(1)):
        assert inputs.dtype == targets.dtype == np.float32
        assert np.isin(targets[:, :2], image).all() and np.isin(inputs, image).all()
        assert ((inputs != targets[:, :2]) <= (targets[:, 2:] == 255)).all()
        assert set(targets[:, 2:].sum(axis=(1, 2, 3)) / 255) == {2 * 9}  # as many in every image: 3 x 3 cells
    first, again = (pairs.take(30, np.random.default_rng(3)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("noise", "together"),
    [(Gaussian(25), False), (Gaussian(0, 50), False), (Poisson(30), False), (PixelSampling(), True), (NoNoise(), True)],
    ids=str,
)
def test_the_noise_says_whether_channels_are_hidden_together(noise, together):
    def hidden_together(**options: bool) -> bool:
        pairs = PatchPairs(photos(side=170), noise, 4, 32, "blind-spot", **options)
        weights = pairs.take(4, np.random.default_rng(0))[1][:, 3:]
        return bool((weights == weights[:, :1]).all())

    assert hidden_together() == together
    assert hidden_together(independent_channels=True) is False
    assert hidden_together(independent_channels=False) is True


def test_the_noise_of_an_input_is_that_of_its_target():
    inputs, targets = PatchPairs(photos(1), Gaussian(0), 10, 32, "blind-spot").take(10, np.random.default_rng(0))
    assert (inputs == targets[:, :1]).mean() > 0.95
    flat = ArrayPhotos(np.full((1, 1, 64, 64), 100, np.uint8))
    inputs, targets = PatchPairs(flat, Gaussian(20), 20, 32, "blind-spot").take(20, np.random.default_rng(0))
    assert targets[:, :1].std() == pytest.approx(20, rel=0.05)
    seen = targets[:, 1:] == 0
    np.testing.assert_array_equal(inputs[seen], targets[:, :1][seen])


def test_masked_share_and_small_patches():
    def share(**options: float) -> float:
        pairs = PatchPairs(photos(), Gaussian(1), 8, 64, "blind-spot", **options)
        return float((pairs.take(8, rng)[1][:, 3:] > 0).mean())

    rng = np.random.default_rng(0)
    assert 0.015 < share() < 0.035
    assert share(masked_share=1 / 16) == 1 / 16
    with pytest.raises(ValueError, match=r"patch_size \(=2\) must be at least 3 for target 'blind-spot'"):
        PatchPairs(photos(), Gaussian(1), 8, 2, "blind-spot")
    with pytest.raises(ValueError, match=r"masked_share \(=0.3\) must be at most 0.25"):
        PatchPairs(photos(), Gaussian(1), 8, 8, "blind-spot", masked_share=0.3)
    rule = r"must be 'self' or 'blind-spot' for noise 'none'"
    with pytest.raises(ValueError, match=rf"target \(='clean'\) {rule}: where the images are"):
        PatchPairs(photos(), NoNoise(), target="clean")
    with pytest.raises(ValueError, match=rf"target \(='noisy'\) {rule}"):
        PatchPairs(photos(), NoNoise())


def test_drawing_is_cheap():
    pairs = PatchPairs(photos(), NoNoise(), 64, 64, "blind-spot", independent_channels=True)
    rng = np.random.default_rng(0)
    pairs.take(4, rng)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        pairs.take(8, rng)
        times.append((time.perf_counter() - start) / 8)
    assert min(times) < 5e-3  # seconds a patch; about 0.3 ms on the machine this was written on


# ---- noise maps ----
def test_a_noise_map_is_the_patchs_own_sigma():
    flat = ArrayPhotos(np.full((1, 3, 64, 64), 100, np.uint8))
    pairs = PatchPairs(flat, Gaussian(5, 50), 40, 48, noise_map=True)
    assert (pairs.image_shape, pairs.input_shape, pairs.target_shape) == ((3, 48, 48), (4, 48, 48), (3, 48, 48))
    inputs, targets = pairs.take(40, np.random.default_rng(0))
    sigmas = inputs[:, 3]
    assert (sigmas == sigmas[:, :1, :1]).all()
    levels = sigmas[:, 0, 0]
    assert 5 <= levels.min() < 10 and 40 < levels.max() <= 50
    np.testing.assert_allclose(inputs[:, :3].std(axis=(1, 2, 3)), levels, rtol=0.06)
    np.testing.assert_allclose(targets.std(axis=(1, 2, 3)), levels, rtol=0.06)
    with_map = PatchPairs(flat, Gaussian(25), 4, 8, "blind-spot", noise_map=True)
    assert (with_map.input_shape, with_map.target_shape) == ((4, 8, 8), (6, 8, 8))
    assert (with_map.take(4, np.random.default_rng(0))[0][:, 3] == 25).all()


@pytest.mark.parametrize("noise", [Poisson(30), PixelSampling(), NoNoise()], ids=str)
def test_a_noise_map_needs_one_sigma(noise):
    target = "blind-spot" if isinstance(noise, NoNoise) else "noisy"
    with pytest.raises(ValueError, match=rf"noise \(='{noise}'\) must be Gaussian, such as gaussian:0-55"):
        PatchPairs(photos(), noise, patch_size=8, target=target, noise_map=True)
