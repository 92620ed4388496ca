"""read_state: the weights of any file that is known here, told apart by its content."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import FileFormatError
from ..weights import read_arrays
from .npz_file import read_npz
from .safetensors_file import read_safetensors
from .torch_file import LEGACY_WITHIN, is_torch_legacy, read_torch_legacy, read_torch_zip
from .zip_entries import opened_zip

HDF5_START, ZIP_START = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
PREFIXES = "module.", "_orig_mod."  # what PyTorch's DataParallel and torch.compile put before every name


def read_state(path: str | os.PathLike[str], key: str | None = None) -> dict[str, np.ndarray]:
    """The weights in a file: dotted names and NumPy arrays of their own, in the order of the file.

    PyTorch's .pth and .pt (zip and legacy), .safetensors, .npz and npconv's .h5 (parameters and buffers) are known by
    their content. PyTorch is not needed, and no pickle is executed: what is no tensor and no plain container is
    refused by name. bfloat16 becomes float32; all else keeps its dtype. The prefixes "module." and "_orig_mod." are
    taken off where all names have them.

    In a checkpoint of PyTorch's, the weights are the file itself if all its values are tensors; else the first of the
    entries params_ema, params, state_dict, model_state_dict, model, network, net, generator, weights that has only
    tensors. `key` names another one ("a/b": b within a).

    Raises FileFormatError with path, place and rule for a file that is damaged, hostile or of another kind, and
    ValueError for `key` with a file that has no entries.
    """
    return read_entry(path, key)[0]


def read_entry(path: str | os.PathLike[str], key: str | None = None) -> tuple[dict[str, np.ndarray], str | None]:
    """What `read_state` gives, and the name of the checkpoint's entry that it is; None if it is the file itself."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path (={path!r}) must be the name of a file")
    if key is not None and not isinstance(key, str):
        raise TypeError(f"key (={key!r}) must be text")
    name = os.fspath(path)
    if not Path(path).is_file():
        raise FileFormatError(f"{name} is not a file")
    with open(path, "rb") as file:
        start = file.read(LEGACY_WITHIN)
    if start.startswith(HDF5_START):
        _check_no_key(key, "an .h5 file")
        return read_arrays(path), None
    try:
        arrays, entry = _read(name, start, key)
    except FileFormatError as error:
        raise FileFormatError(f"{name}: {error}") from None
    except MemoryError:
        raise FileFormatError(f"{name}: its weights need more memory than there is") from None
    return _without_prefixes(arrays), entry


def _without_prefixes(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for prefix in PREFIXES * 2:  # a compiled network in a DataParallel, or the other way round
        if all(name.startswith(prefix) and len(name) > len(prefix) for name in arrays):
            arrays = {name[len(prefix) :]: array for name, array in arrays.items()}
    return arrays


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as npconv's own do."""
    with open(path, "rb") as file:
        return file.read(len(HDF5_START)) == HDF5_START


def _read(path: str, start: bytes, key: str | None) -> tuple[dict[str, np.ndarray], str | None]:
    if is_torch_legacy(start):
        return read_torch_legacy(path, key)
    if start.startswith(ZIP_START):
        with opened_zip(path) as archive:
            is_torch = any(name.endswith("/data.pkl") for name in archive.namelist())
        if is_torch:
            return read_torch_zip(path, key)
        _check_no_key(key, "an .npz file")
        return read_npz(path), None
    if start[8:9] == b"{":
        _check_no_key(key, "a .safetensors file")
        return read_safetensors(path), None
    if start[:1] == b"\x80":
        raise FileFormatError("a pickle that torch.save did not write: it is not read")
    raise FileFormatError("neither PyTorch's (zip or legacy), nor .safetensors, .npz or npconv's .h5")


def _check_no_key(key: str | None, kind: str) -> None:
    if key is not None:
        raise ValueError(f"key (={key!r}) has no meaning for {kind}: it has no entries to choose from")
