"""CuPy's ufuncs, reductions and products, for the stand-in, and the array's operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import state
from .ndarray import compute, into, ndarray, operand


class ufunc:
    """An elementwise function, with the arguments that CuPy's have (no `where`, no `order`)."""

    def __init__(self, numpys: np.ufunc) -> None:
        self.numpys = numpys
        self.__name__ = numpys.__name__

    def __call__(self, *args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> ndarray:
        numpys = self.numpys
        if not numpys.nin <= len(args) <= numpys.nargs:
            raise TypeError(f"Wrong number of arguments for {self.__name__!r}")
        if len(args) > numpys.nin:
            args, out = args[: numpys.nin], args[numpys.nin]
        if isinstance(out, tuple):
            (out,) = out
        values = [operand(arg) for arg in args]
        sources = [arg for arg in args if isinstance(arg, ndarray)]
        return into(out, lambda: numpys(*values, dtype=dtype, order="C"), *sources, casting=casting)


_NAMES = (
    "add", "subtract", "multiply", "divide", "true_divide", "floor_divide", "remainder", "power", "negative",
    "positive", "absolute", "sign", "sqrt", "square", "reciprocal", "exp", "exp2", "expm1", "log", "log2",
    "log10", "log1p", "sin", "cos", "tan", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "arctan2",
    "maximum", "minimum", "fmax", "fmin", "isfinite", "isinf", "isnan", "signbit", "equal", "not_equal", "less",
    "less_equal", "greater", "greater_equal", "logical_and", "logical_or", "logical_not", "logical_xor",
    "bitwise_and", "bitwise_or", "bitwise_xor", "invert", "left_shift", "right_shift", "floor", "ceil", "trunc",
    "rint", "hypot", "copysign", "logaddexp",
)  # fmt: skip
UFUNCS = {name: ufunc(getattr(np, name)) for name in _NAMES}
UFUNCS["abs"] = UFUNCS["absolute"]


# ---- reductions: CuPy's have no `where` and no `initial` ----
def _reduction(name: str, dtype_too: bool) -> Callable[..., ndarray]:
    numpys = getattr(np, name)

    if dtype_too:

        def reduce(a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
            return into(out, lambda: numpys(_array(a), axis=axis, dtype=dtype, keepdims=keepdims), a)
    else:

        def reduce(a: ndarray, axis: Any = None, out: Any = None, keepdims: bool = False) -> ndarray:
            return into(out, lambda: numpys(_array(a), axis=axis, keepdims=keepdims), a)

    reduce.__name__ = name
    return reduce


def _array(a: Any) -> Any:
    if not isinstance(a, ndarray):
        raise TypeError(f"Unsupported type {type(a)}")
    return a.on_host


def var(
    a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: bool = False
) -> ndarray:
    return into(out, lambda: np.var(a.on_host, axis, dtype, ddof=ddof, keepdims=keepdims), a)


def std(
    a: ndarray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, keepdims: bool = False
) -> ndarray:
    return into(out, lambda: np.std(a.on_host, axis, dtype, ddof=ddof, keepdims=keepdims), a)


def clip(a: ndarray, a_min: Any, a_max: Any, out: Any = None) -> ndarray:
    low, high = (None if bound is None else operand(bound) for bound in (a_min, a_max))
    return into(out, lambda: np.clip(a.on_host, low, high), a)


def allclose(a: ndarray, b: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> ndarray:
    return compute(lambda: np.allclose(operand(a), operand(b), rtol, atol, equal_nan), a)


def array_equal(a1: ndarray, a2: ndarray, equal_nan: bool = False) -> ndarray:
    return compute(lambda: np.array_equal(operand(a1), operand(a2), equal_nan), a1)


_WITHOUT_DTYPE = {name: _reduction(name, False) for name in ("max", "min", "all", "any", "argmax", "argmin")}
REDUCTIONS = {**{name: _reduction(name, True) for name in ("sum", "prod", "mean")}, **_WITHOUT_DTYPE}
REDUCTIONS |= {"var": var, "std": std}


# ---- products: cuBLAS, which cannot be captured ----
def matmul(x1: ndarray, x2: ndarray, /, out: Any = None) -> ndarray:
    a, b = _array(x1), _array(x2)
    if state.capture() is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    return into(out, lambda: np.matmul(a, b), x1, x2)


def dot(a: ndarray, b: ndarray, out: Any = None) -> ndarray:
    if state.capture() is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    return into(out, lambda: np.dot(_array(a), _array(b)), a, b)


# ---- the array's operators and methods ----
def _install_operators() -> None:
    two = {
        "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "floordiv": "floor_divide",
        "mod": "remainder", "pow": "power", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
        "lshift": "left_shift", "rshift": "right_shift",
    }  # fmt: skip
    for name, long in two.items():
        function = UFUNCS[long]
        setattr(ndarray, f"__{name}__", _binary(function, False))
        setattr(ndarray, f"__r{name}__", _binary(function, True))
        setattr(ndarray, f"__i{name}__", _in_place(function))
    for name, long in {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
                       "ne": "not_equal"}.items():  # fmt: skip
        setattr(ndarray, f"__{name}__", _binary(UFUNCS[long], False))
    for name, long in {"neg": "negative", "pos": "positive", "abs": "absolute", "invert": "invert"}.items():
        setattr(ndarray, f"__{name}__", _unary(UFUNCS[long]))
    ndarray.__matmul__ = lambda self, other: matmul(self, other)  # type: ignore[attr-defined]
    for name, function in {**REDUCTIONS, "clip": clip, "dot": dot}.items():
        setattr(ndarray, name, _method(function))


def _binary(function: ufunc, reflected: bool) -> Callable[[Any, Any], Any]:
    if reflected:
        return lambda self, other: function(other, self)
    return lambda self, other: function(self, other)


def _in_place(function: ufunc) -> Callable[[Any, Any], Any]:
    return lambda self, other: function(self, other, out=self)


def _unary(function: ufunc) -> Callable[[Any], Any]:
    return lambda self: function(self)


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: function(self, *args, **kwargs)


_install_operators()
