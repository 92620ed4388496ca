"""Where training pairs come from, as an interface; and pairs that are stored, in arrays.

    pairs.batches(32, rng)  ->  (input, target), (input, target), ...    float32, (B, C, H, W), 0..255

An epoch is one call of `batches`; its order and draws depend on `rng` alone. `take` gives some pairs as
arrays. The other sources are `PatchPairs` (patches.py), which draws from photographs, and `HDF5Pairs` (hdf5.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np

from ..arithmetic import quiet
from ..checks import integer
from .values import as_array, check_finite, check_scale, check_share

__all__ = ["ArrayPairs", "Batches", "Pairs", "StoredPairs"]

Batch = tuple[np.ndarray, np.ndarray]
Shape = tuple[int, int, int]
Stored = TypeVar("Stored", bound="StoredPairs")


class Batches(Iterator[Batch]):
    """The batches of an epoch, which can be taken up again in its middle."""

    @abstractmethod
    def order(self) -> Mapping[str, np.ndarray]:
        """What has been drawn of the order and not been used yet: integers, never changed, as they are now."""

    @abstractmethod
    def return_to(self, drawn: int, order: Mapping[str, np.ndarray]) -> None:
        """Of an epoch just begun: be where `order` was given, after so many batches.

        Raises ValueError for what this epoch cannot have given.
        """


class Pairs(ABC):
    """A source of training pairs (input, target)."""

    @abstractmethod
    def __len__(self) -> int:
        """How many pairs an epoch has."""

    @property
    @abstractmethod
    def image_shape(self) -> Shape:
        """(C, H, W) of the images: of every input and every target, unless the two properties below say more."""

    @property
    def input_shape(self) -> Shape:
        """(C, H, W) of every input; a noise map is one channel more than the image has."""
        return self.image_shape

    @property
    def target_shape(self) -> Shape:
        """(C, H, W) of every target; values and their weights are twice the channels of the image."""
        return self.image_shape

    @abstractmethod
    def _epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """What `batches` does, for arguments already checked."""

    @abstractmethod
    def _take(self, count: int, rng: np.random.Generator) -> Batch:
        """What `take` does, for arguments already checked."""

    def batches(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """An epoch: every pair once, in random order, as (inputs, targets), float32, in 8-bit steps.

        Inputs are (B, *input_shape), targets (B, *target_shape).

        The last batch is smaller where batch_size does not divide the number of pairs. The arrays are the
        caller's. Raises ValueError for a batch_size below 1.
        """
        return self._epoch(integer(batch_size, "batch_size", 1), rng)

    def take(self, count: int, rng: np.random.Generator) -> Batch:
        """Some pairs, no pair twice, as (inputs, targets) like those of `batches`.

        Raises ValueError for a count below 1, or above the number of pairs where they are stored ones.
        """
        return self._take(integer(count, "count", 1), rng)


class StoredPairs(Pairs):
    """Pairs that exist as two arrays of images, (N, C, H, W); a subclass reads some of them at a time."""

    def __init__(self, shape: tuple[int, ...], indices: np.ndarray | None = None) -> None:
        self._shape = (int(shape[1]), int(shape[2]), int(shape[3]))
        self._indices = np.arange(shape[0]) if indices is None else indices

    @abstractmethod
    def _read(self, indices: np.ndarray) -> Batch:
        """The pairs with these indices, in this order: two float32 arrays that are the caller's."""

    @abstractmethod
    def _subset(self: Stored, indices: np.ndarray) -> Stored:
        """The same pairs, of which only those with these indices count."""

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def image_shape(self) -> Shape:
        return self._shape

    def split(self: Stored, share: float, rng: np.random.Generator) -> tuple[Stored, Stored]:
        """Divides the pairs at random into (train, validation), without copying any.

        share: the part kept for validation, above 0 and below 1. Raises ValueError for fewer than two pairs.
        """
        kept = check_share(share, len(self), "number of pairs")
        order = self._indices[rng.permutation(len(self))]
        return self._subset(np.sort(order[kept:])), self._subset(np.sort(order[:kept]))

    def _epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        return _StoredBatches(self, self._indices[rng.permutation(len(self))], batch_size)

    def _take(self, count: int, rng: np.random.Generator) -> Batch:
        if count > len(self):
            raise ValueError(f"count (={count}) must be at most the number of pairs (={len(self)})")
        return self._read(self._indices[rng.permutation(len(self))[:count]])


class _StoredBatches(Batches):
    """Pairs in an order that was drawn when the epoch began: the generator's state then says all of it."""

    def __init__(self, pairs: StoredPairs, order: np.ndarray, batch_size: int) -> None:
        self._pairs, self._order, self._batch_size, self._start = pairs, order, batch_size, 0

    def __next__(self) -> Batch:
        if self._start >= len(self._order):
            raise StopIteration
        start, self._start = self._start, self._start + self._batch_size
        return self._pairs._read(self._order[start : self._start])

    def order(self) -> Mapping[str, np.ndarray]:
        return {}

    def return_to(self, drawn: int, order: Mapping[str, np.ndarray]) -> None:
        if not 0 <= (drawn - 1) * self._batch_size < len(self._order):
            raise ValueError(f"{drawn} batches of {self._batch_size} are more than {len(self._order)} pairs have")
        self._start = drawn * self._batch_size


class ArrayPairs(StoredPairs):
    """Pairs in memory.

    inputs, targets: (N, C, H, W) of one shape, values 0..255, uint8 or float. They are not copied: batches
    are converted one at a time. Raises ValueError for unequal shapes, empty arrays, values that aren't finite
    and floats of 0..1, TypeError for other dtypes.
    """

    def __init__(self, inputs: np.ndarray, targets: np.ndarray) -> None:
        inputs, targets = as_array(inputs, "inputs"), as_array(targets, "targets")
        check_pair_shapes(inputs.shape, targets.shape)
        for name, images in (("inputs", inputs), ("targets", targets)):
            check_pair_dtype(images.dtype, name)
            check_finite(images, name)
            check_scale(images, name)
        super().__init__(inputs.shape)
        self._inputs, self._targets = inputs, targets

    @quiet
    def _read(self, indices: np.ndarray) -> Batch:
        return self._inputs[indices].astype(np.float32), self._targets[indices].astype(np.float32)

    def _subset(self, indices: np.ndarray) -> ArrayPairs:
        part = ArrayPairs.__new__(ArrayPairs)  # the arrays have been checked
        StoredPairs.__init__(part, (len(indices), *self._shape), indices)
        part._inputs, part._targets = self._inputs, self._targets
        return part


def check_pair_shapes(inputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    """Both (N, C, H, W), equal, and not empty."""
    if inputs != targets:
        raise ValueError(f"shapes of inputs {inputs} and targets {targets} must be equal")
    if len(inputs) != 4:
        raise ValueError(f"inputs and targets (shape {inputs}) must be (N, C, H, W)")
    if 0 in inputs:
        raise ValueError(f"inputs and targets (shape {inputs}) must not be empty")


def check_pair_dtype(dtype: np.dtype, name: str) -> None:
    """uint8 or a float; 16-bit counts have no agreed scale, so that the caller must choose one."""
    if dtype.kind != "f" and dtype != np.uint8:
        raise TypeError(
            f"{name} (dtype {dtype}) must be uint8 or a float of 0..255: "
            "scale, and convert with numpy.asarray(x, 'float32')"
        )
