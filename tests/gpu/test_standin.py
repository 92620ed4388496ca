"""The stand-in refuses what CuPy refuses, lays out memory as CuPy does, and counts what costs time on a device."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import standin

import npconv as nc
from npconv import backends
from npconv.backends.gpu import unusable_because


@pytest.fixture
def cupy(cupy_standin: ModuleType) -> ModuleType:
    return cupy_standin


# ---- the module ----
def test_it_stands_where_cupy_is_imported_and_goes_again() -> None:
    before = sys.modules.get("cupy")
    cupy = standin.install()
    assert sys.modules["cupy"] is cupy is standin.install()
    import cupy.cuda.runtime as runtime

    assert runtime.getDeviceCount() == 1 and unusable_because() is None
    if before is cupy:  # the whole run is on the stand-in
        return
    standin.uninstall()
    assert sys.modules.get("cupy") is before
    standin.uninstall()
    assert sys.modules.get("cupy") is before


def test_the_backend_computes_on_it(on_standin: ModuleType, rng: np.random.Generator) -> None:
    assert type(nc.backend().xp.zeros(1)) is on_standin.ndarray
    layer = nc.Conv2d(2, 3, 3, padding=1)
    x = rng.standard_normal((2, 2, 5, 4)).astype("float32")
    y = layer.forward(nc.asarray(x))
    state = {name: nc.to_numpy(value) for name, value in layer.state_dict().items()}
    with backends.use_backend("numpy"):
        twin = nc.Conv2d(2, 3, 3, padding=1)
        twin.load_state_dict(state)
        expected = twin.forward(x)
    np.testing.assert_allclose(nc.to_numpy(y), expected, rtol=1e-5, atol=1e-6)


def test_its_names_and_parameters_are_cupys() -> None:
    """In a process of its own, which the stand-in does not enter."""
    code = """
import importlib.util, inspect, sys
if importlib.util.find_spec("cupy") is None:
    sys.exit("CuPy is not installed here")
import cupy
sys.path.insert(0, sys.argv[1])
from standin import cuda, module, ndarray
for name, function in module.FUNCTIONS.items():
    real = getattr(cupy, name)
    if not isinstance(real, cupy.ufunc) and inspect.isfunction(real) and inspect.isfunction(function):
        extra = set(inspect.signature(function).parameters) - set(inspect.signature(real).parameters)
        assert not extra - {"args", "kwargs"}, (name, extra)
for name in vars(ndarray.ndarray):
    own = name.startswith("__") or name in ("on_host", "memory", "_indexed_length")
    assert own or hasattr(cupy.ndarray, name), name
for name in ("Stream", "Graph", "Event", "MemoryPool", "Device"):
    own = {n for n in vars(getattr(cuda, name)) if not n.startswith("_")}
    assert own <= {*dir(getattr(cupy.cuda, name)), "attributes"}, (name, own)
print("compared", len(module.FUNCTIONS))
"""
    folder = str(Path(standin.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, folder], capture_output=True, text=True)
    if "CuPy is not installed here" in done.stderr:
        pytest.skip("CuPy is not installed here")
    assert done.stdout.startswith("compared ") and done.returncode == 0, done.stderr


# ---- host and device do not mix ----
REFUSED: list[tuple[str, Callable[[Any, Any, Any], object]]] = [
    ("Implicit conversion to a NumPy array", lambda cupy, a, x: np.asarray(a)),
    ("Implicit conversion to a NumPy array", lambda cupy, a, x: np.array([1.0]).__iadd__(np.asarray(a))),
    ("Unsupported type <class 'numpy.ndarray'>", lambda cupy, a, x: a + x),
    ("Unsupported type <class 'numpy.ndarray'>", lambda cupy, a, x: x + a),
    ("Unsupported type <class 'numpy.ndarray'>", lambda cupy, a, x: a.__imul__(x)),
    ("Unsupported type <class 'numpy.ndarray'>", lambda cupy, a, x: cupy.maximum(a, x)),
    ("Unsupported type <class 'numpy.ndarray'>", lambda cupy, a, x: cupy.where(a > 0, x, a)),
    ("Unsupported type <class 'numpy.ndarray'>", lambda cupy, a, x: cupy.sum(x)),
    ("Unsupported type <class 'numpy.ndarray'>", lambda cupy, a, x: a == x),
    ("Unsupported type <class 'list'>", lambda cupy, a, x: a * [1.0, 2.0, 3.0]),
    ("Unsupported type <class 'NoneType'>", lambda cupy, a, x: a < None),
    ("Unsupported type <class 'numpy.ndarray'>", lambda cupy, a, x: cupy.matmul(a, x)),
    ("Only cupy arrays can be concatenated", lambda cupy, a, x: cupy.concatenate([a, x])),
    ("Output arguments type must be cupy.ndarray", lambda cupy, a, x: cupy.add(a, 1, out=x)),
    ("Implicit conversion to a NumPy array", lambda cupy, a, x: np.testing.assert_array_equal(a, x)),
    ("no implementation found", lambda cupy, a, x: np.array_equal(a, x)),
    ("unhashable", lambda cupy, a, x: {a}),
    ("unexpected keyword argument 'where'", lambda cupy, a, x: cupy.add(a, 1, where=a > 0)),
    ("unexpected keyword argument 'initial'", lambda cupy, a, x: a.sum(initial=1)),
    ("could not be coerced", lambda cupy, a, x: cupy.add(a.astype(int), 1.5, out=a.astype(int))),
    ("Only numpy.ndarray can be set", lambda cupy, a, x: a.set([1.0, 2.0, 3.0])),
]


@pytest.mark.parametrize(("message", "call"), REFUSED)
def test_what_cupy_refuses_is_refused(cupy: ModuleType, message: str, call: Callable[..., object]) -> None:
    x = np.arange(3.0)
    with pytest.raises(TypeError, match=message):
        call(cupy, cupy.asarray(x), x)


def test_what_is_assigned_is_of_the_device_or_a_number(cupy: ModuleType) -> None:
    a = cupy.zeros((2, 3))
    with pytest.raises(ValueError, match="non-scalar numpy.ndarray cannot be used for fill"):
        a[...] = np.ones((2, 3))
    a[0] = np.array(2.0)
    a[1] = cupy.arange(3.0)
    assert a.tolist() == [[2] * 3, [0, 1, 2]]


def test_an_index_that_names_an_element_twice_is_refused(cupy: ModuleType) -> None:
    a = cupy.zeros((2, 3))
    a[:, cupy.asarray([2, 0])] = 1
    with pytest.raises(ValueError, match="an index names an element twice"):
        a[:, cupy.asarray([0, 1, -3])] = 1
    assert a.tolist() == [[1, 0, 1]] * 2


@pytest.mark.parametrize("dtype", [object, "U3", "M8[s]"])
def test_dtypes_of_the_host_are_refused(cupy: ModuleType, dtype: Any) -> None:
    with pytest.raises(ValueError, match="Unsupported dtype"):
        cupy.asarray(np.zeros(2, dtype))
    with pytest.raises(ValueError, match="Unsupported dtype"):
        cupy.empty(2, dtype)


# ---- the same values as NumPy ----
@pytest.mark.parametrize(
    "call",
    [
        lambda xp, a, b: a + b * 2 - 1,
        lambda xp, a, b: 1 / (1 + xp.exp(-a)),
        lambda xp, a, b: np.float32(2) * a**2 % 3,
        lambda xp, a, b: np.exp(a) + np.maximum(a, b),
        lambda xp, a, b: xp.where(a > b, a, np.float32(0)),
        lambda xp, a, b: (a > 0) | ~(b < 1) & (a != b),
        lambda xp, a, b: a[:, None, 1:, ::2][..., -1],
        lambda xp, a, b: a[1, 2, 3],
        lambda xp, a, b: a[:, xp.asarray([2, 0])][:, :, xp.asarray([1, 1, 3])],
        lambda xp, a, b: xp.take(a, xp.asarray([1, 0, 1]), axis=2),
        lambda xp, a, b: a[a > 0],
        lambda xp, a, b: xp.matmul(a, b.transpose(0, 2, 1)),
        lambda xp, a, b: a @ b.swapaxes(1, 2),
        lambda xp, a, b: a.sum(axis=(0, 2)) + xp.mean(b, axis=(0, 2), dtype="float64"),
        lambda xp, a, b: a.max() - a.min(axis=1, keepdims=True),
        lambda xp, a, b: a.argmax(axis=1),
        lambda xp, a, b: (a > 5).any(axis=0) | (a < 5).all(axis=0),
        lambda xp, a, b: a.var(axis=(0, 2), ddof=1) + a.std(),
        lambda xp, a, b: xp.concatenate([a, b], axis=1),
        lambda xp, a, b: xp.stack([a, b], axis=1),
        lambda xp, a, b: xp.pad(a, ((0, 0), (1, 0), (2, 1)), mode="symmetric"),
        lambda xp, a, b: xp.clip(a, -0.5, 0.5) + b.clip(0, None),
        lambda xp, a, b: xp.isfinite(a / (b * 0)),
        lambda xp, a, b: xp.allclose(a, a + 1e-9),
        lambda xp, a, b: xp.array_equal(a, b),
        lambda xp, a, b: a.reshape(2, -1).T.reshape(-1).astype("float64"),
        lambda xp, a, b: a.transpose(2, 0, 1).ravel(),
        lambda xp, a, b: xp.arange(2, 9, 3, dtype="int32"),
        lambda xp, a, b: xp.full_like(a, 3, dtype="int64") + xp.ones(4, dtype="int8"),
        lambda xp, a, b: xp.broadcast_to(a[:1], a.shape) * 2,
        lambda xp, a, b: a.squeeze()[None].dot(b[0].T),
        lambda xp, a, b: xp.frombuffer(b"\1\2\3", "uint8"),
    ],
)
def test_values_are_numpys(cupy: ModuleType, rng: np.random.Generator, call: Callable[..., Any]) -> None:
    a, b = rng.standard_normal((2, 2, 3, 4)).astype("float32")
    with np.errstate(all="ignore"):
        expected = np.asarray(call(np, a, b))
    found = call(cupy, cupy.asarray(a), cupy.asarray(b))
    assert type(found) is cupy.ndarray
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(found.get(), expected)


def test_writing(cupy: ModuleType, rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 4))
    a, b = cupy.asarray(x), cupy.asarray(x.T.copy())
    same = a
    for xp, y, z in ((np, x, x.T.copy()), (cupy, a, b)):
        y += 1
        y[1:] *= z[:, 1:].T
        y[:, xp.asarray([3, 1])] -= 2
        y[y > 1] = 0
        xp.maximum(y, -1, out=y)
        xp.multiply(y, y, out=z.T)
        z[0, 0] = 5
        y[0] = z[1, :1]
    np.testing.assert_array_equal(a.get(), x)
    assert same is a


def test_copies_and_views(cupy: ModuleType) -> None:
    a = cupy.arange(6.0).reshape(2, 3)
    view, copied = a.T[1:], a.copy()
    view[...] = -1
    assert a.tolist() == [[0, -1, -1], [3, -1, -1]] and copied.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert a.astype(float, copy=False) is a and cupy.asarray(a) is a
    assert a.reshape(3, 2).data.ptr == a.data.ptr != a.T.reshape(6).data.ptr
    assert cupy.asnumpy(np.arange(2)).tolist() == [0, 1]
    assert pickle.loads(pickle.dumps(a)).tolist() == a.tolist()
    assert copied.base is None and copied[0].base is copied.T[1:, 0].base is copied
    assert len(a) == 2 and [row.shape for row in a] == [(3,), (3,)]


# ---- memory as CuPy lays it out ----
def test_results_are_in_c_order_whatever_the_operands_are(cupy: ModuleType) -> None:
    images = cupy.ones((2, 5, 6, 3), "float32").transpose(0, 3, 1, 2)  # channels-last
    assert not images.flags.c_contiguous
    for made in (images + 1, images * images, -images, cupy.sqrt(images), images > 0, cupy.where(images > 0, images, 0),
                 cupy.concatenate([images, images]), cupy.clip(images, 0, 1), images.take(cupy.asarray([0]), 1),
                 images[:, cupy.asarray([0, 2])], images.copy(), copy.deepcopy(images), images.ravel(),
                 images.sum(axis=1), cupy.ascontiguousarray(images)):  # fmt: skip
        assert made.flags.c_contiguous
    for made in (images.copy(order="K"), images.astype("float64"), cupy.empty_like(images), cupy.zeros_like(images)):
        assert [stride // made.itemsize for stride in made.strides] == [90, 1, 18, 3]
    into = cupy.empty_like(images)
    assert cupy.add(images, 1, out=into) is into and not into.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("make", ["empty", "ndarray", "empty_like"])
def test_memory_that_nothing_wrote_is_garbage(cupy: ModuleType, make: str) -> None:
    for dtype, garbage in (("float32", np.nan), ("float64", np.nan), ("int32", -1), ("bool", True)):
        argument = cupy.zeros((3, 2), dtype).T if make == "empty_like" else (2, 3)
        made = getattr(cupy, make)(argument, dtype=dtype) if make != "ndarray" else cupy.ndarray(argument, dtype)
        np.testing.assert_array_equal(made.get(), np.full((2, 3), garbage, dtype))


# ---- counting ----
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda cupy, a: a.get(), {"to_host": 1, "to_host_bytes": 12, "synchronisations": 1}),
        (lambda cupy, a: cupy.asnumpy(a), {"to_host": 1, "to_host_bytes": 12, "synchronisations": 1}),
        (lambda cupy, a: float(a[0]), {"to_host": 1, "to_host_bytes": 4, "synchronisations": 1}),
        (lambda cupy, a: int(a[0]), {"to_host": 1, "to_host_bytes": 4, "synchronisations": 1}),
        (lambda cupy, a: a[0].item(), {"to_host": 1, "to_host_bytes": 4, "synchronisations": 1}),
        (lambda cupy, a: bool(a.any()), {"to_host": 1, "to_host_bytes": 1, "synchronisations": 1, "launches": 1}),
        (lambda cupy, a: a.tolist(), {"to_host": 1, "to_host_bytes": 12, "synchronisations": 1}),
        (lambda cupy, a: repr(a), {"to_host": 1, "to_host_bytes": 12, "synchronisations": 1}),
        (lambda cupy, a: cupy.asarray([1.0, 2.0]), {"to_device": 1, "to_device_bytes": 16}),
        (lambda cupy, a: cupy.asarray(3), {"to_device": 1, "to_device_bytes": 8}),
        (lambda cupy, a: a.set(np.zeros(3, "float32")), {"to_device": 1, "to_device_bytes": 12}),
        (lambda cupy, a: a[[0, 1]], {"to_device": 1, "to_device_bytes": 16, "launches": 1}),
        (lambda cupy, a: a[np.array([0, 1])], {"to_device": 1, "to_device_bytes": 16, "launches": 1}),
        (lambda cupy, a: a[a > 0], {"synchronisations": 1, "launches": 2}),
        (lambda cupy, a: a.T[1:].reshape(2, 1), {}),
        (lambda cupy, a: cupy.empty(3), {}),
        (lambda cupy, a: cupy.zeros(3), {"launches": 1}),
        (lambda cupy, a: (a + 1) * 2, {"launches": 2}),
        (lambda cupy, a: a.__iadd__(1), {"launches": 1}),
        (lambda cupy, a: a.sum(), {"launches": 1}),
        (lambda cupy, a: a.copy(), {"launches": 1}),
        (lambda cupy, a: a.fill(0), {"launches": 1}),
        (lambda cupy, a: a[1:].__setitem__(0, 2), {"launches": 1}),
        (lambda cupy, a: cupy.cuda.Device().synchronize(), {"synchronisations": 1}),
        (lambda cupy, a: cupy.cuda.Stream.null.synchronize(), {"synchronisations": 1}),
        (lambda cupy, a: cupy.cuda.Event().synchronize(), {"synchronisations": 1}),
    ],
)
def test_what_costs_time_is_counted(cupy: ModuleType, call: Callable[..., object], expected: dict[str, int]) -> None:
    a = cupy.ones(3, "float32")
    standin.reset()
    call(cupy, a)
    assert standin.counts() == standin.Counts(**expected)  # type: ignore[arg-type]


# ---- kernels ----
KERNEL = 'extern "C" __global__ void twice(REAL* x, int n) { if (threadIdx.x < n) x[threadIdx.x] *= 2; }'


def test_raw_kernels_take_arrays_of_the_device_only(cupy: ModuleType) -> None:
    twice = cupy.RawModule(code=KERNEL, options=("-DREAL=float",)).get_function("twice")
    x = cupy.ones(3, "float32")
    twice((1,), (32,), (x, np.int32(3)))
    assert x.tolist() == [2, 2, 2] and standin.counts().kernels == {"twice": 1}
    with pytest.raises(TypeError, match="Unsupported type <class 'numpy.ndarray'>"):
        twice((1,), (32,), (np.ones(3, "float32"), np.int32(3)))
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        twice((0,), (32,), (x, np.int32(3)))
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        twice.max_dynamic_shared_size_bytes = 228 * 1024
    with pytest.raises(TypeError, match="must be a tuple"):
        cupy.RawModule(code=KERNEL, options=["-DREAL=float"])
