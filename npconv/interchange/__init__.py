"""Weights from elsewhere and to elsewhere: PyTorch and safetensors files, NumPy archives, ONNX.

file -> read_state -> {name: array} -> load_state -> network           in; no PyTorch, and no pickle is executed
network -> write_state -> .safetensors, .npz                           out, as PyTorch reads them
network -> export_onnx -> .onnx                                        out, for any ONNX runtime
"""

from __future__ import annotations

from .mapping import load_state, match_names, read_table
from .onnx_export import export_onnx
from .reading import read_state
from .writing import write_state

__all__ = ["export_onnx", "load_state", "match_names", "read_state", "read_table", "write_state"]
