"""Training through Model where something changes on the way, and what is stored of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from devices import on_device, on_host

import npconv as nc
from npconv import inputs
from npconv.backends import Array
from npconv.data import ArrayPairs, HDF5Pairs, write_pairs


def net(*more: nc.Module) -> nc.Sequential:
    return nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), *more, nc.Conv2d(4, 3, 3, padding=1))


def batch(rng: np.random.Generator, dtype: str = "float32") -> tuple[Array, Array]:
    return on_device(tuple(rng.random((6, 3, 8, 8)).astype(dtype) for _ in range(2)))


def photos(rng: np.random.Generator, count: int = 12, size: int = 8) -> np.ndarray:
    return rng.integers(0, 256, (count, 3, size, size), dtype=np.uint8)


# ---- workers follow what the user changes ----
def test_a_new_loss_is_used(rng):
    x, t = batch(rng)
    model = nc.Model(net(), nc.MSE())
    model.train_batch(x, t)
    model.loss = nc.L1()
    expected = nc.L1().forward(model.network.forward(x), t)
    assert model.train_batch(x, t) == pytest.approx(expected, rel=1e-5)


def test_a_loss_with_a_forward_of_its_own_is_asked_for_that(rng):
    class Doubled(nc.MSE):
        def forward(self, prediction, target):
            return 2 * super().forward(prediction, target)

    x, t = batch(rng)
    model = nc.Model(net(), Doubled())
    expected = 2 * nc.MSE().forward(model.network.forward(x), t)
    assert model.train_batch(x, t) == pytest.approx(expected, rel=1e-5)


def test_a_new_network_needs_its_own_optimizer(rng):
    x, t = batch(rng)
    model = nc.Model(net())
    model.train_batch(x, t)
    model.network = net()
    with pytest.raises(ValueError, match="the network's parameters only"):
        model.train_batch(x, t)
    model.optimizer = nc.SGD(model.network.parameters(), lr=0.1)
    before = on_host(model.network[0].weight.data.copy())
    model.train_batch(x, t)
    assert not np.array_equal(before, on_host(model.network[0].weight.data))


def test_a_replaced_layer_is_not_trained_in_silence(rng):
    x, t = batch(rng)
    model = nc.Model(net())
    model.train_batch(x, t)
    model.network[0] = nc.Conv2d(3, 4, 3, padding=1)
    with pytest.raises(ValueError, match="the network's parameters only"):
        model.train_batch(x, t)


def test_running_statistics_go_on_after_a_change_of_dtype_or_of_the_array(rng):
    model = nc.Model(net(nc.BatchNorm2d(4)), optimizer=None)
    x, t = batch(rng)
    model.train_batch(x, t)
    model.network.double()
    norm = model.network[1]
    before = on_host(norm.running_mean.copy())
    model.train_batch(x.astype("float64"), t.astype("float64"))
    assert not np.array_equal(before, on_host(norm.running_mean))
    norm.running_mean = on_device(np.zeros(4))
    model.train_batch(x.astype("float64"), t.astype("float64"))
    assert norm.running_mean.any()
    assert all(parameter.grad.dtype == np.float64 for parameter in model.network.parameters())


def test_the_seed_covers_dropout(rng):
    images = photos(rng)

    def trained() -> bytes:
        network = net(nc.Dropout(0.5))
        for parameter in network.parameters():
            parameter.fill(np.random.default_rng(1).standard_normal(parameter.shape) * 0.1)
        model = nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=0.1))
        model.train(images, images, 2, batch_size=4, seed=3)
        return network[0].weight.data.tobytes()

    assert trained() == trained()


def test_an_optimizer_over_pairs_follows_new_values():
    layer = nc.Conv2d(1, 1, 1, bias=False)
    optimizer = nc.SGD(layer.param(), lr=1.0)
    layer.weight = np.full((1, 1, 1, 1), 5.0, "float32")
    layer.weight.grad[...] = 1.0
    optimizer.step()
    assert layer.weight.data.item() == 4.0


# ---- errors before anything is trained ----
def test_a_schedule_of_another_optimizer_is_an_error(rng):
    model, images = nc.Model(net()), photos(rng)
    other = nc.SGD(net().parameters(), lr=0.5)
    with pytest.raises(ValueError, match="schedule must be one of this model's optimizer"):
        model.train(images, images, 1, schedule=nc.StepLR(other, 1))
    assert model.history == []


def test_a_one_cycle_that_is_too_short_is_an_error_before_training(rng):
    model, images = nc.Model(net()), photos(rng)
    schedule = nc.OneCycleLR(model.optimizer, 0.1, 5)
    with pytest.raises(ValueError, match=r"total_steps \(=5\) of the OneCycleLR must be at least the 6 steps"):
        model.train(images, images, 2, batch_size=4, schedule=schedule, schedule_every="batch")
    assert model.history == []
    fits = nc.OneCycleLR(model.optimizer, 0.1, 6)
    model.train(images, images, 2, batch_size=4, schedule=fits, schedule_every="batch")
    assert fits.count == 6


def test_validation_images_of_other_channels_are_an_error_before_training(rng):
    model, images = nc.Model(net()), photos(rng)
    gray = images[:, :1]
    with pytest.raises(ValueError, match="validation images have 1 channels, they must have the 3"):
        model.train(images, images, 1, validation=(gray, gray))
    assert model.history == []


def test_sizes_that_strides_do_not_divide_are_an_error_before_training(rng):
    model, images = nc.Model(nc.networks.strided(4)), photos(rng, size=9)
    with pytest.raises(ValueError, match=r"height and width must be multiples of \(4, 4\)"):
        model.train(images, images, 1)


def test_validation_on_pairs(rng):
    model, images = nc.Model(net()), photos(rng)
    (epoch,) = model.train(images, images, 1, validation=ArrayPairs(images[:4], images[:4]))
    assert epoch.psnr is not None and epoch.validated == 4


def test_a_file_to_validate_on_is_held_in_memory_as_far_as_a_bound_allows(rng, tmp_path, monkeypatch):
    model, images = nc.Model(net()), photos(rng)
    write_pairs(tmp_path / "pairs.h5", images, images)
    read, original = [], HDF5Pairs._read
    monkeypatch.setattr(HDF5Pairs, "_read", lambda self, some: (read.append(len(some)), original(self, some))[1])
    monkeypatch.setattr(inputs, "HELD_OUT_BYTES", 3 * 2 * images[0].size * 4)
    (epoch,) = model.train(images, images, 1, validation=HDF5Pairs(tmp_path / "pairs.h5"))
    assert epoch.validated == 3 and sum(read) == 3
    (epoch,) = model.train(images, images, 1, validation=ArrayPairs(images, images))
    assert epoch.validated == len(images)


def test_a_numpy_true_from_the_callback_stops(rng):
    model, images = nc.Model(net()), photos(rng)
    assert len(model.train(images, images, 3, callback=lambda epoch: np.bool_(True))) == 1


# ---- collapse ----
def test_a_network_that_is_dead_from_the_start_is_noticed(rng):
    network = net(nc.ReLU())
    network[0].bias = np.full(4, -1e3, "float32")
    images = photos(rng)
    with pytest.raises(nc.TrainingCollapsed, match="one colour"):
        nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=1e-3)).train(images, images, 1)


def test_images_that_are_all_the_same_are_no_collapse(rng):
    images = np.repeat(photos(rng, 1), 8, axis=0)
    assert nc.Model(net()).train(images, images, 1)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, from worker threads too
def test_an_output_that_overflows_is_called_so(rng):
    network = net()
    model = nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=1e18))
    with pytest.raises(nc.TrainingCollapsed, match="overflowed"):
        model.train(photos(rng), photos(rng), 5)


# ---- prediction ----
@pytest.mark.parametrize("size", [(31, 33), (1, 1), (4, 4), (32, 32)])
def test_an_output_of_fixed_size_is_not_cropped(rng, size):
    network = nc.Sequential(nc.Conv2d(3, 3, 3, stride=2, padding=1), nc.UpsamplingNearest2d(size=(32, 32)))
    assert nc.Model(network).predict(rng.integers(0, 256, (2, 3, *size), dtype=np.uint8)).shape == (2, 3, 32, 32)


# ---- files ----
def test_numpy_numbers_can_be_stored(tmp_path: Path):
    network = nc.Sequential(nc.Upsampling(1, 1, 3, stride=np.int64(2)))
    nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=np.float32(0.5))).save(tmp_path / "m.h5")
    again = nc.Model.load(tmp_path / "m.h5")
    assert again.network[0].factors == (2, 2) and again.optimizer.lr == 0.5


def test_groups_of_parameters_are_stored(tmp_path: Path):
    network = net()
    groups = [{"params": network[1].parameters(), "lr": 0.25}, {"params": [network[0].weight], "momentum": 0.5}]
    nc.Model(network, optimizer=nc.SGD(groups, lr=0.1)).save(tmp_path / "m.h5")
    again = nc.Model.load(tmp_path / "m.h5")
    first, second = again.optimizer.groups
    assert (first["lr"], second["lr"], second["momentum"]) == (0.25, 0.1, 0.5)
    assert first["params"] == list(again.network[1].parameters())
    assert second["params"] == [again.network[0].weight]


def test_what_a_schedule_changed_is_stored_as_it_was(tmp_path: Path):
    network = net()
    adam = nc.Adam(network.parameters(), lr=0.01)
    schedule = nc.OneCycleLR(adam, 0.1, 10)
    for _ in range(3):
        schedule.step()
    assert adam.groups[0]["betas"][0] != 0.9
    nc.Model(network, optimizer=adam).save(tmp_path / "m.h5")
    assert nc.Model.load(tmp_path / "m.h5").optimizer.arguments()["betas"] == [0.9, 0.999]
    adam.lr = 0.02
    assert adam.arguments()["lr"] == 0.02


class Halved(nc.MSE):
    """A loss of one's own."""

    def value(self, prediction, target):
        return super().value(prediction, target) / 2

    def gradient(self, prediction, target):
        return super().gradient(prediction, target) / 2


def test_a_loss_of_ones_own_is_asked_for(tmp_path: Path):
    nc.Model(net(), Halved()).save(tmp_path / "m.h5")
    with pytest.raises(nc.WeightsFileError, match="saved with a loss of one's own: give it as loss="):
        nc.Model.load(tmp_path / "m.h5")
    assert isinstance(nc.Model.load(tmp_path / "m.h5", loss=Halved()).loss, Halved)


@pytest.mark.parametrize("mixed", [False, True])
def test_float64_buffers_and_mixed_dtypes_come_back(tmp_path: Path, mixed: bool):
    network = nc.Sequential(nc.BatchNorm2d(3, affine=False), nc.Conv2d(3, 2, 1))
    (network[1] if mixed else network).double()
    nc.save(network, tmp_path / "n.h5")
    again = nc.load(tmp_path / "n.h5")
    assert {name: a.dtype for name, a in again.state_dict().items()} == {
        name: a.dtype for name, a in network.state_dict().items()
    }


def test_shared_parameters_are_stored_without_an_architecture(tmp_path: Path):
    network = nc.Sequential(nc.Conv2d(3, 3, 1), nc.Conv2d(3, 3, 1))
    network[1].weight = network[0].weight
    nc.save(network, tmp_path / "n.h5")
    with pytest.raises(nc.WeightsFileError, match="has no architecture"):
        nc.load(tmp_path / "n.h5")
    other = nc.Sequential(nc.Conv2d(3, 3, 1), nc.Conv2d(3, 3, 1))
    other[1].weight = other[0].weight
    nc.load_into(other, tmp_path / "n.h5")
    assert np.array_equal(on_host(other[1].weight.data), on_host(network[0].weight.data))


# ---- gradients that are not finite ----
def test_infinite_gradients_stop_where_the_derivative_is_zero():
    relu = nc.ReLU()
    relu.forward(nc.asarray([-1.0, 1.0], "float32"))
    assert relu.backward(nc.asarray([np.inf, 1.0], "float32")).tolist() == [0.0, 1.0]
    pool = nc.MaxPool2d(2)
    pool.forward(nc.asarray([[[1.0, 2.0], [0.0, 0.0]]], "float32"))
    assert pool.backward(nc.asarray([[[np.inf]]], "float32")).tolist() == [[[0.0, np.inf], [0.0, 0.0]]]


def test_a_parameter_is_a_copy_of_floats():
    values = on_device(np.ones(3, "float32"))
    parameter = nc.Parameter(values)
    parameter.data[...] = 2
    assert values.tolist() == [1, 1, 1]
    with pytest.raises(TypeError, match="Parameter must be float32 or float64, got int64"):
        nc.Parameter(np.array([1, 2], "int64"))
