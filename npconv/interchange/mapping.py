"""load_state: weights under other names into a network, by name, by order or by a table."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import backend, to_numpy
from ..backends.base import Array
from ..errors import FileFormatError
from ..layers import Conv2d, ConvTranspose2d, Upsampling
from ..module import Module, Parameter
from .positions import in_order, is_counter, within_kinds

Pairs = list[tuple[str, str]]


def load_state(
    network: Module, state: Mapping[str, Any], mapping: Any = "names", *, missing_bias: str = "error"
) -> Pairs:
    """Copy the arrays of `state` (as `read_state` gives it) into a network's parameters and buffers.

    Args:
        network: a Module; it keeps its dtypes. Gradients stay as they are.
        state: names and arrays of any backend, in the layouts of PyTorch.
        mapping: "names": each array to the parameter or buffer of its name. "order": the k-th to the k-th, in
            PyTorch's order (module by module; weight, bias, running mean and variance). "kinds": the k-th kernel to
            the k-th kernel and the k-th vector to the k-th vector, for files that list all kernels first; of networks
            without BatchNorm. Or {ours: theirs}, or the path of a text file with a line `ours = theirs` for each (see
            `read_table`).
        missing_bias: "zero": the bias of a convolution that `state` does not have becomes 0, by names and by order,
            as those before a BatchNorm often have none. "error": it is missing as any other array.

    Floats are converted to the network's dtype. BatchNorm2d's count of batches may be missing on either side, and then
    is left as it is or left out. Returns the pairs (ours, theirs) that were matched. Warns of NaN and infinite values.
    Raises ValueError, before anything changes, that lists every name that is missing or unexpected and every pair that
    differs in shape or cannot be converted (an integer to a float; a value too large for the network's dtype).
    """
    pairs, values = _fitted(network, state, mapping, missing_bias)
    own, matched = own_arrays(network), dict(pairs)
    _warn_of_infinities([theirs for _, theirs in pairs], values)  # first: where warnings are errors, nothing changes
    for ours, theirs in pairs:
        own[ours][...] = backend().asarray(values[theirs].astype(own[ours].dtype.name, copy=False))
    for name in convolution_biases(network) if missing_bias == "zero" else ():
        if name not in matched:
            own[name][...] = 0
    return pairs


def match_names(
    network: Module, state: Mapping[str, Any], mapping: Any = "names", *, missing_bias: str = "error"
) -> Pairs:
    """The pairs (ours, theirs) that `load_state` would match; it raises what that raises, and changes nothing."""
    return _fitted(network, state, mapping, missing_bias)[0]


def _warn_of_infinities(names: list[str], values: Mapping[str, np.ndarray]) -> None:
    odd = [name for name in names if values[name].dtype.kind == "f" and not np.isfinite(values[name]).all()]
    if odd:
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        warnings.warn(f"the weights {odd[0]}{more} have NaN or infinite values", stacklevel=3)


def _fitted(
    network: Module, state: Mapping[str, Any], mapping: Any, missing_bias: str
) -> tuple[Pairs, dict[str, np.ndarray]]:
    if not isinstance(network, Module):
        raise TypeError(f"network (={network!r}) must be a Module; of a Model, give its network")
    if not isinstance(state, Mapping):
        raise TypeError(f"state (={state!r}) must be a mapping of names to arrays, as read_state gives")
    if missing_bias not in ("zero", "error"):
        raise ValueError(f"missing_bias (={missing_bias!r}) must be 'zero' or 'error'")
    own = own_arrays(network)
    values = {name: np.asarray(to_numpy(value)) for name, value in state.items()}
    optional = convolution_biases(network) if missing_bias == "zero" else set()
    pairs, problems = _pairs(own, values, mapping, optional)
    problems += [text for ours, theirs in pairs for text in _misfits(ours, own[ours], theirs, values[theirs])]
    if problems:
        raise ValueError(f"the weights do not fit {type(network).__name__}:\n  " + "\n  ".join(problems))
    return pairs, values


def convolution_biases(network: Module) -> set[str]:
    """The names of all biases of convolutions."""
    convolutions = (Conv2d, ConvTranspose2d, Upsampling)
    found = {path: module for path, module in network.named_modules() if isinstance(module, convolutions)}
    return {f"{path}.bias" if path else "bias" for path, module in found.items() if module.bias is not None}


def own_arrays(network: Module) -> dict[str, Array]:
    """Parameters and buffers in PyTorch's order: module by module, where our state_dict has all parameters first."""
    parameters = dict(network.named_parameters())
    arrays: dict[str, Array] = {}
    for path, module in network.named_modules():
        prefix = f"{path}." if path else ""
        names = [name for name, value in vars(module).items() if isinstance(value, Parameter)]
        arrays.update((prefix + name, parameters[prefix + name].data) for name in names if prefix + name in parameters)
        found = ((name, getattr(module, name)) for name in module.buffers)
        arrays.update((prefix + name, value) for name, value in found if value is not None)
    return arrays


def _pairs(
    own: Mapping[str, Array], theirs: Mapping[str, np.ndarray], mapping: Any, optional: set[str]
) -> tuple[Pairs, list[str]]:
    """Who belongs to whom, and what is left over; those of `optional` may be missing by names and by order."""
    ours = list(own)
    if isinstance(mapping, str) and mapping == "names":
        lacking = {bias for bias in optional - set(theirs) if bias[: -len("bias")] + "weight" in theirs}
        ours = [name for name in ours if name not in lacking]
        table = {name: name for name in ours}
    elif isinstance(mapping, str) and mapping == "order":
        return in_order(own, theirs, optional)
    elif isinstance(mapping, str) and mapping == "kinds":
        return within_kinds(own, theirs)
    elif isinstance(mapping, Mapping):
        table = dict(mapping)
    elif isinstance(mapping, (str, os.PathLike)):
        table = read_table(mapping)
    else:
        raise TypeError(f"mapping (={mapping!r}) must be 'names', 'order', 'kinds', a mapping or the path of a table")
    wanted = set(table.values())
    problems = [f"missing: {name} is not in the table" for name in ours if name not in table and not is_counter(name)]
    problems += [f"unexpected: {name} of the table is not in the network" for name in table if name not in ours]
    problems += [
        f"missing: {table[name]}" + (f" (for {name})" if table[name] != name else "")
        for name in ours
        if name in table and table[name] not in theirs and not is_counter(name)
    ]
    problems += [f"unexpected: {name}" for name in theirs if name not in wanted and not is_counter(name)]
    return [(name, table[name]) for name in ours if name in table and table[name] in theirs], problems


def _misfits(ours: str, array: Array, theirs: str, value: np.ndarray) -> Iterator[str]:
    pair = f"{ours} = {theirs}" if ours != theirs else ours
    if array.shape != value.shape:
        yield f"mismatched: {pair} has shape {array.shape} in the network, {value.shape} in the file"
    elif value.dtype.kind != array.dtype.kind:
        yield f"mismatched: {pair} is {array.dtype} in the network, {value.dtype} in the file"
    elif value.dtype.itemsize > array.dtype.itemsize and value.dtype.kind == "f":
        with np.errstate(over="ignore"):
            lost = np.isfinite(value) & ~np.isfinite(value.astype(array.dtype.name))
        if lost.any():
            yield f"mismatched: {pair} has values up to {abs(value[lost]).max():.3g}, too large for {array.dtype}"


def read_table(path: str | os.PathLike[str]) -> dict[str, str]:
    """The table {ours: theirs} of a text file: a line `ours = theirs` each; empty lines and those after # are skipped.

    Raises FileFormatError that names the line: no "=", an empty name, or a name that is there twice on its side.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{os.fspath(path)} is not a table of names: {error}") from None
    table: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        ours, equals, theirs = (part.strip() for part in line.partition("="))
        where = f"{os.fspath(path)}, line {number} ({line.strip()[:100]!r})"
        if not equals or not ours or not theirs:
            raise FileFormatError(f"{where}: it must be `ours = theirs`")
        if ours in table or theirs in table.values():
            raise FileFormatError(f"{where}: a name is there twice")
        table[ours] = theirs
    return table
