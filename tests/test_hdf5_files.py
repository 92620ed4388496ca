"""HDF5 files where the file system has no locks, where somebody has locked them, and where they are open already."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from devices import on_host

import npconv as nc
from npconv import data, weights
from npconv.checkpoints import file as checkpoint_file
from npconv.data.stack_writers import new_stack
from npconv.data.stacks import open_stack
from npconv.hdf5_files import create_hdf5, read_hdf5

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
CALLS = {"x86_64": 73, "aarch64": 32}  # the number of flock in Linux
# Of Linux: prctl's and seccomp's numbers, and the four instructions "load the call's number; if it is flock's, fail".
NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2
LOAD, IF_EQUAL, RETURN, FAIL, ALLOW = 0x20, 0x15, 0x06, 0x00050000, 0x7FFF0000


class Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_ushort), ("so", ctypes.c_ubyte), ("otherwise", ctypes.c_ubyte), ("value", ctypes.c_uint32)
    ]  # fmt: skip


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(Instruction))]


@pytest.fixture(autouse=True)
def usual_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HDF5_USE_FILE_LOCKING", raising=False)


def refuse_locks(number: int) -> bool:
    """From now on, to this thread for good, flock says that error; whether that has worked."""
    steps = (LOAD, 0, 0, 0), (IF_EQUAL, 0, 1, CALLS[platform.machine()]), (RETURN, 0, 0, FAIL | number)
    instructions = (Instruction * 4)(*steps, (RETURN, 0, 0, ALLOW))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(NO_NEW_PRIVILEGES, ctypes.c_ulong(1), zero, zero, zero):
        return False
    return not libc.prctl(SET_SECCOMP, ctypes.c_ulong(FILTER), ctypes.byref(Program(4, instructions)), zero, zero)


@pytest.fixture(params=["ENOLCK", "EOPNOTSUPP"])
def without_locks(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Calls a function where flock fails as on NFS without lockd, and as on SMB."""
    if sys.platform != "linux" or platform.machine() not in CALLS:
        pytest.skip("takes flock away from a thread of Linux")

    def call(function: Callable[[], Any]) -> Any:
        with ThreadPoolExecutor(1) as thread:  # one that ends with it
            if not thread.submit(refuse_locks, getattr(errno, request.param)).result():
                pytest.skip("calls of the system cannot be filtered here")
            return thread.submit(function).result()

    return call


@pytest.fixture
def model() -> nc.Model:
    nc.manual_seed(0)
    return nc.Model(nc.Sequential(nc.Conv2d(3, 3, 3, padding=1)))


def bits(model: nc.Model) -> list[bytes]:
    return [on_host(array).tobytes() for array in model.network.state_dict().values()]


def test_models_and_checkpoints_without_locks(tmp_path: Path, model: nc.Model, without_locks: Any) -> None:
    def job() -> nc.Model:
        with pytest.raises(OSError, match="unable to lock file"):
            h5py.File(tmp_path / "theirs.h5", "w")
        model.save(tmp_path / "model.h5")
        checkpoint_file.write(tmp_path / "c.h5", {"a": 1}, {}, model.network, {})
        assert checkpoint_file.read(tmp_path / "c.h5").state == {"a": 1}
        return nc.Model.load(tmp_path / "model.h5")

    assert bits(without_locks(job)) == bits(model)


def test_images_without_locks(tmp_path: Path, without_locks: Any) -> None:
    def job() -> None:
        data.write_images(tmp_path / "photos.h5", list(IMAGES))
        data.write_pairs(tmp_path / "pairs.h5", IMAGES, IMAGES)
        assert np.array_equal(data.HDF5Photos(tmp_path / "photos.h5")[2], IMAGES[2])
        assert len(data.HDF5Pairs(tmp_path / "pairs.h5")) == 3
        with open_stack(tmp_path / "photos.h5") as stack, new_stack(tmp_path / "new.h5", stack) as target:
            target.write(slice(0, 3), slice(0, 8), slice(0, 8), IMAGES)
        assert np.array_equal(data.HDF5Photos(tmp_path / "new.h5")[1], IMAGES[1])

    without_locks(job)


@pytest.mark.parametrize("options", [{}, {"locking": False}])
def test_files_that_this_process_has_open_already(tmp_path: Path, model: nc.Model, options: Any) -> None:
    """HDF5 refuses to open a file with a lock and without one at once."""
    model.save(tmp_path / "model.h5")
    data.write_images(tmp_path / "photos.h5", list(IMAGES))
    with h5py.File(tmp_path / "model.h5", "r", **options), h5py.File(tmp_path / "photos.h5", "r", **options):
        assert bits(nc.Model.load(tmp_path / "model.h5")) == bits(model)
        assert np.array_equal(data.HDF5Photos(tmp_path / "photos.h5")[0], IMAGES[0])


def test_files_of_ours_that_are_open_can_be_opened_as_usual(tmp_path: Path) -> None:
    data.write_images(tmp_path / "photos.h5", list(IMAGES))
    photos = data.HDF5Photos(tmp_path / "photos.h5")
    with h5py.File(tmp_path / "photos.h5") as file:
        assert np.array_equal(file["images"][1], photos[1])


def test_what_another_process_writes_is_left_alone(tmp_path: Path, model: nc.Model) -> None:
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "model.h5"
    model.save(path)
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # of another opening, so as of another process
        with pytest.raises(nc.WeightsFileError, match=r"model\.h5 is locked by a process that may be writing it"):
            nc.load(path)
        model.save(path)  # takes the place of the locked one, and is no part of it
        assert bits(nc.Model.load(path)) == bits(model)


def test_a_library_that_cannot_do_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So says h5py where HDF5 is too old for the argument."""
    opened, asked = h5py.File, []

    def open_file(path: Any, mode: str, **options: Any) -> Any:
        asked.append(options)
        if "locking" in options:
            raise ValueError("h5py was built without file locking support")
        if os.fspath(path).endswith("refused.h5"):
            raise OSError("unable to lock file, errno = 37")
        return opened(path, mode, **options)

    monkeypatch.setattr(h5py, "File", open_file)
    with create_hdf5(tmp_path / "a.h5", track_order=False) as file:
        file["a"] = 1
    assert asked == [{"locking": False, "track_order": False}, {"track_order": False}]
    with read_hdf5(tmp_path / "a.h5") as file:
        assert file["a"][()] == 1
    with pytest.raises(OSError, match="errno = 37"):
        read_hdf5(tmp_path / "refused.h5")


def test_only_one_module_opens_hdf5_files() -> None:
    sources = Path(nc.__file__).parent.rglob("*.py")
    found = {path.name: path.read_text(encoding="utf-8").count("h5py.File(") for path in sources}
    assert {name: count for name, count in found.items() if count} == {"hdf5_files.py": 4, "weights.py": 1}
    assert 'driver="core"' in Path(weights.__file__).read_text(encoding="utf-8").partition("h5py.File(")[2][:40]
