"""Files that ask for memory that is not theirs, or for more of it than their size allows."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from torch_files import REBUILD, legacy_file, numbers, state, storage, tensor, text, zip_file

from npconv import FileFormatError, read_state
from npconv.interchange.torch_file import _array
from npconv.interchange.torch_records import Storage, TensorRecord

FOUR = np.arange(4, dtype="<f4")


def typed(made: bytes, dtype: str, shape: tuple[int, ...], offset: int = 0, metadata: bytes = b"") -> bytes:
    """A tensor by _rebuild_tensor_v3 on the storage that `made` pushes."""
    window = b"I%d\n" % offset + numbers(shape) + numbers((1,) * len(shape))
    hooks = b"\x89" + b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v3\n("
        + made
        + window
        + hooks
        + b"ctorch\n%s\n" % dtype.encode()
        + metadata
        + b"tR"
    )


def with_metadata(metadata: bytes) -> bytes:
    window = b"I0\n" + numbers((4,)) + numbers((1,))
    return REBUILD + b"(" + storage("0", 4) + window + b"\x89" + b"ccollections\nOrderedDict\n)R" + metadata + b"tR"


VIEW = b"(" + text("v") + b"I4\nI12\nt"  # (key, offset, count)


# ---- memory outside of a storage ----
def test_tensors_with_a_dtype_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    raw = storage("0", 16, "UntypedStorage")
    zip_file(path, state(a=typed(raw, "uint16", (4,), 4)), {"0": np.arange(8, dtype="<u2").tobytes()})
    np.testing.assert_array_equal(read_state(path)["a"], np.arange(4, 8, dtype="uint16"))
    zip_file(path, state(a=typed(storage("0", 4), "float32", (4,))), {"0": FOUR.tobytes()})
    np.testing.assert_array_equal(read_state(path)["a"], FOUR)
    for made, dtype in ((storage("0", 16, "ByteStorage"), "float64"), (storage("0", 4), "uint16")):
        zip_file(path, state(a=typed(made, dtype, (4,))), {"0": bytes(16)})
        with pytest.raises(FileFormatError, match=f"a tensor of {dtype} must have a storage of bytes or of {dtype}"):
            read_state(path)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_view_of_bytes_is_refused(form: str, tmp_path: Path) -> None:
    made = typed(storage("0", 16, "UntypedStorage", view=VIEW), "float32", (3,))
    if form == "zip":
        path = zip_file(tmp_path / "a", state(a=made), {"0": bytes(16)})
    else:
        path = legacy_file(tmp_path / "a", state(a=made), {"0": (16, bytes(16))})
    with pytest.raises(FileFormatError, match="a view of storage '0', which has no type"):
        read_state(path)


def test_no_element_outside_of_the_decoded_ones_is_ever_read() -> None:
    elements, whole = np.arange(6.0), Storage("0", "float64", 6, 0, 6)
    record = TensorRecord(whole, "float64", 1, (2, 2), (3, 1))
    np.testing.assert_array_equal(_array(record, elements), [[1, 2], [4, 5]])
    with pytest.raises(FileFormatError, match="reaches element 5 of a storage of 5 elements"):
        _array(record, elements[:5])
    shifted = TensorRecord(Storage("0", "float64", 4, 2, 6), "float64", 1, (2, 2), (3, 1))
    with pytest.raises(FileFormatError, match="reaches element 7 of a storage of 6 elements"):
        _array(shifted, elements)


def test_tensors_that_are_not_what_their_storage_says_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for metadata in (b"N", b"}", b"ccollections\nOrderedDict\n)R"):
        np.testing.assert_array_equal(
            read_state(zip_file(path, state(a=with_metadata(metadata)), {"0": FOUR.tobytes()}))["a"], FOUR
        )
    raw = storage("0", 16, "UntypedStorage")
    for name in ("neg", "conj"):
        metadata = b"}" + text(name) + b"\x88s"
        for made in (with_metadata(metadata), typed(raw, "float32", (4,), 0, metadata)):
            zip_file(path, state(a=made), {"0": FOUR.tobytes()})
            with pytest.raises(FileFormatError, match=rf"refused: a tensor with metadata \({name}\)"):
                read_state(path)
    zip_file(path, state(a=with_metadata(text("neg"))), {"0": FOUR.tobytes()})
    with pytest.raises(FileFormatError, match="refused: a tensor with metadata"):
        read_state(path)


def test_pytorchs_own_negated_view_is_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": torch._neg_view(torch.ones(3))}, tmp_path / "a.pth")
    with pytest.raises(FileFormatError, match=r"refused: a tensor with metadata \(.*neg"):
        read_state(tmp_path / "a.pth")


# ---- more memory than the file's size allows ----
def peak(path: Path, match: str) -> int:
    """Bytes of memory that are asked for on the way to the error."""
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=match):
            read_state(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_devices_of_text_do_not_grow(tmp_path: Path) -> None:
    long = b"\x80\x02" + text("x" * 100_000) + b"q\x000(" + b"ctorch\ndevice\n(" + b"h\x00" * 30_000 + b"tR" * 1 + b"t."
    with pytest.raises(FileFormatError, match=r"torch\.device must be made of text and a number"):
        read_state(zip_file(tmp_path / "a", long))
    doubled = text("x" * 1000) + b"q\x000" + b"ctorch\ndevice\nh\x00h\x00\x86Rq\x000" * 22 + b"h\x00."
    assert peak(zip_file(tmp_path / "a", b"\x80\x02" + doubled), "device") < 5e6


def test_calls_that_copy_are_counted(tmp_path: Path) -> None:
    pairs = b"](" + b"".join(b"I%d\nN\x86" % i for i in range(20_000)) + b"eq\x000"
    copies = b"(" + b"ccollections\nOrderedDict\nh\x00\x85R" * 2_000 + b"l."
    path = zip_file(tmp_path / "a", b"\x80\x02" + pairs + copies)
    assert peak(path, "calls that make containers of more than 500,000 items") < 1e8


def entry_that_lies(path: Path, data: bytes, said: int, crc: int | None = None) -> Path:
    """An .npz file whose deflated "a.npy" is `data`, and says that it has `said` bytes (and a sum to go with it)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", data)
    written = path.read_bytes()
    for old, new in ((len(data), said), (zlib.crc32(data), zlib.crc32(data) if crc is None else crc)):
        assert written.count(old.to_bytes(4, "little")) == 2
        written = written.replace(old.to_bytes(4, "little"), new.to_bytes(4, "little"))
    path.write_bytes(written)
    return path


def test_an_entry_is_not_unpacked_beyond_the_size_that_it_says(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.zeros(4))
    data = file.getvalue() + bytes(1 << 26)
    path = entry_that_lies(tmp_path / "a.npz", data, len(file.getvalue()))
    assert peak(path, "Bad CRC-32") < 1e7
    path = entry_that_lies(tmp_path / "a.npz", data, len(file.getvalue()), zlib.crc32(file.getvalue()))
    np.testing.assert_array_equal(read_state(path)["a"], np.zeros(4))  # as many as were asked for
    pickled = state(a=tensor("0", 4, (4,), (1,)))
    torch_file = zip_file(
        tmp_path / "a.pth", pickled, {"0": bytes(1 << 26)}, compression=zipfile.ZIP_DEFLATED
    ).read_bytes()
    lying = torch_file.replace((1 << 26).to_bytes(4, "little"), (16).to_bytes(4, "little"))
    assert lying != torch_file
    (tmp_path / "a.pth").write_bytes(lying)
    assert peak(tmp_path / "a.pth", "Bad CRC-32") < 1e7


def test_an_npz_is_in_memory_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(1 << 20))
    tracemalloc.start()
    try:
        read_state(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < 1.6 * (1 << 23)
    finally:
        tracemalloc.stop()


def test_a_storage_of_many_tensors_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from npconv.interchange import torch_file

    calls, decode = [], torch_file.decode
    monkeypatch.setattr(torch_file, "decode", lambda *args: calls.append(args) or decode(*args))
    tensors = {f"w{i}": tensor("0", 40, (4,), (1,), offset=i) for i in range(20)}
    found = read_state(zip_file(tmp_path / "a", state(**tensors), {"0": np.arange(40, dtype="<f4").tobytes()}))
    assert len(calls) == 1 and all(found[f"w{i}"].tolist() == [i, i + 1, i + 2, i + 3] for i in range(20))
    found["w0"][:] = 9  # each is an array of its own
    assert found["w1"].tolist() == [1, 2, 3, 4]


def test_a_deflated_storage_does_not_grow_twice(tmp_path: Path) -> None:
    tensors = {f"w{i}": tensor("0", 1 << 20, (1 << 20,), (1,)) for i in range(8)}
    path = zip_file(tmp_path / "a", state(**tensors), {"0": bytes(1 << 22)}, compression=zipfile.ZIP_DEFLATED)
    assert peak(path, r"need 33,554,432 bytes and their storages have [0-9,]{5}: expanded or shared") < 1e7


def test_headers_of_safetensors_are_short(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"x": "y" * 8_000_000}}).encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header)
    assert peak(tmp_path / "a", r"header: its length \(=[0-9]+\) must be at most 8000000") < 1e6


def test_too_little_memory_is_an_error_with_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("npconv.interchange.torch_file.decode", fail)
    path = zip_file(tmp_path / "a.pth", state(a=tensor("0", 4, (4,), (1,))), {"0": FOUR.tobytes()})
    with pytest.raises(FileFormatError, match=r"a\.pth: its weights need more memory than there is"):
        read_state(path)


@pytest.mark.parametrize("form", ["npz", "pth"])
@pytest.mark.parametrize("offset", [1 << 31, (1 << 63) - 1, (1 << 64) - 1, None])
def test_entries_that_begin_beyond_the_archive(offset: int | None, form: str, tmp_path: Path) -> None:
    """The offset of 8 bytes that large archives have; None: a directory that begins before the file."""
    path = tmp_path / f"a.{form}"
    if form == "npz":
        np.savez(path, a=FOUR)
    else:
        zip_file(path, state(a=tensor("0", 4, (4,), (1,))), {"0": FOUR.tobytes()})
    data = bytearray(path.read_bytes())
    last = data.rindex(b"PK\x05\x06")
    if offset is None:
        struct.pack_into("<I", data, last + 12, last + 9)
    else:
        entry = data.rindex(b"PK\x01\x02")
        name, extra = struct.unpack_from("<HH", data, entry + 28)
        struct.pack_into("<I", data, entry + 42, 0xFFFFFFFF)
        field = struct.pack("<HHQ", 1, 8, offset)
        struct.pack_into("<H", data, entry + 30, len(field))
        data[entry + 46 + name : entry + 46 + name + extra] = field
        start = struct.unpack_from("<I", data, last + len(field) - extra + 16)[0]
        struct.pack_into("<I", data, last + len(field) - extra + 12, last + len(field) - extra - start)
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=rf"a\.{form}: ('.*' begins (at byte|before)|a damaged zip archive)"):
        read_state(path)
