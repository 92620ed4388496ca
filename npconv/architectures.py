"""Networks as plain data, as files have them, and back: only the classes of `REGISTRY` are ever made of it.

network -> architecture -> JSON in a file -> too_large, check_size -> build -> network
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from typing import Any

from . import containers, layers
from .containers import Container
from .errors import WeightsFileError
from .hdf5_structure import MAX_TEXT
from .module import Module, Parameter

MAX_MODULES = 1 << 14  # of an architecture that a file may have
MAX_DEPTH = 200  # modules in modules: JSON and Python themselves end before a thousand
MAX_STEPS = 1 << 24  # from each module to all that it is in, and from these: what looking through a network takes
REGISTRY: dict[str, type[Module]] = {
    **{name: getattr(layers, name) for name in layers.__all__ if name != "Activation"},
    **{name: getattr(containers, name) for name in ("Sequential", "Concat", "Sum", "Identity")},
}


def architecture(network: Module) -> dict[str, Any] | None:
    """The network as plain data.

    None if it holds a module of one's own, or modules that share a parameter, or more modules (`MAX_MODULES`), or more
    of them in each other (`MAX_DEPTH`), than a file may ask for.
    """
    modules = list(network.modules())
    if any(REGISTRY.get(type(module).__name__) is not type(module) for module in modules):
        return None
    listed = [value for module in modules for value in vars(module).values() if isinstance(value, Parameter)]
    if len({id(parameter) for parameter in listed}) < len(listed):
        return None
    description = _described(network)
    return None if too_large(description) or len(json.dumps(description)) > MAX_TEXT else description


def _described(network: Module) -> dict[str, Any]:
    name = type(network).__name__
    if isinstance(network, Container):
        return {"type": name, "children": [[key, _described(child)] for key, child in network.named_children()]}
    return {"type": name, "arguments": network.arguments()}


def build(description: Any) -> Module:
    """The network that `architecture` described, with new parameters; WeightsFileError if it cannot be."""
    try:
        kind = REGISTRY[description["type"]]
        if issubclass(kind, Container):
            return kind({key: build(child) for key, child in description["children"]})
        arguments = {key: tuple(v) if isinstance(v, list) else v for key, v in description["arguments"].items()}
        return kind(**arguments)
    except (WeightsFileError, ImportError):  # a package is missing, which is not the file's fault
        raise
    except Exception as error:
        raise WeightsFileError(f"the architecture {_short(description)} cannot be rebuilt: {_short(error)}") from error


def too_large(description: Any) -> str:
    """Why an architecture is more than a file may ask for, before anything is made; "" if it is not."""
    modules = steps = letters = 0
    for _, depth, length in _modules(description):
        modules, steps, letters = modules + 1, steps + depth * depth, letters + length
        if modules > MAX_MODULES:
            return f"the architecture has more than {MAX_MODULES:,} modules"
        if depth > MAX_DEPTH or steps > MAX_STEPS or letters > MAX_TEXT:
            return f"the architecture has modules in modules, {depth} deep, or names of {letters:,} letters: too many"
    return ""


def _modules(description: Any) -> Iterator[tuple[Any, int, int]]:
    """Of all modules of an architecture: the description, how deep it is in others, and the letters of its path."""
    left = [(description, 0, 0)]
    while left:
        part, depth, length = left.pop()
        yield part, depth, length
        children = part.get("children") if isinstance(part, dict) else None
        if isinstance(children, list):  # building it says what is wrong with others
            pairs = [child for child in children if isinstance(child, list) and len(child) == 2]
            left += [
                (part, depth + 1, length + 1 + (len(name) if isinstance(name, str) else 0)) for name, part in pairs
            ]


def check_size(description: Any, name: str) -> None:
    """WeightsFileError, before anything is made, for more parameters than the file has room for."""
    arguments = (part.get("arguments") for part, _, _ in _modules(description) if isinstance(part, dict))
    elements = sum(element_count(given) for given in arguments if isinstance(given, dict))
    if 4 * elements > os.path.getsize(name):
        raise WeightsFileError(
            f"{name}: the architecture needs {elements:,} parameters, of 4 bytes or more; the file has "
            f"{os.path.getsize(name):,} bytes"
        )


def element_count(arguments: dict[str, Any]) -> int:
    """How many elements the weight of a layer has at the most, by whatever of its arguments are sizes."""
    sizes = [arguments.get(name, 1) for name in ("in_channels", "out_channels", "in_features", "out_features")]
    sizes.append(arguments.get("num_features", 1))
    kernel = arguments.get("kernel_size", 1) if "out_channels" in arguments else 1  # that of a pooling has no weights
    sizes += kernel[:2] if isinstance(kernel, list) else [kernel, kernel]
    count = math.prod(min(size, 1 << 62) for size in sizes if isinstance(size, int) and size > 0)
    groups = arguments.get("groups", 1)
    return count // groups if isinstance(groups, int) and groups > 0 else count


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."


def module_paths(description: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of the modules of an architecture, as `Module.named_modules` goes through them."""
    yield path
    children = description.get("children", []) if isinstance(description, dict) else None
    pairs = isinstance(children, list) and all(isinstance(child, list) and len(child) == 2 for child in children)
    if not isinstance(children, list) or not pairs or not all(isinstance(name, str) for name, _ in children):
        raise WeightsFileError(f"the architecture {_short(description)} is not one of npconv's")
    for name, child in children:
        yield from module_paths(child, f"{path}.{name}" if path else name)
