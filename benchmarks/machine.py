"""What the figures were measured on."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from pathlib import Path


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cpp_compiler() -> str | None:
    """The C++ compiler that torch.compile needs, if there is one."""
    asked = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [asked] if asked else ["c++", "g++", "clang++", "cl"])), None)


def describe(threads: int) -> dict[str, str]:
    """CPU, system and Python, in words."""
    return {
        "cpu": f"{cpu_model()}, {cores()} cores, {threads} threads used",
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
