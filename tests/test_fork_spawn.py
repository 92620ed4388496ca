"""Processes of the caller's: forked, spawned, nested and ending at any moment, beside threads and workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parent / "reference"
HAS_SHM = os.path.isdir("/dev/shm")
pytestmark = [pytest.mark.cpu, pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")]

BEGINNING = """
    import concurrent.futures as cf
    import contextlib, multiprocessing as mp, os, signal, subprocess, sys, threading, time, warnings
    sys.path.insert(0, {reference!r})
    import numpy as np
    import npconv as nc
    import small_training
    from small_training import batch, experiment
    small_training.share_smallest()
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="__main__")  # of forks that are asked for

    def trained(steps=5):
        model, rng = nc.Model(small_training.network(0)), np.random.default_rng(0)
        for _ in range(steps):
            model.train_batch(*batch(rng))
        return model

    def ends_within(pid, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status) == 0
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        return False

    def forked(work):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if work() else 1
            finally:
                os._exit(code)
        return pid
"""


def run(tmp_path: Path, program: str, code: int | None = 0, **environment: str) -> str:
    """What a program prints, with two workers; it must end with `code`, warn of nothing, and leave no process."""
    path = tmp_path / "program.py"
    beginning = textwrap.dedent(BEGINNING).format(reference=str(REFERENCE))
    path.write_text(beginning + textwrap.dedent(program))
    command = [sys.executable, "-X", "faulthandler", str(path)]
    variables = {**os.environ, "NPCONV_THREADS": "2", "PYTHONWARNINGS": "error", **environment}
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=variables, start_new_session=True) as process:
        try:
            out, errors = process.communicate(timeout=50)
        finally:
            process.kill()
    assert errors == "" and process.returncode == code, f"{process.returncode}\n{out}\n{errors}"
    assert ends(process.pid), "it left a process"
    return out


def ends(session: int) -> bool:
    """Whether all processes of a session end soon."""
    until = time.monotonic() + 10
    while any(session == of for of in sessions()):
        if time.monotonic() > until:
            os.killpg(session, signal.SIGKILL)
            return False
        time.sleep(0.02)
    return True


def sessions() -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc/self") else []):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] not in "ZX":
            found.append(int(fields[3]))
    return found


def shared() -> set[str]:
    """Python's shared memory and semaphores that have names."""
    return {name for name in os.listdir("/dev/shm") if name.startswith(("psm_", "sem."))} if HAS_SHM else set()


# ---- the caller's processes ----
def test_processes_of_every_kind_give_the_bits_of_this_one(tmp_path: Path) -> None:
    """After threads and worker processes have run here; pools, whose processes may have no children, too."""
    run(
        tmp_path,
        """
        def nested(seed):
            from npconv import processes
            with cf.ThreadPoolExecutor(2) as pool:
                found = list(pool.map(experiment, [seed, seed]))
            assert found[0] == found[1]
            may = processes.possible(small_training.network(0), nc.MSE())
            return found[0], may, mp.current_process().daemon

        def main():
            expected = {seed: experiment(seed) for seed in range(3)}
            for method in ("fork", "spawn", "forkserver"):
                with cf.ProcessPoolExecutor(2, mp_context=mp.get_context(method)) as pool:
                    found = list(pool.map(nested, range(3)))
                assert found == [(expected[seed], True, False) for seed in range(3)], (method, found)
                with mp.get_context(method).Pool(2) as pool:
                    found = pool.map(nested, range(3))
                assert found == [(expected[seed], False, True) for seed in range(3)], (method, found)
                assert experiment(1) == expected[1]

        if __name__ == "__main__":
            warnings.filterwarnings("ignore", category=DeprecationWarning)  # of multiprocessing's forks
            main()
        """,
    )


def test_forks_in_the_middle_of_other_threads_work_compute_right(tmp_path: Path) -> None:
    """Twenty children, each forked while two threads train; the parent's threads end with their own bits."""
    run(
        tmp_path,
        """
        expected = {seed: experiment(seed) for seed in range(3)}
        over, rounds = threading.Event(), []

        def go_on(seed):
            while not over.is_set():
                assert experiment(seed) == expected[seed]
                rounds.append(seed)

        with cf.ThreadPoolExecutor(2) as pool:
            threads = [pool.submit(go_on, seed) for seed in (1, 2)]
            for number in range(20):
                assert ends_within(forked(lambda: experiment(number % 3) == expected[number % 3]), 20), number
                time.sleep(0.003)
            over.set()
            for thread in threads:
                thread.result()
        assert set(rounds) == {1, 2}
        """,
    )


def test_a_child_is_not_kept_waiting_by_locks_that_threads_held_at_the_fork(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        from npconv import backends, exclusive, random
        from npconv.backends.cpu import memory
        from npconv.data import photos, pillow_images, tiff_file
        expected = experiment(1)
        nc.manual_seed(1)
        pool = nc.backend()._pool
        locks = [memory._joining, pool._lock, pool._blas._lock, backends._choosing, exclusive._lock,
                 photos._bookkeeping, pillow_images._opening, tiff_file._logging, random._generator.bit_generator.lock]
        held, over = threading.Event(), threading.Event()

        def hold():
            with contextlib.ExitStack() as stack:
                for lock in locks:
                    stack.enter_context(lock)
                held.set()
                over.wait()

        def work():
            new = [memory._joining, pool._lock, pool._blas._lock, backends._choosing, exclusive._lock,
                   photos._bookkeeping, pillow_images._opening, tiff_file._logging,
                   random._generator.bit_generator.lock]
            draws = np.array_equal(random.generator_or_default().random(5), np.random.default_rng(1).random(5))
            return all(lock.acquire(timeout=0.1) and lock.release() is None for lock in new) and draws and (
                experiment(1) == expected)

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        right = ends_within(forked(work), 20)
        over.set()
        thread.join()
        assert right
        """,
    )


def test_a_network_that_a_thread_trains_may_be_trained_in_a_child(tmp_path: Path) -> None:
    """That thread is not there; and what the child makes of it is not seen here."""
    run(
        tmp_path,
        """
        nc.manual_seed(0)
        model, begun, over = nc.Model(small_training.network(0)), threading.Event(), threading.Event()
        images = np.zeros((4, 3, 8, 8), "float32")

        def hold(*_):
            begun.set()
            over.wait()

        thread = threading.Thread(target=lambda: model.train(images, images, 1, batch_callback=hold))
        thread.start()
        begun.wait()
        before = small_training.state(model)
        rng = np.random.default_rng(0)
        assert ends_within(forked(lambda: all(np.isfinite(model.train_batch(*batch(rng))) for _ in range(5))), 20)
        assert small_training.state(model) == before
        over.set()
        thread.join()
        """,
    )


def test_children_draw_as_the_parent_would_and_each_its_own_where_nobody_set_a_seed(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        from npconv.random import generator_or_default as generator

        def drawn():
            reading, writing = os.pipe()
            def work():
                os.write(writing, generator().random(3).tobytes() + generator().spawn(1)[0].random(3).tobytes())
                return True
            assert ends_within(forked(work), 10)
            return os.read(reading, 48)

        assert len({drawn() for _ in range(3)}) == 3
        nc.manual_seed(5)
        generator().random(7)
        generator().spawn(1)
        found = {drawn() for _ in range(3)}
        assert found == {generator().random(3).tobytes() + generator().spawn(1)[0].random(3).tobytes()}
        """,
    )


# ---- worker processes, which the caller does not see ----
@pytest.mark.skipif(sys.platform != "linux", reason="worker processes are forked, on Linux only")
def test_worker_processes_keep_no_file_signal_or_buffer_of_the_program(tmp_path: Path) -> None:
    out = run(
        tmp_path,
        """
        reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        handled = []
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, lambda number, frame: handled.append((os.getpid(), number)) or print("handled"))
        print("once", end="")  # stays in the buffer
        filters = list(warnings.filters)
        model = trained()
        team = model._crew._team
        assert team is not None and team.alive
        pid = team._processes[0].pid
        kept = {os.readlink(f"/proc/{pid}/fd/{fd}").partition(":")[0] for fd in os.listdir(f"/proc/{pid}/fd")
                if int(fd) > 2}
        assert kept == {"socket"}, kept
        reader.stdin.close()
        assert reader.wait(5) == 0  # it saw the end of its input
        os.kill(pid, signal.SIGINT)
        time.sleep(0.05)
        assert np.isfinite(model.train_batch(*batch(np.random.default_rng(0)))) and team.alive
        os.kill(pid, signal.SIGUSR1)
        assert team._processes[0].join(5)
        assert np.isfinite(model.train_batch(*batch(np.random.default_rng(0)))) and not team.alive
        assert handled == []
        ours = [one for one in warnings.filters if one not in filters]
        assert ours == [] if sys.version_info < (3, 12) else [str(one[3].pattern) for one in ours] == [
            r"npconv\\.forked\\Z"]
        """,
        NPCONV_PROCESSES="1",
    )
    assert out == "once"


@pytest.mark.skipif(sys.platform != "linux", reason="worker processes are forked, on Linux only")
def test_worker_processes_end_though_another_fork_holds_their_pipe(tmp_path: Path) -> None:
    """A killed trainer closes its end, a copy of which lives on in a child that the program forked."""
    out = run(
        tmp_path,
        """
        from npconv import processes
        processes.LOOK_UP = 0.2
        model = trained()
        pid = model._crew._team._processes[0].pid

        def runs():
            with contextlib.suppress(FileNotFoundError), open(f"/proc/{pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] not in "ZX"

        def look():
            until = time.monotonic() + 5
            while runs() and time.monotonic() < until:
                time.sleep(0.01)
            print("runs" if runs() else "has ended", flush=True)

        forked(look)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        code=-signal.SIGKILL,
    )
    assert out == "has ended\n"


# ---- the interpreter's end ----
ENDS = {
    "worker processes": "model = trained(); assert model._crew._team.alive",
    "a daemon thread trains": """
        threading.Thread(target=lambda: [experiment(seed) for seed in range(10**6)], daemon=True).start()
        time.sleep(0.3)
    """,
    "a daemon thread trains with processes": """
        begun = threading.Event()
        def go_on():
            model, rng = trained(), np.random.default_rng(0)
            while True:
                model.train_batch(*batch(rng))
                if model._crew._team is not None and model._crew._team.alive:
                    begun.set()
        threading.Thread(target=go_on, daemon=True).start()
        assert begun.wait(20)
    """,
    "a thread that is waited for": "threading.Thread(target=experiment, args=(1,)).start()",
    "sys.exit in a thread": """
        def leave():
            model = trained()
            assert model._crew._team.alive
            model.train(np.zeros((8, 3, 8, 8)), np.zeros((8, 3, 8, 8)), 2, batch_callback=lambda *_: sys.exit(3))
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
    """,
    "work at exit": """
        import atexit
        model, expected = trained(), experiment(0)
        atexit.register(lambda: experiment(0) == expected or print("otherwise"))
        atexit.register(model.predict, np.zeros((2, 3, 8, 8)))
    """,
    "sys.exit in a callback": """
        images = np.random.default_rng(0).random((40, 3, 8, 8)) * 255
        trained().train(images, images, 9, batch_size=4, batch_callback=lambda step, *_: step == 6 and sys.exit(0))
    """,
}


@pytest.mark.parametrize("what", ENDS)
def test_an_interpreter_that_ends_leaves_nothing_and_says_nothing(what: str, tmp_path: Path) -> None:
    before = shared()
    assert run(tmp_path, ENDS[what]) == ""
    assert shared() <= before


# ---- the environment, at first use ----
WRONG = [
    ("NPCONV_THREADS", "0", "NPCONV_THREADS (='0') must be a whole number from 1 to 1024"),
    ("NPCONV_THREADS", "many", "NPCONV_THREADS (='many') must be a whole number from 1 to 1024"),
    ("NPCONV_PROCESSES", "-1", "NPCONV_PROCESSES (='-1') must be 0 or 1"),
    ("NPCONV_CONV", "fast", "NPCONV_CONV (='fast') must be one of auto, im2col, "),
    ("NPCONV_BACKEND", "gpu", "backend (='gpu', NPCONV_BACKEND=gpu) must be one of numpy, cupy, auto"),
]


@pytest.mark.parametrize(("variable", "value", "message"), WRONG)
def test_nonsense_in_the_environment_is_an_error_of_the_first_use(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing works, so that `npconv info` can show what is wrong; the first layer, array or model raises."""
    for name in ("NPCONV_THREADS", "NPCONV_PROCESSES", "NPCONV_CONV", "NPCONV_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    program = textwrap.dedent("""
        import sys
        import npconv as nc
        from npconv.cli import main
        for use in (nc.backend, lambda: nc.Conv2d(1, 1, 1), nc.Model, lambda: nc.asarray(1.0)):
            try:
                use()
            except ValueError as error:
                print(error)
        sys.exit(main(["info"]))
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) > 4 and all(line.startswith(message) for line in lines[:4]), done.stdout
    assert done.returncode == 1 and message in done.stderr and f"{variable} = {value}" in done.stdout
