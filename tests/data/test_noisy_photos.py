"""One realisation of noise for each photograph: the same values whenever, and however, they are asked for."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from npconv.data import ArrayPhotos, FolderPhotos, Gaussian, Noise, NoNoise, PatchPairs, PixelSampling, Poisson
from npconv.data.noisy_photos import TILE, NoisyPhotos

NOISES = [Gaussian(25), Gaussian(5, 50), Poisson(30), PixelSampling(2, 3)]
SIDES = (TILE * 3 + 7, TILE * 2 + 30)


def photos(count: int = 2, channels: int = 3) -> ArrayPhotos:
    return ArrayPhotos(np.random.default_rng(0).integers(60, 200, (count, channels, *SIDES), dtype=np.uint8))


def whole(noisy: NoisyPhotos, index: int = 0) -> np.ndarray:
    return noisy.region(index, 0, 0, *noisy.size(index))


@pytest.mark.parametrize("noise", NOISES, ids=str)
@pytest.mark.parametrize("cache_bytes", [0, 2**27])
def test_every_part_is_that_of_the_whole(noise: Noise, cache_bytes: int) -> None:
    expected = whole(NoisyPhotos(photos(), noise, 16, 3))
    noisy, rng = NoisyPhotos(photos(), noise, 16, 3, cache_bytes), np.random.default_rng(1)
    height, width = noisy.size(0)
    assert expected.shape == (3, height, width) and expected.dtype == np.float32
    for _ in range(20):
        tall, wide = (int(side) for side in rng.integers(1, [height + 1, width + 1]))
        top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
        part = noisy.region(0, top, left, tall, wide)
        np.testing.assert_array_equal(part, expected[:, top : top + tall, left : left + wide])


@pytest.mark.parametrize("noise", [Gaussian(25), Poisson(30)], ids=str)
def test_it_is_the_noise_of_its_model_and_of_no_tile_twice(noise: Noise) -> None:
    clean = photos(1, 1)[0].astype(np.float64)
    errors = whole(NoisyPhotos(ArrayPhotos([clean]), noise, 16, 3)) - clean
    deviation = np.sqrt(255 * clean.mean() / 30) if isinstance(noise, Poisson) else 25
    assert errors.std() == pytest.approx(deviation, rel=0.03)
    assert abs(errors.mean()) < 5 * deviation / errors.size**0.5
    tiles = [errors[0, i : i + TILE, j : j + TILE].ravel() for i in (0, TILE, 2 * TILE) for j in (0, TILE)]
    correlations = np.corrcoef(tiles) - np.eye(6)
    assert np.abs(correlations).max() < 5 / TILE


def test_seeds_and_photographs_have_noise_of_their_own() -> None:
    same = ArrayPhotos(np.full((2, 1, 40, 40), 100, np.uint8))
    versions = [whole(NoisyPhotos(same, Gaussian(9), 8, seed), index) for seed in (0, 1, 2**40) for index in (0, 1)]
    assert np.abs(np.corrcoef([version.ravel() for version in versions]) - np.eye(6)).max() < 0.15


def test_a_range_is_drawn_once_a_photograph() -> None:
    flat = ArrayPhotos(np.full((30, 1, TILE, 2 * TILE), 100, np.uint8))
    noisy = NoisyPhotos(flat, Gaussian(5, 50), 16, 0)
    levels = [noisy.noise(i).noise_level for i in range(30)]
    assert min(levels) < 15 and max(levels) > 40
    for i, level in enumerate(levels):
        for left in (0, TILE):
            assert noisy.region(i, 0, left, TILE, TILE).std() == pytest.approx(level, rel=0.06)


def test_pixel_sampling_is_one_small_image_of_one_block() -> None:
    numbered = np.arange(np.prod(SIDES), dtype=np.float32).reshape(1, *SIDES)
    photo = np.concatenate([numbered, numbered + 0.25])
    blocks = set()
    for seed in range(12):
        noisy = NoisyPhotos(ArrayPhotos([photo]), PixelSampling(2, 3), 16, seed)
        small = whole(noisy)
        block = SIDES[0] // small.shape[1]
        blocks.add(block)
        assert small.shape == (2, SIDES[0] // block, SIDES[1] // block)
        rows, columns = np.divmod(small[0].astype(int), SIDES[1])
        np.testing.assert_array_equal(rows // block, np.indices(small.shape[1:])[0])
        np.testing.assert_array_equal(columns // block, np.indices(small.shape[1:])[1])
        np.testing.assert_array_equal(small[1], small[0] + 0.25)  # the same pixel of every channel
    assert blocks == {2, 3}
    narrow = ArrayPhotos([photo[:, :40, :40]])  # no room for 16 blocks of 3
    assert {NoisyPhotos(narrow, PixelSampling(2, 3), 16, seed).size(0) for seed in range(12)} == {(20, 20)}


def test_a_part_of_a_huge_photograph_costs_its_tiles(tmp_path: Path) -> None:
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (20_000, 20_000, 3))  # sparse: no disk
    del array
    noisy = NoisyPhotos(FolderPhotos(tmp_path), Gaussian(25), 40, 0)
    started = time.perf_counter()
    part = noisy.region(0, 15_000, 15_000, 40, 40)
    assert part.std() == pytest.approx(25, rel=0.05) and time.perf_counter() - started < 1


# ---- as training pairs ----
@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_blind_spots_see_each_photograph_with_one_noise(noise: Noise) -> None:
    """Without noise of its own a patch of a photograph is always the same, whenever and by whom it is drawn."""
    source = photos()
    images = [whole(NoisyPhotos(source, noise, 32, 7), i) for i in range(2)]
    values = [set(image.ravel().tolist()) for image in images]
    pairs = PatchPairs(source, noise, 40, 32, "blind-spot", noise_seed=7)
    rng = np.random.default_rng(0)
    for _ in range(3):
        for inputs, targets in pairs.batches(20, rng):
            for patch, masked in zip(targets[:, :3], inputs, strict=True):
                held = set(patch.ravel().tolist())
                assert any(held <= known for known in values)
                assert set(masked.ravel().tolist()) <= held
    other = PatchPairs(source, noise, 40, 32, "blind-spot", noise_seed=8).take(4, np.random.default_rng(0))[1][:, :3]
    if not isinstance(noise, (PixelSampling, Poisson)):
        assert not any(set(patch.ravel().tolist()) <= known for patch in other for known in values)


def test_the_noise_map_is_the_photographs(tmp_path: Path) -> None:
    flat = ArrayPhotos(np.full((3, 1, 80, 80), 100, np.uint8))
    pairs = PatchPairs(flat, Gaussian(5, 50), 60, 64, "blind-spot", noise_map=True)
    inputs, targets = pairs.take(60, np.random.default_rng(0))
    levels = inputs[:, 1, 0, 0]
    assert len(set(levels.tolist())) == 3
    np.testing.assert_allclose(targets[:, 0].std(axis=(1, 2)), levels, rtol=0.06)


def test_drawing_again_is_cheap() -> None:
    pairs, rng = PatchPairs(photos(), Gaussian(25), 64, 40, "self"), np.random.default_rng(0)
    pairs.take(200, rng)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        pairs.take(8, rng)
        times.append((time.perf_counter() - start) / 8)
    assert min(times) < 5e-3  # seconds a patch


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"target": "noisy"},
            ValueError,
            r"noise_seed \(=3\) must be None but for 'self' or 'blind-spot' as the target, with noise",
        ),
        ({"target": "self", "noise": NoNoise()}, ValueError, r"noise_seed \(=3\) must be None"),
        ({"target": "self", "noise_seed": -1}, ValueError, r"noise_seed \(=-1\) must be at least 0"),
        ({"target": "self", "noise_seed": 0.5}, TypeError, r"noise_seed \(=0.5\) must be an integer"),
    ],
)
def test_noise_seeds(options: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        PatchPairs(photos(), **{"noise": Gaussian(1), "patch_size": 8, "noise_seed": 3, **options})
