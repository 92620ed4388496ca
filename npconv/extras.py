"""The packages of the optional `app` extra, imported where they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

_NEEDS = {
    "matplotlib": "pictures need matplotlib",
    "PIL": "PNG and JPEG files need pillow",
    "tifffile": "TIFF files need tifffile",
}


def require(name: str) -> Any:
    """The module `name` of matplotlib, PIL or tifffile; ImportError that says how to install it."""
    package = name.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f'{_NEEDS[package]}: pip install "npconv[app]"') from error
