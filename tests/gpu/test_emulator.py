"""The emulator runs CUDA kernels as a GPU does, and finds what is wrong in them; each fault here is in a kernel of
its own, beside one that is right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from standin import emulator
from standin.emulator import EmulatorError, Module, reversed_order, run_both_ways

FLOAT = ("-DREAL=float",)
THREADS = 64


def run(
    body: str, *args: Any, grid: int = 1, block: int = THREADS, shared: int = 0, parameters: str = "REAL* x"
) -> None:
    """Launch a kernel with this body: x first."""
    code = f'extern "C" __global__ void test({parameters}) {{ const int t = threadIdx.x; {body} }}'
    Module(code, FLOAT).get_function("test")((grid,), (block,), args, shared_mem=shared)


def floats(count: int = THREADS) -> np.ndarray:
    return np.arange(count, dtype="float32")


# ---- what is right ----
def test_threads_and_blocks_have_their_numbers() -> None:
    code = """
    extern "C" __global__ void numbers(int* out) {
        const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
        int* mine = out + 6 * (block * (int)(blockDim.x * blockDim.y * blockDim.z) + thread);
        mine[0] = blockIdx.x; mine[1] = blockIdx.y; mine[2] = blockIdx.z;
        mine[3] = threadIdx.x; mine[4] = threadIdx.y; mine[5] = threadIdx.z;
    }"""
    grid, block = (2, 3, 2), (3, 2, 2)
    out = np.full((2, 3, 2, 2, 2, 3, 6), -1, dtype="int32")
    function = Module(code).get_function("numbers")
    run_both_ways(lambda: function(grid, block, (out,)), out)
    expected = np.stack(np.meshgrid(*(np.arange(n) for n in out.shape[:-1]), indexing="ij"), -1)[
        ..., [2, 1, 0, 5, 4, 3]
    ]
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("block", [32, 64, 1024])
def test_a_barrier_lets_all_threads_through_together(block: int) -> None:
    x = floats(block)
    body = "extern __shared__ REAL s[]; for (int k = 0; k < 3; k++) { s[t] = x[t]; __syncthreads();"
    body += "x[t] = s[(t + 1) % blockDim.x]; __syncthreads(); }"
    run(body, x, block=block, shared=4 * block)
    np.testing.assert_array_equal(x, np.roll(np.arange(block), -3))


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("__shfl_sync(0xffffffffu, x[t], 5)", lambda lanes: np.full(32, lanes[5])),
        ("__shfl_sync(0xffffffffu, x[t], t + 1)", lambda lanes: np.roll(lanes, -1)),
        ("__shfl_xor_sync(0xffffffffu, x[t], 3)", lambda lanes: lanes[np.arange(32) ^ 3]),
        ("__shfl_down_sync(0xffffffffu, x[t], 4)", lambda lanes: np.append(lanes[4:], lanes[-4:])),
        ("__shfl_up_sync(0xffffffffu, x[t], 4)", lambda lanes: np.append(lanes[:4], lanes[:-4])),
        ("__ballot_sync(0xffffffffu, t % 32 < 3)", lambda lanes: np.full(32, 7)),
        ("__any_sync(0xffffffffu, t == 40)", lambda lanes: np.full(32, lanes[0] >= 32)),
        ("__all_sync(0xffffffffu, t != 40)", lambda lanes: np.full(32, lanes[0] < 32)),
    ],
)
def test_exchanges_of_a_warp(expression: str, expected: Any) -> None:
    x, y = floats(), np.zeros(THREADS, "float32")
    code = f'extern "C" __global__ void test(const REAL* x, REAL* y) {{ int t = threadIdx.x; y[t] = {expression}; }}'
    function = Module(code, FLOAT).get_function("test")
    run_both_ways(lambda: function((1,), (THREADS,), (x, y)), y)
    np.testing.assert_array_equal(y, np.concatenate([expected(lanes) for lanes in x.reshape(2, 32)]))


def test_an_exchange_orders_what_a_warp_does_in_shared_memory() -> None:
    x = floats()
    run("__shared__ REAL s[64]; s[t] = x[t]; __syncwarp(); x[t] = s[t ^ 1];", x)
    np.testing.assert_array_equal(x, np.arange(THREADS) ^ 1)


def test_part_of_a_warp_may_exchange() -> None:
    x = floats()
    run("if (t % 32 < 16) x[t] = __shfl_sync(0x0000ffffu, x[t], 0);", x)
    np.testing.assert_array_equal(x[:32], [0] * 16 + list(range(16, 32)))


def test_every_lane_can_see_all_others() -> None:
    x = floats()
    body = "float all[32]; npconv_emulator::gather_warp(x[t], all, __LINE__); REAL sum = 0;"
    run(body + "for (int k = 0; k < 32; k++) sum += all[k]; x[t] = sum;", x)
    np.testing.assert_array_equal(x, np.repeat(np.arange(THREADS).reshape(2, 32).sum(1), 32))


def test_vectors_and_mathematics() -> None:
    x = floats()
    run(
        "const float4 v = reinterpret_cast<const float4*>(x)[t]; const float2 w = make_float2(v.x, v.w);"
        "x[4 * t] = fmaf(w.y, 2.0f, max(v.y, 5.0f)) + rsqrtf(4.0f) + __ldg(x + 4 * t + 2);",
        x,
        block=16,
    )
    np.testing.assert_array_equal(x[::4], [(i + 3) * 2 + max(i + 1, 5) + 0.5 + i + 2 for i in range(0, 64, 4)])


def test_order_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(emulator.CHECKS, "0")  # which forbid what this kernel does
    order = np.zeros(2 * THREADS, "int32")
    code = """
    static int now = 0;
    extern "C" __global__ void order(int* x) { x[now++] = blockIdx.x * blockDim.x + threadIdx.x; }"""
    Module(code).get_function("order")((2,), (THREADS,), (order,))
    np.testing.assert_array_equal(order, np.arange(2 * THREADS))
    with reversed_order():
        Module(code + "// again").get_function("order")((2,), (THREADS,), (order,))
    np.testing.assert_array_equal(order, np.arange(2 * THREADS)[::-1])


# ---- what is wrong ----
ARRAY = "__shared__ REAL s[64];"
OUTSIDE = [
    ("x[t + 1] = 0;", r"thread \(63, 0, 0\): writes 4 bytes out of bounds, 4 bytes past the end of array argument 0"),
    ("x[t - 1] = 0;", r"thread \(0, 0, 0\): writes 4 bytes out of bounds, 4 bytes before the start of array arg"),
    ("x[t] += x[t + 1000];", r"thread \(0, 0, 0\): reads 4 bytes out of bounds, 3748 bytes past the end"),
    ("if (t == 7) x[1 << 28] = 0;", r"thread \(7, 0, 0\): writes 4 bytes out of bounds"),
    (ARRAY + "s[t + t / 63] = 0; x[t] = s[t + t / 63];", r"kernel.cu:1: index 64 is out of the array's bounds"),
    (ARRAY + "REAL* p = s; p[t + t / 63] = t; x[t] = p[t + t / 63];", "writes 4 bytes out of bounds, .* shared memory"),
    ("extern __shared__ REAL s[]; s[t] = 0;", "writes 4 bytes out of bounds, 4 bytes past the end of shared memory"),
    ("REAL v[4]; for (int i = 0; i <= (int)x[4]; i++) v[i] = i; x[t] = v[t % 4];", "index 4 is out of the array's"),
    ("static int counter; counter += t; x[t] = counter;", "writes 4 bytes out of bounds"),
    ("if (t == 1) *(float4*)(x + t) = make_float4(0, 0, 0, 0);", "or not aligned for what"),
    ("x[t] = (t + 1) * (int)(x[t] + 100000000) > 5;", "integer overflow"),
    ("x[t] = 1 << (int)(x[t] + 32);", "shift by"),
    ("x[t] = t / (int)(x[t] - t);", "integer overflow or division by zero"),
]


@pytest.mark.parametrize(("body", "message"), OUTSIDE)
def test_an_access_out_of_bounds(body: str, message: str) -> None:
    with pytest.raises(EmulatorError, match="kernel test: .*" + message):
        run(body, floats(), shared=252)


def test_the_bounds_are_those_of_the_view_that_is_passed() -> None:
    whole = floats(4 * THREADS)
    run("x[t] = -1;", whole[THREADS : 2 * THREADS])
    assert (whole < 0).sum() == THREADS
    with pytest.raises(EmulatorError, match="out of bounds, 128 bytes past the end of array argument 0"):
        run("if (t == 63) x[t] = -1;", whole[THREADS : THREADS + 32])


@pytest.mark.parametrize(
    ("body", "right", "message"),
    [
        ("__shared__ REAL s[64]; s[t] = x[t]; {} x[t] = s[63 - t];", "__syncthreads();",
         r"writes shared memory at byte 128, which thread 31 of block 0 reads"),
        ("__shared__ REAL s[64]; s[t] = x[t]; {} x[t] = s[t ^ 32];", "__syncthreads();", "race: "),
        ("__shared__ REAL s[64]; for (int k = 0; k < 2; k++) {{ s[t] = x[t]; __syncthreads(); x[t] = s[63 - t]; {} }}",
         "__syncthreads();", "race: .* shared memory"),
        ("__shared__ REAL s[64]; s[t] = x[t]; {} x[t] = s[t ^ 1];", "__syncwarp();", "race: "),
        ("x[t] = t; {} if (t) x[t - 1] += 1;", "__syncthreads();", "race: .* array argument 0"),
        ("{} x[0] = 1;", "if (t == 0)", "race: writes array argument 0 at byte 0, which thread 0 of block 0 writes"),
    ],
)  # fmt: skip
def test_a_missing_barrier_is_a_race(body: str, right: str, message: str) -> None:
    run(body.format(right), floats())
    with pytest.raises(EmulatorError, match=message):
        run(body.format(""), floats())


def test_blocks_that_write_the_same_element_race() -> None:
    run("x[blockIdx.x * blockDim.x + t] = 1;", floats(2 * THREADS), grid=2)
    with pytest.raises(EmulatorError, match=r"block \(1, 0, 0\), .* race: writes .* which thread 0 of block 0 writes"):
        run("x[t] = 1;", floats(), grid=2)


def test_shared_memory_is_each_blocks_own() -> None:
    x = floats(2 * THREADS)
    run("__shared__ REAL s[64]; s[t] = x[64 * blockIdx.x + t]; __syncthreads(); x[64 * blockIdx.x + t] = s[63 - t];", x,
        grid=2)  # fmt: skip
    np.testing.assert_array_equal(x, np.arange(2 * THREADS).reshape(2, -1)[:, ::-1].ravel())


def test_without_checks_the_reversed_order_still_shows_a_missing_barrier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(emulator.CHECKS, "0")
    x = floats()

    def body(middle: str) -> str:
        return f"__shared__ REAL s[64]; s[t] = x[t]; {middle} x[t] = s[63 - t];"

    run_both_ways(lambda: run(body("__syncthreads();"), x), x)
    with pytest.raises(EmulatorError, match="array 0 depends on the order of the threads"):
        run_both_ways(lambda: run(body(""), x), x)


def test_a_result_that_depends_on_the_order_is_found_in_what_a_call_returns() -> None:
    values = iter([floats(), floats() + 1])
    with pytest.raises(EmulatorError, match="array 0 depends on the order"):
        run_both_ways(lambda: next(values))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (t < 40) __syncthreads();", r"divergent barrier: thread 39 waits at .* line 1, but thread 63 has ended"),
        ("if (t < 40) __syncthreads();\nelse\n__syncthreads();", r"divergent barrier: .* line 3, thread 0 on line 1"),
        ("if (t == 3) return; __syncwarp();", r"waits on line 1 for threads of its warp that never come"),
        ("if (t % 32 < 16) x[t] = __shfl_sync(0xffffffffu, x[t], 0);", "threads of its warp that never come"),
        ("x[t] = __shfl_sync(0xffffu, x[t], 0);", r"lane 16 is not in its own mask 0xffff"),
        ("if (t % 2) __syncwarp(); else\n x[t] = __shfl_sync(0xffffffffu, x[t], 0);", "is in an exchange on line"),
        ("if (t < 32) __syncthreads(); else __syncwarp(); __syncthreads();\n__syncwarp();", "divergent barrier"),
    ],
)
def test_threads_that_part_at_a_barrier_are_an_error_and_no_hang(body: str, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        run(body, floats())


def test_a_mask_names_no_threads_that_are_not_there() -> None:
    with pytest.raises(EmulatorError, match="names threads that the block .48 threads. does not have"):
        run("x[t] = __shfl_xor_sync(0xffffffffu, x[t], 1);", floats(), block=48)


@pytest.mark.parametrize("declaration", ["__shared__ REAL s[64];", "extern __shared__ REAL s[];"])
def test_shared_memory_holds_no_zeros(declaration: str) -> None:
    x = floats(2 * THREADS)
    run(declaration + "x[64 * blockIdx.x + t] = s[t]; __syncthreads(); s[t] = 0;", x, grid=2, shared=256)
    assert np.isnan(x).all()


@pytest.mark.parametrize(
    ("parameters", "arg", "message"),
    [
        ("double* x", floats(), "parameter 0 is a pointer to double, given is a pointer to float"),
        ("int x", 1, "parameter 0 is a int, given is a long long"),
        ("long long x", np.int32(1), "parameter 0 is a long long, given is a int"),
        ("REAL x", 1.0, "parameter 0 is a float, given is a double"),
        ("REAL* x", np.float32(1), "parameter 0 is a pointer to float, given is a float"),
        ("REAL x", floats(), "parameter 0 is a float, given is a pointer to float"),
    ],
)
def test_arguments_of_the_wrong_kind(parameters: str, arg: Any, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        run("", arg, parameters=parameters)


def test_the_number_of_arguments() -> None:
    with pytest.raises(EmulatorError, match="kernel test has 1 parameters, 2 are given"):
        run("", floats(), floats())


@pytest.mark.parametrize(
    ("body", "shared", "message"),
    [
        (
            "__shared__ double s[6145]; s[t] = x[t]; __syncthreads(); x[t] = s[63 - t];",
            0,
            "more than 48 KiB of static shared memory",
        ),
        ("", 48 * 1024 + 1, "need max_dynamic_shared_size_bytes to be set"),
    ],
)
def test_too_much_shared_memory(body: str, shared: int, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        run(body, floats(), shared=shared)


def test_a_source_without_kernels_and_a_name_that_is_not_there() -> None:
    with pytest.raises(EmulatorError, match="the source has no kernel: write"):
        Module('__device__ void f() {} // extern "C" __global__ void g(')
    with pytest.raises(EmulatorError, match="no kernel g, but f"):
        Module('extern "C" __global__ void f() {}').get_function("g")


def test_atomics_do_not_compile() -> None:
    with pytest.raises(EmulatorError, match="atomicAdd"):
        run("atomicAdd(x, 1.0f);", floats())


def test_after_an_error_the_next_launch_works() -> None:
    x = floats()
    with pytest.raises(EmulatorError):
        run("if (t < 40) __syncthreads(); x[t] = 1;", x)
    body = "if (n && threadIdx.x < 40) __syncthreads(); x[threadIdx.x] = 2;"
    code = f'extern "C" __global__ void test(REAL* x, int n) {{ {body} }}'
    function = Module(code, FLOAT).get_function("test")
    with pytest.raises(EmulatorError):
        function((1,), (THREADS,), (x, np.int32(1)))
    function((1,), (THREADS,), (x, np.int32(0)))
    assert (x == 2).all()
