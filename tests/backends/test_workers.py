"""Workers: tasks in order, errors, no_grad, and results that do not depend on how the batch is split."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest

import npconv as nc
from npconv.backends.cpu.workers import WorkerPool
from npconv.training import share_sizes

pytestmark = pytest.mark.cpu


def test_results_come_in_the_order_of_the_tasks() -> None:
    gate = threading.Event()

    def slow() -> str:
        assert gate.wait(10)  # ends only when the second task has run: they do run at the same time
        return "first"

    def fast() -> str:
        gate.set()
        return "second"

    assert WorkerPool(2).run([slow, fast]) == ["first", "second"]


def test_the_first_error_is_raised_after_all_tasks_ended() -> None:
    ended = []

    def failing(message: str) -> Callable[[], None]:
        def run() -> None:
            ended.append(message)
            raise ValueError(message)

        return run

    with pytest.raises(ValueError, match="one"):
        WorkerPool(2).run([failing("one"), failing("two"), lambda: ended.append("three")])
    assert sorted(ended) == ["one", "three", "two"]


def test_workers_know_of_no_grad() -> None:
    with nc.no_grad():
        assert WorkerPool(2).run([nc.is_grad_enabled] * 3) == [False] * 3
    assert WorkerPool(2).run([nc.is_grad_enabled] * 3) == [True] * 3


@pytest.mark.parametrize(("count", "workers"), [(7, 3), (2, 5), (1, 1), (8, 4), (5, 2)])
def test_shares_cover_the_batch_evenly(count: int, workers: int) -> None:
    shares = share_sizes(count, workers)
    assert [i for share in shares for i in range(count)[share]] == list(range(count))
    sizes = [len(range(count)[share]) for share in shares]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1 and len(shares) == min(count, workers)


@pytest.mark.parametrize("loss", [nc.MSE(), nc.MSE("sum"), nc.L1()])
def test_gradients_do_not_depend_on_the_number_of_workers(
    loss: nc.Loss, set_workers: Callable[[int], None], rng: np.random.Generator
) -> None:
    x, t = rng.random((7, 3, 8, 8)), rng.random((7, 3, 8, 8))
    network = nc.networks.strided(4, dtype="float64")
    start = network.state_dict()
    found = []
    for workers in (1, 2, 3, 7):
        set_workers(workers)
        network.load_state_dict(start)
        model = nc.Model(network, loss, nc.SGD(network.parameters(), lr=0.0))
        value = model.train_batch(x, t)
        found.append([np.asarray(value), *(p.grad.copy() for p in network.parameters())])
    for other in found[1:]:
        assert all(np.allclose(a, b, rtol=1e-11, atol=1e-15) for a, b in zip(found[0], other, strict=True))
    assert all(abs(grad).max() > 0 for grad in found[0][1:])


def test_the_same_seed_and_workers_give_the_same_bits(
    set_workers: Callable[[int], None], rng: np.random.Generator
) -> None:
    x, t = rng.random((6, 3, 8, 8), dtype="float32"), rng.random((6, 3, 8, 8), dtype="float32")
    set_workers(2)
    states = []
    for _ in range(2):
        nc.manual_seed(5)
        network = nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), nc.Dropout(0.5), nc.Conv2d(4, 3, 3, padding=1))
        model = nc.Model(network, optimizer=nc.Adam(network.parameters()))
        losses = [model.train_batch(x, t) for _ in range(3)]
        states.append([np.array(losses).tobytes(), *(p.data.tobytes() for p in network.parameters())])
    assert states[0] == states[1]


@pytest.mark.parametrize("count", [1, 2])
def test_npconv_threads_sets_the_number_of_workers(count: int) -> None:
    program = "import npconv; print(npconv.backend().workers)"
    environment = {**os.environ, "NPCONV_THREADS": str(count)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(count)
