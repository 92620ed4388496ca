"""Worker processes: the bits of threads, whatever happens between steps, and no process left behind."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import npconv as nc
from npconv import processes, training

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="worker processes are forked, on Linux only")


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch, set_workers: Callable[[int], None]) -> Iterator[None]:
    """Two workers for the smallest network, and processes from the third step on."""
    set_workers(2)
    monkeypatch.delenv("NPCONV_PROCESSES", raising=False)
    monkeypatch.setattr(training, "THREAD_WORK", 1)
    monkeypatch.setattr(training, "PROCESS_WORK", 1)
    monkeypatch.setattr(training, "STEPS_BY_THREADS", 2)
    yield
    gc.collect()


def batch(rng: np.random.Generator, count: int = 6, size: int = 8) -> tuple[Any, Any]:
    return rng.random((count, 3, size, size), dtype="float32"), rng.random((count, 3, size, size), dtype="float32")


def small(optimizer: str = "SGD") -> nc.Model:
    nc.manual_seed(3)
    network = nc.networks.strided(4)
    options = {"momentum": 0.9} if optimizer == "SGD" else {}
    return nc.Model(network, nc.MSE(), getattr(nc, optimizer)(network.parameters(), lr=0.1, **options))


def in_processes(model: nc.Model) -> bool:
    return model._crew._team is not None and model._crew._team.alive


def state(model: nc.Model) -> list[bytes]:
    return [part.tobytes() for p in model.network.parameters() for part in (p.data, p.grad)]


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("workers", [2, 3])
def test_processes_give_the_bits_of_threads(
    optimizer: str, workers: int, set_workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a batch with fewer images, and for one with more, which threads compute."""
    set_workers(workers)
    found = []
    for by_processes in ("1", "0"):
        monkeypatch.setenv("NPCONV_PROCESSES", by_processes)
        model, rng = small(optimizer), np.random.default_rng(5)
        losses = [model.train_batch(*batch(rng, count)) for count in (6, 6, 6, 6, 5, 6, 9, 6)]
        assert in_processes(model) == (by_processes == "1")
        found.append([np.array(losses).tobytes(), *state(model)])
    assert found[0] == found[1]


def test_what_changes_between_steps_reaches_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of parameters and of buffers, changed in place."""

    def run() -> list[float]:
        nc.manual_seed(0)
        network = nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), nc.BatchNorm2d(4).eval(), nc.Conv2d(4, 3, 3, padding=1))
        model, rng = nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=0.01)), np.random.default_rng(5)
        losses = [model.train_batch(*batch(rng)) for _ in range(4)]
        network[0].weight.data *= 2
        network[1].running_mean += 0.5
        return [*losses, *(model.train_batch(*batch(rng)) for _ in range(2)), float(in_processes(model))]

    by_processes = run()
    monkeypatch.setenv("NPCONV_PROCESSES", "0")
    by_threads = run()
    assert by_processes[-1] == 1 and by_threads[-1] == 0
    assert by_processes[:-1] == by_threads[:-1]


def test_a_change_of_structure_starts_anew() -> None:
    model, rng = small(), np.random.default_rng(0)
    for _ in range(4):
        model.train_batch(*batch(rng))
    first = model._crew._team
    assert first is not None and first.alive
    model.network.eval()
    model.train_batch(*batch(rng))
    assert not first.alive and not in_processes(model)


def test_prediction_between_steps_is_no_change() -> None:
    model, rng = small(), np.random.default_rng(0)
    for _ in range(4):
        model.train_batch(*batch(rng))
    team = model._crew._team
    model.predict(rng.random((3, 16, 16)) * 255)
    model.train_batch(*batch(rng))
    assert model._crew._team is team and in_processes(model)


class Mine(nc.Module):
    def forward(self, x: Any) -> Any:
        return x * 2

    def backward(self, grad_output: Any) -> Any:
        return grad_output * 2


class MyLoss(nc.MSE):
    pass


@pytest.mark.parametrize(
    ("network", "loss"),
    [
        (nc.Sequential(nc.Conv2d(3, 3, 1), Mine()), nc.MSE()),
        (nc.Sequential(nc.Conv2d(3, 3, 1), nc.Dropout(0.5)), nc.MSE()),
        (nc.Conv2d(3, 3, 1), MyLoss()),
    ],
    ids=["a module of one's own", "a module that draws", "a loss of one's own"],
)
def test_what_a_copy_could_get_wrong_stays_with_threads(network: nc.Module, loss: nc.Loss) -> None:
    assert processes.possible(nc.Conv2d(3, 3, 1), nc.MSE())
    assert not processes.possible(network, loss)
    model, rng = nc.Model(network, loss, nc.SGD(network.parameters(), lr=0.1)), np.random.default_rng(0)
    for _ in range(5):
        model.train_batch(*batch(rng))
    assert not in_processes(model)


def test_a_wrapped_forward_stays_with_threads() -> None:
    layer = nc.Conv2d(3, 3, 1)
    layer.forward = lambda x: nc.Conv2d.forward(layer, x)  # type: ignore[method-assign]
    assert not processes.possible(layer, nc.MSE())


def test_an_error_in_a_process_reaches_the_caller_and_harms_nothing() -> None:
    """A share without images, which no batch has, is an error of the loss there."""
    model, rng = small(), np.random.default_rng(0)
    for _ in range(4):
        model.train_batch(*batch(rng))
    team = model._crew._team
    send = team._ours[0].send

    class Breaking:
        def send(self, message: Any) -> None:
            send((0, [(0, 0)], 6))

        def fileno(self) -> int:
            return end.fileno()

        def recv(self) -> Any:
            return end.recv()

    end, team._ours = team._ours[0], [Breaking()]
    with pytest.raises(ValueError, match="(?s)at least one element.*in a worker process.*Traceback"):
        model.train_batch(*batch(rng))
    assert not team.alive
    assert model.train_batch(*batch(rng)) > 0


@pytest.mark.parametrize("moment", ["between steps", "within a step"])
def test_a_process_that_dies_is_replaced_by_threads(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, twin, rng = small(), small(), np.random.default_rng(0)
    batches = [batch(rng) for _ in range(6)]
    for pair in batches[:4]:
        model.train_batch(*pair)
    assert in_processes(model)
    team = model._crew._team
    if moment == "between steps":
        os.kill(team._processes[0].pid, signal.SIGKILL)
    else:
        send = team._ours[0].send

        class Killing:
            def send(self, message: Any) -> None:
                os.kill(team._processes[0].pid, signal.SIGKILL)
                send(message)

            def fileno(self) -> int:
                return team_end.fileno()

            def recv(self) -> Any:
                return team_end.recv()

        team_end, team._ours = team._ours[0], [Killing()]
    for pair in batches[4:]:
        model.train_batch(*pair)
    monkeypatch.setenv("NPCONV_PROCESSES", "0")
    for pair in batches:
        twin.train_batch(*pair)
    assert state(model) == state(twin)


def test_an_interrupt_ends_the_team_and_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rng = small(), np.random.default_rng(0)
    for _ in range(4):
        model.train_batch(*batch(rng))
    team = model._crew._team

    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(team._workers[0], "gradients", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.train_batch(*batch(rng))
    monkeypatch.undo()
    assert not team.alive
    assert np.isfinite(model.train_batch(*batch(rng)))


def test_processes_end_with_their_model() -> None:
    model, rng = small(), np.random.default_rng(0)
    for _ in range(4):
        model.train_batch(*batch(rng))
    pid = model._crew._team._processes[0].pid
    assert _runs(pid)
    del model
    gc.collect()
    assert _ends(pid)


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_processes_end_with_the_process_that_started_them(how: str) -> None:
    program = textwrap.dedent("""
        import sys, time
        import numpy as np
        import npconv as nc
        from npconv import training
        training.PROCESS_WORK, training.STEPS_BY_THREADS = 1, 2
        nc.backend()._pool.size = 2
        model = nc.Model(nc.networks.strided(4))
        x = np.zeros((4, 3, 8, 8), "float32")
        for _ in range(5):
            model.train_batch(x, x)
        print(model._crew._team._processes[0].pid, flush=True)
        sys.stdin.read()
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _runs(pid)
        if how == "kill":
            parent.kill()
        parent.stdin.close()
        parent.wait(10)
    assert _ends(pid)


def test_training_in_a_forked_copy_does_not_touch_the_gradients_of_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gradients of the second worker are in memory that a fork shares: both train on, apart."""
    model, rng = small(), np.random.default_rng(0)
    batches = [batch(rng) for _ in range(40)]
    for pair in batches[:4]:
        model.train_batch(*pair)
    assert in_processes(model)
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        other = context.Process(target=lambda: [model.train_batch(*pair) for pair in batches[4:][::-1]])
        other.start()
    for pair in batches[4:]:
        model.train_batch(*pair)
    other.join(30)
    assert other.exitcode == 0
    monkeypatch.setenv("NPCONV_PROCESSES", "0")
    twin = small()
    for pair in batches:
        twin.train_batch(*pair)
    assert state(model) == state(twin)


def test_models_that_train_in_turn_both_have_processes_and_end_apart() -> None:
    models, rng = [small(), small()], np.random.default_rng(0)
    for _ in range(5):
        for model in models:
            model.train_batch(*batch(rng))
    assert all(in_processes(model) for model in models)
    started = time.monotonic()
    for model in models:  # the first one's pipe is open in the second one's process too
        model._crew.close()
    assert time.monotonic() - started < 0.9


def test_train_leaves_no_process(rng: np.random.Generator) -> None:
    model = small()
    images = (rng.random((30, 3, 8, 8)) * 255).astype("float32")
    seen = []
    model.train(images, images, 1, batch_size=4, batch_callback=lambda *_: seen.append(in_processes(model)))
    assert seen[-1] and not in_processes(model) and not multiprocessing.active_children()


def test_where_no_process_can_be_had_threads_train_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> Any:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refused)
    model, rng = small(), np.random.default_rng(0)
    assert all(np.isfinite(model.train_batch(*batch(rng))) for _ in range(6))
    assert not in_processes(model)


def test_a_handler_of_the_caller_does_not_keep_processes_alive() -> None:
    """SIGTERM sets a flag, as in a job that is to stop after an epoch: the processes still end with their parent."""
    program = textwrap.dedent("""
        import signal
        import numpy as np
        import npconv as nc
        from npconv import training
        training.PROCESS_WORK, training.STEPS_BY_THREADS = 1, 2
        signal.signal(signal.SIGTERM, lambda *_: None)
        nc.backend()._pool.size = 2
        model = nc.Model(nc.networks.strided(4))
        x = np.zeros((4, 3, 8, 8), "float32")
        for _ in range(5):
            model.train_batch(x, x)
        assert model._crew._team.alive
    """)
    assert subprocess.run([sys.executable, "-c", program], timeout=20, check=True).returncode == 0


def test_a_copy_of_a_model_makes_processes_of_its_own() -> None:
    model, rng = small(), np.random.default_rng(0)
    for _ in range(4):
        model.train_batch(*batch(rng))
    assert in_processes(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not in_processes(twin)
        assert np.isfinite(twin.train_batch(*batch(rng)))
    assert in_processes(model)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def _ends(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not _runs(pid)
