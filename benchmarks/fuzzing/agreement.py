"""Whether what npconv loaded of a mutated file is what other readers find in it, where there are some.

    .npz, .npy   NumPy       .pth   PyTorch (weights_only)       .safetensors   safetensors
    .h5          h5py        .png   pillow                       .tif           tifffile

A file that the other reader refuses, or that it reads in another form (a palette, a turned page), is not compared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

PREFIXES = ("module.", "_orig_mod.")


def disagreement(reader: str, path: Path, value: Any) -> str | None:
    """What differs, in words; "" if nothing; None if there is nothing to compare with."""
    other = _OTHERS.get((reader, path.suffix))
    if other is None:
        return None
    try:
        expected = other(path)
    except Exception:  # the other reader refuses the file, in its own way
        return None
    if expected is None:
        return None
    return _difference(expected, value)


def _difference(expected: Any, value: Any) -> str:
    if not isinstance(expected, dict):
        expected, value = {"the image": expected}, {"the image": value}
    short = {name.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1]): array for name, array in expected.items()}
    named = expected if set(expected) == set(value) else short
    if set(named) != set(value):
        return f"names {sorted(set(named) ^ set(value))[:3]}"
    for name, array in named.items():
        mine = np.asarray(value[name])
        if mine.shape != array.shape or mine.tobytes() != np.ascontiguousarray(array, mine.dtype).tobytes():
            return f"{name}: {mine.dtype} {mine.shape}, others read {array.dtype} {array.shape}"
    return ""


def _npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _torch(path: Path) -> dict[str, np.ndarray] | None:
    import torch

    held = torch.load(path, weights_only=True, map_location="cpu")
    if not isinstance(held, dict) or not all(isinstance(value, torch.Tensor) for value in held.values()):
        return None  # a checkpoint: which of its entries is taken, torch does not say
    return {name: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy() for name, v in held.items()}


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(path))


def _hdf5_weights(path: Path) -> dict[str, np.ndarray]:
    found = {}
    with h5py.File(path) as file:
        for group in ("parameters", "buffers"):
            for name, data in file.get(group, {}).items():
                found[name] = data[0] if data.shape == (1,) and _is_true(data.attrs.get("scalar")) else data[...]
    return {name: np.asarray(array) for name, array in found.items()}


def _is_true(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) and bool(value)


def _numpy_image(path: Path) -> np.ndarray | None:
    array = np.load(path, allow_pickle=False)
    return array if array.ndim == 3 and array.shape[0] <= 4 and array.dtype != bool else None


def _pillow(path: Path) -> np.ndarray | None:
    from PIL import Image

    with Image.open(path) as image:
        plain = image.mode in ("L", "RGB", "RGBA", "LA") and "transparency" not in image.info and not image.getexif()
        pixels = np.asarray(image) if plain else None
    return None if pixels is None else np.atleast_3d(pixels).transpose(2, 0, 1)


def _tifffile(path: Path) -> np.ndarray | None:
    import tifffile

    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        plain = (
            page.photometric in (1, 2)
            and "Orientation" not in page.tags
            and page.dtype != bool
            and len(file.pages) == 1
        )
        pixels = page.asarray() if plain and page.axes in ("YX", "YXS") else None
    return None if pixels is None else np.atleast_3d(pixels).transpose(2, 0, 1)


_OTHERS: dict[tuple[str, str], Callable[[Path], Any]] = {
    ("read_state", ".npz"): _npz,
    ("read_state", ".pth"): _torch,
    ("read_state", ".safetensors"): _safetensors,
    ("read_state", ".h5"): _hdf5_weights,
    ("read_image", ".npy"): _numpy_image,
    ("read_image", ".png"): _pillow,
    ("read_image", ".tif"): _tifffile,
}


def prepare() -> None:
    """Import the other readers before memory is limited."""
    for name in ("torch", "safetensors.numpy", "PIL.Image", "tifffile"):
        with contextlib.suppress(ImportError):
            __import__(name)
