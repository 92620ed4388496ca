"""`npconv denoise`: image files through a trained model, with their dtype and channels."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.images import ENDINGS, read_image
from ..model import Model
from .files import check_ending, check_new, image_files, write_whole_image
from .parser import DEFAULT_FOLDER, add_command, check_backend, positive
from .pixels import denoised, load_denoiser, split_alpha, white_level
from .progress import show

OUTPUT = "denoised"

DESCRIPTION = f"""Denoise images with a trained model: PNG, JPEG, TIFF and NPY.

What is written has the dtype and the channels of what was read; an alpha channel stays as it is. uint8 counts
as 0..255, uint16 as 0..65535, floats as 0..1 if no value is above 1 and as 0..255 if they look like that;
--range says otherwise. Without -o the images go to the folder {OUTPUT}/. No input is ever overwritten."""

EXAMPLE = """examples:
  npconv denoise noisy.png -o clean.png
  npconv denoise scans/*.tif --model my-run/model.h5 --range 4095 -o cleaned/"""


def add_parser(commands: Any) -> None:
    """Add the command to the parsers of `commands`."""
    parser = add_command(commands, "denoise", "denoise images", DESCRIPTION, EXAMPLE, prepare)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of them")
    default = f"{DEFAULT_FOLDER}/model.h5"
    parser.add_argument("--model", metavar="FILE", default=default, help=f"written by npconv train ({default})")
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        default=OUTPUT + "/",
        help=f"a folder; or for one image a file, whose ending chooses the format ({OUTPUT}/)",
    )
    parser.add_argument("--range", type=positive, metavar="WHITE", help="the value that stands for white")
    parser.add_argument("--overwrite", action="store_true", help="replace images that exist")


def prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Check the model, the inputs and the outputs, and return the work."""
    check_backend()
    inputs = image_files(args.images)
    is_folder = _is_folder(args.output, len(inputs), any(Path(name).is_dir() for name in args.images))
    outputs = _outputs(inputs, args.output, is_folder)
    for source, target in zip(inputs, outputs, strict=True):
        _check_output(source, target, args.overwrite)
    folder = Path(args.output) if is_folder else Path(args.output).parent
    _check_folder(folder)
    model = load_denoiser(args.model)
    folder.mkdir(parents=True, exist_ok=True)
    return lambda: _denoise_all(model, inputs, outputs, args.range)


def _is_folder(output: str, count: int, from_folder: bool) -> bool:
    """Whether -o names a folder: it is one, it ends like one, or it could not be the name of one image.

    Raises ValueError if it is the name of one image, and there are several.
    """
    if output.endswith(("/", os.sep)) or Path(output).is_dir():
        return True
    if Path(output).suffix.lower() not in ENDINGS:
        return count > 1 or from_folder
    if count > 1:
        raise ValueError(f"{count} inputs cannot go into one file {output!r}: name a folder with -o, such as out/")
    return False


def _outputs(inputs: list[Path], output: str, is_folder: bool) -> list[Path]:
    if not is_folder:
        check_ending(Path(output))
        return [Path(output)]
    outputs = [Path(output) / path.name for path in inputs]
    for i, path in enumerate(outputs):
        if path in outputs[:i]:
            raise ValueError(
                f"{str(inputs[outputs.index(path)])!r} and {str(inputs[i])!r} would both become "
                f"{str(path)!r}: denoise them one after the other, into two folders"
            )
    return outputs


def _check_folder(folder: Path) -> None:
    """ValueError if a file is where the folder, or one above it, would have to be."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if there.exists() and not there.is_dir():
        raise ValueError(f"{str(there)!r} is a file, not a folder to write to: choose another with -o")


def _check_output(source: Path, target: Path, overwrite: bool) -> None:
    if target.exists() and target.samefile(source):
        raise ValueError(f"{str(target)!r} is an input: choose another folder or name with -o")
    check_new(target, overwrite)


def _denoise_all(model: Model, inputs: list[Path], outputs: list[Path], white: float | None) -> int:
    """Every image; one that fails does not keep the others from their turn, but makes the exit status 1."""
    failed = 0
    for source, target in zip(inputs, outputs, strict=True):
        try:
            show(_denoise(model, source, target, white))
        except (ValueError, TypeError, OSError) as error:
            failed += 1
            reason = str(error) if str(source) in str(error) else f"{source}: {error}"
            print(f"npconv denoise: error: {reason}", file=sys.stderr)
    if failed and len(inputs) > 1:
        print(f"npconv denoise: {failed} of {len(inputs)} images failed", file=sys.stderr)
    return 1 if failed else 0


def _denoise(model: Model, source: Path, target: Path, white: float | None) -> str:
    """Denoise one file; a line that says what was done."""
    started = time.perf_counter()
    image = read_image(source)
    colours, _ = split_alpha(image)
    level = white_level(colours, white)
    write_whole_image(target, denoised(model, image, level))
    channels, height, width = image.shape
    seconds = time.perf_counter() - started
    kind = f"{width} x {height}, {channels} channel{'s' if channels > 1 else ''}, {image.dtype}, 0..{level:g}"
    return f"{source} -> {target}  ({kind}, {seconds:.2f} s)"
