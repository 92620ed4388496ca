"""Image files of the command line: finding them, asking for their sizes, writing them whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..data.images import ENDINGS
from ..data.pillow_images import opened
from ..extras import require


def image_files(names: Iterable[str], endings: Sequence[str] = ENDINGS) -> list[Path]:
    """The files that `names` stand for: a folder stands for the images directly in it, in the order of names.

    `endings`: what a file that is named may end in; of folders, HDF5 files are left out, which may be models.
    Raises FileNotFoundError for what is not there or a folder without images, ValueError for another ending.
    """
    return [path for name in names for path in _images_at(Path(name), endings)]


def _images_at(path: Path, endings: Sequence[str]) -> list[Path]:
    if path.is_dir():
        found = [file for file in sorted(path.iterdir()) if file.suffix.lower() in ENDINGS and file.name[0] != "."]
        if not found:
            raise FileNotFoundError(f"no images in {str(path)!r}: files that end in {', '.join(ENDINGS)} are read")
        return found
    if not path.exists():
        raise FileNotFoundError(f"there is no image file or folder {str(path)!r}")
    check_ending(path, endings)
    with open(path, "rb"):  # a file that may not be read is an error now rather than after other images
        return [path]


def check_ending(path: Path, endings: Sequence[str] = ENDINGS) -> None:
    """ValueError if `path` does not name a format that images are read from and written to."""
    if path.suffix.lower() not in endings:
        raise ValueError(f"the ending of {str(path)!r} must be one of {', '.join(endings)}")


def shortest_side(path: Path) -> int:
    """The shortest side of an image file in pixels, from its header; ValueError that names a file without
    one.
    """
    try:
        return min(_header_shape(path))
    except ImportError:
        raise
    except Exception as error:  # decoders raise whatever they like on a damaged file
        raise ValueError(f"cannot read {str(path)!r}: {error}") from error


def _header_shape(path: Path) -> list[int]:
    """Height and width, in some order."""
    ending = path.suffix.lower()
    if ending == ".npy":
        return sorted(np.load(path, mmap_mode="r", allow_pickle=False).shape)[-2:]  # at most 4 channels
    if ending in (".tif", ".tiff"):
        return _tiff_shape(path)
    with opened(path) as image:
        return [image.height, image.width]


def _tiff_shape(path: Path) -> list[int]:
    with require("tifffile").TiffFile(path) as file:
        return sorted(file.series[0].shape)[-2:]


def check_new(path: Path, overwrite: bool) -> None:
    """FileExistsError if `path` is there already and may not be replaced; ValueError if it is a folder."""
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder, not a file to write")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists already: choose another name, or give --overwrite")
