"""The checks that npconv's own modules pass, for modules of your own.

`check_gradients` holds backward against forward; `check_module` holds a module against the whole contract.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .backends import backend, to_numpy
from .backends.base import Array
from .module import BackwardError, Module, no_grad
from .weights import load_into, save


def check_gradients(
    module: Module, x: Any, *, tolerance: float = 1e-6, seed: int = 0, step: float = 1e-5, directions: int = 3
) -> float:
    """Compare backward with finite differences of forward, at `x`, in float64.

    For random u and v: <u, J v> from (forward(x + h v) - forward(x - h v)) / 2h, and <J^T u, v> from backward(u), for
    the input and for every parameter. u is random because a gradient of all ones would hide a permuted one. Modules
    that draw random numbers must be in evaluation mode. `x` should keep away from kinks (ReLU at 0): draw it at
    random. `module` itself is not changed.

    Returns the largest relative difference. Raises AssertionError, which names the input or the parameter, if one is
    above `tolerance`.
    """
    twin = copy.deepcopy(module).astype("float64")
    x = backend().asarray(x, "float64")
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(directions):
        twin.zero_grad()
        upstream = _random_like(twin.forward(x), rng)
        x_grad = twin.backward(upstream)
        subjects = [("the input", x, x_grad)] + [(n, p.data, p.grad) for n, p in twin.named_parameters()]
        for name, values, grad in subjects:
            difference = _difference(twin, x, values, grad, upstream, step, rng)
            worst = max(worst, difference)
            if not difference <= tolerance:
                raise AssertionError(
                    f"{type(module).__name__}: the gradient of {name} differs from finite differences by "
                    f"{difference:.3g} (relative), more than {tolerance:.3g}"
                )
    return worst


def _difference(
    module: Module, x: Array, values: Array, grad: Array, upstream: Array, step: float, rng: np.random.Generator
) -> float:
    """|<u, J v> - <J^T u, v>|, relative to the size of what is summed."""
    direction = _random_like(values, rng)
    original = values.copy()
    outputs = []
    with no_grad():
        for sign in (1, -1):
            values[...] = original + sign * step * direction
            outputs.append(module.forward(x).copy())  # a copy: Identity gives x itself back, which changes below
    values[...] = original
    slope = (outputs[0] - outputs[1]) / (2 * step)
    numeric, analytic = float((upstream * slope).sum()), float((grad * direction).sum())
    size = math.sqrt(float(((upstream * slope) ** 2).sum())) + math.sqrt(float(((grad * direction) ** 2).sum()))
    return abs(numeric - analytic) / max(size, 1e-12)


def check_module(module: Module, x: Any, *, seed: int = 0) -> None:
    """Hold `module`, at the input `x` (float), against the contract of a Module.

    The dtype is kept; the input is not changed; backward gives the input's shape and dtype; gradients add up and
    `zero_grad` clears them; `no_grad` keeps nothing; backward before forward is an error; a replica shares parameters
    and not gradients; state_dict and a file give the same output bit for bit; a wrong shape of grad_output is an
    error. Modules that draw random numbers must be in evaluation mode. `module` itself is not changed.

    Raises AssertionError that says which promise is broken.
    """
    rng = np.random.default_rng(seed)
    for dtype in ("float32", "float64"):
        values = backend().asarray(x, dtype)
        for check in _CHECKS:
            # The module may be mid-training: every check gets a fresh copy, without what its forward kept.
            check(copy.deepcopy(module).astype(dtype).replica(), values.copy(), rng)


def _require(condition: bool, module: Module, promise: str) -> None:
    if not condition:
        raise AssertionError(f"{type(module).__name__}: {promise}")


def _check_shapes_and_dtypes(module: Module, x: Array, rng: np.random.Generator) -> None:
    before = x.copy()
    y = module.forward(x)
    _require(y.dtype == x.dtype, module, f"the output must have the input's dtype {x.dtype}, it has {y.dtype}")
    grad = _random_like(y, rng)
    grad_before = grad.copy()
    x_grad = module.backward(grad)
    found = f"{x_grad.dtype} {x_grad.shape}"
    _require(
        (x_grad.shape, x_grad.dtype) == (x.shape, x.dtype),
        module,
        f"backward must give the input's dtype and shape {x.dtype} {x.shape}, it gives {found}",
    )
    _require(_same(x, before), module, "forward and backward must not change the input")
    _require(_same(grad, grad_before), module, "backward must not change grad_output")


def _check_accumulation(module: Module, x: Array, rng: np.random.Generator) -> None:
    module.zero_grad()
    y = module.forward(x)
    upstream = _random_like(y, rng)
    module.backward(upstream)
    once = [grad.copy() for _, grad in module.param()]
    module.forward(x)
    module.backward(upstream)
    for (_, grad), first in zip(module.param(), once, strict=True):
        close = bool(backend().xp.allclose(grad, 2 * first, rtol=1e-4, atol=1e-6 * (1 + float(abs(first).max()))))
        _require(close, module, "backward must add to the gradients: twice the same backward gives twice the gradient")
    module.zero_grad()
    _require(all(not grad.any() for _, grad in module.param()), module, "zero_grad must set all gradients to zero")


def _check_backward_needs_forward(module: Module, x: Array, rng: np.random.Generator) -> None:
    y = module.replica().forward(x)
    _require(
        _raises(BackwardError, lambda: module.backward(y)), module, "backward before forward must raise BackwardError"
    )
    module.forward(x)
    with no_grad():
        module.forward(x)
    _require(
        _raises(BackwardError, lambda: module.backward(y)),
        module,
        "a forward under no_grad must keep nothing: backward after it must raise BackwardError",
    )


def _check_wrong_grad_shape(module: Module, x: Array, rng: np.random.Generator) -> None:
    y = module.forward(x)
    wrong = backend().xp.ones((*y.shape, 2), dtype=y.dtype)
    _require(
        _raises(ValueError, lambda: module.backward(wrong)),
        module,
        "grad_output of a wrong shape must raise ValueError",
    )


def _check_replica(module: Module, x: Array, rng: np.random.Generator) -> None:
    original = copy.deepcopy(module)
    module.zero_grad()
    twin = module.replica()
    y = twin.forward(x)
    twin.backward(_random_like(y, rng))
    _require(all(not grad.any() for _, grad in module.param()), module, "a replica must have gradients of its own")
    _require(
        all(a is b for (a, _), (b, _) in zip(module.param(), twin.param(), strict=True)),
        module,
        "a replica must share the parameters",
    )
    _require(_same(original.forward(x), y), module, "a replica must give the same output")


def _check_storage(module: Module, x: Array, rng: np.random.Generator) -> None:
    other = copy.deepcopy(module).replica()
    for _, parameter in other.named_parameters():
        parameter.fill(rng.standard_normal(parameter.shape))
    state = copy.deepcopy(module.state_dict())
    with no_grad():
        expected = copy.deepcopy(module).replica().forward(x)
        other.load_state_dict(state)
        _require(
            _same(copy.deepcopy(other).forward(x), expected), module, "state_dict must restore the output bit for bit"
        )
        other.load_state_dict({name: value * 0 for name, value in state.items()})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "module.h5"
            save(module, path)
            load_into(other, path)
        _require(_same(other.forward(x), expected), module, "save and load must restore the output bit for bit")


_CHECKS: tuple[Callable[[Module, Array, np.random.Generator], None], ...] = (
    _check_shapes_and_dtypes,
    _check_accumulation,
    _check_backward_needs_forward,
    _check_wrong_grad_shape,
    _check_replica,
    _check_storage,
)


def _random_like(x: Array, rng: np.random.Generator) -> Array:
    return backend().asarray(rng.standard_normal(x.shape), x.dtype)


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and to_numpy(a).tobytes() == to_numpy(b).tobytes()


def _raises(kind: type[Exception], call: Callable[[], object]) -> bool:
    try:
        call()
    except kind:
        return True
    return False
