"""Sources of training pairs: every pair once an epoch, repeatable, matched; patches from where they may."""

from __future__ import annotations

import re
import time

import h5py
import numpy as np
import pytest

from npconv.data import (
    ArrayPairs,
    ArrayPhotos,
    FolderPhotos,
    Gaussian,
    HDF5Pairs,
    HDF5Photos,
    PatchPairs,
    PixelSampling,
    write_images,
    write_pairs,
)
from npconv.data.patches import _PhotoOrder


def numbered_pairs(count: int = 11, dtype: type = np.uint8) -> tuple[np.ndarray, np.ndarray]:
    """Images that carry their own number in their first pixel; targets are 255 less the inputs."""
    inputs = np.random.default_rng(0).integers(0, 256, (count, 2, 3, 4), dtype=np.uint8)
    inputs[:, 0, 0, 0] = np.arange(count)
    return inputs.astype(dtype), (255 - inputs).astype(dtype)


@pytest.fixture(params=["array uint8", "array float64", "hdf5 uint8", "hdf5 float32"])
def stored(request, tmp_path):
    kind, dtype = request.param.split()
    inputs, targets = numbered_pairs(dtype=np.dtype(dtype).type)
    if kind == "array":
        return ArrayPairs(inputs, targets)
    write_pairs(tmp_path / "pairs.h5", inputs, targets)
    return HDF5Pairs(tmp_path / "pairs.h5")


def numbers(images: np.ndarray) -> list[int]:
    return images[:, 0, 0, 0].astype(int).tolist()


def test_an_epoch_has_every_pair_once_in_random_order(stored):
    originals, _ = numbered_pairs()
    assert len(stored) == 11
    assert stored.image_shape == (2, 3, 4)
    rng = np.random.default_rng(0)
    epochs = [list(stored.batches(4, rng)) for _ in range(2)]
    orders = []
    for batches in epochs:
        assert [inputs.shape for inputs, _ in batches] == [(4, 2, 3, 4), (4, 2, 3, 4), (3, 2, 3, 4)]
        inputs, targets = (np.concatenate(part) for part in zip(*batches, strict=True))
        assert inputs.dtype == targets.dtype == np.float32
        np.testing.assert_array_equal(inputs, originals[numbers(inputs)])
        np.testing.assert_array_equal(targets, 255 - inputs)
        orders.append(numbers(inputs))
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(11))
    assert orders[0] != orders[1]
    again = np.concatenate([inputs for inputs, _ in stored.batches(3, np.random.default_rng(0))])
    assert numbers(again) == orders[0]


def test_stored_take_has_no_pair_twice(stored):
    inputs, targets = stored.take(7, np.random.default_rng(0))
    assert len(set(numbers(inputs))) == 7
    np.testing.assert_array_equal(targets, 255 - inputs)
    with pytest.raises(ValueError, match=r"count \(=12\) must be at most the number of pairs \(=11\)"):
        stored.take(12, np.random.default_rng(0))


def test_stored_split_divides_the_pairs(stored):
    train, kept = stored.split(0.2, np.random.default_rng(0))
    assert (len(train), len(kept)) == (9, 2)
    assert train.image_shape == kept.image_shape == (2, 3, 4)
    rng = np.random.default_rng(1)
    seen = [numbers(np.concatenate([x for x, _ in part.batches(4, rng)])) for part in (train, kept)]
    assert sorted(seen[0] + seen[1]) == list(range(11))
    deeper, _ = train.split(0.5, rng)
    assert set(numbers(deeper.take(len(deeper), rng)[0])) < set(seen[0])


def test_batches_are_the_callers_own():
    pairs = ArrayPairs(*numbered_pairs(dtype=np.float32))
    for inputs, targets in pairs.batches(4, np.random.default_rng(0)):
        inputs[:], targets[:] = -1, -1
    assert pairs.take(11, np.random.default_rng(0))[0].min() >= 0


@pytest.mark.parametrize("name", ["batch_size", "count"])
def test_counts_are_checked_at_the_call(stored, name):
    call = stored.batches if name == "batch_size" else stored.take
    with pytest.raises(ValueError, match=rf"{name} \(=0\) must be at least 1"):
        call(0, np.random.default_rng(0))
    with pytest.raises(TypeError, match=rf"{name} \(=2.0\) must be an integer"):
        call(2.0, np.random.default_rng(0))


ONES = np.ones((2, 1, 3, 3), np.uint8)


@pytest.mark.parametrize("write", [False, True], ids=["ArrayPairs", "write_pairs"])
@pytest.mark.parametrize(
    ("inputs", "targets", "error", "message"),
    [
        (ONES, ONES[:1], ValueError, "shapes of inputs (2, 1, 3, 3) and targets (1, 1, 3, 3) must be equal"),
        (ONES[0], ONES[0], ValueError, "inputs and targets (shape (1, 3, 3)) must be (N, C, H, W)"),
        (ONES[:0], ONES[:0], ValueError, "inputs and targets (shape (0, 1, 3, 3)) must not be empty"),
        (ONES, ONES * np.nan, ValueError, "targets has values that are not finite"),
        (ONES * -np.inf, ONES, ValueError, "inputs has values that are not finite"),
        (ONES.astype(np.int64), ONES, TypeError, "inputs (dtype int64) must be uint8 or a float of 0..255: scale"),
        (ONES, ONES.astype(np.int64).tolist(), TypeError, "targets (dtype int64) must be uint8 or a float of 0..255"),
        (ONES, [[1], [2, 3]], ValueError, "targets must be an array of (N, C, H, W) numbers"),
        (ONES / 2, ONES, ValueError, "inputs has values in 0..1 (largest: 0.5), not 0..255: multiply by 255"),
        (ONES, ONES * [1.0, 0.5, -0.2], ValueError, "targets has values in 0..1 (largest: 1), not 0..255"),
        (
            ONES,
            ONES.astype(np.uint16),
            TypeError,
            "targets (dtype uint16) must be uint8 or a float of 0..255",
        ),
    ],
)
def test_pairs_that_are_none(tmp_path, write, inputs, targets, error, message):
    with pytest.raises(error, match=re.escape(message)):
        write_pairs(tmp_path / "pairs.h5", inputs, targets) if write else ArrayPairs(inputs, targets)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("images", [ONES, ONES * 2.0])
def test_lists_are_pairs_as_arrays_are(images):
    as_lists = list(images), (images * 3.0).tolist()
    inputs, targets = ArrayPairs(*as_lists).take(2, np.random.default_rng(0))
    np.testing.assert_array_equal(inputs, images)
    np.testing.assert_array_equal(targets, images * 3)


def test_black_pairs_have_no_scale_to_be_wrong():
    assert len(ArrayPairs(ONES * 0.0, ONES * -0.5)) == 2


def test_hdf5_pairs_of_0_to_1_are_refused_when_they_are_opened(tmp_path):
    targets = np.random.default_rng(0).uniform(-0.2, 1, (40, 1, 3, 4)).astype(np.float32)
    with h5py.File(tmp_path / "lab.h5", "w") as file:
        file["input"], file["target"] = targets * 255, targets
    with pytest.raises(ValueError, match=r"data set 'target' of lab.h5 has values in 0..1 \(largest: 0.99") as caught:
        HDF5Pairs(tmp_path / "lab.h5")
    assert caught.value.__traceback__ is not None  # which holds the object: the file is closed all the same
    with h5py.File(tmp_path / "lab.h5", "a") as file:
        file["target"][-1] *= 255  # a few nearly black images are no sign of a scale
    assert len(HDF5Pairs(tmp_path / "lab.h5")) == 40


def test_hdf5_pairs_of_other_files(tmp_path):
    path = tmp_path / "lab.h5"
    inputs, targets = numbered_pairs(dtype=np.float32)
    targets[3, 0, 0, 1] = np.nan
    with h5py.File(path, "w") as file:
        file.create_dataset("first", data=inputs, compression="gzip", chunks=(11, 2, 3, 4))
        file.create_dataset("second", data=targets)
        file["short"] = targets[:2]
        file["counts"] = np.zeros((11, 2, 3, 4), np.int32)
    pairs = HDF5Pairs(path, inputs="first", targets="second")
    with pytest.raises(ValueError, match="image 3 of data set 'second' of lab.h5 has values that are not finite"):
        list(pairs.batches(11, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="has no data set 'input'; it has: counts, first, second, short"):
        HDF5Pairs(path)
    with pytest.raises(ValueError, match=r"shapes of inputs \(11, 2, 3, 4\) and targets \(2, 2, 3, 4\)"):
        HDF5Pairs(path, "first", "short")
    with pytest.raises(TypeError, match=r"data set 'counts' of lab.h5 \(dtype int32\)"):
        HDF5Pairs(path, "first", "counts")


def photos_of(*values: int, side: int = 12, channels: int = 3) -> ArrayPhotos:
    """One flat photo a value."""
    return ArrayPhotos([np.full((channels, side, side), value, np.uint8) for value in values])


@pytest.mark.parametrize("noise", [Gaussian(25), PixelSampling(2, 3)], ids=str)
@pytest.mark.parametrize("target", ["noisy", "clean"])
def test_patch_pairs_shapes_and_repeatability(noise, target):
    photos = ArrayPhotos(np.random.default_rng(0).integers(0, 256, (3, 1, 30, 40), dtype=np.uint8))
    pairs = PatchPairs(photos, noise, patches=20, patch_size=8, target=target)
    assert len(pairs) == 20
    assert pairs.image_shape == (1, 8, 8)
    first = list(pairs.batches(8, np.random.default_rng(1)))
    assert [inputs.shape for inputs, _ in first] == [(8, 1, 8, 8), (8, 1, 8, 8), (4, 1, 8, 8)]
    for (a, b), (c, d) in zip(first, pairs.batches(8, np.random.default_rng(1)), strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
        assert not np.array_equal(a, b)
    inputs, targets = pairs.take(50, np.random.default_rng(2))
    assert inputs.shape == targets.shape == (50, 1, 8, 8)


def test_patch_pairs_noisy_targets_have_noise_of_their_own_and_clean_ones_none():
    noise, photos = Gaussian(10), photos_of(100)
    inputs, targets = PatchPairs(photos, noise, patch_size=12).take(100, np.random.default_rng(0))
    assert targets.std() == pytest.approx(10, rel=0.05)
    assert abs(np.corrcoef(inputs.ravel(), targets.ravel())[0, 1]) < 0.03
    inputs, targets = PatchPairs(photos, noise, patch_size=12, target="clean").take(100, np.random.default_rng(0))
    assert inputs.std() == pytest.approx(10, rel=0.05)
    np.testing.assert_array_equal(targets, 100)


@pytest.mark.parametrize("augment", [True, False])
def test_augmentation_gives_the_8_poses_alike_to_both_images(augment):
    photo = np.array([[[0, 1], [2, 3]]], np.uint8) * 50
    poses = {tuple(np.rot90(turned, k).ravel()) for turned in (photo[0], photo[0].T) for k in range(4)}
    pairs = PatchPairs(ArrayPhotos([photo]), Gaussian(0), patch_size=2, augment=augment)
    inputs, targets = pairs.take(400, np.random.default_rng(0))
    np.testing.assert_array_equal(inputs, targets)
    seen = [tuple(image.ravel().astype(int).tolist()) for image in inputs]
    if augment:
        assert set(seen) == {tuple(int(value) for value in pose) for pose in poses}
        assert min(seen.count(pose) for pose in set(seen)) > 25
    else:
        assert set(seen) == {(0, 50, 100, 150)}


def photo_order(photos: int, count: int, **options: int) -> np.ndarray:
    """The first `count` that are drawn."""
    pools, found = _PhotoOrder(photos, count, np.random.default_rng(0), **options), []
    while sum(map(len, found)) < count:
        found.append(pools.next_pool())
    return np.concatenate(found)[:count]


def test_the_order_of_an_epoch_is_drawn_pool_by_pool():
    """Beginning an epoch of ten million patches takes no longer, and no more memory, than one of a thousand."""
    pairs = PatchPairs(photos_of(*range(100)), Gaussian(0), patches=10**7, patch_size=2)
    assert len(_PhotoOrder(100, 10**7, np.random.default_rng(0)).next_pool()) == 8 * 50
    started = time.perf_counter()
    inputs, _ = next(pairs.batches(8, np.random.default_rng(0)))
    assert inputs.shape == (8, 3, 2, 2) and time.perf_counter() - started < 2  # all of it takes ten seconds


@pytest.mark.parametrize(("photos", "count"), [(1, 5), (7, 5), (7, 70), (64, 512), (200, 3200), (300, 100)])
def test_photos_are_drawn_equally_often(photos, count):
    order = photo_order(photos, count)
    counts = np.bincount(order, minlength=photos)
    assert order.shape == (count,)
    assert len(counts) == photos
    if count <= photos:
        assert counts.max() == 1
    elif count % (8 * photos) == 0:
        assert set(counts) == {count // photos}
    else:
        assert counts.max() - counts.min() <= 8


def test_photos_of_a_batch_are_mixed():
    order = photo_order(200, 10000)
    different = [len(set(order[start : start + 32].tolist())) for start in range(0, 9984, 32)]
    # 32 draws with replacement from 64 photos: 64 (1 - (63/64)^32) = 25.3 different ones
    assert np.mean(different) > 23
    assert min(different) > 12


def test_patches_come_from_every_photo():
    pairs = PatchPairs(photos_of(10, 20, 30, side=4), Gaussian(0), patches=12, patch_size=4)
    values = [inputs[:, 0, 0, 0] for inputs, _ in pairs.batches(5, np.random.default_rng(0))]
    assert sorted(np.concatenate(values)) == [10.0] * 4 + [20.0] * 4 + [30.0] * 4


def test_small_photos_are_named_at_construction_where_sizes_are_known(tmp_path):
    message = r"\(12 x 12\) must be at least 40 x 40 pixels for patches of 8 with pixel-sampling:5-8 noise"
    with pytest.raises(ValueError, match="photo 1 " + message):
        PatchPairs(ArrayPhotos([np.zeros((1, 40, 40)), np.zeros((1, 12, 12))]), PixelSampling(), patch_size=8)
    write_images(tmp_path / "photos.h5", np.zeros((2, 1, 12, 12), np.uint8))
    with pytest.raises(ValueError, match=r"photos.h5\[0\] " + message):
        PatchPairs(HDF5Photos(tmp_path / "photos.h5"), PixelSampling(), patch_size=8)
    np.save(tmp_path / "small.npy", np.zeros((1, 12, 12), np.uint8))
    pairs = PatchPairs(FolderPhotos(tmp_path), PixelSampling(), patch_size=8)
    with pytest.raises(ValueError, match="small.npy " + message):
        pairs.take(1, np.random.default_rng(0))


def test_patch_pairs_arguments():
    with pytest.raises(ValueError, match=r"target \(='blurred'\) must be 'noisy', 'clean', 'self' or 'blind-spot'"):
        PatchPairs(photos_of(1), Gaussian(1), target="blurred")
    with pytest.raises(ValueError, match=r"patches \(=0\) must be at least 1"):
        PatchPairs(photos_of(1), Gaussian(1), patches=0)
    with pytest.raises(TypeError, match=r"patch_size \(=8.0\) must be an integer"):
        PatchPairs(photos_of(1), Gaussian(1), patch_size=8.0)
    with pytest.raises(ValueError, match=r"photo 0 \(12 x 12\) must be at least 32 x 32 pixels for patches of 32"):
        PatchPairs(photos_of(1), Gaussian(1))
