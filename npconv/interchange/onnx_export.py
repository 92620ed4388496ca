"""export_onnx: a network as an ONNX file, for runtimes that know nothing of npconv."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .. import checks
from ..containers import Concat, Sequential, Sum
from ..extras import require
from ..module import Module
from ..noise_map import network_channels, takes_noise_map
from ..weights import REGISTRY
from ..whole_file import whole_file
from .onnx_graph import INPUT, OUTPUT, Graph
from .onnx_layers import EXPORTERS

AXES = ("N", "C", "H", "W")

DOC = f"""Exported by npconv, as the network is in evaluation. Input "{INPUT}": float32 (N, C, H, W), values 0..1 (8-bit
images divided by 255). Output "{OUTPUT}": what the network makes of them, on the same scale, not clipped."""
MULTIPLES = "H must be a multiple of {}, W of {}."
NOISE_LEVEL = "The last channel of the input is the noise level of each pixel: sigma / 255, for sigma in 8-bit steps."


def export_onnx(network: Module, path: str | os.PathLike[str], input_shape: Sequence[int | None] | None = None) -> None:
    """Write a network of npconv's layers to the ONNX file `path` (opset 17, float32), as it is in evaluation.

    The input is "images", (N, C, H, W) with values 0..1 as the network sees them (`Model.predict` divides 0..255 by
    255 before and multiplies after); the output is "output". N, H and W are free, and C what the first layer takes;
    `input_shape` fixes those of (N, C, H, W) that are not None.

    The model is checked by onnx.checker before it takes the place of an old file. Raises ImportError that says how to
    install onnx, TypeError for anything but a Module or for a module of one's own inside (named, with its path),
    ValueError for an `input_shape` that is not four numbers of at least 1 or None, has a wrong number of channels, or a
    height or width that the network does not divide (`size_multiple`). What H and W must be multiples of, and that the
    last channel is a noise level where it is one, stands in the model's doc_string.
    """
    if not isinstance(network, Module):
        raise TypeError(f"network (={network!r}) must be a Module; of a Model, give its network")
    axes = _input_axes(network, input_shape)
    onnx = require("onnx")
    graph = Graph()
    model = graph.finish(_export(graph, network, INPUT, ""), axes, _doc(network))
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


def _doc(network: Module) -> str:
    parts = [DOC]
    if network.size_multiple != (1, 1):
        parts.append(MULTIPLES.format(*network.size_multiple))
    if takes_noise_map(network):
        parts.append(NOISE_LEVEL)
    return " ".join(parts)


def _input_axes(network: Module, input_shape: Sequence[int | None] | None) -> list[int | str]:
    """The input's four axes: numbers where they are known, names where not."""
    channels = network_channels(network)
    if input_shape is None:
        input_shape = (None, channels, None, None)
    if isinstance(input_shape, str) or not isinstance(input_shape, Sequence) or len(input_shape) != 4:
        raise ValueError(f"input_shape (={input_shape!r}) must be (N, C, H, W), each a number or None")
    for size in input_shape:
        if size is not None:
            checks.integer(size, "input_shape", 1)
    if channels is not None and input_shape[1] not in (None, channels):
        raise ValueError(f"input_shape (={tuple(input_shape)}) must have the network's {channels} channels")
    multiples = network.size_multiple
    for size, multiple in zip(input_shape[2:], multiples, strict=True):
        if size is not None and size % multiple:
            raise ValueError(
                f"input_shape (={tuple(input_shape)}) must have H and W that are multiples of the network's {multiples}"
            )
    return [name if size is None else int(size) for name, size in zip(AXES, input_shape, strict=True)]
