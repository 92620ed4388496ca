"""Image files: what is written comes back, other programs' files are understood, and errors name the file."""

from __future__ import annotations

import re
import struct
import sys
import zlib

import numpy as np
import pytest

from npconv.data import read_image, write_image

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")


def random_image(channels: int, dtype: type = np.uint8, height: int = 6, width: int = 9) -> np.ndarray:
    rng = np.random.default_rng(channels)
    if np.dtype(dtype).kind == "f":
        return rng.normal(100, 50, (channels, height, width)).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, (channels, height, width), dtype=dtype, endpoint=True)


LOSSLESS = [
    *[("png", channels, np.uint8) for channels in (1, 2, 3, 4)],
    ("png", 1, np.uint16),
    *[
        (ending, channels, dtype)
        for ending in ("tif", "tiff", "npy")
        for channels in (1, 2, 3, 4)
        for dtype in (np.uint8, np.uint16, np.int16, np.float32, np.float64)
    ],
]


@pytest.mark.parametrize(("ending", "channels", "dtype"), LOSSLESS)
@pytest.mark.parametrize("size", [(6, 9), (3, 3), (1, 1)])
def test_written_images_come_back(tmp_path, ending, channels, dtype, size):
    image = random_image(channels, dtype, *size)
    path = tmp_path / f"image.{ending}"
    write_image(path, image)
    back = read_image(str(path))
    assert back.dtype == image.dtype
    np.testing.assert_array_equal(back, image)


@pytest.mark.parametrize("ending", ["PNG", "TIF", "NPY"])
def test_endings_in_capitals_and_gray_without_a_channel_axis(tmp_path, ending):
    image = random_image(1)
    write_image(tmp_path / f"image.{ending}", image[0])
    assert [path.name for path in tmp_path.iterdir()] == [f"image.{ending}"]
    np.testing.assert_array_equal(read_image(tmp_path / f"image.{ending}"), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_comes_back_nearly(tmp_path, channels):
    smooth = np.linspace(0, 255, 64 * 64).reshape(1, 64, 64).repeat(channels, 0).astype(np.uint8)
    write_image(tmp_path / "image.jpg", smooth)
    back = read_image(tmp_path / "image.jpg")
    assert back.shape == smooth.shape
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - smooth).mean() < 2
    with Image.open(tmp_path / "image.jpg") as file:
        assert file.quantization[0][0] == 2  # libjpeg's first step is 16 at quality 50, 2 at 95


@pytest.mark.parametrize(
    ("ending", "image", "error", "message"),
    [
        (
            "png",
            random_image(3, np.uint16),
            ValueError,
            "cannot write 16-bit PNGs of 3 channels: use TIFF or NPY",
        ),
        ("png", random_image(1, np.float32), ValueError, "PNG holds uint8 and, in gray, uint16, not float32"),
        ("jpg", random_image(4), ValueError, "JPEG cannot hold alpha (C=4)"),
        ("jpeg", random_image(2), ValueError, "JPEG cannot hold alpha (C=2)"),
        ("jpg", random_image(1, np.uint16), ValueError, "JPEG holds uint8, not uint16"),
        ("png", random_image(5), ValueError, "image (shape (5, 6, 9)) must be (C, H, W)"),
        ("npy", np.zeros((1, 0, 3)), ValueError, "image (shape (1, 0, 3)) must be"),
        ("png", np.zeros((1, 3, 3), bool), TypeError, "image (dtype bool) must be of integers or floats"),
        ("gif", random_image(3), ValueError, "image.gif' must be one of .png, .jpg"),
        ("", random_image(3), ValueError, "must be one of .png, .jpg"),
    ],
)
def test_what_cannot_be_written_is_an_error_and_leaves_no_file(tmp_path, ending, image, error, message):
    path = tmp_path / f"image.{ending}" if ending else tmp_path / "image"
    with pytest.raises(error, match=re.escape(message)):
        write_image(path, image)
    assert list(tmp_path.iterdir()) == []


def test_palette_and_one_bit_images(tmp_path):
    colours = random_image(3)
    picture = Image.fromarray(colours.transpose(1, 2, 0)).convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    picture.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), colours)

    bits = random_image(1)[0] > 127
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png"), np.where(bits, 255, 0)[np.newaxis])
    np.save(tmp_path / "bits.npy", bits)
    np.testing.assert_array_equal(read_image(tmp_path / "bits.npy"), np.where(bits, 255, 0)[np.newaxis])

    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "clear.png", transparency=0)
    expected = [[[10, 40]], [[20, 50]], [[30, 60]], [[0, 255]]]
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png"), expected)


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    red = read_image(tmp_path / "red.jpg")
    assert red.shape == (3, 16, 16)
    assert red[0].min() > 200
    assert red[1:].max() < 60


# EXIF's orientations of an upright image: which corner of the scene the stored first row and column lie at.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a),  # to be turned clockwise for viewing
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_orientation_is_applied(tmp_path, ending, orientation):
    upright = random_image(1)[0]
    stored = np.ascontiguousarray(STORED[orientation](upright))
    path = tmp_path / f"turned.{ending}"
    if ending == "png":
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(stored).save(path, exif=exif)
    else:
        tifffile.imwrite(path, stored, extratags=[(274, 3, 1, orientation, True)])
    np.testing.assert_array_equal(read_image(path)[0], upright)


@pytest.mark.parametrize("ending", ["npy", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_arrays_of_other_layouts_are_understood(tmp_path, ending, channels):
    image = random_image(channels, np.uint16)
    for name, array in {"last": image.transpose(1, 2, 0), "first": image}.items():
        path = tmp_path / f"{name}.{ending}"
        if ending == "npy":
            np.save(path, array)
        else:
            samples = {"photometric": "rgb", "planarconfig": "contig" if name == "last" else "separate"}
            pixels = array if channels > 1 else image[0]
            tifffile.imwrite(path, np.ascontiguousarray(pixels), **(samples if channels > 1 else {}))
        np.testing.assert_array_equal(read_image(path), image)


def test_tiff_shades_palettes_bits_and_compression(tmp_path):
    gray = random_image(1)
    tifffile.imwrite(tmp_path / "white.tif", gray[0], photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "white.tif"), 255 - gray)

    palette = np.random.default_rng(0).integers(0, 256, (3, 256), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "palette.tif", gray[0], photometric="palette", colormap=palette.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "palette.tif"), palette[:, gray[0]])

    bits = gray[0] > 127
    Image.fromarray(bits).save(tmp_path / "bits.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.tif"), np.where(bits, 255, 0)[np.newaxis])

    colours = random_image(3)
    Image.fromarray(colours.transpose(1, 2, 0)).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(tmp_path / "lzw.tif"), colours)

    tifffile.imwrite(tmp_path / "big.tif", random_image(3, np.uint16).transpose(1, 2, 0), byteorder=">")
    np.testing.assert_array_equal(read_image(tmp_path / "big.tif"), random_image(3, np.uint16))


def test_a_stack_is_not_an_image(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((20, 8, 9), np.uint8), photometric="minisblack")
    np.save(tmp_path / "stack.npy", np.zeros((20, 8, 9), np.uint8))
    with pytest.raises(ValueError, match=r"cannot read .*stack.npy.*\(20, 8, 9\)"):
        read_image(tmp_path / "stack.npy")
    with pytest.raises(ValueError, match=r"cannot read .*stack.tif.* has 20 pages, not one: .*FolderPhotos"):
        read_image(tmp_path / "stack.tif")


def deep_colour_png(path) -> None:
    """A 1 x 1 RGB PNG of 16 bits, which pillow itself cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">HHH", 1000, 2000, 3000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no image file .*none.png"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="the ending of .*x.bmp' must be one of .png, .jpg, .jpeg, .tif"):
        read_image(tmp_path / "x.bmp")
    for ending in ("png", "jpg", "tif", "npy"):
        path = tmp_path / f"damaged.{ending}"
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=f"cannot read .*damaged.{ending}"):
            read_image(path)
    write_image(tmp_path / "whole.png", random_image(3, np.uint8, 64, 64))
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    with pytest.raises(ValueError, match="cannot read .*cut.png"):
        read_image(tmp_path / "cut.png")
    deep_colour_png(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="cannot read .*deep.png.*16-bit PNGs.*convert it to TIFF or NPY"):
        read_image(tmp_path / "deep.png")


def test_npy_files_hold_data_only(tmp_path):
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot read .*object.npy"):
        read_image(tmp_path / "object.npy")


@pytest.mark.parametrize(
    ("ending", "package", "message"),
    [("png", "PIL", "PNG and JPEG files need pillow"), ("tif", "tifffile", "TIFF files need tifffile")],
)
def test_a_missing_package_is_named_with_how_to_install_it(tmp_path, monkeypatch, ending, package, message):
    path = tmp_path / f"image.{ending}"
    write_image(path, np.zeros((1, 4, 4), np.uint8))
    monkeypatch.setitem(sys.modules, package, None)
    for call in (lambda: read_image(path), lambda: write_image(path, np.zeros((1, 4, 4), np.uint8))):
        with pytest.raises(ImportError, match=re.escape(f'{message}: pip install "npconv[app]"')):
            call()
