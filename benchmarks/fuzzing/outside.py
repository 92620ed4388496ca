"""Files beside the hostile ones, which these name, and which nobody may open."""

from __future__ import annotations

import io
import struct

import h5py
import numpy as np

PLACE = "../outside/"  # as seen from the hostile file
SECRET = 4242.5


def _hdf5() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as made:
        made["secret"] = np.full((4, 1, 3, 3), SECRET, "f4")
        made["images"] = np.full((3, 1, 16, 16), 42, "u1")
        made["group/weight"] = np.full((4, 1, 3, 3), SECRET, "f4")
    return file.getvalue()


CANARIES: dict[str, bytes] = {
    "other.h5": _hdf5(),
    "raw": np.full(4096, SECRET, "<f4").tobytes(),
    "page.tif": b"II*\0" + bytes(200),
    "run.ps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}


def _index() -> bytes:
    """An index of Micro-Manager's, which may lie beside an image file and names another one."""
    axes, name = b'{"time": 0}', (PLACE + "page.tif").encode()
    numbers = struct.pack("<IiiiiIii", 8, 4, 4, 0, 0, 0, 0, 0)
    return struct.pack("<I", len(axes)) + axes + struct.pack("<I", len(name)) + name + numbers


INDEX = _index()
