"""Image files of the command line: finding them, asking for their sizes, writing them whole or not at all."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from ..data.folder import image_names
from ..data.images import ENDINGS

CMD_SPECIAL = " \t&()[]{}^=;!'+,`~"  # what cmd.exe takes for more than a letter outside of double quotes


def image_files(
    names: Iterable[str], endings: Sequence[str] = ENDINGS, shell_expands: bool = os.name != "nt"
) -> list[Path]:
    """The files that `names` stand for: a folder stands for the images directly in it, in the order of names.

    `endings`: what a file that is named may end in; of folders, HDF5 files are left out, which may be models.
    `shell_expands`: whether scans/*.tif has become names before it comes here; on Windows it has not.
    Raises FileNotFoundError for what is not there or a folder without images, ValueError for another ending.
    """
    expanded = names if shell_expands else [match for name in names for match in _matches(name)]
    return [path for name in expanded for path in _images_at(Path(name), endings)]


def _matches(name: str) -> list[str]:
    """The names that a pattern stands for, sorted; what is there, and what fits nothing, stands for itself."""
    return [name] if os.path.exists(name) else sorted(glob.glob(name)) or [name]


def _images_at(path: Path, endings: Sequence[str]) -> list[Path]:
    if path.is_dir():
        found = [path / name for name in image_names(path, recursive=False) if (path / name).is_file()]
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


def check_new(path: Path, overwrite: bool) -> None:
    """FileExistsError if `path` is there already and may not be replaced; ValueError if it is a folder."""
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder, not a file to write")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{str(path)!r} exists already: choose another name, or give --overwrite")


def quoted(path: PurePath) -> str:
    """The path as one word of a command that can be copied into this system's shell; on Windows that is cmd.exe."""
    text = str(path)
    if os.name != "nt":
        return shlex.quote(text)
    if not set(text) & set(CMD_SPECIAL):
        return text
    ending = text[len(text.rstrip("\\")) :]  # before the quotes that end the word backslashes count twice
    return f'"{text}{ending}"'  # within it there are none: names have no quotes there
