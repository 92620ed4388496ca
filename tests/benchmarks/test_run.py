"""The benchmark script: what it lists and refuses, its workers' protocol, its comparison, its arithmetic."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import architectures as nets  # noqa: E402  # the benchmarks are scripts, not a package
import cases  # noqa: E402
import contenders  # noqa: E402
import crew as crews  # noqa: E402
import growth  # noqa: E402
import plots  # noqa: E402
import run  # noqa: E402
import summary_table  # noqa: E402
import timing  # noqa: E402
import with_npconv  # noqa: E402
from measuring import Benchmark  # noqa: E402

import npconv as nc  # noqa: E402

TINY = cases.single("conv/tiny", "tiny", nets.conv(2, 3), (2, 2, 6, 6), bar=0.5, goal=1e9)
STEP = cases.step("step/tiny", "tiny step", nets.strided(4), (4, 3, 8, 8))
FAST = timing.Plan(rounds=2, turn_seconds=0.001, case_seconds=1.0)

# A worker whose contender "wrong" is npconv with a last gradient that is a little off, "dying" ends in its first run,
# and "chatty" prints to standard output.
SABOTAGED = """
import os, sys
sys.path.insert(0, {folder!r})
import worker
from contenders import CONTENDERS, Npconv

class Wrong(Npconv):
    def build(self, spec):
        work = super().build(spec)
        def results():
            found = work.results()
            last = list(found)[-1]
            return {{**found, last: found[last] * 1.001}}
        return work._replace(results=results)

class Dying(Npconv):
    def build(self, spec):
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(7)

class Chatty(Npconv):
    def build(self, spec):
        print("hello")
        return super().build(spec)

worker.main({{**CONTENDERS, "wrong": Wrong, "dying": Dying, "chatty": Chatty}})
"""


@pytest.fixture
def sabotaged(tmp_path: Path) -> tuple[str, str]:
    script = tmp_path / "sabotaged_worker.py"
    script.write_text(SABOTAGED.format(folder=str(BENCHMARKS)))
    return sys.executable, str(script)


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "installed", lambda name: False)


# ---- arguments ----
def test_list_names_every_item_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [item.name for item in cases.everything()]
    assert len(set(names)) == len(names)
    assert {name.split("/")[0] for name in names} >= {"step", "conv", "other", "network", "layer", "memory", "import"}


def test_list_takes_groups_and_beginnings(capsys: pytest.CaptureFixture[str]) -> None:
    run.main(["--list", "--only", "memory", "--only", "conv/256"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [
        "conv/256ch-4x16x16-forward", "conv/256ch-4x16x16-forward-backward",
        "memory/step-32ch-b32", "memory/step-48ch-b100", "memory/unet",
    ]  # fmt: skip


def test_an_unknown_name_is_an_error_that_lists_the_names(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(["--only", "convolution"])
    message = capsys.readouterr().err
    assert ended.value.code == 2
    assert "--only (='convolution') must be a group (step, conv, " in message
    assert all(item.name in message for item in cases.everything())


def test_a_json_file_in_no_folder_is_an_error_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--json", "no-such-folder/figures.json"])
    assert "--json (='no-such-folder/figures.json') must be a file in a folder that exists" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--threads", "0"], ["--rounds", "-1"]])
def test_counts_below_one_are_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(arguments)
    assert f"(={arguments[1]}) must be at least 1" in capsys.readouterr().err


def test_long_trainings_run_only_when_asked_for() -> None:
    assert not any(item in cases.LONG for item in cases.chosen([], with_long=False))
    assert cases.chosen([], with_long=True)[-2:] == cases.LONG
    assert cases.chosen(["long/d"], with_long=False) == cases.LONG[1:]


# ---- cases ----
def test_every_line_of_the_aims_has_its_bar_and_goal() -> None:
    aims = {(item.bar, item.goal) for item in cases.TIMED if item.name.startswith("conv/64ch")}
    assert aims == {(1.4, 2.0)}
    without = [case.name for case in cases.TIMED if case.bar is None]
    assert without == ["conv/32ch-32x32x32-forward", "conv/16ch-32x32x32-forward"]  # the aims are for both passes


@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_the_strided_network_is_npconvs(upsampling: str) -> None:
    described = nets.strided(5, {"nearest": "nearest", "transposed": "k4"}[upsampling])
    assert repr(with_npconv.Npconv(1).network(described)) == repr(nc.networks.strided(5, upsampling=upsampling))


def test_the_unet_is_that_of_noise2noise() -> None:
    """Widths in and out of its 18 convolutions, in the order of the forward pass, and its output's shape."""
    network = with_npconv.Npconv(1).network(nets.unet())
    widths = [(m.in_channels, m.out_channels) for m in network.modules() if isinstance(m, nc.Conv2d)]
    encoder, decoder = [(3, 48), *[(48, 48)] * 6], [(96, 96), (96, 96), *[(144, 96), (96, 96)] * 3]
    assert widths == [*encoder, *decoder, (99, 64), (64, 32), (32, 3)]
    assert network(nc.asarray(np.zeros((1, 3, 32, 64)), "float32")).shape == (1, 3, 32, 64)


# ---- workers ----
def test_contenders_take_turns_with_npconv_alone() -> None:
    """ "npconv@1" is the same code in another process: the same bits, and times of its own."""
    with crews.Crew(1) as crew:
        found = timing.measure(crew, ["npconv", "npconv@1"], TINY, FAST)
        assert crew["npconv"] is not crew["npconv@1"]
    assert set(found.differences["npconv@1"].values()) == {0.0}
    assert len(found.differences["npconv@1"]) == 4  # output, gradients of input, weight and bias
    assert [len(times) for times in found.times.values()] == [2, 2]
    assert all(0 < seconds < 1 for times in found.times.values() for seconds in times)


def test_npconv_agrees_with_pytorch_in_both_layouts() -> None:
    """A layer and a training step, one after the other in the same workers."""
    pytest.importorskip("torch")
    with crews.Crew(1) as crew:
        for case in (TINY, STEP):
            found = timing.measure(crew, ["npconv", *contenders.LAYOUTS], case, FAST)
            assert found.errors == found.wrong == {}
            assert set(found.times) == {"npconv", *contenders.LAYOUTS}
            worst = max(value for of in found.differences.values() for value in of.values())
            assert 0 < worst < 1e-5  # other code: not the same bits


def test_a_contender_that_disagrees_is_reported_and_not_timed(sabotaged: tuple[str, str]) -> None:
    with crews.Crew(1, sabotaged) as crew:
        found = timing.measure(crew, ["npconv", "wrong"], TINY, FAST)
    assert list(found.wrong) == ["wrong"] and found.wrong["wrong"].startswith("gradient 2 1.0e-03")
    assert found.times == {}
    assert summary_table.timed_row(TINY, found).mark == "wrong"


def test_a_worker_that_dies_says_so_and_the_others_go_on(sabotaged: tuple[str, str]) -> None:
    with crews.Crew(1, sabotaged) as crew:
        found = timing.measure(crew, ["npconv", "dying", "chatty"], TINY, FAST)
        assert set(found.times) == {"npconv", "chatty"}
        assert found.errors == {"dying": "the worker of dying ended (status 7): out of luck"}
        with pytest.raises(crews.WorkerError, match=r"ValueError: only a training step has its memory measured"):
            crew["npconv"].ask("build", spec=TINY.spec())
            crew["npconv"].ask("memory", steps=1, warm_images=1)
        processes = [worker._process for worker in crew._workers.values()]
    assert all(process.poll() is not None for process in processes)  # none is left behind


def test_a_steps_memory_is_measured_in_bytes() -> None:
    case = cases.step("memory/some", "", nets.strided(8), (64, 3, 32, 32))
    with crews.Crew(1) as crew:
        crew["npconv"].ask("build", spec=case.spec())
        answer = crew["npconv"].ask("memory", steps=2, warm_images=1)
    # More than the first layer's output of one worker, less than everything there is, many times over.
    assert 64 * 1024 < answer["bytes"] < 100e6
    assert answer["method"].startswith("peak resident memory" if sys.platform == "linux" else "")


# ---- the whole script ----
def test_a_run_without_torch_writes_what_it_prints(
    without_torch: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cases, "everything", lambda: [TINY, STEP])
    path = tmp_path / "figures.json"
    status = run.main(["--rounds", "2", "--quick", "--threads", "1", "--json", str(path)])
    printed, stored = capsys.readouterr().out, json.loads(path.read_text())
    assert status == 0
    assert "PyTorch is not installed" in printed
    assert stored["missing"] == ["PyTorch is not installed: npconv alone, nothing to compare with (pip install torch)"]
    assert [row["name"] for row in stored["rows"]] == ["conv/tiny", "step/tiny"]
    for row, measured in zip(stored["rows"], stored["measurements"], strict=True):
        assert row["median"]["npconv"] == pytest.approx(np.median(measured["times"]["npconv"]))
        assert row["minimum"]["npconv"] == min(measured["times"]["npconv"])
        assert (row["ratio"], row["mark"]) == (None, "")
        assert re.search(rf"^{row['name']} +[\d.]+ ms +\([\d.]+\)", printed, re.MULTILINE)


def test_a_wrong_case_makes_the_exit_status_1(
    sabotaged: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = run.parser().parse_args(["--threads", "1", "--json", str(tmp_path / "figures.json")])
    monitored = Benchmark(args, FAST, ["npconv", "wrong"], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(contenders.CONTENDERS, "wrong", with_npconv.Npconv)  # for its title
        assert monitored.run([TINY], sabotaged) == 1
    assert re.search(r"conv/tiny: wrong: .* wrong in gradient 2 1\.0e-03", capsys.readouterr().out)
    assert json.loads((tmp_path / "figures.json").read_text())["rows"][0]["mark"] == "wrong"


def test_ctrl_c_ends_the_workers_and_keeps_what_was_measured(
    without_torch: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted while it waits for an answer: for that of the second case."""
    made: list[subprocess.Popen[str]] = []
    ask = crews.Worker.ask

    def interrupted(self: crews.Worker, what: str, **arguments: Any) -> dict[str, Any]:
        if arguments.get("spec", {}).get("kind") == "step":
            made.append(self._process)
            self._process.stdout = Interrupting(self._process.stdout)  # type: ignore[assignment]
        return ask(self, what, **arguments)

    monkeypatch.setattr(crews.Worker, "ask", interrupted)
    monkeypatch.setattr(cases, "everything", lambda: [TINY, STEP, TINY])
    assert run.main(["--rounds", "1", "--quick", "--threads", "1"]) == 130
    assert [process.poll() is None for process in made] == [False]
    printed = capsys.readouterr().out
    assert "interrupted" in printed and printed.count("[2/3") == 1 and "[3/3" not in printed
    assert re.search(r"^conv/tiny +[\d.]+ ms", printed, re.MULTILINE)


class Interrupting:
    """A pipe at which Ctrl-C is pressed."""

    def __init__(self, pipe: Any) -> None:
        self.close = pipe.close

    def readline(self) -> str:
        raise KeyboardInterrupt


# ---- arithmetic ----
@pytest.mark.parametrize(
    ("value", "bar", "goal", "mark"),
    [
        (2.0, 1.4, 2.0, "goal"), (1.99, 1.4, 2.0, "bar"), (1.4, 1.4, 2.0, "bar"), (1.39, 1.4, 2.0, "below"),
        (None, 1.4, 2.0, ""), (5.0, None, None, ""), (1.8, 1.7, None, "bar"), (1.6, 1.7, None, "below"),
    ],
)  # fmt: skip
def test_marks(value: float | None, bar: float | None, goal: float | None, mark: str) -> None:
    assert summary_table.marked(value, bar, goal) == mark


@pytest.mark.parametrize(("seconds", "mark"), [(0.15, "goal"), (0.151, "bar"), (0.25, "bar"), (0.26, "below")])
def test_a_ceiling_is_not_to_be_exceeded(seconds: float, mark: str) -> None:
    row = summary_table.Row("import", "", "s", {"npconv": seconds}, {}, None, 0.25, 0.15, ceiling=True)
    assert row.mark == mark


def measured(**times: list[float]) -> timing.Measurement:
    return timing.Measurement("case", 1e-4, 1e-4, {name.replace("_", "-"): values for name, values in times.items()})


def test_the_ratio_is_of_the_medians_and_of_the_better_layout() -> None:
    found = measured(
        npconv=[2.0, 1.0, 9.0], torch=[8.0, 7.0, 1.0], torch_channels_last=[5.0, 0.5, 6.0], torch_compile=[1.0]
    )
    row = summary_table.timed_row(cases.step("case", "", [], (), 2.0, 3.0), found)
    assert row.ratio == 2.5  # 5 / 2
    assert (row.median["npconv"], row.minimum["npconv"], row.mark) == (2.0, 1.0, "bar")


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"), [(6.0, 2.0, 3.0), (None, 2.0, None), (6.0, None, None), (6.0, 0.0, None)]
)
def test_ratio(theirs: float | None, ours: float | None, expected: float | None) -> None:
    assert summary_table.ratio(theirs, ours) == expected


def test_differences_are_relative_to_the_largest_value_and_miss_nothing() -> None:
    ours = {"a": np.array([4.0, -8.0]), "b": np.ones(2), "c": np.array([1.0, np.nan]), "d": np.ones(3), "e": np.ones(1)}
    theirs = {"a": np.array([4.0, -6.0]), "b": np.ones(2), "c": np.ones(2), "d": np.ones(4), "f": np.ones(1)}
    infinite = float("inf")
    expected = {"a": 0.25, "b": 0.0, "c": infinite, "d": infinite, "e": infinite, "f": infinite}
    assert timing.differences(ours, theirs) == expected


def test_gradients_have_a_bound_of_their_own() -> None:
    found = timing.Measurement("case", 1e-4, 5e-3, differences={"torch": {"output": 2e-4, "gradient 0": 2e-4}})
    assert found.wrong == {"torch": "output 2.0e-04"}


@pytest.mark.parametrize(("seconds", "expected"), [(0.1, 12), (1.0, 10), (8.0, 2), (100.0, 2)])
def test_slow_cases_have_fewer_rounds(seconds: float, expected: int) -> None:
    assert timing.rounds(timing.Plan(rounds=12, case_seconds=10.0, least=2), seconds) == expected


@pytest.mark.parametrize("power", [1.0, 0.5, 2.0])
def test_the_exponent_of_a_known_power(power: float) -> None:
    sizes = [16.0, 24.0, 96.0, 512.0]
    assert growth.exponent(sizes, [3e-4 * size**power for size in sizes]) == pytest.approx(power)


def test_growth_is_measured_printed_and_drawn(tmp_path: Path) -> None:
    tiny = tuple(cases.single(f"growth/{n}", "", nets.conv(2, 2), (n, 2, 8, 8)) for n in (1, 2))
    with crews.Crew(1) as crew:
        grown = growth.grow(crew, ["npconv"], growth.Series("growth/conv-batch", "batch", (1, 2), tiny), FAST)
    first, second = grown.seconds["npconv"]
    assert grown.exponents["npconv"] == pytest.approx(np.log2(second / first))
    assert f"{grown.exponents['npconv']:.2f}" in growth.lines(grown)[-1]
    plots.plot_growth([grown], tmp_path / "growth.png")
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_report_ds_curve_is_drawn(tmp_path: Path) -> None:
    epochs = [
        SimpleNamespace(epoch=n, psnr=20 + n, psnr_pooled=19 + n, loss=0.1 / n, validation_mse=0.05 / n) for n in (1, 2)
    ]
    plots.plot_curve(epochs, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
