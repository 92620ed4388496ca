"""The file of a checkpoint when the disk is full, read-only or gone; damaged and hostile files; what is left behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from devices import on_host
from small_disks import fill, mounted, remount

import npconv as nc
from npconv import whole_file as files
from npconv.checkpoints.file import read
from npconv.whole_file import remove_parts, whole_file

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)


class Stopped(Exception):
    """What ends a training in these tests."""


def model(channels: int = 4) -> nc.Model:
    nc.manual_seed(0)
    layers = nc.Conv2d(3, channels, 3, padding=1), nc.Dropout(0.2), nc.Conv2d(channels, 3, 3, padding=1)
    network = nc.Sequential(*layers)
    return nc.Model(network, optimizer=nc.Adam(network.parameters()))


def train(trained: nc.Model, **options: Any) -> list[nc.Epoch]:
    schedule = nc.CosineAnnealingLR(trained.optimizer, 10)
    held_out = IMAGES[:4], IMAGES[:4]
    return trained.train(IMAGES, IMAGES, 2, batch_size=4, seed=0, schedule=schedule, validation=held_out, **options)


def stop_after(steps: int) -> Any:
    count = iter(range(1, 100))

    def stop(*_: object) -> None:
        if next(count) == steps:
            raise Stopped

    return stop


def weights(trained: nc.Model) -> list[bytes]:
    return [on_host(array).tobytes() for array in trained.network.state_dict().values()]


# ---- a disk that does not take it ----
def refused_in_the_middle(place: Path, refuse: Any, message: str) -> None:
    """Train with a checkpoint in `place`, which after 4 steps takes no more: the one before that stays.

    It is told once, and training goes on to its end: the last checkpoint is the one that must be written.
    """
    path, count = place / "c.h5", iter(range(1, 100))

    def spoil(*_: object) -> None:
        if next(count) == 5:
            refuse()

    trained = model(64)
    told = pytest.warns(UserWarning, match=f"^training goes on, and tries again later: .*{message}")
    with told as warned, pytest.raises(nc.FileFormatError, match=message) as caught:
        train(trained, checkpoint=path, checkpoint_every="1 step", batch_callback=spoil)
    assert len(warned) == 1 and str(path) in str(warned[0].message) and len(trained.history) == 2
    assert str(path) in str(caught.value) and isinstance(caught.value, OSError)
    progress = read(path).state["progress"]
    assert (progress["done"], progress["epoch"]["steps"]) == (1, 1)  # 3 steps are an epoch
    assert not [name for name in os.listdir(place) if name.startswith(".")]


def test_a_full_disk(tmp_path: Path) -> None:
    place = tmp_path / "full"
    place.mkdir()
    with mounted(place, "size=512k"):
        refused_in_the_middle(
            place, lambda: fill(place), r"written: \[Errno 28\] No space left on device.*; the earlier one"
        )
        (place / "filler").unlink()
        alone, resumed = model(64), model(64)
        train(alone)
        train(resumed, resume_from=place / "c.h5")
        assert weights(resumed) == weights(alone)


def test_a_read_only_folder(tmp_path: Path) -> None:
    place = tmp_path / "read-only"
    place.mkdir()
    with mounted(place, "size=4m"):
        refused_in_the_middle(place, lambda: remount(place, "ro"), r"Read-only file system.*; the earlier one stays")
        with pytest.raises(nc.FileFormatError, match="Read-only file system"):
            train(model(), checkpoint=place / "new.h5", batch_callback=lambda *_: pytest.fail("a step"))


@pytest.mark.parametrize("place", ["write", "fsync", "replace"])
def test_the_disk_is_full_at_any_call(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nothing can be mounted: what the system refuses leaves the earlier checkpoint, and no parts."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def refuse() -> None:
        owner = Path if place == "write" else os
        monkeypatch.setattr(owner, "write_bytes" if place == "write" else place, full)

    refused_in_the_middle(tmp_path, refuse, "No space left on device")


def test_a_disk_that_is_full_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time it is told once; what is written afterwards is as if nothing had been."""
    path, calls, replace = tmp_path / "c.h5", iter(range(100)), os.replace
    refused = {2, 3, 5}  # 0 is the one before the first step

    def full_for_a_while(*names: Any) -> None:
        if next(calls) in refused:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*names)

    alone, trained, resumed = model(), model(), model()
    train(alone)
    monkeypatch.setattr(os, "replace", full_for_a_while)
    with pytest.warns(UserWarning, match="No space left") as warned:
        train(trained, checkpoint=path, checkpoint_every="1 step")
    assert len(warned) == 2 and weights(trained) == weights(alone) and read(path).state["finished"]
    refused.update(range(next(calls) + 2, 100))  # from the second step of the next one on
    with pytest.warns(UserWarning) as warned, pytest.raises(Stopped):
        train(model(), checkpoint=path, checkpoint_every="1 step", batch_callback=stop_after(3))
    assert [str(each.message).split(":")[0] for each in warned] == [
        "training goes on, and tries again later", "training has ended without a new checkpoint"
    ]  # fmt: skip
    monkeypatch.setattr(os, "replace", replace)
    train(resumed, resume_from=path)
    assert weights(resumed) == weights(alone) and not list(tmp_path.glob(".*"))


def test_the_folder_vanishes(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir()
    vanish = stop_after(10**6)

    def callback(*_: object) -> None:
        shutil.rmtree(place, ignore_errors=True)
        vanish()

    gone = r"c\.h5 cannot be written: .*No such file or directory"
    with pytest.warns(UserWarning, match=gone), pytest.raises(nc.FileFormatError, match=gone):
        train(model(), checkpoint=place / "c.h5", checkpoint_every="1 step", batch_callback=callback)
    assert not place.exists()


def test_an_interrupt_that_cannot_be_kept_stays_an_interrupt(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir()

    def interrupted(*_: object) -> None:
        shutil.rmtree(place)
        raise KeyboardInterrupt

    told = pytest.warns(UserWarning, match="has ended without a new checkpoint: .* cannot be written: .*No such file")
    with told, pytest.raises(KeyboardInterrupt):
        train(model(), checkpoint=place / "c.h5", batch_callback=interrupted)


# ---- what a process that was killed has left ----
def test_parts_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    number = int(gone.stdout)
    litter = [tmp_path / f".c.{number}-3.part.h5", tmp_path / f".c.{os.getpid()}-99999.part.h5"]
    others = [tmp_path / f".c.{os.getppid()}-1.part.h5", tmp_path / f".d.{number}-1.part.h5", tmp_path / ".c.h5"]
    for path in litter + others:
        path.write_bytes(b"half")
    train(model(), checkpoint=tmp_path / "c.h5")
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "c.h5"])
    long = tmp_path / ("x" * 250 + ".h5")
    with contextlib.suppress(Stopped), whole_file(long) as part:
        part.write_bytes(b"half")
        kept = part.rename(part.with_name(part.name.replace(f".{os.getpid()}-", f".{number}-")))
        raise Stopped
    assert kept.exists()
    remove_parts(long)
    assert not kept.exists()
    os.utime(others[0], (0, 0))  # the process has the number, but nobody writes for years
    remove_parts(tmp_path / "c.h5")
    assert not others[0].exists()
    remove_parts(tmp_path / "nowhere" / "c.h5")


def test_two_writers_in_one_process_do_not_meet(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as one, whole_file(tmp_path / "a") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
        remove_parts(tmp_path / "a")
        assert one.exists() and other.exists()
    assert (tmp_path / "a").read_text() == "one" and not files._under_way
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# ---- damaged and hostile files ----
@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "c.h5"
    with pytest.raises(Stopped):
        train(model(), checkpoint=path, batch_callback=stop_after(4))
    return path


def loads_rightly_or_says_why(path: Path) -> bool:
    """Whether it can be resumed; if not, that it is refused in words, and changes nothing."""
    trained = model()
    before = weights(trained), json.dumps(trained.optimizer.arguments()), len(trained.optimizer.state[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of other workers, as the file may say
            train(trained, resume_from=path, checkpoint=path.with_name("out.h5"))
    except ValueError as error:  # FileFormatError is one
        assert str(path) in str(error), error
        after = weights(trained), json.dumps(trained.optimizer.arguments()), len(trained.optimizer.state[0])
        assert after == before and trained.history == [], error
        return False
    except nc.TrainingCollapsed:
        return True  # wild numbers that are numbers
    return True


@pytest.mark.cpu  # what a file may hold does not depend on the backend
def test_cut_off_and_flipped(good: Path, tmp_path: Path) -> None:
    whole, path = good.read_bytes(), tmp_path / "c.h5"
    rng, refused = np.random.default_rng(0), 0
    for _ in range(40):
        path.write_bytes(whole[: rng.integers(len(whole))])
        assert not loads_rightly_or_says_why(path)
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        refused += not loads_rightly_or_says_why(path)
    assert refused > 10  # most bytes are weights, under checksums


NONSENSE: tuple[Any, ...] = (None, -1, 10**400, 1.5, float("nan"), float("inf"), "x", [], [1], {}, {"x": 1}, True)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where plain data has values, the data itself included; of lists, the first and the last place."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list) and value:
        for index in {0, len(value) - 1}:
            yield from places(value[index], (*path, index))


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    twin = dict(value) if isinstance(value, dict) else list(value)
    twin[path[0]] = replaced(value[path[0]], path[1:], by)
    return twin


def with_state(good: Path, path: Path, text: bytes) -> Path:
    shutil.copy(good, path)
    with h5py.File(path, "a") as file:
        del file["checkpoint/state"]
        values = np.frombuffer(text, np.uint8)
        file["checkpoint"].create_dataset("state", data=values, chunks=values.shape, fletcher32=True)
        file["checkpoint/state"].attrs["scalar"] = False
    return path


@pytest.mark.cpu  # what a file may hold does not depend on the backend
def test_nonsense_in_the_state(good: Path, tmp_path: Path) -> None:
    """Every value replaced by something else in turn: nothing but ValueError comes of it, and no change."""
    state = read(good).state
    found = list(places(state))
    rng, refused = np.random.default_rng(0), 0
    assert len(found) > 120
    for number in range(150):
        where = found[number % len(found)]
        text = json.dumps(replaced(state, where, NONSENSE[rng.integers(len(NONSENSE))]))
        refused += not loads_rightly_or_says_why(with_state(good, tmp_path / "c.h5", text.encode()))
    assert refused > 100


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("passed", (1e300, 0)),
        ("report", (1e300, 0)),
        ("share", (0,)),
        ("end", (-1.0, -1e300, 1e300, 0)),  # an epoch may be over
        ("seconds", ()),  # this training would be shorter
    ],
)
def test_nonsense_in_the_clock(name: str, taken: tuple[float, ...], tmp_path: Path) -> None:
    """A training by time ends, whatever a file says about its past."""
    options = {"batch_size": 4, "seconds": 0.02, "checkpoint": tmp_path / "good.h5"}
    model().train(IMAGES, IMAGES, **options)
    good = read(tmp_path / "good.h5").state
    where = ("fit", "seconds") if name == "seconds" else ("progress", "clock", name)
    for value in (-1.0, -1e300, float("inf"), -float("inf"), float("nan"), 1e300, None, 0):
        text = json.dumps({**replaced(good, where, value), "finished": False})
        path = with_state(tmp_path / "good.h5", tmp_path / "c.h5", text.encode())
        trained = model()
        with contextlib.nullcontext() if value in taken else pytest.raises(ValueError, match=re.escape(str(path))):
            trained.train(IMAGES, IMAGES, seconds=0.03, batch_size=4, resume_from=path)
        assert bool(trained.history) == (value in taken), value


@pytest.mark.parametrize("text", [b"[" * 100_000, b"null", b"\xff\xfe", b"{", b'{"fit": 1}'])
def test_a_state_that_is_none(text: bytes, good: Path, tmp_path: Path) -> None:
    with pytest.raises(nc.FileFormatError, match=r"c\.h5: the state of the training"):
        train(model(), resume_from=with_state(good, tmp_path / "c.h5", text))


def test_arrays_that_do_not_belong(good: Path, tmp_path: Path) -> None:
    def changed(name: str, values: np.ndarray | None) -> Path:
        path = tmp_path / "c.h5"
        shutil.copy(good, path)
        with h5py.File(path, "a") as file:
            if name in file:
                del file[name]
            if values is not None:
                file.create_dataset(name, data=values)
        return path

    for name, values in (
        ("optimizer/0.first", np.zeros((2, 2), "float32")),
        ("optimizer/0.first", np.zeros((4, 3, 3, 3), "float64")),
        ("optimizer/9.first", np.zeros(3, "float32")),
        ("optimizer/0.evil", np.zeros((4, 3, 3, 3), "float32")),
        ("optimizer/x", np.zeros(3, "float32")),
        ("parameters/0.weight", np.zeros((4, 3, 3, 5), "float32")),
        ("parameters/0.weight", None),
        ("best.parameters/0.weight", None),
        ("buffers/0.mean", np.zeros(3, "float32")),
        ("optimizer/0.first", np.array(b"text")),
    ):
        assert not loads_rightly_or_says_why(changed(name, values)), name
    assert loads_rightly_or_says_why(good)


def test_a_damaged_optimizer_or_architecture_is_seen_by_its_checksum(good: Path, tmp_path: Path) -> None:
    path, data = tmp_path / "c.h5", good.read_bytes()
    for old, new in ((b'"lr": 0.001', b'"lr": 0.009'), (b'"padding": [1, 1]', b'"padding": [1, 0]')):
        assert data.count(old) >= 1
        path.write_bytes(data.replace(old, new))
        for load in (read, nc.Model.load):
            with pytest.raises(nc.WeightsFileError, match=r"c\.h5 is damaged: its architecture or training is not as"):
                load(path)


@pytest.mark.parametrize("text", ["[1]", '"MSE"', "5", "true", "[]"])
def test_a_training_that_is_no_object(text: str, tmp_path: Path) -> None:
    """With a loss of one's own too, where the file's is not asked for."""
    model().save(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file.attrs["checksum"]
        file.attrs["training"] = text
    for loss in (None, nc.L1()):
        with pytest.raises(nc.WeightsFileError, match=r"a\.h5: its training \(=.*\) must be a JSON object"):
            nc.Model.load(tmp_path / "a.h5", loss=loss)
