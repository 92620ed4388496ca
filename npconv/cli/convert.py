"""`npconv convert`: weights from elsewhere into a model file, and a model file into other formats."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import networks, weights
from ..extras import require
from ..folding import fold_batchnorm
from ..interchange import export_onnx, load_state, read_state, write_state
from ..interchange.reading import is_hdf5
from ..model import Model
from ..module import Module
from .files import check_new
from .parser import add_command, check_backend, given, whole
from .progress import show
from .recipe import parameter_count

WEIGHTS = (".safetensors", ".npz")
ENDINGS = (".h5", *WEIGHTS, ".onnx")
OPTIONS = ("channels", "depth", "image_channels", "batch_norm", "residual")  # of the network
PIXELS = 4  # FFDNet's and the small U-Net's convolutions see a quarter of the pixels, in four times the channels

DESCRIPTION = """Convert weights and models. IN is known by its content, OUT by its ending.

Weights of PyTorch (.pth, .pt: zip and legacy files), .safetensors and .npz become a model that denoise and
evaluate take, with --network and an OUT of .h5; PyTorch is not needed, and nothing in the file is executed.
A model (.h5) becomes .safetensors or .npz, which PyTorch loads, or .onnx. Weights to .safetensors or .npz
need no --network."""

EXAMPLE = """examples:
  npconv convert dncnn_25.pth dncnn.h5 --network dncnn
  npconv convert checkpoint.pt dncnn.h5 --network dncnn --key ema/state_dict --fold-batchnorm
  npconv convert renamed.safetensors model.h5 --network ffdnet --mapping table.txt
  npconv convert npconv-run/model.h5 model.onnx

A table has a line `ours = theirs` for each array; npconv info FILE.h5 shows what our names are made of."""


def add_parser(commands: Any) -> None:
    """Add the command to the parsers of `commands`."""
    parser = add_command(
        commands, "convert", "PyTorch weights in; safetensors, ONNX out", DESCRIPTION, EXAMPLE, prepare
    )
    parser.add_argument("input", metavar="IN", type=Path, help=".pth, .pt, .safetensors, .npz or .h5")
    parser.add_argument("output", metavar="OUT", type=Path, help=".h5, .safetensors, .npz or .onnx")
    parser.add_argument(
        "--network", metavar="NAME", help="which network the weights are of: " + ", ".join(networks.NETWORKS)
    )
    for name, what in (("channels", "inside the network"), ("depth", "as in train"), ("image-channels", "1 or 3")):
        parser.add_argument(f"--{name}", type=whole(0), metavar="N", help=f"{what} (as the weights have it)")
    parser.add_argument(
        "--batch-norm", action=argparse.BooleanOptionalAction, help="with BatchNorm or without (as the weights have it)"
    )
    parser.add_argument(
        "--residual",
        action=argparse.BooleanOptionalAction,
        help="of dncnn and unet: the weights estimate the noise, not the image (yes)",
    )
    parser.add_argument(
        "--mapping",
        metavar="names|order|TABLE",
        help="which array is which: by names, by order, or as a text file says (names if they fit, else order)",
    )
    parser.add_argument("--key", help="which entry of a checkpoint holds the weights")
    parser.add_argument(
        "--fold-batchnorm", action="store_const", const=True, help="merge BatchNorms into the convolutions before them"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Read and check everything, and return the work: to write."""
    check_backend()
    _check_output(args.output, args.overwrite)
    if not args.input.is_file():
        raise FileNotFoundError(f"there is no file {str(args.input)!r}")
    if is_hdf5(args.input):
        return _from_model(args)
    return _from_weights(args)


def _check_output(path: Path, overwrite: bool) -> None:
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"OUT (={str(path)!r}) must end in {', '.join(ENDINGS)}")
    check_new(path, overwrite)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r}")
    if path.suffix.lower() == ".onnx":
        require("onnx")


# ---- from a model of ours ----
def _from_model(args: argparse.Namespace) -> Callable[[], int]:
    _refuse(args, "a model of npconv's", "network", *OPTIONS, "mapping", "key")
    ending = args.output.suffix.lower()
    if ending == ".h5":
        if not args.fold_batchnorm:
            raise ValueError("from .h5 to .h5 there is nothing to convert without --fold-batchnorm")
        model = Model.load(args.input)
        folded = Model(fold_batchnorm(model.network), model.loss)
        return lambda: _write(args, lambda: folded.save(args.output))
    if ending in WEIGHTS and not args.fold_batchnorm:
        state = read_state(args.input)  # so that it needs no architecture
        return lambda: _write(args, lambda: write_state(state, args.output))
    network = weights.load(args.input)
    return lambda: _write_network(args, fold_batchnorm(network) if args.fold_batchnorm else network)


# ---- from weights ----
def _from_weights(args: argparse.Namespace) -> Callable[[], int]:
    state = read_state(args.input, args.key)
    found = f"{args.input.name}: {len(state)} arrays, {sum(a.size for a in state.values()):,} numbers"
    if args.network is None:
        if args.output.suffix.lower() not in WEIGHTS:
            raise ValueError(f"weights alone do not say what to compute: --network NAME does, for {args.output.name}")
        _refuse(args, "no --network", *OPTIONS, "mapping", "fold_batchnorm")
        return lambda: _write(args, lambda: write_state(state, args.output), found)
    options = {**guess(args.network, state), **{name: getattr(args, name) for name in OPTIONS if _is_given(args, name)}}
    network = networks.make(args.network, **options)
    pairs, how = match(network, state, args.mapping)
    described = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())
    lines = [
        found,
        f"{args.network}: {described or 'as it is by default'}; {parameter_count(network):,} parameters",
        f"matched by {how}: {_first_and_last(pairs)}",
    ]
    network = fold_batchnorm(network) if args.fold_batchnorm else network
    return lambda: _write_network(args, network, *lines)


def guess(name: str, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Options for `networks.make(name)` that the shapes of the weights show, where they are sure to."""
    kernels = [array for array in state.values() if array.ndim == 4]
    if not kernels:
        return {}
    first, last = kernels[0], kernels[-1]
    if name == "dncnn":
        norm = any(path.endswith("running_mean") for path in state)
        sizes = {"image_channels": last.shape[0], "channels": first.shape[0], "depth": len(kernels)}
        return {**sizes, "batch_norm": norm}
    if name == "ffdnet":
        return {"image_channels": max(1, last.shape[0] // PIXELS), "channels": first.shape[0], "depth": len(kernels)}
    if name in ("strided", "strided-transposed"):
        return {"image_channels": first.shape[1], "channels": first.shape[0]}
    if name == "noise2noise-unet":
        return {"image_channels": first.shape[1]}
    if name == "unet":
        halvings = sum(kernel.shape[2:] == (2, 2) for kernel in kernels) // 2  # one goes down, one comes up
        return {"image_channels": max(1, first.shape[1] // PIXELS), "channels": first.shape[0], "depth": halvings}
    return {}


def match(network: Module, state: Mapping[str, np.ndarray], mapping: str | None) -> tuple[list[tuple[str, str]], str]:
    """Load `state` into `network`: the matched pairs, and how. Without a `mapping`: by names, else by order."""
    if mapping in ("names", "order"):
        return load_state(network, state, mapping), mapping
    if mapping is not None:
        if not Path(mapping).is_file():
            raise ValueError(f"--mapping (={mapping!r}) must be names, order or the file of a table")
        return load_state(network, state, Path(mapping)), f"the table {mapping}"
    try:
        return load_state(network, state, "names"), "names"
    except ValueError:
        if any(name in state for name in network.state_dict()):
            raise
    try:
        return load_state(network, state, "order"), "order"
    except ValueError as error:
        raise ValueError(f"{error}\n(neither names nor order agree: --mapping TABLE says which is which)") from None


def _first_and_last(pairs: list[tuple[str, str]]) -> str:
    lines = [f"{ours} = {theirs}" for ours, theirs in (pairs[:1] + pairs[1:][-1:])]
    return " ... ".join(lines)


# ---- out ----
def _write_network(args: argparse.Namespace, network: Module, *lines: str) -> int:
    ending = args.output.suffix.lower()
    if ending == ".h5":
        return _write(args, lambda: Model(network).save(args.output), *lines)
    if ending == ".onnx":
        return _write(args, lambda: export_onnx(network, args.output), *lines)
    return _write(args, lambda: write_state(network, args.output), *lines)


def _write(args: argparse.Namespace, write: Callable[[], None], *lines: str) -> int:
    write()
    for line in (*lines, f"written: {args.output}, {args.output.stat().st_size:,} bytes"):
        show(line)
    return 0


def _is_given(args: argparse.Namespace, name: str) -> bool:
    return getattr(args, name) is not None


def _refuse(args: argparse.Namespace, where: str, *names: str) -> None:
    ignored = given(args, *names)
    if ignored:
        raise ValueError(f"{', '.join(ignored)} would have no effect with {where}")
