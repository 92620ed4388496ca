"""Packages that npconv imports where they are first needed: h5py, and those of the extras `app` and `onnx`.

from .extras import h5py        a module that is imported when something of it is first asked for
require("PIL.Image")            the module; ImportError that says how to get it
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NEEDS = {
    "h5py": ("HDF5 files, npconv's models among them, need h5py", "h5py"),
    "matplotlib": ("pictures need matplotlib", '"npconv[app]"'),
    "PIL": ("PNG and JPEG files need pillow", '"npconv[app]"'),
    "tifffile": ("TIFF files need tifffile", '"npconv[app]"'),
    "onnx": ("ONNX files need onnx", '"npconv[onnx]"'),
}


def require(name: str) -> Any:
    """The module `name` of h5py, matplotlib, PIL, tifffile or onnx; ImportError that says how to install it.

    A package that is there but cannot be imported, for want of another one or because it was built for another NumPy,
    is an ImportError that says why.
    """
    package = name.partition(".")[0]
    need, install = _NEEDS[package]
    try:
        importlib.import_module(package)
        return importlib.import_module(name)
    except MemoryError:
        raise
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            need += f", which cannot be imported ({error})"
        raise ImportError(f"{need}: pip install {install}") from error
    except Exception as error:  # a broken installation can fail in any way
        why = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ImportError(
            f"{need}, which is installed but cannot be imported ({why}): pip install --force-reinstall {install}"
        ) from error


class _Deferred:
    """Stands for a package that `require` knows until something of it is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") and attribute != "__version__":  # whoever looks at all objects asks for these
            raise AttributeError(attribute)
        return getattr(require(self._name), attribute)


if TYPE_CHECKING:
    import h5py as h5py
else:
    h5py = _Deferred("h5py")

__all__ = ["h5py", "require"]
