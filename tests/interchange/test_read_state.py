"""Weights files of all kinds: what is in them, and what must not be read."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host
from make_weights import CONV, LEGACY, SAFETENSORS, VALUES, ZIP, tensors
from torch_files import legacy_file, numbers, state, storage, tensor, text, zip_file

import npconv as nc
from npconv import FileFormatError, read_state

FOUR = np.arange(4, dtype="<f4")
# The measuring data beside the project, where there is one.
DATA = Path(os.environ.get("NPCONV_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape), name
        np.testing.assert_array_equal(found[name], values, err_msg=name)
        assert found[name].flags.writeable and found[name].dtype.isnative


# ---- what PyTorch wrote ----
@pytest.mark.parametrize("path", [ZIP, LEGACY, SAFETENSORS], ids=lambda path: path.name)
def test_stored_files_of_pytorch(path: Path) -> None:
    found = read_state(path)
    output = found.pop("output")
    assert_same(found, VALUES)
    conv = nc.Conv2d(**CONV)
    nc.load_state(conv, {"weight": found["conv.weight"], "bias": found["conv.bias"]})
    np.testing.assert_allclose(on_host(conv(on_device(found["images"]))), output, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_files_of_the_installed_pytorch(new: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    weights, path = tensors(torch), tmp_path / "weights.pth"
    expected = {**VALUES, "output": weights["output"].numpy()}
    adam = torch.optim.Adam([weights["conv.weight"]])
    adam.param_groups[0]["betas"] = (0.9, 0.99)
    forms: list[tuple[Any, str | None]] = [
        (weights, None),
        ({"epoch": 3, "optimizer": adam.state_dict(), "state_dict": weights}, None),
        ({"params": {"w": torch.zeros(1)}, "params_ema": weights, "loss": [0.5, None, True]}, None),
        ({"here": {"there": weights}}, "here/there"),
        ({f"module.{name}": value for name, value in weights.items()}, None),
    ]
    for form, key in forms:
        torch.save(form, path, _use_new_zipfile_serialization=new)
        assert_same(read_state(path, key), expected)


def test_a_module_of_pytorch_keeps_its_order_and_its_metadata_does_no_harm(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    network = torch.nn.Sequential(*[torch.nn.Conv2d(1, 1, 1) for _ in range(12)], torch.nn.BatchNorm2d(1))
    torch.save(network.state_dict(), tmp_path / "a.pth")
    assert list(read_state(tmp_path / "a.pth")) == list(network.state_dict())
    torch.save(network, tmp_path / "b.pth")
    with pytest.raises(
        FileFormatError, match=r"b\.pth.*refused: torch\.nn\.modules\.container\.Sequential.*state_dict"
    ):
        read_state(tmp_path / "b.pth")


@pytest.mark.skipif(not (DATA / "weights").is_dir(), reason="the published weights are not beside the project")
def test_published_weights_bit_for_bit() -> None:
    found, expected = read_state(DATA / "weights/dncnn_25.pth"), read_state(DATA / "weights/dncnn_sigma25_gray.npz")
    assert len(found) == len(expected) == 34
    for layer in range(17):
        for ours, theirs in ((f"w{layer}", f"model.{2 * layer}.weight"), (f"b{layer}", f"model.{2 * layer}.bias")):
            assert found[theirs].shape == expected[ours].shape
            assert found[theirs].tobytes() == expected[ours].tobytes()


# ---- put together by hand ----
def test_both_byte_orders_and_deflated_entries(tmp_path: Path) -> None:
    pickled = state(a=tensor("0", 4, (2, 2), (1, 2)))
    big = {"0": FOUR.astype(">f4").tobytes()}
    files = [
        zip_file(tmp_path / "1", pickled, {"0": FOUR.tobytes()}, compression=zipfile.ZIP_DEFLATED),
        zip_file(tmp_path / "2", pickled, big, byteorder="big"),
        zip_file(tmp_path / "3", pickled, {"0": FOUR.tobytes()}, byteorder=None),
        legacy_file(tmp_path / "4", pickled, {"0": (4, FOUR.tobytes())}),
        legacy_file(tmp_path / "5", pickled, {"0": (4, FOUR.tobytes())}, little=False),
    ]
    for path in files:
        np.testing.assert_array_equal(read_state(path)["a"], [[0, 2], [1, 3]])


def test_a_view_of_a_storage_of_before_pytorch_0_4(tmp_path: Path) -> None:
    view = b"(" + text("v") + b"I1\nI2\nt"
    made = b"ctorch._utils\n_rebuild_tensor\n(" + storage("0", 4, view=view) + b"I0\n" + numbers((2,)) + numbers((1,))
    path = legacy_file(tmp_path / "a", state(a=made + b"tR"), {"0": (4, FOUR.tobytes())})
    np.testing.assert_array_equal(read_state(path)["a"], [1, 2])


ABSURD = {
    "past the end": (tensor("0", 4, (2, 3), (2, 1)), r"reach element 4, the storage has 4"),
    "offset": (tensor("0", 4, (2,), (1,), offset=3), r"reach element 4"),
    "negative stride": (tensor("0", 4, (2,), (-1,)), r"strides must be a whole number from 0"),
    "negative size": (tensor("0", 4, (-2,), (1,)), r"shape must be a whole number from 0"),
    "huge": (tensor("0", 4, (1 << 40, 1 << 40), (0, 0)), r"2\^48 elements"),
    "huge and empty": (tensor("0", 4, (0, 1 << 40, 1 << 40), (0, 0, 0)), r"2\^48 elements"),
    "expanded": (tensor("0", 4, (1 << 30,), (0,)), r"need 4,294,967,296 bytes and their storages have 16"),
    "axes": (tensor("0", 4, (1,) * 40, (1,) * 40), "at most 32"),
    "lopsided": (tensor("0", 4, (2, 2), (1,)), "as many axes"),
    "storage larger than the file": (tensor("0", 1 << 40, (2,), (1,)), r"bytes|not whole|elements"),
    "no storage": (tensor("1", 4, (2,), (1,)), r"not in the archive|not among the keys|belongs to no tensor"),
    "two sizes": (tensor("0", 4, (2,), (1,)) + text("b") + tensor("0", 5, (2,), (1,)), "float32 of 4, and then"),
    "unknown type": (tensor("0", 4, (2,), (1,), kind="ComplexFloatStorage"), r"refused: torch\.ComplexFloatStorage"),
    "float8": (b"ctorch\nfloat8_e4m3fn\n", r"refused: torch\.float8_e4m3fn"),
    "no tensor": (b"I5\n", r"the file holds a \(int\)|belongs to no tensor"),
}


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("case", ABSURD)
def test_tensors_that_cannot_be(case: str, form: str, tmp_path: Path) -> None:
    made, message = ABSURD[case]
    path = tmp_path / "weights.pth"
    if form == "zip":
        zip_file(path, state(a=made), {"0": FOUR.tobytes()})
    else:
        legacy_file(path, state(a=made), {"0": (4, FOUR.tobytes())})
    with pytest.raises(FileFormatError, match=message) as error:
        read_state(path)
    assert str(error.value).startswith(str(path))


def test_a_file_that_is_cut_or_changed_is_an_error_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "cut.bin"
    for source in (ZIP, LEGACY, SAFETENSORS):
        data = source.read_bytes()
        for length in range(0, len(data), 97):
            path.write_bytes(data[:length])
            with pytest.raises(FileFormatError, match=r"cut\.bin"):
                read_state(path)
        rng = np.random.default_rng(0)
        for place in rng.integers(0, len(data), 150):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.integers(8)]) + data[place + 1 :])
            try:
                read_state(path)  # a changed number, or name
            except FileFormatError as error:
                assert "cut.bin" in str(error)


def test_zip_archives_that_lie(tmp_path: Path) -> None:
    good = state(a=tensor("0", 4, (4,), (1,)))
    path = tmp_path / "a.pth"
    zip_file(path, good, {"0": FOUR.tobytes()[:-1]})
    with pytest.raises(FileFormatError, match=r"'archive/data/0' has 15 bytes, it must have 16"):
        read_state(path)
    large = state(a=tensor("0", 1 << 24, (1 << 24,), (1,)))
    zip_file(path, large, {"0": bytes(1 << 26)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(FileFormatError, match="would unpack to 67,10[0-9,]+: more than 8 times"):
        read_state(path)
    zip_file(path, good, {"0": FOUR.tobytes()}, compression=zipfile.ZIP_BZIP2)
    with pytest.raises(FileFormatError, match="must be stored or deflated"):
        read_state(path)
    zip_file(path, good, {"0": FOUR.tobytes()}, extra={"other/data.pkl": good})
    with pytest.raises(FileFormatError, match="2 entries NAME/data.pkl"):
        read_state(path)
    zip_file(path, good, {"0": FOUR.tobytes()}, byteorder="middle")
    with pytest.raises(FileFormatError, match="must be little or big"):
        read_state(path)
    many = {f"more/{i}": bytes(1 << 20) for i in range(20)}  # each small, and too much together
    zip_file(path, good, {"0": FOUR.tobytes()}, extra=many, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(FileFormatError, match="more than 8 times"):
        read_state(path)
    zip_file(path, good, {"0": FOUR.tobytes()})
    place = path.read_bytes().rindex(b"PK\x01\x02") + 20  # of the last entry: its size, packed and unpacked
    data = path.read_bytes()
    path.write_bytes(data[:place] + b"\xff\xff\xff\x7f" * 2 + data[place + 8 :])
    with pytest.raises(FileFormatError, match="the entries of the archive have 2,147,48[0-9,]+ bytes, the file has"):
        read_state(path)
    data = zip_file(path, good, {"0": FOUR.tobytes()}).read_bytes()
    path.write_bytes(data.replace(FOUR.tobytes(), FOUR[::-1].tobytes()))
    with pytest.raises(FileFormatError, match="CRC"):
        read_state(path)


def test_which_part_of_a_checkpoint(tmp_path: Path) -> None:
    inner = b"}(" + text("w") + tensor("0", 4, (4,), (1,)) + b"u"
    path = zip_file(tmp_path / "a", state(best=inner, epoch=b"I3\n", ema=b"]"), {"0": FOUR.tobytes()})
    with pytest.raises(FileFormatError, match=r"best \(a mapping of 1\), epoch \(int\), ema \(a list of 0\).*key="):
        read_state(path)
    assert list(read_state(path, key="best")) == ["w"]
    with pytest.raises(FileFormatError, match=r"key \(='ema'\) must name a mapping"):
        read_state(path, key="ema")


def test_what_is_no_weights_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with pytest.raises(FileFormatError, match="is not a file"):
        read_state(path)
    for data, message in ((b"", "neither"), (b"hello, world", "neither"), (b"\x80\x04N.", "torch.save did not write")):
        path.write_bytes(data)
        with pytest.raises(FileFormatError, match=message):
            read_state(path)
    with pytest.raises(TypeError, match="must be the name of a file"):
        read_state(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"key \(='a'\) has no meaning for a .safetensors file"):
        read_state(SAFETENSORS, key="a")


def test_our_own_files(tmp_path: Path) -> None:
    network = nc.Sequential(nc.Conv2d(1, 2, 3), nc.BatchNorm2d(2))
    nc.save(network, tmp_path / "a.h5")
    found, expected = read_state(tmp_path / "a.h5"), on_host(network.state_dict())
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    assert issubclass(nc.WeightsFileError, FileFormatError)
