"""The command line: `npconv train`, `denoise`, `evaluate`, `convert` and `info`, one file a command.

    parse the arguments  ->  prepare: check everything (exit status 2)  ->  work (exit status 1)

`prepare` of each command returns the work as a function, so that every error that can be known beforehand
comes before the first long step. Errors of the user's making are one line on stderr, or one and a list
(of the weights that do not fit); others keep their traceback.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..training import TrainingCollapsed
from . import convert, denoise, evaluate, info, train
from .parser import Parser
from .streams import outputs, plain
from .termination import in_one_word, status_of

# A Warning is an error where Python was told so (-W error).
OURS = (ValueError, TypeError, OSError, ImportError, MemoryError, TrainingCollapsed, Warning)

USAGE, FAILED = 2, 1
SHOWN = 60  # items of the list in an error

EXAMPLES = """examples:
  npconv train                                   learn to denoise, in about two minutes
  npconv denoise photo.png -o clean.png          use what was learned
  npconv evaluate photos/ --noise gaussian:25    measure it
  npconv convert net.pth net.h5 --network dncnn  use published weights
  npconv info                                    what npconv computes with here
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv` (None: the process's arguments) and return the exit status.

    0: done; 1: it failed on the way; 2: the arguments are wrong; 130: interrupted with Ctrl-C, 143:
    terminated with SIGTERM, 149: with Ctrl-Break on Windows (`train`, which then keeps what it has). What cannot be
    written to stdout is a failure; see streams.py.
    """
    with outputs() as out:
        status = _main(argv)
        with contextlib.suppress(OSError):  # it is in out.error
            out.flush()
        # Of commands the error has been told; argparse says nothing where its help could not be written.
        return _failed("npconv", out.error) if status == 0 and out.error is not None else status


def _main(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    try:
        args, unknown = parser.parse_known_args(argv)
        if unknown:  # argparse itself would let the top parser complain, without the command's name
            args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        if args.command is None:
            parser.print_help()
            return 0
    except SystemExit as stop:  # argparse has printed help, the version or an error
        return int(stop.code or 0)
    except OSError as error:  # of stdout, when help is printed
        return _failed("npconv", error)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        # A disk may be full twice, in the same words; last, so that what Python was told about warnings comes first.
        warnings.filterwarnings("always", "training goes on", append=True)
        return _run(f"npconv {args.command}", args)


def build_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser("npconv", "Train and run convolutional image denoisers with NumPy alone.", EXAMPLES)
    parser.set_defaults(parser=parser)
    parser.add_argument("--version", action="version", version=f"npconv {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in (train, denoise, evaluate, convert, info):
        command.add_parser(commands)
    return parser


def _run(name: str, args: Any) -> int:
    status = USAGE
    try:
        work = args.prepare(args)
        status = FAILED
        return int(work())
    except KeyboardInterrupt as interrupt:
        print(f"{name}: {in_one_word(interrupt)}", file=sys.stderr)
        return status_of(interrupt)
    except OURS as error:
        return _failed(name, error, status)


def _failed(name: str, error: BaseException, status: int = FAILED) -> int:
    """Say what went wrong, on one line or with a list, and return the exit status."""
    if isinstance(error, BrokenPipeError):  # `npconv info | head -1`: whoever read our output has gone
        return FAILED
    gone = isinstance(error, FileNotFoundError) and not _has_current_folder()
    print(f"{name}: error: {in_words(error)}{' (the current folder is gone)' if gone else ''}", file=sys.stderr)
    return status


def _has_current_folder() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


def in_words(error: BaseException) -> str:
    """The message of an error, with its lines joined; but indented lines are a list, and stay one line each."""
    lines = [plain(line) for line in str(error).splitlines()]
    items = [i for i, line in enumerate(lines) if i > 0 and line.startswith("  ")]
    if not items:
        return _joined(lines) or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)
    first, last = items[0], items[-1]
    listed = [f"  {_joined([line])}" for line in lines[first : last + 1]]
    if len(listed) > SHOWN:
        listed = [*listed[:SHOWN], f"  and {len(listed) - SHOWN} more"]
    rest = _joined(lines[last + 1 :])
    return "\n".join([_joined(lines[:first]), *listed, *([rest] if rest else [])])


def _joined(lines: Sequence[str]) -> str:
    return " ".join(" ".join(lines).split())


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"npconv: warning: {plain(str(message))}", file=sys.stderr)


__all__ = ["build_parser", "main"]
