"""Who may overwrite an array: what `Sequential` asks about a module before the next one computes in place."""

from __future__ import annotations

from typing import Any


def gives_fresh_output(module: Any) -> bool:
    """Whether what `module.forward` gives may be overwritten; not if a wrapper on the object sees it too."""
    return module.fresh_output and "forward" not in vars(module)


def gives_fresh_gradient(module: Any) -> bool:
    """Whether what `module.backward` gives may be overwritten; not if a wrapper on the object sees it too."""
    return module.fresh_gradient and "backward" not in vars(module)


def is_written_by(owner: type, module: Any, method: str) -> bool:
    """Whether `method` is the one that `owner` wrote: no subclass's, and no wrapper on the object."""
    return getattr(type(module), method) is getattr(owner, method) and method not in vars(module)


def take_back_promises(cls: type) -> None:
    """Set what `cls` inherits as `fresh_output` or `fresh_gradient` to False where it writes the method anew."""
    for promise, methods in _PROMISES.items():
        if promise not in vars(cls) and any(_replaces(cls, name) for name in methods):
            setattr(cls, promise, False)


_PROMISES = {
    "fresh_output": ("forward", "_forward", "function"),
    "fresh_gradient": ("backward", "_backward", "derivative"),
}


def _replaces(cls: type, name: str) -> bool:
    """Whether `cls` writes a method that a parent has written, rather than only asked for."""
    inherited = getattr(super(cls, cls), name, None)
    return name in vars(cls) and inherited is not None and not getattr(inherited, "__isabstractmethod__", False)
