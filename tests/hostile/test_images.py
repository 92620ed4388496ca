"""Image files that claim more than they hold, name other files, or are another format: each by its own message."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import npconv as nc
from npconv.data import FolderPhotos, HDF5Pairs, HDF5Photos, read_image, write_images
from npconv.data.headers import header
from npconv.data.opening import open_data
from npconv.data.stacks import open_stack

pytestmark = pytest.mark.cpu
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))


def npy(header: str, data: bytes = bytes(64)) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def described(shape: str, dtype: str = "<f4") -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}\n"


NPY = {
    "terabytes": (npy(described("(4, 1000000, 1000000)")), r"needs 16,000,000,000,000 bytes, there are 64"),
    "overflow": (npy(described(f"({1 << 40}, {1 << 40})")), r"needs [\d,]+ bytes, there are 64"),
    "negative": (npy(described("(4, -4)")), "none below 0"),
    "objects": (npy(described("(4, 4)", "|O")), "dtype object must be of floats"),
    "code": (npy("__import__('os').system('touch owned')\n"), "not an array"),
    "short": (npy(described("(4, 5)")), "needs 80 bytes, there are 64"),
}  # fmt: skip


@pytest.mark.parametrize("case", NPY)
def test_arrays_that_are_not_in_their_file(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, message = NPY[case]
    path = tmp_path / "a.npy"
    path.write_bytes(data)
    reads: tuple[Callable[[], object], ...] = (
        lambda: read_image(path), lambda: open_stack(path), lambda: header(path), lambda: FolderPhotos(tmp_path)[0],
    )  # fmt: skip
    for read in reads:
        with pytest.raises(nc.FileFormatError, match=rf"a\.npy.*{message}"):
            read()
    assert not (tmp_path / "owned").exists()


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number, dtype in enumerate(("u1", ">u2", "<f4", ">f8", "f2", "i4", bool)):
        for order in "CF":
            array = np.asarray(rng.integers(0, 2, (3, 5, 7)), dtype=dtype, order=order)
            path = tmp_path / f"{number}{order}.npy"
            np.save(path, array)
            expected = array * np.uint8(255) if dtype is bool else array
            np.testing.assert_array_equal(read_image(path), expected)


def png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_png_bomb_is_refused_and_a_picture_of_one_colour_is_not(tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    (tmp_path / "a.png").write_bytes(png(19_000, 19_000, zlib.compress(bytes(1000))))
    for read in (read_image, open_stack):
        with pytest.raises(nc.FileFormatError, match=r"a\.png.*would take 361,000,000 bytes of memory, of \d+ in the"):
            read(tmp_path / "a.png")
    assert header(tmp_path / "a.png") == ((19_000, 19_000), 1)  # which decodes nothing
    (tmp_path / "b.png").write_bytes(png(3000, 2000, zlib.compress(bytes(2000 * 3001), 9)))
    assert read_image(tmp_path / "b.png").shape == (1, 2000, 3000)


@pytest.mark.parametrize("tail", [b"\0" * 9, b"\xff" * 50, b"PK\x03\x04 a zip archive follows", png(9, 9, b"")])
def test_anything_may_follow_the_end_of_a_png(tail: bytes, tmp_path: Path) -> None:
    pytest.importorskip("PIL.Image")
    rows = np.random.default_rng(0).integers(0, 256, (20, 30), dtype="u1")
    whole = png(30, 20, zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes()))
    (tmp_path / "a.png").write_bytes(whole + tail)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[0], rows)
    assert header(tmp_path / "a.png") == ((20, 30), 1)
    (tmp_path / "a.png").write_bytes(whole[:-20])  # it is still cut off where its end lacks
    with pytest.raises(nc.FileFormatError, match=r"a\.png.*it is cut off"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(whole[:33] + (bytes(4) + b"tEXt" + bytes(4)) * 70_000 + whole[33:])
    with pytest.raises(nc.FileFormatError, match=r"a\.png.*more than 65,536 chunks, of fewer than 256 bytes"):
        read_image(tmp_path / "a.png")


def test_only_the_formats_that_are_read_are_tried(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    told = {
        "GIF": "it is a GIF file, whatever its name: save it as PNG", "EPS": "it is an EPS file",
        "BMP": "it is a BMP file", "PPM": "it is neither a PNG nor a JPEG file",
        "TGA": "it is neither a PNG nor a JPEG file",
    }  # fmt: skip
    for kind, message in told.items():
        file = io.BytesIO()
        image.new("RGB" if kind == "EPS" else "L", (9, 9)).save(file, kind)
        (tmp_path / "a.png").write_bytes(file.getvalue())
        for read in (read_image, header):
            with pytest.raises(nc.FileFormatError, match=rf"a\.png'?: {message}"):
                read(tmp_path / "a.png")
    for data, message in (
        (b"RIFF\x24\0\0\0WEBPVP8 " + bytes(40), "it is a WebP file, whatever its name: save it as PNG"),
        (b"\0\0\0\x1cftypavif" + bytes(40), "it is an AVIF file"), (b"<!DOCTYPE html><html>", "it is an HTML file"),
        (b"\x93NUMPY" + bytes(40), "it is an NPY file, whatever its name: give it the ending .npy"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "its header is damaged"),
    ):  # fmt: skip
        (tmp_path / "a.jpg").write_bytes(data)
        with pytest.raises(nc.FileFormatError, match=rf"a\.jpg'?: {message}"):
            read_image(tmp_path / "a.jpg")
    image.new("L", (9, 9)).save(tmp_path / "jpeg.png", "JPEG")  # an ending that is wrong is read as before
    assert read_image(tmp_path / "jpeg.png").shape == (1, 9, 9)


def directory(count: int, kind: int = 3) -> bytes:
    """EXIF data of so many tags that all have their 30,000 values of 2 bytes in the same place."""
    entries = b"".join(struct.pack("<HHII", 1000 + i, kind, 30_000, 8) for i in range(count))
    return b"II*\0\x08\0\0\0" + (struct.pack("<H", count) + entries + bytes(4)).ljust(60_000, b"\0")


def test_exif_data_that_says_the_same_bytes_again_and_again(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    plain = io.BytesIO()
    image.new("L", (20, 30), 99).save(plain, "JPEG")
    part = b"\xff\xe1" + struct.pack(">H", 60_016) + b"Exif\0\0" + directory(900)
    pictures = b"\xff\xe2" + struct.pack(">H", 60_014) + b"MPF\0" + directory(900)
    assert len(part) == 2 + 60_016 and len(pictures) == 2 + 60_014
    for extra in (part, pictures, part * 9):
        (tmp_path / "a.jpg").write_bytes(plain.getvalue()[:2] + extra + plain.getvalue()[2:])
        for read in (read_image, open_stack, header):
            with pytest.raises(
                nc.FileFormatError, match=r"a\.jpg.*its EXIF data of 60,008 bytes has tags that overlap"
            ):
                read(tmp_path / "a.jpg")
    whole = png(30, 20, zlib.compress(bytes(20 * 31)))
    for data, message in ((directory(900), "tags that overlap"), (bytes(5 << 20), "more than 4,194,304")):
        chunk = struct.pack(">I4s", len(data), b"eXIf") + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
        (tmp_path / "a.png").write_bytes(whole[:33] + chunk + whole[33:])
        for read in (read_image, open_stack):
            with pytest.raises(nc.FileFormatError, match=rf"a\.png.*its EXIF data.*{message}"):
                read(tmp_path / "a.png")


def test_exif_data_of_real_pictures_is_read(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rows = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype="u1")
    exif = image.Exif()
    exif[274], exif[271] = 6, "a camera"
    exif[34_665] = {37_500: bytes(20_000)}  # a maker's notes
    exif[34_853] = {1: "N"}
    made = image.fromarray(rows)
    made.save(tmp_path / "a.png", exif=exif)
    made.save(tmp_path / "a.jpg", exif=exif)
    made.save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[made])  # as phones write
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(rows, -1).transpose(2, 0, 1))
    assert read_image(tmp_path / "a.jpg").shape == (3, 30, 20) and read_image(tmp_path / "b.jpg").shape == (3, 20, 30)
    with open_stack(tmp_path / "a.jpg") as stack:
        assert len(stack.notes["exif"]) > 20_000


def test_a_tiff_file_is_read_by_its_own_name_only(tmp_path: Path) -> None:
    """So that its directories are looked at before anybody reads them."""
    image = pytest.importorskip("PIL.Image")
    image.new("L", (9, 9)).save(tmp_path / "a.png", "TIFF")
    with pytest.raises(nc.FileFormatError, match=r"a\.png.*it is a TIFF file: give it the ending \.tif"):
        read_image(tmp_path / "a.png")


def test_a_tiff_names_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile = pytest.importorskip("tifffile")
    from fuzzing.tiff_inputs import built, gray  # the benchmarks are scripts, not a package

    parts = "".join(
        f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{t}</UUID></TiffData>'
        for t, name in enumerate(("a.tif", "secret.tif"))
    )
    ome = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0"><Image '
        'ID="Image:0"><Pixels DimensionOrder="XYCZT" ID="Pixels:0" SizeC="1" SizeT="2" SizeX="4" SizeY="4" SizeZ="1" '
        f'Type="uint8">{parts}</Pixels></Image></OME>'
    )
    (tmp_path / "a.tif").write_bytes(built(gray(4, 4, _279=16), bytes(16), description=ome.encode() + b"\0"))
    tifffile.imwrite(tmp_path / "secret.tif", np.full((4, 4), 42, "u1"), metadata=None)
    opened, watched = [], tifffile.TiffFile.__init__

    def watch(self: object, file: object, *args: object, **more: object) -> None:
        opened.append(Path(str(file)).name)
        watched(self, file, *args, **more)

    monkeypatch.setattr(tifffile.TiffFile, "__init__", watch)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.series and "secret.tif" in opened  # as tifffile itself would
    opened.clear()
    with contextlib.suppress(nc.FileFormatError):
        open_stack(tmp_path / "a.tif").close()
    assert set(opened) == {"a.tif"}


def test_tiff_sizes_and_counts(tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    from fuzzing.tiff_inputs import built, gray

    path = tmp_path / "a.tif"
    cases = (
        (
            built(gray(1 << 20, 1 << 20, _279=1 << 30, _259=8), bytes(99)),
            "would take 1,099,511,627,776 bytes of memory",
        ),
        (built({**gray(4, 4, _279=16), 33_000: [7] * 1_100_000}, bytes(16)), "tag 33000 has 1,100,000 values"),
        (built(gray(4, 4, _279=16), bytes(16), 24), "its directory of pages breaks off after 1"),
    )
    for data, message in cases:
        path.write_bytes(data)
        for read in (read_image, open_stack, header):
            with pytest.raises(nc.FileFormatError, match=rf"a\.tif.*{message}"):
                read(path)


# ---- HDF5 ----
SQUARES = np.arange(3 * 256).astype("u1").reshape(3, 1, 16, 16)


def stored(path: Path, **options: object) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("images", data=SQUARES, **options)
    return path


def all_ways(path: Path) -> tuple[Callable[[], object], ...]:
    return lambda: HDF5Photos(path)[0], lambda: open_stack(path).read(*[slice(None)] * 3), lambda: open_data(path)[0]


def test_values_elsewhere_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / "other.h5")
    (tmp_path / "raw").write_bytes(bytes(768))
    layout = h5py.VirtualLayout((3, 1, 16, 16), "u1")
    layout[...] = h5py.VirtualSource("other.h5", "images", (3, 1, 16, 16))
    with h5py.File("link.h5", "w") as file:
        file["images"] = h5py.ExternalLink("other.h5", "images")
    with h5py.File("through.h5", "w") as file:
        file["away"], file["images"] = h5py.ExternalLink("other.h5", "/"), h5py.SoftLink("/away/images")
    with h5py.File("raw.h5", "w") as file:
        file.create_dataset("images", (3, 1, 16, 16), "u1", external=[("raw", 0, 768)])
    with h5py.File("virtual.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
    for name, message in (
        ("link", "data set"), ("through", "data set"), ("raw", "has its values in other files"),
        ("virtual", "has its values in other files"),
    ):  # fmt: skip
        for read in all_ways(tmp_path / f"{name}.h5"):
            with pytest.raises(nc.FileFormatError, match=rf"{name}\.h5.*{message}"):
                read()


def test_soft_links_within_the_file_are_followed(tmp_path: Path) -> None:
    with h5py.File(stored(tmp_path / "a.h5"), "r+") as file:
        file.move("images", "deep")
        file["folder/near"], file["images"] = h5py.SoftLink("/deep"), h5py.SoftLink("folder/./near")
        file["round"] = h5py.SoftLink("/round")
    assert HDF5Photos(tmp_path / "a.h5")[1].shape == (1, 16, 16)
    with pytest.raises(nc.FileFormatError, match=r"a\.h5' has no data set 'round'; it has: deep, images"):
        HDF5Photos(tmp_path / "a.h5", "round")


@pytest.mark.parametrize("size", [255, 257, 1 << 26])
def test_chunks_unpack_to_what_they_are(size: int, tmp_path: Path) -> None:
    path = stored(tmp_path / "a.h5", chunks=(1, 1, 16, 16), compression="gzip", shuffle=True, fletcher32=False)
    np.testing.assert_array_equal(HDF5Photos(path)[2], SQUARES[2])
    with h5py.File(path, "r+") as file:
        file["images"].id.write_direct_chunk((1, 0, 0, 0), zlib.compress(bytes(size), 9))
    photos = HDF5Photos(path)
    assert photos[0].any()
    with pytest.raises(nc.FileFormatError, match=r"a\.h5\[1\]: its chunk at \(1, 0, 0, 0\) does not unpack to its 256"):
        photos[1]
    with pytest.raises(nc.FileFormatError, match=r"a\.h5.*does not unpack to its 256 bytes"):
        open_stack(path).read(slice(1, 2), slice(3, 5), slice(None))


def test_packed_images_are_read_as_h5py_reads_them(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 9, (7, 3, 20, 30), dtype="u1")
    for number, options in enumerate(
        ({"compression": "gzip"}, {"compression": "gzip", "fletcher32": True, "shuffle": True}, {"compression": "lzf"})
    ):
        path = tmp_path / f"{number}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("images", data=images, chunks=(2, 3, 7, 16), **options)
            file.create_dataset("input", data=images, chunks=(3, 1, 20, 30), **options)
            file.create_dataset("target", data=images, chunks=True, **options)
        photos = HDF5Photos(path, cache_bytes=0)
        for index in range(-7, 7):
            np.testing.assert_array_equal(photos[index], images[index])
        np.testing.assert_array_equal(photos.region(3, 5, 11, 9, 17), images[3, :, 5:14, 11:28])
        x, t = HDF5Pairs(path).take(7, np.random.default_rng(0))
        assert all((image == images).all((1, 2, 3)).any() for image in x)
        np.testing.assert_array_equal(x, t)
        with open_stack(path, dataset="images") as stack:
            np.testing.assert_array_equal(stack.read(slice(2, 6), slice(3, 20), slice(0, 29)), images[2:6, :, 3:, :29])


def test_claims_of_terabytes(tmp_path: Path) -> None:
    shapes = (
        ((1 << 40, 1, 16, 16), (1, 1, 16, 16)),
        ((1, 1, 1 << 20, 1 << 20), (1, 1, 64, 64)),
        ((1, 1, 1 << 14, 1 << 14),) * 2,
    )
    for shape, chunks in shapes:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("images", shape, "u1", chunks=chunks, compression="gzip")
        claim = r"would (take [\d,]+ bytes of memory|be [\d,]+ images), of 0 (bytes )?in the file"
        for read in all_ways(tmp_path / "a.h5"):
            with pytest.raises(nc.FileFormatError, match=rf"a\.h5.*{claim}"):
                read()


def test_attributes_that_refer_to_places_of_the_file_stay_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_images(path, np.full((1, 1, 16, 16), 9, "u1"))
    with h5py.File(path, "r+") as file:
        file["images"].attrs.update({"text": "of a microscope", "number": 3.5, "numbers": np.arange(3)})
        file["images"].attrs["place"] = file["images"].ref
        file["images"].attrs["pairs"] = np.zeros(2, "f4,i4")
    with open_stack(path) as stack:
        assert sorted(stack.notes["attributes"]) == ["number", "numbers", "text"]
