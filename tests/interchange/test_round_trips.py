"""Out and back: models through the files that we write, and those of PyTorch's writers, to the same model again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from devices import on_host

import npconv as nc
from npconv import networks
from npconv.cli import main
from npconv.model import Model

SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("unet", {"channels": 4, "depth": 2}),
    "unet, gray": ("unet", {"channels": 4, "image_channels": 1}),
    "noise2noise-unet": ("noise2noise-unet", {}),
    "dncnn": ("dncnn", {"channels": 4, "depth": 13}),
    "dncnn, plain": ("dncnn", {"channels": 4, "depth": 13, "image_channels": 1, "batch_norm": False}),
    "ffdnet": ("ffdnet", {"channels": 4, "depth": 12}),
    "ffdnet, gray": ("ffdnet", {"channels": 4, "depth": 12, "image_channels": 1}),
    "strided": ("strided", {"channels": 5}),
    "strided-transposed": ("strided-transposed", {"channels": 5, "image_channels": 1}),
}
ENDINGS = (".npz", ".safetensors")


def model(name: str, path: Path) -> dict[str, np.ndarray]:
    """A model file with weights that all differ, and these."""
    kind, options = SMALL[name]
    network, rng = networks.make(kind, **options), np.random.default_rng(0)
    for parameter in network.parameters():
        parameter.fill(rng.random(parameter.shape))
    for _, module, key in network.named_buffers():
        values = getattr(module, key)
        values[...] = nc.asarray(np.asarray(rng.uniform(1, 100, values.shape)).astype(values.dtype.name))
    Model(network).save(path)
    state: dict[str, np.ndarray] = on_host(network.state_dict())
    return state


def assert_same(path: Path, expected: dict[str, np.ndarray]) -> None:
    found = on_host(Model.load(path).network.state_dict())
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_every_network_is_here() -> None:
    assert {kind for kind, _ in SMALL.values()} == set(networks.NETWORKS)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", SMALL)
def test_what_convert_writes_comes_back(name: str, ending: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    expected = model(name, tmp_path / "a.h5")
    assert main(["convert", "a.h5", f"b{ending}"]) == 0
    assert main(["convert", f"b{ending}", "c.h5", "--network", SMALL[name][0]]) == 0
    assert "matched by names" in capsys.readouterr().out
    assert_same(tmp_path / "c.h5", expected)
    nc.write_state(Model.load("a.h5").network, f"d{ending}")
    assert list(nc.read_state(f"d{ending}")) == list(nc.read_state(f"b{ending}"))


@pytest.mark.parametrize("name", SMALL)
def test_what_pytorchs_writer_sorts_comes_back(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    torch, writer = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    monkeypatch.chdir(tmp_path)
    expected = model(name, tmp_path / "a.h5")
    state = {key: torch.from_numpy(values) for key, values in nc.read_state("a.h5").items()}
    writer.save_file(state, "b.safetensors")
    assert main(["convert", "b.safetensors", "c.h5", "--network", SMALL[name][0]]) == 0
    assert_same(tmp_path / "c.h5", expected)
    np.savez("d.npz", **dict(sorted(expected.items())))
    assert main(["convert", "d.npz", "e.h5", "--network", SMALL[name][0]]) == 0
    assert_same(tmp_path / "e.h5", expected)


def test_our_files_are_read_in_the_order_of_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "a.h5"
    ours = nc.Sequential(*[nc.Conv2d(1, 1, 1) for _ in range(11)], nc.BatchNorm2d(1), nc.Conv2d(1, 1, 1))
    theirs = [torch.nn.Conv2d(1, 1, 1) for _ in range(11)] + [torch.nn.BatchNorm2d(1), torch.nn.Conv2d(1, 1, 1)]
    expected = list(torch.nn.Sequential(*theirs).state_dict())
    nc.save(ours, path)
    assert list(nc.read_state(path)) == expected
    for ending in ENDINGS:
        nc.write_state(ours, tmp_path / f"a{ending}")
        assert list(nc.read_state(tmp_path / f"a{ending}")) == expected


def test_the_order_is_the_architectures_and_without_one_that_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    network = nc.Sequential(
        {"z": nc.Conv2d(1, 1, 1), "a": nc.Sequential({"y": nc.Conv2d(1, 1, 1)}), "b": nc.Linear(1, 1)}
    )
    nc.save(network, path)
    assert list(nc.read_state(path)) == [f"{m}.{k}" for m in ("z", "a.y", "b") for k in ("weight", "bias")]
    with h5py.File(path, "r+") as file:
        file.attrs["architecture"] = "null"
        del file.attrs["checksum"]
    assert list(nc.read_state(path)) == [f"{m}.{k}" for m in ("a.y", "b", "z") for k in ("weight", "bias")]
    for wrong in ("[1]", '{"children": 3}', '{"children": [[1, 2, 3]]}', '{"children": [["a", null]]}'):
        with h5py.File(path, "r+") as file:
            file.attrs["architecture"] = wrong
        with pytest.raises(nc.WeightsFileError, match=r"the architecture .* is not one of npconv's"):
            nc.read_state(path)
