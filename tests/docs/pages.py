"""Runs a Markdown page as a reader would: its fenced blocks, in their order, in an empty folder.

    ```python            run, all blocks of a page in one namespace
    ```console           a command a line: npconv ...; # and what follows is a comment, \\ at the end goes on
    ```console fails     the same, and each command must fail
    ```text output       what the block before it has printed; ... stands for anything
    ```text              shown, not run

A word more after `python` or `console` names a package that not everybody has (OPTIONAL): where it is missing the block
is not run, and `Result.left_out` says so. Anything else is an error, so that no block goes unnoticed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import traceback
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from npconv.cli import main

OPTIONAL = ("torch", "onnx", "onnxruntime", "safetensors")
_OPENING = re.compile(r"^(`{3,}|~{3,})\s*(.*?)\s*$")


class PageError(AssertionError):
    """A block that does not do what the page says, with its page and line."""


@dataclass(frozen=True)
class Block:
    """A fenced block. `line`: of its first line of text, from 1; `words`: what stands after the opening fence."""

    page: str
    line: int
    words: tuple[str, ...]
    text: str

    @property
    def kind(self) -> str:
        return self.words[0] if self.words else ""

    @property
    def marks(self) -> tuple[str, ...]:
        return self.words[1:]

    @property
    def needs(self) -> tuple[str, ...]:
        """The packages without which the block is left out."""
        return tuple(mark for mark in self.marks if mark in OPTIONAL)

    @property
    def is_output(self) -> bool:
        return self.words == ("text", "output")

    def error(self, what: str) -> PageError:
        return PageError(f"{self.page}, line {self.line} (```{' '.join(self.words)}): {what}\n\n{self.text}")


@dataclass
class Result:
    """What has been done with a page's blocks: lines of those that ran, of outputs compared, of those left out."""

    ran: list[int] = field(default_factory=list)
    compared: list[int] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)


def blocks(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page; PageError for one that is not closed, or of no known kind."""
    found: list[Block] = []
    fence, start, words, lines = "", 0, (), []  # type: str, int, tuple[str, ...], list[str]
    for number, line in enumerate(text.splitlines(), 1):
        opening = _OPENING.match(line)
        if not fence and opening:
            fence, start, words, lines = opening[1], number + 1, tuple(opening[2].split()), []
        elif fence and line.strip() == fence:
            found.append(Block(page, start, words, "\n".join(lines)))
            fence = ""
        elif fence:
            lines.append(line)
    if fence:
        raise PageError(f"{page}, line {start - 1}: this block is not closed")
    for before, block in zip([None, *found], found, strict=False):
        _check_kind(block, before)
    return found


def _check_kind(block: Block, before: Block | None) -> None:
    allowed = {"python": set(OPTIONAL), "console": {"fails", *OPTIONAL}, "text": {"output"}}
    if block.kind not in allowed or not set(block.marks) <= allowed[block.kind]:
        raise block.error("no kind of block that is known")
    if block.is_output and (before is None or before.kind == "text"):
        raise block.error("there is no block before it that could print this")


def installed() -> set[str]:
    """Which of the OPTIONAL packages are here."""
    return {name for name in OPTIONAL if importlib.util.find_spec(name) is not None}


def shortened(text: str, shorter: Mapping[str, str]) -> tuple[str, set[str]]:
    """`text` with what takes long replaced by what does not, and which of the replacements were found."""
    found = {long for long in shorter if long in text}
    for long in found:
        text = text.replace(long, shorter[long])
    return text, found


def run_page(page: str, text: str, available: Collection[str]) -> Result:
    """Run a page's blocks in the current folder; PageError names the first one that is wrong.

    `available`: which of OPTIONAL may be used.
    """
    result, namespace, printed = Result(), {"__name__": "__main__"}, None  # type: Result, dict[str, Any], str | None
    for block in blocks(page, text):
        if block.is_output:
            if printed is not None:
                _compare(block, printed)
                result.compared.append(block.line)
        elif block.kind == "text":
            continue
        elif not set(block.needs) <= set(available):
            result.left_out.append(block.line)
            printed = None
        else:
            printed = _run_python(block, namespace) if block.kind == "python" else _run_console(block)
            result.ran.append(block.line)
    return result


def _run_python(block: Block, namespace: dict[str, Any]) -> str:
    out = io.StringIO()
    source = "\n" * (block.line - 1) + block.text  # so that a traceback has the page's line numbers
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(source, block.page, "exec"), namespace)
    except Exception as error:
        raise block.error("".join(traceback.format_exception(error)[-3:])) from error
    return out.getvalue()


def commands(block: Block) -> list[list[str]]:
    """The words of each command; PageError for one that is not npconv's."""
    lines = block.text.replace("\\\n", " ").splitlines()
    found = [words for line in lines if (words := shlex.split(line, comments=True))]
    for words in found:
        if words[0] != "npconv":
            raise block.error(f"{' '.join(words)!r} is no command of npconv's")
    return [_with_files(words) for words in found]


def _with_files(words: Iterable[str]) -> list[str]:
    """As a shell does it: a word with * stands for the files that it fits, in the order of names."""
    found: list[str] = []
    for word in words:
        fitting = sorted(str(path) for path in Path().glob(word)) if "*" in word else []
        found += fitting or [word]
    return found


def _run_console(block: Block) -> str:
    out = io.StringIO()
    for words in commands(block):
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), warnings.catch_warnings():
            warnings.simplefilter("default")  # to a user they are a line on stderr
            status = main(words[1:])
        if (status != 0) != ("fails" in block.marks):
            raise block.error(f"{shlex.join(words)} ended with {status}:\n{out.getvalue()}")
    return out.getvalue()


def _compare(block: Block, printed: str) -> None:
    """The whole output, but for spaces at the ends of lines; `...` fits anything, line ends too."""
    expected, found = ("\n".join(line.rstrip() for line in text.strip().splitlines()) for text in (block.text, printed))
    pattern = ".*".join(re.escape(part) for part in expected.split("..."))
    if not re.fullmatch(pattern, found, re.DOTALL):
        raise block.error(f"the block before it printed\n\n{found}\n\nand the page says")
