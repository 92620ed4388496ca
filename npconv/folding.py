"""fold_batchnorm: a network for evaluation, its BatchNorms merged into the convolutions before them.

In evaluation a BatchNorm is y = s x + t for each channel, with s = weight / sqrt(running_var + eps) and
t = bias - s running_mean. After a convolution x = W * z + b that is one convolution: y = (s W) * z + (s b + t).
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np

from .backends import to_numpy
from .containers import Concat, Sequential, Sum
from .layers import BatchNorm2d, Conv2d, ConvTranspose2d, Upsampling
from .module import Module, Parameter

CONTAINERS = (Sequential, Concat, Sum)
CONVOLUTIONS = (Conv2d, ConvTranspose2d, Upsampling)


def fold_batchnorm(network: Module) -> Module:
    """A copy of `network` in evaluation mode, each BatchNorm2d merged into the convolution before it.

    That is where, in a Sequential, a BatchNorm2d directly follows a Conv2d, ConvTranspose2d or Upsampling; within
    Sequential, Concat and Sum, however deep. The convolution gets the bias that it lacks. What is merged is computed in
    float64 and rounded to the weight's dtype. Where a Sequential's modules have their positions as names ("0", "1",
    ...), those that are left are numbered anew.

    A BatchNorm2d stays, and computes what it did, where there is nothing to merge it into: after anything else (a
    Linear too, whose outputs are the last axis and not the channels), without running statistics, with a scale that
    is not finite, after a convolution whose parameters another module shares, and inside modules of one's own, which
    are copied as they are.

    `network` itself is not changed. Raises TypeError if it is not a Module.
    """
    if not isinstance(network, Module):
        raise TypeError(f"network (={network!r}) must be a Module; of a Model, give its network")
    twin = copy.deepcopy(network)
    for module in twin.modules():
        for name in module.transient:  # what forward left behind for backward
            vars(module).pop(name, None)
    uses = Counter(id(v) for module in twin.modules() for v in vars(module).values() if isinstance(v, Parameter))
    return _folded(twin, uses).eval()


def _folded(module: Module, uses: Counter[int]) -> Module:
    """`module`, a copy already, with what is inside folded; only containers as npconv wrote them are opened."""
    if not isinstance(module, CONTAINERS) or type(module) not in CONTAINERS or "forward" in vars(module):
        return module
    children = [(name, _folded(child, uses)) for name, child in module.named_children()]
    if isinstance(module, Sequential):
        numbered = [name for name, _ in children] == [str(i) for i in range(len(children))]
        children = _merged(children, uses)
        if numbered:
            children = [(str(i), child) for i, (_, child) in enumerate(children)]
    kind: Any = type(module)
    whole: Module = kind(dict(children))
    whole.input_gradient = module.input_gradient
    return whole


def _merged(children: list[tuple[str, Module]], uses: Counter[int]) -> list[tuple[str, Module]]:
    """The modules of a Sequential, without the BatchNorms that are merged into the one before them."""
    left: list[tuple[str, Module]] = []
    for name, child in children:
        if not left or not _merge(left[-1][1], child, uses):
            left.append((name, child))
    return left


def _merge(conv: Module, norm: Module, uses: Counter[int]) -> bool:
    """Let `conv` do what `norm` does after it, if it can; whether it does."""
    if type(norm) is not BatchNorm2d or "forward" in vars(norm):
        return False
    if not isinstance(conv, CONVOLUTIONS) or type(conv) not in CONVOLUTIONS or "forward" in vars(conv):
        return False
    shared = any(uses[id(parameter)] > 1 for parameter in conv.parameters())
    if shared or norm.running_mean is None or norm.num_features != conv.out_channels:
        return False
    with np.errstate(all="ignore"):  # looked at below
        weight, bias = _merged_arrays(conv, norm)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return False
    conv.weight.fill(weight)
    conv.bias = Parameter(bias)
    return True


def _merged_arrays(conv: Conv2d | ConvTranspose2d | Upsampling, norm: BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """The weight and the bias of `conv` that make it do what `norm` does after it, on the host."""
    mean, var = _double(norm.running_mean), _double(norm.running_var)
    scale = (1.0 if norm.weight is None else _double(norm.weight.data)) / np.sqrt(var + norm.eps)
    shift = (0.0 if norm.bias is None else _double(norm.bias.data)) - scale * mean
    bias = shift if conv.bias is None else scale * _double(conv.bias.data) + shift
    weight = _double(conv.weight.data) * _along_outputs(scale, conv)
    dtype = np.dtype(conv.weight.dtype)
    return weight.astype(dtype), bias.astype(dtype)


def _along_outputs(scale: np.ndarray, conv: Conv2d | ConvTranspose2d | Upsampling) -> np.ndarray:
    """The factor of each output channel, in a shape that broadcasts with the weight."""
    if not isinstance(conv, ConvTranspose2d):  # (O, C / groups, KH, KW)
        return scale[:, None, None, None]
    # (C, O / groups, KH, KW): the C / groups input channels of group g feed output channels g (O / groups) + 0, 1, ...
    groups = conv.geometry.groups
    return scale.reshape(groups, -1).repeat(conv.in_channels // groups, axis=0)[:, :, None, None]


def _double(values: Any) -> np.ndarray:
    return to_numpy(values).astype("float64")
