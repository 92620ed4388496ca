"""Pairs of patches, drawn from photographs as they are needed.

    photos + noise  ->  PatchPairs  ->  (input, target)

target        input                   target
noisy         noisy                   a second noisy version, with noise of its own (Noise2Noise)
clean         noisy                   clean
self          a pixel of each 2x2     a neighbour of each, of the same 2x2 (Neighbor2Neighbor)
blind-spot    noisy, with holes       the noisy values, and weights that count them in the holes alone (Noise2Void)

With "noisy" and "clean" the noise is drawn anew for every patch. With the others, which learn from single noisy images,
each photograph has one realisation of it for good (noisy_photos.py): nobody who has such images can have more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..checks import flag, integer
from .blind_spot import MASKED_SHARE, BlindSpot
from .neighbours import pair_of_neighbours
from .noise import Noise, NoNoise, random_corner
from .noisy_photos import NoisyPhotos
from .pairs import Batch, Batches, Pairs, Shape
from .photos import Photos

__all__ = ["SINGLE", "TARGETS", "PatchPairs"]

SINGLE = ("self", "blind-spot")  # from single noisy images
TARGETS = ("noisy", "clean", *SINGLE)


Versions = tuple[list[np.ndarray], float | None]  # patches of one place, and their noise level


class PatchPairs(Pairs):
    """Pairs of noisy patches from random places of photographs, drawn when they are needed.

    photos: where patches come from; noise: what is done to them. patches: how many an epoch has; the memory
    in use doesn't depend on it. patch_size: side, in pixels. augment: turns and mirrors patches at random,
    both images of a pair alike.

    target: "noisy", an independent second noisy version; "clean"; or, for single noisy images, "self", pairs of
    neighbouring pixels, or "blind-spot". Single noisy images are photographs that are noisy themselves (noise
    `NoNoise()`), or of which each gets one realisation of the noise, the same at every visit (of a range, of one
    strength; of pixel sampling, patches are crops of one small noisy image). noise_seed is what those realisations
    depend on, 0 if it is None. Where the noise of "noisy" and "clean" is new for every patch, here places, poses,
    neighbours and holes are.

    "self" takes patches twice as wide and high from the noisy images (see `pair_of_neighbours`).

    The target of "blind-spot" has twice the channels: the noisy values, and weights, 255 where the input has the value
    of a neighbour instead, else 0; `losses.MaskedMSE` is for it. masked_share: of the values that are hidden so, 1/32
    if it is None; independent_channels: whether each channel has places of its own, None: as the noise says (see
    `BlindSpot`). The other targets take neither.

    noise_map: the input has the standard deviation of the patch's noise, in 8-bit steps, as one channel more,
    for networks such as FFDNet; the noise must be Gaussian.

    Photographs that cannot be read, or are too small, are passed over where the collection says so
    (`photos.skips_corrupt`): each is named once in a warning, and the next one stands in for it.

    Raises ValueError for arguments out of range or that contradict each other and, here where the photos'
    sizes are known, otherwise when the photo is first drawn, for a photo too small for the patch and the noise.
    """

    def __init__(
        self,
        photos: Photos,
        noise: Noise,
        patches: int = 10000,
        patch_size: int = 32,
        target: str = "noisy",
        augment: bool = True,
        *,
        noise_map: bool = False,
        masked_share: float | None = None,
        independent_channels: bool | None = None,
        noise_seed: int | None = None,
    ) -> None:
        check_target(target, noise, flag(noise_map, "noise_map"))
        self._photos, self._noise = photos, noise
        self._patches = integer(patches, "patches", 1)
        self._size = integer(patch_size, "patch_size", 1)
        self._target, self._augment, self._noise_map = target, augment, noise_map
        self._blind_spot: BlindSpot | None = None
        if target == "blind-spot":
            apart = noise.independent_channels if independent_channels is None else independent_channels
            self._blind_spot = BlindSpot(MASKED_SHARE if masked_share is None else masked_share, apart)
            if self._size < 3:
                raise ValueError(f"patch_size (={patch_size}) must be at least 3 for target 'blind-spot'")
        else:
            for value, name in ((masked_share, "masked_share"), (independent_channels, "independent_channels")):
                if value is not None:
                    raise ValueError(f"{name} (={value!r}) must be None but for target 'blind-spot'")
        self._drawn_size = drawn_size(self._target, self._size)
        self._noisy: NoisyPhotos | None = None
        if self._target in SINGLE and not isinstance(noise, NoNoise):
            seed = 0 if noise_seed is None else integer(noise_seed, "noise_seed", 0)
            self._noisy = NoisyPhotos(photos, noise, self._drawn_size, seed)
        elif noise_seed is not None:
            raise ValueError(
                f"noise_seed (={noise_seed!r}) must be None but for {_words(SINGLE)} as the target, with noise to draw"
            )
        for index, size in enumerate(photos.known_sizes or ()):
            if not photos.skips_corrupt:
                self._check_size(index, *size)

    def __len__(self) -> int:
        return self._patches

    @property
    def photos(self) -> Photos:
        """Where the patches come from."""
        return self._photos

    @property
    def image_shape(self) -> Shape:
        return self._photos.channels, self._size, self._size

    @property
    def input_shape(self) -> Shape:
        return self._photos.channels + self._noise_map, self._size, self._size

    @property
    def target_shape(self) -> Shape:
        return self._photos.channels * (1 if self._blind_spot is None else 2), self._size, self._size

    def _epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[Batch]:
        return _PatchBatches(self, self._order(self._patches, rng), batch_size, rng)

    def _take(self, count: int, rng: np.random.Generator) -> Batch:
        # The order of all comes first, and the patches after it: they stay the same whatever an epoch does.
        return self._draw(self._order(count, rng).take(count), rng)

    def _order(self, count: int, rng: np.random.Generator) -> _PhotoOrder:
        return _PhotoOrder(len(self._photos), count, rng, self._photos.at_once)

    def _draw(self, indices: np.ndarray, rng: np.random.Generator) -> Batch:
        """A patch of each of these photographs."""
        inputs = np.empty((len(indices), *self.input_shape), np.float32)
        targets = np.empty((len(indices), *self.target_shape), np.float32)
        poses = rng.integers(8 if self._augment else 1, size=len(indices))
        for i, (index, pose) in enumerate(zip(indices.tolist(), poses.tolist(), strict=True)):
            versions, level = self._versions(index, rng)
            versions = [_posed(version, pose) for version in versions]
            if self._noise_map:
                inputs[i, -1] = level
            images = inputs[i, : self._photos.channels]
            if self._blind_spot is not None:
                self._blind_spot.mask_into(versions[0], images, targets[i], rng)
            elif self._target == "self":
                images[...], targets[i] = pair_of_neighbours(versions[0], rng)
            else:
                images[...], targets[i] = versions
        return inputs, targets

    # ---- a patch of a photograph, or of one that stands in for it ----
    def _versions(self, index: int, rng: np.random.Generator) -> Versions:
        """The noisy patches, and the clean one, that a pair is made of; and the noise level where it is known."""
        noise = self._noise if self._noisy is not None else self._noise.drawn(rng)
        if not self._photos.skips_corrupt:
            return self._made(index, noise, rng)
        state = rng.bit_generator.state
        for step in range(len(self._photos)):
            position = (index + step) % len(self._photos)
            if self._photos.rejected(position) is not None:
                continue
            try:
                return self._made(position, noise, rng)
            except (OSError, TypeError, ValueError) as error:
                self._photos.reject(position, str(error))
                rng.bit_generator.state = state  # a photo that cannot be read draws nothing, now as in later epochs
        first = self._photos.rejected(index)
        raise ValueError(f"none of the {len(self._photos)} photos can be used; {self._photos.name(index)}: {first}")

    def _made(self, index: int, noise: Noise, rng: np.random.Generator) -> Versions:
        shape = self._photos.size(index)
        self._check_size(index, *shape)
        if self._noisy is not None:
            size = self._drawn_size
            corner = random_corner(self._noisy.size(index), size, rng)
            return [self._noisy.region(index, *corner, size, size)], self._noisy.noise(index).noise_level
        top, left, side = noise.random_area(shape, self._drawn_size, rng)
        area = self._photos.region(index, top, left, side, side)
        copies = 2 if self._target == "noisy" else 1
        return noise.versions(area, self._drawn_size, rng, copies, self._target == "clean"), noise.noise_level

    def _check_size(self, index: int, height: int, width: int) -> None:
        side = self._noise.smallest_photo(self._drawn_size)
        if min(height, width) < side:
            raise ValueError(
                f"{self._photos.name(index)} ({height} x {width}) must be at least {side} x {side} pixels "
                f"for {patches_in_words(self._target, self._size, self._noise)}"
            )


def check_target(target: str, noise: Noise, noise_map: bool) -> None:
    """ValueError where no pairs can be made: of another target, or of a noise that does not go with it."""
    if target not in TARGETS:
        raise ValueError(f"target (={target!r}) must be {_words(TARGETS)}")
    if target not in SINGLE and isinstance(noise, NoNoise):
        raise ValueError(
            f"target (={target!r}) must be {_words(SINGLE)} for noise 'none': where the images are noisy as they are, "
            "there is no clean version of them and no second noisy one"
        )
    if noise_map and not noise.has_noise_level:
        raise ValueError(f"noise (={str(noise)!r}) must be Gaussian, such as gaussian:0-55, for a noise map")


def drawn_size(target: str, patch_size: int) -> int:
    """The side of what is drawn from a noisy image for pairs of patches of this size."""
    return 2 * patch_size if target == "self" else patch_size


def patches_in_words(target: str, patch_size: int, noise: Noise) -> str:
    """Patches, as errors about photographs that are too small for them name them."""
    twice = ", each of an area twice as wide," if target == "self" else ""
    return f"patches of {patch_size}{twice} with {noise} noise"


def _words(names: tuple[str, ...]) -> str:
    quoted = [repr(name) for name in names]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"


# Photos of one pool are mixed with each other and with no others; a batch of 32 so has few patches of one
# photo.
_POOL = 64
_PATCHES_A_VISIT = 8


class _PhotoOrder:
    """Which photograph each patch is drawn from, without end, pool by pool; `count` patches are wanted.

    Reading a photo can take a thousand times as long as drawing a patch. So where the patches outnumber the
    photos, pools of up to 64 photos (`at_once` of them if that is less: what the collection can keep in memory)
    give up to 8 patches each, in mixed order: a collection too large for its cache is then read an eighth as
    often. Within a batch it makes no difference that matters (two patches of a batch of 32 share a photo about
    as often as among 64 photos at random), and all photos are used equally often. Patches of one photo lie
    apart: places, noise and poses are drawn for each.
    """

    def __init__(self, photos: int, count: int, rng: np.random.Generator, at_once: int = _POOL) -> None:
        self._photos, self._rng = photos, rng
        self._visits = min(_PATCHES_A_VISIT, -(-count // photos))
        self._pools = -(-photos // min(_POOL, max(1, at_once)))
        self.rest = np.empty(0, np.intp)  # of the photographs, in the order of this round: those of pools to come
        self.pools = 0  # as so many of them
        self.waiting = np.empty(0, np.intp)  # the photographs of patches that have been mixed and not been drawn

    def next_pool(self) -> np.ndarray:
        """The photographs of a pool's patches, in mixed order."""
        if not self.pools:
            self.rest, self.pools = self._rng.permutation(self._photos), self._pools
        size = -(-len(self.rest) // self.pools)  # as np.array_split has it: sizes differ by one, the larger come first
        pool, self.rest, self.pools = self.rest[:size], self.rest[size:], self.pools - 1
        return self._rng.permutation(np.repeat(pool, self._visits))

    def take(self, count: int) -> np.ndarray:
        """The photographs of the next patches."""
        while len(self.waiting) < count:
            self.waiting = np.concatenate([self.waiting, self.next_pool()])
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    def be_at(self, rest: np.ndarray, pools: int, waiting: np.ndarray) -> None:
        """Go on with these; ValueError for what no order of these photographs can have left."""
        for indices in (rest, waiting):
            if indices.size and not 0 <= indices.min() <= indices.max() < self._photos:
                raise ValueError(f"the order of patches names others than the {self._photos} photographs")
        if not 0 <= pools <= self._pools or (len(rest) == 0) != (pools == 0) or len(rest) < pools:
            raise ValueError(f"the order of patches has {pools} pools for {len(rest)} photographs")
        self.rest, self.pools, self.waiting = rest, pools, waiting


class _PatchBatches(Batches):
    """An epoch of patches, drawn batch by batch."""

    def __init__(self, pairs: PatchPairs, order: _PhotoOrder, batch_size: int, rng: np.random.Generator) -> None:
        self._pairs, self._order, self._batch_size, self._rng = pairs, order, batch_size, rng
        self._left = len(pairs)

    def __next__(self) -> Batch:
        if self._left <= 0:
            raise StopIteration
        size = min(self._batch_size, self._left)
        self._left -= size
        return self._pairs._draw(self._order.take(size), self._rng)

    def order(self) -> Mapping[str, np.ndarray]:
        order = self._order
        return {"rest": order.rest, "pools": np.array(order.pools), "waiting": order.waiting}

    def return_to(self, drawn: int, order: Mapping[str, np.ndarray]) -> None:
        left = len(self._pairs) - drawn * self._batch_size
        if drawn < 0 or left <= -self._batch_size:
            raise ValueError(f"{drawn} batches of {self._batch_size} are more than {len(self._pairs)} patches")
        rest, waiting = (_indices(order, name) for name in ("rest", "waiting"))
        pools = _indices(order, "pools")
        if pools.size != 1:
            raise ValueError(f"the order of patches has {pools.size} numbers of pools, it must be one")
        self._order.be_at(rest, int(pools[0]), waiting)
        self._left = left


def _indices(order: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """An array of an order, 1-D; one without elements may be missing."""
    values = np.asarray(order.get(name, np.empty(0, np.intp)))
    if values.dtype.kind not in "iu" or values.ndim > 1:
        raise ValueError(f"the order of patches has {values.dtype} {values.shape} as {name!r}, it must be integers")
    return np.atleast_1d(values).astype(np.intp)


def _posed(image: np.ndarray, pose: int) -> np.ndarray:
    """One of the 8 turned and mirrored versions of a square (C, H, W) image, as a view."""
    if pose & 1:
        image = image.swapaxes(1, 2)
    if pose & 2:
        image = image[:, ::-1]
    if pose & 4:
        image = image[:, :, ::-1]
    return image
