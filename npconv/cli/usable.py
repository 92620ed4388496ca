"""Which photographs can be trained on: of a folder, as far as the headers of its files tell; or one file alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..data import ArrayPhotos, FolderPhotos, Noise, PatchPairs, Photos, read_image
from ..data.headers import header
from ..data.patches import drawn_size, patches_in_words
from ..data.photos import checked_photo
from ..data.values import with_channels

HEADERS = 2000  # files whose headers are read before training; the others speak up when they are drawn from
OWN = ("curves.png", "examples.png")  # pictures that a run writes into its folder


class ImageFile(ArrayPhotos):
    """One image file as a collection of one photograph, converted to 1 or 3 channels.

    Raises ValueError or TypeError that names the file where it cannot be read or used.
    """

    def __init__(self, path: Path, channels: int) -> None:
        photo = checked_photo(read_image(path), str(path))
        super().__init__([np.ascontiguousarray(with_channels(photo, channels))])
        self._path = path

    @property
    def names(self) -> list[str]:
        return [self._path.name]

    def name(self, index: int) -> str:
        return self.names[index]


def usable(
    photos: Photos, where: str, noise: Noise, target: str, patch_size: int, output: Path | None = None
) -> Photos:
    """The photographs that patches for this target can be drawn from.

    Pictures of a folder that are in `output`, where the run writes its own, are none of them.

    Raises ValueError that names a file of a folder that is too small for the patches, or unreadable; where the
    collection skips such photographs, they are left out and named in a warning. Of large folders some headers are
    looked at. Other photographs know their sizes, and `PatchPairs` checks them.
    """
    if not isinstance(photos, FolderPhotos):
        PatchPairs(photos, noise, 1, patch_size, target)
        return photos
    own = _own_pictures(where, output)
    chosen = np.array([index for index in range(len(photos)) if not own(photos.path(index))], np.intp)
    if len(chosen) == 0:
        raise ValueError(f"{where} has no images but those of the output folder {output}")
    looked_at = chosen[np.unique(np.linspace(0, len(chosen) - 1, min(len(chosen), HEADERS), dtype=np.intp))].tolist()
    shortest = {index: _shortest_side(photos, index) for index in looked_at}
    smallest = noise.smallest_photo(drawn_size(target, patch_size))
    small = [index for index, side in shortest.items() if side is not None and side < smallest]
    if small:
        more = f" and {len(small) - 1} more" if len(small) > 1 else ""
        rule = (
            f"{photos.name(small[0])!r}{more} of {where} must be at least {smallest} x {smallest} pixels for "
            f"{patches_in_words(target, patch_size, noise)}"
        )
        if not photos.skips_corrupt:
            raise ValueError(f"{rule}: take these photos away, or choose a smaller --patch-size")
        warnings.warn(f"left out: {rule}", stacklevel=2)
    left_out = {*small, *(index for index, side in shortest.items() if side is None)}
    if len(left_out) == len(chosen):
        raise ValueError(f"none of the {len(chosen)} images of {where} can be used")
    if not left_out and len(chosen) == len(photos):
        return photos
    return photos.subset([index for index in chosen.tolist() if index not in left_out])


def _own_pictures(folder: str, output: Path | None) -> Callable[[Path], bool]:
    """Tells which files of a folder a run writes that has `output` as its own."""
    if output is None or not output.resolve().is_relative_to(Path(folder).resolve()):
        return lambda path: False
    inside = Path(folder) / output.resolve().relative_to(Path(folder).resolve())
    if inside == Path(folder):  # which is the data too: all else in it is the user's
        return lambda path: path.parent == inside and path.name in OWN
    return lambda path: path.is_relative_to(inside)


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
