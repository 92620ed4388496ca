"""The command line: `npconv train`, `denoise`, `evaluate`, `convert` and `info`, one file a command.

    parse the arguments  ->  prepare: check everything (exit status 2)  ->  work (exit status 1)

`prepare` of each command returns the work as a function, so that every error that can be known beforehand
comes before the first long step. Errors of the user's making are one line on stderr, or one and a list
(of the weights that do not fit); others keep their traceback.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..training import TrainingCollapsed
from . import convert, denoise, evaluate, info, train
from .parser import Parser
from .train import INTERRUPTED

OURS = (ValueError, TypeError, OSError, ImportError, MemoryError, TrainingCollapsed)

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

    0: done; 1: it failed on the way; 2: the arguments are wrong; 130: interrupted with Ctrl-C.
    """
    parser = build_parser()
    try:
        args, unknown = parser.parse_known_args(argv)
        if unknown:  # argparse itself would let the top parser complain, without the command's name
            args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    except SystemExit as stop:  # argparse has printed help, the version or an error
        return int(stop.code or 0)
    if args.command is None:
        parser.print_help()
        return 0
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
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
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `npconv info | head -1`: whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OURS as error:
        print(f"{name}: error: {in_words(error)}", file=sys.stderr)
        return status


def in_words(error: BaseException) -> str:
    """The message of an error, with its lines joined; but indented lines are a list, and stay one line each."""
    lines = str(error).splitlines()
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
    print(f"npconv: warning: {message}", file=sys.stderr)


__all__ = ["build_parser", "main"]
