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
from ..interchange.mapping import convolution_biases
from ..interchange.reading import is_hdf5, read_entry
from ..layers import BatchNorm2d
from ..model import Model
from ..module import Module
from .files import check_new
from .network_options import IMAGE_CHANNELS, network_options
from .parser import add_command, check_backend, positive, refuse_ignored, whole
from .progress import show
from .recipe import parameter_count

WEIGHTS = (".safetensors", ".npz")
ENDINGS = (".h5", *WEIGHTS, ".onnx")
OPTIONS = (IMAGE_CHANNELS, *networks.OPTIONS)  # of the network
HOW = {"names": "names", "order": "order", "kinds": "order within kernels and biases"}  # in the report
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
    for name, least, what in (("channels", 1, "inside the network"), ("depth", 0, "as in train")):
        parser.add_argument(f"--{name}", type=whole(least), metavar="N", help=f"{what} (as the weights have it)")
    parser.add_argument(
        "--image-channels", type=int, choices=(1, 3), help="of the images: 1 or 3 (as the weights have it)"
    )
    parser.add_argument(
        "--batch-norm", action=argparse.BooleanOptionalAction, help="with BatchNorm or without (as the weights have it)"
    )
    parser.add_argument(
        "--batch-norm-eps",
        type=positive,
        metavar="EPS",
        help="what BatchNorms add to the variance, which weights do not tell (1e-4, as published; PyTorch's own: 1e-5)",
    )
    parser.add_argument(
        "--residual",
        action=argparse.BooleanOptionalAction,
        help="of dncnn and unet: the weights estimate the noise, not the image (yes)",
    )
    parser.add_argument(
        "--mapping",
        metavar="names|order|kinds|TABLE",
        help="which array is which: by names, by order, by order within kernels and within biases, or as a text file "
        "says (names if they fit, else order, else kinds)",
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
    needed = {".onnx": "onnx", ".h5": "h5py"}.get(path.suffix.lower())
    if needed is not None:
        require(needed)


# ---- from a model of ours ----
def _from_model(args: argparse.Namespace) -> Callable[[], int]:
    refuse_ignored(args, "a model of npconv's", "network", *OPTIONS, "mapping", "key")
    ending = args.output.suffix.lower()
    if ending == ".h5":
        if not args.fold_batchnorm:
            raise ValueError("from .h5 to .h5 there is nothing to convert without --fold-batchnorm")
        model = Model.load(args.input)
        network, lines = _folded(model.network, True)
        folded = Model(network, model.loss)
        return lambda: _write(args, lambda: folded.save(args.output), *lines)
    if ending in WEIGHTS and not args.fold_batchnorm:
        state = read_state(args.input)  # so that it needs no architecture
        return lambda: _write(args, lambda: write_state(state, args.output))
    network, lines = _folded(weights.load(args.input), args.fold_batchnorm)
    return lambda: _write_network(args, network, *lines)


# ---- from weights ----
def _from_weights(args: argparse.Namespace) -> Callable[[], int]:
    state, entry = read_entry(args.input, args.key)
    where = f"{args.input.name}, entry {entry!r}" if entry is not None else args.input.name
    found = f"{where}: {len(state)} arrays, {sum(a.size for a in state.values()):,} numbers"
    if args.network is None:
        if args.output.suffix.lower() not in WEIGHTS:
            raise ValueError(f"weights alone do not say what to compute: --network NAME does, for {args.output.name}")
        refuse_ignored(args, "no --network", *OPTIONS, "mapping", "fold_batchnorm")
        return lambda: _write(args, lambda: write_state(state, args.output), found)
    stated = network_options(args, OPTIONS)
    options = {**guess(args.network, state), **stated}
    network = networks.make(args.network, **options)
    norms = _norms(network)
    if norms:
        options["batch_norm_eps"] = f"{norms[0].eps:g}"
    elif args.batch_norm_eps is not None:
        raise ValueError("--batch-norm-eps would have no effect: the network has no BatchNorm")
    pairs, how = match(network, state, args.mapping)
    described = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in options.items())
    lines = [
        found,
        f"{args.network}: {described or 'as it is by default'}; {parameter_count(network):,} parameters",
        f"matched by {how}: {_first_and_last(pairs)}",
    ]
    zeros = len(convolution_biases(network) - {ours for ours, _ in pairs})
    if zeros:
        many = "1 bias that the file lacks is" if zeros == 1 else f"{zeros} biases that the file lacks are"
        lines.append(f"{many} zero")
    network, merged = _folded(network, args.fold_batchnorm)
    return lambda: _write_network(args, network, *lines, *merged)


def _norms(network: Module) -> list[BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, BatchNorm2d)]


def _folded(network: Module, wanted: bool | None) -> tuple[Module, list[str]]:
    """The network, with its BatchNorms merged if that is wanted, and a line that says how many were."""
    if not wanted:
        return network, []
    folded = fold_batchnorm(network)
    before, left = len(_norms(network)), len(_norms(folded))
    if left == before:
        raise ValueError(
            f"--fold-batchnorm would have no effect: none of {before} BatchNorms follows a convolution"
            if before
            else "--fold-batchnorm would have no effect: the network has no BatchNorm"
        )
    return folded, [f"merged {before - left} BatchNorm{'' if before - left == 1 else 's'}, {left} left"]


def guess(name: str, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Options for `networks.make(name)` that the shapes of the weights show, where they are sure to.

    The first kernel is the one that has the name of the network's first, whatever the order; if none has, the first.
    """
    kernels = [array for array in state.values() if array.ndim == 4]
    if not kernels:
        return {}
    own_first = next(path for path, p in networks.make(name, 1).named_parameters() if p.ndim == 4)
    named = state.get(own_first)
    first = kernels[0] if named is None or named.ndim != 4 else named
    if name == "dncnn":
        norm = any(path.endswith("running_mean") for path in state)
        sizes = {"image_channels": first.shape[1], "channels": first.shape[0], "depth": len(kernels)}
        return {**sizes, "batch_norm": norm}
    if name == "ffdnet":
        images = max(1, (first.shape[1] - 1) // PIXELS)  # the noise level is a channel too
        return {"image_channels": images, "channels": first.shape[0], "depth": len(kernels)}
    if name in ("strided", "strided-transposed"):
        return {"image_channels": first.shape[1], "channels": first.shape[0]}
    if name == "noise2noise-unet":
        return {"image_channels": first.shape[1]}
    if name == "unet":
        halvings = sum(kernel.shape[2:] == (2, 2) for kernel in kernels) // 2  # one goes down, one comes up
        return {"image_channels": max(1, first.shape[1] // PIXELS), "channels": first.shape[0], "depth": halvings}
    return {}


def match(network: Module, state: Mapping[str, np.ndarray], mapping: str | None) -> tuple[list[tuple[str, str]], str]:
    """Load `state` into `network`: the matched pairs, and how. Without a `mapping`: by names, order or kinds."""
    if mapping in HOW:
        return load_state(network, state, mapping, missing_bias="zero"), HOW[mapping]
    if mapping is not None:
        if not Path(mapping).is_file():
            raise ValueError(f"--mapping (={mapping!r}) must be {', '.join(HOW)} or the file of a table")
        return load_state(network, state, Path(mapping)), f"the table {mapping}"
    has_names = any(name in state for name in network.state_dict())
    errors = []
    for way in ("names",) if has_names else ("order", "kinds"):
        try:
            return load_state(network, state, way, missing_bias="zero"), HOW[way]
        except ValueError as error:
            errors.append(error)
    advice = "" if has_names else "\n(neither names nor order agree: --mapping TABLE says which is which)"
    raise ValueError(f"{errors[0]}{advice}") from None


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
