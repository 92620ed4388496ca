"""How many cores this process may use: those that it may run on, and no more than its quota of their time is worth.

A container with a quota (docker --cpus=2) runs on every core of its host, and stands still for the rest of each period
when it has used up its share: as many workers as the host has cores would spend it on waiting for each other.

Linux tells of quotas in files. A process is in a cgroup, which is in others, and each may have one; the least counts:

    /proc/self/cgroup                        0::/a/b             the way to the cgroup, from the mount; version 2
                                             4:cpu,cpuacct:/a/b  of version 1
    /sys/fs/cgroup/a/b/cpu.max               50000 100000        microseconds in each period of so many, or "max"
    /sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us  50000               or -1
    /sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us 100000

In a container the way may be that of the host, where the mount shows nothing but the container's own cgroup: what is
not there is passed over, up to the mount.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

LONGEST = 100_000  # bytes of a file that are looked at
V1_MOUNTS = ("cpu", "cpu,cpuacct", "cpuacct,cpu")


def usable_cores() -> int:
    """The cores that this process may use: the least of `runnable_cores` and `quota_cores`."""
    runnable, quota = runnable_cores(), quota_cores()
    return runnable if quota is None else min(runnable, quota)


def runnable_cores() -> int:
    """The cores this process may run on, which can be fewer than the machine has.

    From Python 3.13 on PYTHON_CPU_COUNT, and `-X cpu_count`, tell how many, as everywhere in Python.
    """
    if hasattr(os, "sched_getaffinity"):
        with contextlib.suppress(OSError):  # a sandbox may forbid to ask
            told = getattr(os, "process_cpu_count", None)
            return (told() or 1) if told is not None else len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@lru_cache(maxsize=8)
def quota_cores(root: str = "/") -> int | None:
    """The cores that keep busy for the time this process may use, rounded up; None where there is no quota.

    Asked once. root: the folder that proc and sys/fs/cgroup are in. What cannot be read, or understood, is no quota.
    """
    mount = Path(root, "sys/fs/cgroup")
    v1, v2 = _ways(Path(root, "proc/self/cgroup"))
    found = [_v2_cores(folder) for folder in _upwards(mount, v2)]
    found += [_v1_cores(folder) for name in V1_MOUNTS for folder in _upwards(mount / name, v1)]
    return min((cores for cores in found if cores is not None), default=None)


def _ways(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names on the way to this process's cgroup, of versions 1 and 2; none if it is not told, or the mount's."""
    v1: tuple[str, ...] = ()
    v2: tuple[str, ...] = ()
    with contextlib.suppress(OSError):
        for line in _start_of(path).splitlines():
            number, _, rest = line.partition(b":")
            controllers, _, way = rest.partition(b":")
            names = tuple(name for name in os.fsdecode(way).split("/") if name)
            if ".." in names:  # it is outside of what this process sees
                continue
            if number == b"0" and not controllers:
                v2 = names
            elif b"cpu" in controllers.split(b","):
                v1 = names
    return v1, v2


def _upwards(mount: Path, names: tuple[str, ...]) -> Iterator[Path]:
    for count in range(len(names), -1, -1):
        yield mount.joinpath(*names[:count])


def _v2_cores(folder: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        quota, period = _start_of(folder / "cpu.max").split()
        return _rounded_up(int(quota), int(period))
    return None


def _v1_cores(folder: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        quota = int(_start_of(folder / "cpu.cfs_quota_us"))
        return _rounded_up(quota, int(_start_of(folder / "cpu.cfs_period_us")))
    return None


def _rounded_up(quota: int, period: int) -> int | None:
    return max(1, -(-quota // period)) if quota > 0 and period > 0 else None


def _start_of(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(LONGEST)
