"""Lengths of time of the command line: what they mean, and how they are shown."""

from __future__ import annotations

import pytest

from npconv.duration import in_words, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("600", 600),
        ("0.5", 0.5),
        ("1.5h", 5400),
        ("2h", 7200),
        ("1h1m1s", 3661),
        ("1h5s", 3605),
        ("90m", 5400),
        ("0h2m", 120),
    ],
)
def test_what_a_text_means(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
    assert seconds_of(in_words(seconds)) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "m", "ten", "10 m", "1h30", "30m1h", "-5", "-5m", "1e3", "nan", "10M", "1..5", "5m5m", "\u0663m"],
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="must be a time such as 90s, 10m, 1h30m, or a number of seconds"):
        seconds_of(text)


@pytest.mark.parametrize("text", ["0", "0s", "0h0m", "9" * 400 + "h"])
def test_times_out_of_range(text: str) -> None:
    with pytest.raises(ValueError, match="must be longer than 0 and finite"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(90, "1m30s"), (600, "10m"), (5400, "1h30m"), (0.5, "0.5s"), (3600, "1h"), (59.96, "1m"), (0.01, "0.01s")],
)
def test_how_it_is_shown(seconds: float, text: str) -> None:
    assert in_words(seconds) == text
