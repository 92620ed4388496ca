"""What stands beside the weights in a checkpoint, and around their names."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_files import MAGIC, VERSION, numbers, state, storage, tensor, text, zip_file

from npconv import FileFormatError, read_state
from npconv.interchange.reading import read_entry

FOUR = np.arange(4, dtype="<f4")
WEIGHT = tensor("0", 4, (4,), (1,))


def mapping(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


def file(path: Path, **values: bytes) -> Path:
    return zip_file(path, state(**values), {"0": FOUR.tobytes()})


def test_the_entry_that_was_taken(tmp_path: Path) -> None:
    path = file(tmp_path / "a", params=mapping(w=WEIGHT), params_ema=mapping(v=WEIGHT), other=mapping(u=WEIGHT))
    assert [(list(arrays), entry) for arrays, entry in (read_entry(path), read_entry(path, "other"))] == [
        (["v"], "params_ema"),
        (["u"], "other"),
    ]
    assert read_entry(file(tmp_path / "b", w=WEIGHT))[1] is None


def test_the_first_value_that_is_no_tensor_is_named(tmp_path: Path) -> None:
    mixed = mapping(w=WEIGHT, steps=b"I3\n", more=b"]")
    with pytest.raises(FileFormatError, match=r"no mapping of names to tensors \('steps' of 'state_dict' is int\): "):
        read_state(file(tmp_path / "a", state_dict=mixed, epoch=b"I3\n"))
    with pytest.raises(FileFormatError, match=r"no mapping of names to tensors \('epoch' is int\): "):
        read_state(file(tmp_path / "a", w=WEIGHT, epoch=b"I3\n"))
    with pytest.raises(FileFormatError, match=r"key \(='best'\) must name .* \('steps' of 'best' is int\); "):
        read_state(file(tmp_path / "a", best=mixed), key="best")


SCALAR = (
    b"cnumpy.%s.multiarray\nscalar\n"
    b"cnumpy\ndtype\n"
    + text("f8")
    + b"\x89\x88\x87R"
    + (b"(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
    + b"c_codecs\nencode\n"
    + text("12345678")
    + text("latin1")
    + b"\x86R\x86R"
)


@pytest.mark.parametrize("module", [b"core", b"_core"])
def test_numbers_of_numpys_beside_the_weights(module: bytes, tmp_path: Path) -> None:
    path = file(tmp_path / "a", state_dict=mapping(w=WEIGHT), best_psnr=SCALAR % module)
    np.testing.assert_array_equal(read_state(path)["w"], FOUR)
    with pytest.raises(FileFormatError, match=r"'best' is a value of NumPy's"):
        read_state(file(tmp_path / "a", w=WEIGHT, best=SCALAR % module))
    for code in (b"cnumpy\ndtype\n)R}b", b"cnumpy\ndtype\n}R"):
        with pytest.raises(FileFormatError, match=r"refused: attributes of a value of NumPy's|must be a tuple"):
            read_state(file(tmp_path / "a", w=WEIGHT, best=code))


@pytest.mark.parametrize("new", [True, False])
def test_numbers_of_numpys_as_pytorch_stores_them(new: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for protocol in range(2, 5):
        saved = {"best": np.float64(3.5), "at": np.int64(7), "state_dict": {"w": torch.ones(3)}}
        torch.save(saved, tmp_path / "a", pickle_protocol=protocol, _use_new_zipfile_serialization=new)
        np.testing.assert_array_equal(read_state(tmp_path / "a")["w"], [1, 1, 1])


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_legacy_files_in_any_protocol(protocol: int, tmp_path: Path) -> None:
    heads: tuple[Any, ...] = (MAGIC, VERSION, {"little_endian": True})
    data = b"".join(pickle.dumps(head, protocol) for head in heads) + state(w=WEIGHT) + pickle.dumps(["0"], protocol)
    (tmp_path / "a").write_bytes(data + (4).to_bytes(8, "little") + FOUR.tobytes())
    np.testing.assert_array_equal(read_state(tmp_path / "a")["w"], FOUR)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_prefixes_of_all_names_are_taken_off(prefix: str, tmp_path: Path) -> None:
    assert list(read_state(file(tmp_path / "a", **{f"{prefix}a.weight": WEIGHT, f"{prefix}b": WEIGHT}))) == [
        "a.weight",
        "b",
    ]
    names = [f"{prefix}a.weight", "b"]
    assert list(read_state(file(tmp_path / "a", **dict.fromkeys(names, WEIGHT)))) == names


def test_a_parameter_with_a_state_of_its_own(tmp_path: Path) -> None:
    made = b"ctorch._utils\n_rebuild_parameter_with_state\n(" + WEIGHT + b"\x88" + b"ccollections\nOrderedDict\n)R}tR"
    np.testing.assert_array_equal(read_state(file(tmp_path / "a", w=made))["w"], FOUR)
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.ones(3))
    weight.note = "mine"
    torch.save({"w": weight}, tmp_path / "a")
    np.testing.assert_array_equal(read_state(tmp_path / "a")["w"], [1, 1, 1])


def test_a_key_for_an_npz_is_no_damage(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=FOUR)
    with pytest.raises(ValueError, match=r"^key \(='x'\) has no meaning for an \.npz file") as error:
        read_state(tmp_path / "a.npz", key="x")
    assert not isinstance(error.value, FileFormatError)


def test_the_path_stands_once_and_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage("0", 4) + b"I0\n" + numbers((9,)) + numbers((1,)) + b"tR"
    zip_file(Path("pickle"), state(w=made), {"0": FOUR.tobytes()})  # the message too begins so
    with pytest.raises(FileFormatError, match=r"^pickle: pickle, byte"):
        read_state("pickle")
    Path("a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    with pytest.raises(FileFormatError, match=r"^a\.h5 is damaged or not an HDF5 file: at byte 24") as error:
        read_state("a.h5")
    assert str(error.value).count("a.h5 is") == 1
