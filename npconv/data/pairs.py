"""Where training pairs come from: arrays, or patches drawn from photographs as they are needed.

    pairs.batches(32, rng)  ->  (input, target), (input, target), ...    float32, (B, C, H, W), 0..255

An epoch is one call of `batches`; its order and draws depend on `rng` alone. `take` gives some pairs as
arrays. `HDF5Pairs` (hdf5.py) is the third source.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from ..checks import integer
from .noise import Noise
from .photos import Photos
from .values import as_array, check_finite, check_scale, check_share

__all__ = ["ArrayPairs", "Pairs", "PatchPairs", "StoredPairs"]

Batch = tuple[np.ndarray, np.ndarray]
Stored = TypeVar("Stored", bound="StoredPairs")


class Pairs(ABC):
    """A source of training pairs (input, target)."""

    @abstractmethod
    def __len__(self) -> int:
        """How many pairs an epoch has."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every input and every target."""

    @abstractmethod
    def _epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """What `batches` does, for arguments already checked."""

    @abstractmethod
    def _take(self, count: int, rng: np.random.Generator) -> Batch:
        """What `take` does, for arguments already checked."""

    def batches(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        """An epoch: every pair once, in random order, as (inputs, targets), each (B, C, H, W), float32,
        0..255.

        The last batch is smaller where batch_size does not divide the number of pairs. The arrays are the
        caller's. Raises ValueError for a batch_size below 1.
        """
        return self._epoch(integer(batch_size, "batch_size", 1), rng)

    def take(self, count: int, rng: np.random.Generator) -> Batch:
        """Some pairs, no pair twice: (inputs, targets), each (count, C, H, W), float32, 0..255.

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
    def image_shape(self) -> tuple[int, int, int]:
        return self._shape

    def split(self: Stored, share: float, rng: np.random.Generator) -> tuple[Stored, Stored]:
        """Divides the pairs at random into (train, validation), without copying any.

        share: the part kept for validation, above 0 and below 1. Raises ValueError for fewer than two pairs.
        """
        kept = check_share(share, len(self), "number of pairs")
        order = self._indices[rng.permutation(len(self))]
        return self._subset(np.sort(order[kept:])), self._subset(np.sort(order[:kept]))

    def _epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        order = self._indices[rng.permutation(len(self))]
        for start in range(0, len(order), batch_size):
            yield self._read(order[start : start + batch_size])

    def _take(self, count: int, rng: np.random.Generator) -> Batch:
        if count > len(self):
            raise ValueError(f"count (={count}) must be at most the number of pairs (={len(self)})")
        return self._read(self._indices[rng.permutation(len(self))[:count]])


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

    def _read(self, indices: np.ndarray) -> Batch:
        return self._inputs[indices].astype(np.float32), self._targets[indices].astype(np.float32)

    def _subset(self, indices: np.ndarray) -> ArrayPairs:
        part = ArrayPairs.__new__(ArrayPairs)  # the arrays have been checked
        StoredPairs.__init__(part, (len(indices), *self._shape), indices)
        part._inputs, part._targets = self._inputs, self._targets
        return part


class PatchPairs(Pairs):
    """Pairs of noisy patches from random places of photographs, drawn when they are needed and never the same
    twice.

    photos: where patches come from; noise: what is done to them. patches: how many an epoch has; the memory
    in use doesn't depend on it. patch_size: side, in pixels. target: "noisy", an independent second noisy
    version, or "clean". augment: turns and mirrors patches at random, both images of a pair alike. Raises
    ValueError for arguments out of range and, here where the photos' sizes are known, otherwise when the
    photo is first drawn, for a photo too small for the patch and the noise.
    """

    def __init__(
        self,
        photos: Photos,
        noise: Noise,
        patches: int = 10000,
        patch_size: int = 32,
        target: str = "noisy",
        augment: bool = True,
    ) -> None:
        if target not in ("noisy", "clean"):
            raise ValueError(f"target (={target!r}) must be 'noisy' or 'clean'")
        self._photos, self._noise = photos, noise
        self._patches = integer(patches, "patches", 1)
        self._size = integer(patch_size, "patch_size", 1)
        self._clean = target == "clean"
        self._augment = augment
        for index, size in enumerate(photos.known_sizes or ()):
            self._check_size(index, *size)

    def __len__(self) -> int:
        return self._patches

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._photos.channels, self._size, self._size

    def _epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        order = _photo_order(len(self._photos), self._patches, rng)
        for start in range(0, self._patches, batch_size):
            yield self._draw(order[start : start + batch_size], rng)

    def _take(self, count: int, rng: np.random.Generator) -> Batch:
        return self._draw(_photo_order(len(self._photos), count, rng), rng)

    def _draw(self, indices: np.ndarray, rng: np.random.Generator) -> Batch:
        """A patch of each of these photographs."""
        inputs = np.empty((len(indices), *self.image_shape), np.float32)
        targets = np.empty_like(inputs)
        poses = rng.integers(8 if self._augment else 1, size=len(indices))
        for i, (index, pose) in enumerate(zip(indices.tolist(), poses.tolist(), strict=True)):
            photo = self._photos[index]
            self._check_size(index, *photo.shape[1:])
            noisy, target = self._noise.patch(photo, self._size, rng, self._clean)
            inputs[i], targets[i] = _posed(noisy, pose), _posed(target, pose)
        return inputs, targets

    def _check_size(self, index: int, height: int, width: int) -> None:
        side = self._noise.smallest_photo(self._size)
        if min(height, width) < side:
            raise ValueError(
                f"{self._photos.names[index]} ({height} x {width}) must be at least {side} x {side} pixels "
                f"for patches of {self._size} with {self._noise} noise"
            )


# Photos of one pool are mixed with each other and with no others; a batch of 32 so has few patches of one
# photo.
_POOL = 64
_PATCHES_A_VISIT = 8


def _photo_order(photos: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Which photograph each of `count` patches is drawn from.

    Reading a photo can take a thousand times as long as drawing a patch. So where the patches outnumber the
    photos, pools of up to 64 photos give up to 8 patches each, in mixed order: a collection too large for its
    cache is then read an eighth as often. Within a batch it makes no difference that matters (two patches of
    a batch of 32 share a photo about as often as among 64 photos at random), and all photos are used equally
    often. Patches of one photo lie apart: places, noise and poses are drawn for each.
    """
    visits = min(_PATCHES_A_VISIT, -(-count // photos))
    order: list[np.ndarray] = []
    drawn = 0
    while drawn < count:
        for pool in np.array_split(rng.permutation(photos), -(-photos // _POOL)):
            order.append(rng.permutation(np.repeat(pool, visits)))
            drawn += len(order[-1])
    return np.concatenate(order)[:count]


def _posed(image: np.ndarray, pose: int) -> np.ndarray:
    """One of the 8 turned and mirrored versions of a square (C, H, W) image, as a view."""
    if pose & 1:
        image = image.swapaxes(1, 2)
    if pose & 2:
        image = image[:, ::-1]
    if pose & 4:
        image = image[:, :, ::-1]
    return image


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
