"""`npconv denoise`: image files through a trained model, with their dtype and channels."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.layouts import Layout
from ..data.stacks import STACK_ENDINGS
from ..denoising import denoise_file
from ..footprint import parse_bytes
from ..model import Model
from .denoiser import load_denoiser
from .files import check_ending, check_new, image_files
from .parser import DEFAULT_FOLDER, add_command, as_argument, check_backend, not_negative, positive, whole
from .progress import Bar, show

OUTPUT = "denoised"

DESCRIPTION = f"""Denoise images with a trained model: PNG, JPEG, TIFF, NPY and HDF5, of any size, and stacks of them.

What is written has the dtype, the channels and the pages of what was read; an alpha channel stays as it is.
uint8 counts as 0..255, uint16 as 0..65535, floats as 0..1 if no value is above 1 and as 0..255 if they look like
that; --range says otherwise. Without -o the images go to the folder {OUTPUT}/. No input is ever overwritten. Of a
folder, the images directly in it are denoised, but no HDF5 files: name those.

Arrays of NPY and HDF5 files are (H, W); (C, H, W) where the first axis is at most 4, else (H, W, C) where the last
is, else a stack (N, H, W); (N, C, H, W) where the second axis is at most 4, else (N, H, W, C). --axes says it where
that is wrong: NHW for a stack of three gray images. Of a TIFF file, the samples of a pixel are its channels, and
all else (T, Z, channels of a microscope) are pages, each denoised for itself.

Large images go through the network in tiles that overlap by what it sees: there are no seams. ICC profiles and
resolution are kept, EXIF data of PNG and JPEG too; an orientation is applied. 16-bit PNG is gray only: use TIFF for
16-bit colours. Images of more than 20,000 x 20,000 pixels are refused as PNG and JPEG."""

EXAMPLE = """examples:
  npconv denoise noisy.png -o clean.png
  npconv denoise scans/*.tif --model my-run/model.h5 --range 4095 -o cleaned/
  npconv denoise stack.h5 --dataset raw --max-memory 500M -o clean.h5"""


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
    parser.add_argument(
        "--sigma",
        type=not_negative,
        metavar="S",
        help="the noise's standard deviation, where white is 255: for networks that take it (FFDNet)",
    )
    parser.add_argument("--axes", metavar="AXES", help="the order of a stored array's axes, such as NHWC or NHW")
    parser.add_argument("--dataset", metavar="NAME", help="of an HDF5 file (its only one, or images)")
    memory = as_argument(lambda text: parse_bytes(text, "--max-memory"))
    parser.add_argument(
        "--max-memory",
        type=memory,
        metavar="SIZE",
        help="what computing may take besides the images themselves, such as 500M or 2G (1G)",
    )
    parser.add_argument("--tile", type=whole(1), metavar="PIXELS", help="the side of the tiles (as large as fits)")
    parser.add_argument("--overwrite", action="store_true", help="replace images that exist")


def prepare(args: argparse.Namespace) -> Callable[[], int]:
    """Check the model, the inputs and the outputs, and return the work."""
    check_backend()
    inputs = image_files(args.images, STACK_ENDINGS)
    if args.axes is not None:
        Layout.parse(args.axes)
    is_folder = _is_folder(args.output, len(inputs), any(Path(name).is_dir() for name in args.images))
    outputs = _outputs(inputs, args.output, is_folder)
    for source, target in zip(inputs, outputs, strict=True):
        _check_output(source, target, args.overwrite)
    folder = Path(args.output) if is_folder else Path(args.output).parent
    _check_names(inputs, outputs, _check_folder(folder))
    model = load_denoiser(args.model)
    options = {
        "white": args.range,
        "noise_level": args.sigma,
        "axes": args.axes,
        "dataset": args.dataset,
        "tile": args.tile,
        "max_memory": args.max_memory,
        "overwrite": args.overwrite,
    }
    folder.mkdir(parents=True, exist_ok=True)
    return lambda: _denoise_all(inputs, outputs, model, options)


def _is_folder(output: str, count: int, from_folder: bool) -> bool:
    """Whether -o names a folder: it is one, it ends like one, or it could not be the name of one image.

    Raises ValueError if it is the name of one image, and there are several.
    """
    if output.endswith(("/", os.sep)) or Path(output).is_dir():
        return True
    if Path(output).suffix.lower() not in STACK_ENDINGS:
        return count > 1 or from_folder
    if count > 1:
        raise ValueError(f"{count} inputs cannot go into one file {output!r}: name a folder with -o, such as out/")
    return False


def _outputs(inputs: list[Path], output: str, is_folder: bool) -> list[Path]:
    if not is_folder:
        check_ending(Path(output), STACK_ENDINGS)
        return [Path(output)]
    outputs = [Path(output) / path.name for path in inputs]
    for i, path in enumerate(outputs):
        if path in outputs[:i]:
            raise _both_become(inputs[outputs.index(path)], inputs[i], path)
    return outputs


def _both_become(first: Path, second: Path, output: Path) -> ValueError:
    return ValueError(
        f"{str(first)!r} and {str(second)!r} would both become {str(output)!r}: denoise them one after the other, into "
        "two folders"
    )


def _check_names(inputs: list[Path], outputs: list[Path], there: Path) -> None:
    """ValueError if two names are one to the file system of the folder `there`, as Scan.png and scan.png on macOS.

    On another file system they are two files. So it is asked, with empty files of these names.
    """
    alike = defaultdict(list)
    for source, target in zip(inputs, outputs, strict=True):
        alike[unicodedata.normalize("NFC", target.name).casefold()].append((source, target))
    for (first, target), *others in alike.values():
        if not others:
            continue
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=there, ignore_cleanup_errors=True) as place:
            (Path(place) / target.name).touch()
            for second, other in others:
                if (Path(place) / other.name).exists():
                    raise _both_become(first, second, target)


def _check_folder(folder: Path) -> Path:
    """The folder, or the one above it that exists; ValueError if a file is where one of them would have to be."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    if there.exists() and not there.is_dir():
        raise ValueError(f"{str(there)!r} is a file, not a folder to write to: choose another with -o")
    return there


def _check_output(source: Path, target: Path, overwrite: bool) -> None:
    if target.exists() and target.samefile(source):
        raise ValueError(f"{str(target)!r} is an input: choose another folder or name with -o")
    check_new(target, overwrite)


def _denoise_all(inputs: list[Path], outputs: list[Path], model: Model, options: dict[str, Any]) -> int:
    """Every image; one that fails does not keep the others from their turn, but makes the exit status 1."""
    failed = 0
    for source, target in zip(inputs, outputs, strict=True):
        try:
            done = _denoise(model, source, target, options)
        except BrokenPipeError:
            raise
        except (ValueError, TypeError, OSError, MemoryError) as error:
            failed += 1
            print(f"npconv denoise: error: {_reason(source, error)}", file=sys.stderr)
            continue
        show(done)
    if failed and len(inputs) > 1:
        print(f"npconv denoise: {failed} of {len(inputs)} images failed", file=sys.stderr)
    return 1 if failed else 0


def _reason(source: Path, error: Exception) -> str:
    text = str(error)
    if isinstance(error, MemoryError):
        text = f"out of memory{f' ({text})' if text else ''}; --max-memory makes it need less"
    return text if str(source) in text else f"{source}: {text}"


def _denoise(model: Model, source: Path, target: Path, options: dict[str, Any]) -> str:
    """Denoise one file; a line that says what was done."""
    started = time.perf_counter()
    with _Tiles(source.name) as tiles:
        done = denoise_file(model, source, target, progress=tiles.show, **options)
    pages, channels, height, width = done.shape
    seconds = time.perf_counter() - started
    kind = f"{width} x {height}, {channels} channel{'s' if channels > 1 else ''}, {done.dtype}, 0..{done.white:g}"
    kind = f"{pages} pages, {kind}" if pages > 1 else kind
    return f"{source} -> {target}  ({kind}, {seconds:.2f} s)"


class _Tiles:
    """A progress bar that learns how many tiles there are with the first one."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Bar | None = None
        self._done = 0

    def show(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = Bar(self._label, total)
        self._bar.advance(done - self._done)
        self._done = done

    def __enter__(self) -> _Tiles:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
