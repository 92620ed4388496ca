"""A stand-in for CuPy over NumPy, for machines without a GPU: as strict as CuPy, and it counts what costs time.

cupy = standin.install()     # `import cupy` finds the stand-in, until standin.uninstall()
standin.reset(); ...; standin.counts().to_host
"""

from __future__ import annotations

from .module import install, uninstall
from .state import CaptureError, Counts, counts, reset

__all__ = ["CaptureError", "Counts", "counts", "install", "reset", "uninstall"]
