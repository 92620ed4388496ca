"""What the stand-in counts, which stream is current, and how an operation reaches the device or a graph.

While a stream is captured nothing is computed: results hold garbage (NaN), and each operation becomes a step of the
graph. What CUDA or CuPy refuses then is refused here.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Counts:
    """What costs time on a device, since `reset`."""

    to_device: int = 0  # copies from the host
    to_device_bytes: int = 0
    to_host: int = 0  # copies to the host, float(a) and bool(a) among them
    to_host_bytes: int = 0
    synchronisations: int = 0  # the host waited for the device
    launches: int = 0  # kernels, copies on the device and matrix products, one by one
    graph_launches: int = 0
    kernels: dict[str, int] = field(default_factory=dict)  # RawModule's kernels, by name


class Memory:
    """What an array and its views share; it knows its pool (None: the default one)."""

    def __init__(self) -> None:
        self.pool: Any = current.pool
        self.number = next(_numbers)


_numbers = itertools.count()


class CaptureError(RuntimeError):
    """What a stream under capture cannot do, or what makes a graph wrong."""


class Capture:
    """The steps of a graph in the making, and the memory that they touch."""

    def __init__(self) -> None:
        self.steps: list[Callable[[], None]] = []
        # By number: the memory, was it made within, and its pool.
        self.memories: dict[int, tuple[weakref.ref[Memory], bool, Any]] = {}

    def add(self, step: Callable[[], None], memories: Sequence[Memory]) -> None:
        self.steps.append(step)
        for memory in memories:
            self.memories.setdefault(memory.number, (weakref.ref(memory), False, memory.pool))

    def made(self, memory: Memory) -> None:
        self.memories[memory.number] = (weakref.ref(memory), True, memory.pool)


class State:
    """One thread's worth: the stand-in is used from one thread at a time."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.streams: list[Any] = []  # those of `with stream:`, the innermost last
        self.default_stream: Any = None
        self.capturing: Any = None  # the stream under capture
        self.pool: Any = None


current = State()


def counts() -> Counts:
    """What was counted since `reset`."""
    return current.counts


def reset() -> None:
    """Count from zero."""
    current.counts = Counts()


def current_stream() -> Any:
    return current.streams[-1] if current.streams else current.default_stream


def capture() -> Capture | None:
    """The capture that operations on the current stream go to."""
    stream, capturing = current_stream(), current.capturing
    if capturing is None:
        return None
    if stream is capturing:
        return capturing.recording
    if stream.is_null and not capturing.non_blocking:
        raise CaptureError("an operation on the null stream while a blocking stream is captured")
    return None


def run(step: Callable[[], None], memories: Sequence[Memory]) -> None:
    """One operation that writes to memory of the device: now, or as a step of the graph that is captured."""
    recording = capture()
    if recording is not None:
        recording.add(step, memories)
        return
    current.counts.launches += 1
    with np.errstate(all="ignore"):  # a device warns of nothing
        step()


def refuse_capture(what: str) -> None:
    """For what waits for the device, or reads memory of the host."""
    if capture() is not None:
        raise CaptureError(f"{what}: the current stream is capturing, so synchronous API calls are disallowed")


def to_device(size: int) -> None:
    """Count a copy of `size` bytes from the host."""
    refuse_capture("copy from the host")
    current.counts.to_device += 1
    current.counts.to_device_bytes += size


def to_host(size: int) -> None:
    """Count a copy of `size` bytes to the host, which waits for it."""
    refuse_capture("copy to the host")
    current.counts.to_host += 1
    current.counts.to_host_bytes += size
    current.counts.synchronisations += 1


def synchronised(what: str) -> None:
    """Count a wait of the host for the device."""
    refuse_capture(what)
    current.counts.synchronisations += 1
