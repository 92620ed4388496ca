"""Files that are missing, damaged or something else: each row spoils a good file, and reads it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import npconv as nc


def net() -> nc.Sequential:
    return nc.Sequential(nc.Conv2d(3, 2, 3, padding=1), nc.ReLU(), nc.Conv2d(2, 3, 3, padding=1))


def set_attribute(name: str, value: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value
            del file.attrs["checksum"]

    return change


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path: Path) -> None:
    with h5py.File(path) as file:
        place = file["parameters/0.weight"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def remove(name: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[name]

    return change


def add(name: str, values: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file[name] = values

    return change


def replace(name: str, values: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        remove(name)(path)
        add(name, values)(path)

    return change


UNKNOWN = '{"type": "Sequential", "children": [["0", {"type": "os.system", "arguments": {}}]]}'
BAD_ARGUMENT = '{"type": "ReLU", "arguments": {"speed": 1}}'

FILES = [
    ("missing", lambda path: path.unlink(), r"net\.h5 is not a file"),
    ("text", lambda path: path.write_text("weights"), r"net\.h5 is damaged or not an HDF5 file"),
    ("empty", lambda path: path.write_bytes(b""), r"net\.h5 is damaged or not an HDF5 file"),
    ("truncated", cut, r"net\.h5 is damaged or not an HDF5 file"),
    ("flipped byte", flip_a_byte, r"net\.h5 is damaged.*(checksum|filter|read)"),
    ("format", set_attribute("format", "keras"), r"is not an npconv file \(format='keras'\)"),
    ("future version", set_attribute("version", 99), r"has version 99; this npconv reads 1"),
    ("architecture", set_attribute("architecture", "{"), r"the attribute architecture is not JSON"),
    ("unknown layer", set_attribute("architecture", UNKNOWN), r"architecture.*os\.system.*cannot be rebuilt"),
    ("unknown argument", set_attribute("architecture", BAD_ARGUMENT), r"ReLU.*speed.*cannot be rebuilt"),
    ("architecture a list", set_attribute("architecture", "[1, 2]"), r"\[1, 2\] cannot be rebuilt"),
    ("no architecture", set_attribute("architecture", "null"), r"has no architecture.*use load_into"),
    ("missing parameter", remove("parameters/2.bias"), r"does not fit.*\s+missing: parameters/2\.bias"),
    ("missing gradient", remove("gradients/2.bias"), r"does not fit.*\s+missing: gradients/2\.bias"),
    ("unexpected", add("parameters/9.bias", [1.0]), r"does not fit.*\s+unexpected: parameters/9\.bias"),
    ("mismatched", replace("parameters/2.bias", np.zeros(7, "float32")),
     r"mismatched: parameters/2\.bias is float32 \(3,\) in the network, float32 \(7,\) in the file"),
    ("a group", add("parameters/3/x", [1.0]), r"3 must be a dataset"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), [pytest.param(*row[1:], id=row[0]) for row in FILES])
def test_bad_file(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    nc.save(net(), path)
    nc.load(path)  # it is good before
    damage(path)
    with pytest.raises(nc.WeightsFileError, match=message):
        nc.load(path)


def test_a_file_that_does_not_fit_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    nc.save(nc.Sequential(nc.Conv2d(3, 2, 3), nc.ReLU(), nc.Conv2d(2, 4, 3)), path)
    network = net()
    before = network.state_dict()
    with pytest.raises(nc.WeightsFileError) as caught:
        nc.Model(network).load_pretrained_model(path)
    assert "mismatched: parameters/2.weight" in str(caught.value)
    assert "mismatched: gradients/2.bias" in str(caught.value)
    assert all(np.array_equal(before[name], value) for name, value in network.state_dict().items())


PATHS = [
    ("missing folder", lambda folder: nc.save(net(), folder / "no" / "net.h5"), nc.WeightsFileError,
     r"the folder it is in does not exist"),
    ("folder", lambda folder: nc.save(net(), folder), nc.WeightsFileError, r"it is a folder"),
    ("model", lambda folder: nc.save(nc.Model(net()), folder / "net.h5"), TypeError,
     r"a Model has a save of its own"),
    ("load folder", lambda folder: nc.load(folder), nc.WeightsFileError, r"is not a file"),
    ("Model.load", lambda folder: nc.Model.load(folder / "net.h5"), nc.WeightsFileError,
     r"net\.h5 is not a file"),
    ("save 5", lambda folder: nc.save(net(), 5), TypeError, r"path \(=5\) must be the name of a file"),
    ("load 5.5", lambda folder: nc.load(5.5), TypeError, r"path \(=5\.5\) must be the name of a file"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), [pytest.param(*row[1:], id=row[0]) for row in PATHS])
def test_bad_path(call: Callable[[Path], object], kind: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=message):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []
