"""Collections of photographs: folders, arrays, HDF5 files, splits, and what opens them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from npconv.data import (
    ArrayPhotos,
    FolderPhotos,
    HDF5Pairs,
    HDF5Photos,
    open_data,
    open_photos,
    write_image,
    write_images,
    write_pairs,
)
from npconv.data.photos import LRUCache


def random_photos(count: int = 5, channels: int = 3, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, channels, height, width), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Four photos of different kinds, one in a subfolder, among files that are none."""
    pytest.importorskip("PIL")
    pytest.importorskip("tifffile")
    photos = random_photos()
    root = tmp_path / "photos"
    (root / "more").mkdir(parents=True)
    (root / ".hidden").mkdir()
    write_image(root / "b.png", photos[0])
    write_image(root / "a.tif", photos[1].astype(np.uint16) * 257)
    write_image(root / "more" / "c.PNG", photos[2][:1])
    np.save(root / "d.npy", photos[3].astype(np.float32))
    write_image(root / ".hidden" / "x.png", photos[4])
    write_image(root / "._a.png", photos[4])
    (root / "notes.txt").write_text("no image")
    return root


def test_folder_photos_are_sorted_converted_and_scaled(folder):
    photos, source = FolderPhotos(folder), random_photos()
    assert photos.names == ["a.tif", "b.png", "d.npy", "more/c.PNG"]
    assert len(photos) == 4
    assert photos.channels == 3
    assert photos.known_sizes is None
    assert [photo.dtype.name for photo in photos] == ["float32", "uint8", "float32", "uint8"]
    np.testing.assert_allclose(photos[0], source[1], rtol=1e-6)
    np.testing.assert_array_equal(photos[1], source[0])
    np.testing.assert_array_equal(photos[2], source[3])
    np.testing.assert_array_equal(photos[-1], np.repeat(source[2][:1], 3, axis=0))
    with pytest.raises(IndexError, match="photo 4 does not exist: there are 4"):
        photos[4]


def test_folder_photos_in_gray(folder):
    photos, source = FolderPhotos(folder, channels=1), random_photos()
    assert photos[1].dtype == np.uint8
    for photo, rgb in ((photos[0], source[1]), (photos[1], source[0]), (photos[2], source[3])):
        red, green, blue = rgb.astype(float)
        assert photo.shape == (1, 6, 8)
        np.testing.assert_allclose(photo[0], 0.299 * red + 0.587 * green + 0.114 * blue, atol=0.501)
    np.testing.assert_array_equal(photos[3], source[2][:1])


def test_alpha_is_dropped(tmp_path):
    photos = random_photos(channels=4)
    np.save(tmp_path / "a.npy", photos[0])
    np.save(tmp_path / "b.npy", photos[1][:2])
    folder = FolderPhotos(tmp_path)
    np.testing.assert_array_equal(folder[0], photos[0][:3])
    np.testing.assert_array_equal(folder[1], np.repeat(photos[1][:1], 3, axis=0))


def test_folder_errors(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        FolderPhotos(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="notes.txt' is not a folder"):
        FolderPhotos(folder / "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in .*empty.*: files that end in .png, .jpg, .*.npy are"):
        FolderPhotos(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"channels \(=2\) must be 1 \(gray\) or 3 \(RGB\)"):
        FolderPhotos(folder, channels=2)
    (folder / "b.png").write_bytes(b"damaged")
    photos = FolderPhotos(folder)
    photos[0]
    with pytest.raises(ValueError, match=r"cannot read .*b\.png"):
        photos[1]


def test_folder_floats_must_be_finite_and_in_8_bit_steps(tmp_path):
    np.save(tmp_path / "a.npy", np.full((3, 4, 4), 0.5))
    np.save(tmp_path / "b.npy", np.full((3, 4, 4), np.nan))
    np.save(tmp_path / "c.npy", np.zeros((3, 4, 4)))
    np.save(tmp_path / "d.npy", np.zeros((3, 4, 4), np.int64))
    photos = FolderPhotos(tmp_path)
    with pytest.raises(
        ValueError, match=r"a\.npy has values in 0\.\.1 \(largest: 0\.5\), not 0\.\.255: multiply by 255"
    ):
        photos[0]
    with pytest.raises(ValueError, match=r"b\.npy has values that are not finite"):
        photos[1]
    np.testing.assert_array_equal(photos[2], 0)
    with pytest.raises(TypeError, match=r"d\.npy \(dtype int64\) must be uint8, uint16 or a float"):
        photos[3]


def test_folder_reads_lazily_and_remembers_up_to_its_bytes(folder, monkeypatch):
    read = []
    original = FolderPhotos._load
    monkeypatch.setattr(FolderPhotos, "_load", lambda self, i: (read.append(i), original(self, i))[1])
    photos = FolderPhotos(folder, cache_bytes=2 * 3 * 6 * 8)  # two uint8 photos, or no float one
    assert read == []
    for index in (1, 3, 1, 3, 0, 1, 3, 0):
        photos[index]
    assert read == [1, 3, 0]  # the last one that is too large for the cache is kept beside it


def test_cache_forgets_the_least_recently_used():
    made = []

    def make(index: int) -> np.ndarray:
        made.append(index)
        return np.full(10, index, np.uint8)

    cache = LRUCache(30)
    for index in (0, 1, 2, 0, 3, 0, 1):  # 3 takes the place of 1, then 1 that of 2
        np.testing.assert_array_equal(cache.get(index, make), index)
        assert cache.nbytes <= 30
    assert made == [0, 1, 2, 3, 1]
    assert cache.get(7, lambda index: np.zeros(31, np.uint8)).size == 31
    cache.get(0, make)
    assert made == [0, 1, 2, 3, 1]  # what is too large to keep drives nothing out

    def large(index: int) -> np.ndarray:
        made.append(index)
        return np.zeros(31, np.uint8)

    for index in (8, 8, 0, 8, 9, 9, 8):  # the last large one is kept beside the others, and one alone
        cache.get(index, large)
        assert cache.nbytes <= 30
    assert made[5:] == [8, 9, 8]
    with pytest.raises(ValueError, match=r"cache_bytes \(=-1\) must be at least 0"):
        LRUCache(-1)


def test_array_photos():
    array = random_photos()
    photos = ArrayPhotos(array)
    assert len(photos) == 5
    assert photos.channels == 3
    assert photos.names[1] == "photo 1"
    assert photos.known_sizes == [(6, 8)] * 5
    assert np.shares_memory(photos[2], array)
    mixed = ArrayPhotos([array[0], array[1][:, :3].astype(np.float32), array[2].astype(np.uint16) * 257])
    assert mixed.known_sizes == [(6, 8), (3, 8), (6, 8)]
    np.testing.assert_allclose(mixed[2], array[2], rtol=1e-6)
    assert mixed[2].dtype == np.float32


@pytest.mark.parametrize(
    ("photos", "error", "message"),
    [
        (random_photos()[0], ValueError, r"photos \(shape \(3, 6, 8\)\) must be \(N, C, H, W\)"),
        ([], ValueError, "photos .* must be at least 1"),
        (random_photos()[:0], ValueError, "photos .* must be at least 1"),
        ([np.zeros((4, 4))], ValueError, r"photo 0 \(shape \(4, 4\)\) must be \(C, H, W\)"),
        (
            [random_photos()[0], random_photos()[0][:1]],
            ValueError,
            r"channels of photo 1 \(=1\) must be photo 0's: 3",
        ),
        (
            random_photos().astype(np.int32),
            TypeError,
            r"photo 0 \(dtype int32\) must be uint8, uint16 or a float",
        ),
        (random_photos() / 255.0, ValueError, r"photo 0 has values in 0\.\.1"),
        (
            [random_photos()[0], np.full((3, 2, 2), np.inf)],
            ValueError,
            "photo 1 has values that are not finite",
        ),
    ],
)
def test_array_photos_errors(photos, error, message):
    with pytest.raises(error, match=message):
        ArrayPhotos(photos)


def test_split_divides_without_copying_and_keeps_names():
    array = random_photos(10, height=4)
    train, kept = ArrayPhotos(array).split(0.2, np.random.default_rng(0))
    assert (len(train), len(kept)) == (8, 2)
    assert sorted(train.names + kept.names) == sorted(ArrayPhotos(array).names)
    for part in (train, kept):
        assert part.channels == 3
        assert part.known_sizes == [(4, 8)] * len(part)
        for name, photo in zip(part.names, part, strict=True):
            np.testing.assert_array_equal(photo, array[int(name.split()[1])])
            assert np.shares_memory(photo, array)
    again, _ = ArrayPhotos(array).split(0.2, np.random.default_rng(0))
    other, _ = ArrayPhotos(array).split(0.2, np.random.default_rng(1))
    assert again.names == train.names != other.names


def test_split_leaves_a_photo_on_each_side():
    photos = ArrayPhotos(random_photos(2))
    for share in (0.01, 0.99):
        assert [len(part) for part in photos.split(share, np.random.default_rng(0))] == [1, 1]
    for share in (0, 1, -0.5, float("nan")):
        with pytest.raises(ValueError, match=rf"share \(={share}\) must be above 0 and below 1"):
            photos.split(share, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"number of photos \(=1\) must be at least 2"):
        ArrayPhotos(random_photos(1)).split(0.5, np.random.default_rng(0))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.uint16])
def test_hdf5_photos(tmp_path, dtype):
    images = random_photos()
    stored = images.astype(dtype) * 257 if dtype is np.uint16 else images.astype(dtype)
    write_images(tmp_path / "photos.h5", stored)
    photos = HDF5Photos(tmp_path / "photos.h5")
    assert (len(photos), photos.channels) == (5, 3)
    assert photos.known_sizes == [(6, 8)] * 5
    assert photos.names[3] == "photos.h5[3]"
    for photo, image in zip(photos, images, strict=True):
        np.testing.assert_allclose(photo, image, rtol=1e-6)
    assert photos[0] is photos[0]
    with h5py.File(tmp_path / "photos.h5") as file:
        assert file["images"].chunks == (1, 3, 6, 8)
        assert file["images"].fletcher32


def test_hdf5_images_are_in_chunks_of_512_at_most(tmp_path):
    write_images(tmp_path / "photos.h5", np.zeros((1, 2, 513, 100), np.uint8))
    with h5py.File(tmp_path / "photos.h5") as file:
        assert file["images"].chunks == (1, 2, 512, 100)


def test_hdf5_photos_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*none.h5"):
        HDF5Photos(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(ValueError, match="text.h5' is not an HDF5 file"):
        HDF5Photos(tmp_path / "text.h5")
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["a"] = np.zeros((2, 3, 4))
        file["b"] = np.zeros((2, 3, 4, 4), np.int64)
        file["c"] = np.full((2, 3, 4, 4), 0.5)
        file["d"] = np.array([np.zeros((3, 4, 4)), np.full((3, 4, 4), np.nan)])
        file.create_group("g")
    with pytest.raises(ValueError, match="odd.h5' has no data set 'images'; it has: a, b, c, d"):
        HDF5Photos(tmp_path / "odd.h5")
    with pytest.raises(ValueError, match="has no data set 'g'"):
        HDF5Photos(tmp_path / "odd.h5", "g")
    with pytest.raises(ValueError, match=r"data set 'a' of odd.h5 \(shape \(2, 3, 4\)\) must be \(N, C, H, W\)"):
        HDF5Photos(tmp_path / "odd.h5", "a")
    with pytest.raises(TypeError, match=r"data set 'b' of odd.h5 \(dtype int64\) must be uint8"):
        HDF5Photos(tmp_path / "odd.h5", "b")
    with pytest.raises(ValueError, match=r"odd.h5\[0\] has values in 0\.\.1"):
        HDF5Photos(tmp_path / "odd.h5", "c")[0]
    photos = HDF5Photos(tmp_path / "odd.h5", "d")
    photos[0]
    with pytest.raises(ValueError, match=r"odd.h5\[1\] has values that are not finite"):
        photos[1]


def test_a_damaged_image_is_named(tmp_path):
    images = random_photos(4, height=32, width=32)
    path = tmp_path / "photos.h5"
    write_images(path, images)
    data = bytearray(path.read_bytes())
    data[bytes(data).index(images[2].tobytes()) + 100] ^= 255
    path.write_bytes(data)
    photos = HDF5Photos(path)
    np.testing.assert_array_equal(photos[1], images[1])
    with pytest.raises(ValueError, match=r"cannot read photos.h5\[2\]"):
        photos[2]


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (random_photos()[0], ValueError, r"images \(shape \(3, 6, 8\)\) must be \(N, C, H, W\)"),
        (random_photos()[:0], ValueError, "and not empty"),
        (random_photos().astype(np.int32), TypeError, r"images \(dtype int32\) must be uint8"),
        (random_photos() / 255.0, ValueError, r"images has values in 0\.\.1"),
        (random_photos() * np.nan, ValueError, "images has values that are not finite"),
    ],
)
def test_images_that_cannot_be_written_leave_the_old_file(tmp_path, images, error, message):
    write_images(tmp_path / "photos.h5", random_photos())
    with pytest.raises(error, match=message):
        write_images(tmp_path / "photos.h5", images)
    np.testing.assert_array_equal(HDF5Photos(tmp_path / "photos.h5")[4], random_photos()[4])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "photos.h5"
    write_images(path, random_photos())

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_images(path, random_photos() // 2)
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(HDF5Photos(path)[4], random_photos()[4])


def test_open_photos_and_open_data_tell_sources_apart(folder, tmp_path):
    write_images(tmp_path / "photos.h5", random_photos())
    write_pairs(tmp_path / "pairs.h5", random_photos(), random_photos())
    assert isinstance(open_data(folder), FolderPhotos)
    assert isinstance(open_data(tmp_path / "photos.h5"), HDF5Photos)
    assert isinstance(open_data(str(tmp_path / "pairs.h5")), HDF5Pairs)
    assert isinstance(open_photos(str(folder)), FolderPhotos)
    assert open_photos(folder, channels=1)[0].shape == (1, 6, 8)
    assert isinstance(open_photos(tmp_path / "photos.h5"), HDF5Photos)
    assert isinstance(open_photos(random_photos(), channels=3), ArrayPhotos)
    assert len(open_photos(list(random_photos()))) == 5


def test_open_errors(tmp_path):
    write_images(tmp_path / "photos.h5", random_photos())
    write_pairs(tmp_path / "pairs.h5", random_photos(), random_photos())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(ValueError, match="pairs.h5' holds pairs .* not photographs"):
        open_photos(tmp_path / "pairs.h5")
    with pytest.raises(FileNotFoundError, match="there is no folder or file .*nothing"):
        open_data(tmp_path / "nothing")
    with pytest.raises(ValueError, match="other.h5' must have a data set 'images', or .*; it has: weights"):
        open_data(tmp_path / "other.h5")
    for source in (tmp_path / "photos.h5", tmp_path / "pairs.h5"):
        with pytest.raises(ValueError, match=r"channels \(=1\) must be what the data has \(=3\)"):
            open_data(source, channels=1)
    with pytest.raises(ValueError, match=r"channels \(=1\) must be what the data has \(=3\)"):
        open_photos(random_photos(), channels=1)
