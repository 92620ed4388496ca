"""Stacks: every layout of every format is read by regions, written back whole, and keeps what belongs to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from npconv.data.layouts import Layout, usual_layout
from npconv.data.pillow_images import read_picture
from npconv.data.stack_writers import new_stack
from npconv.data.stacks import Stack, open_stack

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")

ALL = slice(0, 10**9)


def pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, shape).astype(dtype)


def everything(path: Path, **options: Any) -> np.ndarray:
    with open_stack(path, **options) as stack:
        n, _, h, w = stack.shape
        whole = stack.read(slice(0, n), slice(0, h), slice(0, w))
        assert whole.shape == stack.shape and whole.dtype == stack.dtype
        part = stack.read(slice(n - 1, n), slice(1, h), slice(2, 5))
        np.testing.assert_array_equal(part, whole[n - 1 :, :, 1:, 2:5])
    return whole


def copied(source: Path, target: Path, **options: Any) -> None:
    with open_stack(source, **options) as stack, new_stack(target, stack) as new:
        n, _, h, w = stack.shape
        for page in range(n):
            for rows in (slice(0, h // 2), slice(h // 2, h)):
                place = slice(page, page + 1), rows, slice(0, w)
                new.write(*place, stack.read(*place))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((20, 30), "HW"), ((3, 20, 30), "CHW"), ((20, 30, 4), "HWC"), ((9, 20, 30), "NHW"), ((3, 3, 3), "CHW"),
        ((7, 2, 20, 30), "NCHW"), ((7, 20, 30, 3), "NHWC"), ((7, 3, 20, 4), "NCHW"),
    ],
)  # fmt: skip
def test_usual_layouts(shape: tuple[int, ...], axes: str) -> None:
    assert usual_layout(shape).axes == axes


def test_layouts_that_are_none() -> None:
    for shape in ((5,), (2, 3, 4, 5, 6), (9, 9, 9, 9)):
        with pytest.raises(ValueError, match="neither an image nor a stack"):
            usual_layout(shape)
    for text in ("NH", "HWHW", "ABHW", ""):
        with pytest.raises(ValueError, match=re.escape(f"axes (={text!r}) must name H and W")):
            Layout.parse(text)
    assert Layout.parse("tyxs").axes == "NHWC"


@pytest.mark.parametrize("axes", ["HW", "HWC", "CHW", "NHW", "WH", "NHWC", "CNHW"])
@pytest.mark.parametrize("ending", ["npy", "h5"])
def test_arrays_in_any_layout_come_back_as_they_were(tmp_path: Path, axes: str, ending: str) -> None:
    full = pixels(5, 3, 12, 17, dtype="uint16")
    index = tuple(slice(None) if axis in axes else 0 for axis in "NCHW")
    there = [axis for axis in "NCHW" if axis in axes]
    array = np.ascontiguousarray(full[index].transpose([there.index(axis) for axis in axes]))
    path = tmp_path / f"in.{ending}"
    if ending == "npy":
        np.save(path, array)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("scan", data=array).attrs["exposure"] = 0.5
    expected = full[tuple(slice(None) if axis in axes else slice(0, 1) for axis in "NCHW")]
    np.testing.assert_array_equal(everything(path, axes=axes), expected)
    copied(path, tmp_path / f"out.{ending}", axes=axes)
    if ending == "npy":
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), array)
        return
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["scan"], array)
        assert file["scan"].attrs["exposure"] == 0.5 and file["scan"].fletcher32


def test_fortran_order_and_byte_order_of_npy_files(tmp_path: Path) -> None:
    array = np.asfortranarray(pixels(3, 11, 13).astype(">f4"))
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(everything(tmp_path / "a.npy")[0], array)
    copied(tmp_path / "a.npy", tmp_path / "b.npy")
    back = np.load(tmp_path / "b.npy")
    assert back.dtype.str == ">f4"
    np.testing.assert_array_equal(back, array)


def test_data_sets_are_chosen(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["first"], file["second"] = pixels(8, 9), pixels(5, 8, 9)
    with pytest.raises(ValueError, match="must have one data set, or one named 'images'; it has: first, second"):
        open_stack(tmp_path / "two.h5")
    assert everything(tmp_path / "two.h5", dataset="second").shape == (5, 1, 8, 9)
    with pytest.raises(ValueError, match="has no data set 'third'; it has: first, second"):
        open_stack(tmp_path / "two.h5", dataset="third")


TIFFS: dict[str, tuple[tuple[int, ...], dict[str, Any], tuple[int, ...]]] = {
    "gray": ((12, 17), {}, (1, 1, 12, 17)),
    "rgb": ((12, 17, 3), {"photometric": "rgb"}, (1, 3, 12, 17)),
    "rgb pages": ((5, 12, 17, 3), {"photometric": "rgb"}, (5, 3, 12, 17)),
    "planar rgb": ((3, 12, 17), {"photometric": "rgb", "planarconfig": "separate"}, (1, 3, 12, 17)),
    "three pages": ((3, 12, 17), {"photometric": "minisblack"}, (3, 1, 12, 17)),
    "deflate": ((5, 12, 17), {"compression": "zlib"}, (5, 1, 12, 17)),
    "deflate rgb": ((5, 12, 17, 3), {"compression": "zlib", "photometric": "rgb"}, (5, 3, 12, 17)),
    "in tiles": ((2, 40, 50), {"tile": (16, 16), "photometric": "minisblack"}, (2, 1, 40, 50)),
    "big-endian BigTIFF": ((5, 12, 17), {"byteorder": ">", "bigtiff": True}, (5, 1, 12, 17)),
    "ImageJ": ((2, 3, 12, 17), {"imagej": True, "metadata": {"axes": "TZYX"}}, (6, 1, 12, 17)),
    "ImageJ channels": ((4, 2, 12, 17), {"imagej": True, "metadata": {"axes": "TCYX"}}, (8, 1, 12, 17)),
    "OME": ((2, 3, 12, 17), {"ome": True, "metadata": {"axes": "TCYX"}}, (6, 1, 12, 17)),
}


@pytest.mark.parametrize("name", TIFFS)
def test_tiff_stacks(tmp_path: Path, name: str) -> None:
    shape, options, expected = TIFFS[name]
    array = pixels(*shape, dtype="uint16")
    ending = "ome.tif" if name == "OME" else "tif"
    path, out = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    tifffile.imwrite(path, array, resolution=(300, 200), resolutionunit=3, **options)
    whole = everything(path)
    assert whole.shape == expected
    samples = array if expected[1] == 1 else array.reshape(expected) if name[:2] == "pl" else np.moveaxis(array, -1, -3)
    np.testing.assert_array_equal(whole, samples.reshape(expected))
    copied(path, out)
    np.testing.assert_array_equal(everything(out), whole)
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(out) as after:
        if "planar" not in name:
            assert after.series[0].shape == before.series[0].shape
            assert after.series[0].axes == before.series[0].axes
        assert (after.is_imagej, after.is_ome) == (before.is_imagej, before.is_ome)
        assert after.pages[0].tags["XResolution"].value == before.pages[0].tags["XResolution"].value


def test_tiff_axes_may_be_said(tmp_path: Path) -> None:
    array = pixels(3, 12, 17)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    np.testing.assert_array_equal(everything(tmp_path / "a.tif", axes="CHW")[0], array)


def test_an_lzw_stack_that_tifffile_cannot_decode_is_read_by_pillow(tmp_path: Path) -> None:
    array = pixels(4, 12, 17)
    first, *rest = [Image.fromarray(page) for page in array]
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest, compression="tiff_lzw")
    np.testing.assert_array_equal(everything(tmp_path / "a.tif")[:, 0], array)


def test_turned_tiff_pages_are_upright(tmp_path: Path) -> None:
    array = pixels(3, 12, 17)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", extratags=[(274, 3, 1, 6, False)])
    np.testing.assert_array_equal(everything(tmp_path / "a.tif")[1, 0], np.rot90(array[1], -1))


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_pictures_keep_profile_resolution_and_exif(tmp_path: Path, ending: str) -> None:
    exif = Image.Exif()
    exif[274], exif[271] = 6, "a camera"  # turned by 90 degrees
    path, out = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    Image.fromarray(pixels(12, 17, 3)).save(path, exif=exif, icc_profile=b"a profile", dpi=(300, 300))
    copied(path, out)
    with Image.open(out) as image:
        assert image.size == (12, 17)
        assert image.info["icc_profile"] == b"a profile"
        assert round(image.info["dpi"][0]) == 300
        assert image.getexif()[271] == "a camera" and 274 not in image.getexif()
    if ending == "png":
        with Image.open(path) as before:
            np.testing.assert_array_equal(read_picture(out)[0], np.rot90(np.asarray(before), -1))


def test_a_picture_that_claims_too_many_pixels_is_refused_and_the_limit_stays(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    Image.new("1", (20_001, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ValueError, match=r"bomb.png'.*20001 x 20000 pixels, more than the 400,000,000"):
        open_stack(tmp_path / "bomb.png")
    Image.new("1", (90_000, 1000)).save(tmp_path / "wide.png")  # pillow warns above 89 million
    assert everything(tmp_path / "wide.png").shape == (1, 1, 1000, 90_000)
    assert limit == Image.MAX_IMAGE_PIXELS


def a_stack(*shape: int, dtype: str = "uint8") -> Stack:
    return Stack(Path("x.npy"), np.zeros(shape, dtype), Layout("NCHW"), np.dtype(dtype), shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "stack", "message"),
    [
        ("a.png", a_stack(2, 1, 8, 8), ".png files hold one image, not 2 pages: write TIFF, NPY or HDF5"),
        ("a.jpg", a_stack(1, 4, 8, 8), "JPEG cannot hold alpha (C=4)"),
        ("a.png", a_stack(1, 3, 8, 8, dtype="uint16"), "cannot write 16-bit PNGs of 3 channels: use TIFF or NPY"),
    ],
)
def test_what_a_format_cannot_hold_is_known_before(tmp_path: Path, name: str, stack: Stack, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)), new_stack(tmp_path / name, stack):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["png", "tif", "npy", "h5"])
def test_an_interruption_leaves_the_old_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), new_stack(path, a_stack(1, 3, 8, 8)) as target:
        target.write(slice(0, 1), slice(0, 4), slice(0, 8), np.ones((1, 3, 4, 8), np.uint8))
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("ending", ["png", "tif", "npy", "h5"])
def test_damaged_files_are_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"damaged.{ending}"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=f"damaged.{ending}"):
        open_stack(path)
