"""Model: training, prediction, files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import assert_allclose, on_device, on_host

import npconv as nc
from npconv import networks
from npconv.backends import Array
from npconv.backends.cpu.workers import WorkerPool
from npconv.data import ArrayPairs
from npconv.metrics import psnr


@pytest.fixture(autouse=True)
def seeded() -> None:
    nc.manual_seed(0)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Sets the number of worker threads."""

    def set_to(count: int) -> None:
        if nc.backend().name == "numpy":
            monkeypatch.setattr(nc.backend(), "_pool", WorkerPool(count))
        elif count > 1:
            pytest.skip("worker threads are the CPU backend's")

    set_to(1)
    yield set_to


def small(seed: int = 3, **options: Any) -> nc.Sequential:
    nc.manual_seed(seed)
    return networks.strided(channels=4, **options)


def batch(count: int = 8, seed: int = 0) -> Array:
    """`photos` as train_batch takes them."""
    return on_device(photos(count, seed=seed) / 255)


def photos(count: int = 8, size: int = 8, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Images of one colour each, 0..255: easy to learn, and different from each other."""
    colours = np.random.default_rng(seed).uniform(40, 215, (count, channels, 1, 1))
    return np.broadcast_to(colours, (count, channels, size, size)).astype("float32")


def parameters(model: nc.Model) -> list[np.ndarray]:
    return [on_host(data.copy()) for data, _ in model.network.param()]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


# ---- what a Model is made of ----
def test_without_arguments_it_is_the_reports_network() -> None:
    model = nc.Model()
    assert repr(model.network) == repr(networks.strided())
    assert isinstance(model.loss, nc.MSE) and isinstance(model.optimizer, nc.SGD)
    assert (model.optimizer.lr, model.optimizer.groups[0]["momentum"]) == (0.5, 0.9)
    assert model.history == []


def test_another_network_gets_adam_over_all_its_parameters() -> None:
    model = nc.Model(small(), nc.L1())
    assert isinstance(model.optimizer, nc.Adam) and isinstance(model.loss, nc.L1)
    assert len(model.optimizer.groups[0]["params"]) == len(list(model.network.parameters())) == 8


def test_an_optimizer_over_param_pairs_is_one_of_the_network() -> None:
    network = small()
    model = nc.Model(network, optimizer=nc.SGD(network.param(), lr=1.0))
    before = parameters(model)
    model.train_batch(batch(), batch())
    assert not same(before, parameters(model))


def test_a_replica_is_no_network_for_a_model() -> None:
    with pytest.raises(ValueError, match="network is a replica"):
        nc.Model(nc.networks.strided(4).replica())


# ---- one step ----
def test_train_batch_is_the_step_one_would_write_by_hand(workers: Callable[[int], None]) -> None:
    x, target = batch(6, seed=1), batch(6, seed=2)
    model = nc.Model(small(), optimizer=None)
    model.optimizer = nc.SGD(model.network.parameters(), lr=0.1, momentum=0.9)
    network, loss = small(), nc.MSE()
    velocity = [nc.backend().xp.zeros_like(data) for data, _ in network.param()]
    for _ in range(3):
        network.zero_grad()
        expected = loss(network(x), target)
        network.backward(loss.backward())
        for v, (data, grad) in zip(velocity, network.param(), strict=True):
            v[...] = 0.9 * v + grad
            data -= 0.1 * v
        assert model.train_batch(x, target) == pytest.approx(expected, rel=1e-6)
    for (data, grad), (mine, mine_grad) in zip(network.param(), model.network.param(), strict=True):
        assert_allclose(mine, data, rtol=1e-5, atol=1e-7)
        assert_allclose(mine_grad, grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_one_worker_and_several_agree(workers: Callable[[int], None], reduction: str) -> None:
    x, target = batch(7, seed=1), batch(7, seed=2)
    results = []
    for count in (1, 2, 3):
        workers(count)
        network = small()
        model = nc.Model(network, nc.MSE(reduction), nc.SGD(network.parameters(), lr=1e-3))
        losses = [model.train_batch(x, target) for _ in range(3)]
        results.append((losses, parameters(model), [on_host(grad.copy()) for _, grad in network.param()]))
    for losses, values, grads in results[1:]:
        np.testing.assert_allclose(losses, results[0][0], rtol=1e-5)
        for mine, first in zip(values + grads, results[0][1] + results[0][2], strict=True):
            np.testing.assert_allclose(mine, first, rtol=1e-5, atol=1e-5 * np.abs(first).max())


def test_a_batch_smaller_than_the_workers(workers: Callable[[int], None]) -> None:
    workers(4)
    one = batch(1)
    assert math.isfinite(nc.Model(small()).train_batch(one, one))


def test_batch_norm_sees_the_whole_batch_with_any_number_of_workers(workers: Callable[[int], None]) -> None:
    x, means = batch(6, seed=1), []
    for count in (1, 3):
        workers(count)
        nc.manual_seed(1)
        network = nc.Sequential(nc.BatchNorm2d(3, momentum=1.0), nc.Conv2d(3, 3, 1))
        nc.Model(network).train_batch(x, x)
        means.append(on_host(network[0].running_mean))
    np.testing.assert_allclose(means[0], on_host(x).mean(axis=(0, 2, 3)), rtol=1e-5)
    assert np.array_equal(means[0], means[1])


# ---- training ----
def test_training_reduces_the_loss() -> None:
    network = nc.Sequential(nc.Conv2d(3, 8, 3, padding=1), nc.ReLU(), nc.Conv2d(8, 3, 3, padding=1))
    model = nc.Model(network, optimizer=nc.Adam(network.parameters(), lr=0.01))
    history = model.train(photos(32), photos(32), 20, batch_size=8, seed=0)
    assert history[-1].loss < 0.1 * history[0].loss


def test_the_history_of_a_run() -> None:
    images = photos(10)
    model = nc.Model(small())
    first = model.train(images, images, 2, batch_size=4, validation=0.3, seed=0)
    second = model.train(images, images, 1, seed=0)
    assert model.history == first + second
    assert [epoch.epoch for epoch in model.history] == [1, 2, 3]
    for epoch in first:
        assert epoch.loss > 0 and epoch.seconds > 0 and epoch.lr == 1e-3
        # All images have the same size, so the pooled PSNR follows from the MSE: 10 log10(1 / mse).
        assert epoch.psnr_pooled == pytest.approx(-10 * math.log10(epoch.validation_mse), abs=1e-4)
        assert epoch.psnr >= epoch.psnr_pooled  # the mean of logarithms (Jensen)
    assert (second[0].validation_mse, second[0].psnr, second[0].psnr_pooled) == (None, None, None)


def test_validation_images_are_predicted_and_compared() -> None:
    images, (noisy, clean) = photos(4), (photos(3, seed=5), photos(3, seed=6))
    model = nc.Model(small())
    epoch = model.train(images, images, 1, validation=(noisy, clean), seed=0)[0]
    predicted = model.predict(noisy)
    assert epoch.validation_mse == pytest.approx(np.mean((predicted - clean) ** 2) / 255**2, rel=1e-5)
    assert epoch.psnr == pytest.approx(psnr(predicted, clean), rel=1e-5)


def test_a_validation_share_is_held_out_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    images = photos(10)
    model = nc.Model(small())
    seen, held_out = [], []
    step, validate = model.train_batch, model.validate
    monkeypatch.setattr(model, "train_batch", lambda x, t: seen.extend(on_host(x[:, 0, 0, 0]) * 255) or step(x, t))
    monkeypatch.setattr(model, "validate", lambda x, t: held_out.extend(x[:, 0, 0, 0]) or validate(x, t))
    model.train(images, images, 1, validation=0.3, seed=0)
    assert (len(seen), len(held_out)) == (7, 3)
    np.testing.assert_allclose(sorted(seen + held_out), sorted(images[:, 0, 0, 0]), rtol=1e-5)


def test_every_image_is_seen_once_an_epoch_in_an_order_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    images = photos(9)
    model = nc.Model(small())
    seen: list[float] = []
    step = model.train_batch
    monkeypatch.setattr(model, "train_batch", lambda x, t: seen.extend(on_host(x[:, 0, 0, 0])) or step(x, t))
    model.train(images, images, 2, batch_size=4, seed=0)
    assert sorted(seen[:9]) == sorted(seen[9:]) and seen[:9] != seen[9:]
    assert len(set(seen)) == 9


def test_callbacks_count_batches_and_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npconv.epochs.READ_EVERY", 1)  # a device's losses are read as they come
    images, batches, epochs = photos(10), [], []

    def stop_at_two(epoch: Any) -> bool:
        epochs.append(epoch)
        return epoch.epoch == 2

    model = nc.Model(small())
    history = model.train(
        images, images, 5, batch_size=4, seed=0,
        callback=stop_at_two, batch_callback=lambda *values: batches.append(values),
    )  # fmt: skip
    assert history == epochs == model.history and len(history) == 2
    assert [values[:2] for values in batches] == [(1, 3), (2, 3), (3, 3)] * 2
    # The epoch's loss is the mean over images: the last batch has 2 of the 10.
    losses = [loss for _, _, loss in batches[:3]]
    assert history[0].loss == pytest.approx((4 * losses[0] + 4 * losses[1] + 2 * losses[2]) / 10)


def test_only_true_stops() -> None:
    assert len(nc.Model(small()).train(photos(2), photos(2), 2, seed=0, callback=lambda epoch: 1)) == 2


@pytest.mark.parametrize(("every", "steps"), [("epoch", 2), ("batch", 6)])
def test_schedules_step_by_epoch_or_by_batch(every: str, steps: int) -> None:
    model = nc.Model(small())
    schedule = nc.StepLR(model.optimizer, 1, gamma=0.5)
    history = model.train(photos(10), photos(10), 2, batch_size=4, schedule=schedule, schedule_every=every, seed=0)
    assert schedule.count == steps and model.optimizer.lr == pytest.approx(1e-3 * 0.5**steps)
    assert [epoch.lr for epoch in history] == pytest.approx([1e-3, 1e-3 * 0.5 ** (steps // 2)])


@pytest.mark.parametrize("count", [1, 2])
def test_the_same_seed_gives_the_same_bits(workers: Callable[[int], None], count: int) -> None:
    workers(count)
    results = []
    for seed in (5, 5, 6):
        nc.manual_seed(1)
        network = nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), nc.Dropout(0.3), nc.ReLU(), nc.Conv2d(4, 3, 1))
        model = nc.Model(network)
        history = model.train(photos(12), photos(12, seed=1), 2, batch_size=5, validation=0.25, seed=seed)
        results.append((parameters(model), [(e.loss, e.validation_mse) for e in history]))
    assert same(results[0][0], results[1][0]) and results[0][1] == results[1][1]
    assert not same(results[0][0], results[2][0])


def test_pairs_and_uint8_images_train_like_arrays() -> None:
    images = photos(6).astype("uint8")
    results = []
    for source in ((images, images), (ArrayPairs(images, images), None), (images.astype("float32"),) * 2):
        model = nc.Model(small())
        model.train(*source, 2, seed=0)
        results.append(parameters(model))
    assert same(results[0], results[1]) and same(results[0], results[2])


def test_training_images_are_not_changed() -> None:
    images = photos(4)
    before = images.copy()
    nc.Model(small()).train(images, images, 1, seed=0)
    assert np.array_equal(images, before)


def test_an_interrupt_keeps_the_history_so_far() -> None:
    def interrupt(epoch: Any) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    model = nc.Model(small())
    with pytest.raises(KeyboardInterrupt):
        model.train(photos(4), photos(4), 5, seed=0, callback=interrupt)
    assert [epoch.epoch for epoch in model.history] == [1, 2]
    assert model.train(photos(4), photos(4), 1, seed=0)[0].epoch == 3


# ---- collapse ----
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_a_number_raises() -> None:
    network = nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), nc.ReLU(), nc.Conv2d(4, 3, 3, padding=1))
    model = nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=1e20))
    with pytest.raises(nc.TrainingCollapsed, match=r"the loss is (nan|inf) in epoch \d+.*smaller learning rate"):
        model.train(photos(8), photos(8), 5, batch_size=2, seed=0)


def test_a_network_that_dies_in_training_raises() -> None:
    network = small()
    # So large a step drives the Sigmoid to one of its ends, from where no gradient comes back.
    model = nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=1e4))
    with pytest.raises(nc.TrainingCollapsed, match=r"the same output, one colour.*12\.7 dB.*smaller learning rate"):
        model.train(photos(8), np.zeros((8, 3, 8, 8)), 5, batch_size=2, seed=0)


def test_units_that_die_raise_and_say_in_which_epoch() -> None:
    model = nc.Model(small())

    def kill(epoch: Any) -> None:
        if epoch.epoch == 2:
            for layer in (0, 2, 4):
                model.network[layer].bias.fill(-1e4)  # no ReLU lets anything through

    with pytest.raises(nc.TrainingCollapsed, match=r"one colour, for every image in epoch 3, after step 1 of 1"):
        model.train(photos(8), photos(8), 5, seed=0, callback=kill)


@pytest.mark.parametrize("lr", [1e-6, 1e-4])
def test_a_slow_but_healthy_run_is_left_alone(lr: float) -> None:
    network = small()
    model = nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=lr))
    assert len(model.train(photos(16), photos(16), 3, batch_size=4, seed=0)) == 3


# ---- files ----
def test_save_and_load_keep_everything(tmp_path: Path) -> None:
    path, network = tmp_path / "model.h5", small()
    optimizer = nc.SGD(network.parameters(), lr=0.25, momentum=0.8, nesterov=True, weight_decay=1e-4)
    model = nc.Model(network, nc.L1("sum"), optimizer)
    model.train_batch(batch(), batch(seed=4))
    model.save(path)
    other = nc.Model.load(path)
    for (data, grad), (mine, mine_grad) in zip(network.param(), other.network.param(), strict=True):
        assert np.array_equal(on_host(data), on_host(mine))
        assert np.array_equal(on_host(grad), on_host(mine_grad)) and grad.any()
    assert repr(other) == repr(model)
    assert other.optimizer.arguments() == optimizer.arguments()
    assert np.array_equal(other.predict(photos()), model.predict(photos()))
    assert other.train_batch(batch(), batch()) == model.train_batch(batch(), batch())


def test_adam_keeps_its_betas(tmp_path: Path) -> None:
    network = small()
    nc.Model(network, optimizer=nc.Adam(network.parameters(), betas=(0.8, 0.95), amsgrad=True)).save(tmp_path / "m.h5")
    group = nc.Model.load(tmp_path / "m.h5").optimizer.groups[0]
    assert (tuple(group["betas"]), group["amsgrad"], group["lr"]) == ((0.8, 0.95), True, 1e-3)


def test_a_network_without_parameters_has_no_optimizer(tmp_path: Path) -> None:
    nc.Model(nc.Sequential(nc.ReLU())).save(tmp_path / "m.h5")
    assert nc.Model.load(tmp_path / "m.h5").optimizer is None


class Doubling(nc.Layer):
    """A module of one's own: x -> 2 s x."""

    def __init__(self) -> None:
        self.factor = nc.Parameter(np.ones(1, "float32"))

    def _forward(self, x: Any) -> Any:
        return 2 * self.factor.data * x, x

    def _backward(self, grad: Any, saved: Any) -> Any:
        self.factor.accumulate(2 * (grad * saved).sum(keepdims=True).reshape(1))
        return 2 * self.factor.data * grad


def test_modules_of_ones_own_need_the_network(tmp_path: Path) -> None:
    path = tmp_path / "own.h5"
    model = nc.Model(nc.Sequential(nc.Conv2d(3, 3, 1), Doubling()))
    model.save(path)
    with pytest.raises(nc.WeightsFileError, match=r"has no architecture.*load_into"):
        nc.Model.load(path)
    nc.manual_seed(9)
    other = nc.Model.load(path, network=nc.Sequential(nc.Conv2d(3, 3, 1), Doubling()))
    assert np.array_equal(other.predict(photos()), model.predict(photos()))


def test_the_pretrained_model_is_bestmodel_h5_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    best, model = nc.Model(small(seed=1)), nc.Model(small(seed=2))
    assert not same(parameters(best), parameters(model))
    best.save("bestmodel.h5")
    model.load_pretrained_model()
    assert same(parameters(best), parameters(model))


def test_the_repr_says_what_is_inside() -> None:
    text = repr(nc.Model(nc.Sequential(nc.ReLU()), nc.L1()))
    assert text == "Model(\n  network=Sequential(\n    (0): ReLU()\n  ),\n  loss=L1(),\n  optimizer=None\n)"
