"""Photographs that cannot be read: named, and then an error or passed over, as the collection was told."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from npconv.data import FolderPhotos, Gaussian, HDF5Photos, PatchPairs, PixelSampling, write_image, write_images

pytest.importorskip("PIL")

KINDS = ["truncated png", "truncated jpeg", "empty", "text", "nan", "small", "truncated npy", "integers"]


def break_photo(folder: Path, kind: str) -> str:
    """Adds a photograph that cannot be used, in the middle of the folder's; returns its name."""
    rng = np.random.default_rng(5)
    photo = rng.integers(0, 256, (3, 60, 60), dtype=np.uint8)
    ending = {"truncated jpeg": ".jpg", "nan": ".npy", "truncated npy": ".npy", "integers": ".npy"}.get(kind, ".png")
    path = folder / f"1-bad{ending}"
    if kind in ("empty", "text"):
        path.write_bytes(b"" if kind == "empty" else b"not an image at all")
    elif ending == ".npy":
        values = {"nan": photo * np.nan, "integers": photo.astype(np.int64)}.get(kind, photo)
        np.save(path, values)
    else:
        write_image(path, photo[:, :10, :10] if kind == "small" else photo)
    if kind.startswith("truncated"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])  # the header is whole
    return path.name


@pytest.fixture
def folder(tmp_path):
    """Three flat photographs of the values 50, 100 and 150."""
    for i in range(3):
        write_image(tmp_path / f"{i}.png", np.full((3, 60, 60), 50 * (i + 1), np.uint8))
    return tmp_path


def drawn(photos: FolderPhotos, count: int = 40, seed: int = 0) -> list[int]:
    """The photographs' values that patches were drawn from."""
    inputs, targets = PatchPairs(photos, Gaussian(0), patch_size=32).take(count, np.random.default_rng(seed))
    np.testing.assert_array_equal(inputs, targets)
    return inputs[:, 0, 0, 0].astype(int).tolist()


@pytest.mark.parametrize("cache", [2**28, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_fail_names_the_file_and_skip_passes_over_it(folder, kind, cache):
    good = drawn(FolderPhotos(folder), 40)
    assert set(good) == {50, 100, 150}
    name = break_photo(folder, kind)
    with pytest.raises((ValueError, TypeError), match=re.escape(name)):
        drawn(FolderPhotos(folder, cache_bytes=cache))
    photos = FolderPhotos(folder, cache_bytes=cache, corrupt="skip")
    with pytest.warns(UserWarning, match=f"skipped, since it cannot be used: .*{re.escape(name)}") as seen:
        first = drawn(photos)
    assert len(seen) == 1
    assert set(first) == {50, 100, 150}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # named once
        assert drawn(photos) == first
    with pytest.warns(UserWarning):
        assert drawn(FolderPhotos(folder, cache_bytes=cache, corrupt="skip")) == first
    if kind != "small":
        with pytest.raises((ValueError, TypeError), match=re.escape(name)):
            photos[photos.names.index(name)]


def test_what_was_drawn_does_not_depend_on_when_a_file_was_found_out(folder):
    """A NaN is seen only in the regions that have it: what the attempt drew from the generator is taken back."""
    photo = np.full((3, 60, 60), 200.0)
    photo[:, 20:40, 20:40] = np.nan
    np.save(folder / "1-bad.npy", photo)
    photos = FolderPhotos(folder, cache_bytes=100, corrupt="skip")
    with pytest.warns(UserWarning, match="1-bad.npy"):
        first = drawn(photos, 100)
    assert drawn(photos, 100) == drawn(photos, 100)
    assert 200 not in drawn(photos, 100) and set(first) <= {50, 100, 150, 200}


def test_the_next_photo_stands_in(folder):
    name = break_photo(folder, "text")
    photos = FolderPhotos(folder, corrupt="skip")
    assert photos.names.index(name) == 1
    with pytest.warns(UserWarning):
        values = drawn(photos, 4 * 8)
    assert sorted(values) == [50] * 8 + [100] * 16 + [150] * 8 or values.count(100) + values.count(150) == 24


def test_a_part_of_a_collection_has_stand_ins_of_its_own(folder):
    """A photograph that is held out does not get into training that way."""
    name = break_photo(folder, "text")
    photos = FolderPhotos(folder, corrupt="skip")
    part = photos.subset([photos.names.index(name), 0])
    with pytest.warns(UserWarning):
        assert set(drawn(part)) == {50}
    alone = photos.subset([photos.names.index(name)])
    with pytest.raises(ValueError, match=f"none of the 1 photos can be used; {re.escape(name)}: cannot read"):
        drawn(alone)


def test_all_corrupt(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_text("text")
    with (
        pytest.warns(UserWarning) as seen,
        pytest.raises(ValueError, match=r"none of the 3 photos can be used; \d.png: cannot read"),
    ):
        drawn(FolderPhotos(tmp_path, corrupt="skip"))
    assert len(seen) == 3


def test_hdf5_images_are_skipped_too(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 32, 32), dtype=np.uint8)
    write_images(tmp_path / "a.h5", images)
    raw = bytearray((tmp_path / "a.h5").read_bytes())
    raw[bytes(raw).index(images[2].tobytes()) + 100] ^= 255
    (tmp_path / "a.h5").write_bytes(raw)
    pairs = PatchPairs(HDF5Photos(tmp_path / "a.h5"), Gaussian(1), patch_size=16)
    with pytest.raises(ValueError, match=r"cannot read a.h5\[2\]"):
        pairs.take(16, np.random.default_rng(0))
    pairs = PatchPairs(HDF5Photos(tmp_path / "a.h5", corrupt="skip"), Gaussian(1), patch_size=16)
    with pytest.warns(UserWarning, match=r"skipped, since it cannot be used: cannot read a.h5\[2\]"):
        pairs.take(16, np.random.default_rng(0))


def test_small_hdf5_images_are_all_too_small(tmp_path):
    write_images(tmp_path / "a.h5", np.zeros((2, 1, 32, 32), np.uint8))
    photos = HDF5Photos(tmp_path / "a.h5", corrupt="skip")
    with (
        pytest.warns(UserWarning, match=r"a.h5\[\d\] \(32 x 32\) must be at least 160"),
        pytest.raises(ValueError, match="none of the 2 photos can be used"),
    ):
        PatchPairs(photos, PixelSampling(), patch_size=32).take(1, np.random.default_rng(0))


def test_arguments(folder):
    with pytest.raises(ValueError, match=r"corrupt \(='ignore'\) must be 'fail' or 'skip'"):
        FolderPhotos(folder, corrupt="ignore")
    with pytest.raises(TypeError, match="cache_bytes"):
        FolderPhotos(folder, cache_bytes="1 GB")
