"""Training steps as CUDA graphs: after a few steps of one kind, a step is one launch instead of some hundred.

    step 1, 2, 3    eager: every kernel is compiled, all state of the optimizer exists
    step 4          recorded: the same calls, which do nothing but note their kernels, then launched
    from then on    batch -> the recorded batch's memory, launch, loss -> a new array

A graph has its arguments baked in. So the batch is copied to where the recorded one lay; options of the optimizer are
read from device memory (see update.py), and written there when they change; what the kernels work on lies in a memory
pool of the recording's own. A step of another kind (another network, the smaller batch at the end of an epoch, a
parameter that has moved) has another key, and is taken eagerly until it has come three times in a row.

What cannot be recorded, because it waits for the device (BatchNorm2d without momentum) or uses cuBLAS (Linear, or
NPCONV_GPU_CONV=im2col), is taken eagerly for good, which the log says. In float32 a graph's step has the bits of an
eager one; in float64 Adam's corrections are powers taken by the device, and may differ in the last bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from ..base import Array

LOG = logging.getLogger("npconv")
EAGER_STEPS = 3
MOST_RECORDINGS = 4  # the oldest is given up for a fifth


class Slot:
    """The options of one update in device memory."""

    def __init__(self, xp: Any, values: tuple[float, ...]) -> None:
        self.values = values
        self.array = xp.asarray(np.array(values, np.float64))

    def set(self, values: tuple[float, ...]) -> None:
        """Bring `values` to the device where they are not what it has: by kernels, which wait for nothing."""
        for i, (new, old) in enumerate(zip(values, self.values, strict=True)):
            if new != old:
                self.array[i : i + 1].fill(new)
        self.values = values


class Recording:
    """A step as a graph, with all that it works on."""

    def __init__(self, xp: Any, x: Array, target: Array) -> None:
        self.xp = xp
        self.x, self.target = x.copy(order="K"), target.copy(order="K")
        self.pool = xp.cuda.MemoryPool()
        self.slots: list[Slot] = []
        self.loss: Any = None
        self._graph: Any = None

    def record(self, compute: Callable[[Array, Array], Any], updates: list[Any], slots: list[Slot]) -> None:
        """Note the kernels of a step. Raises whatever a call raises that cannot be part of a graph."""
        stream = self.xp.cuda.Stream(non_blocking=True)
        self.slots = slots
        with self.xp.cuda.using_allocator(self.pool.malloc), stream:
            stream.begin_capture()
            try:
                self.loss = compute(self.x, self.target)
                for update in updates:
                    update()
            finally:
                graph = stream.end_capture()
        self._graph = graph

    def launch(self, x: Array, target: Array) -> Any:
        """Take the step with this batch; its loss, in an array of its own."""
        self.x[...], self.target[...] = x, target
        self._graph.launch()
        return self.loss.copy()


class StepRecorder:
    """Takes training steps for a backend, by graphs where it can.

    While a step is recorded, `backend.option_slots` gives each update the array that it is to read its options from.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._signature: Hashable = None
        self._key: Hashable = None
        self._in_a_row = 0
        self._recordings: dict[Hashable, Recording] = {}
        self._refused: set[Hashable] = set()  # what cannot be recorded

    def step(
        self, signature: Hashable, compute: Callable[[Array, Array], Any], updates: list[Any], x: Array, target: Array
    ) -> Any:
        """One training step: `compute(x, target)` gives the loss and leaves the gradients, then the updates.

        `signature` is equal for steps that call the same operations with the same arrays, but for batch and updates.
        The loss is an array without axes.
        """
        if signature != self._signature:
            self._recordings.clear()
            self._refused.clear()
            self._signature = signature
        key = (signature, _kind(x), _kind(target), *(_fixed(update) for update in updates))
        self._in_a_row = self._in_a_row + 1 if key == self._key else 1
        self._key = key
        recording = self._recordings.get(key)
        if recording is None:
            if self._in_a_row <= EAGER_STEPS or key in self._refused:
                return self._eager(compute, updates, x, target)
            recording = self._recorded(key, compute, updates, x, target)
            if recording is None:
                return self._eager(compute, updates, x, target)
        for slot, update in zip(recording.slots, updates, strict=True):
            slot.set(self._backend.update_options(update.operation, update.options))
        loss = recording.launch(x, target)
        for slot, update in zip(recording.slots, updates, strict=True):
            slot.values = self._backend.options_after(update.operation, slot.values)
        return loss

    def _recorded(
        self, key: Hashable, compute: Callable[[Array, Array], Any], updates: list[Any], x: Array, target: Array
    ) -> Recording | None:
        while len(self._recordings) >= MOST_RECORDINGS:
            del self._recordings[next(iter(self._recordings))]
        self._backend.release_memory()  # what eager steps left over; a graph's memory is its own
        recording = Recording(self._backend.xp, x, target)
        try:
            self._rehearse(updates)
            slots = self._slots(updates)
            self._backend.option_slots = iter([slot.array for slot in slots])
            recording.record(compute, updates, slots)
        except Exception as error:
            self._refused.add(key)
            LOG.warning("a training step is launched call by call, because it cannot be one CUDA graph: %s", error)
            return None
        finally:
            self._backend.option_slots = None
        self._recordings[key] = recording
        return recording

    def _slots(self, updates: list[Any]) -> list[Slot]:
        options = [self._backend.update_options(update.operation, update.options) for update in updates]
        return [Slot(self._backend.xp, values) for values in options]

    def _rehearse(self, updates: list[Any]) -> None:
        """Update copies as the graph will the originals: kernels are compiled and loaded before a capture begins."""
        self._backend.option_slots = iter([slot.array for slot in self._slots(updates)])
        for update in updates:
            copies = [None if array is None else array.copy(order="K") for array in update.arrays]
            getattr(self._backend, update.operation)(*copies, **update.options)

    @staticmethod
    def _eager(compute: Callable[[Array, Array], Any], updates: list[Any], x: Array, target: Array) -> Any:
        loss = compute(x, target)
        for update in updates:
            update()
        return loss


def _kind(x: Array) -> Hashable:
    return x.shape, x.strides, x.dtype.char


def _fixed(update: Any) -> Hashable:
    """What of an update is baked into a graph: where its arrays are, and options that are no numbers."""
    switches = tuple((name, value) for name, value in sorted(update.options.items()) if isinstance(value, bool))
    places = tuple(None if array is None else (array.data.ptr, array.size) for array in update.arrays)
    return update.operation, places, switches
