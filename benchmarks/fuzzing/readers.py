"""How npconv reads a file of each kind, by every public way; and what must hold of what it gives."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import npconv as nc
from npconv import data, weights
from npconv.data.headers import header, page_count
from npconv.data.opening import open_data
from npconv.data.stacks import open_stack

Read = Callable[[Path], Any]
SIDE = 64  # of a region


class Misfit(Exception):
    """The file was read; what it holds does not fit the network, which says so with a ValueError."""


def network() -> nc.Module:
    """The network that files are read into: all kinds of arrays."""
    nc.manual_seed(3)
    return nc.Sequential(
        nc.Conv2d(1, 4, 3, padding=1), nc.BatchNorm2d(4), nc.ReLU(), nc.Conv2d(4, 1, 3, padding=1)
    )  # fmt: skip


class Readers:
    """The ways to read each kind; `changed` tells whether the network in memory is another one than before."""

    def __init__(self) -> None:
        self.network = network()
        self._before = self._bits()
        self.kinds: dict[str, list[tuple[str, Read]]] = {
            "h5 weights": [
                ("load", nc.load),
                ("load_into", lambda path: weights.load_into(self.network, path)),
                ("read_state", nc.read_state),
                ("Model.load", nc.Model.load),
            ],
            "weights": [("read_state", self._load_state)],
            "picture": [
                ("read_image", data.read_image),
                ("open_stack", self._stack),
                ("FolderPhotos", self._folder),
                ("header", lambda path: (header(path), page_count(path))),
            ],
            "h5 images": [
                ("HDF5Photos", self._hdf5_photos),
                ("open_stack", self._stack),
                ("HDF5Pairs", self._hdf5_pairs),
                ("open_data", lambda path: len(open_data(path))),
            ],
        }

    def _bits(self) -> bytes:
        return b"".join(np.ascontiguousarray(nc.to_numpy(a)).tobytes() for a in self.network.state_dict().values())

    def changed(self) -> bool:
        """Whether the network has other values than at the beginning."""
        return self._bits() != self._before

    def restore(self) -> None:
        """The values of the beginning."""
        self.network.load_state_dict(network().state_dict())

    def _load_state(self, path: Path) -> Any:
        state = nc.read_state(path)
        try:
            nc.load_state(self.network, state)
        except ValueError as error:
            raise Misfit(str(error)) from None
        return state

    def _stack(self, path: Path) -> Any:
        with open_stack(path) as stack:
            pages, _, height, width = stack.shape
            for page in sorted({0, pages // 2, pages - 1}):
                for top, left in ((0, 0), (max(0, height - SIDE), max(0, width - SIDE))):
                    part = slice(page, page + 1), slice(top, top + SIDE), slice(left, left + SIDE)
                    block = stack.read(*part)
                    assert block.dtype == stack.dtype and block.shape[2:] == (min(SIDE, height), min(SIDE, width))
            return stack.shape

    def _folder(self, path: Path) -> Any:
        photos = data.FolderPhotos(path.parent, 1)
        photo = photos[len(photos) - 1]
        assert photo.ndim == 3 and photo.shape[0] == 1 and np.isfinite(photo).all()
        height, width = photos.size(0)
        return photos.region(0, 0, 0, min(height, SIDE), min(width, SIDE))

    def _hdf5_photos(self, path: Path) -> Any:
        photos = data.HDF5Photos(path)
        try:
            assert np.isfinite(photos[0]).all()
            photos[len(photos) - 1]
            return photos.size(0)
        finally:
            photos._file.close()

    def _hdf5_pairs(self, path: Path) -> Any:
        pairs = data.HDF5Pairs(path)
        try:
            x, t = pairs.take(2, np.random.default_rng(0))
            assert np.isfinite(x).all() and np.isfinite(t).all()
        finally:
            pairs._file.close()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Warnings, such as that of NaN in weights, are wanted, and not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
