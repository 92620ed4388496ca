"""export_onnx: a network as an ONNX file, for runtimes that know nothing of npconv."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from .. import checks
from ..containers import Concat, Parallel, Sequential, Sum
from ..extras import require
from ..layers import PixelShuffle, PixelUnshuffle
from ..module import Module
from ..weights import REGISTRY
from ..whole_file import whole_file
from .onnx_graph import INPUT, OUTPUT, Graph
from .onnx_layers import EXPORTERS

AXES = ("N", "C", "H", "W")

DOC = f"""Exported by npconv, as the network is in evaluation. Input "{INPUT}": float32 (N, C, H, W), values 0..1 (8-bit
images divided by 255). Output "{OUTPUT}": what the network makes of them, on the same scale, not clipped."""


def export_onnx(network: Module, path: str | os.PathLike[str], input_shape: Sequence[int | None] | None = None) -> None:
    """Write a network of npconv's layers to the ONNX file `path` (opset 17, float32), as it is in evaluation.

    The input is "images", (N, C, H, W) with values 0..1 as the network sees them (`Model.predict` divides 0..255 by
    255 before and multiplies after); the output is "output". N, H and W are free, and C what the first layer takes;
    `input_shape` fixes those of (N, C, H, W) that are not None.

    The model is checked by onnx.checker before it takes the place of an old file. Raises ImportError that says how to
    install onnx, TypeError for anything but a Module or for a module of one's own inside (named, with its path),
    ValueError for an `input_shape` that is not four numbers of at least 1 or None, or a wrong number of channels.
    """
    if not isinstance(network, Module):
        raise TypeError(f"network (={network!r}) must be a Module; of a Model, give its network")
    axes = _input_axes(network, input_shape)
    onnx = require("onnx")
    graph = Graph()
    model = graph.finish(_export(graph, network, INPUT, ""), axes, DOC)
    require("onnx.checker").check_model(model, full_check=True)
    with whole_file(Path(path)) as part:
        onnx.save_model(model, os.fspath(part), format="protobuf")  # whatever the ending: there are text forms too


def _export(graph: Graph, module: Module, x: str, path: str) -> str:
    """The name of what `module` makes of the value `x`."""
    name = type(module).__name__
    if REGISTRY.get(name) is not type(module) or "forward" in vars(module):
        place = path or "the network itself"
        raise TypeError(
            f"{type(module).__module__}.{type(module).__qualname__} ({place}) is not one of npconv's layers"
        )
    children = [(f"{path}.{key}" if path else key, child) for key, child in module.named_children()]
    if isinstance(module, Sequential):
        for inner, child in children:
            x = _export(graph, child, x, inner)
        return x
    if isinstance(module, (Concat, Sum)):
        outputs = [_export(graph, child, x, inner) for inner, child in children]
        if len(outputs) == 1:
            return outputs[0]
        return graph.add("Sum", *outputs) if isinstance(module, Sum) else graph.add("Concat", *outputs, axis=1)
    return EXPORTERS[name](graph, module, x, path)


def _input_axes(network: Module, input_shape: Sequence[int | None] | None) -> list[int | str]:
    """The input's four axes: numbers where they are known, names where not."""
    needed, _ = _channels(network)
    channels = int(needed) if needed is not None and needed.denominator == 1 else None
    if input_shape is None:
        input_shape = (None, channels, None, None)
    if isinstance(input_shape, str) or not isinstance(input_shape, Sequence) or len(input_shape) != 4:
        raise ValueError(f"input_shape (={input_shape!r}) must be (N, C, H, W), each a number or None")
    for size in input_shape:
        if size is not None:
            checks.integer(size, "input_shape", 1)
    if channels is not None and input_shape[1] not in (None, channels):
        raise ValueError(f"input_shape (={tuple(input_shape)}) must have the network's {channels} channels")
    return [name if size is None else int(size) for name, size in zip(AXES, input_shape, strict=True)]


def _channels(module: Module) -> tuple[Fraction | None, Fraction | None]:
    """The channels that a module takes (None: any) and how many times as many it then gives (None: not known)."""
    if isinstance(module, (PixelShuffle, PixelUnshuffle)):
        return None, 1 / (module.scale[0] * module.scale[1])
    taken = getattr(module, "in_channels", getattr(module, "num_features", None))
    if taken is not None:
        return Fraction(taken), None
    found = [_channels(child) for _, child in module.named_children()]
    if isinstance(module, Parallel):
        factors = [factor for _, factor in found]
        known = [factor for factor in factors if factor is not None]
        total = sum(known, Fraction(0)) if isinstance(module, Concat) else known[0] if known else None
        whole = total if len(known) == len(factors) else None
        return next((channels for channels, _ in found if channels is not None), None), whole
    factor: Fraction | None = Fraction(1)
    for channels, own in found:
        if channels is not None:
            return (None if factor is None else channels / factor), None
        factor = None if factor is None or own is None else factor * own
        if factor is None:
            return None, None
    return None, factor
