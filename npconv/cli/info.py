"""`npconv info`: the version, what npconv computes with here and why, and what a model file holds."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import __version__
from ..backends import backend, backend_reason
from ..backends.gpu import unusable_because
from ..extras import h5py
from ..model import Model
from .parser import add_command
from .progress import facts, show
from .recipe import parameter_count

VARIABLES = {
    "NPCONV_BACKEND": "numpy (the default), cupy, or auto: cupy if it can be used",
    "NPCONV_THREADS": "worker threads on the CPU; the default is all cores this process may use, fewer by a quota",
    "NPCONV_PROCESSES": "0: only threads share a batch; the default is processes too, for small networks on Linux",
    "NPCONV_CONV": "auto (the default), im2col (the reference), unfold, winograd2, winograd4, thin or differences",
    "NPCONV_TF32": "1: convolutions on a GPU may round what they multiply to TF32; the default is 0",
    "NPCONV_GPU_CONV": "auto (the default), implicit, direct, or im2col (products by cuBLAS)",
    "NPCONV_GPU_GRAPHS": "0: training steps on a GPU are never recorded as CUDA graphs; the default is 1",
}
APP = {"PIL": "pillow", "tifffile": "tifffile", "tqdm": "tqdm", "matplotlib": "matplotlib"}

DESCRIPTION = """Show the version, the active backend and why it is active, the device, whether CuPy could be
used, and the environment variables that npconv reads; with a file, what the model in it is."""

EXAMPLE = """examples:
  npconv info
  npconv info npconv-run/model.h5"""


def add_parser(commands: Any) -> None:
    """Add the command to the parsers of `commands`."""
    parser = add_command(commands, "info", "show backend, device and model", DESCRIPTION, EXAMPLE, prepare)
    parser.add_argument("model", nargs="?", metavar="FILE.h5", help="a model written by npconv train")


def prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Return the work: a broken environment is what info is there to show, so nothing is checked before."""
    return (lambda: _describe_file(args.model)) if args.model else _describe_installation


def _describe_file(path: str) -> int:
    model = Model.load(path)
    rows = {
        "file": f"{path}, {os.path.getsize(path):,} bytes",
        "parameters": f"{parameter_count(model.network):,}",
        "loss": repr(model.loss),
        "optimizer": repr(model.optimizer),
    }
    show(f"{facts(rows)}\nnetwork\n{_indented(repr(model.network))}")
    return 0


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _describe_installation() -> int:
    computes, problem = _computes_with()
    reason = unusable_because()
    rows = {
        "npconv": __version__,
        "Python": f"{platform.python_version()} on {platform.system()}, NumPy {np.__version__}, {_h5py()}",
        **computes,
        "CuPy": "can be used: NPCONV_BACKEND=cupy" if reason is None else f"cannot be used: {reason}",
        "images, plots": _app(),
    }
    show(facts(rows))
    show("\nenvironment variables")
    variables = {f"  {name} {_value(name)}": meaning for name, meaning in VARIABLES.items()}
    show(facts(variables))
    if problem is None:
        return 0
    print(f"npconv info: error: {problem}", file=sys.stderr)
    return 1


def _value(variable: str) -> str:
    return f"= {os.environ[variable]}" if variable in os.environ else "(not set)"


def _computes_with() -> tuple[dict[str, str], str | None]:
    """The rows about the backend, and why there is none (else None)."""
    try:
        return {"backend": f"{backend().name} ({backend_reason()})", "device": backend().describe()}, None
    except (ValueError, RuntimeError, ImportError) as error:
        return {"backend": f"none: {error}"}, str(error)


def _h5py() -> str:
    try:
        return f"h5py {h5py.__version__}"
    except ImportError as error:
        return f"no h5py ({error})"


def _app() -> str:
    """Which packages of the `app` extra are there."""
    missing = [name for module, name in APP.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return ", ".join(APP.values())
    return f'missing: {", ".join(missing)}; pip install "npconv[app]"'
