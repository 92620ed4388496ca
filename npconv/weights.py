"""Networks in HDF5 files: parameters, gradients, buffers, and the architecture that rebuilds the network.

One file: root attributes `format` ("npconv"), `version`, `architecture` (JSON; null for modules of one's own) and
`training` (JSON: loss and optimizer, null if unknown), and `checksum` of these two texts; groups `parameters`,
`gradients` and `buffers` with a dataset for each dotted name. Datasets carry checksums. A file is written beside its
place and then renamed, so that a crash leaves the old one whole. A file may come from a stranger: its structures are
checked before HDF5's library sees it (hdf5_structure), and what it asks for before anything is made (architectures.py).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .architectures import REGISTRY as REGISTRY
from .architectures import architecture as architecture
from .architectures import build, check_size, module_paths, too_large
from .backends import backend, to_numpy
from .errors import FileFormatError
from .errors import WeightsFileError as WeightsFileError
from .extras import h5py
from .hdf5_files import create_hdf5, read_hdf5
from .hdf5_structure import MAX_TEXT, check_structure
from .module import Module
from .name_order import by_modules
from .whole_file import whole_file

FORMAT, VERSION = "npconv", 1
_BLOCK = 1 << 20  # bytes by which a file grows in memory

_numbers = itertools.count(1)


def save(network: Module, path: str | os.PathLike[str], *, training: dict[str, Any] | None = None) -> None:
    """Write `network` to the HDF5 file `path`: parameters, gradients, buffers, architecture.

    A network with modules of one's own, with shared parameters, with more than 16,384 modules or 200 in each other, is
    stored without its architecture; `load_into` reads it. `training`: plain data to keep beside it, as `Model.save`
    does. Raises TypeError if `network` is not a Module, WeightsFileError if the file cannot be written; an old file
    then stays as it was.
    """
    if not isinstance(network, Module):
        raise TypeError(f"network (={network!r}) must be a Module; a Model has a save of its own")
    letters = len(json.dumps(training))
    if letters > MAX_TEXT:
        raise WeightsFileError(f"{path} cannot be written: training is {letters:,} letters, {MAX_TEXT:,} at most")
    with _written(_checked(path)) as file:
        _fill(file, architecture(network), training, _groups(network))


def image(network: Module, training: dict[str, Any]) -> bytes:
    """The bytes of a file such as `save` writes, put together in memory: of the network as it is now.

    A disk that refuses them gives a plain error of the system.
    """
    return _image(architecture(network), training, _groups(network))


def _image(description: Any, training: Any, groups: Mapping[str, Mapping[str, Any]]) -> bytes:
    name = f"npconv-{next(_numbers)}"  # of no file, but HDF5 wants each that is open to have its own
    with h5py.File(name, "w", driver="core", backing_store=False, block_size=_BLOCK, track_order=False) as file:
        _fill(file, description, training, groups)
        file.flush()
        whole: bytes = file.id.get_file_image()
    return whole


def _fill(file: Any, description: Any, training: Any, groups: Mapping[str, Mapping[str, Any]]) -> None:
    """The attributes of a file, and arrays by group and name."""
    file.attrs["format"], file.attrs["version"] = FORMAT, VERSION
    file.attrs["architecture"], file.attrs["training"] = json.dumps(description), json.dumps(training)
    file.attrs["checksum"] = _checksum(file)
    for group, arrays in groups.items():
        for name, values in arrays.items():
            _write(_group(file, group), name, to_numpy(values))


def _checksum(file: Any) -> int:
    """Of the attributes that are text, which HDF5 keeps without one."""
    return zlib.crc32("\n".join(str(file.attrs[name]) for name in ("architecture", "training")).encode())


def load(path: str | os.PathLike[str]) -> Module:
    """The network stored in `path`, rebuilt, with its parameters, gradients and buffers.

    Raises WeightsFileError if there is no such file, if it is damaged or not npconv's, or if it has no architecture.
    """
    with _opened(path) as file:
        description = _architecture(file)
        if description is None:
            raise WeightsFileError(
                f"{path} has no architecture (modules of one's own, or very many): use load_into(network, path)"
            )
        check_size(description, file.filename)
        network = build(description)
        found = _all_datasets(file)
        _take_over_dtypes(network, found)
        _read_into(network, file, found)
    return network


def load_into(network: Module, path: str | os.PathLike[str]) -> None:
    """Read parameters, gradients and buffers of `path` into `network`.

    Raises WeightsFileError that lists every missing, unexpected and mismatched name; the network is then unchanged.
    """
    with _opened(path) as file:
        _read_into(network, file, _all_datasets(file))


def read_training(path: str | os.PathLike[str]) -> Any:
    """What `save` was given as `training`, or None."""
    with _opened(path) as file:
        return _json(file, "training")


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The parameters and buffers stored in `path`, by name, in PyTorch's order; no network is built.

    The order is that of the stored architecture's modules; without one, names are sorted by the numbers in them.
    """
    with _opened(path) as file:
        description = _architecture(file)
        modules = [] if description is None else list(module_paths(description))
        arrays = {name: _values(data) for group in ("parameters", "buffers") for name, data in _datasets(file, group)}
    return {name: arrays[name] for name in by_modules(arrays, modules)}


def _groups(network: Module) -> dict[str, dict[str, Any]]:
    parameters = dict(network.named_parameters())
    return {
        "parameters": {name: p.data for name, p in parameters.items()},
        "gradients": {name: p.grad for name, p in parameters.items()},
        "buffers": {name: getattr(m, key) for name, m, key in network.named_buffers()},
    }


def _group(file: Any, name: str) -> Any:
    """A group to write to; in the order of names, whatever h5py's configuration says: others are laid out otherwise."""
    return file[name] if name in file else file.create_group(name, track_order=False)


def _write(group: Any, name: str, values: np.ndarray) -> None:
    # Checksums need chunks, and chunks need an axis: a single number is stored as one element.
    data = values.reshape(1) if values.ndim == 0 else values
    dataset = group.create_dataset(name, data=data, chunks=data.shape, fletcher32=True, track_order=False)
    dataset.attrs["scalar"] = values.ndim == 0


def _all_datasets(file: Any) -> dict[str, dict[str, Any]]:
    return {group: dict(_datasets(file, group)) for group in ("parameters", "gradients", "buffers")}


def _read_into(network: Module, file: Any, found: dict[str, dict[str, Any]]) -> None:
    wanted = _groups(network)
    problems = []
    for group, arrays in wanted.items():
        problems += [f"missing: {group}/{name}" for name in arrays if name not in found[group]]
        problems += [f"unexpected: {group}/{name}" for name in found[group] if name not in arrays]
        problems += [
            f"mismatched: {group}/{name} is {ours.dtype} {ours.shape} in the network, {theirs.dtype} {_shape(theirs)} "
            "in the file"
            for name, ours in arrays.items()
            for theirs in [found[group].get(name)]
            if theirs is not None and (_shape(theirs), _native(theirs)) != (ours.shape, ours.dtype)
        ]
    if problems:
        raise WeightsFileError(f"{file.filename} does not fit the network:\n  " + "\n  ".join(problems))
    values = {group: {name: _values(data) for name, data in found[group].items()} for group in wanted}
    _warn_of_infinities(values, file.filename)
    for group, arrays in wanted.items():
        for name, ours in arrays.items():
            ours[...] = backend().asarray(values[group][name])


def _warn_of_infinities(values: dict[str, dict[str, np.ndarray]], name: str) -> None:
    """Such weights are loaded as they are: who looks into what went wrong needs them, and all others should know."""
    odd = [
        key
        for group in ("parameters", "buffers")
        for key, array in values[group].items()
        if array.dtype.kind == "f" and not np.isfinite(array).all()
    ]
    if odd:
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        warnings.warn(f"{name}: the weights {odd[0]}{more} have NaN or infinite values", stacklevel=4)


def _take_over_dtypes(network: Module, found: dict[str, dict[str, Any]]) -> None:
    """A network just built is float32; the file may hold float64, for some of its arrays or for all."""
    double = np.dtype("float64")
    is_double = {
        (group, name) for group, held in found.items() for name, data in held.items() if _native(data) == double
    }
    for name, parameter in network.named_parameters():
        if ("parameters", name) in is_double:
            parameter.data = parameter.data.astype(double)
    for name, module, key in network.named_buffers():
        if ("buffers", name) in is_double:
            setattr(module, key, getattr(module, key).astype(double))


def _datasets(file: Any, group: str) -> Iterator[tuple[str, Any]]:
    """The datasets of a group by name: of numbers, unread, and no more of them than the file can hold."""
    if group not in file:
        return
    folder, left = _linked(file, group, h5py.Group, group), os.path.getsize(file.filename)
    for name in folder:
        dataset = _linked(folder, name, h5py.Dataset, f"{group}/{name}")
        left -= _byte_count(dataset, f"{file.filename}: {group}/{name}")
        if left < 0:
            raise WeightsFileError(f"{file.filename}: {group} up to {name} claims more bytes than the file has")
        yield name, dataset


def _linked(parent: Any, name: str, kind: type, path: str) -> Any:
    """What is stored in `parent` itself under `name`; links to other places could lead to other files."""
    if not isinstance(parent.get(name, getlink=True), h5py.HardLink) or parent.get(name, getclass=True) is not kind:
        raise WeightsFileError(f"{parent.file.filename}: {path} must be a {kind.__name__.lower()}, and no link to one")
    return parent[name]


def _byte_count(dataset: Any, what: str) -> int:
    """Bytes of a dataset as npconv writes them: numbers in the file itself, with checksums and not compressed."""
    dtype = dataset.dtype
    if dtype.kind not in "fiub" or dtype.itemsize > 8 or dataset.shape is None:
        raise WeightsFileError(f"{what} is {dtype}, it must be floats, integers or bools of at most 64 bits")
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if dataset.external or dataset.is_virtual or set(filters) - {h5py.h5z.FILTER_FLETCHER32}:
        raise WeightsFileError(f"{what} must be in the file itself, and not compressed")
    if not dataset.id.get_type().equal(h5py.h5t.py_create(dtype, logical=True)):
        raise WeightsFileError(f"{what}: its {dtype} are not those of this machine or of another, bit by bit")
    # A chunk is in memory whole, whatever the dataset's shape.
    elements: int = max(math.prod(dataset.shape), math.prod(dataset.chunks or (0,)))
    return elements * int(dtype.itemsize)


def _shape(dataset: Any) -> tuple[int, ...]:
    """The shape of what the dataset stands for: a single number is stored as one element."""
    scalar = dataset.attrs.get("scalar", False)
    return () if dataset.shape == (1,) and isinstance(scalar, (bool, np.bool_)) and scalar else dataset.shape


def _values(dataset: Any) -> np.ndarray:
    properties = dataset.id.get_create_plist()
    checked = properties.get_nfilters() == 1 and properties.get_filter(0)[0] == h5py.h5z.FILTER_FLETCHER32
    # A chunk that is missing would be read as zeros, and one that says so would be read without its checksum.
    if not checked or dataset.id.get_num_chunks() != 1 or dataset.id.get_chunk_info(0).filter_mask:
        raise WeightsFileError(f"{dataset.file.filename}: {dataset.name[1:]} must be one chunk with a checksum")
    values: np.ndarray = dataset[...]  # the checksum is verified here
    return values.astype(_native(dataset), copy=False).reshape(_shape(dataset))


def _native(dataset: Any) -> np.dtype:
    """The dtype of a dataset in this machine's byte order, whatever that of the file."""
    dtype: np.dtype = dataset.dtype.newbyteorder("=")
    return dtype


def _architecture(file: Any) -> Any:
    description = _json(file, "architecture")
    if problem := too_large(description):
        raise WeightsFileError(f"{file.filename}: {problem}")
    return description


def _json(file: Any, name: str) -> Any:
    try:
        return json.loads(file.attrs.get(name, "null"))
    except (TypeError, ValueError) as error:
        raise WeightsFileError(f"{file.filename}: the attribute {name} is not JSON ({error})") from error


def _checked(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path (={path!r}) must be the name of a file")
    return Path(path)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The file, open for reading and known to be npconv's; whatever h5py finds wrong is a WeightsFileError."""
    if not _checked(path).is_file():
        raise WeightsFileError(f"{os.fspath(path)} is not a file")
    try:
        check_structure(path, strict=True)
        with read_hdf5(path) as file:
            kind, version = file.attrs.get("format"), file.attrs.get("version")
            if kind != FORMAT:
                raise WeightsFileError(f"{os.fspath(path)} is not an npconv file (format={kind!r})")
            if version != VERSION:
                raise WeightsFileError(f"{os.fspath(path)} has version {version}; this npconv reads {VERSION}")
            if "checksum" in file.attrs and file.attrs["checksum"] != _checksum(file):  # older files have none
                raise WeightsFileError(f"{os.fspath(path)} is damaged: its architecture or training is not as written")
            yield file
    except FileFormatError as error:
        if isinstance(error, WeightsFileError) and os.fspath(path) in str(error):
            raise
        named = str(error) if os.fspath(path) in str(error) else f"{os.fspath(path)}: {error}"
        raise WeightsFileError(named) from error.__cause__
    except BlockingIOError as error:
        raise WeightsFileError(f"{os.fspath(path)} is locked by a process that may be writing it: {error}") from error
    # h5py has no one error for damaged files: these are what it lets through.
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise WeightsFileError(f"{os.fspath(path)} is damaged or not an HDF5 file: {error}") from error
    except MemoryError as error:
        raise WeightsFileError(f"{os.fspath(path)} needs more memory than there is") from error


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Any]:
    """A new HDF5 file that takes the place of `path` when all is written."""
    if path.is_dir() or not path.parent.is_dir():
        raise WeightsFileError(f"{path} cannot be written: it is a folder, or the folder it is in does not exist")
    try:
        with whole_file(path) as part, create_hdf5(part, track_order=False) as file:
            yield file
    except OSError as error:
        raise WeightsFileError(f"{path} cannot be written: {error}") from error
