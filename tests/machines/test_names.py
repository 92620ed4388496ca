"""Files and folders of any name, locales that are not UTF-8, and odd places to work in and to be installed in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npconv
from npconv import backends, data
from npconv.cli import main

pytestmark = pytest.mark.cpu

Job = Callable[..., dict[str, Any]]
LONGEST = 255 - len(".safetensors")  # bytes of a name, without the longest of its endings

NAMES = {
    "spaces": "two  words ",
    "umlauts": "Größe é ± × 図",
    "quotes": 'it\'s "quoted" `here` $HOME',
    "newline": "two\nlines\tand a tab",
    "dash": "-o",
    "escapes": "\x1b[31mred\x07",
    "format": "%s {0} {name}",
    "glob": "*[a-z]?",
    "dots": "..a..b",
    "long": "x" * LONGEST,
    "bytes": os.fsdecode(b"\xff\xfe latin-1: \xe9"),
}
if os.name == "nt":  # names that Windows has
    NAMES = {key: NAMES[key] for key in ("spaces", "umlauts", "dash", "format", "dots", "long")}


@pytest.fixture
def name(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A name that this file system takes, of a folder that is there."""
    try:
        (tmp_path / NAMES[request.param]).mkdir()
    except (OSError, UnicodeError):
        pytest.skip("no name of a file here")
    return NAMES[request.param]


def failed(result: dict[str, Any]) -> list[str]:
    """The commands that did not end with 0, but for want of a package."""
    commands = {name: value for name, value in result.items() if isinstance(value, dict) and "status" in value}
    return [name for name, value in commands.items() if value["status"] and "pip install" not in value["err"]]


def only_line(text: str) -> str:
    """Of a stream: nothing but one line."""
    assert text.count("\n") == 1 and text.endswith("\n"), text
    return text[:-1]


@pytest.mark.parametrize("name", NAMES, indirect=True)
def test_inputs_outputs_and_folders_of_any_name(
    name: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path / name)
    here = Path()
    for file in ("model.h5", "weights.npz"):
        shutil.copy(inputs / file, here / f"{name}{Path(file).suffix}")
    assert main(["denoise", str(inputs / "noisy.npy"), "--model", str(inputs / "model.h5"), "-o", "expected.npy"]) == 0
    expected = np.load("expected.npy")
    capsys.readouterr()
    for ending in ("npy", "tif", "png"):
        shutil.copy(inputs / f"noisy.{ending}", f"{name}.{ending}")
        # Joined to its option or after "--", a name may begin with a dash.
        arguments = ["denoise", f"--model={name}.h5", f"--output={name}/", "--", f"{name}.{ending}"]
        assert main(arguments) == 0, capsys.readouterr().err
        np.testing.assert_array_equal(data.read_image(here / name / f"{name}.{ending}"), expected)
        out, err = capsys.readouterr()
        assert err == "" and "\x1b" not in out
        assert main(arguments) == 2  # it is there now
        assert "exists already" in only_line(capsys.readouterr().err)
    evaluated = ["evaluate", "--noise=gaussian:25", f"--model={name}.h5", f"--csv={name}.csv", "--", f"{name}.png"]
    assert main(evaluated) == 0, capsys.readouterr().err
    assert "psnr_noisy" in Path(f"{name}.csv").read_text(encoding="utf-8")
    for made in ("npz", "safetensors"):
        assert main(["convert", "--overwrite", "--", f"{name}.h5", f"{name}.{made}"]) == 0, capsys.readouterr().err
    assert main(["convert", "--network=strided", "--overwrite", "--", f"{name}.safetensors", f"{name}.h5"]) == 0
    assert main(["info", "--", f"{name}.h5"]) == 0
    capsys.readouterr()
    assert main(["info", "--", f"{name}-none.h5"]) == 1  # for the longest name: too long
    assert only_line(capsys.readouterr().err).startswith("npconv info: error: ")
    left = [path for path in here.rglob("*") if ".part" in path.name]
    assert left == []


@pytest.mark.parametrize("name", [key for key in ("umlauts", "newline", "bytes") if key in NAMES], indirect=True)
def test_training_into_and_from_folders_of_any_name(
    name: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, blank_pictures: None
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(inputs / "photos", tmp_path / name / "photos")
    (tmp_path / name / "photos/0.png").rename(tmp_path / name / f"photos/{name}.png")
    small = ["--network=strided", "--channels=4", "--patches=4", "--validation-pairs=2", "--epochs=1",
             "--patch-size=16", "--batch-size=4", "--noise=gaussian:25"]  # fmt: skip
    assert main(["train", f"--data={name}/photos", *small, f"--output={name}/run"]) == 0, capsys.readouterr().err
    written = {path.name for path in (tmp_path / name / "run").iterdir()}
    assert {"model.h5", "history.csv", "curves.png", "examples.png", "options.json"} <= written
    assert not any(".part" in file for file in written)


# ---- locales ----
LOCALES = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1", "LANG": "de_DE.ISO-8859-1", "LC_ALL": None},
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such locales")
@pytest.mark.parametrize("locale", LOCALES)
def test_a_locale_that_is_not_utf_8(
    locale: str, environment: Callable[..., dict[str, str]], inputs: Path, tmp_path: Path
) -> None:
    """The same files, and names printed as they are or as escapes, where the output cannot hold them."""
    if not (sys.prefix + np.__file__).isascii() and locale != "latin-1":
        pytest.skip("NumPy itself is not found by its name then")
    folder = tmp_path / "Größe ± ×"
    folder.mkdir()
    shutil.copy(inputs / "noisy.png", folder / "é Ω.png")
    shutil.copy(inputs / "model.h5", folder / "Modell ü.h5")
    code = (
        "import sys; from npconv.cli import main; m = '--model=' + sys.argv[1]; o = sys.argv[3]\n"
        "assert main(['denoise', m, '-o', o, sys.argv[2]]) == 0\n"
        "assert main(['evaluate', '--noise', 'gaussian:25', m, sys.argv[2], '--csv', o + '.csv']) == 0\n"
        "assert main(['denoise', m, sys.argv[2] + 'none.png']) == 2\n"
        "assert main(['info', sys.argv[1]]) == 0 and main(['train', '--help']) == 0\n"
    )
    names = [str(folder / "Modell ü.h5"), str(folder / "é Ω.png"), str(folder / "größer.png")]
    command = [sys.executable, "-c", code, *names]
    done = subprocess.run(command, env=environment(**LOCALES[locale]), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "backslashreplace")
    assert done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"npconv denoise: error: there is no image file")
    assert b"psnr_noisy" in (folder / "größer.png.csv").read_bytes()
    usual = folder / "usual.png"
    assert main(["denoise", "--model", names[0], "-o", str(usual), names[1]]) == 0
    np.testing.assert_array_equal(data.read_image(folder / "größer.png"), data.read_image(usual))


# ---- places ----
def laid_out(folder: Path) -> Path:
    """A copy of npconv as it is installed, in a folder."""
    ignored = shutil.ignore_patterns("__pycache__", "backends")
    shutil.copytree(Path(npconv.__file__).parent, folder / "npconv", ignore=ignored)
    shutil.copytree(
        Path(backends.__file__).parent, folder / "npconv/backends", ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


WATCH = """
import os, sys
def watch(event, arguments):
    written = []
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        mode, flags = arguments[1], arguments[2] or 0
        if (mode and set(mode) & set("wax+")) or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written = [arguments[0]]
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        written = arguments[:2] if event == "os.rename" else arguments[:1]
    for path in written:
        if isinstance(path, (str, bytes)) and os.fsdecode(path).startswith(PLACE):
            print("WRITTEN", path, file=sys.stderr)
sys.addaudithook(watch)
"""


def test_installed_in_a_folder_with_umlauts_that_may_not_be_written_to(
    whole_job: Job, usual: dict[str, Any], tmp_path: Path
) -> None:
    """Nothing is written where npconv is installed, or to HOME; TMPDIR may have any name."""
    place, out = laid_out(tmp_path / "Installiert für alle/lib 3"), tmp_path / "out"
    out.mkdir()
    (tmp_path / "tmp ü").mkdir()
    code = f"PLACE = {str(place)!r}\n{WATCH}\nimport npconv; assert npconv.__file__.startswith(PLACE)"
    variables = {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(tmp_path / "tmp ü")}
    result = whole_job(code, outputs=out, **variables)
    assert "WRITTEN" not in result["stderr"]
    assert result["computed"] == usual["computed"]
    assert failed(result) == []
    assert list((tmp_path / "tmp ü").iterdir()) == []


def test_without_a_home(whole_job: Job, usual: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file/home")  # not to be made, not even by root
    result = whole_job(HOME=nowhere, XDG_CONFIG_HOME=nowhere, XDG_CACHE_HOME=nowhere, MPLCONFIGDIR=None, draws=True)
    assert result["computed"] == usual["computed"] and result["train"]["status"] == 0
    assert whole_job(HOME=None, commands=False)["computed"] == usual["computed"]


def test_from_a_zip_file(usual: dict[str, Any], whole_job: Job, tmp_path: Path) -> None:
    place = laid_out(tmp_path / "there")
    archive = tmp_path / "npconv ü.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in place.rglob("*"):
            file.write(path, path.relative_to(place))
    (tmp_path / "out").mkdir()
    code = f"import npconv; assert npconv.__file__.startswith({str(archive)!r})"
    result = whole_job(code, outputs=tmp_path / "out", PYTHONPATH=str(archive))
    assert result["computed"] == usual["computed"]
    assert failed(result) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a folder that is worked in")
def test_a_current_folder_that_is_gone(
    environment: Callable[..., dict[str, str]], inputs: Path, tmp_path: Path
) -> None:
    """Files named from the root are read and written; others are not there, which is one line."""
    gone = tmp_path / "gone"
    code = (
        "import os, sys; os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])\n"
        "from npconv.cli import main; model, noisy, photos, o = sys.argv[2:]\n"
        "print([main(a) for a in (['info'], ['denoise', '--model', model, noisy, '-o', o],\n"
        "  ['denoise', '--model', model, noisy, '-o', 'here.png'], ['denoise', 'noisy.png'], ['info', 'model.h5'],\n"
        "  ['train', '--data', photos, '--epochs', '1', '-o', 'run'])])"
    )
    arguments = [gone, inputs / "model.h5", inputs / "noisy.png", inputs / "photos", tmp_path / "a.png"]
    # Without -P, Python 3.13.0 answers a SystemError to who asks a module for a name that it does not have: NumPy does.
    flags = ["-P"] if sys.version_info[:2] == (3, 13) else []
    command = [sys.executable, *flags, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[0, 0, 1, 2, 1, 2]", done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 4 and "Traceback" not in done.stderr
    assert all(lines[i].endswith(" (the current folder is gone)") for i in (1, 3))
    assert (tmp_path / "a.png").stat().st_size > 100
