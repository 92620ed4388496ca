"""How much more memory a process takes at its peak while it does some work. Run in a fresh worker process."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable

from flat_memory import children_of

RESET = "peak resident memory, reset before the steps"
GROWN = "rise of the process's peak (it cannot be reset on this system: a lower bound)"


def extra_memory(work: Callable[[], object], times: int) -> tuple[int, str]:
    """(bytes, how they were found): the peak resident memory while `work` runs, less that before.

    The most of any of the `times`, this process and its children together. On Linux the peak is reset before each:
    writing 5 to /proc/self/clear_refs does that (proc(5)). Elsewhere a peak before the work hides as much of the
    work's. Raises OSError where no peak can be read (Windows).
    """
    gc.collect()
    can_reset = _reset_peak()
    before, most = _peak(), 0
    for _ in range(times):
        _reset_peak()
        work()
        most = max(most, _peak() - before + _of_children())
    return most, RESET if can_reset else GROWN


def _of_children() -> int:
    """What worker processes of the work have for themselves: what they share is in our own memory already."""
    total = 0
    for child in children_of(os.getpid()) if os.path.isdir("/proc/self") else []:
        with contextlib.suppress(OSError), open(f"/proc/{child}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Private_"))
    return total


def _reset_peak() -> bool:
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
        file.flush()
        return True
    return False


def _peak() -> int:
    """The peak resident memory in bytes."""
    with contextlib.suppress(FileNotFoundError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError as error:
        raise OSError("the peak memory of a process cannot be read on this system") from error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
