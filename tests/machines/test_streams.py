"""The command line where stdout, stderr or stdin are closed, full, broken or of another encoding, and on terminals."""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from npconv.cli import main
from npconv.cli.progress import NARROW, Bar
from npconv.cli.streams import Output, outputs, plain

pytestmark = pytest.mark.cpu
posix = pytest.mark.skipif(os.name != "posix", reason="a shell's redirections")

COMMANDS = ("train", "denoise", "evaluate", "convert", "info")


class Failing(io.TextIOBase):
    """A stream whose writes fail, at once or when they are flushed."""

    def __init__(self, error: Exception, late: bool = False) -> None:
        self.error, self.late = error, late

    def write(self, text: str) -> int:
        if not self.late:
            raise self.error
        return len(text)

    def flush(self) -> None:
        if self.late:
            raise self.error


@pytest.fixture
def shell(environment: Callable[..., dict[str, str]], tmp_path: Path) -> Callable[..., Any]:
    """Runs `npconv ARGUMENTS REDIRECTIONS` in a shell, in tmp_path."""

    def run(arguments: str, redirections: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
        script = f'"$0" -m npconv.cli {arguments} {redirections}'
        command = ["/bin/sh", "-c", script, sys.executable]
        return subprocess.run(command, env=environment(**env), cwd=tmp_path, capture_output=True, check=False)

    return run


# ---- Output ----
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_any_text_can_be_printed_in_any_encoding(encoding: str) -> None:
    raw = io.BytesIO()
    out = Output(io.TextIOWrapper(raw, encoding=encoding, newline=""), needed=True)
    text = "25 ± 0.5 dB, 3 × 3, Ω, \udcff.png\n"
    assert out.write(text) == len(text)
    out.flush()
    printed = raw.getvalue().decode(encoding)
    assert printed.endswith(", \\udcff.png\n")
    assert ("Ω" in printed) == (encoding == "utf-8") and ("\\u03a9" in printed) == (encoding != "utf-8")


def test_an_encoding_that_can_hold_a_name_as_bytes_gets_the_bytes() -> None:
    raw = io.BytesIO()
    out = Output(io.TextIOWrapper(raw, encoding="ascii", errors="surrogateescape", newline=""), needed=True)
    out.write("\udcc3\udca9.png\n")  # what Python makes of é in the C locale
    out.flush()
    assert raw.getvalue() == "é.png\n".encode()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("needed", [False, True])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write to stdout: No space left on device"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "Broken pipe"),
        (OSError(errno.EIO, "Input/output error"), None),
        (ValueError("I/O operation on closed file"), None),
    ],
)
def test_what_is_lost_is_an_error_of_stdout_alone_and_once(
    error: Exception, told: str | None, needed: bool, late: bool
) -> None:
    out = Output(Failing(error, late), needed)

    def printed() -> None:
        print("a line", file=out, flush=True)

    if needed and told is not None:
        with pytest.raises(type(error), match=told):
            printed()
        assert out.error is not None and isinstance(out.error, BrokenPipeError) == isinstance(error, BrokenPipeError)
    else:
        printed()
        assert out.error is None
    printed()  # nothing is written any more
    assert not out.isatty()


def test_no_stream_at_all_is_nowhere() -> None:
    out = Output(None, needed=True)
    print("a line", file=out, flush=True)
    assert not out.isatty() and out.error is None


def test_streams_are_put_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with outputs() as out:
        assert sys.stdout is out
        print("to stdout")
    assert (sys.stdout, sys.stderr) == before
    assert main(["--version"]) == 0 and (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out.startswith("to stdout\nnpconv ")


def test_control_characters_of_names_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain("a\x1b[2Jb\r\x07\x9bc\td\n") == "a\\x1b[2Jb\\x0d\\x07\\x9bc\td\n"
    assert main(["denoise", "\x1b]0;owned\x07\n.png"]) == 2
    assert "\\x1b]0;owned\\x07" in (err := capsys.readouterr().err) and "\x1b" not in err and err.count("\n") == 1


# ---- the process's own streams ----
@posix
@pytest.mark.parametrize(
    ("arguments", "redirections", "status", "out", "err"),
    [
        ("info", ">&-", 0, b"", b""),
        ("info", "<&- >&- 2>&-", 0, b"", b""),
        ("denoise none.png", "2>&-", 2, b"", b""),
        ("fly", "2>&-", 2, b"", b""),
        ("info", "| head -1 | cut -c1-6", 0, b"npconv\n", b""),
        ("train --help", "| head -1 | cut -c1-12", 0, b"usage: npcon\n", b""),
    ],
)
def test_closed_streams_and_readers_that_leave(
    shell: Any, arguments: str, redirections: str, status: int, out: bytes, err: bytes
) -> None:
    done = shell(arguments, redirections)
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("arguments", "redirections", "status", "err"),
    [
        ("info", ">/dev/full", 1, b"npconv info: error: cannot write to stdout: No space left on device\n"),
        ("--help", ">/dev/full", 1, b"npconv: error: cannot write to stdout: No space left on device\n"),
        ("train --help", ">/dev/full", 1, b"npconv: error: cannot write to stdout: No space left on device\n"),
        ("denoise none.png", "2>/dev/full", 2, b""),
        ("info none.h5", ">/dev/full 2>/dev/full", 1, b""),
    ],
)
def test_a_full_stream_is_an_error_of_one_line(
    shell: Any, arguments: str, redirections: str, status: int, err: bytes
) -> None:
    done = shell(arguments, redirections)
    assert (done.returncode, done.stderr) == (status, err)


@posix
def test_with_no_stream_open_nothing_is_printed_into_the_files_it_writes(
    shell: Any, inputs: Path, tmp_path: Path
) -> None:
    where = f"--model '{inputs}/model.h5' '{inputs}/noisy.tif' -o"
    assert shell(f"denoise {where} a.tif").returncode == 0
    assert shell(f"denoise {where} b.tif", "<&- >&- 2>&-").returncode == 0
    assert shell(f"convert '{inputs}/weights.npz' a.h5 --network strided", "<&- >&- 2>&-").returncode == 0
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert (tmp_path / "a.h5").read_bytes().startswith(b"\x89HDF\r\n\x1a\n")


# ---- terminals ----
@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets stderr be a terminal with these variables."""
    pytest.importorskip("tqdm")

    def be(**variables: str) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        for name in ("TERM", "COLUMNS", "LINES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return be


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, True),
        ({"TERM": "xterm", "COLUMNS": "100"}, True),
        ({"TERM": "dumb", "COLUMNS": "100"}, False),
        ({"COLUMNS": "1"}, False),
        ({"COLUMNS": "10"}, False),
        ({"COLUMNS": str(NARROW)}, False),
        ({"COLUMNS": str(NARROW + 1)}, True),
        ({"COLUMNS": "0"}, True),  # not known: 80
        ({"COLUMNS": "-7", "LINES": "0"}, True),
        ({"COLUMNS": "wide", "LINES": "many"}, True),
        ({"COLUMNS": "10000"}, True),
    ],
)
def test_bars_on_all_kinds_of_terminals(
    terminal: Callable[..., None], capsys: pytest.CaptureFixture[str], variables: dict[str, str], shown: bool
) -> None:
    terminal(**variables)
    with Bar("a\x1b[2J\nlabel", 3) as bar:
        for _ in range(3):
            bar.advance(1, "a note")
        bar.print("a line")
    out, err = capsys.readouterr()
    assert out.strip() == "a line" and ("a\\x1b[2J label" in err) == shown and "\x1b[2J" not in err
    width = int(variables["COLUMNS"]) if variables.get("COLUMNS", "").isdecimal() else 80
    assert all(len(part) <= max(width or 80, 21) for line in err.split("\n") for part in line.split("\r"))


def test_a_terminal_whose_size_is_not_known_has_80_columns(
    terminal: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python 3.10 says that it has 0."""
    terminal()
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((0, 0)))
    with Bar("label", 3) as bar:
        bar.advance(1)
    assert "label" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["0", "1", "10", "25", "-5", "wide", "", None])
def test_help_at_any_width(monkeypatch: pytest.MonkeyPatch, capsys: Any, columns: str | None) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    for command in ("", *COMMANDS):
        assert main([*filter(None, [command]), "--help"]) == 0
        assert f"usage: npconv {command}".strip() in " ".join(capsys.readouterr().out.split())
    assert main(["train", "--fly"]) == 2


@pytest.fixture
def pseudo_terminal() -> Iterator[tuple[int, int]]:
    pty = pytest.importorskip("pty")
    ends = pty.openpty()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def _all_of(descriptor: int) -> bytes:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except OSError:  # EIO: the other end is closed
            return b"".join(parts)
        if not part:
            return b"".join(parts)
        parts.append(part)


@posix
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 1), (24, 80)])
@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_terminal_of_any_size_without_colours(
    pseudo_terminal: tuple[int, int], environment: Any, inputs: Path, rows: int, columns: int, term: str
) -> None:
    import fcntl
    import struct
    import termios

    ours, theirs = pseudo_terminal
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = environment(TERM=term, NO_COLOR="1", COLUMNS=None, LINES=None)
    arguments = ["evaluate", str(inputs / "noisy.png"), "--noise", "gaussian:25", "--model", str(inputs / "model.h5")]
    command = [sys.executable, "-m", "npconv.cli", *arguments]
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = _all_of(ours)
        assert process.wait() == 0, shown
    assert b"mean of images' PSNRs" in shown and b"Traceback" not in shown
    assert (b"evaluating" in shown) == (term == "xterm" and columns != 1)
    assert b"\x1b[3" not in shown and b"\x1b[0m" not in shown  # no colours


@posix
def test_a_terminal_that_goes_away_does_not_end_the_work(
    pseudo_terminal: tuple[int, int], environment: Any, inputs: Path, tmp_path: Path
) -> None:
    ours, theirs = pseudo_terminal
    code = "import sys; sys.stdin.readline(); from npconv.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = [
        "denoise",
        str(inputs / "noisy.png"),
        "--model",
        str(inputs / "model.h5"),
        "-o",
        str(tmp_path / "a.png"),
    ]
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(
        command, env=environment(TERM="xterm"), stdin=subprocess.PIPE, stdout=theirs, stderr=theirs,
    ) as process:  # fmt: skip
        os.close(theirs)
        os.close(ours)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
        assert process.wait() == 0
    assert (tmp_path / "a.png").stat().st_size > 100
