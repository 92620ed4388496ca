"""`npconv convert` on the files of other people: what it takes for granted is said, what has no effect is refused."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import on_host
from torch_files import state, tensor, text, zip_file

import npconv as nc
from npconv import networks
from npconv.cli import SHOWN, in_words, main
from npconv.interchange.mapping import own_arrays
from npconv.model import Model

State = dict[str, np.ndarray]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Runs `npconv convert` in tmp_path: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> tuple[int, str, str]:
        status = main(["convert", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def random_state(network: nc.Module) -> State:
    """Weights for a network, in PyTorch's order."""
    rng = np.random.default_rng(0)
    own = {name: on_host(array) for name, array in own_arrays(network).items()}
    return {name: np.asarray(rng.uniform(0.5, 2, a.shape)).astype(a.dtype) for name, a in own.items()}


def model_state(path: str) -> State:
    found: State = on_host(Model.load(path).network.state_dict())
    return found


# ---- what is taken for granted ----
@pytest.mark.parametrize("prefix", ["model.", "dncnn."])
def test_biases_that_the_file_lacks_are_reported(prefix: str, convert: Any) -> None:
    full = random_state(networks.dncnn(depth=5, channels=3))
    lacking = [f"model.{i}.bias" for i in (2, 5, 8, 11)]
    ours = {name: value for name, value in full.items() if name not in lacking}
    nc.write_state({name.replace("model.", prefix): value for name, value in ours.items()}, "a.npz")
    status, out, err = convert("a.npz", "a.h5", "--network", "dncnn")
    assert (status, err) == (0, "")
    assert "4 biases that the file lacks are zero\n" in out
    found = model_state("a.h5")
    assert all(np.array_equal(found[name], value) for name, value in ours.items())
    assert not any(found[name].any() for name in lacking)
    nc.write_state({**ours, **{name: full[name] for name in lacking[1:]}}, "b.npz")
    assert "1 bias that the file lacks is zero\n" in convert("b.npz", "b.h5", "--network", "dncnn")[1]


def test_eps_of_the_batch_norms_is_said_and_can_be_chosen(convert: Any) -> None:
    nc.write_state(random_state(networks.dncnn(depth=4, channels=3)), "a.npz")
    for name, given, eps in (("a", (), 1e-4), ("b", ("--batch-norm-eps", "1e-5"), 1e-5)):
        status, out, _ = convert("a.npz", f"{name}.h5", "--network", "dncnn", *given)
        assert status == 0 and f"batch norm True, batch norm eps {eps:g};" in out
        norms = [m for m in Model.load(f"{name}.h5").network.modules() if isinstance(m, nc.BatchNorm2d)]
        assert [norm.eps for norm in norms] == [eps, eps]
    nc.write_state(random_state(networks.dncnn(depth=4, channels=3, batch_norm=False)), "c.npz")
    assert "eps" not in convert("c.npz", "c.h5", "--network", "dncnn")[1]
    status, _, err = convert("c.npz", "d.h5", "--network", "dncnn", "--batch-norm-eps", "1e-5")
    assert status == 2 and "--batch-norm-eps would have no effect: the network has no BatchNorm" in err


def test_kernels_first_are_matched_within_kinds(convert: Any) -> None:
    expected = random_state(networks.dncnn(depth=12, channels=3, batch_norm=False))
    kernels = [value for name, value in expected.items() if name.endswith("weight")]
    biases = [value for name, value in expected.items() if name.endswith("bias")]
    theirs = {f"w{i}": v for i, v in enumerate(kernels)} | {f"b{i}": v for i, v in enumerate(biases)}
    nc.write_state(theirs, "a.npz")
    status, out, _ = convert("a.npz", "a.h5", "--network", "dncnn")
    assert status == 0
    assert "matched by order within kernels and biases: model.0.weight = w0 ... model.22.bias = b11\n" in out
    found = model_state("a.h5")
    assert all(np.array_equal(found[name], value) for name, value in expected.items())
    assert convert("a.npz", "b.h5", "--network", "dncnn", "--mapping", "kinds")[0] == 0
    status, _, err = convert("a.npz", "c.h5", "--network", "dncnn", "--mapping", "order")
    assert status == 2 and "mismatched: model.0.bias = w1 has shape" in err


def test_the_entry_of_a_checkpoint_is_said(convert: Any, tmp_path: Path) -> None:
    inner = b"}(" + text("w") + tensor("0", 4, (4,), (1,)) + b"u"
    zip_file(tmp_path / "a.pth", state(params_ema=inner, epoch=b"I3\n"), {"0": bytes(16)})
    assert "a.pth, entry 'params_ema': 1 arrays, 4 numbers\n" in convert("a.pth", "a.npz")[1]


@pytest.mark.filterwarnings("default")
def test_weights_that_are_no_numbers_come_with_a_warning(convert: Any) -> None:
    odd = random_state(networks.strided(2))
    odd["2.bias"][0] = np.nan
    nc.write_state(odd, "a.npz")
    status, _, err = convert("a.npz", "a.h5", "--network", "strided")
    assert status == 0 and err == "npconv: warning: the weights 2.bias have NaN or infinite values\n"


# ---- folding ----
def test_folding_says_how_many_and_is_refused_where_there_is_nothing(convert: Any) -> None:
    nc.write_state(random_state(networks.dncnn(depth=5, channels=3)), "a.npz")
    assert "merged 3 BatchNorms, 0 left\n" in convert("a.npz", "a.h5", "--network", "dncnn", "--fold-batchnorm")[1]
    Model(nc.Sequential(nc.Conv2d(1, 2, 1), nc.BatchNorm2d(2), nc.ReLU(), nc.BatchNorm2d(2))).save("b.h5")
    assert "merged 1 BatchNorm, 1 left\n" in convert("b.h5", "c.h5", "--fold-batchnorm")[1]
    Model(nc.Sequential(nc.BatchNorm2d(2))).save("d.h5")
    for given, message in (
        (("a.h5", "e.h5"), "the network has no BatchNorm"),
        (("a.h5", "e.npz"), "the network has no BatchNorm"),
        (("d.h5", "e.h5"), "none of 1 BatchNorms follows a convolution"),
    ):
        status, _, err = convert(*given, "--fold-batchnorm")
        assert status == 2 and f"--fold-batchnorm would have no effect: {message}" in err
    assert not Path("e.h5").exists() and not Path("e.npz").exists()


# ---- options and errors ----
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "dncnn", "--image-channels", 0], "argument --image-channels: invalid choice: 0"),
        (["--network", "dncnn", "--channels", 0], "argument --channels: '0' must be at least 1"),
        (["--network", "nonet"], "--network (='nonet') must be one of unet, "),
        (
            ["--network", "ffdnet", "--batch-norm"],
            "--batch-norm is no option of --network ffdnet, which takes only --image-channels, --channels, --depth",
        ),
        (
            ["--network", "noise2noise-unet", "--depth", 3],
            "--depth is no option of --network noise2noise-unet, which takes only --image-channels",
        ),
    ],
)
def test_wrong_options_are_told_in_the_commands_words(arguments: list[Any], message: str, convert: Any) -> None:
    nc.write_state(random_state(networks.dncnn(depth=3, channels=3)), "a.npz")
    status, out, err = convert("a.npz", "a.h5", *arguments)
    assert (status, out) == (2, "") and message in err and err.count("\n") == 1


def test_a_list_is_printed_one_item_a_line(convert: Any) -> None:
    nc.write_state(random_state(networks.dncnn(depth=3, channels=3, batch_norm=False)), "a.npz")
    status, _, err = convert("a.npz", "a.h5", "--network", "dncnn", "--depth", 4)
    assert status == 2 and err.splitlines() == [
        "npconv convert: error: the weights do not fit Sum:",
        "  missing: model.6.weight",
        "  missing: model.6.bias",
        "  mismatched: model.4.weight has shape (3, 3, 3, 3) in the network, (1, 3, 3, 3) in the file",
        "  mismatched: model.4.bias has shape (3,) in the network, (1,) in the file",
    ]  # fmt: skip
    nc.write_state({f"x{i}": np.ones(1) for i in range(100)}, "b.npz")
    lines = convert("b.npz", "b.h5", "--network", "strided")[2].splitlines()
    assert len(lines) == SHOWN + 3 and lines[-2] == "  and 40 more"
    assert lines[-1] == "(neither names nor order agree: --mapping TABLE says which is which)"


def test_other_errors_stay_one_line() -> None:
    assert in_words(ValueError("a\nb   c\n")) == "a b c" and in_words(KeyError()) == "KeyError"
    assert in_words(ValueError("a:\n  b\n   c  d\nlast\nline")) == "a:\n  b\n  c d\nlast line"


# ---- the published figure ----
def test_the_benchmark_fails_outside_of_the_tolerance(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    pytest.importorskip("PIL.Image")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    published = importlib.import_module("published")
    monkeypatch.setattr(
        published.networks,
        "dncnn",
        lambda batch_norm: networks.make("dncnn", 1, depth=2, channels=2, batch_norm=batch_norm),
    )
    shapes = {"w0": (2, 1, 3, 3), "w1": (1, 2, 3, 3), "b0": (2,), "b1": (1,)}
    nc.write_state({name: np.zeros(shape, "float32") for name, shape in shapes.items()}, tmp_path / "a.npz")
    nc.data.write_image(tmp_path / "a.png", nc.data.dead_leaves(1, 20, 20, np.random.default_rng(0))[0])
    monkeypatch.setattr(sys, "argv", ["published.py", str(tmp_path / "a.npz"), str(tmp_path / "a.png")])
    assert published.main() == 1
    mean = float(capsys.readouterr().out.split("mean of 1: ")[1].split(" dB")[0])
    assert 19 < mean < 22  # of the noise alone
    monkeypatch.setattr(published, "PUBLISHED", mean + 0.015)
    assert published.main() == 0
