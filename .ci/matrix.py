#!/usr/bin/env python3
"""The tests on every combination of Python and NumPy: a fresh virtual environment each, and a table at the end.

    python .ci/matrix.py                                   everything: five to ten minutes a combination
    python .ci/matrix.py --python 3.12 --numpy newest      some of it
    python .ci/matrix.py --pairs 3.10+1.26 3.13+newest     the same, pair by pair
    python .ci/matrix.py --tests tests/layers tests/cli    some of the tests
    python .ci/matrix.py --pieces                          folder by folder, a line of a table each
    python .ci/matrix.py --environments DIR                in environments that are there already, as they are
    python .ci/matrix.py --list                            which combinations there would be, and with which Pythons

Each environment is made as the README says, `pip install -e ".[test]"`, with NumPy pinned beside it. "lowest" pins
every dependency to the lowest version that setup.cfg allows. A combination that fails does not end the run; the exit
status is 1 if any failed, or if none could be run. A Python that is not on this machine, and a NumPy that has no wheel
for a Python, are in the table as such, and are no failures; what was skipped is listed by reason. Only the standard
library is needed; Python 3.10 to 3.13.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEWEST, LOWEST = "newest", "lowest"

# Of each Python the series of NumPy to try. For 3.10 the newest is of 2.2; 3.13 has wheels from 2.1 on; "lowest" is
# for those Pythons that all the lowest versions have wheels for.
SERIES = {
    "3.10": (LOWEST, "1.26", "2.0", NEWEST),
    "3.11": (LOWEST, "1.26", "2.0", "2.2", NEWEST),
    "3.12": ("1.26", "2.0", "2.2", NEWEST),
    "3.13": ("1.26", "2.1", "2.2", NEWEST),
}
PASSED, FAILED, NOT_HERE, NO_WHEEL, SAME = "passed", "FAILED", "no such Python here", "no wheel", "the same again"
NO_ENVIRONMENT = "no such environment"
NO_VERSION = ("No matching distribution found", "Could not find a version that satisfies")  # pip's words
COUNTS = ("passed", "failed", "error", "skipped")


@dataclass
class Outcome:
    """What became of one combination; `python` and `numpy` are what was asked for, `versions` what was there."""

    python: str
    numpy: str
    result: str = FAILED
    why: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    pieces: dict[str, str] = field(default_factory=dict)  # what pytest said of each
    skipped: dict[str, int] = field(default_factory=dict)  # by reason
    seconds: float = 0.0

    @property
    def pair(self) -> str:
        return f"{self.python}+{self.numpy}"


# ---- what to run ----
def combinations(pythons: Sequence[str] | None, series: Sequence[str] | None) -> list[tuple[str, str]]:
    """The (Python, NumPy) pairs of SERIES that are wanted; a series that is named is tried on every Python."""
    chosen = list(SERIES) if pythons is None else list(pythons)
    return [(python, numpy) for python in chosen for numpy in (series or SERIES.get(python, (NEWEST,)))]


def pair(text: str) -> tuple[str, str]:
    """ "3.12+newest" -> ("3.12", "newest")."""
    python, plus, numpy = text.partition("+")
    if not (plus and re.fullmatch(r"3\.\d+", python) and re.fullmatch(rf"{NEWEST}|{LOWEST}|\d+\.\d+", numpy)):
        raise argparse.ArgumentTypeError(f"{text!r} must be a Python and a NumPy, such as 3.12+newest or 3.10+1.26")
    return python, numpy


def pieces(tests: Sequence[str], apart: bool, root: Path = ROOT) -> dict[str, list[str]]:
    """What pytest is given, by name: all of `tests` at once, or each apart (without any, each folder); patterns too."""
    if not apart:
        return {" ".join(tests) or "tests": [path for test in tests for path in expanded(test, root)]}
    folders = sorted({path.parent.relative_to(root).as_posix() for path in root.glob("tests/*/test_*.py")})
    return {name: expanded(name, root) for name in tests or [*folders, "tests/test_*.py"]}


def expanded(pattern: str, root: Path = ROOT) -> list[str]:
    """The files that patterns fit, a space between them; what fits none stays as it is, for pytest to name."""
    found: list[str] = []
    for part in pattern.split():
        fitting = root.glob(part) if set(part) & set("*?[") else []
        found += sorted(path.relative_to(root).as_posix() for path in fitting) or [part]
    return found


def find_python(version: str) -> str | None:
    """The program of Python `version` ("3.12"): this one, of the path, or of pyenv's folder; None if there is none."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = sorted(pyenv.glob(f"{version}.*/bin/python"), key=lambda path: _numbers(path.parts[-3]))
    candidates = [shutil.which(f"python{version}"), *map(str, reversed(found))]
    return next((path for path in candidates if path and _says(path, version)), None)


def _says(program: str, version: str) -> bool:
    """Whether it starts, and is of that version: pyenv's stand-ins on the path may do neither."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([program, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == version


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def requirements(numpy: str, setup: Path = ROOT / "setup.cfg") -> list[str]:
    """What pip is told besides the project itself: the NumPy of a series, or all of the lowest versions."""
    if numpy == NEWEST:
        return ["numpy"]
    if numpy != LOWEST:
        return [f"numpy=={numpy}.*"]
    config = configparser.ConfigParser()
    config.read(setup, encoding="utf-8")
    stated = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    lowest = [line.replace(">=", "==") for line in stated.split() if ">=" in line]
    return [*lowest, "pyparsing<3.3"]  # later ones warn of what the lowest matplotlib calls, and warnings are errors


# ---- running it ----
def run(python: str, numpy: str, options: argparse.Namespace, seen: dict[tuple[str, str], str]) -> Outcome:
    """Make the environment, install, test. `seen`: which series a (Python, NumPy) was run for already."""
    outcome, started = Outcome(python, numpy), time.monotonic()
    name = f"python{python}-numpy-{numpy}"
    folder, log = (options.environments or options.work) / name, options.work / f"{name}.log"
    try:
        _prepare(folder, log, options, outcome)
        if outcome.result in (NOT_HERE, NO_WHEEL, NO_ENVIRONMENT) or not outcome.versions:
            return outcome
        key = python, outcome.versions["numpy"]
        if key in seen and numpy != LOWEST:
            outcome.result, outcome.why = SAME, f"NumPy {key[1]}, as {seen[key]}"
            return outcome
        seen.setdefault(key, numpy)
        _test(folder, options, log, outcome)
    finally:
        outcome.seconds = time.monotonic() - started
        if not options.keep and options.environments is None:
            shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _prepare(folder: Path, log: Path, options: argparse.Namespace, outcome: Outcome) -> None:
    """An environment, made or found: with its versions if it can be used, or with why not."""
    if options.environments is not None:
        if not Path(_program(folder)).exists():
            outcome.result, outcome.why = NO_ENVIRONMENT, str(folder)
            return
        _ask_versions(folder, log, outcome)
        found = outcome.versions
        right = not found or (
            _numbers(found["python"])[:2] == _numbers(outcome.python)
            and (outcome.numpy in (NEWEST, LOWEST) or _numbers(found["numpy"])[:2] == _numbers(outcome.numpy))
        )
        if not right:
            outcome.versions, outcome.why = {}, f"{folder} has Python {found['python']} and NumPy {found['numpy']}"
        return
    program = find_python(outcome.python)
    if program is None:
        outcome.result = NOT_HERE
        return
    _make(program, folder, outcome.numpy, log, outcome)


def laid_out(work: Path) -> Path:
    """A folder for PYTHONPATH with npconv as it is installed: an environment that is used as it is need not have it."""
    place = work / "npconv-laid-out"
    if not place.exists():
        shutil.copytree(ROOT / "npconv", place / "npconv", ignore=shutil.ignore_patterns("__pycache__", "backends"))
        shutil.copytree(ROOT / "backends", place / "npconv/backends", ignore=shutil.ignore_patterns("__pycache__"))
    return place


def _make(program: str, folder: Path, numpy: str, log: Path, outcome: Outcome) -> None:
    """A fresh environment with the project in it, as the README says."""
    if not (folder / "pyvenv.cfg").is_file():
        status, text = _logged([program, "-m", "venv", str(folder)], log, None)
        if status:
            outcome.why = f"no environment: {_last(text)}"
            return
    # Of NumPy wheels alone: whether its sources can be built here says nothing about npconv.
    pip = [_program(folder), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    status, text = _logged([*pip, "--only-binary=numpy", "-e", ".[test]", *requirements(numpy)], log, None)
    if status:
        wheel = any(words in text for words in NO_VERSION)
        outcome.result, outcome.why = (NO_WHEEL if wheel else FAILED), _last(text)
        return
    _ask_versions(folder, log, outcome)


def _ask_versions(folder: Path, log: Path, outcome: Outcome) -> None:
    code = (
        "import json, platform, importlib.metadata as m; print(json.dumps({'python': platform.python_version(), "
        "**{n: m.version(n) for n in ('numpy', 'h5py', 'pillow', 'matplotlib')}}))"
    )
    status, text = _logged([_program(folder), "-c", code], log, None)
    if status:
        outcome.why = _last(text)
    else:
        outcome.versions = json.loads(text.splitlines()[-1])


def _test(folder: Path, options: argparse.Namespace, log: Path, outcome: Outcome) -> None:
    """All pieces, though one fails; the first that did is why."""
    places = {} if options.environments is None else {"PYTHONPATH": str(laid_out(options.work))}
    total: Counter[str] = Counter()
    outcome.result = PASSED
    for name, tests in pieces(options.tests, options.pieces).items():
        command = [*options.through, _program(folder), "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", *tests]
        status, text = _logged(command, log, options.limit, **places)
        found = counts(text)
        total.update(found)
        outcome.pieces[name] = (
            ", ".join(f"{number} {kind}" for kind, number in found.items()) or f"{_last(text)}, status {status}"
        )
        for number, reason in re.findall(r"^SKIPPED \[(\d+)\] \S+: (.*)$", text, re.MULTILINE):
            outcome.skipped[reason] = outcome.skipped.get(reason, 0) + int(number)
        # 5: no tests, as where all files of a folder need what this NumPy does not have.
        if status == 5 and options.pieces and not set(found) - {"skipped"}:
            continue
        if status or not found.get("passed"):
            failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
            more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            why = f"{failed[0]}{more}; {log}" if failed else f"{_last(text)}; {log}"
            outcome.why = outcome.why or why
            outcome.result = FAILED
    outcome.counts = {kind: total[kind] for kind in COUNTS if kind in total}
    if not total.get("passed"):
        outcome.result = FAILED


def _program(folder: Path) -> str:
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def _logged(command: list[str], log: Path, limit: float | None, **variables: str) -> tuple[int, str]:
    """Run a command in the project's folder; its exit status and all it printed, which goes into the log too."""
    # Nothing of the caller's environment may reach the tests: another npconv on PYTHONPATH, say.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NPCONV_"))}
    clean.update(variables)
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=clean, timeout=limit, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                encoding="utf-8", errors="replace", check=False,
            )  # fmt: skip
            status, text = done.returncode, done.stdout
        except subprocess.TimeoutExpired as error:
            printed = error.stdout or b""
            text = printed if isinstance(printed, str) else printed.decode("utf-8", "replace")
            status, text = 124, f"{text}\nended after {limit:g} s\n"
        file.write(text)
    return status, text


def counts(text: str) -> dict[str, int]:
    """How many tests passed, failed ... by the last line that pytest printed with such figures."""
    for line in reversed(text.splitlines()):
        found = {kind: int(n) for n, kind in re.findall(r"(\d+) (passed|failed|errors?|skipped)", line)}
        if found:
            return {kind.removesuffix("s") if kind == "errors" else kind: n for kind, n in found.items()}
    return {}


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "nothing was printed"


# ---- what came out ----
def table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table, a line a combination."""
    lines = [
        "| Python | NumPy | h5py | result | passed | failed | skipped | minutes | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        numbers = [str(o.counts[kind]) if kind in o.counts else "" for kind in ("passed", "failed", "skipped")]
        if "error" in o.counts:
            numbers[1] = f"{o.counts.get('failed', 0)} + {o.counts['error']} errors"
        numpy = f"{o.versions.get('numpy', '')} ({o.numpy})".strip()
        cells = [o.versions.get("python", o.python), numpy, o.versions.get("h5py", ""), o.result, *numbers]
        lines.append("| " + " | ".join([*cells, f"{o.seconds / 60:.1f}" if o.seconds else "", o.why]) + " |")
    return "\n".join(lines)


def by_piece(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table of what pytest said, a line a piece, a column a pair that was run."""
    ran = [o for o in outcomes if o.pieces]
    lines = [f"| tests | {' | '.join(o.pair for o in ran)} |", "|---" * (len(ran) + 1) + "|"]
    for name in dict.fromkeys(name for o in ran for name in o.pieces):
        lines.append(f"| {name} | {' | '.join(o.pieces.get(name, '') for o in ran)} |")
    return "\n".join(lines)


def skips(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table of how many tests were skipped for which reason, a column a pair; empty if none was."""
    ran = [o for o in outcomes if o.skipped]
    lines = [f"| skipped because | {' | '.join(o.pair for o in ran)} |", "|---" * (len(ran) + 1) + "|"]
    for reason in dict.fromkeys(reason for o in ran for reason in o.skipped):
        numbers = [str(o.skipped.get(reason, "")) for o in ran]
        lines.append(f"| {reason.replace('|', '/')} | {' | '.join(numbers)} |")
    return "\n".join(lines) if ran else ""


def exit_status(outcomes: Sequence[Outcome]) -> int:
    """0 if something ran and nothing failed."""
    results = [outcome.result for outcome in outcomes]
    return 0 if PASSED in results and FAILED not in results else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The tests on every combination of Python and NumPy.")
    parser.add_argument("--python", nargs="+", metavar="X.Y", help=f"({' '.join(SERIES)})")
    parser.add_argument("--numpy", nargs="+", metavar="SERIES", help="such as 1.26 2.2 newest lowest (by the Python)")
    parser.add_argument("--pairs", nargs="+", type=pair, metavar="X.Y+SERIES", help="in place of --python and --numpy")
    parser.add_argument("--tests", nargs="+", default=[], metavar="PATH", help="files, folders or patterns (all)")
    parser.add_argument(
        "--pieces", action="store_true", help="each of --tests ('one' or 'one two') by itself; or each folder"
    )
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="for one run of pytest (none)")
    parser.add_argument("--through", type=shlex.split, default=[], metavar="COMMAND", help="such as 'nice -n 19'")
    parser.add_argument("--environments", type=Path, metavar="DIR", help="made already, as those in --work are called")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for environments and logs (a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="leave the environments in --work, and use those there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes to this file too")
    parser.add_argument("--list", action="store_true", help="print the combinations, and run nothing")
    options = parser.parse_args(argv)
    if options.keep and options.work is None:
        parser.error("--keep needs --work DIR")
    if options.pairs and (options.python or options.numpy):
        parser.error("--pairs goes without --python and --numpy")
    if options.environments is not None:
        options.environments = options.environments.resolve()
    chosen = options.pairs or combinations(options.python, options.numpy)
    if options.list:
        for python, numpy in chosen:
            print(
                f"Python {python} ({find_python(python) or NOT_HERE}), NumPy {numpy}: {' '.join(requirements(numpy))}"
            )
        return 0
    temporary = options.work is None
    options.work = Path(tempfile.mkdtemp()) if temporary else options.work.resolve()
    options.work.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    seen: dict[tuple[str, str], str] = {}
    try:
        for python, numpy in chosen:
            print(f"Python {python}, NumPy {numpy} ...", flush=True)
            outcomes.append(run(python, numpy, options, seen))
            print(f"  {outcomes[-1].result} {outcomes[-1].why}", flush=True)
    except KeyboardInterrupt:
        print("interrupted; so far:")
        return 130
    finally:
        print(table(outcomes))
        print("", *filter(None, [by_piece(outcomes) if options.pieces else "", skips(outcomes)]), sep="\n\n")
        if options.json is not None:
            options.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=2) + "\n", encoding="utf-8")
        if temporary and exit_status(outcomes) == 0:  # the logs of what failed stay
            shutil.rmtree(options.work, ignore_errors=True)
    return exit_status(outcomes)


if __name__ == "__main__":
    sys.exit(main())
