"""What a run shows: progress bars on stderr where that is a terminal, lines on stdout, or nothing."""

from __future__ import annotations

import os
import shutil
import sys
from time import perf_counter as now
from types import TracebackType
from typing import Any

from .streams import plain

NARROW = 20  # columns, below which there is no room for a bar

# The note stands before the bar: in a narrow terminal the end is what is cut off.
FORMAT = "{desc}{postfix} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]"
TIME_FORMAT = "{desc}{postfix} {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"


class Bar:
    """A progress bar by tqdm; nothing where stderr is no terminal or a dumb or narrow one, tqdm is not installed, or
    `shown` is false.
    """

    form = FORMAT

    def __init__(self, label: str, total: float, shown: bool = True) -> None:
        self._bar: Any = None
        # tqdm alone shows nothing where the size is unknown; Python 3.10 gives 0 for it.
        width, height = (found or usual for found, usual in zip(shutil.get_terminal_size(), (80, 24), strict=True))
        if shown and sys.stderr.isatty() and width > NARROW and os.environ.get("TERM") != "dumb":
            try:
                from tqdm import tqdm
            except ImportError:
                return
            label = " ".join(plain(label).split())  # a file's name may have line breaks
            shape = {"ncols": width - 1, "nrows": height, "bar_format": self.form}
            self._bar = tqdm(desc=label, total=total, leave=False, file=sys.stderr, **shape)

    def advance(self, count: float = 1, note: str = "") -> None:
        """`count` further; `note` stands before the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)

    def print(self, text: str) -> None:
        """A line on stdout, above the bar."""
        if self._bar is not None:
            self._bar.write(plain(text), file=sys.stdout)
        else:
            show(text)

    def close(self) -> None:
        """Wipe the bar off the screen."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TimeBar(Bar):
    """A bar for work that lasts `seconds`, from `started` on by `time.perf_counter`: it goes on with the clock."""

    form = TIME_FORMAT

    def __init__(self, label: str, seconds: float, started: float, shown: bool = True) -> None:
        super().__init__(label, seconds, shown)
        self._seconds, self._started, self._shown_up_to = seconds, started, 0.0

    def advance(self, count: float = 1, note: str = "") -> None:
        """To where the clock is, whatever the count; `note` stands before the bar."""
        passed = min(self._seconds, now() - self._started)
        super().advance(passed - self._shown_up_to, note)
        self._shown_up_to = passed


def show(text: str, shown: bool = True) -> None:
    """A line on stdout at once, also where stdout is a file."""
    if shown:
        print(plain(text), flush=True)


def facts(rows: dict[str, str]) -> str:
    """Names and what they are, one a line, in two columns."""
    width = max(len(name) for name in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items())
