"""safetensors and .npz, out and in: what PyTorch and NumPy read, and headers that lie."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host

import npconv as nc
from npconv import FileFormatError, read_state, write_state

DTYPES = (
    "float64",
    "float32",
    "float16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)


def network() -> nc.Sequential:
    return nc.Sequential(
        nc.Conv2d(2, 4, (3, 2), groups=2, padding=1, padding_mode="reflect"),
        nc.BatchNorm2d(4),
        nc.LeakyReLU(0.1),
        nc.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
        nc.Conv2d(6, 1, 1, bias=False),
    )


def moved(network: nc.Sequential) -> nc.Sequential:
    """The network with running statistics of its own."""
    network(on_device(np.random.default_rng(1).random((2, 2, 6, 5), dtype="float32")))
    return network


def header_file(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def one(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


# ---- out ----
@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_what_is_written_comes_back(ending: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    state = {f"layer.{dtype}": rng.uniform(0, 100, (3, 1, 2)).astype(dtype) for dtype in DTYPES}
    state |= {
        "scalar": np.array(7),
        "empty": np.zeros((0, 4), "float32"),
        "a/b=é": np.arange(3.0)[::-1],
        "file": np.ones(1),
    }
    state |= {"fortran": np.asfortranarray(rng.random((2, 3))), "swapped": np.arange(4, dtype=">f4")}
    path = tmp_path / f"a{ending}"
    write_state(state, path)
    found = read_state(path)
    assert list(found) == list(state)
    for name, values in state.items():
        assert found[name].dtype == values.dtype.newbyteorder("=") and found[name].shape == values.shape, name
        np.testing.assert_array_equal(found[name], values)
    if ending == ".npz":
        with np.load(path, allow_pickle=False) as file:
            assert set(file.files) == set(state)


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_pytorch_takes_the_weights_and_computes_the_same(ending: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    ours, path = moved(network()), tmp_path / f"a{ending}"
    write_state(ours, path)
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Conv2d(2, 4, (3, 2), groups=2, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.1),
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2),
        nn.Conv2d(6, 1, 1, bias=False),
    )
    if ending == ".safetensors":
        state = pytest.importorskip("safetensors.torch").load_file(path)
    else:
        with np.load(path) as file:
            state = {name: torch.from_numpy(file[name]) for name in file.files}
    theirs.load_state_dict(state, strict=True)
    x = np.random.default_rng(2).random((2, 2, 7, 6), dtype="float32")
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(on_host(ours.eval()(on_device(x))), expected, rtol=1e-4, atol=1e-5)


def test_the_header_is_aligned_and_says_pt(tmp_path: Path) -> None:
    write_state({"a": np.zeros(3, "uint8"), "b": np.ones(2), "c": np.zeros(1, "float32")}, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0 and header["__metadata__"] == {"format": "pt"}
    sizes = {"U8": 1, "F64": 8, "F32": 4}
    tensors = [value for name, value in header.items() if name != "__metadata__"]
    assert all(value["data_offsets"][0] % sizes[value["dtype"]] == 0 for value in tensors)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    for state, message in (
        ({"a": np.ones(2, "complex64")}, "a is complex64, it must be floats"),
        ({"": np.ones(2)}, "must be text that is not empty"),
        ({"__metadata__": np.ones(2)}, "belongs to the format"),
        ({"a": np.array("text")}, "it must be floats"),
    ):
        with pytest.raises(ValueError, match=message):
            write_state(state, path)
    with pytest.raises(ValueError, match=r"must end in \.safetensors or \.npz"):
        write_state({}, tmp_path / "a.pth")
    with pytest.raises(TypeError, match="must be a Module, or a mapping"):
        write_state(3, path)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


# ---- in ----
def test_alphabetical_headers_are_put_back_into_the_order_of_modules(tmp_path: Path) -> None:
    names = sorted(f"body.{i}.{kind}" for i in (0, 2, 10) for kind in ("weight", "bias"))
    header = {name: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i, name in enumerate(names)}
    path = header_file(tmp_path / "a", header, bytes(range(6)))
    assert list(read_state(path)) == [f"body.{i}.{kind}" for i in (0, 2, 10) for kind in ("weight", "bias")]
    assert all(read_state(path)[name] == i for i, name in enumerate(names))
    kept = {name: header[name] for name in reversed(names)}
    assert list(read_state(header_file(tmp_path / "a", kept, bytes(6)))) == names[::-1]


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    values = np.array([1.0, -2.5, 0.15625, 3e38], "float32")
    data = (values.view("uint32") >> 16).astype("<u2").tobytes()
    found = read_state(header_file(tmp_path / "a", one(dtype="BF16", shape=[4], data_offsets=[0, 8]), data))["a"]
    np.testing.assert_array_equal(found, (values.view("uint32") & 0xFFFF0000).view("float32"))


LIES = {
    "shape": (one(shape=[3]), "needs 12 bytes, data_offsets"),
    "negative": (one(shape=[-2]), "shape must be a whole number from 0"),
    "fraction": (one(shape=[2.0]), "shape must be a whole number"),
    "truth": (one(shape=[True, 2]), "shape must be a whole number"),
    "huge": (one(shape=[1 << 40, 1 << 40]), "2\\^48 elements"),
    "outside": (one(shape=[4], data_offsets=[0, 16]), "the tensors end at byte 16 of 8"),
    "gap": (one(shape=[1], data_offsets=[4, 8]), "no gaps and no overlap"),
    "overlap": ({**one(), "b": one()["a"]}, "no gaps and no overlap"),
    "short": (one(shape=[1], data_offsets=[0, 4]), "the tensors end at byte 4 of 8"),
    "float8": (one(dtype="F8_E4M3", shape=[8]), "dtype \\(=F8_E4M3\\) must be one of F64"),
    "backwards": (one(data_offsets=[8, 0]), "needs 8 bytes"),
    "more": (one(extra=1), "it must have dtype, shape and data_offsets"),
    "entry": ({"a": 3}, "it must have dtype, shape and data_offsets"),
    "twice": (b'{"a":{},"a":{}}', "a name is there twice"),
    "not JSON": (b"{nothing}", "not JSON"),
    "not text": (b'{"\xff"}', "not JSON"),
    "deep": (b'{"a":' + b"[" * 200_000, "not JSON"),
}


@pytest.mark.parametrize("case", LIES)
def test_headers_that_lie(case: str, tmp_path: Path) -> None:
    header, message = LIES[case]
    with pytest.raises(FileFormatError, match=message):
        read_state(header_file(tmp_path / "a.safetensors", header, bytes(8)))


@pytest.mark.parametrize("length", [1 << 63, 100_000_001, 1000])
def test_the_length_of_the_header_is_checked_first(length: int, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"header: its length \(="):
        read_state(header_file(tmp_path / "a", one(), bytes(8), length))


def npy(header: str, data: bytes = bytes(8)) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def test_npz_archives_that_lie(tmp_path: Path) -> None:
    objects = io.BytesIO()
    np.lib.format.write_array(objects, np.array([{}], object), allow_pickle=True)
    cases = [
        (objects.getvalue(), "dtype object must be of floats"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"), "needs 8,000,000,000,000 bytes"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}"), "needs 8 bytes|not an array|none below 0"),
        (npy("{'descr': '<c16', 'fortran_order': False, 'shape': ()}"), "complex128 must be of floats"),
        (npy("{'descr': [('a', '<f4'), ('b', 'O')], 'fortran_order': False, 'shape': ()}"), "must be of floats"),
        (npy("__import__('os')"), "not an array"),
        (b"hello", "not an array"),
    ]
    for data, message in cases:
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("a.npy", data)
        with pytest.raises(FileFormatError, match=f"a.npz: 'a.npy': .*({message})"):
            read_state(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FileFormatError, match=r"'readme.txt' must end in \.npy"):
        read_state(tmp_path / "a.npz")


def test_compressed_npz(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(read_state(tmp_path / "a.npz")["a"], [[0, 1, 2], [3, 4, 5]])
