"""check_structure: whole files of all kinds pass, and damage is named with its place before HDF5 sees it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import npconv as nc
from npconv.data.hdf5_attributes import attributes
from npconv.hdf5_structure import check_object, check_structure

pytestmark = pytest.mark.cpu


def of_many_kinds(file: Any) -> None:
    """Trees of several levels, several heaps of texts, all datatypes, all storages, links of all kinds."""
    for i in range(700):
        file[f"many/data set {i}"] = np.int16(i)
    chunked = file.create_dataset("chunked", (3000, 8), "f8", chunks=(1, 8), maxshape=(None, 8))
    chunked[...] = 1
    chunked.resize((2000, 8))
    file.create_dataset("sparse", (1000, 1000), "u1", chunks=(10, 10), compression="gzip", shuffle=True)[77, 77] = 1
    file.create_dataset("squeezed", data=np.arange(5000), chunks=(100,), compression="lzf", fletcher32=True)
    file.create_dataset("scaled", data=np.arange(5000), chunks=(100,), scaleoffset=0)
    for i in range(300):
        file["chunked"].attrs[f"note {i}"] = "a text " * i
    for i, dtype in enumerate(("f2", ">f4", "f8", "i1", "u8", bool, "c16", "S7", "V3", "i4,f8", "(2,3)f4")):
        file.create_dataset(f"types/{i}", (3,), dtype)
        file["types"].attrs[str(i)] = np.zeros(2, dtype)
    file["types/text"] = ["a", "bc"]
    rows = file.create_dataset("types/rows", (2,), h5py.vlen_dtype("i4"))
    rows[0], rows[1] = np.arange(2), np.arange(3)
    file["types/reference"] = np.array([file.ref], h5py.ref_dtype)
    file["types/enumeration"] = np.zeros(3, h5py.enum_dtype({"RED": 0, "GREEN": 1}, "u1"))
    file["named"] = np.dtype("f4,i2")
    file.create_dataset("of a named type", (4,), file["named"])
    file["empty"], file["nothing"] = h5py.Empty("f4"), np.zeros((0, 3))
    file["scalar"] = 1.5
    file["soft"], file["dangling"] = h5py.SoftLink("/chunked"), h5py.SoftLink("/nowhere")
    file["links/outside"], file["again"] = h5py.ExternalLink("other.h5", "/x"), file["many"]
    file["many/root"] = file["/"]
    file.create_group("links/tracked", track_order=True)["x"] = 1
    for i in range(0, 700, 3):
        del file[f"many/data set {i}"]


@pytest.mark.parametrize(
    "options",
    [{}, {"libver": "latest"}, {"libver": ("v108", "latest")}, {"userblock_size": 1024}, {"track_order": True}],
)
def test_whole_files_pass(options: dict[str, Any], tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", **options) as file:
        of_many_kinds(file)
    check_structure(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r") as file:
        assert file["chunked"].shape == (2000, 8)
        for item in [*list(file["types"].values()), file["chunked"], file["sparse"], file["of a named type"]]:
            check_object(tmp_path / "a.h5", h5py.h5o.get_info(item.id).addr)
        notes = attributes(file["chunked"])
        assert len(notes) == 300 and notes["note 299"] == "a text " * 299


def test_weights_pass_and_other_layouts_of_them_do_not(tmp_path: Path) -> None:
    nc.Model(nc.networks.unet(3)).save(tmp_path / "a.h5")
    check_structure(tmp_path / "a.h5", strict=True)
    with h5py.File(tmp_path / "a.h5") as old, h5py.File(tmp_path / "b.h5", "w", libver="latest") as new:
        for key in old:
            old.copy(key, new)
        new.attrs.update(old.attrs)
    with pytest.raises(nc.FileFormatError, match=r"b\.h5 is damaged or not an HDF5 file.*superblock: version 3"):
        nc.load(tmp_path / "b.h5")


def saved(path: Path) -> bytes:
    nc.save(nc.Sequential(nc.Conv2d(1, 2, 3), nc.BatchNorm2d(2)), path)
    return path.read_bytes()


def with_number(data: bytes, at: int, value: int, form: str = "<Q") -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


def with_root_as_member(data: bytes) -> bytes:
    at = data.index(b"SNOD") + 16  # the superblock has an entry for the root like those of the members
    return data[:at] + data[64:96] + data[at + 32 :]


CHUNK_KEYS = b"TREE\x01\x00\x01\x00"
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda data: data[:-9], "the file should end at byte"),
    "no text": (lambda data: with_number(data, data.index(b"GCOL") + 8, 0), "heap of texts: 0 bytes"),
    "endless texts": (lambda data: with_number(data, data.index(b"GCOL") + 24, 1 << 40), "heap of texts: it ends"),
    "chunk's size": (lambda data: with_number(data, data.index(CHUNK_KEYS) + 24, 1, "<I"), "a chunk that has not its"),
    "chunk's place": (lambda data: with_number(data, data.index(CHUNK_KEYS) + 32, 99), "is not in its place"),
    "chunk beyond": (
        lambda data: with_number(data, data.index(CHUNK_KEYS) + 24 + 8 + 40, 1 << 40), "beyond the file's end"
    ),
    "group in itself": (with_root_as_member, "has another name already"),
    "too many children": (lambda data: with_number(data, data.index(b"TREE") + 6, 999, "<H"), "999 children, 32 at"),
    "name without end": (lambda data: with_number(data, data.index(b"SNOD") + 8, 1 << 20), "a name at 1048576"),
    "free block": (lambda data: with_number(data, data.index(b"HEAP") + 16, 1 << 20), "a free block at 1048576"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_with_its_place(name: str, tmp_path: Path) -> None:
    change, message = DAMAGE[name]
    data = saved(tmp_path / "a.h5")
    if name == "chunk beyond":  # the first chunk is of (2, 1, 3, 3): a key has 4 + 4 + 5 * 8 bytes
        assert data[data.index(CHUNK_KEYS) + 24 :][:4] == struct.pack("<I", 2 * 9 * 4 + 4)
    (tmp_path / "b.h5").write_bytes(change(data))
    with pytest.raises(nc.FileFormatError, match=rf"b\.h5 is damaged or not an HDF5 file: at byte [\d,]+, .*{message}"):
        nc.load(tmp_path / "b.h5")


def test_other_files_are_none(tmp_path: Path) -> None:
    for content in (b"", b"\x89HDF", b"PK\x03\x04" + bytes(600)):
        (tmp_path / "a.h5").write_bytes(content)
        with pytest.raises(nc.FileFormatError, match=r"a\.h5 is damaged or not an HDF5 file: it does not begin as one"):
            check_structure(tmp_path / "a.h5")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    folder = tmp_path_factory.mktemp("whole")
    with h5py.File(folder / "new.h5", "w", libver=("v108", "latest")) as file:
        file["kind"] = np.dtype("f4")
        made = file.create_dataset("group/images", (5, 4, 4), file["kind"], chunks=(1, 4, 4), compression="gzip")
        made[...] = np.arange(80).reshape(5, 4, 4)
        made.attrs["names"] = ["a", "text"]
    return folder / "b.h5", [saved(folder / "a.h5"), (folder / "new.h5").read_bytes()]


@given(st.data())
def test_whatever_is_changed_it_passes_or_is_refused(whole: tuple[Path, list[bytes]], data: st.DataObject) -> None:
    path, content = whole[0], data.draw(st.sampled_from(whole[1]))
    changed = bytearray(content)
    used = [i for i in range(0, len(content), 8) if any(content[i : i + 8])]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(used)) + data.draw(st.integers(0, 7))
        width = data.draw(st.sampled_from((1, 2, 4, 8)))
        value = data.draw(
            st.one_of(st.integers(0, (1 << 8 * width) - 1), st.sampled_from((0, 1, 96, 2048, len(content))))
        )
        changed[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    path.write_bytes(bytes(changed[: data.draw(st.sampled_from((len(content), len(content), len(content) - 100)))]))
    try:
        check_structure(path, strict=data.draw(st.booleans()))
    except nc.FileFormatError as error:
        assert str(error).startswith(str(path))
