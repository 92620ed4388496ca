"""Initial weights. `default_` is PyTorch's for convolutions and linear layers; the others are for those who choose.

Every function draws from `rng`, or from the generator that `npconv.manual_seed` sets, and fills `parameter` in place.
The fans of a weight (out, in, KH, KW) are in KH KW and out KH KW.
"""

from __future__ import annotations

import math

import numpy as np

from . import checks
from .module import Parameter
from .random import generator_or_default

GAINS = {"linear": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0)}
NONLINEARITIES = (*GAINS, "leaky_relu")


def fans(parameter: Parameter) -> tuple[int, int]:
    """The numbers of inputs and outputs of each unit: (fan_in, fan_out)."""
    if parameter.ndim < 2:
        raise ValueError(f"a parameter of shape {parameter.shape} has no fans: it must have at least 2 axes")
    taps = math.prod(parameter.shape[2:])
    return parameter.shape[1] * taps, parameter.shape[0] * taps


def gain(nonlinearity: str, negative_slope: float = 0.01) -> float:
    """How much larger weights must be before a nonlinearity, to keep the variance.

    `negative_slope` is that of "leaky_relu", sqrt(2 / (1 + negative_slope^2)), and of no other.
    """
    if nonlinearity not in NONLINEARITIES:
        raise ValueError(f"nonlinearity (={nonlinearity!r}) must be one of {', '.join(NONLINEARITIES)}")
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1.0 + checks.number(negative_slope, "negative_slope") ** 2))
    return GAINS[nonlinearity]


def uniform_(parameter: Parameter, bound: float, rng: np.random.Generator | None = None) -> None:
    """U(-bound, bound)."""
    bound = checks.number(bound, "bound", 0)
    parameter.fill(generator_or_default(rng).uniform(-bound, bound, parameter.shape))


def normal_(parameter: Parameter, std: float, rng: np.random.Generator | None = None) -> None:
    """N(0, std^2)."""
    std = checks.number(std, "std", 0)
    parameter.fill(generator_or_default(rng).normal(0.0, std, parameter.shape))


def default_(weight: Parameter, bias: Parameter | None = None, rng: np.random.Generator | None = None) -> None:
    """PyTorch's default for Conv2d and Linear: weight and bias both U(-k, k), k = sqrt(1 / fan_in)."""
    fan_in, _ = fans(weight)
    uniform_(weight, math.sqrt(1.0 / fan_in), rng)
    if bias is not None:
        uniform_(bias, math.sqrt(1.0 / fan_in), rng)


def kaiming_uniform_(
    weight: Parameter,
    nonlinearity: str = "relu",
    rng: np.random.Generator | None = None,
    *,
    negative_slope: float = 0.01,
) -> None:
    """U(-b, b) with b = gain sqrt(3 / fan_in): He, Zhang, Ren and Sun (2015)."""
    uniform_(weight, gain(nonlinearity, negative_slope) * math.sqrt(3.0 / fans(weight)[0]), rng)


def kaiming_normal_(
    weight: Parameter,
    nonlinearity: str = "relu",
    rng: np.random.Generator | None = None,
    *,
    negative_slope: float = 0.01,
) -> None:
    """N(0, gain^2 / fan_in): He, Zhang, Ren and Sun (2015)."""
    normal_(weight, gain(nonlinearity, negative_slope) / math.sqrt(fans(weight)[0]), rng)


def xavier_uniform_(weight: Parameter, nonlinearity: str = "linear", rng: np.random.Generator | None = None) -> None:
    """U(-b, b) with b = gain sqrt(6 / (fan_in + fan_out)): Glorot and Bengio (2010)."""
    uniform_(weight, gain(nonlinearity) * math.sqrt(6.0 / sum(fans(weight))), rng)
