"""Whole networks as ONNX, and what export_onnx refuses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host

import npconv as nc
from npconv import networks


def residual() -> nc.Module:
    layers = [
        nc.Conv2d(3, 8, 3, padding=1),
        nc.BatchNorm2d(8),
        nc.ReLU(),
        nc.Dropout(0.2),
        nc.Conv2d(8, 3, 3, padding=1),
    ]
    return nc.Sum({"image": nc.Identity(), "noise": nc.Sequential(*layers)})


def unet() -> nc.Module:
    deep = nc.Sequential(nc.MaxPool2d(2), nc.Conv2d(8, 8, 3, padding=1), nc.UpsamplingNearest2d(scale_factor=2))
    inner = nc.Concat({"skip": nc.Identity(), "deep": deep})
    layers = [nc.PixelUnshuffle(2), nc.Conv2d(12, 8, 3, padding="same"), inner, nc.LeakyReLU(0.1)]
    return nc.Sequential(*layers, nc.Conv2d(16, 12, 3, padding="same", padding_mode="circular"), nc.PixelShuffle(2))


def classifier() -> nc.Module:
    return nc.Sequential(nc.AvgPool2d(4), nc.Flatten(), nc.Linear(18, 5), nc.Concat(nc.ReLU(), nc.Tanh()))


NETWORKS: dict[str, tuple[Any, tuple[int, int]]] = {
    "strided": (lambda: networks.strided(6), (12, 20)),
    "strided, transposed": (lambda: networks.strided(6, upsampling="transposed"), (12, 20)),
    "residual": (residual, (7, 11)),
    "unet": (unet, (12, 20)),
    "identity": (nc.Identity, (5, 4)),
    "nothing": (nc.Sequential, (5, 4)),
    "one branch": (lambda: nc.Concat(nc.Sum(nc.ReLU())), (5, 4)),
    "twice the input": (lambda: nc.Sum(nc.Identity(), nc.Identity()), (5, 4)),
    "classifier": (classifier, (8, 12)),
    "dncnn": (lambda: networks.make("dncnn", image_channels=3, depth=4, channels=8), (7, 11)),
    "dncnn, plain": (lambda: networks.make("dncnn", depth=4, batch_norm=False, residual=False), (7, 11)),
    "ffdnet": (lambda: networks.make("ffdnet", image_channels=2, depth=3, channels=8), (8, 12)),
    "small unet": (lambda: networks.make("unet", image_channels=3), (32, 64)),
    "noise2noise-unet": (lambda: networks.make("noise2noise-unet", image_channels=3), (32, 64)),
}


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype="float32")


def trained(network: nc.Module, x: np.ndarray) -> nc.Module:
    """With running statistics that are not those of a new network; in evaluation."""
    network(on_device(x))
    return network.eval()


# Those that are large run on the CPU alone: on the stand-in for a GPU they would take minutes.
LARGE = ("small unet", "noise2noise-unet")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.cpu] if n in LARGE else []) for n in NETWORKS])
def test_a_network_is_what_it_is_here_at_any_size(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    make, (height, width) = NETWORKS[name]
    network = trained(make(), images(2, 3, height, width))
    nc.export_onnx(network, tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    for batch, times in ((1, 1), (3, 1), (2, 2)):
        if name == "classifier" and times > 1:
            continue
        x = images(batch, 3, times * height, width)
        found = session.run(["output"], {"images": x})[0]
        np.testing.assert_allclose(found, on_host(network(on_device(x))), rtol=1e-4, atol=1e-5)


def test_the_file_says_what_it_takes(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    network, path = unet(), tmp_path / "a.onnx"

    def axes(shape: Any) -> list[Any]:
        nc.export_onnx(network, path, shape)
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert "values 0..1" in model.doc_string and model.opset_import[0].version == 17
        assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["images", "output"]
        found = model.graph.input[0].type.tensor_type.shape.dim
        return [axis.dim_param or axis.dim_value for axis in found]

    assert axes(None) == ["N", 3, "H", "W"]
    assert axes((1, 3, 8, None)) == [1, 3, 8, "W"]
    assert axes((None, None, 8, 12)) == ["N", "C", 8, 12]
    names = {constant.name for constant in onnx.load(path).graph.initializer}
    assert {"1.weight", "2.deep.1.bias"} <= names  # the weights have the names they have here
    for shape, message in (
        ((1, 4, 8, 8), "must have the network's 3 channels"),
        ((3, 8, 8), r"must be \(N, C, H, W\)"),
        ((1, 3, 0, 8), r"input_shape \(=0\) must be at least 1"),
        ((1, 3, 8, 10), r"input_shape \(=\(1, 3, 8, 10\)\) must have H and W that are multiples of .* \(4, 4\)"),
        ((1, 3, 6, None), r"must have H and W that are multiples"),
    ):
        with pytest.raises(ValueError, match=message):
            nc.export_onnx(network, path, shape)


def test_the_model_says_what_it_must_be_given(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    for network, sizes, level in (
        (unet(), "H must be a multiple of 4, W of 4.", False),
        (networks.ffdnet(3, 4), "H must be a multiple of 2, W of 2.", True),
        (residual(), "", False),
    ):
        nc.export_onnx(network, tmp_path / "a.onnx")
        text = onnx.load(tmp_path / "a.onnx").doc_string
        assert (sizes in text) if sizes else ("multiple" not in text)
        assert ("The last channel of the input is the noise level of each pixel: sigma / 255" in text) == level


def test_double_networks_become_float32(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    nc.export_onnx(residual().double(), tmp_path / "a.onnx")
    types = {constant.data_type for constant in onnx.load(tmp_path / "a.onnx").graph.initializer}
    assert types <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


class Own(nc.ReLU):
    """A layer that no table has."""


def test_a_module_of_ones_own_is_named_and_the_old_file_stays(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")
    with pytest.raises(TypeError, match=r"Own \(1\.0\) is not one of npconv's layers"):
        nc.export_onnx(nc.Sequential(nc.ReLU(), nc.Sequential(Own())), path)
    with pytest.raises(TypeError, match="must be a Module; of a Model, give its network"):
        nc.export_onnx(nc.Model(), path)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_every_layer_is_in_the_table() -> None:
    from npconv.interchange.onnx_layers import EXPORTERS
    from npconv.weights import REGISTRY

    assert set(REGISTRY) - {"Sequential", "Concat", "Sum"} <= set(EXPORTERS)


def test_without_onnx_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'ONNX files need onnx: pip install "npconv\[onnx\]"'):
        nc.export_onnx(residual(), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
