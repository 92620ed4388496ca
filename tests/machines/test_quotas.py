"""Quotas of CPU time, as containers have them: files as Linux shows them, made up here in many layouts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from npconv.backends import cpu
from npconv.backends.cpu import NumpyBackend, cores, workers

pytestmark = pytest.mark.cpu

PROC, MOUNT = "proc/self/cgroup", "sys/fs/cgroup/"
V1_HOST = "12:cpuset:/\n4:cpu,cpuacct:/docker/ab12\n1:name=systemd:/docker/ab12\n0::/docker/ab12\n"


def v1(folder: str, quota: str, period: str = "100000") -> dict[str, str]:
    return {f"{MOUNT}{folder}/cpu.cfs_quota_us": quota + "\n", f"{MOUNT}{folder}/cpu.cfs_period_us": period + "\n"}


def v2(quota: str, way: str = "/", folder: str = "") -> dict[str, str]:
    return {PROC: f"0::{way}\n", f"{MOUNT}{folder}cpu.max": quota + "\n"}


LAYOUTS: dict[str, tuple[dict[str, str | bytes], int | None]] = {
    "nothing": ({}, None),
    "v2, none": (v2("max 100000"), None),
    "v2, half a core": (v2("50000 100000"), 1),
    "v2, one and a half": (v2("150000 100000"), 2),
    "v2, two": (v2("200000 100000"), 2),
    "v2, a short period": (v2("1000 2000"), 1),
    "v2, another period": (v2("150000 50000"), 3),
    "v2, a thousandth": (v2("1000 1000000"), 1),
    "v2, its own cgroup": (v2("300000 100000", "/user.slice/job", "user.slice/job/"), 3),
    "v2, the one above": ({**v2("max 100000", "/a/b", "a/b/"), f"{MOUNT}a/cpu.max": "400000 100000\n"}, 4),
    "v2, the least of several": (
        {**v2("300000 100000", "/a/b/c", "a/b/c/"), f"{MOUNT}a/cpu.max": "200000 100000", f"{MOUNT}cpu.max": "9 1"},
        2,
    ),
    "v2, another's": (v2("100000 100000", "/a", "b/"), None),
    "v2, the host's way in a container": (v2("200000 100000", "/docker/ab12"), 2),
    "v2, outside of the namespace": (v2("200000 100000", "/../../other"), 2),
    "v2, not out of the mount": ({PROC: "0::/../../..\n", "cpu.max": "100000 100000"}, None),
    "v2, no way told": ({f"{MOUNT}cpu.max": "200000 100000\n"}, 2),
    "v2, a name that is no text": ({**v2("max 1"), PROC: b"0::/\xff\xfe\n", f"{MOUNT}cpu.max": "100000 100000"}, 1),
    "v1": ({PROC: V1_HOST, **v1("cpu,cpuacct/docker/ab12", "250000")}, 3),
    "v1, in a container": ({PROC: V1_HOST, **v1("cpu", "50000")}, 1),
    "v1, the other name": ({PROC: V1_HOST, **v1("cpuacct,cpu", "200000")}, 2),
    "v1, alone": ({PROC: "1:cpu:/a\n", **v1("cpu/a", "200000", "50000")}, 4),
    "v1, none": ({PROC: V1_HOST, **v1("cpu", "-1")}, None),
    "v1, the one above": ({PROC: V1_HOST, **v1("cpu/docker/ab12", "-1"), **v1("cpu/docker", "100000")}, 1),
    "v1, no period": ({PROC: V1_HOST, f"{MOUNT}cpu/cpu.cfs_quota_us": "50000"}, None),
    "both, as in a hybrid": ({**v2("max 100000", folder="unified/"), PROC: V1_HOST, **v1("cpu", "200000")}, 2),
    **{
        f"nonsense {i}": ({**v2(text), **v1("cpu", text)}, None)
        for i, text in enumerate(("", "\n", "many few", "0 100000", "50000 0", "-5 -5", "1 2 3", "1.5 1", "\x00 \x00"))
    },
    "far too large a number": (v2("9" * 5000 + " 1"), None),
    "a number beyond all": (v2("1" + "0" * 400 + " 1"), 10**400),
    "no lines of the kind": ({PROC: "nonsense\n:::\n0\n4:cpu\n", f"{MOUNT}cpu.max": "200000 100000\n"}, 2),
}


@pytest.fixture
def made(tmp_path: Path) -> Callable[[dict[str, str | bytes]], str]:
    def make(files: dict[str, str | bytes]) -> str:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return str(tmp_path)

    return make


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_the_files_say(name: str, made: Callable[[dict[str, str | bytes]], str]) -> None:
    files, expected = LAYOUTS[name]
    if name == "far too large a number" and not hasattr(sys, "get_int_max_str_digits"):
        expected = int("9" * 5000)
    assert cores.quota_cores(made(files)) == expected


@pytest.mark.parametrize("unread", [PROC, MOUNT + "cpu.max", MOUNT + "a/cpu.max"])
def test_what_cannot_be_read_is_no_quota_and_hides_no_other(
    unread: str, made: Callable[[dict[str, str | bytes]], str], tmp_path: Path
) -> None:
    files: dict[str, str | bytes] = {**v2("200000 100000", "/a", "a/"), MOUNT + "cpu.max": "300000 100000"}
    del files[unread]
    (tmp_path / unread).mkdir(parents=True)  # root may read any file, but nobody a folder
    assert cores.quota_cores(made(files)) == {MOUNT + "cpu.max": 2}.get(unread, 3)


def test_it_is_asked_once_and_takes_no_time(made: Callable[[dict[str, str | bytes]], str], tmp_path: Path) -> None:
    root = made(v2("200000 100000", "/a/b/c/d/e/f", "a/b/c/d/e/f/"))
    times = []
    for _ in range(20):
        cores.quota_cores.cache_clear()
        began = time.perf_counter()
        assert cores.quota_cores(root) == 2
        times.append(time.perf_counter() - began)
    assert min(times) < 0.001
    (tmp_path / MOUNT / "a/b/c/d/e/f/cpu.max").unlink()
    assert cores.quota_cores(root) == 2


# ---- what comes of it ----
@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.delenv("NPCONV_THREADS", raising=False)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("quota", "count"), [(None, 8), (1, 1), (3, 3), (8, 8), (20, 8)])
def test_there_are_as_many_workers_as_a_quota_is_worth(
    quota: int | None, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (cores, cpu):
        monkeypatch.setattr(module, "quota_cores", lambda: quota)
    assert workers.thread_count() == cores.usable_cores() == count
    said = f"{count} worker thread(s) (the container's quota of CPU time; it may run on 8 cores), BLAS"
    assert (said in NumpyBackend().describe()) is (count < 8)
    monkeypatch.setenv("NPCONV_THREADS", "5")
    assert workers.thread_count() == 5 and "5 worker thread(s), BLAS" in NumpyBackend().describe()


@pytest.mark.usefixtures("eight_cores")
def test_a_quota_bounds_the_blas_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It starts a thread for each core that it may run on, whatever the quota."""
    monkeypatch.setattr(cores, "quota_cores", lambda: 2)
    bounded: list[int] = []
    monkeypatch.setattr(workers.BlasThreads, "set", lambda _, count: bounded.append(count))
    workers.WorkerPool(workers.thread_count())
    assert bounded == [2]


@pytest.mark.usefixtures("eight_cores")
def test_python_3_13_may_have_been_told_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """By PYTHON_CPU_COUNT or -X cpu_count, which this function of its looks at."""
    monkeypatch.setattr(cores, "quota_cores", lambda: None)
    told: int | None
    for told, count in ((5, 5), (None, 1)):
        monkeypatch.setattr(os, "process_cpu_count", lambda told=told: told, raising=False)
        assert cores.usable_cores() == count
