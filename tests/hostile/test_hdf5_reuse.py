"""HDF5 files in which much leads to the same bytes, or types to other types; and valid ones that look like them."""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest

import npconv as nc
from npconv import architectures, data
from npconv.checkpoints import file as checkpoint_file
from npconv.data import hdf5_attributes
from npconv.data.hdf5_chunks import CheckedChunks
from npconv.data.stacks import open_stack
from npconv.hdf5_structure import check_structure
from npconv.npy_header import npy_header

pytestmark = pytest.mark.cpu
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

from fuzzing import hdf5_editing, hdf5_reuse  # noqa: E402  # the benchmarks are no package

Change = Callable[[bytes], bytes]
MEGABYTE = 1 << 20


def weights(path: Path) -> bytes:
    nc.save(nc.Sequential(nc.Conv2d(1, 4, 3)), path)
    return path.read_bytes()


def stack(path: Path, **options: Any) -> bytes:
    """Three images with attributes, compressed."""
    images = np.arange(3 * 40 * 40, dtype="u2").reshape(3, 1, 40, 40)
    with h5py.File(path, "w", **options) as file:
        made = file.create_dataset("images", data=images, chunks=(1, 1, 20, 40), compression="gzip")
        made.attrs["channels"] = ["red", "green"]
        made.attrs["pixel"] = np.array([0.5, 0.25])
    return path.read_bytes()


def architecture(text: str) -> Change:
    def change(file: Any) -> None:
        file.attrs["architecture"] = text
        del file.attrs["checksum"]

    return lambda given: hdf5_editing.changed_file(given, change)


# What is done to a file of weights, or to a stack, and the words of the refusal.
WEIGHTS: dict[str, tuple[Change, str]] = {
    "one text": (
        lambda d: hdf5_reuse.one_text(d, "/", "architecture", MEGABYTE, 3000), "is that of other texts too"
    ),
    "one text in compounds": (
        lambda d: hdf5_reuse.one_text(d, "/", "architecture", MEGABYTE, 3000, parts=True), "must be numbers or text"
    ),
    "rows of rows": (lambda d: hdf5_reuse.rows_of_rows(d, "/", "architecture"), "must be numbers or text"),
    "names in a name": (lambda d: hdf5_reuse.one_name(d, 400_000, 2000, hard=True), "a name at .* lies in others"),
    "type with a name": (lambda d: hdf5_reuse.named_type(d, "parameters/0.weight", 4), "npconv writes no message"),
    "long integers": (
        architecture('{"type": "Conv2d", "arguments": {"in_channels": 1, "out_channels": 1, "kernel_size": ['
                     + ",".join(["9" * 4000] * 1500) + "]}}"),
        "the architecture needs",
    ),
    "many megabytes": (
        architecture('{"type": "Sum", "children": [' + "[]," * 10_000_000 + "[]]}"), "a text of 30,000,033 bytes"
    ),
}  # fmt: skip
STACKS: dict[str, tuple[Change, str]] = {
    "one text": (
        lambda d: hdf5_reuse.one_text(d, "images", "own", MEGABYTE, 3000), "is that of other texts too"
    ),
    "names in a name": (lambda d: hdf5_reuse.one_name(d, 400_000, 2000), "a name at .* lies in others"),
    "names in a heap": (lambda d: hdf5_reuse.one_heap(d, MEGABYTE, 20), "structures that lie in each other"),
    "one chunk": (lambda d: hdf5_reuse.one_chunk(d, "images", 1 << 14), "would have more than the file"),
    "type with a name": (lambda d: hdf5_reuse.named_type(d, "images", 1 << 20), "chunks of elements of 2 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_would_become_a_lot_are_refused(name: str, tmp_path: Path) -> None:
    change, message = WEIGHTS[name]
    (tmp_path / "b.h5").write_bytes(change(weights(tmp_path / "a.h5")))
    with pytest.raises(nc.FileFormatError, match=rf"b\.h5.*{message}"):
        nc.load(tmp_path / "b.h5")


@pytest.mark.parametrize("name", STACKS)
def test_stacks_that_would_become_a_lot_are_refused(name: str, tmp_path: Path) -> None:
    change, message = STACKS[name]
    (tmp_path / "b.h5").write_bytes(change(stack(tmp_path / "a.h5")))
    with pytest.raises(nc.FileFormatError, match=rf"b\.h5.*{message}"):
        open_stack(tmp_path / "b.h5")


def test_attributes_within_attributes_stay_behind(tmp_path: Path) -> None:
    (tmp_path / "b.h5").write_bytes(hdf5_reuse.rows_of_rows(stack(tmp_path / "a.h5"), "images", "own"))
    with open_stack(tmp_path / "b.h5") as opened:
        assert set(opened.notes["attributes"]) == {"channels", "pixel", "anywhere"}


@pytest.mark.parametrize("options", [{}, {"libver": ("v108", "latest")}, {"libver": "latest"}, {"userblock_size": 512}])
def test_valid_stacks_are_read_with_their_attributes(options: dict[str, Any], tmp_path: Path) -> None:
    stack(tmp_path / "a.h5", **options)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["images"].attrs["gone"] = file.ref
    with open_stack(tmp_path / "a.h5") as opened:
        assert opened.read(slice(2, 3), slice(39, 40), slice(38, 40)).ravel().tolist() == [4798, 4799]
        notes = opened.notes["attributes"]
    assert set(notes) == {"channels", "pixel"} and list(notes["channels"]) == ["red", "green"]


def test_links_and_chunks_without_end_are_not_followed(tmp_path: Path) -> None:
    stack(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["short"], file["long"] = h5py.SoftLink("./" * 9 + "images"), h5py.SoftLink("./" * 3_000_000 + "images")
        file.create_dataset("tiny", (1, 1, 8000, 8000), "u1", chunks=(1, 1, 1, 2), compression="gzip")
    assert len(data.HDF5Photos(tmp_path / "a.h5", "short")) == 3
    with pytest.raises(nc.FileFormatError, match=r"has no data set 'long'; it has: images, short, tiny"):
        data.HDF5Photos(tmp_path / "a.h5", "long")
    with pytest.raises(nc.FileFormatError, match=r"a\.h5\[0\]: .* is in 32,000,000 chunks, 65,536 at most"):
        data.HDF5Photos(tmp_path / "a.h5", "tiny")[0]


def test_free_blocks_of_a_heap_that_lie_in_each_other_are_refused(tmp_path: Path) -> None:
    def make_room(file: Any) -> None:
        file["a" * 4000] = file["b"] = h5py.SoftLink("/")
        del file["a" * 4000]

    changed = bytearray(hdf5_editing.changed_file(stack(tmp_path / "a.h5"), make_room))
    head = hdf5_editing.positions(bytes(changed), b"HEAP")[0]
    size, free, start = struct.unpack_from("<QQQ", changed, head + 8)
    for at in range(free, free + 160, 16):  # each has all that follows
        struct.pack_into("<QQ", changed, start + at, at + 16 if at < free + 144 else 1, size - at)
    (tmp_path / "b.h5").write_bytes(changed)
    with pytest.raises(nc.FileFormatError, match="free blocks of more than"):
        open_stack(tmp_path / "b.h5")


def test_a_stack_of_a_type_with_a_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "b.h5").write_bytes(hdf5_reuse.named_type(stack(tmp_path / "a.h5"), "images", 2))
    with open_stack(tmp_path / "b.h5") as opened:
        assert opened.read(slice(2, 3), slice(39, 40), slice(38, 40)).ravel().tolist() == [4798, 4799]


@pytest.mark.parametrize("name", ["in the tree of a newer file", "behind a newer group"])
def test_old_structures_in_newer_files_are_looked_at(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"libver": ("v108", "latest")} if name.startswith("in") else {"track_order": True}
    with h5py.File(tmp_path / "a.h5", "w", **options) as file:
        for i in range(20):  # more than the header of a group takes
            file.create_group(f"group {i}")
        for parent in (file, file["group 3"]):
            parent.create_dataset("images", data=np.zeros((3, 1, 40, 40), "u1"), chunks=(1, 1, 20, 40))
    whole = (tmp_path / "a.h5").read_bytes()
    changed = bytearray(whole)
    for at in hdf5_editing.positions(whole, hdf5_reuse.CHUNK_NODE):
        struct.pack_into("<I", changed, at + 24, 801)
    assert changed != whole
    (tmp_path / "b.h5").write_bytes(changed)
    for dataset in ("images", "group 3/images"):
        with pytest.raises(nc.FileFormatError, match=r"b\.h5.*a chunk that has not its 800 bytes"):
            data.HDF5Photos(tmp_path / "b.h5", dataset)


def test_texts_outside_of_headers_are_read_if_there_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack(tmp_path / "a.h5", libver="latest")
    monkeypatch.setattr(hdf5_attributes, "FREE_BYTES", 1)
    with open_stack(tmp_path / "a.h5") as opened:
        assert list(opened.notes["attributes"]) == ["pixel"]


def test_a_stack_that_is_written_in_part_is_read(tmp_path: Path) -> None:
    (tmp_path / "b.h5").write_bytes(hdf5_reuse.partly_written(stack(tmp_path / "a.h5"), "images"))
    photos = data.HDF5Photos(tmp_path / "b.h5")
    assert len(photos) == 2500 and [int(photos[i].max()) for i in (0, 1, 1250, 2499)] == [7, 3, 7, 3]
    with open_stack(tmp_path / "b.h5") as opened:
        assert opened.shape == (2500, 1, 256, 256)


def test_chunks_are_read_without_a_search_among_all(tmp_path: Path) -> None:
    stack(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        sparse = file.create_dataset("sparse", (4, 9), "u1", chunks=(1, 9), compression="gzip", fillvalue=5)
        sparse[2] = 1
        only = SimpleNamespace(
            get_create_plist=sparse.id.get_create_plist,
            get_storage_size=sparse.id.get_storage_size,
            get_type=sparse.id.get_type,
            read_direct_chunk=sparse.id.read_direct_chunk,
        )
        stub: Any = SimpleNamespace(shape=sparse.shape, dtype=sparse.dtype, chunks=sparse.chunks, id=only, file=file)
        checked = CheckedChunks(stub)
        checked._check([range(4), range(0, 9, 9)])
        assert checked._good == {(i, 0) for i in range(4)}
        assert CheckedChunks(sparse)[1:3].mean(1).tolist() == [5, 1]


# ---- our own files ----
def many_modules() -> nc.Module:
    return nc.Sequential(nc.BatchNorm2d(1), *(nc.ReLU() for _ in range(1097)), nc.Conv2d(1, 1, 1))


def nested() -> nc.Module:
    network: nc.Module = nc.Conv2d(1, 1, 1)
    for _ in range(100):
        network = nc.Sequential(network)
    return network


@pytest.mark.parametrize("make", [many_modules, nested])
def test_networks_of_many_modules_are_loaded(make: Callable[[], nc.Module], tmp_path: Path) -> None:
    network = make()
    nc.Model(network).save(tmp_path / "a.h5")
    loaded = nc.Model.load(tmp_path / "a.h5").network
    assert make is nested or len(list(loaded.modules())) == 1100
    before, after = network.state_dict(), loaded.state_dict()
    assert list(before) == list(after) and set(before) == set(nc.read_state(tmp_path / "a.h5"))
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)


def test_a_network_of_too_many_modules_is_stored_without_its_architecture(tmp_path: Path) -> None:
    network = nc.Sequential(nc.Conv2d(1, 1, 1), *(nc.ReLU() for _ in range(1 << 14)))
    nc.save(network, tmp_path / "a.h5")
    with pytest.raises(nc.WeightsFileError, match=r"has no architecture .*very many"):
        nc.load(tmp_path / "a.h5")
    before = {name: values.copy() for name, values in network.state_dict().items()}
    network[0].weight.fill(0)
    nc.load_into(network, tmp_path / "a.h5")
    np.testing.assert_array_equal(network.state_dict()["0.weight"], before["0.weight"])


def test_networks_that_cannot_be_looked_through_in_time_are_not_made() -> None:
    relu: Any = {"type": "ReLU", "arguments": {}}

    def within(inner: Any, depth: int, name: str = "0") -> Any:
        for _ in range(depth):
            inner = {"type": "Sequential", "children": [[name, inner]]}
        return inner

    wide = {"type": "Sum", "children": [[str(i), relu] for i in range(15_000)]}
    assert not architectures.too_large(within(relu, 200)) and not architectures.too_large(wide)
    for described in (within(relu, 201), within(wide, 60), within(relu, 150, "a" * 1000)):
        assert "modules in modules" in architectures.too_large(described)


def test_training_too_long_for_a_file_is_refused_before_it_is_written(tmp_path: Path) -> None:
    before = weights(tmp_path / "a.h5")
    with pytest.raises(nc.WeightsFileError, match=r"a\.h5 cannot be written: training is 8,388,\d+ letters"):
        nc.save(nc.ReLU(), tmp_path / "a.h5", training={"x": "y" * (8 << 20)})
    assert (tmp_path / "a.h5").read_bytes() == before


def test_own_files_are_read_whatever_order_h5py_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h5py.get_config(), "track_order", True)
    network, images = nc.Sequential(nc.Conv2d(1, 4, 3), nc.BatchNorm2d(4)), np.full((3, 1, 8, 8), 9, np.uint8)
    nc.Model(network).save(tmp_path / "a.h5")
    data.write_images(tmp_path / "b.h5", images)
    data.write_pairs(tmp_path / "c.h5", images, images + 1)
    checkpoint_file.write(tmp_path / "d.h5", {"epoch": 3}, {}, network, {})
    monkeypatch.undo()
    assert checkpoint_file.read(tmp_path / "d.h5").state == {"epoch": 3}
    for name in ("a.h5", "d.h5"):
        loaded = nc.load(tmp_path / name).state_dict()
        np.testing.assert_array_equal(loaded["0.weight"], network.state_dict()["0.weight"])
    np.testing.assert_array_equal(data.HDF5Photos(tmp_path / "b.h5")[2], images[2])
    x, t = data.HDF5Pairs(tmp_path / "c.h5").take(3, np.random.default_rng(0))
    assert set(x.ravel()) == {9} and set(t.ravel()) == {10}
    for name in ("b.h5", "c.h5"):  # in the layout that is looked at, to the last part
        check_structure(tmp_path / name, strict=True)


def test_lengths_of_thousands_of_digits_are_refused() -> None:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'9' * 4000}, {'9' * 4000})}}\n".encode()
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    with pytest.raises(nc.FileFormatError, match=r"a\.npy: the shape \(99.*none below 0 or of 2\^48"):
        npy_header(io.BytesIO(header), len(header), "a.npy")
