"""Files that are unusual but right, as real programs write them: what they say is read, and nothing else."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

import npconv as nc
from npconv.data import FolderPhotos, HDF5Photos, read_image
from npconv.data.stacks import open_stack

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")
pytestmark = pytest.mark.cpu

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (33, 29), dtype="u1")
FRAMES = RNG.integers(0, 60_000, (4, 1, 33, 29), dtype="u2")


# ---- PNG ----
def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path: Path, values: np.ndarray, depth: int, kind: int = 0, extra: bytes = b"") -> Path:
    """Values of `depth` bits, row by row, in several IDAT chunks, some of them empty."""
    bits = (values[:, :, np.newaxis] >> np.arange(depth - 1, -1, -1) & 1).astype("u1")
    packed = zlib.compress(b"".join(b"\0" + np.packbits(row).tobytes() for row in bits))
    size = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, kind, 0, 0, 0)
    parts = b"".join(chunk(b"IDAT", part) for part in (b"", packed[:9], b"", packed[9:], b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + extra + parts + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_gray_is_the_one_that_the_file_names(depth: int, tmp_path: Path) -> None:
    values, step = GRAY >> (8 - depth), 255 // (2**depth - 1)
    path = png(tmp_path / "a.png", values, depth)
    np.testing.assert_array_equal(read_image(path), [values * step])
    for clear in (0, 2**depth - 1, 2 ** (depth - 1)):
        png(
            path,
            values,
            depth,
            extra=chunk(b"gAMA", struct.pack(">I", 45_455)) + chunk(b"tRNS", struct.pack(">H", clear)),
        )
        np.testing.assert_array_equal(read_image(path), [values * step, (values != clear) * 255])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_of_few_bits(depth: int, tmp_path: Path) -> None:
    values, colours = GRAY >> (8 - depth), RNG.integers(0, 256, (2**depth, 3), dtype="u1")
    palette = chunk(b"PLTE", colours.tobytes())
    path = png(tmp_path / "a.png", values, depth, 3, palette)
    np.testing.assert_array_equal(read_image(path), colours[values].transpose(2, 0, 1))
    png(path, values, depth, 3, palette + chunk(b"tRNS", b"\x07"))
    np.testing.assert_array_equal(read_image(path)[3], np.where(values == 0, 7, 255))


# ---- TIFF ----
@pytest.mark.parametrize("factor", [257, 256, 1])
def test_palettes_of_tiff_as_writers_make_them(factor: int, tmp_path: Path) -> None:
    colours = RNG.integers(0, 256, (3, 256)).astype("u2")
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GRAY, photometric="palette", colormap=colours * np.uint16(factor), compression="zlib")
    np.testing.assert_array_equal(read_image(path), colours[:, GRAY])
    if factor == 256:
        picture = Image.fromarray(GRAY).convert("RGB").quantize(16)
        for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", None):
            picture.save(path, compression=compression)
            np.testing.assert_array_equal(read_image(path), np.asarray(picture.convert("RGB")).transpose(2, 0, 1))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_inks_become_rgb_however_they_are_packed(compression: str | None, tmp_path: Path) -> None:
    inks = RNG.integers(0, 256, (300, 29, 4), dtype="u1")
    inks[:3] = np.array([0, 255, 128])[:, np.newaxis, np.newaxis]
    picture = Image.fromarray(inks, "CMYK")
    picture.save(tmp_path / "a.tif", compression=compression)
    expected = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)
    np.testing.assert_array_equal(FolderPhotos(tmp_path)[0], expected)
    with open_stack(tmp_path / "a.tif") as stack:
        assert stack.shape == (1, 3, 300, 29)
        np.testing.assert_array_equal(stack.read(slice(1), slice(280, 299), slice(5, 9))[0], expected[:, 280:299, 5:9])


@pytest.mark.parametrize(
    ("message", "dtype", "samples", "photometric"),
    [
        ("are luma and chroma .*convert it to RGB", "u1", 3, 6),
        (r"are CIE L\*a\*b\*: convert it to RGB", "u1", 3, 8),
        ("are 4 inks of uint16, read are CMYK of 8 bits", "u2", 4, 5),
        ("complex64 values are no image's", "c8", 1, 1),
    ],
)
def test_values_that_are_no_colours_of_an_image_are_refused(
    message: str, dtype: str, samples: int, photometric: int, tmp_path: Path
) -> None:
    shape = (33, 29, samples) if samples > 1 else (33, 29)
    usual = "minisblack" if samples == 1 else "rgb" if samples == 3 else "separated"
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones(shape, dtype), photometric=usual, compression="zlib", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(photometric)
    for read in (read_image, open_stack, lambda path: FolderPhotos(path.parent)[0]):
        with pytest.raises(nc.FileFormatError, match=rf"a\.tif.*{message}"):
            read(path)


# ---- HDF5 ----
@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True, "compression": "gzip", "compression_opts": 9, "fletcher32": True},
        {"scaleoffset": 0},
        {"scaleoffset": 0, "compression": "gzip", "shuffle": True},
        {"compression": "lzf"},
        {"maxshape": (None, None, None, None)},
    ],
)
@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
def test_packings_and_layouts_of_hdf5(options: dict, libver: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", libver=libver, userblock_size=512, track_order=True) as file:
        group = file
        for depth in range(10):
            group = group.create_group(f"group {depth}")
        made = group.create_dataset("frames", data=FRAMES.astype(">u2"), chunks=(2, 1, 16, 16), **options)
        made.attrs.update({"text": "µm", "bytes": np.bytes_(b"fixed"), "texts": ["a", "bc"], "empty": h5py.Empty("f4")})
        file["empty"], file["scalar"], file["type"] = h5py.Empty("f4"), 3.0, np.dtype("f4")
        file.create_dataset("texts", (3,), h5py.string_dtype())
        name = made.name
    with open_stack(tmp_path / "a.h5", dataset=name) as stack:
        np.testing.assert_array_equal(stack.read(slice(1, 4), slice(None), slice(9)), FRAMES[1:4, :, :, :9])
        assert stack.notes["attributes"]["text"] == "µm" and stack.notes["attributes"]["bytes"] == b"fixed"
    np.testing.assert_array_equal(HDF5Photos(tmp_path / "a.h5", name)[3] * np.float32(257), FRAMES[3])


# ---- .npz ----
def test_weights_that_are_mostly_zeros_are_read(tmp_path: Path) -> None:
    zeros = np.zeros((2500, 2500), "f4")
    zeros[7, 9] = 3
    np.savez_compressed(tmp_path / "a.npz", a=zeros, b=np.asfortranarray(zeros).astype(">f4"), c=np.float16(2))
    found = nc.read_state(tmp_path / "a.npz")
    assert found["c"] == 2
    for name in "ab":
        np.testing.assert_array_equal(found[name], zeros)
    np.savez_compressed(tmp_path / "b.npz", a=np.zeros((6000, 6000), "f4"))
    with pytest.raises(
        nc.FileFormatError, match=r"b\.npz.*than 8 times as many, and more than 104,857,600; written anew"
    ):
        nc.read_state(tmp_path / "b.npz")
