"""How kernels are found, compiled once for each type and set of macros, and launched with the right arguments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import standin
from standin.emulator import HOST, EmulatorError, run_both_ways

from npconv.backends.gpu import launching
from npconv.backends.gpu.launching import Launcher

SCALE = """
#include "times.cuh"
extern "C" __global__ void scale(long long count, const REAL* x, REAL* y, REAL factor, int more) {
    for (GRID_STRIDE(i, count)) y[i] = x[i] * factor * TIMES + more;
}
extern "C" __global__ void is_null(const REAL* x, REAL* y) { y[0] = x == nullptr; }
extern "C" __global__ void backwards(int n, const REAL* x, REAL* y) {
    extern __shared__ __align__(16) REAL values[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) values[i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = values[n - 1 - i];
}
extern "C" __global__ void half(const REAL* x, REAL* y, double divisor) { y[threadIdx.x] = x[threadIdx.x] / divisor; }
extern "C" __global__ void total(int n, const REAL* x, REAL* y) {
    __shared__ REAL scratch[32];
    REAL sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) y[0] = sum;
    sum = block_sum(REAL(1), scratch);  // the scratch may be used again
    if (threadIdx.x == 0) y[1] = sum;
}
extern "C" __global__ void copy_packs(long long count, const REAL* x, REAL* y) {
    for (GRID_STRIDE(i, count)) store_pack(y + i * Pack::size, load_pack(x + i * Pack::size));
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of kernels with one family, "test"."""
    common = (launching.KERNELS / "common.cuh").read_text(encoding="utf-8")
    (tmp_path / "common.cuh").write_text(common, encoding="utf-8")
    (tmp_path / "times.cuh").write_text("#ifndef TIMES\n#define TIMES 1\n#endif\n", encoding="utf-8")
    (tmp_path / "test.cu").write_text(SCALE, encoding="utf-8")
    monkeypatch.setattr(launching, "KERNELS", tmp_path)
    launching.source.cache_clear()
    yield tmp_path
    launching.source.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 255, 256, 257, 20_000])
def test_a_grid_stride_launch_meets_every_element(folder: Path, dtype: str, count: int) -> None:
    launcher = Launcher(HOST)
    kernel = launcher.kernel("test", "scale", dtype)
    x = np.arange(count, dtype=dtype)
    y = np.full_like(x, np.nan)
    run_both_ways(lambda: launcher.over(kernel, count, x, y, 0.5, -2), y)
    np.testing.assert_array_equal(y, x * 0.5 - 2)


def test_the_grid_is_capped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Launcher(HOST)
    kernel = launcher.kernel("test", "scale", "float32")
    grids: list[Any] = []
    monkeypatch.setattr(kernel, "_function", lambda grid, block, args, shared_mem: grids.append((grid, block, args[0])))
    for count in (0, 1, 257, 10**10):
        launcher.over(kernel, count)
    assert grids == [((1, 1, 1), (256, 1, 1), 1), ((2, 1, 1), (256, 1, 1), 257), ((32, 1, 1), (256, 1, 1), 10**10)]
    assert all(type(count) is np.int64 for _, _, count in grids)


def test_a_kernel_is_compiled_once_for_each_type_and_set_of_macros(folder: Path) -> None:
    compiled: list[tuple[str, ...]] = []

    class Counting:
        cuda = HOST.cuda

        @staticmethod
        def RawModule(code: str, options: tuple[str, ...]) -> Any:
            compiled.append(options)
            return HOST.RawModule(code, options)

    launcher = Launcher(Counting)
    plain = launcher.kernel("test", "scale", "float32")
    assert launcher.kernel("test", "scale", "float32") is plain
    launcher.kernel("test", "is_null", "float32")
    launcher.kernel("test", "scale", np.dtype("float32"))
    assert compiled == [("-std=c++17", "-DREAL=float")]
    thrice = launcher.kernel("test", "scale", "float64", TIMES=3)
    assert compiled[1:] == [("-std=c++17", "-DREAL=double", "-DTIMES=3")]
    y = np.zeros(2)
    thrice(1, 32, np.int64(2), np.array([1.0, 2.0]), y, 1.0, 0)
    assert y.tolist() == [3, 6]


def test_macros_are_given_in_one_order() -> None:
    first = launching.compile_options("float", {"A": 1, "B": 2})
    assert first == launching.compile_options("float", {"B": 2, "A": 1})


def test_none_is_a_null_pointer(folder: Path) -> None:
    kernel = Launcher(HOST).kernel("test", "is_null", "float32")
    y = np.zeros(1, "float32")
    kernel(1, 1, None, y)
    assert y[0] == 1
    kernel(1, 1, y.copy(), y)
    assert y[0] == 0


def test_scalars_of_numpy_keep_their_type(folder: Path) -> None:
    kernel = Launcher(HOST).kernel("test", "half", "float32")
    y = np.zeros(3, "float32")
    kernel(1, 3, np.ones(3, "float32"), y, np.float64(4))  # np.float64 is a Python float as well
    assert y.tolist() == [0.25] * 3
    with pytest.raises(EmulatorError, match="parameter 2 is a double, given is a float"):
        kernel(1, 3, y, y.copy(), 4.0)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_an_int_beyond_32_bits_is_an_error_that_names_the_kernel(folder: Path, value: int) -> None:
    kernel = Launcher(HOST).kernel("test", "scale", "float32")
    x = np.zeros(1, "float32")
    with pytest.raises(ValueError, match=rf"kernel scale: argument {value} does not fit 32 bits; pass np.int64"):
        kernel(1, 1, np.int64(1), x, x, 1.0, value)


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        ((1, 65536), 32, r"no device takes the grid \(1, 65536, 1\)"),
        (-1, 32, r"no device takes the grid"),
        (2**31, 32, r"no device takes the grid"),
        (1, 1025, r"no device takes the block \(1025, 1, 1\)"),
        (1, (1, 1, 65), r"no device takes the block"),
        (1, 0, r"no device takes the block"),
    ],
)
def test_a_launch_that_no_device_takes(folder: Path, grid: Any, block: Any, message: str) -> None:
    kernel = Launcher(HOST).kernel("test", "is_null", "float32")
    with pytest.raises(ValueError, match="kernel is_null: " + message):
        kernel(grid, block, None, np.zeros(1, "float32"))


def test_a_grid_of_nothing_is_not_launched(folder: Path) -> None:
    y = np.zeros(1, "float32")
    Launcher(HOST).kernel("test", "is_null", "float32")((3, 0), 32, None, y)
    assert y[0] == 0


@pytest.mark.parametrize("count", [100, 20_000])
def test_shared_memory_beyond_48_kib_is_asked_for(folder: Path, count: int) -> None:
    kernel = Launcher(HOST).kernel("test", "backwards", "float32")
    x, y = np.arange(count, dtype="float32"), np.zeros(count, "float32")
    run_both_ways(lambda: kernel(1, 256, count, x, y, shared=4 * count), y)
    np.testing.assert_array_equal(y, x[::-1])


@pytest.mark.parametrize("dtype", ["float16", "int32"])
def test_other_types_have_no_kernels(folder: Path, dtype: str) -> None:
    with pytest.raises(ValueError, match=f"float32 and float64, not in {dtype}"):
        Launcher(HOST).kernel("test", "scale", dtype)


def test_an_included_file_is_taken_once(folder: Path) -> None:
    (folder / "twice.cu").write_text('#include "times.cuh"\n#include "test.cu"\nint last;', encoding="utf-8")
    text = launching.source("twice")
    assert text.count("#ifndef TIMES") == 1 and "#include" not in text
    assert text.endswith('#line 3 "twice.cu"\nint last;')


def test_an_error_names_the_line_of_the_file(folder: Path) -> None:
    (folder / "broken.cu").write_text('#include "times.cuh"\n' + SCALE + "undefined broken;\n", encoding="utf-8")
    line = 2 + SCALE.count("\n")
    with pytest.raises(EmulatorError, match=rf"broken.cu:{line}:\d+: error: 'undefined'|broken.cu:{line}:"):
        Launcher(HOST).kernel("broken", "scale", "float32")


# ---- common.cuh ----
@pytest.mark.parametrize("threads", [32, 96, 1024])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_block_sum(folder: Path, rng: np.random.Generator, threads: int, dtype: str) -> None:
    kernel = Launcher(HOST).kernel("test", "total", dtype)
    x, y = rng.integers(-9, 9, 1500).astype(dtype), np.zeros(2, dtype)
    run_both_ways(lambda: kernel(1, threads, x.size, x, y), y)
    assert y.tolist() == [x.sum(), threads]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_packs_are_16_bytes(folder: Path, dtype: str) -> None:
    launcher = Launcher(HOST)
    kernel = launcher.kernel("test", "copy_packs", dtype)
    size = 16 // np.dtype(dtype).itemsize
    x = np.arange(10 * size, dtype=dtype)
    y = np.zeros_like(x)
    launcher.over(kernel, 10, x, y)
    np.testing.assert_array_equal(x, y)


# ---- on the stand-in: as on CuPy ----
def test_arrays_of_the_device(folder: Path, cupy_standin: ModuleType) -> None:
    launcher = Launcher(cupy_standin)
    kernel = launcher.kernel("test", "scale", "float32")
    x = cupy_standin.asarray(np.arange(300, dtype="float32"))
    y = cupy_standin.empty_like(x)
    launcher.over(kernel, 300, x, y, 2.0, 1)
    assert standin.counts().kernels == {"scale": 1}
    np.testing.assert_array_equal(y.get(), np.arange(300) * 2 + 1)
    with pytest.raises(TypeError, match="Unsupported type"):
        launcher.over(kernel, 300, np.zeros(300, "float32"), y, 2.0, 1)


def test_a_captured_launch_is_done_at_each_replay_with_the_scalars_of_the_capture(
    folder: Path, cupy_standin: ModuleType
) -> None:
    cupy, launcher = cupy_standin, Launcher(cupy_standin)
    kernel = launcher.kernel("test", "scale", "float32")
    x, y, factor = cupy.zeros(4, "float32"), cupy.zeros(4, "float32"), 3.0
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        launcher.over(kernel, 4, x, y, factor, 0)
        graph = stream.end_capture()
    assert y.get().tolist() == [0] * 4
    factor = 5.0
    for value in (1, 2):
        x.fill(value)
        graph.launch()
        assert y.get().tolist() == [3 * value] * 4
