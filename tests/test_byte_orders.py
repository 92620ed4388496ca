"""Models and checkpoints whose numbers are in the other byte order, as another kind of machine writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from devices import on_host

import npconv as nc
from npconv import weights
from npconv.checkpoints.file import read

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)


def of_another_machine(path: Path, copy: Path) -> Path:
    """The same file with every number in it the other way round."""
    with h5py.File(path) as file, h5py.File(copy, "w", track_order=False) as other:
        for key, value in file.attrs.items():
            whole = isinstance(value, (int, np.integer))
            other.attrs.create(key, value, dtype=np.dtype(np.int64).newbyteorder() if whole else None)
        for group in file:
            made = other.create_group(group, track_order=False)
            for name, dataset in file[group].items():
                weights._write(made, name, dataset[...].astype(dataset.dtype.newbyteorder()))
                made[name].attrs["scalar"] = dataset.attrs["scalar"]
    return copy


def network(dtype: str = "float32") -> nc.Sequential:
    nc.manual_seed(0)
    made = nc.Sequential(
        nc.Conv2d(3, 4, 3, padding=1), nc.BatchNorm2d(4), nc.LeakyReLU(0.3), nc.Conv2d(4, 3, 3, padding=1)
    )
    for parameter in made.parameters() if dtype == "float64" else ():
        parameter.data = parameter.data.astype(dtype)
    return made


def bits(network: nc.Module) -> list[tuple[str, str, bytes]]:
    held = ((name, on_host(array)) for name, array in network.state_dict().items())
    return [(name, array.dtype.str, array.tobytes()) for name, array in held]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_of_a_machine_of_the_other_byte_order(tmp_path: Path, dtype: str) -> None:
    ours = network(dtype)
    nc.save(ours, tmp_path / "a.h5")
    path = of_another_machine(tmp_path / "a.h5", tmp_path / "b.h5")
    with h5py.File(path) as file:
        assert not file["parameters/0.weight"].dtype.isnative
    assert bits(nc.load(path)) == bits(ours)
    again = network(dtype)
    for parameter in again.parameters():
        parameter.data[...] = 0
    nc.load_into(again, path)
    assert bits(again) == bits(ours)
    found, expected = weights.read_arrays(path), weights.read_arrays(tmp_path / "a.h5")
    assert all(found[name].dtype == expected[name].dtype for name in expected) and list(found) == list(expected)


def test_another_dtype_is_still_refused(tmp_path: Path) -> None:
    nc.save(network("float64"), tmp_path / "a.h5")
    path = of_another_machine(tmp_path / "a.h5", tmp_path / "b.h5")
    with pytest.raises(nc.WeightsFileError, match=r"mismatched: parameters/0\.weight is float32 .*, [<>]f8 "):
        nc.load_into(network(), path)


def test_a_training_goes_on_from_such_a_checkpoint(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def train(model: nc.Model, **options: Any) -> list[Any]:
        model.train(IMAGES, IMAGES, 2, batch_size=4, seed=0, validation=(IMAGES[:4], IMAGES[:4]), **options)
        return bits(model.network)

    def model() -> nc.Model:
        made = network()
        return nc.Model(made, optimizer=nc.Adam(made.parameters()))

    def stop(epoch: Any) -> None:
        raise Stopped

    expected = train(model())
    path = tmp_path / "c.h5"
    with pytest.raises(Stopped):
        train(model(), checkpoint=path, callback=stop)
    other = of_another_machine(path, tmp_path / "other.h5")
    arrays = read(other).arrays
    assert arrays["optimizer"] and all(array.dtype.isnative for group in arrays.values() for array in group.values())
    assert train(model(), resume_from=other) == expected
