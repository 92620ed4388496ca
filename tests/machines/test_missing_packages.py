"""npconv without some of its packages: it trains and predicts, and says what to install when it needs one."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import npconv
from npconv import extras

pytestmark = pytest.mark.cpu

Job = Callable[..., dict[str, Any]]

H5PY = "HDF5 files, npconv's models among them, need h5py: pip install h5py"
PIL = 'PNG and JPEG files need pillow: pip install "npconv[app]"'
TIFFFILE = 'TIFF files need tifffile: pip install "npconv[app]"'
MATPLOTLIB = 'pictures need matplotlib: pip install "npconv[app]"'
ONNX = 'ONNX files need onnx: pip install "npconv[onnx]"'
BLAS = "npconv shares the cores with NumPy's BLAS by means of threadpoolctl"

# What each command that fails without a package says, and its exit status: 2 if it is known before the work begins.
WITHOUT: dict[str, dict[str, tuple[int, str]]] = {
    "h5py": {
        "info FILE": (1, H5PY),
        "train": (2, H5PY),
        "denoise png": (2, H5PY),
        "denoise tif": (2, H5PY),
        "denoise npy": (2, H5PY),
        "evaluate": (2, H5PY),
        "npz to h5": (2, H5PY),
        "h5 to npz": (2, H5PY),
        "h5 to onnx": (2, H5PY),
    },
    "PIL": {
        "train": (2, "pictures need matplotlib, which cannot be imported (import of PIL "),
        "denoise png": (1, PIL),
        "evaluate": (1, PIL),
    },
    "tifffile": {"denoise tif": (1, TIFFFILE)},
    "matplotlib": {"train": (2, MATPLOTLIB)},
    "onnx": {"h5 to onnx": (2, ONNX)},
    "tqdm": {},
    "cupy": {},
}
ALL = [*WITHOUT, "threadpoolctl"]
APP = ("PIL", "tifffile", "tqdm", "matplotlib")  # of the extra `app`


def block(*names: str) -> str:
    """Code after which these packages cannot be imported."""
    return f"import sys; sys.modules.update(dict.fromkeys({names!r}))"


def told(result: dict[str, Any]) -> dict[str, tuple[int, str]]:
    """The commands that failed: exit status, and what stands after "error: " on the one line of stderr."""
    found = {}
    for name, command in result.items():
        if isinstance(command, dict) and command.get("status"):
            line, nothing = command["err"].split("\n")
            assert nothing == "" and line.startswith(f"npconv {name.split()[0] if 'to' not in name else 'convert'}")
            found[name] = command["status"], line.partition("error: ")[2]
    return found


# Together those that no other needs, and of which no command needs two: the message tells which one is missed.
TOGETHER = [("h5py",), ("PIL",), ("matplotlib",), ("tifffile", "onnx", "tqdm", "cupy")]


@pytest.mark.parametrize("packages", TOGETHER, ids=" ".join)
def test_only_what_needs_a_package_fails_without_it(
    packages: tuple[str, ...], whole_job: Job, usual: dict[str, Any]
) -> None:
    result = whole_job(block(*packages))
    assert result["computed"] == usual["computed"] and result["computed"]["processes"] is (sys.platform == "linux")
    expected = {name: said for package in packages for name, said in WITHOUT[package].items()}
    if importlib.util.find_spec("onnx") is None:  # which is missed before h5py is
        expected["h5 to onnx"] = 2, ONNX
    found = told(result)
    assert set(found) == set(expected)
    for name, (status, message) in expected.items():
        assert found[name][0] == status and message in found[name][1]
    info = result["info"]["out"]
    missing = [{"PIL": "pillow"}.get(name, name) for name in APP if name in packages]
    assert not missing or f'missing: {", ".join(missing)}; pip install "npconv[app]"' in info
    if "h5py" in packages:
        assert f"no h5py ({H5PY})" in info
    if "cupy" in packages:
        assert 'cannot be used: CuPy is not installed; pip install "npconv[cuda12]"' in info


def test_every_package_is_left_out_once() -> None:
    assert sorted(sum(TOGETHER, ())) == sorted(WITHOUT)


def test_without_threadpoolctl_nothing_is_computed_and_the_error_says_why(whole_job: Job) -> None:
    result = whole_job(block("threadpoolctl"))
    assert result["computed"].startswith(f"ImportError: {BLAS}")
    assert result["computed"].endswith(": pip install threadpoolctl")
    found = told(result)
    assert {status for name, (status, _) in found.items() if not name.startswith("info")} == {2}
    assert all(message.startswith(BLAS) for _, message in found.values())
    assert set(found) == {name for name, value in result.items() if isinstance(value, dict)}


def test_without_any_of_them_every_command_ends_with_one_line(whole_job: Job) -> None:
    found = told(whole_job(block(*ALL)))
    assert {status for _, (status, _) in found.items()} <= {1, 2} and "info" in found
    assert all("pip install" in message for _, message in found.values())


def test_importing_npconv_imports_none_of_them(environment: Callable[..., dict[str, str]]) -> None:
    code = f"{block(*ALL)}; import npconv, npconv.cli, npconv.data, npconv.interchange; npconv.data.Gaussian(25)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment(), capture_output=True)
    assert done.returncode == 0 and done.stderr == b""


# ---- require ----
@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a package `onnx` with a line of code before all others."""

    def install(line: str) -> None:
        (tmp_path / "onnx").mkdir()
        (tmp_path / "onnx/__init__.py").write_text(line + "\n", encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        for name in [name for name in sys.modules if name.partition(".")[0] == "onnx"]:
            monkeypatch.delitem(sys.modules, name)

    return install


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("raise ImportError('libz.so.9: no such file')", "(ImportError: libz.so.9: no such file): pip install --force"),
        ("raise ValueError('numpy.dtype size changed')", "(ValueError: numpy.dtype size changed): pip install --force"),
        ("raise OSError", "which is installed but cannot be imported (OSError): pip install --force-reinstall"),
        ("import no_such_package", "cannot be imported (No module named 'no_such_package'): pip install \"npconv[onnx"),
    ],
)
def test_a_broken_package_says_what_is_wrong_with_it(installed: Callable[[str], None], line: str, message: str) -> None:
    installed(line)
    with pytest.raises(ImportError, match=re.escape(message)) as caught:
        extras.require("onnx.checker")
    assert str(caught.value).startswith("ONNX files need onnx, which ") and caught.value.__cause__ is not None


def test_no_memory_is_no_missing_package(installed: Callable[[str], None]) -> None:
    installed("raise MemoryError")
    with pytest.raises(MemoryError):
        extras.require("onnx")


def test_a_deferred_module_is_the_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import h5py

    assert extras.h5py.File is h5py.File and extras.h5py.__version__ == h5py.__version__
    with pytest.raises(AttributeError):
        _ = extras.h5py.no_such_thing
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert not hasattr(extras.h5py, "__wrapped__")  # asked for by tools that look at every object
    layer = npconv.Conv2d(1, 1, 1)
    for call in (lambda: npconv.save(layer, tmp_path / "a.h5"), lambda: npconv.Model(layer).save(tmp_path / "a.h5")):
        with pytest.raises(ImportError, match=re.escape(H5PY)):
            call()
    assert not list(tmp_path.iterdir())


def test_cupy_is_asked_for_with_its_pip_line(environment: Callable[..., dict[str, str]]) -> None:
    code = f"{block('cupy')}; from npconv.cli import main; sys.exit(main(['train']))"
    env = environment(NPCONV_BACKEND="cupy")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert 'CuPy is not installed; pip install "npconv[cuda12]"' in done.stderr
