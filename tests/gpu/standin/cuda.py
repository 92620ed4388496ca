"""`cupy.cuda` of the stand-in: streams, events, graphs, pools, the device, and kernels through the emulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import emulator, state
from .ndarray import ndarray, operand
from .state import Capture, CaptureError


class CUDARuntimeError(RuntimeError):
    """As CuPy's."""

    def __init__(self, status: int = 1, message: str = "cudaErrorInvalidValue") -> None:
        super().__init__(message)
        self.status = status


class Stream:
    """A queue that is always empty: work is done when it is put there."""

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        self.is_null, self.non_blocking = null, non_blocking
        self.recording: Capture | None = None
        self.ptr = 0 if null else id(self)

    def __enter__(self) -> Stream:
        state.current.streams.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        state.current.streams.pop()

    def use(self) -> Stream:
        if state.current.streams:
            raise RuntimeError("use() within `with stream:`")
        state.current.default_stream = self
        return self

    @property
    def done(self) -> bool:
        return True

    def synchronize(self) -> None:
        if self.recording is not None:
            raise CaptureError("cudaErrorStreamCaptureUnsupported: synchronize() while the stream is captured")
        state.current.counts.synchronisations += 1

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Nothing is under way that could be waited for."""

    def is_capturing(self) -> bool:
        return self.recording is not None

    def begin_capture(self, mode: Any = None) -> None:
        if self.is_null:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if state.current.capturing is not None:
            raise CaptureError("cudaErrorIllegalState: a stream is captured already")
        self.recording = Capture()
        state.current.capturing = self

    def end_capture(self) -> Graph:
        if self.recording is None:
            raise CaptureError("cudaErrorIllegalState: the stream is not captured")
        graph, self.recording, state.current.capturing = Graph(self.recording), None, None
        return graph


class Graph:
    """What was captured, to be done again and again with the same memory."""

    def __init__(self, recording: Capture) -> None:
        self._steps = recording.steps
        self._memories = recording.memories

    def launch(self, stream: Stream | None = None) -> None:
        """Do all steps.

        A graph holds addresses, not arrays. CaptureError if an array is gone that the graph reads or writes: on a
        device its memory would be in use by another one. Only memory made during the capture, from a pool of its
        own, may be given back: nobody else gets it.
        """
        if state.capture() is not None:
            raise CaptureError("a graph launched within a capture")
        for reference, made_within, pool in self._memories.values():
            if reference() is not None or (made_within and pool is not None):
                continue
            if made_within:
                raise CaptureError("memory made during the capture went back to the default pool: capture with a pool "
                                   "of its own (cupy.cuda.using_allocator), or allocate before")  # fmt: skip
            raise CaptureError("an array that the captured work reads or writes has been freed since")
        state.current.counts.graph_launches += 1
        with np.errstate(all="ignore"):
            for step in self._steps:
                step()

    def upload(self, stream: Stream | None = None) -> None:
        """Nothing to do."""


class Event:
    """A point in a stream; two that time was measured between are a millisecond apart."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self._disable_timing = disable_timing

    done = True

    def record(self, stream: Stream | None = None) -> None:
        """The work before is done already."""

    def synchronize(self) -> None:
        state.synchronised("Event.synchronize")


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    if start_event._disable_timing or end_event._disable_timing:
        raise CUDARuntimeError(400, "cudaErrorInvalidResourceHandle: invalid resource handle")
    return 1.0


class MemoryPool:
    """A pool that arrays can be told to come from; it counts nothing."""

    def __init__(self, allocator: Any = None) -> None:
        self._allocator = allocator

    def malloc(self, size: int) -> Any:
        return SimpleNamespace(ptr=0, mem=None, size=size, pool=self)

    def free_all_blocks(self, stream: Any = None) -> None:
        """Nothing is kept."""

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0


default_pool = MemoryPool()


@contextmanager
def using_allocator(allocator: Callable[[int], Any] | None = None) -> Iterator[None]:
    before = state.current.pool
    set_allocator(allocator)
    try:
        yield
    finally:
        state.current.pool = before


def set_allocator(allocator: Callable[[int], Any] | None = None) -> None:
    pool = getattr(allocator, "__self__", None)
    state.current.pool = pool if pool is not default_pool else None


class Device:
    """Device 0."""

    id = 0
    compute_capability = "90"
    attributes = {"MultiProcessorCount": 2, "MaxSharedMemoryPerBlockOptin": 232448, "WarpSize": 32}

    def __init__(self, device: Any = None) -> None:
        pass

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def synchronize(self) -> None:
        state.synchronised("Device.synchronize")

    def use(self) -> Device:
        return self


class RawModule:
    """CUDA C++ compiled at first use, by the emulator."""

    def __init__(self, code: str | None = None, *, path: str | None = None, options: tuple[str, ...] = (),
                 backend: str = "nvrtc", translate_cucomplex: bool = False, enable_cooperative_groups: bool = False,
                 name_expressions: Any = None, jitify: Any = None) -> None:  # fmt: skip
        if (code is None) == (path is None):
            raise TypeError("Exactly one of code and path must be given.")
        if path is not None or name_expressions is not None:
            raise TypeError('the stand-in takes source code with extern "C" kernels only')
        if not isinstance(options, tuple):
            raise TypeError("options must be a tuple of str")
        self.code, self.options, self.backend = code, options, backend
        self._module: emulator.Module | None = None

    def compile(self, log_stream: Any = None) -> None:
        if self._module is None:
            state.refuse_capture("compile a kernel")
            self._module = emulator.Module(self.code or "", self.options)

    def get_function(self, name: str) -> RawKernel:
        self.compile()
        return RawKernel(self._module.get_function(name))


class RawKernel:
    """One kernel; launched as CuPy's."""

    def __init__(self, function: emulator.Function) -> None:
        self._function = function
        self.name = function.name

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._function.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if size > 227 * 1024:
            raise CUDARuntimeError(1, "CUDA_ERROR_INVALID_VALUE: invalid argument")
        self._function.max_dynamic_shared_size_bytes = size

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Any, *, shared_mem: int = 0) -> None:
        if 0 in grid or 0 in block:
            raise CUDARuntimeError(9, "CUDA_ERROR_INVALID_VALUE: a grid or a block of nothing")
        for arg in args:
            operand(arg)  # arrays of the device, and numbers
        arrays = [arg for arg in args if isinstance(arg, ndarray)]
        # A graph holds addresses and numbers: what the arguments are now.
        values = tuple(arg.on_host if isinstance(arg, ndarray) else arg for arg in args)
        function = self._function
        counts = state.current.counts
        if state.capture() is None:
            counts.kernels[self.name] = counts.kernels.get(self.name, 0) + 1
        state.run(lambda: function(grid, block, values, shared_mem=shared_mem), [array.memory for array in arrays])


def get_current_stream(device_id: int | None = None) -> Stream:
    return state.current_stream()


def alloc_pinned_memory(size: int) -> Any:
    return memoryview(bytearray(size))


Stream.null = Stream(null=True)  # type: ignore[attr-defined]
state.current.default_stream = Stream.null  # type: ignore[attr-defined]
