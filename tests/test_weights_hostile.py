"""HDF5 files whose datasets claim what the file does not hold, or lie elsewhere."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from devices import on_host

import npconv as nc
from npconv import architectures, weights
from npconv.layers.conv import WeightedLayer

PLACE = "parameters/weight"


def saved(path: Path) -> Path:
    nc.save(nc.Conv2d(1, 1, 1), path)
    return path


def elsewhere(file: Any) -> None:
    with h5py.File(file.filename.replace("a.h5", "other.h5"), "w") as other:
        other["secret"] = np.ones((1, 1, 1, 1), "float32")


def external_link(file: Any) -> None:
    elsewhere(file)
    file[PLACE] = h5py.ExternalLink("other.h5", "secret")


def soft_link(file: Any) -> None:
    file[PLACE] = h5py.SoftLink("/gradients/weight")


def external_storage(file: Any) -> None:
    raw = file.filename.replace("a.h5", "raw")
    Path(raw).write_bytes(np.ones(1, "<f4").tobytes())
    file.create_dataset(PLACE, (1, 1, 1, 1), "<f4", external=[(raw, 0, 4)])


def virtual(file: Any) -> None:
    elsewhere(file)
    layout = h5py.VirtualLayout((1, 1, 1, 1), "<f4")
    layout[...] = h5py.VirtualSource("other.h5", "secret", (1, 1, 1, 1), "<f4")
    file.create_virtual_dataset(PLACE, layout)


def linked_group(file: Any) -> None:
    del file["parameters"]
    file["parameters"] = h5py.SoftLink("/gradients")


CASES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "huge": (lambda f: f.create_dataset(PLACE, (1 << 42,), "<f4", chunks=(1,)), "claims more bytes than the file has"),
    "huge, contiguous": (lambda f: f.create_dataset(PLACE, (1 << 42,), "<f4"), "claims more bytes than the file has"),
    "huge chunk": (
        lambda f: f.create_dataset(PLACE, (1,), "<f4", chunks=(1 << 28,), maxshape=(None,)), "claims more bytes"
    ),
    "text": (lambda f: f.create_dataset(PLACE, data=np.array([b"a"], "S1")), "it must be floats"),
    "objects": (lambda f: f.create_dataset(PLACE, data="hello"), "it must be floats"),
    "pairs": (lambda f: f.create_dataset(PLACE, data=np.zeros(1, "f4,f4")), "it must be floats"),
    "complex": (lambda f: f.create_dataset(PLACE, data=np.zeros(1, "c8")), "it must be floats"),
    "nothing": (lambda f: f.create_dataset(PLACE, data=h5py.Empty("f4")), "it must be floats"),
    "compressed": (
        lambda f: f.create_dataset(PLACE, data=np.zeros((1, 1, 1, 1), "f4"), compression="gzip"), "not compressed"
    ),
    "external link": (external_link, "npconv writes no message of kind"),
    "soft link": (soft_link, "'/parameters/weight' must be no link to another place"),
    "external storage": (external_storage, "npconv writes no message of kind 7"),
    "virtual": (virtual, "a newer layout than npconv writes"),
    "group": (lambda f: f.create_group(PLACE), "must be a dataset, and no link to one"),
    "linked group": (linked_group, "'/parameters' must be no link to another place"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_datasets_that_are_not_the_files_own_numbers(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, message = CASES[case]
    path = saved(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        del file[PLACE]
        change(file)
    network = nc.Conv2d(1, 1, 1)
    before = on_host(network.state_dict())
    reads: tuple[Callable[[], Any], ...] = (
        lambda: nc.load(path), lambda: weights.load_into(network, path), lambda: nc.read_state(path),
    )  # fmt: skip
    for read in reads:
        tracemalloc.start()
        try:
            with pytest.raises(nc.WeightsFileError, match=f"{message}"):
                read()
            assert tracemalloc.get_traced_memory()[1] < 1e7
        finally:
            tracemalloc.stop()
    for name, values in on_host(network.state_dict()).items():
        np.testing.assert_array_equal(values, before[name])


def test_shapes_are_compared_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.h5")
    monkeypatch.setattr(weights, "_values", lambda dataset: pytest.fail("it was read"))
    with pytest.raises(nc.WeightsFileError, match=r"parameters/weight is float32 \(2, 1, 1, 1\) in the network"):
        weights.load_into(nc.Conv2d(1, 2, 1), path)


def test_too_little_memory_is_an_error_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dataset: Any) -> None:
        raise MemoryError

    path = saved(tmp_path / "a.h5")
    monkeypatch.setattr(weights, "_values", fail)
    for read in (nc.load, nc.read_state):
        with pytest.raises(nc.WeightsFileError, match=r"a\.h5 needs more memory than there is"):
            read(path)


def test_attributes_that_are_none_of_ours(tmp_path: Path) -> None:
    for name, value in (("format", np.zeros(3)), ("version", np.zeros(3)), ("architecture", np.zeros(3))):
        path = saved(tmp_path / "a.h5")
        with h5py.File(path, "r+") as file:
            file.attrs[name] = value
        with pytest.raises(nc.WeightsFileError):
            nc.load(path)
    path = saved(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file[PLACE].attrs["scalar"] = np.zeros(3)
    np.testing.assert_array_equal(nc.read_state(path)["weight"].shape, (1, 1, 1, 1))


def changed(path: Path, name: str, value: Any) -> Path:
    """An attribute that says something else, as whoever wants to do harm would write it."""
    with h5py.File(path, "r+") as file:
        file.attrs[name] = value
        del file.attrs["checksum"]
    return path


@pytest.mark.parametrize(
    "layer",
    [
        {"type": "Conv2d", "arguments": {"in_channels": 1 << 16, "out_channels": 1 << 16, "kernel_size": [9, 9]}},
        {"type": "Conv2d", "arguments": {"in_channels": 1, "out_channels": 1, "kernel_size": 1 << 20}},
        {"type": "ConvTranspose2d", "arguments": {"in_channels": 1, "out_channels": 1 << 20, "kernel_size": [3, 3]}},
        {"type": "Upsampling", "arguments": {"in_channels": 1 << 20, "out_channels": 1, "kernel_size": [3, 3]}},
        {"type": "Linear", "arguments": {"in_features": 1 << 15, "out_features": 1 << 15}},
        {"type": "BatchNorm2d", "arguments": {"num_features": 1 << 30}},
    ],
)
def test_a_network_larger_than_its_file_is_not_made(layer: dict[str, Any], tmp_path: Path) -> None:
    text = json.dumps({"type": "Sequential", "children": [["0", layer]]})
    path = changed(saved(tmp_path / "a.h5"), "architecture", text)
    tracemalloc.start()
    try:
        with pytest.raises(nc.WeightsFileError, match=r"a\.h5: the architecture needs [\d,]+ parameters"):
            nc.load(path)
        assert tracemalloc.get_traced_memory()[1] < 1e7
    finally:
        tracemalloc.stop()


def test_every_layer_with_parameters_is_counted_before_it_is_made() -> None:
    channels = {"in_channels": 4, "out_channels": 4, "kernel_size": 3}
    arguments: dict[str, dict[str, Any]] = {
        "Conv2d": {**channels, "groups": 2}, "ConvTranspose2d": {**channels, "groups": 2}, "Upsampling": channels,
        "Linear": {"in_features": 3, "out_features": 5}, "BatchNorm2d": {"num_features": 7},
    }  # fmt: skip
    for name, kind in weights.REGISTRY.items():
        described = arguments.get(name)
        if described is None:
            assert not issubclass(kind, WeightedLayer), name
            continue
        layer = kind(**described)
        assert architectures.element_count(layer.arguments()) == layer.weight.size, name


def test_an_architecture_of_too_many_modules_is_not_made(tmp_path: Path) -> None:
    relu = {"type": "ReLU", "arguments": {}}
    text = json.dumps({"type": "Sum", "children": [[str(i), relu] for i in range(20_000)]})
    path = changed(saved(tmp_path / "a.h5"), "architecture", text)
    with pytest.raises(nc.WeightsFileError, match="the architecture has more than 16,384 modules"):
        nc.load(path)


def test_a_damaged_architecture_is_seen_by_its_checksum(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.h5")
    data = path.read_bytes()
    assert data.count(b'"zeros"') == 1
    path.write_bytes(data.replace(b'"stride": [1, 1]', b'"stride": [1, 2]'))  # a network of the same parameters
    for read in (nc.load, nc.read_state, weights.read_training):
        with pytest.raises(
            nc.WeightsFileError, match=r"a\.h5 is damaged: its architecture or training is not as written"
        ):
            read(path)


def test_values_that_are_missing_or_without_checksum_are_not_read(tmp_path: Path) -> None:
    values = np.ones((1, 1, 1, 1), "f4")
    options: tuple[dict[str, Any], ...] = ({"chunks": (1, 1, 1, 1)}, {}, {"fletcher32": True, "chunks": (1, 1, 1, 1)})
    for option, data in zip(options, (values, values, None), strict=True):
        path = saved(tmp_path / "a.h5")
        with h5py.File(path, "r+") as file:
            del file[PLACE]
            file.create_dataset(PLACE, (1, 1, 1, 1), "f4", data=data, **option)
        with pytest.raises(nc.WeightsFileError, match=f"{PLACE} must be one chunk with a checksum"):
            nc.load(path)


def test_numbers_of_another_making_are_not_read(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.h5")
    odd = h5py.h5t.IEEE_F32LE.copy()
    odd.set_ebias(120)  # such a bit that is wrong halves all weights, seven times over
    with h5py.File(path, "r+") as file:
        del file[PLACE]
        file.create_dataset(PLACE, (1, 1, 1, 1), h5py.Datatype(odd), chunks=(1, 1, 1, 1), fletcher32=True)[...] = 1
    with pytest.raises(nc.WeightsFileError, match=f"{PLACE}.* bit by bit"):
        nc.load(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_loaded_with_a_warning(value: float, tmp_path: Path) -> None:
    network = nc.Sequential(nc.Conv2d(1, 1, 1), nc.BatchNorm2d(1))
    network[0].weight.fill(value)
    network[1].running_var[...] = value
    nc.save(network, tmp_path / "a.h5")
    other = nc.Sequential(nc.Conv2d(1, 1, 1), nc.BatchNorm2d(1))
    before = on_host(other.state_dict())
    with pytest.raises(UserWarning, match=r"a\.h5: the weights 0\.weight \(and 1 more\) have NaN or infinite values"):
        weights.load_into(other, tmp_path / "a.h5")  # an error in these tests: then nothing has changed
    for name, values in on_host(other.state_dict()).items():
        np.testing.assert_array_equal(values, before[name])
    with pytest.warns(UserWarning, match="NaN or infinite"):
        loaded = nc.load(tmp_path / "a.h5")
    np.testing.assert_array_equal(on_host(loaded.state_dict())["0.weight"], np.full((1, 1, 1, 1), value, "f4"))
