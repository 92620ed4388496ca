"""What the commands' parsers share: one-line errors, help with an example, and types of arguments."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from ..backends import backend

Value = TypeVar("Value")

DEFAULT_FOLDER = "npconv-run"  # where train writes, and where the other commands look for the model


class Parser(argparse.ArgumentParser):
    """An ArgumentParser with errors of one line, whose description and examples keep their line breaks."""

    def __init__(self, prog: str, description: str = "", epilog: str = "", **options: Any) -> None:
        options["formatter_class"] = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_command(
    commands: Any, name: str, summary: str, description: str, example: str, prepare: Callable[..., Any]
) -> Parser:
    """A parser for the command `name`; `prepare` is what main calls with its arguments."""
    parser: Parser = commands.add_parser(name, help=summary, description=description, epilog=example)
    parser.set_defaults(prepare=prepare, parser=parser)
    return parser


def as_argument(convert: Callable[[str], Value]) -> Callable[[str], Value]:
    """`convert` as a type for argparse that shows the text of its ValueError, not a bare "invalid"."""

    def converted(text: str) -> Value:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return converted


def whole(minimum: int) -> Callable[[str], int]:
    """The type of whole numbers of at least `minimum`."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"{text!r} must be a whole number") from None
        if value < minimum:
            raise ValueError(f"{text!r} must be at least {minimum}")
        return value

    return as_argument(convert)


def positive(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number") from None
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} must be a finite number above 0")
    return value


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number") from None
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} must be a finite number of at least 0")
    return value


def check_backend() -> None:
    """Make the backend that NPCONV_BACKEND asks for; ValueError if it cannot be used."""
    try:
        backend()
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def given(args: argparse.Namespace, *names: str) -> list[str]:
    """Those of the options `names` that the user gave (their default is None), as they are written."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]


def refuse_ignored(args: argparse.Namespace, where: str, *names: str) -> None:
    """ValueError that names those of the options `names` that the user gave, where they would have no effect."""
    ignored = given(args, *names)
    if ignored:
        raise ValueError(f"{', '.join(ignored)} would have no effect with {where}")
