"""write_state: a network's weights as a file that PyTorch and NumPy read."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import to_numpy
from ..module import Module
from ..whole_file import whole_file
from .mapping import own_arrays
from .safetensors_file import safetensors_bytes

ENDINGS = (".safetensors", ".npz")


def write_state(state: Mapping[str, Any] | Module, path: str | os.PathLike[str]) -> None:
    """Write a network, or a mapping of names to arrays of any backend, to a .safetensors or an .npz file.

    Names and layouts are those of `state_dict()`, which are PyTorch's, as is the order of a network's arrays:
    `load_state_dict(..., strict=True)` of the same network in PyTorch takes what safetensors.torch.load_file reads.
    The file is written beside its place and then renamed, so that an old one stays whole.

    Raises TypeError for anything else than these, ValueError for another ending or a name or dtype that the format
    cannot hold, OSError if the file cannot be written.
    """
    if not isinstance(state, (Mapping, Module)):
        raise TypeError(f"state (={state!r}) must be a Module, or a mapping of names to arrays")
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"path (={os.fspath(path)!r}) must end in {' or '.join(ENDINGS)}")
    named = _in_order(state) if isinstance(state, Module) else state
    arrays = {_checked_name(name): _checked_array(value, name) for name, value in named.items()}
    parts = safetensors_bytes(arrays) if ending == ".safetensors" else []
    with whole_file(path) as part:
        if ending == ".npz":
            _write_npz(part, arrays)
        else:
            with open(part, "wb") as file:
                file.writelines(parts)


def _in_order(network: Module) -> dict[str, Any]:
    """The state in PyTorch's order, in which the buffers of a module stand beside its parameters."""
    state = network.state_dict()
    return {name: state[name] for name in own_arrays(network)}


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """As numpy.savez, which takes the names as keyword arguments and so cannot write some."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"the name {name!r} must be text that is not empty")
    if name == "__metadata__":
        raise ValueError("the name '__metadata__' belongs to the format")
    return name


def _checked_array(value: Any, name: str) -> np.ndarray:
    array = np.asarray(to_numpy(value))
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise ValueError(f"{name} is {array.dtype}, it must be floats, integers or bools of at most 64 bits")
    return np.require(array, requirements="C")
