"""Networks in HDF5 files."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from devices import on_device, on_host

import npconv as nc
from npconv import networks, weights


def net() -> nc.Sequential:
    nc.manual_seed(0)
    return nc.Sequential(
        nc.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"),
        nc.BatchNorm2d(4),
        nc.Concat({"skip": nc.Identity(), "deep": nc.Sequential(nc.MaxPool2d(2), nc.Upsampling(4, 2, 4, 2, 1))}),
        nc.Sum(nc.Conv2d(6, 3, 1), nc.Sequential(nc.LeakyReLU(0.3), nc.Conv2d(6, 3, 3, padding=(1, 1), groups=3))),
    )


def images(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(dtype)


def trained(network: nc.Module, dtype: str = "float32") -> nc.Module:
    """The network with gradients and running statistics that are not those of a new one."""
    y = network.forward(on_device(images(2, 3, 8, 8, dtype=dtype)))
    network.backward(y)
    return network


def datasets(path: Path) -> dict[str, h5py.Dataset]:
    found: dict[str, Any] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: (item.fletcher32, item.shape, item.dtype)})
                        if isinstance(item, h5py.Dataset) else None)  # fmt: skip
    return found


# ---- the format ----
def test_the_file_has_the_promised_attributes_groups_and_checksums(tmp_path: Path) -> None:
    network, path = trained(net()), tmp_path / "net.h5"
    nc.save(network, path)
    with h5py.File(path) as file:
        assert sorted(file.attrs) == ["architecture", "checksum", "format", "training", "version"]
        assert (file.attrs["format"], file.attrs["version"]) == ("npconv", 1)
        assert json.loads(file.attrs["training"]) is None
        assert sorted(file) == ["buffers", "gradients", "parameters"]
    found = datasets(path)
    names = [name for name, _ in network.named_parameters()]
    buffers = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    expected = [f"{group}/{name}" for group in ("parameters", "gradients") for name in names]
    assert sorted(found) == sorted(expected + [f"buffers/{name}" for name in buffers])
    assert all(checksum for checksum, _, _ in found.values())
    assert found["parameters/0.weight"][1:] == ((4, 3, 3, 3), np.float32)


def test_an_image_in_memory_is_the_file_and_does_not_change(tmp_path: Path) -> None:
    network = trained(net())
    nc.save(network, tmp_path / "saved.h5", training={"loss": None})
    image = weights.image(network, {"loss": None})
    for parameter in network.parameters():
        parameter.data += 1  # a later step
    (tmp_path / "image.h5").write_bytes(image)
    saved, ours = (h5py.File(tmp_path / name) for name in ("saved.h5", "image.h5"))
    with saved, ours:
        assert dict(saved.attrs) == dict(ours.attrs)
        for group in ("parameters", "gradients", "buffers"):
            assert list(saved[group]) == list(ours[group])
            assert all(saved[group][name][...].tobytes() == ours[group][name][...].tobytes() for name in saved[group])
    assert datasets(tmp_path / "saved.h5") == datasets(tmp_path / "image.h5")
    assert repr(nc.load(tmp_path / "image.h5")) == repr(net())


def test_the_architecture_is_plain_data_that_rebuilds_the_network() -> None:
    text = json.dumps(weights.architecture(net()))
    assert repr(weights.build(json.loads(text))) == repr(net())
    assert json.loads(text)["children"][2][1]["children"][0] == [
        "skip",
        {"type": "Identity", "arguments": {}},
    ]


EVERY_LAYER = [
    nc.Conv2d(4, 6, (3, 1), stride=(1, 2), padding=(1, 0), dilation=2, groups=2, bias=False, padding_mode="circular"),
    nc.Conv2d(1, 1, 3, padding="valid"),
    nc.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
    nc.Upsampling(2, 3, 4, stride=2, padding=1, dilation=2, output_padding=1),
    nc.Upsampling(2, 3, 3, padding="same", transposeconvargs=False, scale_factor=(2, 3), bias=False),
    nc.UpsamplingNearest2d(size=(5, 7)),
    nc.UpsamplingNearest2d(scale_factor=1.5),
    nc.MaxPool2d(3, 2, 1, 2, ceil_mode=True),
    nc.AvgPool2d(3, 2, 1, True, False, 5),
    nc.BatchNorm2d(3, 1e-3, None, affine=False),
    nc.BatchNorm2d(3, momentum=0.3, track_running_stats=False),
    nc.Linear(3, 4, bias=False),
    nc.Flatten(2, 3),
    nc.Dropout(0.25),
    nc.PixelShuffle(3),
    nc.PixelUnshuffle(2),
    nc.Scale(-0.5),
    nc.SelectChannels(5, 1, 4),
    nc.ReLU(),
    nc.LeakyReLU(0.7),
    nc.Sigmoid(),
    nc.Tanh(),
    nc.Identity(),
]


@pytest.mark.parametrize("layer", EVERY_LAYER, ids=repr)
def test_every_layer_is_rebuilt_with_its_arguments(layer: nc.Module, tmp_path: Path) -> None:
    nc.save(nc.Sequential(layer), tmp_path / "layer.h5")
    other = nc.load(tmp_path / "layer.h5")[0]
    assert repr(other) == repr(layer) and other.arguments() == layer.arguments()


def test_the_registry_has_every_layer_and_container_and_nothing_else() -> None:
    tested = {type(layer).__name__ for layer in EVERY_LAYER} | {"Sequential", "Concat", "Sum"}
    assert set(weights.REGISTRY) == tested


# ---- round trips ----
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_load_gives_the_same_bits(dtype: str, tmp_path: Path) -> None:
    network, path = trained(net().astype(dtype), dtype), tmp_path / "net.h5"
    nc.save(network, path)
    nc.manual_seed(99)
    other = nc.load(path)
    assert repr(other) == repr(network)
    for (data, grad), (mine, mine_grad) in zip(network.param(), other.param(), strict=True):
        assert mine.dtype == dtype and np.array_equal(on_host(data), on_host(mine))
        assert mine_grad.dtype == dtype and grad.any()
        assert np.array_equal(on_host(grad), on_host(mine_grad))
    state = other.state_dict()
    for name, values in network.state_dict().items():
        assert values.dtype == state[name].dtype
        assert np.array_equal(on_host(values), on_host(state[name]))
    assert state["1.num_batches_tracked"].shape == () and int(state["1.num_batches_tracked"]) == 1
    x = on_device(images(1, 3, 8, 8, dtype=dtype))
    assert np.array_equal(on_host(network.eval()(x)), on_host(other.eval()(x)))


def test_a_network_without_parameters(tmp_path: Path) -> None:
    nc.save(nc.Sequential(nc.ReLU()), tmp_path / "net.h5")
    assert repr(nc.load(tmp_path / "net.h5")) == repr(nc.Sequential(nc.ReLU()))


def test_paths_may_be_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    nc.save(net(), "net.h5")
    assert repr(nc.load("net.h5")) == repr(net())


class Scaled(nc.Sequential):
    """A container of one's own."""


def test_a_network_of_ones_own_is_stored_without_architecture(tmp_path: Path) -> None:
    network, path = Scaled(nc.Linear(2, 2)), tmp_path / "own.h5"
    nc.save(network, path)
    with h5py.File(path) as file:
        assert json.loads(file.attrs["architecture"]) is None
    other = Scaled(nc.Linear(2, 2))
    weights.load_into(other, path)
    assert np.array_equal(on_host(other[0].weight.data), on_host(network[0].weight.data))


def test_load_into_keeps_the_arrays(tmp_path: Path) -> None:
    network, path = net(), tmp_path / "net.h5"
    nc.save(trained(net()), path)
    arrays = network.param()
    weights.load_into(network, path)
    assert all(a is c and b is d for (a, b), (c, d) in zip(arrays, network.param(), strict=True))


def test_a_failed_load_changes_neither_values_nor_dtype(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    nc.save(nc.Sequential(nc.Linear(2, 3), nc.Linear(3, 2)).astype("float64"), path)
    network = nc.Sequential(nc.Linear(2, 3), nc.Linear(3, 2))
    before = network.state_dict()
    with pytest.raises(
        nc.WeightsFileError, match=r"1\.bias is float32 \(2,\) in the network, float64 \(2,\) in the file"
    ):
        weights.load_into(network, path)
    for name, values in network.state_dict().items():
        assert values.dtype == before[name].dtype
        assert np.array_equal(on_host(values), on_host(before[name]))


# ---- writing is all or nothing ----
@pytest.mark.parametrize("where", ["npconv.weights._write", "npconv.weights.os.fsync", "npconv.weights.os.replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.h5"
    nc.save(net(), path)
    old = path.read_bytes()

    def fail(*arguments: Any) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(where, fail)
        with pytest.raises(nc.WeightsFileError, match=r"net\.h5 cannot be written: the disk is full"):
            nc.save(trained(net()), path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
    nc.save(trained(net()), path)
    assert list(tmp_path.iterdir()) == [path] and nc.load(path).param()[0][1].any()


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, calls = tmp_path / "net.h5", []
    nc.save(net(), path)
    old, write = path.read_bytes(), weights._write

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr("npconv.weights._write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        nc.save(trained(net()), path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no umask")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        nc.save(nc.ReLU(), tmp_path / "net.h5")
        assert os.umask(mask) == mask  # it has been put back
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "net.h5").stat().st_mode) == mode


# ---- nothing in a file is run ----
def test_no_pickle_in_files_and_in_the_code(tmp_path: Path) -> None:
    nc.Model(networks.strided(4)).save(tmp_path / "model.h5")
    for _, _, dtype in datasets(tmp_path / "model.h5").values():
        assert dtype.kind in "fi"
    for module in (weights, sys.modules["npconv.model"]):
        source = Path(module.__file__ or "").read_text(encoding="utf-8")
        assert "import pickle" not in source and "allow_pickle" not in source and "eval(description" not in source


def test_the_training_attribute_is_data_too(tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    nc.Model(networks.strided(4)).save(path)
    with h5py.File(path, "r+") as file:
        training = json.loads(file.attrs["training"])
        assert training["loss"] == {"type": "MSE", "arguments": {"reduction": "mean"}}
        training["optimizer"]["type"] = "os.system"
        del file.attrs["checksum"]
        file.attrs["training"] = json.dumps(training)
    with pytest.raises(nc.WeightsFileError, match=r"the optimizer cannot be rebuilt: KeyError\('os\.system'\)"):
        nc.Model.load(path)
