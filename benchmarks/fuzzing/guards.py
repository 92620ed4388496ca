"""What is watched while a hostile file is read: memory, time, files opened, programs and code started."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys
import time
from pathlib import Path
from typing import Any

IN_OPEN = 0x20
ROOM = 2 << 30  # bytes of address space beyond what the process has when it begins: a guard, not the limit
# Events that read nothing and start nothing, among them what an import does; mmap maps a file opened before.
HARMLESS = ("import", "marshal.loads", "compile", "code.__new__", "object.", "sys._getframe", "gc.", "cpython.")
HARMLESS += ("os.listdir", "os.scandir", "os.walk", "mmap.__new__", "time.sleep", "builtins.id", "array.__new__")


class Watch:
    """Between `start` and `stop`, notes what a reader does that it should not."""

    def __init__(self, inputs: Path, outside: Path) -> None:
        self._inputs, self._armed = str(inputs), False
        self._code = tuple({str(Path(p).resolve()) for p in (sys.prefix, sys.base_prefix, Path(__file__).parents[2])})
        self.faults: list[str] = []
        self._events = _Opened([path for path in outside.iterdir() if path.is_file()])
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._armed or event.startswith(HARMLESS):
            return
        if event == "open":
            path, mode = args[0], args[1]
            read_only = mode is None or not set(str(mode)) & set("wax+")
            if isinstance(path, int) or (read_only and str(path).startswith((self._inputs, *self._code))):
                return
        elif event == "exec" and getattr(args[0], "co_filename", "").startswith((*self._code, "<frozen")):
            return  # a module of a library, imported only now
        self.faults.append(f"{event}{tuple(str(arg)[:100] for arg in args)}")

    def start(self) -> None:
        self.faults.clear()
        self._events.read()
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts anew
        self._began, self._memory, self._armed = time.perf_counter(), _status("VmRSS"), True

    def stop(self) -> tuple[float, int]:
        """Seconds, and by how many bytes memory grew at the most."""
        self._armed = False
        seconds, grown = time.perf_counter() - self._began, _status("VmHWM") - self._memory
        self.faults += [f"opened {name}" for name in self._events.read()]
        return seconds, max(0, grown)


def limit_memory() -> None:
    """Let allocations of absurd sizes fail, so that the machine survives the test; a failure counts as a fault."""
    most = _status("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


class _Opened:
    """Which of some files were opened, by whatever library: Linux's inotify sees what no hook of Python's does."""

    def __init__(self, paths: list[Path]) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self._handle = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._names = {library.inotify_add_watch(self._handle, os.fsencode(p), IN_OPEN): p.name for p in paths}
        if self._handle < 0 or min(self._names, default=0) < 0:
            raise OSError("inotify cannot be used here")

    def read(self) -> list[str]:
        try:
            data = os.read(self._handle, 1 << 16)
        except BlockingIOError:
            return []
        found, at = [], 0
        while at < len(data):
            watch, _, _, length = struct.unpack_from("iIII", data, at)
            found.append(self._names.get(watch, "?"))
            at += 16 + length
        return sorted(set(found))
