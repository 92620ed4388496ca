"""The packages of the optional extras `app` and `onnx`, imported where they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

_NEEDS = {
    "matplotlib": ("pictures need matplotlib", "app"),
    "PIL": ("PNG and JPEG files need pillow", "app"),
    "tifffile": ("TIFF files need tifffile", "app"),
    "onnx": ("ONNX files need onnx", "onnx"),
}


def require(name: str) -> Any:
    """The module `name` of matplotlib, PIL, tifffile or onnx; ImportError that says how to install it."""
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(name)
    except ImportError as error:
        need, extra = _NEEDS[package]
        raise ImportError(f'{need}: pip install "npconv[{extra}]"') from error
