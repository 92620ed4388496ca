"""Which part of a checkpoint holds the weights."""

from __future__ import annotations

from typing import Any

from ..errors import FileFormatError
from .torch_records import TensorRecord

# Under which of its entries a checkpoint has weights; the first that is there is taken. Averaged ones come first.
USUAL = ("params_ema", "params", "state_dict", "model_state_dict", "model", "network", "net", "generator", "weights")
SHOWN = 12  # entries in an error


def choose(tree: Any, key: str | None) -> dict[str, TensorRecord]:
    """The mapping of names to tensors in `tree`.

    It is `tree` itself if all its values are tensors; else the first of `USUAL` that is such a mapping; with `key`,
    the entry of that name ("a/b": b within a). Raises FileFormatError that lists what there is.
    """
    if key is not None:
        found = _state(_entry(tree, key))
        if found is None:
            raise FileFormatError(f"key (={key!r}) must name a mapping of names to tensors; {_described(tree)}")
        return found
    candidates = [tree, *(tree.get(name) for name in USUAL)] if type(tree) is dict else [tree]
    for candidate in candidates:
        found = _state(candidate)
        if found is not None:
            return found
    raise FileFormatError(f"there is no mapping of names to tensors: {_described(tree)}; choose a part with key=")


def _entry(tree: Any, key: str) -> Any:
    if type(tree) is dict and key in tree:
        return tree[key]
    for part in key.split("/"):
        tree = tree.get(part) if type(tree) is dict else None
    return tree


def _state(value: Any) -> dict[str, TensorRecord] | None:
    if type(value) is not dict or not value:
        return None
    fits = all(isinstance(name, str) and isinstance(tensor, TensorRecord) for name, tensor in value.items())
    return value if fits else None


def _described(tree: Any) -> str:
    if type(tree) is not dict:
        return f"the file holds {_kind(tree)}"
    entries = [f"{str(name)[:50]} ({_kind(value)})" for name, value in list(tree.items())[:SHOWN]]
    entries += [f"and {len(tree) - SHOWN} more"] if len(tree) > SHOWN else []
    return "the file holds " + (", ".join(entries) or "an empty mapping")


def _kind(value: Any) -> str:
    if isinstance(value, TensorRecord):
        return f"a tensor {value.shape}"
    if isinstance(value, (dict, list, tuple)):
        names = {dict: "a mapping", list: "a list", tuple: "a tuple"}
        return f"{names[type(value)]} of {len(value)}"
    return type(value).__name__
