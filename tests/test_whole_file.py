"""Whole files on Windows, where others hold a new file for a moment, and on macOS, where fsync is not enough."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from npconv import whole_file as files
from npconv.whole_file import whole_file


class Windows:
    """Refuses `os.replace`, or the opening of parts, for a while; its clock is that of `time.sleep`."""

    def __init__(self, patch: pytest.MonkeyPatch, call: str, seconds: float, number: int = errno.EACCES) -> None:
        self.clock, self.tries = 0.0, 0
        original = os.replace if call == "replace" else open

        def refused(*arguments: Any, **options: Any) -> Any:
            self.tries += 1
            if self.clock < seconds:
                raise OSError(number, "the file is being used by another process")
            return original(*arguments, **options)

        def sleep(wait: float) -> None:
            self.clock += wait

        patch.setattr(files, "_WINDOWS", True)
        patch.setattr(files, "time", SimpleNamespace(sleep=sleep))
        if call == "replace":
            patch.setattr(os, "replace", refused)
        else:
            patch.setattr(files, "open", refused, raising=False)


def write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text)


@pytest.mark.parametrize("call", ["replace", "open"])
def test_what_windows_refuses_for_a_moment_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    windows = Windows(monkeypatch, call, 1.0)
    write(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new" and 1 <= windows.clock < 2 and windows.tries == 8


@pytest.mark.parametrize("call", ["replace", "open"])
def test_what_windows_refuses_for_long_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    (tmp_path / "a").write_text("old")
    windows = Windows(monkeypatch, call, 60)
    with pytest.raises(PermissionError, match="used by another process"):
        write(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old" and list(tmp_path.iterdir()) == [tmp_path / "a"]
    assert 2 <= windows.clock < 3 and windows.tries == 9


def test_other_errors_and_systems_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Windows(monkeypatch, "replace", 1, errno.ENOSPC)
    with pytest.raises(OSError, match="another process"):
        write(tmp_path / "a", "new")
    forbidden = Windows(monkeypatch, "replace", 1)
    monkeypatch.setattr(files, "_WINDOWS", False)
    with pytest.raises(PermissionError):
        write(tmp_path / "a", "new")
    assert (full.tries, full.clock, forbidden.tries, forbidden.clock) == (1, 0, 1, 0)


@pytest.mark.parametrize("has_it", [True, False])
def test_macos_is_asked_to_empty_the_cache_of_its_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_it: bool
) -> None:
    """Before the name points to the file; where a file system does not know that, fsync is."""
    done: list[str] = []

    def control(handle: int, command: int) -> int:
        assert command == 51 and os.fstat(handle)
        done.append("full" if has_it else "refused")
        if not has_it:
            raise OSError(errno.ENOTSUP, "Operation not supported")
        return 0

    replace = os.replace
    monkeypatch.setattr(files, "fcntl", SimpleNamespace(F_FULLFSYNC=51, fcntl=control))
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("replace") or replace(*names))
    write(tmp_path / "a", "new")
    once = ["full"] if has_it else ["refused", "fsync"]
    assert done == [*once, "replace", *(once if os.name == "posix" else [])]


@pytest.mark.parametrize("module", [None, SimpleNamespace()])
def test_elsewhere_it_is_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    done: list[int] = []
    monkeypatch.setattr(files, "fcntl", module)
    monkeypatch.setattr(os, "fsync", done.append)
    write(tmp_path / "a", "new")
    assert len(done) == (2 if os.name == "posix" else 1)
