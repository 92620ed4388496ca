"""Which photographs of a folder can be trained on, as far as the headers of their files tell."""

from __future__ import annotations

import warnings

import numpy as np

from ..data import FolderPhotos, Noise, NoNoise, PatchPairs, Photos
from ..data.headers import header

HEADERS = 2000  # files whose headers are read before training; the others speak up when they are drawn from


def usable(photos: Photos, where: str, noise: Noise, patch_size: int) -> Photos:
    """The photographs that patches can be drawn from.

    Raises ValueError that names a file of a folder that is too small for the patches, or unreadable; where the
    collection skips such photographs, they are left out and named in a warning. Of large folders some headers are
    looked at. Other photographs know their sizes, and `PatchPairs` checks them.
    """
    if not isinstance(photos, FolderPhotos):
        PatchPairs(photos, noise, 1, patch_size, "self" if isinstance(noise, NoNoise) else "noisy")
        return photos
    looked_at = np.unique(np.linspace(0, len(photos) - 1, min(len(photos), HEADERS), dtype=np.intp)).tolist()
    shortest = {index: _shortest_side(photos, index) for index in looked_at}
    smallest = noise.smallest_photo(patch_size)
    small = [index for index, side in shortest.items() if side is not None and side < smallest]
    if small:
        more = f" and {len(small) - 1} more" if len(small) > 1 else ""
        rule = (
            f"{photos.name(small[0])!r}{more} of {where} must be at least {smallest} x {smallest} pixels for patches "
            f"of {patch_size} with {noise} noise"
        )
        if not photos.skips_corrupt:
            raise ValueError(f"{rule}: take these photos away, or choose a smaller --patch-size")
        warnings.warn(f"left out: {rule}", stacklevel=2)
    left_out = {*small, *(index for index, side in shortest.items() if side is None)}
    if not left_out:
        return photos
    if len(left_out) == len(photos):
        raise ValueError(f"none of the {len(photos)} images of {where} can be used")
    return photos.subset([index for index in range(len(photos)) if index not in left_out])


def _shortest_side(photos: FolderPhotos, index: int) -> int | None:
    """The shortest side of a file's picture, in pixels; None, with a warning, if it is unreadable and may be."""
    try:
        (shortest, _), _ = header(photos.path(index))
    except ValueError as error:
        if not photos.skips_corrupt:
            raise
        warnings.warn(f"left out: {error}", stacklevel=3)
        return None
    return shortest
