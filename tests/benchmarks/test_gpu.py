"""The GPU's benchmark without a GPU: what it refuses and prints, and npconv's side of it on the stand-in for CuPy."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import architectures as nets  # noqa: E402  # the benchmarks are scripts, not a package
import contenders  # noqa: E402
import crew as crews  # noqa: E402
import gpu  # noqa: E402
import gpu_cases  # noqa: E402
import run  # noqa: E402
import timing  # noqa: E402
import with_cupy  # noqa: E402
import with_torch  # noqa: E402
import with_torch_cuda  # noqa: E402
from gpu_cases import GpuCase  # noqa: E402
from library import images  # noqa: E402

FAST = timing.Plan(rounds=2, turn_seconds=0.001, case_seconds=1.0)
STEP = GpuCase("step/tiny", "tiny step", "step", nets.strided(4), (2, 3, 8, 8), aims=gpu_cases.STEP_AIMS)
UPLOAD = GpuCase("step/tiny-upload", "tiny step", "upload_step", nets.strided(4), (2, 3, 8, 8))
LAYER = GpuCase("other/tiny", "tiny", "forward_backward", [nets.conv(3, 4)], (2, 3, 6, 6), aims={"eager": (0.5, 0.9)})
PREDICT = GpuCase("network/tiny", "tiny", "predict", nets.dncnn(4, 3), (1, 3, 9, 8), aims={"eager": (None, None)})
MEMORY = GpuCase("memory/tiny", "tiny", "step", nets.strided(4), (2, 3, 8, 8))
CURVE = GpuCase("curve/tiny", "tiny", "curve", nets.strided(4), (2, 3, 8, 8))

# A worker on the stand-in, whose "cuda" and "cuda-graph" are npconv once more, the second with a loss that is off by
# a little. Curves are shorter than 100 steps, and memory, which the stand-in does not count, is a number.
ON_STANDIN = """
import sys
sys.path[:0] = [{benchmarks!r}, {tests!r}]
import standin
cupy = standin.install()
cupy.cuda.runtime.runtimeGetVersion, cupy.cuda.runtime.driverGetVersion = lambda: 13020, lambda: 13000
import numpy as np
import with_npconv
import worker
from contenders import CONTENDERS, Cupy

with_npconv.CURVE_STEPS = 12

class Other(Cupy):
    pass

def extra_memory(self, work, times):
    work()
    return (6 if type(self) is Other else 3) * 10**6, "counted"

Cupy.extra_memory = extra_memory

class Wrong(Cupy):
    def build(self, spec):
        work = super().build(spec)
        return work._replace(results=lambda: {{k: v * np.float32(1.1) for k, v in work.results().items()}})

worker.main({{**CONTENDERS, "cuda": Other, "cuda-graph": Wrong if {wrong} else Other}})
"""


@pytest.fixture
def on_standin(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """The command of a worker on the stand-in; skips where there is no emulator for the kernels."""
    if sys.platform != "linux" or shutil.which("g++") is None or np.lib.NumpyVersion(np.__version__) < "2.1.0":
        pytest.skip("the kernels run on the CPU through g++ on Linux and NumPy 2.1, one of which is not here")

    def command(wrong: bool = False) -> tuple[str, str]:
        script, tests = tmp_path / "worker_on_standin.py", BENCHMARKS.parent / "tests" / "gpu"
        script.write_text(ON_STANDIN.format(benchmarks=str(BENCHMARKS), tests=str(tests), wrong=wrong))
        return sys.executable, str(script)

    return command


@pytest.fixture(autouse=True)
def policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark sets the policy of its workers; after a test it is as it was. Two steps settle a worker here."""
    monkeypatch.setenv("NPCONV_TF32", "0")
    monkeypatch.setattr(timing, "SETTLE", 2)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has all it needs."""
    monkeypatch.setattr(gpu, "unusable_because", lambda: None)
    monkeypatch.setattr(gpu, "QUICK", FAST)
    monkeypatch.setattr(gpu, "driver", lambda: "580.1")


def options(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"threads": 1, "json": None, "quick": True, **given})


# ---- arguments, and what is missing ----
def test_list_names_every_case_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [case.name for case in gpu_cases.everything()] and len(set(names)) == len(names)
    gpu.main(["--list", "--only", "memory", "--only", "step/nearest-32ch-b32"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["step/nearest-32ch-b32", "step/nearest-32ch-b32-upload",
                     "memory/step-32ch-b32", "memory/step-32ch-b100", "memory/unet"]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "convolution"], "--only (='convolution') must be a name or its beginning:\n  step/nearest-32ch-b4"),
        (["--only", ""], "--only (='') must be"),
        (["--json", "no-such-folder/a.json"], "--json (='no-such-folder/a.json') must be a file in a folder that"),
        (["--threads", "2"], "unrecognized arguments: --threads 2"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("npconv.backends.gpu.unusable_because", lambda: "there is no usable CUDA driver (none)")
    monkeypatch.setattr(gpu, "tests_pass", lambda: pytest.fail("the tests were run"))
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "nothing to measure: there is no usable CUDA driver (none)\n"


def test_the_other_script_goes_to_the_gpu_where_the_backend_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NPCONV_BACKEND", "cupy")
    monkeypatch.setattr(gpu, "unusable_because", lambda: "CuPy is not installed; install it")
    assert run.main(["--quick", "--only", "step"]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("NPCONV_BACKEND=cupy: the GPU's cases, as benchmarks/gpu.py --no-tests")
    assert captured.err == "nothing to measure: CuPy is not installed; install it\n"
    with pytest.raises(SystemExit):
        run.main(["--plot", "folder"])
    assert "unrecognized arguments: --plot folder" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "lines"), [(0, ["3 passed"]), (1, ["first", "3 failed", "the tests failed"])])
def test_the_tests_run_on_cupy_and_their_closing_line_is_shown(
    status: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import os, sys; assert os.environ['NPCONV_TEST_BACKEND'] == 'cupy'; assert os.path.isdir('benchmarks');"
        f"print('first'); print('3 ' + ['passed', 'failed'][{status}]); sys.exit({status})"
    )
    assert gpu.tests_pass([sys.executable, "-c", code]) is (status == 0)
    printed = capsys.readouterr().out.splitlines()[1:]
    assert [any(line.startswith(text) for line in printed) for text in lines] == [True] * len(lines)
    assert ("first" in printed) is (status == 1)


@pytest.mark.parametrize(("status", "expected"), [(0, 1), (1, 1), (2, 1), (130, 130)])
def test_tests_that_fail_make_the_exit_status_1(
    status: int, expected: int, with_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "tests_pass", lambda: False)
    monkeypatch.setattr(gpu.GpuBenchmark, "run", lambda self, items, command: status)
    assert gpu.main([]) == expected
    assert gpu.main(["--no-tests"]) == status


# ---- cases ----
def test_every_line_of_the_aims_has_its_bar_and_goal() -> None:
    aims = {case.name: case.aims for case in gpu_cases.everything()}
    for batch in (4, 32, 100):
        assert aims[f"step/nearest-32ch-b{batch}"] == {"eager": (1.5, 3.0), "graphs": (0.8, 1.2)}
    assert aims["conv/64ch-512x32x32"] == {"eager": (0.5, 0.9)}
    assert aims["network/unet"]["eager"] == (0.8, 1.5)
    assert next(case for case in gpu_cases.TIMED if case.name == "conv/64ch-512x32x32").shape == (512, 64, 32, 32)
    assert gpu_cases.CURVE_BOUND == 1e-3


def test_contenders_of_a_case_and_bounds_of_a_policy() -> None:
    assert LAYER.contenders == ["cupy", "cuda", "cuda-channels-last"]
    assert STEP.contenders == UPLOAD.contenders == gpu.NAMES
    assert set(gpu.NAMES) <= set(contenders.CONTENDERS)
    for case in gpu_cases.everything():
        off, on = case.with_tf32(False), case.with_tf32(True)
        assert off.bound < on.bound < 0.05 and (off.gradient_bound or 1) < (on.gradient_bound or 1) <= 0.1


# ---- PyTorch ----
def test_pytorch_without_cuda_says_so() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("PyTorch has CUDA here")
    with pytest.raises(RuntimeError, match="has no CUDA, or finds no GPU"):
        with_torch_cuda.TorchCuda(1)


def test_the_warm_up_of_a_capture_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU a capture computes: what it leaves must be one step from the common weights."""
    torch = pytest.importorskip("torch")
    contender = with_torch_cuda.TorchCudaGraph.__new__(with_torch_cuda.TorchCudaGraph)
    contender.torch = torch
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, fake in (("Stream", lambda: stream), ("current_stream", lambda: stream), ("CUDAGraph", SimpleNamespace),
                       ("stream", lambda side: nullcontext()), ("graph", lambda graph: nullcontext())):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    taken: list[int] = []

    def trained(capture: bool) -> tuple[list[Any], Any]:
        network = with_torch.Torch.network(contender, nets.strided(4))
        sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        x, target = (torch.from_numpy(images((2, 3, 8, 8), seed)) for seed in (2, 3))

        def eager(x: Any, target: Any) -> Any:
            taken.append(1)
            sgd.zero_grad()
            loss = contender._loss_of(network(x), target)
            loss.backward()
            sgd.step()
            return loss.detach()

        loss = contender._captured(eager, network, sgd, x, target)[-1] if capture else eager(x, target)
        momenta = [sgd.state[parameter]["momentum_buffer"] for parameter in network.parameters()]
        return [parameter.detach() for parameter in network.parameters()] + momenta, loss

    captured, loss = trained(True)
    assert len(taken) == with_torch_cuda.WARM_UP + 1
    expected, first = trained(False)
    assert float(loss) == float(first)
    assert all(torch.equal(one, other) for one, other in zip(captured, expected, strict=True))


# ---- npconv on the stand-in, through the worker ----
@pytest.mark.parametrize("case", [STEP, UPLOAD, LAYER, PREDICT], ids=lambda case: case.name)
def test_npconv_agrees_with_itself_on_the_cpu(case: GpuCase, on_standin: Callable[..., tuple[str, str]]) -> None:
    """Graphs and eager give the same bits; the CPU, in float32, nearly those."""
    names = [name for name in case.contenders if name.startswith("cupy")]
    with crews.Crew(1, on_standin()) as crew:
        found = timing.measure(crew, names, case.with_tf32(False), FAST)
        assert found.errors == found.wrong == {}
        assert {len(times) for times in found.times.values()} == {2}
        if case.kind.endswith("step"):
            assert set(found.differences["cupy-eager"].values()) == {0.0}
            assert len(found.differences["cupy-eager"]) == 2 + 8  # output, losses, gradients
            return
        assert timing.measure(crew, ["npconv", "cupy"], case, FAST).differences["cupy"]["output"] < 1e-5


def test_no_step_waits_within_a_turn(on_standin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on_standin()
    import standin
    from worker import Requests

    from npconv import backends

    monkeypatch.setattr(backends, "_made", {})
    monkeypatch.setattr(backends, "_active", None)
    for name in ("NPCONV_BACKEND", "NPCONV_GPU_GRAPHS"):
        monkeypatch.setenv(name, "")
    before = sys.modules.get("cupy")
    standin.install()
    try:
        requests = Requests(lambda: with_cupy.Cupy(1))
        requests._library = with_cupy.Cupy(1)
        requests.build(STEP.spec())
        requests.time(steps=5, warm=0)
        standin.reset()
        requests.time(steps=5, warm=0)
        counts = standin.counts()
    finally:
        if before is not sys.modules["cupy"]:
            standin.uninstall()
    assert counts.synchronisations == 3  # before, after, and to look at the last loss
    assert (counts.to_device, counts.to_host, counts.graph_launches) == (0, 1, 5)


# ---- the whole script ----
def test_a_run_without_pytorch_measures_npconv_alone_and_says_so(
    with_gpu: None, on_standin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "installed", lambda name: False)
    monkeypatch.setattr(gpu_cases, "everything", lambda: [STEP, LAYER, MEMORY, CURVE])
    path = tmp_path / "figures.json"
    assert gpu.main(["--no-tests", "--quick", "--json", str(path)], on_standin()) == 2
    printed, stored = capsys.readouterr().out, json.loads(path.read_text())
    assert "PyTorch is not installed: npconv alone" in printed and stored["missing"]
    assert stored["machine"]["CUDA"] == "13.2, the driver's 13.0" and stored["machine"]["driver"] == "580.1"
    assert stored["machine"]["cupy"] == "14.2.0" and "stand-in" in stored["machine"]["gpu"]
    names = ["step/tiny fp32", "other/tiny fp32", "memory/tiny fp32", "step/tiny tf32", "other/tiny tf32",
             "memory/tiny tf32"]  # fmt: skip
    assert [row["name"] for row in stored["rows"]] == names
    assert all(row["ratio"] is None and row["mark"] == "" for row in stored["rows"])
    assert set(stored["rows"][0]["median"]) == {"npconv", "cupy-eager"} and set(stored["rows"][1]["median"]) == {
        "npconv"
    }
    assert re.search(r"^step/tiny fp32 +[\d.]+ ms +\([\d.]+\) +[\d.]+ ms", printed, re.MULTILINE)
    assert stored["curve"]["agree"] is True and stored["curve"]["npconv"][-1] < stored["curve"]["npconv"][0]
    assert re.search(r"^the losses of 12 steps on CPU and GPU .* within 0\.001: yes$", printed, re.MULTILINE)


def test_each_opponent_has_a_line_and_what_is_wrong_makes_the_exit_status_1(
    on_standin: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "driver", lambda: "580.1")
    names = ["cupy", "cuda", "cuda-graph"]
    right = gpu.GpuBenchmark(options(), FAST, names, [])
    assert right.run([STEP, MEMORY], on_standin()) == 0
    rows = {row.name: row for row in right.rows}
    assert list(rows) == [f"{name} {policy} / {opponent}" for policy in ("fp32", "tf32")
                          for name in ("step/tiny", "memory/tiny") for opponent in ("eager", "graphs")]  # fmt: skip
    row = rows["step/tiny fp32 / graphs"]
    assert (row.bar, row.goal) == (0.8, 1.2) and row.ratio == row.median["cuda-graph"] / row.median["npconv"]
    assert row.mark in ("goal", "bar", "below") and rows["step/tiny fp32 / eager"].bar == 1.5
    assert rows["memory/tiny fp32 / eager"].ratio == 2.0
    wrong = gpu.GpuBenchmark(options(), FAST, ["cupy", "cuda-graph"], [])
    assert wrong.run([STEP], on_standin(wrong=True)) == 1
    assert {row.mark for row in wrong.rows} == {"wrong"} and wrong.rows[0].median == {}
    assert "cuda-graph in output 1.0e-01, losses" in wrong.rows[0].note


def test_losses_that_differ_are_a_failure(
    on_standin: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "CURVE_BOUND", -1.0)
    assert gpu.GpuBenchmark(options(), FAST, ["cupy"], []).run([CURVE], on_standin()) == 1
    assert "within -1: NO" in capsys.readouterr().out


def test_a_contender_that_cannot_start_is_left_out_and_npconv_must(
    on_standin: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.GpuBenchmark(options(), FAST, ["cupy", "nobody"][:1], []).run([PREDICT], on_standin()) == 0
    broken = tmp_path / "broken.py"
    broken.write_text("import sys; sys.exit('out of luck')")
    with pytest.raises(SystemExit, match="npconv does not start on the GPU: .*out of luck"):
        gpu.GpuBenchmark(options(), FAST, ["cupy"], []).run([STEP], (sys.executable, str(broken)))


# ---- counting memory ----
def test_memory_is_what_is_alive_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class MemoryHook:
        def __enter__(self) -> Any:
            made.append(self)
            return self

        def __exit__(self, *error: Any) -> None:
            made.clear()

    made: list[Any] = []
    counter = with_cupy.Counter()
    cupy = SimpleNamespace(cuda=SimpleNamespace(MemoryHook=MemoryHook))
    with with_cupy._hook(cupy, counter):
        for change in (512, 1024, -512, 768, -1024, -768):
            call = {"device_id": 0, "mem_size": abs(change), "mem_ptr": 1, "pmem_id": 2}
            made[0].malloc_postprocess(size=1, **call) if change > 0 else made[0].free_postprocess(**call)
    assert (counter.most, counter.now) == (512 + 1024 - 512 + 768, 0)


def test_versions_of_cuda() -> None:
    assert [with_cupy._version(number) for number in (13020, 12080, 0)] == ["13.2", "12.8", "0.0"]
