"""Lengths of time as they are written in options: 90s, 10m, 1h30m."""

from __future__ import annotations

import math
import re

RULE = "must be a time such as 90s, 10m, 1h30m, or a number of seconds"
_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile(f"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?", re.ASCII)


def seconds_of(text: str) -> float:
    """The seconds that `text` stands for; ValueError if it is no length of time, or not longer than 0."""
    if re.fullmatch(_NUMBER, text, re.ASCII):
        seconds = float(text)
    else:
        parts = _DURATION.fullmatch(text)
        if parts is None or not text:
            raise ValueError(f"{text!r} {RULE}")
        seconds = sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True))
    if not 0 < seconds < math.inf:
        raise ValueError(f"{text!r} must be longer than 0 and finite")
    return seconds


def in_words(seconds: float) -> str:
    """The shortest of the texts that mean so many seconds, to a tenth of one."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{round(rest, 1):g}s" if rest else ""]
    return "".join(parts) or f"{seconds:g}s"
