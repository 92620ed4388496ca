"""TIFF files of several pages: one rule for all that reads them, and what is cut off, mixed or unusual is named."""

from __future__ import annotations

import re
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npconv.data import FolderPhotos, Gaussian, PatchPairs, read_image
from npconv.data.file_array import FileArray
from npconv.data.headers import header, page_count
from npconv.data.layouts import Layout
from npconv.data.mapped import mapped_image
from npconv.data.stack_writers import new_stack
from npconv.data.stacks import Stack, open_stack
from npconv.data.tiff_file import contents, directories
from npconv.data.tiff_segments import Segments

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")


def pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def by_pillow(path: Path, pages: list[np.ndarray], compression: str | None = "tiff_adobe_deflate") -> None:
    first, *rest = [Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=rest, compression=compression)


def everything(path: Path, **options: Any) -> np.ndarray:
    with open_stack(path, **options) as stack:
        return stack.read(*(slice(0, stack.shape[axis]) for axis in (0, 2, 3)))


def silent(capfd: Any, caplog: Any) -> None:
    """Nothing went to the terminal, by logging either."""
    caught = capfd.readouterr()
    assert (caught.out, caught.err, caplog.text) == ("", "", "")


@pytest.mark.parametrize("share", [0.15, 0.35, 0.5, 0.65, 0.75, 0.9])
@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", None])
def test_a_stack_that_was_cut_off_is_an_error(
    tmp_path: Path, share: float, compression: str | None, capfd: Any, caplog: Any
) -> None:
    path = tmp_path / "cut.tif"
    by_pillow(path, list(pixels(10, 40, 50)), compression)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    for call in (open_stack, read_image, header, page_count):
        with pytest.raises(ValueError, match=r"cut\.tif.*cut off"):
            call(path)
    with pytest.raises(ValueError, match=r"cut\.tif.*cut off"):
        FolderPhotos(tmp_path)[0]
    silent(capfd, caplog)


def test_pixels_that_were_cut_off_are_an_error(tmp_path: Path, capfd: Any, caplog: Any) -> None:
    """tifffile writes the directories first: the chain is whole, and pixels are missing."""
    for name, options in (("a", {}), ("b", {"compression": "zlib"}), ("c", {"tile": (16, 16)})):
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, pixels(4, 64, 64), photometric="minisblack", metadata=None, **options)
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(ValueError, match=rf"{name}\.tif.*(cut off|ends at byte)"):
            everything(path)
    silent(capfd, caplog)


def test_directories_that_go_in_circles(tmp_path: Path) -> None:
    path = tmp_path / "circle.tif"
    tifffile.imwrite(path, pixels(2, 8, 9), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as file:
        first, second = (page.offset for page in file.pages)
    data = bytearray(path.read_bytes())
    count = struct.unpack_from("<H", data, second)[0]
    struct.pack_into("<I", data, second + 2 + 12 * count, first)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"circle\.tif.*breaks off after 2"):
        open_stack(path)


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"byteorder": ">", "bigtiff": True}])
def test_directories_are_counted_as_tifffile_does(tmp_path: Path, options: dict[str, Any]) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif", **options) as file:
        for _ in range(3):
            file.write(pixels(8, 9))
        file.write(pixels(4, 5), subfiletype=1)
    assert directories(tmp_path / "a.tif")[0] == [False, False, False, True]
    assert page_count(tmp_path / "a.tif") == 3


def test_pages_of_different_sizes_are_named(tmp_path: Path) -> None:
    by_pillow(tmp_path / "a.tif", [pixels(40, 50), pixels(20, 25), pixels(40, 50)])
    message = r"a\.tif.*must be alike.*50 x 40 pixels, 1 channel, uint8 \(page 1 and others\); 25 x 20 .*\(page 2\)"
    for call in (open_stack, read_image, header):
        with pytest.raises(ValueError, match=message):
            call(tmp_path / "a.tif")
    by_pillow(tmp_path / "a.tif", [pixels(40, 50), pixels(40, 50, 3)])
    with pytest.raises(ValueError, match="3 channels, uint8"):
        open_stack(tmp_path / "a.tif")


def test_pages_that_are_alike_but_stored_differently_are_one_stack(tmp_path: Path) -> None:
    array = pixels(3, 40, 50)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page, compression in zip(array, (None, "zlib", None), strict=True):
            file.write(page, compression=compression, metadata=None)
    np.testing.assert_array_equal(everything(tmp_path / "a.tif")[:, 0], array)


def test_smaller_copies_are_left_out(tmp_path: Path) -> None:
    array = pixels(64, 96, 3)
    with tifffile.TiffWriter(tmp_path / "flag.tif") as file:
        file.write(array, photometric="rgb", metadata=None)
        file.write(array[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
        file.write(array, photometric="rgb", metadata=None)
        file.write(array[:, :, 0] > 99, photometric="mask", subfiletype=4, metadata=None)
    with tifffile.TiffWriter(tmp_path / "sub.tif") as file:
        file.write(array, photometric="rgb", subifds=1, metadata=None)
        file.write(array[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    with pytest.warns(UserWarning, match=r"mask\.tif: 1 of its images is left out: smaller copies or masks"):
        np.testing.assert_array_equal(read_image(tmp_path / "mask.tif"), array.transpose(2, 0, 1))
    for name in ("flag.tif", "sub.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), array.transpose(2, 0, 1))


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("shape", [(9, 20, 30), (3, 20, 30), (20, 30, 4), (5, 20, 30, 3)])
def test_pages_are_photographs_in_training(tmp_path: Path, shape: tuple[int, ...], compression: str | None) -> None:
    array = pixels(*shape)
    kind = "rgb" if len(shape) == 4 else "minisblack"
    tifffile.imwrite(tmp_path / "stack.tif", array, photometric=kind, compression=compression)
    Image.fromarray(pixels(20, 30, 3)).save(tmp_path / "z.png")
    stack = everything(tmp_path / "stack.tif")
    assert len(stack) == page_count(tmp_path / "stack.tif") == shape[0]
    assert header(tmp_path / "stack.tif")[0] == tuple(sorted(stack.shape[2:]))
    for cache in (2**28, 100):
        photos = FolderPhotos(tmp_path, 1 if kind == "minisblack" else 3, cache_bytes=cache)
        assert photos.names == [*(f"stack.tif[{i}]" for i in range(shape[0])), "z.png"]
        for i, page in enumerate(stack):
            np.testing.assert_array_equal(photos[i], page)
            assert photos.size(i) == page.shape[1:]
            np.testing.assert_array_equal(photos.region(i, 1, 2, 5, 2), page[:, 1:6, 2:4])
    mapped = mapped_image(tmp_path / "stack.tif", 2)
    assert (mapped is None) == (compression is not None)
    with pytest.raises(ValueError, match=rf"has {shape[0]} pages, not one: npconv denoise takes stacks"):
        read_image(tmp_path / "stack.tif")


def test_a_large_imagej_stack_with_one_directory(tmp_path: Path) -> None:
    """ImageJ writes one directory for all pages of a file above 4 GB."""
    array = pixels(6, 12, 17, dtype="uint16")
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, metadata={"axes": "ZYX"})
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        start = file.pages[0].offset
    count = struct.unpack_from(">H" if data[:2] == b"MM" else "<H", data, start)[0]
    data[start + 2 + 12 * count :][:4] = bytes(4)
    struct.pack_into("<I", data, start + 2 + 12 * count, 0)
    (tmp_path / "a.tif").write_bytes(data)
    assert directories(tmp_path / "a.tif")[0] == [False]
    photos = FolderPhotos(tmp_path, 1)
    assert len(photos) == 6
    np.testing.assert_allclose(photos[4][0], array[4] / 257, rtol=1e-6)


def test_patches_come_from_all_pages(tmp_path: Path) -> None:
    array = np.arange(0, 240, 30, dtype=np.uint8)[:, None, None] * np.ones((1, 32, 40), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", array, photometric="minisblack")
    photos = FolderPhotos(tmp_path, 1)
    _, clean = PatchPairs(photos, Gaussian(1), 16, 16, "clean").take(16, np.random.default_rng(0))
    assert set(np.unique(clean)) == set(np.unique(array))


def test_16_bit_gray_in_lzw_is_read_exactly(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 65536, (3, 40, 50)).astype(np.uint16)
    by_pillow(tmp_path / "a.tif", list(array), "tiff_lzw")
    np.testing.assert_array_equal(everything(tmp_path / "a.tif")[:, 0], array)
    by_pillow(tmp_path / "one.tif", [array[0]], "tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "one.tif")[0], array[0])


@pytest.mark.parametrize("kind", ["turned", "white", "palette"])
def test_axes_cannot_be_said_of_values_that_are_not_the_image(tmp_path: Path, kind: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "turned": {"photometric": "minisblack", "extratags": [(274, 3, 1, 6, False)]},
        "white": {"photometric": "miniswhite"},
        "palette": {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)},
    }
    tifffile.imwrite(tmp_path / "a.tif", pixels(3, 12, 17), **options[kind])
    with pytest.raises(ValueError, match=rf"a\.tif': axes \(='CHW'\) cannot be said of it, since .*{kind}"):
        open_stack(tmp_path / "a.tif", axes="CHW")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("options", [{"tile": (32, 16)}, {"rowsperstrip": 7}, {"tile": (64, 64), "byteorder": ">"}])
@pytest.mark.parametrize("shape", [(2, 101, 83), (2, 101, 83, 3)])
def test_regions_decode_only_the_strips_and_tiles_that_they_touch(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any], compression: str | None, monkeypatch: Any
) -> None:
    array = pixels(*shape, dtype="uint16")
    kind = {"photometric": "rgb"} if len(shape) == 4 else {"photometric": "minisblack"}
    tifffile.imwrite(tmp_path / "a.tif", array, compression=compression, predictor=bool(compression), **kind, **options)
    whole = array.transpose(0, 3, 1, 2) if len(shape) == 4 else array[:, None]
    decoded: list[int] = []
    decode = Segments._decode
    monkeypatch.setattr(Segments, "_decode", lambda self, index: (decoded.append(index), decode(self, index))[1])
    with open_stack(tmp_path / "a.tif") as stack:
        for page, rows, columns in [(0, (0, 5), (0, 5)), (1, (20, 60), (10, 83)), (1, (100, 101), (82, 83))]:
            part = stack.read(slice(page, page + 1), slice(*rows), slice(*columns))
            np.testing.assert_array_equal(part[0], whole[page, :, slice(*rows), slice(*columns)])
            if page == 0 and not isinstance(stack.array, FileArray):
                assert decoded == [0]
        np.testing.assert_array_equal(stack.read(slice(0, 2), slice(0, 101), slice(0, 83)), whole)
    if "tile" in options or compression:
        assert decoded


def test_tiles_that_were_never_written_are_empty(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels(64, 64), tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        counts, offsets = (file.pages[0].tags[name] for name in ("TileByteCounts", "TileOffsets"))
        places = counts.valueoffset, offsets.valueoffset
        sizes = "<" + {3: "H", 4: "I"}[int(counts.dtype)]
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    for place, size in zip(places, (sizes, "<I"), strict=True):
        struct.pack_into(size, whole, place, 0)
    (tmp_path / "sparse.tif").write_bytes(whole)
    expected = pixels(64, 64)
    expected[:32, :32] = 0
    np.testing.assert_array_equal(everything(tmp_path / "sparse.tif")[0, 0], expected)


def test_a_decoded_page_is_in_memory_once(tmp_path: Path) -> None:
    """Of pages that are decoded whole, as turned ones are."""
    turned = {"extratags": [(274, 3, 1, 3, False)]}
    tifffile.imwrite(tmp_path / "a.tif", pixels(2, 300, 400, 3), photometric="rgb", compression="zlib", **turned)
    with open_stack(tmp_path / "a.tif") as stack:
        stack.read(slice(0, 1), slice(0, 1), slice(0, 1))
        tracemalloc.start()
        stack.read(slice(1, 2), slice(0, 1), slice(0, 1))
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert held < 1.3 * 300 * 400 * 3


def test_imagej_output_that_is_too_large_for_it_is_plain_bigtiff(tmp_path: Path, monkeypatch: Any) -> None:
    array = pixels(6, 12, 17)
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, metadata={"axes": "ZYX"})
    monkeypatch.setattr("npconv.data.stack_writers._CLASSIC_TIFF", 1000)
    with open_stack(tmp_path / "a.tif") as stack, new_stack(tmp_path / "b.tif", stack) as target:
        place = slice(0, 6), slice(0, 12), slice(0, 17)
        target.write(*place, stack.read(*place))
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.is_bigtiff and not file.is_imagej and file.series[0].axes == "ZYX"
        np.testing.assert_array_equal(file.asarray(), array)


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    for shape in ((2, 8, 9), (3, 7, 5)):
        tifffile.imwrite(tmp_path / "a.tif", pixels(*shape), photometric="minisblack")
        assert contents(tmp_path / "a.tif").shape == (shape[0], 1, *shape[1:])


@pytest.mark.parametrize("ending", ["tif", "npy"])
def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path: Path, ending: str, monkeypatch: Any) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    stack = Stack(Path("x.npy"), np.zeros((2, 1, 8, 8), np.uint8), Layout("NCHW"), np.dtype(np.uint8), (2, 1, 8, 8))
    message = re.escape(f"the disk of {str(tmp_path)!r} has too little room for")
    with pytest.raises(OSError, match=message), new_stack(tmp_path / f"a.{ending}", stack):
        raise AssertionError("nothing is written to a full disk")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_each_page_is_read_by_its_own_tags(tmp_path: Path, compression: str | None) -> None:
    array = pixels(3, 20, 30)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page, kind in zip(array, ("minisblack", "miniswhite", "minisblack"), strict=True):
            file.write(page, photometric=kind, compression=compression, metadata=None)
    expected = np.stack([array[0], 255 - array[1], array[2]])
    np.testing.assert_array_equal(everything(tmp_path / "a.tif")[:, 0], expected)
    np.testing.assert_array_equal(np.stack([page[0] for page in FolderPhotos(tmp_path, 1)]), expected)
