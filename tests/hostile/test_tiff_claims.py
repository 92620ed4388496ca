"""TIFF files that make a reader do more than their bytes: each is refused by its own message, before it is done."""

from __future__ import annotations

import contextlib
import lzma
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import npconv as nc
from npconv.data import read_image
from npconv.data.headers import header, page_count
from npconv.data.stacks import open_stack
from npconv.data.tiff_descriptions import check_description
from npconv.data.tiff_directories import Directories

Image = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")
pytestmark = pytest.mark.cpu
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

from fuzzing.outside import INDEX  # noqa: E402  # the benchmarks are scripts, not a package
from fuzzing.tiff_claims import MODULO, described, ome, scn  # noqa: E402
from fuzzing.tiff_inputs import COMPRESSION, COUNTS, OFFSETS, built, gray  # noqa: E402

READS: tuple[Callable[[Path], object], ...] = (read_image, open_stack, header)


def refused(path: Path, data: bytes, message: str, reads: tuple[Callable[[Path], object], ...] = READS) -> None:
    path.write_bytes(data)
    for read in reads:
        with pytest.raises(nc.FileFormatError, match=rf"{path.name}.*{message}"):
            read(path)


def everything(path: Path, **options: str) -> np.ndarray:
    with open_stack(path, **options) as stack:
        return stack.read(*[slice(None)] * 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.tif"


# ---- descriptions ----
PLANES = {
    "count": ome('<TiffData IFD="0" PlaneCount="99999999"/>'),
    "older count": ome('<TiffData NumPlanes="99999999"/>'),
    "width": ome(SizeX="4000000000"),
    "width and height": ome(SizeX="40000", SizeY="40000"),
    "underscores": ome(SizeT="1_000_000_000"),
    "sign": ome(SizeT="+1000000000"),
    "space": ome(SizeT=" 1000000000"),
    "two negative": ome(SizeT="-99999", SizeZ="-99999"),
    "other axes": ome(order="XYAB", SizeA="99999", SizeB="99999"),
    "first axes": ome(order="CTXYZ", SizeC="9999", SizeT="9999"),
    "sum": ome('<TiffData PlaneCount="2000"/>' * 999),
    "slide": scn('<dimension c="9999" z="0" ifd="0"/><dimension c="0" z="9999" ifd="0"/>'),
    "negative slide": scn('<dimension c="-9999" z="-9999" ifd="0"/>'),
}


@pytest.mark.parametrize("case", PLANES)
def test_planes_of_a_description(case: str, path: Path) -> None:
    refused(path, described(PLANES[case]), r"its description tells of [\d,]+ planes")


def test_planes_are_counted_by_the_pages_that_a_description_names() -> None:
    held = Directories([False] * 3, b"", [4, 10**10, 10**10], [0, 0, 0])
    slide = {"SizeX": "100000", "SizeY": "100000", "SizeC": "3"}
    check_description(ome('<TiffData IFD="1" PlaneCount="2"/>', **slide), held)  # beside a small picture
    for first in ("0", "-3", "-1"):
        with pytest.raises(ValueError, match=r"tells of [\d,]+ planes"):
            check_description(ome(f'<TiffData IFD="{first}" PlaneCount="3"/>', **slide), held)
    with pytest.raises(ValueError, match="tells of"):
        check_description(ome(SizeT="5000"), held._replace(copies=[200, 0, 0]))  # each plane with smaller copies


def test_other_claims_of_a_description(path: Path) -> None:
    refused(path, described(ome(SizeT="many")), "its description has SizeT='many', which must be a whole number")
    refused(path, described(ome(order="XY" * 9)), "its description has 18 axes")
    for start, end, step in (("0", "1e12", "1"), ("0", "1", "1e-300"), ("0", "nan", "1"), ("0", "9", "0")):
        text = ome(more=MODULO.format(start=start, end=end, step=step))
        refused(path, described(text), "its description has a range from .*: too many steps")
    refused(path, described(scn("<x/>" * 500_001)), "more than 500,000 elements", (header,))
    images = "".join(f'<Image ID="{i}"><Pixels/></Image>' for i in range(5000))
    refused(path, described(f"<OME>{images}</OME>"), "more than 4,096 images", (header,))


def test_descriptions_of_real_files_are_read(path: Path) -> None:
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 9, (3, 2, 24, 20), dtype="u2")
    for options in ({}, {"compression": "zlib"}, {"tile": (16, 16)}, {"bigtiff": True, "byteorder": ">"}):
        kind = {"ome": True, "metadata": {"axes": "TCYX", "PhysicalSizeX": 0.3}, "photometric": "minisblack"}
        tifffile.imwrite(path, stack, **kind, **options)
        with open_stack(path) as opened:
            np.testing.assert_array_equal(opened.read(*[slice(None)] * 3).reshape(stack.shape), stack)
            assert opened.notes["axes"] == "TCYX" and opened.notes["ome"]
    with tifffile.TiffWriter(path, ome=True) as file:  # a pyramid, and a second image
        file.write(stack, subifds=1, photometric="minisblack", metadata={"axes": "TCYX"})
        file.write(stack[:, :, ::2, ::2], subfiletype=1, photometric="minisblack")
        file.write(stack[0], photometric="minisblack", metadata={"axes": "CYX"})
    assert page_count(path) == 8
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "TCYX"})
    with open_stack(path) as opened:
        np.testing.assert_array_equal(opened.read(*[slice(None)] * 3).reshape(stack.shape), stack)


# ---- directories ----
def test_directories_and_tags_that_overlap(path: Path) -> None:
    # Two of 4,000 tags each, the second of which begins in the first one's second tag.
    two = bytearray(b"II*\0" + struct.pack("<I", 8) + bytes(48_100))
    for at, value in ((8, 4000), (20, 4000), (8 + 2 + 48_000, 20)):
        struct.pack_into("<H", two, at, value)
    refused(path, bytes(two), "its directories overlap")
    struct.pack_into("<H", two, 8, 5000)
    refused(path, bytes(two) + bytes(20_000), "a directory of 5,000 tags")
    long = bytes(4 * 200_000)
    body = built(gray(4, 4, _279=16), long)
    start = struct.unpack_from("<I", body, 4)[0]
    for tag, times in ((OFFSETS, 60), (COUNTS, 60), (282, 60), (33_628, 1)):
        entries = body[start + 2 : -4] + struct.pack("<HHII", tag, 4, 200_000, 8) * times
        data = body[:start] + struct.pack("<H", len(entries) // 12) + entries + bytes(4)
        refused(path, data, r"its tags would take [\d,]+ bytes of memory")
    entries = body[start + 2 : -4] + b"".join(struct.pack("<HHII", 50_000 + i, 4, 200_000, 8) for i in range(9))
    data = body[:start] + struct.pack("<H", len(entries) // 12) + entries + bytes(4)
    refused(path, data, "a directory's tags overlap, or have too many values")
    refused(path, built(gray(4, 4, _279=16, _330=[24] * 300), bytes(16)), "its tag 330 has 300 sub-directories")
    refused(path, built(gray(4, 4, _279=16, _330=[24] * 200), bytes(16)), "its directories overlap")


@pytest.mark.parametrize("described_pages", [False, True])
def test_very_many_pages(described_pages: bool, path: Path) -> None:
    """60,000 of them took 9 s with descriptions, and minutes without, where two kinds of pages took turns."""
    array = np.arange(5000 * 4, dtype="u1").reshape(5000, 2, 2)
    metadata = {"a": 1} if described_pages else None
    with tifffile.TiffWriter(path) as file:
        for page in array:
            file.write(page, photometric="minisblack", metadata=metadata, contiguous=False)
    with open_stack(path) as stack:
        np.testing.assert_array_equal(stack.read(slice(4990, 5000), slice(None), slice(None))[:, 0], array[4990:])
        assert stack.shape[0] == 5000
    kinds = [built(gray(4, side, _279=16))[8:-4] for side in (4, 3)]
    starts = [24 + i * (len(kinds[0]) + 4) for i in range(1, 5000)] + [0]
    pages = b"".join(kinds[i % 2] + struct.pack("<I", start) for i, start in enumerate(starts))
    refused(path, b"II*\0" + struct.pack("<I", 24) + bytes(16) + pages, "of more than 4,096 pages all must be alike")


def test_files_beside_are_not_looked_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Micro-Manager's files say that others beside them belong to them."""
    path = path.with_name("a_MMStack_1.tif")
    summary = b'{"MicroManagerVersion": "1", "Frames": 2, "Prefix": "a"}'
    index = struct.pack("<7I", 3_453_623, 1, 0, 0, 0, 0, 8)
    stack = struct.pack("<8I", 54_773_648, 0, 0, 0, 0, 0, 2_355_492, len(summary)) + summary + index
    stack = stack[:4] + struct.pack("<I", 40 + len(summary)) + stack[8:]
    newer = struct.pack("<4I", 483_729, 2, 2_355_492, len(summary)) + summary
    (path.parent / "NDTiff.index").write_bytes(INDEX)
    tifffile.imwrite(path.with_name("a_MMStack_2.tif"), np.full((4, 4), 42, "u1"), metadata=None)
    touched: list[str] = []
    init = tifffile.TiffFile.__init__

    def watch(self: object, file: object, *args: object, **more: object) -> None:
        touched.append(Path(str(file)).name)
        init(self, file, *args, **more)

    monkeypatch.setattr(tifffile.TiffFile, "__init__", watch)
    read_index = tifffile.tifffile.read_ndtiff_index
    monkeypatch.setattr(
        tifffile.tifffile, "read_ndtiff_index", lambda name: touched.append(Path(name).name) or read_index(name)
    )
    for content in (stack, newer):
        pixels = content.ljust(16, b"\0")
        path.write_bytes(built({**gray(4, 4, _279=16), 51_123: b'{"a": 1}\0'}, pixels))
        with tifffile.TiffFile(path) as file, contextlib.suppress(Exception):
            assert file.series  # it opens what is no TIFF file, or is not there
        assert set(touched) - {path.name}, "tifffile itself looks for them"
        touched.clear()
        np.testing.assert_array_equal(read_image(path)[0], np.frombuffer(pixels[:16], "u1").reshape(4, 4))
        assert set(touched) == {path.name}
        touched.clear()


# ---- streams ----
def packed(compression: int, data: bytes, side: int = 20, **more: int) -> bytes:
    return built({**gray(side, side, _279=len(data), **more), COMPRESSION: compression}, data)


def dictionary(size: int) -> bytes:
    """400 zeros in LZMA, of which the header says that unpacking takes a dictionary of so many bytes."""
    made = bytearray(lzma.compress(bytes(400), format=lzma.FORMAT_ALONE))
    made[1:5] = size.to_bytes(4, "little")
    return bytes(made)


def test_streams_that_unpack_to_too_much(path: Path) -> None:
    reads = read_image, everything, lambda path: everything(path, axes="NHW")
    more = "page 1: strip or tile 1 unpacks to more than its 400 bytes"
    for code in (8, 32_946, 50_013):
        refused(path, packed(code, zlib.compress(bytes(1 << 20))), more, reads)
    refused(path, packed(34_925, lzma.compress(bytes(1 << 20))), more, reads)
    refused(path, packed(34_925, lzma.compress(bytes(9000)) * 9), more, reads)
    refused(path, packed(34_925, lzma.compress(b"") * 99), "strip or tile 1 is damaged: more than 64 streams", reads)
    refused(path, packed(34_925, dictionary((1 << 32) - 1)), "strip or tile 1 is damaged: Memory usage limit", reads)
    refused(path, packed(34_925, lzma.compress(bytes(400))[:-9]), "strip or tile 1 is damaged", reads)
    refused(path, packed(32_773, b"\x81\0" * 9000), more, reads)
    refused(path, packed(8, zlib.compress(bytes(400))[:-5]), "strip or tile 1 is damaged", reads)


def test_streams_that_are_right(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 3, (20, 20), dtype="u1")
    data = pixels.tobytes()
    reversed_bits = bytes(int(f"{byte:08b}"[::-1], 2) for byte in zlib.compress(data))
    halves = lzma.compress(data[:100]) + lzma.compress(data[100:]) + b"and what is no stream"
    for made in (
        packed(50_013, zlib.compress(data)), packed(34_925, halves), packed(8, reversed_bits, _266=2),
        packed(32_773, b"".join(bytes([19]) + data[i : i + 20] for i in range(0, 400, 20))),
    ):  # fmt: skip
        path.write_bytes(made)
        np.testing.assert_array_equal(read_image(path)[0], pixels)
        with open_stack(path) as stack:
            part = stack.read(slice(0, 1), slice(3, 9), slice(2, 20))
        np.testing.assert_array_equal(part[0, 0], pixels[3:9, 2:])
    values = pixels[:, :, None] * np.array([1, 2, 3], "u1")
    for kind in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg"):
        Image.fromarray(values).save(path, compression=kind)
        found = everything(path, axes="HWC")[0]  # the axes of a compressed file can be said too
        np.testing.assert_array_equal(found, read_image(path))
        if kind != "jpeg":
            np.testing.assert_array_equal(found, values.transpose(2, 0, 1))


def test_very_many_strips_of_nothing(path: Path) -> None:
    count = 70_000
    tags = {**gray(4, count, _279=[1] * count, _278=1), OFFSETS: [8] * count}
    refused(path, built(tags, bytes(count)), "has 70,000 bytes in 70,000 strips or tiles", (read_image,))


# ---- what is not unpacked, and what imagecodecs would unpack ----
NAMES = {
    34_887: "LERC",
    50_002: "JPEG XL",
    34_934: "JPEG XR",
    34_892: "lossy JPEG",
    9: "not known",
}


@pytest.mark.parametrize("installed", [False, True])
def test_compressions_without_limits_are_refused_by_name(
    installed: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", sys if installed else None)
    for code, name in NAMES.items():
        message = rf"page 1 is compressed with .*{name} \({code}\), which is not read: write it anew .* deflate"
        refused(path, packed(code, bytes(300)), message)
    tifffile.imwrite(path, np.zeros((8, 8, 3), "u2"), photometric="rgb")
    deep = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].tags[COMPRESSION].valueoffset
    deep[place : place + 2] = (5).to_bytes(2, "little")
    if not installed:
        message = (
            r"page 1 is compressed with LZW \(5\), which is read of 8-bit and of gray 16-bit .*install imagecodecs"
        )
        refused(path, bytes(deep), message, (read_image,))


def test_imagecodecs_is_told_how_much_a_strip_may_become(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zstandard by a stand-in for imagecodecs: it gets the size; a JPEG's own header is looked at before."""
    asked = []

    def unpack(data: bytes, out: int) -> bytes:
        asked.append(out)
        return bytes(range(200)) * 2

    monkeypatch.setitem(sys.modules, "imagecodecs", sys)
    monkeypatch.setitem(tifffile.TIFF.DECOMPRESSORS._codecs, 50_000, unpack)
    path.write_bytes(packed(50_000, b"anything"))
    assert read_image(path)[0, 19, 19] == 199 and asked == [400]
    monkeypatch.setitem(tifffile.TIFF.DECOMPRESSORS._codecs, 7, unpack)
    frame = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + bytes(40)
    refused(path, packed(7, frame), "page 1: strip or tile 1 unpacks to more than its 400 bytes", (read_image,))
    assert asked == [400]
