"""A graph of ONNX operators while it is put together, and the few combinations that several layers need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backends import to_numpy
from ..backends.geometry import Sides
from ..extras import require

OPSET = 17  # of 2022: every runtime of the last years has it
IR_VERSION = 8  # the file format's, of the same time; onnx itself would write its newest
INPUT, OUTPUT = "images", "output"
END = np.iinfo("int64").max  # up to the last one, in a Slice


class Graph:
    """Nodes and constants; every value has a name, and a layer's begin with its path in the network."""

    def __init__(self) -> None:
        self._onnx = require("onnx")
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._names: set[str] = {INPUT, OUTPUT}

    def _unique(self, name: str) -> str:
        found, count = name, 1
        while found in self._names:
            found, count = f"{name}_{count}", count + 1
        self._names.add(found)
        return found

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The output of a new node."""
        output = self._unique(operator)
        self.nodes.append(self._onnx.helper.make_node(operator, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, values: Any, dtype: str = "int64", name: str = "constant") -> str:
        """A constant array. `values`: a number, a list or an array of any backend."""
        array = np.asarray(to_numpy(values) if hasattr(values, "shape") else values, dtype=dtype)
        name = self._unique(name)
        self.constants[name] = self._onnx.numpy_helper.from_array(
            np.ascontiguousarray(array).reshape(array.shape), name
        )
        return name

    # ---- what several layers need ----
    def scalar(self, value: float) -> str:
        """A constant float32 without axes."""
        return self.constant(value, "float32")

    def pad(self, x: str, sides: Sides, mode: str = "constant", value: float = 0.0) -> str:
        """Height and width padded by ((top, bottom), (left, right)); a negative number crops."""
        if sides == ((0, 0), (0, 0)):
            return x
        (top, bottom), (left, right) = sides
        amounts = self.constant([0, 0, top, left, 0, 0, bottom, right])
        return self.add("Pad", x, amounts, self.scalar(value), mode=mode)

    def slice(self, x: str, axis: int, start: int, stop: int) -> str:
        """Elements start..stop-1 along one axis; negative ones count from the end."""
        return self.add("Slice", x, *(self.constant([number]) for number in (start, stop, axis)))

    def pad_circular(self, x: str, sides: Sides) -> str:
        """Height and width padded with the opposite side. Pad's own mode for it is of opset 19."""
        for axis, (before, after) in zip((2, 3), sides, strict=True):
            parts = [self.slice(x, axis, -before, END)] if before else []
            parts += [x, self.slice(x, axis, 0, after)] if after else [x]
            x = self.add("Concat", *parts, axis=axis) if len(parts) > 1 else x
        return x

    def shape(self, x: str, start: int, end: int | None = None) -> str:
        """The sizes of axes start..end-1, as an array."""
        return self.add("Shape", x, start=start, **({} if end is None else {"end": end}))

    def reshape(self, x: str, *sizes: str) -> str:
        """`x` with the shape that the arrays `sizes` give, one after the other."""
        return self.add("Reshape", x, self.add("Concat", *sizes, axis=0) if len(sizes) > 1 else sizes[0])

    def finish(self, last: str, channels: Sequence[int | str], doc: str) -> Any:
        """The whole model, whose output is the value `last`; `channels`: the input's axes, a number or a name each."""
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        self.nodes.append(helper.make_node("Identity", [last], [OUTPUT], name=OUTPUT))
        graph = helper.make_graph(
            self.nodes,
            "npconv",
            [helper.make_tensor_value_info(INPUT, float32, list(channels))],
            [self._onnx.ValueInfoProto(name=OUTPUT, type=helper.make_tensor_type_proto(float32, None))],
            list(self.constants.values()),
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(
            graph, producer_name="npconv", doc_string=doc, opset_imports=[opset], ir_version=IR_VERSION
        )
        # An output must have a shape, if only the number of its axes: what onnx itself makes of the nodes.
        inferred = require("onnx.shape_inference").infer_shapes(model, strict_mode=True, data_prop=True)
        model.graph.output[0].CopyFrom(inferred.graph.output[0])
        return model
