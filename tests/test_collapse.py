"""The watch for collapsed trainings on residual networks, with BatchNorm, and with more inputs than images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from devices import on_host

import npconv as nc
from npconv.data import Pairs
from npconv.losses import Loss


@pytest.fixture(autouse=True)
def seeded() -> None:
    nc.manual_seed(0)


def residual(scale: float = 1.0) -> nc.Sum:
    """Two convolutions beside the image itself; the last weights times `scale`."""
    branch = nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), nc.ReLU(), nc.Conv2d(4, 3, 3, padding=1))
    branch[2].weight.fill(branch[2].weight.data * scale)
    return nc.Sum(nc.Identity(), branch)


def photos(count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def adam(network: nc.Module, lr: float = 1e-3) -> nc.Model:
    return nc.Model(network, optimizer=nc.Adam(network.parameters(), lr=lr))


def test_a_residual_branch_that_dies_is_noticed() -> None:
    model = adam(residual())

    def kill(epoch: nc.Epoch) -> None:
        if epoch.epoch == 2:
            model.network[1][0].bias.fill(-1e4)  # no ReLU lets anything through

    with pytest.raises(nc.TrainingCollapsed, match=r"gives its input back, but for one colour, in epoch 3, after step"):
        model.train(photos(), photos(), 5, seed=0, callback=kill)


@pytest.mark.cpu  # many steps
def test_a_residual_branch_that_learns_to_add_nothing_is_left_alone() -> None:
    model = adam(residual(), lr=0.01)  # towards its own input: the branch's best is nothing
    history = model.train(photos(), photos(), 300, batch_size=8, seed=0)
    assert history[-1].loss < 1e-3 * history[0].loss


@pytest.mark.parametrize("scale", [0.0, 1e-9])
def test_a_branch_that_begins_with_nothing_may_learn(scale: float) -> None:
    noisy = np.clip(photos() + np.random.default_rng(1).normal(0, 25, (8, 3, 8, 8)), 0, 255)
    history = adam(residual(scale)).train(noisy, photos(), 3, batch_size=4, seed=0)
    assert history[-1].loss < history[0].loss


def test_running_statistics_are_left_alone_and_training_goes_on() -> None:
    norm = nc.BatchNorm2d(4)
    network = nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), norm, nc.ReLU(), nc.Conv2d(4, 3, 3, padding=1))
    model, seen = adam(network), []
    images = photos(16)
    steps = []

    def look(step: int, count: int, loss: float) -> None:
        steps.append(on_host(norm.running_mean.copy()))

    def report(epoch: nc.Epoch) -> None:
        seen.append((on_host(norm.running_mean.copy()), norm.training))

    model.train(images, images, 2, batch_size=4, validation=(images, images), seed=0, callback=report,
                batch_callback=look)  # fmt: skip
    # Neither the looks for a collapse nor validation change them; each step does, and in training mode to the end.
    assert np.array_equal(seen[0][0], steps[3]) and np.array_equal(seen[1][0], steps[7])
    assert all(not np.array_equal(a, b) for a, b in zip(steps, steps[1:], strict=False))
    assert [training for _, training in seen] == [True, True]


def test_validation_uses_running_statistics() -> None:
    norm = nc.BatchNorm2d(3, affine=False)
    model = adam(nc.Sequential(norm, nc.Conv2d(3, 3, 1)))
    images = photos(8)
    model.train(images, images, 1, seed=0)
    alone, together = model.validate(images[:1], images[:1])[0], model.predict(images)[:1]
    assert alone == pytest.approx(np.mean((together - images[:1]) ** 2) / 255**2, rel=1e-5)
    assert norm.training


# ---- inputs and targets that are not images alone ----
class Mapped(Pairs):
    """Pairs whose inputs have a noise map, and, `weighted`, whose targets have weights."""

    def __init__(self, weighted: bool = False) -> None:
        self.weighted = weighted

    def __len__(self) -> int:
        return 8

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, 8, 8

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return 4, 8, 8

    @property
    def target_shape(self) -> tuple[int, int, int]:
        return (6, 8, 8) if self.weighted else (3, 8, 8)

    def _epoch(self, batch_size: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, 8, batch_size):
            yield self._take(min(batch_size, 8 - start), rng)

    def _take(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        clean, sigma = photos(count).astype("float32"), np.full((count, 1, 8, 8), 25, "float32")
        noisy = clean + rng.normal(0, 25, clean.shape).astype("float32")
        weights = np.zeros_like(clean)
        weights[:, :, ::2] = 255
        return np.concatenate([noisy, sigma], 1), np.concatenate([clean, weights], 1) if self.weighted else clean


class Weighted(nc.MSE):
    """A loss whose target has weights, after the values."""

    def target_shape(self, prediction_shape: tuple[int, ...]) -> tuple[int, ...]:
        n, c, h, w = prediction_shape
        return n, 2 * c, h, w

    def value(self, prediction, target):
        return (target[:, 3:] * (prediction - target[:, :3]) ** 2).sum() / target[:, 3:].sum()

    def gradient(self, prediction, target):
        return 2 * target[:, 3:] * (prediction - target[:, :3]) / target[:, 3:].sum()


@pytest.mark.parametrize("weighted", [False, True])
def test_pairs_with_a_noise_map_and_weights(weighted: bool) -> None:
    network = nc.Sequential(nc.Conv2d(4, 6, 3, padding=1), nc.ReLU(), nc.Conv2d(6, 3, 3, padding=1))
    loss: Loss = Weighted() if weighted else nc.MSE()
    model = nc.Model(network, loss, nc.Adam(network.parameters(), lr=0.02))
    pairs = Mapped(weighted)
    history = model.train(pairs, num_epochs=10, validation=pairs, seed=0)
    assert history[-1].loss < history[0].loss and history[-1].psnr > history[0].psnr
    # Clean images are a validation for either.
    inputs, targets = Mapped().take(4, np.random.default_rng(1))
    (epoch,) = model.train(pairs, num_epochs=1, validation=(inputs, targets), seed=0)
    assert epoch.validation_mse == pytest.approx(np.mean((model.predict(inputs) - targets) ** 2) / 255**2, rel=1e-5)


@pytest.mark.parametrize(
    ("channels", "validation", "message"),
    [
        (6, None, r"gives \(6, 8, 8\) for inputs of \(4, 8, 8\), which MSE compares with targets of \(6, 8, 8\)"),
        (3, (photos(), photos()), r"validation images have 3 channels, they must have the 4 of the training"),
        (3, (Mapped().take(4, np.random.default_rng())[0], photos(4)[:, :2]), r"validation targets have 2 channels"),
        (3, (Mapped().take(4, np.random.default_rng())[0], photos(2)), r"must have one number, height and width"),
    ],
)
def test_shapes_that_do_not_fit_are_errors_before_training(channels: int, validation, message: str) -> None:
    model = adam(nc.Conv2d(4, channels, 3, padding=1))
    with pytest.raises(ValueError, match=message):
        model.train(Mapped(), num_epochs=1, validation=validation, seed=0)
    assert model.history == []


def test_pairs_with_weights_need_a_loss_that_takes_them() -> None:
    with pytest.raises(ValueError, match=r"which MSE compares with targets of \(3, 8, 8\), and the targets are \(6, 8"):
        adam(nc.Conv2d(4, 3, 3, padding=1)).train(Mapped(True), num_epochs=1)


def test_a_loss_that_has_no_measure_any_more_is_a_collapse() -> None:
    """lr 1 on residual networks: 1e20 and more, but finite."""
    network = nc.Sequential(nc.Conv2d(3, 8, 3, padding=1), nc.LeakyReLU(), nc.Conv2d(8, 3, 3, padding=1))
    model = nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=30.0))
    with pytest.raises(nc.TrainingCollapsed, match=r"the loss is .*e\+.*diverged. Train again with a smaller"):
        model.train(photos(3), photos(3), num_epochs=9, batch_size=1, seed=0)
