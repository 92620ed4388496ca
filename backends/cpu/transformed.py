"""Images as Winograd's forward transformed them, kept for the gradient of the kernel, which needs them once more.

    with training_step():
        conv2d_forward    begin(x) -> Transformed; each block's V is put there
        conv2d_backward   take(x)  -> the same;    each block's V is taken out

Only a training step is followed by its backward, so only there is anything kept. It is 36/16 of the images' size; what
does not fit into ROOM_BYTES is transformed again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ..base import Array

ROOM_BYTES = 1 << 24  # of all that one worker keeps: its share of the cache that cores have in common


class _Room:
    """What a step keeps of its convolutions, and how many bytes more it may."""

    def __init__(self) -> None:
        self.bytes = ROOM_BYTES
        self.of_inputs: dict[int, Transformed] = {}


class Transformed:
    """Blocks of one input, transformed, by what they are blocks of."""

    def __init__(self, x: Array, room: _Room) -> None:
        self.x = x  # held: its id must not come to mean another array
        self._room = room
        self._blocks: dict[Hashable, Array] = {}

    def put(self, block: Hashable, v: Array) -> None:
        """Keep v, if there is room."""
        if v.nbytes <= self._room.bytes:
            self._room.bytes -= v.nbytes
            self._blocks[block] = v

    def pop(self, block: Hashable) -> Array | None:
        """What was kept of this block, if anything; it is kept no longer."""
        v = self._blocks.pop(block, None)
        if v is not None:
            self._room.bytes += v.nbytes
        return v

    def clear(self) -> None:
        """Keep nothing."""
        self._room.bytes += sum(v.nbytes for v in self._blocks.values())
        self._blocks.clear()


_room: ContextVar[_Room | None] = ContextVar("npconv_transformed", default=None)


@contextmanager
def training_step() -> Iterator[None]:
    """Each forward within this context is followed by its backward, on the same array."""
    token = _room.set(_Room())
    try:
        yield
    finally:
        _room.reset(token)


def begin(x: Array) -> Transformed | None:
    """Where to keep what x is transformed to; None outside a training step."""
    room = _room.get()
    if room is None:
        return None
    earlier = room.of_inputs.pop(id(x), None)
    if earlier is not None:  # of the same input, or of what that array held before
        earlier.clear()
    made = room.of_inputs[id(x)] = Transformed(x, room)
    return made


def take(x: Array) -> Transformed | None:
    """What was kept of x; None if nothing was. Nobody else gets it again."""
    room = _room.get()
    return None if room is None else room.of_inputs.pop(id(x), None)
