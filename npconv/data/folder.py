"""The image files of a folder as photographs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import about_a_file, damage_named
from .headers import header, page_count
from .images import ENDINGS, read_image
from .lazy import CACHE_BYTES, LazyPhotos
from .mapped import MappedImage, mapped_image
from .photos import checked_photo
from .pillow_images import JPEG_GROWTH
from .sizes import FREE_IMAGE, MAX_GROWTH, check_growth
from .tiff import read_page
from .values import check_scale, in_8bit_steps, with_channels

__all__ = ["FolderPhotos", "image_names"]

JPEG_ENDINGS = (".jpg", ".jpeg")
_SAMPLE = 16  # files whose headers tell how much memory photographs take
_LAYOUTS = 4096  # files of which it is remembered where their pixels lie
_LOOK = 256  # rows and columns of a large photograph that are looked at for its scale


class FolderPhotos(LazyPhotos):
    """The image files of a folder and its subfolders, in the order of their paths, read when they are asked
    for.

    folder: PNG, JPEG, TIFF and NPY files, as `read_image` reads them; each page of a TIFF stack is a photograph,
    "stack.tif[3]", read alone. Passed over are hidden files and folders, and subfolders that hold what an
    `npconv train` wrote (options.json with model.h5 or history.csv); other results, such as those of `npconv
    denoise`, are better kept elsewhere. A subfolder that cannot be opened is named in a warning.

    channels: 1 or 3, to which every photograph is converted; an alpha channel is dropped. cache_bytes: how much of
    what was read is remembered, the least recently used forgotten first. 16-bit files are scaled to 0..255,
    float32; floats must be 0..255 already.

    corrupt: "fail", drawing from a file that cannot be read raises ValueError that names it; "skip", it is named
    once in a warning, and `PatchPairs` draws from the next one instead. `photos[i]` raises in both cases.

    Raises NotADirectoryError or FileNotFoundError for a folder that isn't one or has no images.
    """

    has_lasting_names = True

    def __init__(
        self, folder: str | Path, channels: int = 3, cache_bytes: int = CACHE_BYTES, corrupt: str = "fail"
    ) -> None:
        super().__init__(cache_bytes, corrupt)
        if channels not in (1, 3):
            raise ValueError(f"channels (={channels}) must be 1 (gray) or 3 (RGB)")
        self._folder = Path(folder)
        # The files, and of each photograph which file it is in and which page of it (None of an only one).
        self._files = image_names(self._folder)
        self._places = [
            (number, page) for number, name in enumerate(self._files) for page in _pages(self._folder / name)
        ]
        if not self._files:
            endings = ", ".join(ENDINGS)
            raise FileNotFoundError(f"no images in {str(folder)!r}: files that end in {endings} are read")
        self.channels = channels
        self._layouts: dict[int, MappedImage | None] = {}

    def __len__(self) -> int:
        return len(self._places)

    def path(self, index: int) -> Path:
        """The file of photograph `index`."""
        return self._folder / self._files[self._places[index][0]]

    @property
    def names(self) -> list[str]:
        return [self.name(i) for i in range(len(self))]

    def name(self, index: int) -> str:
        number, page = self._places[index]
        return self._files[number].replace(os.sep, "/") + ("" if page is None else f"[{page}]")

    def _load(self, index: int) -> np.ndarray:
        path, page = self.path(index), self._places[index][1]
        if page is None:
            photo = read_image(path)
            self._check_size(photo, path)
            with about_a_file(str(path)):
                photo = checked_photo(photo, str(path))
        else:
            name = f"{path}[{page}]"
            with damage_named(name):
                photo = read_page(path, page)
                self._check_size(photo, path)
            with about_a_file(name):
                photo = checked_photo(photo, name)
        return np.ascontiguousarray(with_channels(photo, self.channels))

    def _check_size(self, photo: np.ndarray, path: Path) -> None:
        """FileFormatError for an image of a file that has shrunk much, if it would be large as floats or as RGB."""
        if path.suffix.lower() == ".npy":
            return
        made = photo[0].size * self.channels * (4 if photo.dtype == np.uint16 else photo.dtype.itemsize)
        # A file that may be read as it is may be so much larger as what it becomes.
        growth = (MAX_GROWTH if path.suffix.lower() not in JPEG_ENDINGS else JPEG_GROWTH) * -(-made // photo.nbytes)
        check_growth(made, path.stat().st_size, f"{str(path)!r}, for training,", growth, FREE_IMAGE)

    # ---- large files ----
    def size(self, index: int) -> tuple[int, int]:
        layout = self._layout(index)
        return super().size(index) if layout is None else layout.size

    def _region(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        layout = self._layout(index)
        if layout is None:
            return super()._region(index, top, left, height, width)
        page = self._places[index][1]
        name = str(layout.path) + ("" if page is None else f"[{page}]")
        with damage_named(name):
            region = in_8bit_steps(layout.region(top, left, height, width), name)
        return with_channels(region, self.channels)

    def _layout(self, index: int) -> MappedImage | None:
        """Where the pixels of a large uncompressed file lie; None for all others."""
        known = self._layouts  # another thread may forget all of them, and begin another dictionary
        if index in known:
            return known[index]
        layout = self._find_layout(self.path(index), self._places[index][1] or 0)
        if len(known) >= _LAYOUTS:
            self._layouts = known = {}
        known[index] = layout
        return layout

    def _find_layout(self, path: Path, page: int) -> MappedImage | None:
        # A small file is small when it is read, but for 16 bits, which become 32.
        if not path.is_file() or not self._is_large(2 * path.stat().st_size):
            return None
        layout = mapped_image(path, page)
        if layout is not None and layout.dtype.kind == "f":
            # The scale of a dark region alone could not be told.
            steps = [max(1, side // _LOOK) for side in layout.size]
            with about_a_file(str(path)):
                check_scale(layout.region(0, 0, *layout.size, step=max(steps)), str(path))
        return layout

    @cached_property
    def _sampled_bytes(self) -> list[int]:
        """Of some files, how much memory their photographs take."""
        found = []
        for index in np.unique(np.linspace(0, len(self) - 1, _SAMPLE, dtype=np.intp)).tolist():
            try:
                (height, width), itemsize = header(self.path(index))
            except (ImportError, ValueError):
                continue  # reading it says what is wrong
            if self._layout(index) is None:
                found.append(height * width * self.channels * itemsize)
        return found

    def _typical_bytes(self) -> list[int]:
        return self._sampled_bytes


def _pages(path: Path) -> list[int | None]:
    """[None] of a file with one image, else the numbers of its pages; nothing is opened but TIFF files."""
    try:
        count = page_count(path) if path.suffix.lower() in (".tif", ".tiff") and path.is_file() else 1
    except (OSError, ValueError):
        count = 1  # reading it says what is wrong
    return [None] if count == 1 else list(range(count))


def image_names(folder: Path, recursive: bool = True) -> list[str]:
    """The paths, within a folder, of every image file in it that is not hidden, sorted folder by folder.

    recursive: whether to look into its subfolders too. Raises FileNotFoundError, NotADirectoryError, PermissionError.
    """
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{str(folder)!r} is not a folder")
    names: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=_unreadable(folder)):
        within = os.path.relpath(parent, folder)
        if within != os.curdir and _is_run(files):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")] if recursive else []
        images = [name for name in files if name.lower().endswith(ENDINGS) and not name.startswith(".")]
        names += images if within == os.curdir else [os.path.join(within, name) for name in images]
    return sorted(names, key=lambda name: name.split(os.sep))


def _is_run(files: list[str]) -> bool:
    """Whether these are the files of an `npconv train`: its pictures are no photographs."""
    return "options.json" in files and ("model.h5" in files or "history.csv" in files)


def _unreadable(folder: Path) -> Callable[[OSError], None]:
    def tell(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        warnings.warn(f"passed over: {error.filename!r} cannot be opened ({error.strerror})", stacklevel=5)

    return tell
