"""Which backend is active: the environment variable, use_backend, and what happens without CuPy."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import npconv as nc
from npconv import backends
from npconv.backends import gpu
from npconv.backends.cpu import NumpyBackend, workers

without_cupy = pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed here")


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test chooses anew, from an environment without NPCONV_BACKEND."""
    monkeypatch.delenv("NPCONV_BACKEND", raising=False)
    monkeypatch.setattr(backends, "_active", None)
    yield


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {key: value for key, value in os.environ.items() if not key.startswith("NPCONV_")}
    command = [sys.executable, "-W", "always", "-c", code]
    return subprocess.run(command, env={**variables, **environment}, capture_output=True, text=True, check=False)


# ---- the environment variable ----
@pytest.mark.parametrize("value", [None, "", "numpy"])
def test_numpy_is_the_default(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is not None:
        monkeypatch.setenv("NPCONV_BACKEND", value)
    assert nc.backend().name == "numpy" and nc.backend().xp is np
    assert nc.backend_reason() == ("NPCONV_BACKEND=numpy" if value == "numpy" else "the default")


def test_an_unknown_backend_lists_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPCONV_BACKEND", "torch")
    for _ in range(2):  # the second call must not find a backend half chosen
        with pytest.raises(
            ValueError, match=r"backend \(='torch', NPCONV_BACKEND=torch\) must be one of numpy, cupy, auto"
        ):
            nc.backend()


def test_in_a_new_process_the_import_works_and_the_first_use_raises() -> None:
    done = python("import npconv; print('imported'); npconv.backend()", NPCONV_BACKEND="torch")
    assert done.stdout == "imported\n" and done.returncode == 1
    assert "ValueError: backend (='torch', NPCONV_BACKEND=torch) must be one of numpy, cupy, auto" in done.stderr


@without_cupy
def test_cupy_that_is_not_installed_says_so_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPCONV_BACKEND", "cupy")
    with pytest.raises(RuntimeError) as caught:
        nc.asarray([1.0])
    text = str(caught.value)
    for part in ("the cupy backend cannot be used", "CuPy is not installed", 'pip install "npconv[cuda12]"',
                 "NPCONV_BACKEND=numpy, or unset, computes on the CPU"):  # fmt: skip
        assert part in text


@without_cupy
def test_auto_without_cupy_warns_once_and_computes_with_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPCONV_BACKEND", "auto")
    with pytest.warns(RuntimeWarning, match=r"npconv computes with NumPy: CuPy is not installed") as caught:
        assert nc.backend().name == "numpy"
        assert nc.ReLU()(nc.asarray([-1.0, 2.0], "float32")).tolist() == [0, 2]
    assert len(caught) == 1
    assert nc.backend_reason().startswith("NPCONV_BACKEND=auto, but CuPy is not installed")


def test_importing_and_using_npconv_never_imports_cupy() -> None:
    done = python("import sys, npconv; npconv.Model().predict(npconv.asarray([[[9.0] * 4] * 4] * 3)); "
                  "print([name for name in sys.modules if name.startswith('cupy')])")  # fmt: skip
    assert done.stdout == "[]\n", done.stderr


def test_importing_npconv_imports_no_optional_package() -> None:
    optional = ("matplotlib", "PIL", "tifffile", "tqdm", "torch")
    done = python(f"import sys, npconv; print([name for name in {optional!r} if name in sys.modules])")
    assert done.stdout == "[]\n", done.stderr


# ---- use_backend ----
def test_use_backend_as_a_function_stays_and_as_a_context_ends() -> None:
    nc.use_backend("numpy")
    assert nc.backend_reason() == "use_backend('numpy')"
    chosen = nc.backend()
    with nc.use_backend("numpy") as inside:
        assert inside is nc.backend() is chosen  # made once: it owns the worker threads
    assert nc.backend() is chosen


def test_use_backend_restores_after_an_error_and_when_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(NumpyBackend):
        name = "cupy"

    monkeypatch.setitem(backends._made, "cupy", Other())
    with nc.use_backend("cupy"):
        assert nc.backend().name == "cupy"
        with nc.use_backend("numpy"):
            assert nc.backend().name == "numpy"
        assert nc.backend().name == "cupy"
        with pytest.raises(ZeroDivisionError), nc.use_backend("numpy"):
            raise ZeroDivisionError
        assert nc.backend().name == "cupy"
    assert nc.backend().name == "numpy"


def test_a_failed_switch_leaves_the_active_backend() -> None:
    before = nc.backend()
    with pytest.raises(ValueError, match="must be one of numpy, cupy, auto"):
        nc.use_backend("tensorflow")
    assert nc.backend() is before and nc.backend_reason() == "the default"


# ---- a stand-in for CuPy: what can go wrong with one that is installed ----
class CUDARuntimeError(RuntimeError):
    pass


def stand_in(devices: Any, zeros: Any = None) -> types.ModuleType:
    """A module named cupy; `devices` is a number or the error that counting them raises."""

    def count() -> int:
        if isinstance(devices, Exception):
            raise devices
        return devices

    def make(*arguments: Any) -> Any:
        if zeros is not None:
            raise zeros
        return types.SimpleNamespace(sum=lambda: types.SimpleNamespace(get=lambda: 0.0))

    module = types.ModuleType("cupy")
    module.__spec__ = importlib.util.spec_from_loader("cupy", None)
    runtime = types.SimpleNamespace(getDeviceCount=count, CUDARuntimeError=CUDARuntimeError)
    module.cuda = types.SimpleNamespace(runtime=runtime)  # type: ignore[attr-defined]
    module.ndarray = type("ndarray", (), {"__module__": "cupy"})  # type: ignore[attr-defined]
    module.zeros = make  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("devices", "zeros", "message"),
    [
        (
            CUDARuntimeError("insufficient driver"),
            None,
            r"no usable CUDA driver \(insufficient driver\); install NVIDIA's",
        ),
        (0, None, r"there is no CUDA device; check that nvidia-smi lists one"),
        (1, MemoryError("out of memory"), r"the GPU cannot be used \(out of memory\); check the driver"),
    ],
    ids=["driver", "device", "memory"],
)
def test_each_cause_has_its_fix(devices: Any, zeros: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", stand_in(devices, zeros))
    monkeypatch.delitem(backends._made, "cupy", raising=False)
    with pytest.raises(RuntimeError, match=message):
        nc.use_backend("cupy")
    with pytest.warns(RuntimeWarning, match=message):
        nc.use_backend("auto")
    assert nc.backend().name == "numpy" and "cupy" not in backends._made


def test_auto_takes_a_cupy_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", stand_in(1))
    monkeypatch.delitem(backends._made, "cupy", raising=False)
    assert gpu.unusable_because() is None
    with nc.use_backend("auto"):
        assert nc.backend().name == "cupy" and nc.backend().workers == 1
        assert nc.backend_reason() == "use_backend('auto'), and CuPy can be used"
    monkeypatch.delitem(backends._made, "cupy")


# ---- arrays of another kind ----
def test_an_array_of_the_other_backend_is_an_error_that_says_what_to_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array = stand_in(1).ndarray()  # type: ignore[attr-defined]
    with pytest.raises(
        TypeError,
        match=r"array of the numpy backend, got cupy\.ndarray: convert it with npconv\.asarray\(x\)",
    ):
        nc.Conv2d(1, 1, 1)(array)
    monkeypatch.setitem(sys.modules, "cupy", stand_in(1))
    monkeypatch.delitem(backends._made, "cupy", raising=False)
    layer = nc.ReLU()
    with (
        nc.use_backend("cupy"),
        pytest.raises(TypeError, match=r"array of the cupy backend, got numpy\.ndarray.*asarray"),
    ):
        layer(np.ones(3, "float32"))
    monkeypatch.delitem(backends._made, "cupy")


def test_asarray_fetches_an_array_from_the_gpu() -> None:
    array = stand_in(1).ndarray()  # type: ignore[attr-defined]
    array.get = lambda: np.arange(3.0)
    assert nc.asarray(array).tolist() == nc.to_numpy(array).tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("x", [[[1.0, 2.0]], (1.0,), 3.0, memoryview(b"1234"), "text", None, {1: 2}], ids=repr)
def test_what_is_no_array_is_a_type_error(x: Any) -> None:
    for call in (nc.ReLU(), nc.Conv2d(1, 1, 1), lambda y: nc.MSE()(y, y), lambda y: nc.im2col(y, 1)):
        with pytest.raises(
            TypeError, match=r"must be an array of the numpy backend, got builtins\.\w+: convert it with"
        ):
            call(x)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_matrices_and_masked_arrays_which_compute_otherwise_are_type_errors() -> None:
    for x in (np.matrix("1.0 2.0; 3.0 4.0"), np.ma.masked_array(np.ones((2, 2)), mask=[[0, 1], [0, 0]])):
        with pytest.raises(TypeError, match=r"must be an array of the numpy backend, got numpy\..*: convert it with"):
            nc.Linear(2, 2)(x)


# ---- threads ----
@pytest.mark.parametrize("count", ["1", "3"])
def test_npconv_threads_bounds_the_workers(count: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPCONV_THREADS", count)
    assert workers.thread_count() == int(count)
    done = python("import npconv; print(npconv.backend().workers)", NPCONV_THREADS=count)
    assert done.stdout == f"{count}\n", done.stderr


def test_the_default_is_all_cores_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NPCONV_THREADS", raising=False)
    assert workers.thread_count() == workers.usable_cores() >= 1


def test_describe_names_the_library_and_the_threads() -> None:
    text = nc.backend().describe()
    assert text.startswith(f"NumPy {np.__version__} on Python 3.") and "worker thread(s), BLAS: " in text
