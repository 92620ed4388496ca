"""HDF5 files whose datasets claim what the file does not hold, or lie elsewhere."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from devices import on_host

import npconv as nc
from npconv import weights

PLACE = "parameters/weight"


def saved(path: Path) -> Path:
    nc.save(nc.Conv2d(1, 1, 1), path)
    return path


def elsewhere(file: Any) -> None:
    with h5py.File(file.filename.replace("a.h5", "other.h5"), "w") as other:
        other["secret"] = np.ones((1, 1, 1, 1), "float32")


def external_link(file: Any) -> None:
    elsewhere(file)
    file[PLACE] = h5py.ExternalLink("other.h5", "secret")


def soft_link(file: Any) -> None:
    file[PLACE] = h5py.SoftLink("/gradients/weight")


def external_storage(file: Any) -> None:
    raw = file.filename.replace("a.h5", "raw")
    Path(raw).write_bytes(np.ones(1, "<f4").tobytes())
    file.create_dataset(PLACE, (1, 1, 1, 1), "<f4", external=[(raw, 0, 4)])


def virtual(file: Any) -> None:
    elsewhere(file)
    layout = h5py.VirtualLayout((1, 1, 1, 1), "<f4")
    layout[...] = h5py.VirtualSource("other.h5", "secret", (1, 1, 1, 1), "<f4")
    file.create_virtual_dataset(PLACE, layout)


def linked_group(file: Any) -> None:
    del file["parameters"]
    file["parameters"] = h5py.SoftLink("/gradients")


CASES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "huge": (lambda f: f.create_dataset(PLACE, (1 << 42,), "<f4", chunks=(1,)), "claims more bytes than the file has"),
    "huge, contiguous": (lambda f: f.create_dataset(PLACE, (1 << 42,), "<f4"), "claims more bytes than the file has"),
    "huge chunk": (
        lambda f: f.create_dataset(PLACE, (1,), "<f4", chunks=(1 << 28,), maxshape=(None,)), "claims more bytes"
    ),
    "text": (lambda f: f.create_dataset(PLACE, data=np.array([b"a"], "S1")), r"is \|S1, it must be floats"),
    "objects": (lambda f: f.create_dataset(PLACE, data="hello"), "is object, it must be floats"),
    "pairs": (lambda f: f.create_dataset(PLACE, data=np.zeros(1, "f4,f4")), "it must be floats"),
    "complex": (lambda f: f.create_dataset(PLACE, data=np.zeros(1, "c8")), "it must be floats"),
    "nothing": (lambda f: f.create_dataset(PLACE, data=h5py.Empty("f4")), "it must be floats"),
    "compressed": (
        lambda f: f.create_dataset(PLACE, data=np.zeros((1, 1, 1, 1), "f4"), compression="gzip"), "not compressed"
    ),
    "external link": (external_link, "must be a dataset, and no link to one"),
    "soft link": (soft_link, "must be a dataset, and no link to one"),
    "external storage": (external_storage, "must be in the file itself"),
    "virtual": (virtual, "must be in the file itself"),
    "group": (lambda f: f.create_group(PLACE), "must be a dataset, and no link to one"),
    "linked group": (linked_group, "parameters must be a group, and no link to one"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_datasets_that_are_not_the_files_own_numbers(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = CASES[case]
    path = saved(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        del file[PLACE]
        change(file)
    network = nc.Conv2d(1, 1, 1)
    before = on_host(network.state_dict())
    reads: tuple[Callable[[], Any], ...] = (
        lambda: nc.load(path), lambda: weights.load_into(network, path), lambda: nc.read_state(path),
    )  # fmt: skip
    for read in reads:
        tracemalloc.start()
        try:
            with pytest.raises(nc.WeightsFileError, match=f"{message}"):
                read()
            assert tracemalloc.get_traced_memory()[1] < 1e7
        finally:
            tracemalloc.stop()
    for name, values in on_host(network.state_dict()).items():
        np.testing.assert_array_equal(values, before[name])


def test_shapes_are_compared_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.h5")
    monkeypatch.setattr(weights, "_values", lambda dataset: pytest.fail("it was read"))
    with pytest.raises(nc.WeightsFileError, match=r"parameters/weight is float32 \(2, 1, 1, 1\) in the network"):
        weights.load_into(nc.Conv2d(1, 2, 1), path)


def test_too_little_memory_is_an_error_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dataset: Any) -> None:
        raise MemoryError

    path = saved(tmp_path / "a.h5")
    monkeypatch.setattr(weights, "_values", fail)
    for read in (nc.load, nc.read_state):
        with pytest.raises(nc.WeightsFileError, match=r"a\.h5 needs more memory than there is"):
            read(path)


def test_attributes_that_are_none_of_ours(tmp_path: Path) -> None:
    for name, value in (("format", np.zeros(3)), ("version", np.zeros(3)), ("architecture", np.zeros(3))):
        path = saved(tmp_path / "a.h5")
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value
        with pytest.raises(nc.WeightsFileError):
            nc.load(path)
    path = saved(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file[PLACE].attrs["scalar"] = np.zeros(3)
    np.testing.assert_array_equal(nc.read_state(path)["weight"].shape, (1, 1, 1, 1))
