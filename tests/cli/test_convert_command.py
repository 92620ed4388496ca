"""`npconv convert`: weights of PyTorch to a model that denoise takes, models to other formats, errors of one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import on_host
from make_weights import SAFETENSORS, ZIP
from torch_files import legacy_file, state, tensor, zip_file

import npconv as nc
from npconv import networks
from npconv.cli import main
from npconv.cli.convert import guess
from npconv.model import Model


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Runs `npconv convert` in tmp_path: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: Any) -> tuple[int, str, str]:
        status = main(["convert", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def pytorch_file(path: Path, network: nc.Module, rename: Any = None, legacy: bool = False) -> dict[str, np.ndarray]:
    """A PyTorch file with random weights that fit `network`, in PyTorch's order; the weights under our names."""
    rng, found = np.random.default_rng(0), on_host(network.state_dict())
    names = sorted(filter(_floats, found), key=_place)
    ours = {name: rng.random(found[name].shape, dtype="float32") for name in names}
    pickled, storages = {}, {}
    for index, (name, values) in enumerate(ours.items()):
        strides = [stride // 4 for stride in values.strides]
        pickled[rename(index) if rename else name] = tensor(str(index), values.size, values.shape, strides)
        storages[str(index)] = values.tobytes()
    if legacy:
        sizes = {key: (len(data) // 4, data) for key, data in storages.items()}
        legacy_file(path, state(**pickled), sizes)
    else:
        zip_file(path, state(**pickled), storages)
    return ours


def _floats(name: str) -> bool:
    return not name.endswith("num_batches_tracked")


def _place(name: str) -> tuple[int, int]:
    module, _, last = name.rpartition(".")
    return int(module.rpartition(".")[2]), ("weight", "bias", "running_mean", "running_var").index(
        last.partition(".")[0]
    )


def weights_of(path: Path) -> dict[str, np.ndarray]:
    found = on_host(Model.load(path).network.state_dict())
    return {name: values for name, values in found.items() if _floats(name)}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


# ---- weights to a model ----
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_the_options_of_a_network_are_seen_from_its_weights(
    batch_norm: bool, legacy: bool, convert: Any, tmp_path: Path
) -> None:
    network = networks.make("dncnn", image_channels=3, channels=6, depth=4, batch_norm=batch_norm)
    expected = pytorch_file(tmp_path / "a.pth", network, legacy=legacy)
    status, out, err = convert("a.pth", "a.h5", "--network", "dncnn")
    assert (status, err) == (0, "")
    eps = ", batch norm eps 0.0001" if batch_norm else ""
    assert f"dncnn: image channels 3, channels 6, depth 4, batch norm {batch_norm}{eps};" in out
    assert "matched by names: model.0.weight = model.0.weight ... model." in out and "written: a.h5" in out
    assert_same(weights_of(tmp_path / "a.h5"), expected)


def test_other_names_go_by_order_or_by_a_table(convert: Any, tmp_path: Path) -> None:
    network = networks.make("ffdnet", image_channels=1, channels=8, depth=3)
    expected = pytorch_file(tmp_path / "a.pth", network, rename=lambda index: f"layer{index}")
    status, out, _ = convert("a.pth", "a.h5", "--network", "ffdnet")
    assert status == 0 and "matched by order: model.0.weight = layer0 ... model.4.bias = layer5" in out
    assert_same(weights_of(tmp_path / "a.h5"), expected)
    lines = [f"{name} = layer{index}" for index, name in enumerate(expected)]
    (tmp_path / "table.txt").write_text("\n".join(lines), encoding="utf-8")
    status, out, _ = convert("a.pth", "b.h5", "--network", "ffdnet", "--mapping", "table.txt")
    assert status == 0 and "matched by the table table.txt" in out
    assert_same(weights_of(tmp_path / "b.h5"), expected)
    status, _, err = convert("a.pth", "c.h5", "--network", "ffdnet", "--mapping", "names")
    assert status == 2 and "missing: model.0.weight" in err and "unexpected: layer5" in err


def test_options_override_and_a_misfit_is_one_list(convert: Any, tmp_path: Path) -> None:
    pytorch_file(tmp_path / "a.pth", networks.make("dncnn", channels=6, depth=4, batch_norm=False))
    status, _, err = convert("a.pth", "a.h5", "--network", "dncnn", "--depth", 5, "--channels", 7)
    assert status == 2
    for text in (
        "missing: model.8.weight",
        "mismatched: model.0.weight has shape (7, 3, 3, 3)",
        "(6, 3, 3, 3) in the file",
    ):
        assert text in err
    status, _, err = convert("a.pth", "a.h5", "--network", "dncnn", "--batch-norm")
    assert status == 2 and "missing: model.3.running_mean" in err
    status, _, err = convert("a.pth", "a.h5", "--network", "nonet")
    assert status == 2 and "must be one of unet" in err
    assert not (tmp_path / "a.h5").exists()


def test_folding_on_the_way_in_and_from_model_to_model(convert: Any, tmp_path: Path) -> None:
    network = networks.make("dncnn", image_channels=1, channels=6, depth=4)
    pytorch_file(tmp_path / "a.pth", network)
    assert convert("a.pth", "a.h5", "--network", "dncnn")[0] == 0
    assert convert("a.pth", "b.h5", "--network", "dncnn", "--fold-batchnorm")[0] == 0
    assert convert("a.h5", "c.h5", "--fold-batchnorm")[0] == 0
    image = np.random.default_rng(0).uniform(0, 255, (1, 1, 9, 8)).astype("float32")
    models = {name: Model.load(tmp_path / f"{name}.h5") for name in "abc"}
    assert any(isinstance(module, nc.BatchNorm2d) for module in models["a"].network.modules())
    expected = models["a"].predict(image)
    for name in "bc":
        assert not any(isinstance(module, nc.BatchNorm2d) for module in models[name].network.modules())
        np.testing.assert_allclose(models[name].predict(image), expected, atol=1e-2)  # of 255


def test_a_converted_model_is_one_that_denoise_takes(convert: Any, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    expected = pytorch_file(tmp_path / "a.pth", networks.strided(4, 1))
    assert convert("a.pth", "model.h5", "--network", "strided")[0] == 0
    assert_same(weights_of(tmp_path / "model.h5"), expected)
    nc.data.write_image(tmp_path / "noisy.png", np.full((1, 9, 7), 128, "uint8"))
    assert main(["denoise", "noisy.png", "--model", "model.h5", "-o", "clean.png"]) == 0
    assert nc.data.read_image(tmp_path / "clean.png").shape == (1, 9, 7)


def test_guesses_are_made_of_shapes() -> None:
    def kernels(*shapes: tuple[int, ...], **more: int) -> dict[str, np.ndarray]:
        return {f"{i}.weight": np.zeros(shape) for i, shape in enumerate(shapes)} | {
            n: np.zeros(s) for n, s in more.items()
        }

    ffdnet = kernels((96, 13, 3, 3), (96, 96, 3, 3), (12, 96, 3, 3))
    assert guess("ffdnet", ffdnet) == {"image_channels": 3, "channels": 96, "depth": 3}
    assert guess("strided", kernels((8, 1, 3, 3))) == {"image_channels": 1, "channels": 8}
    assert guess("noise2noise-unet", kernels((48, 3, 3, 3))) == {"image_channels": 3}
    assert guess("dncnn", {}) == {} and guess("unet", {}) == {}
    for options in ({"channels": 4, "image_channels": 1, "depth": 2}, {"channels": 8, "image_channels": 3, "depth": 0}):
        state = nc.networks.unet(**options).state_dict()
        assert guess("unet", {name: nc.to_numpy(array) for name, array in state.items()}) == options


# ---- formats ----
def test_plain_conversion_needs_no_network(convert: Any, tmp_path: Path) -> None:
    expected = nc.read_state(ZIP)
    assert convert(ZIP, "a.safetensors")[:2] == (
        0,
        "zip.pth: 13 arrays, 100 numbers\nwritten: a.safetensors, " + _size(tmp_path / "a.safetensors"),
    )
    assert convert("a.safetensors", "a.npz")[0] == 0
    assert_same(nc.read_state(tmp_path / "a.npz"), expected)


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes\n"


def test_a_model_becomes_what_others_read(convert: Any, tmp_path: Path) -> None:
    network = networks.strided(4, 1)
    Model(network).save(tmp_path / "model.h5")
    for name in ("a.safetensors", "a.npz"):
        assert convert("model.h5", name)[0] == 0
        assert_same(nc.read_state(tmp_path / name), on_host(network.state_dict()))
    onnx = pytest.importorskip("onnx")
    assert convert("model.h5", "a.onnx")[0] == 0
    onnx.checker.check_model(onnx.load(tmp_path / "a.onnx"), full_check=True)


def test_a_model_of_ones_own_still_gives_its_weights(convert: Any, tmp_path: Path) -> None:
    class Own(nc.ReLU):
        pass

    network = nc.Sequential(nc.Conv2d(1, 1, 3), Own())
    nc.save(network, tmp_path / "own.h5")
    assert convert("own.h5", "a.npz")[0] == 0
    pytest.importorskip("onnx")
    status, _, err = convert("own.h5", "a.onnx")
    assert status == 2 and "no architecture" in err


# ---- errors ----
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.pth", "a.h5"], "there is no file 'none.pth'"),
        ([SAFETENSORS, "a.pth"], "must end in .h5, .safetensors, .npz, .onnx"),
        ([SAFETENSORS, "a.h5"], "weights alone do not say what to compute: --network NAME does, for a.h5"),
        ([SAFETENSORS, "no/a.npz"], "there is no folder 'no'"),
        ([SAFETENSORS, "there.npz"], "exists already"),
        ([SAFETENSORS, "a.npz", "--channels", 3, "--mapping", "order"], "--channels, --mapping would have no effect"),
        ([SAFETENSORS, "a.npz", "--fold-batchnorm"], "--fold-batchnorm would have no effect with no --network"),
        ([SAFETENSORS, "a.npz", "--key", "x"], "has no meaning for a .safetensors file"),
        (["there.npz", "a.npz"], "there.npz: neither PyTorch's"),
        (["model.h5", "a.h5"], "there is nothing to convert without --fold-batchnorm"),
        (["model.h5", "a.npz", "--network", "dncnn", "--key", "x"], "--network, --key would have no effect"),
    ],
)
def test_errors_are_one_line(arguments: list[Any], message: str, convert: Any, tmp_path: Path) -> None:
    (tmp_path / "there.npz").write_text("here")
    Model(networks.strided(4)).save(tmp_path / "model.h5")
    status, out, err = convert(*arguments)
    assert (status, out) == (2, "") and err.startswith("npconv convert: error: ") and err.count("\n") == 1
    assert message in err
    assert (tmp_path / "there.npz").read_text() == "here" and len(list(tmp_path.iterdir())) == 2


def test_overwrite(convert: Any, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("old")
    assert convert(SAFETENSORS, "a.npz", "--overwrite")[0] == 0
    assert len(nc.read_state(tmp_path / "a.npz")) == 13


def test_help_has_examples(convert: Any) -> None:
    status, out, _ = convert("--help")
    assert status == 0 and "npconv convert dncnn_25.pth dncnn.h5 --network dncnn" in out
