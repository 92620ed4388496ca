"""Arithmetic without NumPy's warnings: infinities and NaN are results that a caller sees, as in PyTorch, not errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
Result = TypeVar("Result")


def quiet(function: Callable[P, Result]) -> Callable[P, Result]:
    """`function`, in which an overflow, or a NaN made of infinities, warns of nothing.

    Where warnings are errors (`python -W error`, `numpy.seterr`), a layer would else fail or not by its algorithm: some
    multiply an infinity with the zeros that fill up a block, which no result shows.
    """

    @wraps(function)
    def quietly(*args: P.args, **kwargs: P.kwargs) -> Result:
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return quietly
