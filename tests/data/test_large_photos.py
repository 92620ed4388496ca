"""Training sets larger than memory: regions of large photographs, bounded caches, and what a process takes in all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from npconv.data import (
    ArrayPhotos,
    FolderPhotos,
    Gaussian,
    HDF5Pairs,
    HDF5Photos,
    PatchPairs,
    PixelSampling,
    folder,
    images,
    read_image,
    write_image,
    write_images,
    write_pairs,
)
from npconv.data.mapped import mapped_image
from npconv.data.patches import _PhotoOrder

PLACES = [(0, 0, 5, 7), (3, 4, 8, 1), (10, 20, 30, 20), (0, 0, 40, 50), (39, 49, 1, 1)]


def picture(channels: int = 3, height: int = 40, width: int = 50, dtype: type = np.uint8) -> np.ndarray:
    scale = 257 if dtype == np.uint16 else 1
    values = np.random.default_rng(0).integers(0, 256, (channels, height, width))
    return (values * scale).astype(dtype)


def whole_and_parts(path: Path, channels: int = 3) -> None:
    """A folder with a small cache, and so its regions, gives what the whole photograph has there."""
    small, large = FolderPhotos(path.parent, channels, cache_bytes=100), FolderPhotos(path.parent, channels)
    whole = large[0]
    assert small.size(0) == large.size(0) == whole.shape[1:]
    for top, left, height, width in PLACES:
        expected = whole[:, top : top + height, left : left + width]
        for photos in (small, large, large.subset([0])):
            part = photos.region(0, top, left, height, width)
            assert part.dtype == expected.dtype
            np.testing.assert_array_equal(part, expected)


@pytest.fixture
def never_whole(monkeypatch):
    """Reading a file whole is an error, from the first call on."""

    def start() -> None:
        def refuse(path: Path) -> np.ndarray:
            raise AssertionError(f"{path} was read whole")

        monkeypatch.setattr(folder, "read_image", refuse)

    return start


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("layout", ["CHW", "HWC", "HW", "Fortran", "alpha"])
def test_regions_of_npy_files(tmp_path, layout, dtype):
    photo = picture(4 if layout == "alpha" else 3, dtype=dtype)
    stored = {"HWC": photo.transpose(1, 2, 0), "HW": photo[0], "Fortran": np.asfortranarray(photo)}.get(layout, photo)
    np.save(tmp_path / "a.npy", stored)
    np.testing.assert_array_equal(mapped_image(tmp_path / "a.npy").region(0, 0, 40, 50), read_image(tmp_path / "a.npy"))
    whole_and_parts(tmp_path / "a.npy")
    whole_and_parts(tmp_path / "a.npy", channels=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_regions_of_tiff_files(tmp_path, channels, dtype, byteorder):
    tifffile = pytest.importorskip("tifffile")
    photo = picture(channels, dtype=dtype)
    pixels = photo[0] if channels == 1 else photo.transpose(1, 2, 0)
    photometric = "minisblack" if channels == 1 else "rgb"
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, byteorder=byteorder)
    assert mapped_image(tmp_path / "a.tif") is not None
    whole_and_parts(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["deflated", "turned", "white is zero", "png"])
def test_files_that_can_only_be_read_whole(tmp_path, kind):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("PIL")
    path, photo = tmp_path / ("a.png" if kind == "png" else "a.tif"), picture()
    if kind == "png":
        write_image(path, photo)
    elif kind == "white is zero":
        tifffile.imwrite(path, photo[0], photometric="miniswhite")
    else:
        options = {"extratags": [(274, "H", 1, 3, True)]} if kind == "turned" else {"compression": "deflate"}
        tifffile.imwrite(path, photo.transpose(1, 2, 0), photometric="rgb", **options)
    assert mapped_image(path) is None
    whole_and_parts(path)


def test_patches_of_a_large_file_read_only_their_part(tmp_path, never_whole):
    np.save(tmp_path / "a.npy", picture(3, 400, 500))
    never_whole()
    in_memory = ArrayPhotos([np.load(tmp_path / "a.npy")])
    photos = FolderPhotos(tmp_path, cache_bytes=1000)
    for noise in (Gaussian(25), PixelSampling()):
        expected = PatchPairs(in_memory, noise, patch_size=16).take(20, np.random.default_rng(0))
        found = PatchPairs(photos, noise, patch_size=16).take(20, np.random.default_rng(0))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_photo_of_20000_squared_costs_little(tmp_path, never_whole):
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (20_000, 20_000, 3))  # sparse: no disk
    array[:64, :64] = 200
    del array
    never_whole()
    photos = FolderPhotos(tmp_path)
    assert photos.size(0) == (20_000, 20_000)
    assert photos.region(0, 32, 32, 64, 64).sum() == 3 * 32 * 32 * 200
    start = time.perf_counter()
    PatchPairs(photos, Gaussian(25), patch_size=64).take(20, np.random.default_rng(0))
    assert time.perf_counter() - start < 5


def test_regions_must_be_inside_the_photo():
    photos = ArrayPhotos([picture()])
    for place in ((-1, 0, 2, 2), (0, 0, 0, 2), (39, 0, 2, 2), (0, 49, 1, 2), (50, 0, 1, 1)):
        with pytest.raises(ValueError, match=r"must be inside photo 0, which is 40 x 50"):
            photos.region(0, *place)
    assert np.shares_memory(photos.region(0, 1, 2, 3, 4), photos[0])


def test_large_floats_are_checked_for_their_scale_and_their_regions_for_nan(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((3, 40, 50)))
    with pytest.raises(ValueError, match=r"a\.npy has values in 0\.\.1"):
        FolderPhotos(tmp_path, cache_bytes=100).region(0, 0, 0, 4, 4)
    photo = picture(dtype=np.float32)
    photo[0, 10, 10] = np.nan
    photo[:, 20:, 20:] = 0.5  # dark is no sign of a scale
    np.save(tmp_path / "a.npy", photo)
    photos = FolderPhotos(tmp_path, cache_bytes=100)
    np.testing.assert_array_equal(photos.region(0, 20, 20, 4, 4), photo[:, 20:24, 20:24])
    with pytest.raises(ValueError, match=r"a\.npy.*not finite"):
        photos.region(0, 8, 8, 4, 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_regions_of_hdf5_images(tmp_path, dtype):
    write_images(tmp_path / "a.h5", np.stack([picture(dtype=dtype), picture(dtype=dtype)[:, ::-1]]))
    small, large = HDF5Photos(tmp_path / "a.h5", cache_bytes=100), HDF5Photos(tmp_path / "a.h5")
    for top, left, height, width in PLACES:
        expected = large[1][:, top : top + height, left : left + width]
        np.testing.assert_array_equal(small.region(1, top, left, height, width), expected)
        np.testing.assert_array_equal(large.region(1, top, left, height, width), expected)
    if dtype == np.float32:
        with h5py.File(tmp_path / "dark.h5", "w") as file:
            file["images"] = picture(dtype=dtype)[np.newaxis] / 255
        with pytest.raises(ValueError, match=r"data set 'images' of dark.h5 has values in 0\.\.1"):
            HDF5Photos(tmp_path / "dark.h5", cache_bytes=100)


def test_large_compressed_photos_are_decoded_once_a_visit(tmp_path, monkeypatch):
    """Eight patches of a photo follow each other where the cache holds one alone."""
    pytest.importorskip("PIL")
    for i in range(4):
        write_image(tmp_path / f"{i}.png", picture())
    read: list[str] = []
    monkeypatch.setattr(folder, "read_image", lambda path: (read.append(path.name), images.read_image(path))[1])
    for cache, most in ((100, 1), (2 * 3 * 40 * 50, 2), (2**28, 64)):
        photos = FolderPhotos(tmp_path, cache_bytes=cache)
        assert photos.at_once == most
        read.clear()
        for _ in PatchPairs(photos, Gaussian(1), 64, 8).batches(8, np.random.default_rng(0)):
            pass
        # 64 patches are two visits of each photo, or one less reading where a visit follows upon the last.
        assert len(read) == 4 if most == 64 else len(read) in (7, 8)


def test_pools_are_as_large_as_the_cache_allows():
    for at_once, sizes in ((1, {1}), (5, {5}), (64, {40})):
        pools_in_turn = _PhotoOrder(40, 320, np.random.default_rng(0), at_once)
        order = np.concatenate([pools_in_turn.next_pool() for _ in range(-(-40 // at_once))])
        assert np.bincount(order).tolist() == [8] * 40
        (size,) = sizes
        pools = [set(order[start : start + 8 * size].tolist()) for start in range(0, 320, 8 * size)]
        assert all(len(pool) == size for pool in pools)


def test_a_folder_of_100000_files_opens_without_reading_any(tmp_path, monkeypatch):
    names = [f"{i:06}.png" for i in range(100_000)]
    monkeypatch.setattr(folder.os, "walk", lambda top, onerror: iter([(str(top), [], names)]))
    start = time.process_time()
    photos = FolderPhotos(tmp_path)
    train, kept = photos.split(0.1, np.random.default_rng(0))
    assert (len(train), len(kept)) == (90_000, 10_000)
    assert train.name(0) in ("000000.png", "000001.png", "000002.png")
    assert time.process_time() - start < 3


def test_hdf5_pairs_of_a_batch_are_read_in_the_order_of_the_file(tmp_path, monkeypatch):
    inputs = np.arange(40, dtype=np.uint8)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones((1, 1, 4, 4), np.uint8)
    write_pairs(tmp_path / "a.h5", inputs, inputs)
    pairs, read = HDF5Pairs(tmp_path / "a.h5"), []
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, i: (read.append(int(i)), original(self, i))[1])
    for found, _ in pairs.batches(10, np.random.default_rng(0)):
        assert read == 2 * sorted(found[:, 0, 0, 0].astype(int).tolist())
        read.clear()


MEMORY = """
import sys
import numpy as np
from npconv.data import Gaussian, HDF5Photos, FolderPhotos, PatchPairs

def peak():
    # Not ru_maxrss, which begins with what the process had that started this one.
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

source, cache = sys.argv[1], int(sys.argv[2])
photos = HDF5Photos(source, cache_bytes=cache) if source.endswith(".h5") else FolderPhotos(source, cache_bytes=cache)
pairs = PatchPairs(photos, Gaussian(25), 8 * len(photos), 32)
rng = np.random.default_rng(0)
pairs.take(2, rng)
before = peak()
for batch in pairs.batches(32, rng):
    pass
print(peak() - before)
"""


def grown(source: Path, cache: int) -> float:
    """How many MB a process takes more, at most, from its first patches to the end of an epoch."""
    command = [sys.executable, "-c", MEMORY, str(source), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["folder", "hdf5"])
def test_memory_is_bounded_by_the_cache(tmp_path, kind):
    """60 photographs of 0.98 MB: drawn from with a cache of 4 MB, and with one that holds all of them."""
    if kind == "hdf5":
        source = tmp_path / "photos.h5"
        with h5py.File(source, "w") as file:
            images = file.create_dataset("images", (60, 3, 570, 570), np.uint8, chunks=(1, 3, 570, 570))
            for i in range(60):
                images[i] = i
    else:
        pytest.importorskip("PIL")
        source = tmp_path
        for i in range(60):
            write_image(source / f"{i}.png", np.full((3, 570, 570), i, np.uint8))
    assert grown(source, 4 * 2**20) < 25
    assert grown(source, 2**28) > 40
