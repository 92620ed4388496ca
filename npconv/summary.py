"""summary: a network as a table, with shapes, parameters, multiply-adds and memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .module import Module
from .tracing import Node, Shape, describe, network_dtype, trace

HEADER = ("name", "layer", "output", "parameters", "multiply-adds", "memory")
LONGEST_LAYER = 60  # characters
Row = tuple[str, ...]


def summary(network: Module, input_shape: Sequence[int]) -> str:
    """`network` as a table: what each of its layers makes of an input of `input_shape`.

    Args:
        network: any Module; it stays as it is.
        input_shape: (C, H, W), which is a batch of one, or (N, C, H, W).

    The table has a line per module, indented by its depth: name, layer, shape of the output, parameters,
    multiply-adds (a multiplication and an addition count as one; by convention only convolutions and linear
    layers have any) and the bytes of the output. A container has bytes only where its output is an array of
    its own. Below are the sums: parameters with their gradients, multiply-adds, and the input and all
    outputs, which is what forward keeps for backward at most.

    Raises TypeError or ValueError for anything but a Module and such a shape, or the network's own error if
    it does not take this input.
    """
    nodes = trace(network, input_shape)
    shown = nodes if len(nodes) == 1 else nodes[1:]
    rows = [HEADER, *(_row(node) for node in shown)]
    lines = _table(rows)
    rule = "-" * max(map(len, lines))
    return "\n".join([_title(nodes[0]), "", lines[0], rule, *lines[1:], rule, *_totals(nodes)])


def _title(root: Node) -> str:
    dtype = network_dtype(root.module)
    return f"{type(root.module).__name__} for an input of {_shape(root.input_shape)}, {dtype}"


def _row(node: Node) -> Row:
    """One line; the numbers of a container are those of its children, and stand there."""
    indent = "  " * max(0, node.depth - 1)
    leaf = not node.children
    return (
        indent + node.name,
        indent + _layer(node),
        _shape(node.output_shape),
        f"{node.parameters:,}" if leaf else "",
        _work(node.multiply_adds) if leaf else "",
        readable_bytes(node.output_bytes) if leaf or node.output_bytes else "",
    )


def _layer(node: Node) -> str:
    kind = type(node.module).__name__
    if node.children:
        return f"{kind} of {len(node.children)}"
    text = f"{kind}({describe(node.module)})"
    return text if len(text) <= LONGEST_LAYER else text[: LONGEST_LAYER - 3] + "..."


def _shape(shape: Shape | None) -> str:
    return "not called" if shape is None else " x ".join(map(str, shape))


def _work(amount: int | None) -> str:
    return "?" if amount is None else f"{amount:,}"


def _table(rows: list[Row]) -> list[str]:
    """Columns of equal width: text to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return [
        "  ".join(
            cell.ljust(width) if column < 3 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _totals(nodes: list[Node]) -> list[str]:
    root = nodes[0]
    itemsize = network_dtype(root.module).itemsize
    weights = readable_bytes(root.parameters * itemsize)
    images = (root.input_shape or (1,))[0]
    kept = math.prod(root.input_shape or ()) * itemsize + sum(node.output_bytes for node in nodes)
    unknown = sorted({type(node.module).__name__ for node in nodes if node.multiply_adds is None})
    without = f", without those of {', '.join(unknown)}" if unknown else ""
    return [
        f"parameters     {root.parameters:,}, all trained: {weights}, and {weights} for their gradients",
        f"multiply-adds  {root.multiply_adds or 0:,} for {images} image{'s' if images > 1 else ''}{without}",
        f"activations    {readable_bytes(kept)}: the input and all outputs, kept for backward in training",
    ]


def readable_bytes(count: int) -> str:
    """A number of bytes with a unit: 800 B, 3.5 KiB, 12.0 MiB."""
    power = min(4, max(0, count.bit_length() - 1) // 10)
    unit = ("B", "KiB", "MiB", "GiB", "TiB")[power]
    return f"{count} B" if power == 0 else f"{count / 1024**power:.1f} {unit}"
