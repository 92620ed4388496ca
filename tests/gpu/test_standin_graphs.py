"""The stand-in captures a stream as CuPy and CUDA do: what may be in a graph, and what makes one wrong."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import standin


@pytest.fixture
def cupy(cupy_standin: ModuleType) -> ModuleType:
    return cupy_standin


KERNEL = 'extern "C" __global__ void twice(REAL* x, int n) { if (threadIdx.x < n) x[threadIdx.x] *= 2; }'


def test_a_capture_computes_nothing_and_each_launch_computes_anew(cupy: ModuleType) -> None:
    a, total = cupy.ones(3), cupy.zeros(())
    twice = cupy.RawModule(code=KERNEL, options=("-DREAL=double",)).get_function("twice")
    stream = cupy.cuda.Stream(non_blocking=True)
    pool = cupy.cuda.MemoryPool()
    standin.reset()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        assert not stream.is_capturing()
        stream.begin_capture()
        assert stream.is_capturing()
        b = a + 1  # 2
        twice((1,), (32,), (b, np.int32(2)))  # 4, 4, 2
        b[1:] -= a[1:]  # 4, 3, 1
        b.sum(out=total)
        copied = b[cupy.arange(2)].reshape(2, 1)
        graph = stream.end_capture()
    assert standin.counts() == standin.Counts()
    assert np.isnan(b.get()).all() and np.isnan(copied.get()).all() and float(total) == 0
    standin.reset()
    graph.launch()
    assert standin.counts() == standin.Counts(graph_launches=1)
    assert b.tolist() == [4, 3, 1] and float(total) == 8 and copied.tolist() == [[4], [3]]
    a[...] = 2
    graph.launch(stream)
    assert b.tolist() == [6, 4, 1] and float(total) == 11


@pytest.mark.parametrize(
    "call",
    [
        lambda cupy, a: a.get(),
        lambda cupy, a: float(a[0, 0]),
        lambda cupy, a: bool((a > 0).all()),
        lambda cupy, a: a.set(np.ones((2, 2))),
        lambda cupy, a: cupy.asarray(np.ones(2)),
        lambda cupy, a: cupy.asarray(1.0),
        lambda cupy, a: a[[0]],
        lambda cupy, a: a[a > 0],
        lambda cupy, a: cupy.where(a > 0),
        lambda cupy, a: cupy.matmul(a, a),
        lambda cupy, a: a.dot(a),
        lambda cupy, a: cupy.cuda.Device().synchronize(),
        lambda cupy, a: cupy.cuda.get_current_stream().synchronize(),
        lambda cupy, a: cupy.cuda.get_current_stream().begin_capture(),
        lambda cupy, a: cupy.RawModule(code=KERNEL, options=("-DREAL=double",)).get_function("twice"),
    ],
)
def test_what_cannot_be_captured_is_refused(cupy: ModuleType, call: Callable[..., object]) -> None:
    a, stream = cupy.ones((2, 2)), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises((RuntimeError, NotImplementedError)):
            call(cupy, a)
        stream.end_capture()
    call(cupy, a) if "begin_capture" not in call.__code__.co_names else None


def test_the_null_stream_is_not_captured(cupy: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="default"):
        cupy.cuda.Stream.null.begin_capture()
    with pytest.raises(RuntimeError, match="not captured"):
        cupy.cuda.Stream().end_capture()
    blocking, other = cupy.cuda.Stream(), cupy.cuda.Stream(non_blocking=True)
    a = cupy.zeros(1)
    other.begin_capture()
    a += 1  # on the null stream: it does not wait for `other`
    other.end_capture().launch()
    assert a.tolist() == [1]
    blocking.begin_capture()
    with pytest.raises(RuntimeError, match="null stream while a blocking stream is captured"):
        a += 1
    blocking.end_capture()


def test_a_graph_holds_no_array_alive(cupy: ModuleType) -> None:
    a, kept, stream = cupy.ones(3), cupy.zeros(3), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        kept += a
        graph = stream.end_capture()
    graph.launch()
    view = a[1:]
    del a
    graph.launch()  # the view has the memory
    del view
    with pytest.raises(RuntimeError, match="has been freed since"):
        graph.launch()


def test_memory_made_in_a_capture_needs_a_pool_of_its_own(cupy: ModuleType) -> None:
    a, kept = cupy.ones(3), cupy.zeros(3)
    pool, stream = cupy.cuda.MemoryPool(), cupy.cuda.Stream(non_blocking=True)

    def capture() -> Any:
        with stream:
            stream.begin_capture()
            cupy.add(a * 2, 1, out=kept)  # the product is freed at once
            return stream.end_capture()

    with cupy.cuda.using_allocator(pool.malloc):
        graph = capture()
    graph.launch()
    assert kept.tolist() == [3, 3, 3]
    with pytest.raises(RuntimeError, match="went back to the default pool"):
        capture().launch()
