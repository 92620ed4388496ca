"""Image files that are odd, large or broken off, but honest: what limits there are must let them pass."""

from __future__ import annotations

import io
import struct
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

import npconv as nc
from npconv.data import read_image, tiff_directories, tiff_segments
from npconv.data.headers import header, page_count
from npconv.data.sizes import FREE_BYTES, FREE_IMAGE, check_growth
from npconv.data.stacks import open_stack

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")
pytestmark = pytest.mark.cpu
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

from fuzzing.tiff_inputs import COMPRESSION, built, gray  # noqa: E402  # the benchmarks are scripts, not a package

EVERYTHING = (slice(None),) * 3


def ome(frames: int, first: str = "") -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels DimensionOrder="XYCZT" ID="Pixels:0" SizeC="1" SizeT="{frames}" SizeX="20" SizeY="24" SizeZ="1" '
        f'Type="uint16"><TiffData IFD="0" PlaneCount="{frames}" {first}/></Pixels></Image></OME>'
    )


# ---- acquisitions that were broken off ----
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_planes_that_were_never_written_are_left_out(compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    pages = np.random.default_rng(0).integers(0, 999, (3, 24, 20), dtype="u2")
    with tifffile.TiffWriter(path, ome=False) as file:
        for number, page in enumerate(pages):
            text = ome(5) if number == 0 else None
            file.write(page, description=text, metadata=None, photometric="minisblack", compression=compression)
    told = r"a\.ome\.tif: 2 of the 5 pages that its description tells of are missing: only the others can be read"
    with pytest.warns(UserWarning, match=told):
        assert page_count(path) == 3
    with open_stack(path) as stack:
        np.testing.assert_array_equal(stack.read(*EVERYTHING)[:, 0], pages)
        assert stack.notes["axes"] is None
    with pytest.raises(nc.FileFormatError, match="its pages are not one array"):
        open_stack(path, axes="NHW")


# ---- very many pages ----
def test_the_limits_of_pages_and_tags_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for page in np.arange(8 * 160 * 160, dtype="u2").reshape(8, 160, 160):
            file.write(page, photometric="minisblack", metadata=None, contiguous=False)
    monkeypatch.setattr(tiff_directories, "MAX_DIRECTORIES", 4)
    monkeypatch.setattr(tiff_directories, "MOST_TAG_BYTES", 50)
    assert page_count(path) == 8
    for of_the_file, message in (("BYTES_OF_EACH", "more than 4 directories"), ("TAG_SHARE", "its tags would")):
        with monkeypatch.context() as patched, pytest.raises(nc.FileFormatError, match=rf"a\.tif.*{message}"):
            patched.setattr(tiff_directories, of_the_file, 1 << 30)
            page_count(path)


def test_smaller_copies_between_very_many_pages_are_left_out(tmp_path: Path) -> None:
    """As in files of Zeiss's LSM microscopes, each page of which is followed by its thumbnail."""
    path, count = tmp_path / "a.tif", 4200
    kinds = [built(gray(4, 4, _279=16, _254=0))[8:-4], built(gray(2, 2, _279=4, _254=1))[8:-4]]
    length = len(kinds[0]) + 4
    starts = [24 + i * length for i in range(1, count)] + [0]
    pages = b"".join(kinds[i % 2] + struct.pack("<I", start) for i, start in enumerate(starts))
    path.write_bytes(b"II*\0" + struct.pack("<I", 24) + bytes(range(16)) + pages)
    with pytest.warns(UserWarning, match=r"a\.tif: 2100 of its images are left out: smaller copies or masks"):
        assert page_count(path) == 2100
    with open_stack(path) as stack:
        assert stack.shape == (2100, 1, 4, 4)
        found = stack.read(slice(2098, 2100), slice(None), slice(None))
    np.testing.assert_array_equal(found[1, 0].ravel(), np.frombuffer(path.read_bytes()[8:24], "u1"))
    with open_stack(path, axes="NHW") as stack:
        assert stack.shape == (2100, 1, 4, 4)
        np.testing.assert_array_equal(stack.read(slice(2099, 2100), slice(None), slice(None)), found[1:])


def test_very_many_pages_of_a_map_are_read(tmp_path: Path) -> None:
    """With GeoTIFF's keys, by which newer versions of tifffile gather pages, comparing each with all others."""
    path, count, keys = tmp_path / "a.tif", 4200, (34_735, "H", 4, (1, 1, 0, 0), True)
    pages = np.arange(count * 4, dtype="u2").reshape(count, 2, 2)
    with tifffile.TiffWriter(path) as file:
        for page in pages:
            file.write(page, photometric="minisblack", metadata=None, contiguous=False, extratags=[keys])
    with open_stack(path) as stack:
        assert stack.shape == (count, 1, 2, 2)
        found = stack.read(slice(4100, count), slice(None), slice(None))
    np.testing.assert_array_equal(found[:, 0], pages[4100:])


# ---- pictures that shrink much ----
def test_maps_of_labels_are_read(tmp_path: Path) -> None:
    check_growth(10_000 * 10_000 * 2, 500_000, "a map", free=FREE_IMAGE)
    with pytest.raises(nc.FileFormatError, match=r"more than 64 times.* written anew without compression .* is read"):
        check_growth(10_000 * 10_000 * 2, 500_000, "a strip")
    rows = np.zeros((7400, 8000), "u2")
    rows[5000:, 5000:] = 7
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, rows, compression="zlib", rowsperstrip=100, metadata=None)
    assert rows.nbytes > FREE_BYTES + 64 * path.stat().st_size
    np.testing.assert_array_equal(read_image(path)[0, ::50, ::50], rows[::50, ::50])


def test_strips_are_unpacked_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    values = np.random.default_rng(0).integers(0, 9, (300, 200, 3), dtype="u1")
    used: set[str] = set()
    inflated = tiff_segments.SegmentDecoder.__call__

    def watch(self: object, index: int, data: bytes | None) -> object:
        used.add(threading.current_thread().name)
        return inflated(self, index, data)

    monkeypatch.setattr(tiff_segments.SegmentDecoder, "__call__", watch)
    monkeypatch.setattr(tiff_segments, "WORTH_THREADS", 1)
    monkeypatch.setattr(tiff_segments.os, "cpu_count", lambda: 3)
    for options in ({"rowsperstrip": 3}, {"tile": (32, 48)}, {"planarconfig": "separate", "rowsperstrip": 7}):
        planes = values.transpose(2, 0, 1) if "planarconfig" in options else values
        tifffile.imwrite(path, planes, photometric="rgb", compression="zlib", metadata=None, **options)
        used.clear()
        np.testing.assert_array_equal(read_image(path), values.transpose(2, 0, 1))
        assert used and all(name.startswith("npconv-tiff") for name in used)
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].dataoffsets[60]
    data = bytearray(path.read_bytes())
    data[place : place + 9] = bytes(9)
    path.write_bytes(data)
    with pytest.raises(nc.FileFormatError, match=r"a\.tif.*page 1: strip or tile 61 is damaged"):
        read_image(path)
    assert not any(thread.name.startswith("npconv-tiff") for thread in threading.enumerate())


# ---- JPEG, and JPEG 2000 by a stand-in for imagecodecs ----
def codestream(width: int, height: int, components: int = 1, depth: int = 7) -> bytes:
    """The beginning of a JPEG 2000: the markers SOC and SIZ."""
    size = struct.pack(">2H8IH", 38 + 3 * components, 0, width, height, 0, 0, width, height, 0, 0, components)
    return b"\xff\x4f\xff\x51" + size + bytes([depth, 1, 1]) * components + bytes(40)


@pytest.mark.parametrize("code", [33_003, 33_005, 34_712, 33_007])
def test_jpeg_2000_is_unpacked_once_its_size_is_known(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "a.tif", []

    def unpack(data: bytes, **_: object) -> np.ndarray:
        asked.append(len(data))
        return np.arange(400).astype("u1").reshape(20, 20)

    def packed(data: bytes) -> None:
        path.write_bytes(built({**gray(20, 20, _279=len(data)), COMPRESSION: code}, data))

    def boxed(data: bytes) -> bytes:
        return b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x10free" + bytes(8) + struct.pack(">I", 0) + b"jp2c" + data

    def frame(width: int, height: int) -> bytes:
        return b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">2HB", height, width, 1) + bytes(40)

    is_jpeg = code == 33_007
    right = [frame(20, 20)] if is_jpeg else [codestream(20, 20), boxed(codestream(20, 20))]
    wrong = [frame(60_000, 60_000)] if is_jpeg else [
        codestream(60_000, 60_000), boxed(codestream(60_000, 60_000)), codestream(20, 20, 16_000),
        codestream(400, 200, depth=15),
    ]  # fmt: skip
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    packed(right[0])
    with pytest.raises(
        nc.FileFormatError, match=rf"\({code}\), which is read with imagecodecs only: pip install image"
    ):
        read_image(path)
    monkeypatch.setitem(sys.modules, "imagecodecs", sys)
    if is_jpeg:
        monkeypatch.setattr(tifffile.tifffile.imagecodecs, "jpeg_decode", unpack, raising=False)
    monkeypatch.setitem(tifffile.TIFF.DECOMPRESSORS._codecs, code, unpack)
    for data in right:
        packed(data)
        np.testing.assert_array_equal(read_image(path)[0].ravel(), np.arange(400).astype("u1"))
    assert asked == [len(data) for data in right]
    for data in wrong:
        packed(data)
        with pytest.raises(nc.FileFormatError, match="page 1: strip or tile 1 unpacks to more than its 400 bytes"):
            read_image(path)
    if not is_jpeg:
        for data in (bytes(99), b"", boxed(bytes(99)), codestream(20, 20)[:40], b"\0\0\0\x0cjP  " * 99):
            packed(data or b"\0")
            with pytest.raises(nc.FileFormatError, match="strip or tile 1 is damaged: it has no codestream"):
                read_image(path)
    assert len(asked) == len(right)


# ---- what lies before the pixels of a JPEG ----
def test_junk_in_a_jpeg_is_no_long_walk(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="u1")
    file, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6
    Image.fromarray(rows).save(file, "JPEG", exif=exif)
    plain, path = file.getvalue(), tmp_path / "a.jpg"
    path.write_bytes(plain)
    expected = read_image(path)
    assert expected.shape == (3, 30, 20)
    # After the first segment: right at the start, pillow does not take the file for a JPEG.
    for junk in (bytes(20_000), b"\xff" * 20_000, b"\xff\0" * 10_000, b"ab\xff\0\xff\xff\0" * 3000):
        path.write_bytes(plain[:20] + junk + plain[20:])
        np.testing.assert_array_equal(read_image(path), expected)
    start = time.perf_counter()
    for junk in (bytes(20 << 20), b"\xff" * (20 << 20), b"\xff\0" * (10 << 20)):
        path.write_bytes(plain[:20] + junk + plain[20:])
        for read in (read_image, header):
            with pytest.raises(nc.FileFormatError, match=r"a\.jpg.*more than 262,144 bytes .* belong to no marker"):
                read(path)
    path.write_bytes(plain[:20] + b"\xff\xe5\0\2" * (5 << 20) + plain[20:])
    with pytest.raises(nc.FileFormatError, match=r"a\.jpg.*more than 4,096 segments, of fewer than 256 bytes"):
        header(path)
    assert time.perf_counter() - start < 5


# ---- headers of PNG ----
def test_a_header_of_a_png_is_read_up_to_its_pixels(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compress(np.random.default_rng(0).integers(0, 256, (40, 31), dtype="u1")[:, :1].repeat(31, 1) * 0)
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 40, 8, 0, 0, 0, 0))
    parts = b"".join(chunk(b"IDAT", packed[at : at + 1]) for at in range(len(packed)))
    path = tmp_path / "a.png"
    path.write_bytes(head + parts + chunk(b"IEND", b""))
    assert header(path) == ((30, 40), 1) and read_image(path).shape == (1, 40, 30)
    path.write_bytes(head + parts + struct.pack(">I", 1 << 30) + b"tEXt")
    assert header(path) == ((30, 40), 1)  # what follows the first of the pixels is not looked at
    with pytest.raises(nc.FileFormatError, match=r"a\.png.*it is cut off: its chunk b'tEXt'"):
        read_image(path)
    path.write_bytes(head + struct.pack(">I", 1 << 30) + b"tEXt" + parts)
    with pytest.raises(nc.FileFormatError, match=r"a\.png.*it is cut off: its chunk b'tEXt'"):
        header(path)
