"""The rows of denoisers.py: kept in a JSON file from run to run, printed as a table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Figures = dict[str, dict[str, Any]]  # "pairs" or "photographs" -> images, psnr, ssim, seconds, setting


@dataclasses.dataclass(frozen=True)
class Row:
    """What a method reached on a noise's images, and the facts of its run."""

    method: str
    noise: str
    figures: Figures
    facts: dict[str, Any]


def read_rows(path: Path | None) -> list[Row]:
    """The rows of a file; none if there is no such file."""
    if path is None or not path.exists():
        return []
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def write_rows(path: Path, rows: Sequence[Row]) -> list[Row]:
    """Write the rows, of those of one method, noise and training time the last, and return what was written."""
    kept = list({(row.noise, row.method, row.facts.get("time")): row for row in rows}.values())
    path.write_text(json.dumps([dataclasses.asdict(row) for row in kept], indent=2) + "\n", encoding="utf-8")
    return kept


def table(rows: Sequence[Row]) -> str:
    """One table a noise, best last; PSNR is the mean of the images' PSNRs."""
    lines = []
    for noise in dict.fromkeys(row.noise for row in rows):
        group = sorted((row for row in rows if row.noise == noise), key=lambda row: row.figures["pairs"]["psnr"])
        sets = [name for name in ("pairs", "photographs") if any(name in row.figures for row in group)]
        lines += ["", f"{noise}", f"{'':<14}" + "".join(f"{_title(group, name):<34}" for name in sets)]
        lines += [f"{'method':<14}" + f"{'PSNR':<11}{'SSIM':<9}{'s':<14}" * len(sets) + "setting"]
        lines += [_line(row, sets) for row in group]
    return "\n".join(lines)


def _title(rows: Sequence[Row], name: str) -> str:
    counts = {row.figures[name]["images"] for row in rows if name in row.figures}
    return f"{' or '.join(f'{count:,}' for count in sorted(counts))} {'patches' if name == 'pairs' else name}"


def _line(row: Row, sets: Sequence[str]) -> str:
    cells, settings = "", []
    for name in sets:
        figures = row.figures.get(name)
        cells += " " * 34 if figures is None else "{psnr:5.2f} dB   {ssim:.4f}   {seconds:<14.2f}".format(**figures)
        settings += [] if figures is None else [str(figures["setting"])]
    name = f"{row.method} {row.facts.get('time', '')}"  # how long it was trained
    return f"{name:<14}{cells}{'; '.join(dict.fromkeys(settings))}"
