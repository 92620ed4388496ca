"""What Windows, macOS, containers and sandboxes do not have, taken away here: the same bits come out.

None of this is a run on Windows or macOS. It shows that npconv does without what they lack: fork and what goes with it,
the number of cores a process may use, private anonymous memory maps, posix_fallocate, poll, Unix's own modules.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest

import npconv
from npconv.backends.cpu import cores as cpu_cores
from npconv.backends.cpu import workers
from npconv.cli import files
from npconv.cli.run_folder import resume_command

pytestmark = pytest.mark.cpu

Job = Callable[..., dict[str, Any]]

# NumPy and the others look at the platform while they are imported, and are those of this one; threadpoolctl looks
# when it searches for libraries.
OTHERS = """
import sys, os, mmap, select, signal, multiprocessing, multiprocessing.connection, subprocess, tempfile, shutil, types
import numpy, threadpoolctl, h5py
threadpoolctl.sys = types.SimpleNamespace(**vars(sys))
try: import PIL.Image, PIL.ImageOps, tifffile, matplotlib.figure, matplotlib.backends.backend_agg
except ImportError: pass
def without(module, *names):
    for name in names:
        if hasattr(module, name): delattr(module, name)
"""
WINDOWS = (
    OTHERS
    + """
without(os, "fork", "register_at_fork", "sched_getaffinity", "posix_fallocate", "getuid", "geteuid", "chown")
without(mmap, "MAP_PRIVATE", "MAP_ANONYMOUS", "MAP_ANON", "MAP_SHARED")
without(select, "poll", "epoll")
without(signal, "SIGKILL", "SIGHUP", "SIGALRM", "SIGPIPE", "SIGUSR1", "pthread_sigmask")
sys.modules.update(dict.fromkeys(("resource", "fcntl", "termios", "pwd", "grp", "pty")))
multiprocessing.set_start_method("spawn")
sys.platform = "win32"
"""
)
MACOS = (
    OTHERS
    + """
without(os, "sched_getaffinity", "posix_fallocate")
multiprocessing.set_start_method("spawn")
sys.platform = "darwin"
"""
)
NO_CORES = "import os; os.cpu_count = lambda: None; del os.sched_getaffinity"
SANDBOX = """
import os
def forbidden(*_): raise OSError(1, "Operation not permitted")
os.sched_getaffinity = forbidden
"""
# Without /dev/shm there are no semaphores and no shared memory with a name.
NO_SHM = """
import sys, _multiprocessing
sys.modules["_posixshmem"] = None
def missing(*_, **__): raise OSError(38, "Function not implemented")
_multiprocessing.SemLock = missing
"""
NO_FORK = "import os; del os.fork"
FORK_FAILS = """
import os
def fork(): raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = fork
"""

# The next files and pipes get these numbers.
NO_STREAMS = "import os, sys; os.close(0); os.close(2); sys.stdin = sys.stderr = sys.__stderr__ = None"


def failed(result: dict[str, Any]) -> list[str]:
    """The commands that did not end with 0, but for want of a package."""
    commands = {name: value for name, value in result.items() if isinstance(value, dict) and "status" in value}
    return [name for name, value in commands.items() if value["status"] and "pip install" not in value["err"]]


@pytest.mark.skipif(sys.platform != "linux", reason="takes away what Linux has")
@pytest.mark.parametrize(
    ("code", "processes", "commands"),
    [
        (WINDOWS, False, True),
        (MACOS, False, True),
        (NO_CORES, True, False),
        (SANDBOX, True, False),
        (NO_SHM, True, True),
        (NO_FORK, False, False),
        (FORK_FAILS, False, False),
        (NO_STREAMS, True, True),
    ],
    ids=[
        "windows",
        "macos",
        "no number of cores",
        "a sandbox",
        "no /dev/shm",
        "no fork",
        "no more processes",
        "no streams",
    ],
)
def test_another_machine_computes_the_same_bits(
    code: str, processes: bool, commands: bool, whole_job: Job, usual: dict[str, Any]
) -> None:
    result = whole_job(code, commands=commands)
    assert result["computed"] == {**usual["computed"], "processes": processes}
    assert failed(result) == [] and result["stderr"] == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no choice of cores here")
def test_one_core_has_one_worker_and_computes_the_same(environment: Any) -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "import npconv as nc, numpy as np; print(nc.backend().workers)\n"
        "m = nc.Model(nc.networks.strided(4)); x = np.full((4, 3, 8, 8), 9, 'uint8')\n"
        "m.train(x, x, num_epochs=1, batch_size=2); print(m.predict(x).shape)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(NPCONV_THREADS=None), capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n(4, 3, 8, 8)\n"


@pytest.mark.parametrize(
    ("affinity", "count", "cores"),
    [
        (lambda _: {0, 3}, lambda: 8, 2),
        (None, lambda: 8, 8),
        (None, lambda: None, 1),
        (OSError(38, "Function not implemented"), lambda: 6, 6),
        (PermissionError(1, "Operation not permitted"), lambda: None, 1),
    ],
)
def test_how_many_cores_there_are(monkeypatch: pytest.MonkeyPatch, affinity: Any, count: Any, cores: int) -> None:
    def refuse(_: int) -> set[int]:
        raise affinity

    if affinity is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        refused = isinstance(affinity, Exception)
        monkeypatch.setattr(os, "sched_getaffinity", refuse if refused else affinity, raising=False)
    monkeypatch.setattr(os, "cpu_count", count)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)  # test_quotas.py has it
    monkeypatch.setattr(cpu_cores, "quota_cores", lambda: None)
    monkeypatch.delenv("NPCONV_THREADS", raising=False)
    assert workers.usable_cores() == cores == workers.thread_count()


def test_no_named_shared_memory_and_no_temporary_file_is_used(environment: Any, tmp_path: Path) -> None:
    """So neither a small /dev/shm nor a small TMPDIR is in the way; what processes share is anonymous."""
    code = (
        "import sys, tempfile\n"
        "seen, temp = [], tempfile.gettempdir()\n"
        "sys.addaudithook(lambda e, a: seen.append(str(a)) if e in ('open', 'tempfile.mkstemp', 'tempfile.mkdtemp',\n"
        "    'shm_open') and ('/dev/shm' in str(a) or temp in str(a[0])) else None)\n"
        "import numpy as np, npconv as nc\n"
        "from npconv import training\n"
        "training.PROCESS_WORK, training.STEPS_BY_THREADS = 1, 1\n"
        "m = nc.Model(nc.networks.strided(4)); x = np.ones((4, 3, 8, 8), 'float32')\n"
        "[m.train_batch(x, x) for _ in range(4)]; print(m._crew._team is not None, seen)"
    )
    env = environment(NPCONV_THREADS="2", TMPDIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == f"{sys.platform == 'linux'} []\n"


def test_the_blas_of_numpy_is_one_that_its_threads_can_be_set_of() -> None:
    """threadpoolctl before 3.5 did not know the OpenBLAS of NumPy 2: its threads would compete with the workers."""
    built = np.show_config(mode="dicts")
    assert isinstance(built, dict)
    if "openblas" not in str(built["Build Dependencies"]["blas"]["name"]):
        pytest.skip("another BLAS, such as macOS's")
    assert "BLAS: openblas 0." in npconv.backend().describe()


# ---- Windows ----
def test_a_pattern_that_no_shell_has_expanded(inputs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """cmd.exe hands scans/*.tif on as it is."""
    photos = inputs / "photos"
    found = [photos / f"{i}.png" for i in range(3)]
    assert files.image_files([str(photos / "*.png")], shell_expands=False) == found
    (tmp_path / "a[1].png").write_bytes(b"")
    assert files.image_files([str(tmp_path / "a[1].png")], shell_expands=False) == [tmp_path / "a[1].png"]
    for names in ([str(photos / "*.tif")], [str(photos / "[9].png")]):
        with pytest.raises(FileNotFoundError, match="there is no image file or folder"):
            files.image_files(names, shell_expands=False)
    with pytest.raises(FileNotFoundError):
        files.image_files([str(photos / "*.png")], shell_expands=True)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        (r"C:\runs\my-run_1.2", r"C:\runs\my-run_1.2"),
        (r"D:\my runs\Größe", '"D:\\my runs\\Größe"'),
        (r"runs\a&b", r'"runs\a&b"'),
        (r"runs\it's (new)", r'''"runs\it's (new)"'''),
        ("\\\\server\\my share\\", '"\\\\server\\my share\\\\"'),
    ],
)
def test_a_printed_command_is_one_that_cmd_takes(path: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, single quotes are letters, and backslashes need nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        said = resume_command(PureWindowsPath(path))
    assert said == f"npconv train --resume {word}"
    assert resume_command(PurePosixPath("my runs/it's")) == """npconv train --resume 'my runs/it'"'"'s'"""


def test_files_are_closed_before_they_take_their_place(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to rename a file that is open or mapped: at each rename, none of the new files is."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("asks /proc which files are open")
    original, asked = os.replace, []

    def replace(source: Any, target: Any) -> None:
        opened = []
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                opened.append(os.readlink(f"/proc/self/fd/{number}"))
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
        for path in (source, target):
            assert str(path) not in opened and str(path) not in mapped
        asked.append(Path(target).suffix)
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    model = npconv.Model.load(inputs / "model.h5")
    for _ in range(2):  # a new file, and one in the place of an old one
        for ending in (".png", ".tif", ".npy", ".h5"):
            npconv.denoise_file(model, inputs / "noisy.npy", tmp_path / f"a{ending}", overwrite=True)
        model.save(tmp_path / "model.h5")
        npconv.write_state(model.network, tmp_path / "a.npz")
    assert asked == [".png", ".tif", ".npy", ".h5", ".h5", ".npz"] * 2
