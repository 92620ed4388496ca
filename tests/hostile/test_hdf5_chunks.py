"""HDF5 chunks: no filter, mask or parameter ends the process; what HDF5 itself writes of all of them is read."""

from __future__ import annotations

import base64
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import npconv as nc
from npconv.data import HDF5Pairs, HDF5Photos, hdf5, hdf5_chunks, hdf5_filters
from npconv.data.hdf5_chunks import CheckedChunks
from npconv.data.stacks import open_stack

pytestmark = pytest.mark.cpu
ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from fuzzing.hdf5_chunks import KINDS  # noqa: E402  # the benchmarks are no package

READ = """
import sys
from pathlib import Path
import numpy as np, npconv as nc
for path in map(Path, sys.argv[1:]):
    rng, pairs = np.random.default_rng(0), nc.data.HDF5Pairs
    for read in (lambda: nc.data.HDF5Photos(path)[1], lambda: pairs(path, "images", "images").take(2, rng)):
        print(path.stem, flush=True)  # before a crash too
        try:
            for _ in read():
                pass
            print("it was read", flush=True)
        except nc.FileFormatError as error:
            print(f"refused: {error}", flush=True)
"""


def test_no_chunk_ends_the_process(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.h5" for number in range(len(KINDS))]
    for path, write in zip(paths, KINDS.values(), strict=True):
        write(path)
    command = [sys.executable, "-c", READ, *map(str, paths)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    told = ended.stdout.splitlines()
    assert ended.returncode == 0, (list(KINDS)[int(told[-1])] if told else "", ended.stderr)
    assert told[::2] == [path.stem for path in paths for _ in range(2)]
    for stem, line in zip(told[::2], told[1::2], strict=True):
        assert line.startswith("refused: ") and f"{stem}.h5" in line, (list(KINDS)[int(stem)], line)


# ---- what HDF5 writes ----
def images(noisy: bool, dtype: str = "u2") -> np.ndarray:
    """Of 2 x 20 x 20, so that chunks of 16 x 16 reach beyond them; noise becomes no smaller, and gzip is left out."""
    rng = np.random.default_rng(0)
    found = rng.integers(0, 1 << 16, (3, 2, 20, 20)) if noisy else rng.integers(90, 99, (3, 2, 20, 20))
    return found.astype(dtype)


@pytest.mark.parametrize("version", ["earliest", "v110", "latest"])
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip"}, {"compression": "gzip", "shuffle": True},
        {"compression": "gzip", "shuffle": True, "fletcher32": True}, {"compression": "lzf"},
        {"compression": "lzf", "shuffle": True}, {"compression": "lzf", "fletcher32": True}, {"fletcher32": True},
        {"shuffle": True}, {"scaleoffset": 0}, {"scaleoffset": 16}, {"scaleoffset": 0, "compression": "gzip"},
        {"scaleoffset": 0, "compression": "lzf", "shuffle": True},
    ],
)  # fmt: skip
def test_what_h5py_writes_is_read(options: dict[str, Any], noisy: bool, version: str, tmp_path: Path) -> None:
    path, values, masks = tmp_path / "a.h5", images(noisy), set()
    with h5py.File(path, "w", libver=(version, "latest")) as file:
        for name, chunks in (("images", (1, 2, 16, 16)), ("one", (3, 2, 20, 20))):
            made = file.create_dataset(name, data=values, chunks=chunks, **options)
            file.flush()
            masks |= {made.id.read_direct_chunk((0, 0, 0, y))[0] for y in range(0, 20, chunks[3])}
    # Older releases of HDF5 leave gzip out too where it makes nothing smaller.
    assert not noisy or options.get("compression") != "lzf" or "scaleoffset" in options or max(masks) > 0
    for name in ("images", "one"):
        with open_stack(path, dataset=name) as stack:
            np.testing.assert_array_equal(stack.read(slice(0, 3), slice(0, 20), slice(0, 20)), values)


@pytest.mark.parametrize("version", ["earliest", "latest"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_chunks_are_read_that_gzip_was_left_out_of(shuffle: bool, version: str, tmp_path: Path) -> None:
    values = images(True)
    with h5py.File(tmp_path / "a.h5", "w", libver=version) as file:
        made = file.create_dataset("images", values.shape, "<u2", chunks=(1, 2, 20, 20), compression=1, shuffle=shuffle)
        for number, image in enumerate(values.astype("<u2")):
            data = image.tobytes()
            data = np.frombuffer(data, "u1").reshape(-1, 2).T.tobytes() if shuffle else data
            made.id.write_direct_chunk((number, 0, 0, 0), data, filter_mask=2 if shuffle else 1)
    with open_stack(tmp_path / "a.h5") as stack:
        np.testing.assert_array_equal(stack.read(slice(0, 3), slice(0, 20), slice(0, 20)), values)


@pytest.mark.parametrize("precision", [16, 12, 9])
@pytest.mark.parametrize("after", [(), (1,), (2, 1), (32_000,), (3,)])
def test_n_bit_is_read(after: tuple[int, ...], precision: int, tmp_path: Path) -> None:
    kind, properties = h5py.h5t.STD_U16LE.copy(), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind.set_precision(precision)
    properties.set_chunk((1, 1, 16, 16))
    properties.set_filter(5, 0, ())
    for number in after:
        properties.set_filter(number, 1, (6,) if number == 1 else ())
    values = images(False)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"images", kind, h5py.h5s.create_simple(values.shape), properties)
        file["images"][...] = values
    with open_stack(tmp_path / "a.h5") as stack:
        np.testing.assert_array_equal(stack.read(slice(0, 3), slice(0, 20), slice(0, 20)), values)


@pytest.mark.parametrize("bits", [1, 12])
def test_floats_of_scale_offset_are_read(bits: int, tmp_path: Path) -> None:
    values = np.full((2, 1, 16, 16), 30, "f4")
    values[:, :, 3] += np.arange(16) % (1 << bits)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", data=values, chunks=(1, 1, 16, 16), scaleoffset=3, compression="gzip")
    np.testing.assert_allclose(HDF5Photos(tmp_path / "a.h5")[1], values[1], atol=1e-3)


def test_floats_of_which_h5py_makes_longer_ones_are_read(tmp_path: Path) -> None:
    """Of bfloat16, which have 2 bytes in the file, float32."""
    kind, properties = h5py.h5t.IEEE_F32LE.copy(), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_size(2)
    kind.set_ebias(127)
    properties.set_chunk((1, 1, 16, 16))
    properties.set_shuffle()
    properties.set_deflate(1)
    values = np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16)).astype("f4")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"images", kind, h5py.h5s.create_simple(values.shape), properties)
        file["images"][...] = values
        assert file["images"].dtype == "f4"
    np.testing.assert_array_equal(HDF5Photos(tmp_path / "a.h5")[1], values[1])


# Written with H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS, for which h5py has no word: (2, 1, 20, 20) uint16, 0..19 in each
# row, in chunks of 16 x 16 with shuffle and gzip, those at the edges without.
EDGES = "".join(
    r"""c-rgqaB<`1lHy|K;9!7(|4?8h0^u7##b0RYi~4)G1TisGFbN?mgaIxl21W)3HbDj;#g>_yn4Vg^8D^+612w<~$tgNuConQFGP*D@"""
    r"""FtIQ)GC}1Sp|l7ZO-P=Zhk;Q5u1<h~73d3QZf-FKMkXeZhZw;!j9|zDWN`pBvM@2SGBPp>2rw~o?S~nh!$4QSRGv5A&C$b!fsvmJ"""
    r"""7J0X!Zb`J{{^jQA;>5rRcO6uTER^Cv2_0E3R4xxHmk&j+6(5SMl>jPN2!$IH^)Z@Z6pVsVFbYP&U;`C#$q6Y*X^E-H&mTN_^z7l&"""
    r"""$LSK8e+2m$3{}}11sDVwgcyWzY95sz-tr9KwhuF~)x*lb#=s72LU1y0F>o{RFz_<)G4RtteiRHO82I!z3Pvl3QTfrzVYG4>tsF+d"""
    r"""paK9jgIjI"""
)  # fmt: skip


def test_edges_without_filters_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(zlib.decompress(base64.b85decode(EDGES)))
    with h5py.File(path) as file:
        found = [len(file["images"].id.read_direct_chunk((1, 0, 0, left))[1]) for left in (0, 16)]
        assert found[0] < 512 == found[1]
    with open_stack(path) as stack:
        assert (stack.read(slice(0, 2), slice(0, 20), slice(0, 20)) == np.arange(20)).all()
    with h5py.File(path, "r+") as file:
        file["images"].id.write_direct_chunk((1, 0, 16, 0), zlib.compress(bytes(512)))
    with (
        open_stack(path) as stack,
        pytest.raises(nc.FileFormatError, match=r"its chunk at \(1, 0, 16, 0\) does not unpack to its 512 bytes, but"),
    ):
        stack.read(slice(1, 2), slice(0, 20), slice(0, 20))


@pytest.mark.parametrize("number", [4, 32_999])
def test_filters_that_cannot_be_followed_are_refused(number: int, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        options: Any = {"compression": "szip"} if number == 4 else {"compression": number, "allow_unknown_filter": True}
        try:
            file.create_dataset("images", (3, 1, 16, 16), "u1", chunks=(1, 1, 16, 16), **options)
        except ValueError:
            pytest.skip("HDF5 has been built without szip")
    for read in (HDF5Photos, open_stack):
        with pytest.raises(nc.FileFormatError, match=rf"a\.h5.*its filter {number} .*is not read.* with gzip it is"):
            read(tmp_path / "a.h5")


def test_parameters_without_end_are_refused(tmp_path: Path) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, 1, 16, 16))
    properties.set_filter(32_999, 1, tuple(range(60)) * 50)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((3, 1, 16, 16))
        h5py.h5d.create(file.id, b"images", h5py.h5t.STD_U8LE, space, properties)
        file["others"] = np.zeros((1, 2, 3, 4), "u1")
    with pytest.raises(nc.FileFormatError, match=r"a\.h5.* filter 32999 has 3,000 parameters, 64 at most"):
        HDF5Photos(tmp_path / "a.h5")
    assert len(HDF5Photos(tmp_path / "a.h5", "others")) == 1


def test_lzf_is_followed_to_its_end() -> None:
    packed = bytes([2]) + b"abc" + bytes([0x20, 2]) + bytes([0xE0, 3, 0])  # abc, 3 of them again, and 12 of the last
    assert hdf5_filters._lzf(packed, 99, True) == (18, b"abcabc" + b"c" * 12)
    assert hdf5_filters._lzf(packed, 99, False) == (18, None)
    for cut in range(1, len(packed)):
        made = hdf5_filters._lzf(packed[:cut], 99, False)[0]
        assert made == hdf5_filters._lzf(packed[:cut], 99, True)[0] == {4: 3, 6: 6}.get(cut, 0)
    assert hdf5_filters._lzf(bytes([0x20, 2]), 99, True) == (0, None)  # of what is not there


# ---- time and memory ----
def test_the_bytes_in_the_file_are_asked_for_when_it_is_opened(tmp_path: Path, monkeypatch: Any) -> None:
    """HDF5 goes through all chunks to tell."""
    values = images(False, "u1")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("images", "input", "target"):
            file.create_dataset(name, data=values, chunks=(1, 2, 16, 16), compression="gzip")
    calls = []
    inside = hdf5_chunks.stored_bytes

    def count(dataset: h5py.Dataset) -> int:
        calls.append(dataset.name)
        return inside(dataset)

    monkeypatch.setattr(hdf5_chunks, "stored_bytes", count)
    photos = HDF5Photos(tmp_path / "a.h5", cache_bytes=0)
    pairs = HDF5Pairs(tmp_path / "a.h5")
    assert set(calls) == {"/images", "/input", "/target"} and len(calls) <= 6
    calls.clear()
    for _ in range(3):
        assert [photos[i].sum() for i in range(3)] == values.sum((1, 2, 3)).tolist()
        pairs.take(2, np.random.default_rng(0))
    assert calls == []


@pytest.mark.parametrize("deep", [1, 6, 24])
def test_opening_unpacks_no_more_than_it_may(deep: int, tmp_path: Path, monkeypatch: Any) -> None:
    """Of images in chunks of many images each look unpacks them all."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("images", "input", "target"):
            values = np.full((48, 2, 40, 40), 90, "f4")
            file.create_dataset(name, data=values, chunks=(deep, 1, 10, 10), compression="gzip")
    unpacked = []
    inside = CheckedChunks._check_work
    monkeypatch.setattr(hdf5, "_LOOKED_AT", 200_000)
    monkeypatch.setattr(
        CheckedChunks,
        "_check_work",
        lambda self, count: (unpacked.append(count * self._whole), inside(self, count))[1],
    )
    for read in (HDF5Pairs, lambda path: HDF5Photos(path, cache_bytes=0)):
        read(tmp_path / "a.h5")
        assert 30_000 < sum(unpacked) <= 200_000
        unpacked.clear()


def test_very_many_images_are_refused_without_chunks_too(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("images", (100_000_000, 1, 1, 1), "u1")
        file.create_dataset("fewer", (1_000_000, 1, 1, 1), "u1")
    for read in (HDF5Photos, open_stack):
        with pytest.raises(nc.FileFormatError, match=r"a\.h5.*would be 100,000,000 images, of 0 bytes in the file"):
            read(tmp_path / "a.h5")
    assert len(HDF5Photos(tmp_path / "a.h5", "fewer")) == 1_000_000


def test_chunks_that_are_in_the_file_may_be_more(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(hdf5_chunks, "MAX_CHUNKS", 50)
    monkeypatch.setattr(hdf5_chunks, "MOST_CHUNKS", 150)
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, side in (("few", 90), ("some", 100), ("many", 130)):
            made = file.create_dataset(name, (1, 1, side, 100), "u1", chunks=(1, 1, 10, 10), compression="gzip")
            made[...] = rng.integers(0, 256, made.shape) if name != "few" else 0
        file.create_dataset("none", (1, 1, 90, 100), "u1", chunks=(1, 1, 10, 10), compression="gzip")
    for name, most in (("few", 75), ("none", 50), ("many", 150)):
        pattern = rf"is in \d+ chunks, {most if name != 'few' else r'(6|7)[0-9]'} at most"
        if name == "many":
            assert HDF5Photos(tmp_path / "a.h5", name)[0].shape == (1, 130, 100)
            continue
        with pytest.raises(nc.FileFormatError, match=pattern):
            HDF5Photos(tmp_path / "a.h5", name)[0]
    assert HDF5Photos(tmp_path / "a.h5", "some")[0].shape == (1, 100, 100)
