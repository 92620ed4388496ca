"""Checks of arguments that several files share: each raises ValueError or TypeError with the value and the rule."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .backends import backend
from .backends.base import Array
from .backends.geometry import integer, pair

__all__ = ["array", "flag", "integer", "number", "pair", "probability", "unmasked"]


def number(value: Any, name: str, minimum: float = -math.inf, *, above: float | None = None) -> float:
    """`value` as a finite float of at least `minimum`, or greater than `above`."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__") or getattr(value, "shape", ()) != ():
        raise TypeError(f"{name} (={value!r}) must be a number")
    result = float(value)
    if not math.isfinite(result):
        raise ValueError(f"{name} (={value!r}) must be finite")
    if above is not None and result <= above:
        raise ValueError(f"{name} (={value!r}) must be greater than {above:g}")
    if result < minimum:
        raise ValueError(f"{name} (={value!r}) must be at least {minimum:g}")
    return result


def flag(value: Any, name: str) -> bool:
    """`value` as a bool; TypeError for anything but True and False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} (={value!r}) must be True or False")
    return bool(value)


def probability(value: Any, name: str) -> float:
    """`value` as a float in [0, 1]."""
    result = number(value, name)
    if not 0 <= result <= 1:
        raise ValueError(f"{name} (={value!r}) must be between 0 and 1")
    return result


def unmasked(x: Any, what: str) -> Any:
    """`x`; TypeError for a masked array, whose mask NumPy would forget: what it hides would count."""
    if hasattr(x, "mask") and hasattr(x, "filled"):
        raise TypeError(f"{what} must not be a masked array: give the hidden values a number with x.filled(number)")
    return x


def array(x: Any, what: str) -> Array:
    """`x` if it is a float32 or float64 array of the active backend; TypeError with the remedy if not."""
    active = backend()
    if type(x) is active.xp.ndarray and x.dtype.char in "fd" and x.dtype.isnative:
        return x
    if type(x) is not active.xp.ndarray:  # nor a subclass: a matrix or a masked array computes otherwise
        raise TypeError(
            f"{what} must be an array of the {active.name} backend, got {type(x).__module__}.{type(x).__name__}: "
            "convert it with npconv.asarray(x)"
        )
    if x.dtype.kind in "iub":
        raise TypeError(
            f"{what} must be float32 or float64, got {x.dtype}: convert it with x.astype('float32'), "
            "and divide images of 0..255 by 255"
        )
    if x.dtype.char in "fd":
        raise TypeError(
            f"{what} must be in the byte order of this machine, got dtype {x.dtype}: convert it with "
            f"x.astype('{x.dtype.name}')"
        )
    if x.dtype.kind != "f":
        raise TypeError(f"{what} must be float32 or float64 (real numbers), got {x.dtype}")
    raise TypeError(f"{what} must be float32 or float64, got {x.dtype}: convert it with x.astype('float32')")
