"""Which part of a checkpoint holds the weights."""

from __future__ import annotations

from typing import Any

from ..errors import FileFormatError
from .restricted_pickle import Inert
from .torch_records import TensorRecord

# Under which of its entries a checkpoint has weights; the first that is there is taken. Averaged ones come first.
USUAL = ("params_ema", "params", "state_dict", "model_state_dict", "model", "network", "net", "generator", "weights")
SHOWN = 12  # entries in an error


def choose(tree: Any, key: str | None) -> tuple[dict[str, TensorRecord], str | None]:
    """The mapping of names to tensors in `tree`, and the name of the entry that it is; None if it is `tree` itself.

    It is `tree` itself if all its values are tensors; else the first of `USUAL` that is such a mapping; with `key`,
    the entry of that name ("a/b": b within a). Raises FileFormatError that lists what there is, and names the
    first value that is no tensor where there are tensors.
    """
    if key is not None:
        value = _entry(tree, key)
        if not _is_state(value):
            raise FileFormatError(
                f"key (={key!r}) must name a mapping of names to tensors{_stranger(value, key)}; {_described(tree)}"
            )
        return value, key
    candidates: dict[str | None, Any] = {None: tree}
    if type(tree) is dict:
        candidates |= {name: tree[name] for name in USUAL if name in tree}
    for name, candidate in candidates.items():
        if _is_state(candidate):
            return candidate, name
    strangers = [text for name, candidate in candidates.items() if (text := _stranger(candidate, name))]
    raise FileFormatError(
        f"there is no mapping of names to tensors{strangers[-1] if strangers else ''}: {_described(tree)}; "
        "choose a part with key="
    )


def _entry(tree: Any, key: str) -> Any:
    if type(tree) is dict and key in tree:
        return tree[key]
    for part in key.split("/"):
        tree = tree.get(part) if type(tree) is dict else None
    return tree


def _is_state(value: Any) -> bool:
    return type(value) is dict and bool(value) and all(_is_weight(*item) for item in value.items())


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, TensorRecord)


def _stranger(value: Any, entry: str | None) -> str:
    """The first item of a mapping with tensors that is no tensor with a name, in words; "" where there is none."""
    if type(value) is not dict or not any(isinstance(item, TensorRecord) for item in value.values()):
        return ""
    where = f" of {entry!r}" if entry is not None else ""
    found = (f" ({str(n)[:50]!r}{where} is {_kind(v)})" for n, v in value.items() if not _is_weight(n, v))
    return next(found, "")


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
    return value.kind if isinstance(value, Inert) else type(value).__name__
