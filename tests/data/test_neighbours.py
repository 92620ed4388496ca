"""Pairs of neighbours: which pixels they are of, that all are as likely, and what a network learns from them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import npconv as nc
from npconv.data import ArrayPhotos, Gaussian, NoNoise, PatchPairs, PixelSampling, Poisson
from npconv.data.neighbours import pair_of_neighbours
from npconv.data.noisy_photos import NoisyPhotos


def numbered(channels: int, height: int, width: int) -> np.ndarray:
    """Every value is its own number."""
    return np.arange(channels * height * width, dtype=np.float32).reshape(channels, height, width)


@pytest.mark.parametrize("shape", [(3, 8, 12), (1, 2, 2), (2, 32, 6)])
@pytest.mark.parametrize("turned", [False, True])
def test_both_are_of_one_cell_and_have_a_side_in_common(shape: tuple[int, int, int], turned: bool) -> None:
    noisy = numbered(*shape)
    noisy = noisy.swapaxes(1, 2)[:, ::-1] if turned else noisy  # as augmentation turns patches
    place = {value: index for index, value in np.ndenumerate(noisy)}
    for seed in range(10):
        first, second = pair_of_neighbours(noisy, np.random.default_rng(seed))
        assert first.shape == second.shape == (shape[0], noisy.shape[1] // 2, noisy.shape[2] // 2)
        for index, value in np.ndenumerate(first):
            channel, row, column = place[value]
            other_channel, other_row, other_column = place[second[index]]
            assert channel == other_channel == index[0]
            assert (row // 2, column // 2) == (other_row // 2, other_column // 2) == index[1:]
            assert abs(row - other_row) + abs(column - other_column) == 1
        assert ((first - first[:1]) == (noisy[:, :1, :1] - noisy[:1, :1, :1])).all()  # one place for all channels


def test_the_eight_pairs_of_a_cell_are_as_likely() -> None:
    first, second = pair_of_neighbours(np.tile([[0.0, 1.0], [2.0, 3.0]], (1, 100, 100)), np.random.default_rng(0))
    drawn = Counter(zip(first.ravel().tolist(), second.ravel().tolist(), strict=True))
    assert set(drawn) == {(0, 1), (1, 0), (2, 3), (3, 2), (0, 2), (2, 0), (1, 3), (3, 1)}
    assert max(abs(count / 10_000 - 1 / 8) for count in drawn.values()) < 0.015  # four and a half deviations


@pytest.mark.parametrize("noise", [NoNoise(), Gaussian(25), Poisson(30), PixelSampling(2, 3)], ids=str)
def test_patches_are_parts_of_single_noisy_images(noise: Any) -> None:
    """Input and target are neighbours in the one noisy image of a photograph, in every epoch."""
    rng = np.random.default_rng(0)
    photos = ArrayPhotos(rng.uniform(0, 255, (2, 3, 60, 66)).astype(np.float32))
    pairs = PatchPairs(photos, noise, 30, 8, "self", augment=False)
    assert (pairs.image_shape, pairs.input_shape, pairs.target_shape) == ((3, 8, 8),) * 3
    if isinstance(noise, NoNoise):
        images = [photos[i] for i in range(2)]
    else:
        noisy = NoisyPhotos(photos, noise, 16, 0)
        images = [noisy.region(i, 0, 0, *noisy.size(i)) for i in range(2)]
    beside = set()
    for image in images:
        for one, other in ((image[:, 1:], image[:, :-1]), (image[:, :, 1:], image[:, :, :-1])):
            colours = [part.reshape(3, -1).T.tolist() for part in (one, other)]
            for a, b in zip(*colours, strict=True):
                beside |= {(*a, *b), (*b, *a)}
    for _ in range(2):
        for inputs, targets in pairs.batches(10, rng):
            assert inputs.shape == targets.shape == (10, 3, 8, 8)
            both = np.concatenate([inputs, targets], axis=1).transpose(0, 2, 3, 1).reshape(-1, 6)
            assert {tuple(pair) for pair in both.tolist()} <= beside


def test_input_and_target_have_noise_of_their_own() -> None:
    flat = ArrayPhotos(np.full((1, 1, 96, 96), 100, np.uint8))
    inputs, targets = PatchPairs(flat, Gaussian(20), 40, 32, "self").take(40, np.random.default_rng(0))
    assert inputs.std() == pytest.approx(20, rel=0.03) and targets.std() == pytest.approx(20, rel=0.03)
    assert abs(np.corrcoef(inputs.ravel(), targets.ravel())[0, 1]) < 0.03


def test_each_of_a_pair_of_pixel_sampling_is_pixel_sampling_of_larger_blocks() -> None:
    """Its mean over draws is the mean of the 2x2 blocks together."""
    photo = np.random.default_rng(0).integers(0, 256, (1, 16, 16)).astype(np.float32)
    draws, total = 4000, np.zeros((2, 1, 2, 2))
    rng = np.random.default_rng(1)
    for _ in range(draws):
        (noisy,) = PixelSampling(4, 4).versions(photo, 4, rng, 1)
        total += pair_of_neighbours(noisy, rng)
    means = photo.reshape(1, 2, 8, 2, 8).mean(axis=(2, 4))
    deviation = 255 / 12**0.5 / draws**0.5
    assert np.abs(total / draws - means).max() < 4.5 * deviation


def test_the_noise_map_is_the_photographs() -> None:
    flat = ArrayPhotos(np.full((3, 1, 140, 140), 100, np.uint8))
    inputs, targets = PatchPairs(flat, Gaussian(5, 50), 60, 64, "self", noise_map=True).take(
        60, np.random.default_rng(0)
    )
    levels = inputs[:, 1, 0, 0]
    assert len(set(levels.tolist())) == 3
    np.testing.assert_allclose(targets[:, 0].std(axis=(1, 2)), levels, rtol=0.07)


def test_they_need_photographs_twice_as_large() -> None:
    photos = ArrayPhotos(np.zeros((1, 3, 31, 40), np.uint8))
    message = r"photo 0 \(31 x 40\) must be at least 32 x 32 pixels for patches of 16, each of an area twice as wide, w"
    with pytest.raises(ValueError, match=message):
        PatchPairs(photos, Gaussian(5), 4, 16, "self")
    PatchPairs(photos, Gaussian(5), 4, 15, "self")


def test_a_network_learns_the_mean_of_what_is_around() -> None:
    """One convolution on flat pictures with noise: all that it may learn is their mean, its own pixel included."""
    rng = np.random.default_rng(0)
    flat = np.full((60, 1, 32, 32), 0.5) + rng.uniform(-0.3, 0.3, (60, 1, 1, 1))
    noisy = (255 * (flat + rng.normal(0, 0.1, flat.shape))).astype(np.float32)
    pairs = PatchPairs(ArrayPhotos(noisy), NoNoise(), 60, 16, "self")
    nc.manual_seed(0)
    network = nc.Sequential(nc.Conv2d(1, 1, 5, padding=2, padding_mode="reflect"))
    model = nc.Model(network, nc.MSE(), nc.Adam(network.parameters(), lr=0.02))
    draws = np.random.default_rng(1)
    for _ in range(60):
        for inputs, targets in pairs.batches(20, draws):
            model.train_batch(model.as_network_input(inputs), model.as_network_input(targets))
    assert float(np.std(model.predict(noisy) / 255 - flat)) / 0.1 < 0.45  # of 1 that is left as it is
