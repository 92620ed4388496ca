"""HDF5 images that shrink much: what must be in memory, or unpacked, at once is bounded, and not what the whole is."""

from __future__ import annotations

import zlib
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import npconv as nc
from npconv.data import FolderPhotos, HDF5Pairs, HDF5Photos, hdf5, hdf5_chunks, open_data
from npconv.data.hdf5_chunks import CheckedChunks
from npconv.data.sizes import FREE_BYTES, FREE_IMAGE
from npconv.data.stacks import open_stack

pytestmark = pytest.mark.cpu


def zeros(
    path: Path, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...], names: tuple[str, ...] = ("images",)
) -> Path:
    """Data sets all of whose chunks are the same deflated zeros, written without packing each anew."""
    packed = zlib.compress(bytes(int(np.prod(chunks)) * np.dtype(dtype).itemsize), 9)
    with h5py.File(path, "w") as file:
        for name in names:
            made = file.create_dataset(name, shape, dtype, chunks=chunks, compression="gzip")
            for place in product(*(range(0, n, side) for n, side in zip(shape, chunks, strict=True))):
                made.id.write_direct_chunk(place, packed)
    return path


def test_maps_of_labels_are_read_as_those_of_tiff_are(tmp_path: Path) -> None:
    path = zeros(tmp_path / "a.h5", (10_000, 10_000), "u2", (500, 500))
    with h5py.File(path, "r+") as file:
        file["images"][8100:8200, 9000:9999] = 517
    assert FREE_IMAGE > 200_000_000 > FREE_BYTES + 64 * path.stat().st_size
    with open_stack(path) as stack:
        values = stack.read(slice(0, 1), slice(8000, 8500), slice(9990, 10_000))[0, 0]
    assert values[100:200, :9].tolist() == np.full((100, 9), 517).tolist() and values.sum() == 517 * 900


def test_chunks_of_which_none_was_written_are_read(tmp_path: Path) -> None:
    """h5py asks memory for as many bytes as there are when it is asked for one of them."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (1, 1, 800, 800), "u1", chunks=(1, 1, 1, 4), compression="gzip", fillvalue=7)
    with open_stack(path) as stack:
        assert (stack.read(slice(0, 1), slice(700, 764), slice(0, 64)) == 7).all()


def test_a_map_in_a_chunk_of_its_own_is_read(tmp_path: Path) -> None:
    path = zeros(tmp_path / "a.h5", (1, 1, 8000, 8000), "u2", (1, 1, 8000, 8000))
    assert HDF5Photos(path).region(0, 7000, 7000, 9, 9).shape == (1, 9, 9)
    with pytest.raises(
        nc.FileFormatError, match=r"a\.h5\[0\] would take 256,000,000 bytes .* \(TIFF or NPY\) it is read"
    ):
        HDF5Photos(path)[0]  # as float32
    zeros(path, (2, 1, 8000, 8000), "u2", (2, 1, 8000, 8000))
    for read in (HDF5Photos, open_stack):
        with pytest.raises(nc.FileFormatError, match=r"a\.h5.*one of its chunks would take 256,000,000 bytes"):
            read(path)


@pytest.mark.parametrize("frames", [25_000, 20])
def test_a_stack_larger_than_memory_is_judged_by_its_frames(frames: int, tmp_path: Path) -> None:
    """An acquisition of 50 GB that was prepared, of which a few dark frames were written."""
    path, rng = tmp_path / "a.h5", np.random.default_rng(0)
    photons = ((rng.random((2, 1000, 1000)) < 0.01) * rng.integers(1, 999, (2, 1000, 1000))).astype("u2")
    with h5py.File(path, "w") as file:
        made = file.create_dataset(
            "images", (frames, 1, 1000, 1000), "u2", chunks=(1, 1, 1000, 1000), compression="gzip"
        )
        made[3, 0], made[frames - 1, 0] = photons
    assert frames < 25_000 or frames * 2_000_000 > FREE_BYTES + 1100 * path.stat().st_size
    photos = open_data(path)
    assert len(photos) == frames and isinstance(photos, HDF5Photos)
    np.testing.assert_array_equal(
        photos.region(frames - 1, 400, 3, 90, 80) * np.float32(257), photons[1, None, 400:490, 3:83]
    )
    assert not photos[7].any()
    with open_stack(path) as stack:
        assert stack.shape == (frames, 1, 1000, 1000)
        np.testing.assert_array_equal(
            stack.read(slice(3, 5), slice(9), slice(None))[:, 0], [photons[0, :9], 0 * photons[0, :9]]
        )


def test_such_a_stack_has_no_axis_of_channels_perhaps(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset("images", (25_000, 1000, 1000), "u2", chunks=(1, 1000, 1000), compression="gzip")
        made[3] = 7
    with open_stack(path) as stack:
        assert stack.shape == (25_000, 1, 1000, 1000)
        assert (stack.read(slice(3, 4), slice(0, 50), slice(None)) == 7).all()


def test_such_a_stack_is_denoised_page_by_page(tmp_path: Path) -> None:
    network = nc.Sequential(nc.Conv2d(1, 1, 1, bias=False))
    network[0].weight.fill(1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset(
            "images", (400, 600, 600), "u2", chunks=(1, 600, 600), compression="gzip", fillvalue=3
        )
        made[390, :9] = 40_000
    assert FREE_BYTES + 1100 * (tmp_path / "a.h5").stat().st_size < 400 * 720_000
    nc.denoise_file(nc.Model(network), tmp_path / "a.h5", tmp_path / "b.h5")
    with h5py.File(tmp_path / "b.h5") as file:
        assert file["images"].shape == (400, 600, 600) and np.unique(file["images"][:2]).tolist() == [3]
        assert np.unique(file["images"][390, :9]).tolist() == [40_000] and np.unique(
            file["images"][390, 9:]
        ).tolist() == [3]


def test_very_many_images_of_few_bytes_are_refused(tmp_path: Path) -> None:
    path = zeros(tmp_path / "a.h5", (4_000_000, 1, 1, 1), "u1", (500_000, 1, 1, 1))
    with pytest.raises(nc.FileFormatError, match=r"a\.h5.*would be 4,000,000 images, of [\d,]+ bytes in the file"):
        HDF5Photos(path)
    assert len(HDF5Photos(zeros(path, (1_000_000, 1, 1, 1), "u1", (500_000, 1, 1, 1)))) == 1_000_000


def test_pairs_are_judged_by_what_they_are_as_floats(tmp_path: Path) -> None:
    path = zeros(tmp_path / "a.h5", (1, 1, 6000, 6000), "u1", (1, 1, 1000, 1000), ("input", "target"))
    with pytest.raises(nc.FileFormatError, match=r"a\.h5: one of its images would take 144,000,000 bytes of memory"):
        HDF5Pairs(path)
    zeros(path, (1, 1, 5000, 5000), "u1", (1, 1, 1000, 1000), ("input", "target"))
    assert HDF5Pairs(path).take(1, np.random.default_rng(0))[0].shape == (1, 1, 5000, 5000)


def test_images_in_chunks_of_very_many_images_are_no_endless_work(tmp_path: Path) -> None:
    path = zeros(tmp_path / "a.h5", (250, 1, 2000, 2000), "u2", (250, 1, 32, 32))
    told = r"a\.h5.* is in 3,969 chunks that unpack to 2,032,128,000 bytes, .*; written anew in chunks of one image"
    for read in (lambda: HDF5Photos(path)[0], lambda: open_stack(path).read(slice(1), slice(None), slice(None))):
        with pytest.raises(nc.FileFormatError, match=told):
            read()
    with open_stack(path) as stack:
        assert stack.read(slice(9, 10), slice(60, 70), slice(9)).shape == (1, 1, 10, 9)


@pytest.mark.parametrize("at_once", [1, 3, 1 << 12])
@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"compression": "lzf", "shuffle": True}])
def test_many_chunks_are_read_some_at_a_time(
    at_once: int, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5_chunks, "CHUNKS_AT_ONCE", at_once)
    monkeypatch.setattr(hdf5_chunks, "_REMEMBERED", 5)
    images = np.random.default_rng(0).integers(0, 9999, (5, 2, 23, 31)).astype(">u2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset("images", data=images, chunks=(2, 1, 7, 4), **options)
        file.flush()  # the header is read from the file
        checked = CheckedChunks(made)
        for index in (
            2, -1, slice(None), (1, 1), (slice(1, 4), 1, slice(3, 19)), (0, slice(None), 22, slice(5, 31)),
            (slice(3, 3), 0), (-5, -1, slice(-9, -2), slice(2, 99)),
        ):  # fmt: skip
            found = checked[index]
            np.testing.assert_array_equal(found, images[index])
            assert found.dtype == images.dtype and found.shape == images[index].shape
        assert len(checked._good) <= 5
        with pytest.raises(ValueError, match="must be of step 1"):
            checked[::2]


def test_of_large_float_images_fewer_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zeros(tmp_path / "a.h5", (20, 1, 64, 64), "f4", (1, 1, 64, 64), ("input", "target", "images"))
    read: list[Any] = []
    inside = CheckedChunks.__getitem__

    def note(self: CheckedChunks, index: Any) -> np.ndarray:
        read.append(index)
        return inside(self, index)

    monkeypatch.setattr(CheckedChunks, "__getitem__", note)
    for looked_at, pairs, photos in ((1 << 28, 32, 16), (4 * 16_384, 4, 4), (1, 2, 1)):
        monkeypatch.setattr(hdf5, "_LOOKED_AT", looked_at)
        for reader, count in ((HDF5Pairs, pairs), (lambda path: HDF5Photos(path, cache_bytes=0), photos)):
            read.clear()
            reader(path)
            assert len(read) == count


# ---- filters ----
def filtered(path: Path, *filters: tuple[int, tuple[int, ...]]) -> h5py.Dataset:
    """Three images of 16 x 16, in a chunk each, packed by filters in a row."""
    file = h5py.File(path, "w")
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, 1, 16, 16))
    for number, values in filters:
        properties.set_filter(number, 1, values)  # left out where it makes nothing smaller
    space = h5py.h5s.create_simple((3, 1, 16, 16))
    h5py.h5d.create(file.id, b"images", h5py.h5t.STD_U8LE, space, properties)
    return file["images"]


GZIP, SHUFFLE, CHECKSUM, LZF = (1, (9,)), (2, (1,)), (3, ()), (32_000, (4, 261, 256))


@pytest.mark.parametrize("filters", [(GZIP, GZIP), (GZIP, LZF), (SHUFFLE, GZIP, CHECKSUM, GZIP), (GZIP, SHUFFLE)])
def test_what_is_packed_once_more_after_gzip_is_refused(filters: Any, tmp_path: Path) -> None:
    made = filtered(tmp_path / "a.h5", *filters)
    made[...] = 7
    made.file.close()
    for read in (HDF5Photos, open_stack):
        with pytest.raises(
            nc.FileFormatError, match=r"a\.h5.*packed with gzip and then once more \(filters \[.*gzip alone"
        ):
            read(tmp_path / "a.h5")


def test_gzip_after_another_filter_is_bounded_too(tmp_path: Path) -> None:
    made = filtered(tmp_path / "a.h5", LZF, GZIP)
    made[...] = np.arange(768).reshape(made.shape) % 256
    made.id.write_direct_chunk((1, 0, 0, 0), zlib.compress(bytes(1 << 26), 9))
    made.file.close()
    photos = HDF5Photos(tmp_path / "a.h5")
    assert photos[2].ravel().tolist() == list(range(256))
    with pytest.raises(nc.FileFormatError, match=r"a\.h5\[1\]: its chunk at \(1, 0, 0, 0\) does not unpack to its"):
        photos[1]


def test_scale_offset_is_read_where_it_says_the_chunks_size(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(90, 99, (3, 1, 16, 16), dtype="u1")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=images, chunks=(1, 1, 16, 16), scaleoffset=0, compression="gzip")
    np.testing.assert_array_equal(HDF5Photos(path)[1], images[1])
    data = bytearray(path.read_bytes())
    at = data.index((256).to_bytes(4, "little"), data.index(b"scaleoffset"))
    data[at : at + 4] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(nc.FileFormatError, match=r"a\.h5.*its filter 6 \(scale-offset\) is for chunks of another size"):
        HDF5Photos(path)


# ---- folders ----
def test_pictures_that_shrink_much_are_judged_by_what_training_makes_of_them(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    rows = np.full((6000, 6000), 514, "u2")
    tifffile.imwrite(tmp_path / "a.tif", rows, compression="zlib", rowsperstrip=100, metadata=None)
    photo = FolderPhotos(tmp_path, 1)[0]
    assert photo.dtype == np.float32 and set(photo[0, ::999].ravel()) == {2}
    with pytest.raises(nc.FileFormatError, match=r"a\.tif', for training, would take 432,000,000 bytes of memory"):
        FolderPhotos(tmp_path, 3)[0]
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((2, 8400, 8400), "u2"), compression="zlib", metadata=None)
    with pytest.raises(nc.FileFormatError, match=r"a\.tif', for training, would take 282,240,000 bytes of memory"):
        FolderPhotos(tmp_path, 1)[1]
