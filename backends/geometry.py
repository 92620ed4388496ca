"""ConvGeometry: what a sliding window covers, parsed and checked once.

Every size that a convolution, a transposed convolution or a pooling needs comes from here:

    extent            = dilation (kernel - 1) + 1                      the pixels one window spans
    output size       = floor((size + padding - extent) / stride) + 1  windows that fit (convolution, pooling)
    transposed size   = (size - 1) stride - padding + extent           windows laid down (transposed convolution)

with `padding` the sum of both sides. The first formula and its adjoint are those of Dumoulin and Visin, "A guide to
convolution arithmetic for deep learning" (2016).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

Pair = tuple[int, int]
Sides = tuple[Pair, Pair]
IntOrPair = int | Sequence[int]


def integer(value: Any, name: str, minimum: int) -> int:
    """`value` as an int of at least `minimum`; a bool, a float or anything else is a TypeError."""
    if isinstance(value, bool):
        raise TypeError(f"{name} (={value!r}) must be an integer, not a bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} (={value!r}) must be an integer") from None
    if number < minimum:
        raise ValueError(f"{name} (={value!r}) must be at least {minimum}")
    return number


def pair(value: Any, name: str, minimum: int) -> Pair:
    """`value` (an integer, or a pair for height and width) as a pair of ints of at least `minimum`."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != 2:
            raise ValueError(f"{name} (={value!r}) must be an integer or a pair (height, width)")
        try:
            return integer(value[0], name, minimum), integer(value[1], name, minimum)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error}; {name} is {value!r}") from None
    if isinstance(value, str):
        raise ValueError(f"{name} (={value!r}) must be an integer or a pair (height, width)")
    number = integer(value, name, minimum)
    return number, number


@dataclass(frozen=True)
class ConvGeometry:
    """Kernel, stride, padding, dilation and groups of a window that slides over an image.

    `kernel`, `stride` and `dilation` are (height, width) pairs. `padding` is ((top, bottom), (left, right)) in
    pixels; a negative number crops. Use `ConvGeometry.parse` for arguments as a user writes them.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Sides = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1

    @classmethod
    def parse(
        cls,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair | str = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
    ) -> ConvGeometry:
        """The geometry of PyTorch's arguments: integers or pairs; padding also "same" or "valid"."""
        kernel = pair(kernel_size, "kernel_size", 1)
        steps = pair(stride, "stride", 1)
        gaps = pair(dilation, "dilation", 1)
        sides = _sides(padding, kernel, steps, gaps)
        return cls(kernel, steps, sides, gaps, integer(groups, "groups", 1))

    def with_output_padding(self, rows: int, columns: int) -> ConvGeometry:
        """The geometry of a transposed convolution whose output is larger by so much at the bottom and the right."""
        (top, bottom), (left, right) = self.padding
        return replace(self, padding=((top, bottom - rows), (left, right - columns)))

    def __hash__(self) -> int:
        return self._hash  # computed once: plans for a shape and a geometry are looked up at every call

    @cached_property
    def _hash(self) -> int:
        return hash((self.kernel, self.stride, self.padding, self.dilation, self.groups))

    @cached_property
    def taps(self) -> int:
        """The number of kernel elements per channel."""
        return self.kernel[0] * self.kernel[1]

    @cached_property
    def extent(self) -> Pair:
        """The (height, width) in pixels that one window spans."""
        (kh, kw), (dh, dw) = self.kernel, self.dilation
        return dh * (kh - 1) + 1, dw * (kw - 1) + 1

    def padded_size(self, size: Pair) -> Pair:
        """The (height, width) of an image of `size` after padding."""
        (top, bottom), (left, right) = self.padding
        return size[0] + top + bottom, size[1] + left + right

    def output_size(self, size: Pair) -> Pair:
        """The number of windows, down and across; ValueError if not even one fits."""
        found = self._output_sizes.get(size)
        if found is None:
            found = self._output_sizes[size] = self._checked_output_size(size)
        return found

    @cached_property
    def _output_sizes(self) -> dict[Pair, Pair]:
        return {}

    def _checked_output_size(self, size: Pair) -> Pair:
        padded = self.padded_size(size)
        if min(size) < 1:
            raise ValueError(f"the image is {size[0]}x{size[1]}: height and width must be at least 1")
        if padded[0] < self.extent[0] or padded[1] < self.extent[1]:
            raise ValueError(
                f"kernel_size (={self.kernel[0]}x{self.kernel[1]}, dilation {self.dilation[0]}x{self.dilation[1]}) "
                f"must fit into the padded image: it spans {self.extent[0]}x{self.extent[1]} pixels, "
                f"the padded image has {padded[0]}x{padded[1]}"
            )
        return (
            (padded[0] - self.extent[0]) // self.stride[0] + 1,
            (padded[1] - self.extent[1]) // self.stride[1] + 1,
        )

    def transposed_size(self, size: Pair) -> Pair:
        """The output size of a transposed convolution of an image of `size`; ValueError if nothing is left.

        Output padding is padding taken back at the bottom and the right: see `with_output_padding`.
        """
        if min(size) < 1:
            raise ValueError(f"the image is {size[0]}x{size[1]}: height and width must be at least 1")
        height, width = (
            (size[axis] - 1) * self.stride[axis] - sum(self.padding[axis]) + self.extent[axis] for axis in (0, 1)
        )
        if height < 1 or width < 1:
            raise ValueError(
                f"the output of this transposed convolution would be {height}x{width} for an image of "
                f"{size[0]}x{size[1]}: padding (={self.padding}) must leave at least 1x1"
            )
        return height, width


def _sides(padding: IntOrPair | str, kernel: Pair, stride: Pair, dilation: Pair) -> Sides:
    if isinstance(padding, str):
        return _named_sides(padding, kernel, stride, dilation)
    vertical, horizontal = pair(padding, "padding", 0)
    return (vertical, vertical), (horizontal, horizontal)


def _named_sides(name: str, kernel: Pair, stride: Pair, dilation: Pair) -> Sides:
    if name == "valid":
        return (0, 0), (0, 0)
    if name != "same":
        raise ValueError(f"padding (={name!r}) must be 'same', 'valid', an integer or a pair (height, width)")
    # An even kernel needs one pixel more on one side; like PyTorch, that side is the bottom and the right.
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    sides = [(t // 2, t - t // 2) for t in total]
    if stride != (1, 1):
        raise ValueError(
            f"padding='same' needs stride 1, got stride (={stride}); the padding that keeps the size before the "
            f"stride is {sides[0]} (top, bottom) and {sides[1]} (left, right)"
        )
    return sides[0], sides[1]
