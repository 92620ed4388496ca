"""Opens data by what it is: a folder of image files, an HDF5 file of images or of pairs, or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import FileFormatError
from .folder import FolderPhotos
from .hdf5 import HDF5Pairs, HDF5Photos, dataset_names
from .pairs import Pairs
from .photos import ArrayPhotos, Photos

__all__ = ["open_data", "open_photos"]


def open_photos(
    source: str | Path | np.ndarray | Sequence[np.ndarray], channels: int | None = None, corrupt: str = "fail"
) -> Photos:
    """Opens photographs: a folder, an HDF5 file with a data set `images`, an (N, C, H, W) array or a list of
    (C, H, W).

    channels: 1 or 3. A folder's images are converted to it (default 3); the others must have it already.
    corrupt: "fail" or "skip", what drawing from images that cannot be read does; see `FolderPhotos`.
    Raises FileNotFoundError, and ValueError for a source of another kind, saying what it is.
    """
    if isinstance(source, (str, Path)):
        data = open_data(source, channels, corrupt)
        if isinstance(data, Pairs):
            raise ValueError(f"{str(source)!r} holds pairs ('input' and 'target'), not photographs")
        return data
    photos = ArrayPhotos(source)
    _check_channels(photos.channels, channels)
    return photos


def open_data(path: str | Path, channels: int | None = None, corrupt: str = "fail") -> Photos | Pairs:
    """Opens what is at a path: photographs of a folder or an HDF5 file (`images`), or pairs (`input` and
    `target`).

    channels, corrupt: as for `open_photos`; channels for pairs too, corrupt not: damage in them is an
    error. Raises FileNotFoundError if there is nothing, and
    FileFormatError (a ValueError) for anything else, saying what an HDF5 file has.
    """
    if Path(path).is_dir():
        return FolderPhotos(path, 3 if channels is None else channels, corrupt=corrupt)
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no folder or file {str(path)!r}")
    names = dataset_names(path)
    if "images" in names:
        photos = HDF5Photos(path, corrupt=corrupt)
        _check_channels(photos.channels, channels)
        return photos
    if "input" in names and "target" in names:
        pairs = HDF5Pairs(path)
        _check_channels(pairs.image_shape[0], channels)
        return pairs
    held = ", ".join(names) or "none"
    raise FileFormatError(f"{str(path)!r} must have a data set 'images', or 'input' and 'target'; it has: {held}")


def _check_channels(has: int, wanted: int | None) -> None:
    if wanted is not None and wanted != has:
        raise ValueError(f"channels (={wanted}) must be what the data has (={has})")
