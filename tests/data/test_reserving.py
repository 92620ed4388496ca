"""Room on the disk for files that are mapped, where the system cannot be asked for it: macOS, some file systems."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from small_disks import mounted

from npconv.data import file_array
from npconv.data.file_array import reserve
from npconv.data.layouts import Layout
from npconv.data.stack_writers import new_stack
from npconv.data.stacks import Stack

SHAPE = (4, 1, 256, 256)  # a byte each


@pytest.fixture(params=["no such call", errno.EOPNOTSUPP, errno.EINVAL])
def unreserved(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """posix_fallocate, as macOS (it has none) and as musl and some file systems have it."""
    if os.name == "nt":
        pytest.skip("files have no holes there")

    def refuse(*_: int) -> None:
        raise OSError(request.param, "no")

    if request.param == "no such call":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)


def stack() -> Stack:
    # Of a PNG: of others it is asked beforehand whether the disk has that room at the moment.
    return Stack(Path("x.png"), np.zeros(SHAPE, np.uint8), Layout("NCHW"), np.dtype(np.uint8), SHAPE)


@pytest.mark.parametrize("ending", ["npy", "tif"])
def test_a_full_disk_is_an_error_before_anything_is_computed(tmp_path: Path, unreserved: None, ending: str) -> None:
    if ending == "tif":
        pytest.importorskip("tifffile")
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "size=100k"):
        with (
            pytest.raises(OSError, match="has too little room for") as caught,
            new_stack(place / f"a.{ending}", stack()),
        ):
            raise AssertionError("there is no room for it")
        assert caught.value.errno == errno.ENOSPC and list(place.iterdir()) == []


@pytest.mark.parametrize("ending", ["npy", "tif"])
def test_with_room_there_are_no_holes(tmp_path: Path, unreserved: None, ending: str) -> None:
    if ending == "tif":
        pytest.importorskip("tifffile")
    place = tmp_path / "disk"
    place.mkdir()
    with mounted(place, "size=1m"):
        values = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
        with new_stack(place / f"a.{ending}", stack()) as target:
            (part,) = place.iterdir()
            assert part.stat().st_blocks * 512 >= part.stat().st_size > values.size
            target.write(slice(0, 4), slice(0, 256), slice(0, 256), values)
        assert (place / f"a.{ending}").read_bytes().count(values.tobytes()) == 1


def test_what_a_file_has_stays(tmp_path: Path, unreserved: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_array, "_BLOCK", 1000)
    path, contents = tmp_path / "a", bytes(range(256)) * 10
    with open(path, "wb") as file:
        file.write(contents)
        file.truncate(7777)
        file.seek(5000)
        file.write(b"in the middle")
    before = path.read_bytes()
    reserve(path)
    assert path.read_bytes() == before and len(before) == 7777


def test_an_empty_file_needs_no_room(tmp_path: Path, unreserved: None) -> None:
    (tmp_path / "a").touch()
    reserve(tmp_path / "a")
    assert (tmp_path / "a").stat().st_size == 0
