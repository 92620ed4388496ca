"""Every layer and option of the table of layer cases as ONNX: onnxruntime gives what the layer gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host
from layer_cases import LAYER_CASES, LayerCase

import npconv as nc

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def run(path: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["output"], {"images": x})[0]


def layer_of(case: LayerCase) -> Any:
    layer = getattr(nc, case.layer)(**case.arguments)
    values = {key: value for key, value in layer.state_dict().items() if key != "num_batches_tracked"}
    state = {key: case.state(key, value.shape).astype("float32") for key, value in values.items()}
    layer.load_state_dict(state, strict=False)
    return layer.eval()


def exported(case: LayerCase) -> bool:
    """Cases that an ONNX graph of batches of images has: four axes, none empty, no training."""
    return len(case.shape) == 4 and 0 not in case.shape and case.values != "nan" and case.passes == 1


CASES = [case for case in LAYER_CASES if exported(case)]
# What runtimes do not take as it is: output padding of the stride or more.
MORE = [
    {"dilation": 3, "output_padding": (2, 0), "padding": p, "bias": b} for p, b in (((1, 2), True), ((3, 0), False))
]
CASES += [LayerCase("ConvTranspose2d", {"in_channels": 4, "out_channels": 2, "kernel_size": 3, **a}) for a in MORE]


@pytest.mark.cpu  # the export only reads parameters: the whole networks do that on every backend
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_layer_is_what_it_is_here(case: LayerCase, tmp_path: Path) -> None:
    layer, x = layer_of(case), case.inputs()[0].astype("float32")
    expected = on_host(layer(on_device(x)))
    nc.export_onnx(layer, tmp_path / "layer.onnx")
    found = run(tmp_path / "layer.onnx", x)
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
