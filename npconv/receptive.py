"""What the outputs of a module depend on: intervals of input rows (axis 0) or columns (axis 1), half-open.

    outputs start .. stop - 1  ->  inputs lo .. hi - 1        for each kind of window; `Module.input_range` uses these

An interval may reach past the borders of the image, where padding is. Numbers count from the image's first row or
column, so the same formula holds for a part of the image that begins at a multiple of the network's strides.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import Any

from .backends.geometry import ConvGeometry
from .module import Module

Range = tuple[int, int]


def input_range(module: Module, axis: int, start: int, stop: int) -> Range | None:
    """`module.input_range`, but None where a subclass computes otherwise than the class that wrote the answer."""
    if not _speaks_for_itself(type(module)) or "forward" in vars(module) or "_forward" in vars(module):
        return None
    return module.input_range(axis, start, stop)


@cache
def _speaks_for_itself(kind: type) -> bool:
    """Whether nobody but npconv wrote `forward` anew below the class that wrote `input_range`."""
    speaker = _writer(kind, "input_range")
    writers = (_writer(kind, name) for name in ("forward", "_forward"))
    return all(
        writer is None or writer.__module__.partition(".")[0] == "npconv" or issubclass(speaker or kind, writer)
        for writer in writers
    )


def _writer(kind: type, name: str) -> type | None:
    return next((cls for cls in kind.__mro__ if name in vars(cls)), None)


def in_row(modules: list[Module], axis: int, start: int, stop: int) -> Range | None:
    """Modules one after the other."""
    found: Range | None = (start, stop)
    for module in reversed(modules):
        if found is None:
            return None
        found = input_range(module, axis, *found)
    return found


def side_by_side(branches: list[Module], axis: int, start: int, stop: int) -> Range | None:
    """Modules that all see the same input: the smallest interval that holds those of all."""
    found = [input_range(branch, axis, start, stop) for branch in branches]
    known = [interval for interval in found if interval is not None]
    return (min(lo for lo, _ in known), max(hi for _, hi in known)) if len(known) == len(found) else None


def window_range(geometry: ConvGeometry, axis: int, start: int, stop: int) -> Range:
    """Of a convolution or a pooling."""
    stride, before = geometry.stride[axis], geometry.padding[axis][0]
    return start * stride - before, (stop - 1) * stride - before + geometry.extent[axis]


def mirrored_range(geometry: ConvGeometry, axis: int, start: int, stop: int) -> Range:
    """Of a convolution whose padding repeats pixels of the image: those may lie beyond the window itself."""
    lo, hi = window_range(geometry, axis, start, stop)
    further = max(0, 2 * max(geometry.padding[axis]) + 1 - geometry.extent[axis])
    return lo - further, hi + further


def transposed_range(geometry: ConvGeometry, axis: int, start: int, stop: int) -> Range:
    """Of a transposed convolution: input i reaches the outputs i stride - padding .. + extent - 1."""
    stride, before = geometry.stride[axis], geometry.padding[axis][0]
    return -((start + before - geometry.extent[axis] + 1) // -stride), (stop - 1 + before) // stride + 1


def nearest_range(factor: Fraction | int, start: int, stop: int) -> Range:
    """Of what is `factor` times larger: output i is input floor(i / factor)."""
    exact = Fraction(factor)
    return start * exact.denominator // exact.numerator, (stop - 1) * exact.denominator // exact.numerator + 1


def is_local(module: Any) -> bool:
    """Whether the outputs of a module depend on a part of the image only, in both directions."""
    return all(input_range(module, axis, 0, 1) is not None for axis in (0, 1))


__all__ = ["Range", "in_row", "input_range", "is_local", "mirrored_range", "nearest_range", "side_by_side",
           "transposed_range", "window_range"]  # fmt: skip
