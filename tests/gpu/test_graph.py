"""Training steps as graphs, on the stand-in: the bits of eager steps, what is recorded when, and what never is."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import standin

import npconv as nc
from npconv.backends.gpu import graph

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda parameters: nc.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: nc.SGD(parameters, lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.01),
    "nesterov": lambda parameters: nc.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda parameters: nc.Adam(parameters, lr=0.01),
    "amsgrad": lambda parameters: nc.Adam(parameters, lr=0.01, weight_decay=0.02, amsgrad=True),
}
NETWORKS: dict[str, Any] = {
    "nearest": lambda: nc.networks.strided(4),
    "transposed": lambda: nc.networks.strided(4, upsampling="transposed"),
    "norm": lambda: nc.Sequential(
        nc.Conv2d(3, 6, 3, padding=1),
        nc.BatchNorm2d(6),
        nc.LeakyReLU(0.1),
        nc.AvgPool2d(2),
        nc.Upsampling(6, 3, 4, 2, 1),
    ),
    "joined": lambda: nc.Sequential(
        nc.Concat(nc.Identity(), nc.Sequential(nc.MaxPool2d(2), nc.UpsamplingNearest2d(scale_factor=2))),
        nc.Sum(nc.Conv2d(6, 3, 1), nc.Conv2d(6, 3, 3, padding=1)),
        nc.Tanh(),
    ),
}


def model(network: str = "nearest", optimizer: str = "momentum", loss: Any = None) -> nc.Model:
    nc.manual_seed(0)
    made = NETWORKS[network]()
    return nc.Model(made, loss or nc.MSE(), OPTIMIZERS[optimizer](made.parameters()))


def batches(count: int, images: int = 3, seed: int = 1) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(seed)
    drawn = [[rng.random((images, 3, 8, 8), dtype="float32") for _ in range(2)] for _ in range(count)]
    return [tuple(nc.backend().images(nc.asarray(a)) for a in pair) for pair in drawn]


def values(made: nc.Model) -> list[np.ndarray]:
    arrays = [p.data for p in made.network.parameters()] + [array for _, array in buffers(made)]
    return [nc.to_numpy(array) for array in arrays]


def buffers(made: nc.Model) -> list[tuple[str, Any]]:
    return [(name, getattr(module, part)) for name, module, part in made.network.named_buffers()]


def launched() -> int:
    """Graphs since the last question."""
    count = standin.counts().graph_launches
    standin.reset()
    return int(count)


def eagerly(made: nc.Model) -> nc.Model:
    made._crew._recorder, made._crew._recorder_of = None, nc.backend()
    return made


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_graph_takes_the_step_that_its_calls_would(network: str, optimizer: str, on_standin: ModuleType) -> None:
    recorded, eager = model(network, optimizer), eagerly(model(network, optimizer))
    for i, (x, t) in enumerate(batches(8)):
        expected = eager.train_batch(x, t)
        launched()
        assert recorded.train_batch(x, t) == expected
        assert launched() == (i >= graph.EAGER_STEPS)
        assert all(np.array_equal(a, b) for a, b in zip(values(recorded), values(eager), strict=True))


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_recorded_step_moves_nothing_and_waits_for_nothing(optimizer: str, on_standin: ModuleType) -> None:
    made = model(optimizer=optimizer)
    for x, t in batches(graph.EAGER_STEPS + 1):
        made._step(x, t)
    ready = batches(3)
    standin.reset()
    losses = [made._step(x, t) for x, t in ready]
    counted = standin.counts()
    assert (counted.to_device, counted.to_host, counted.synchronisations) == (0, 0, 0)
    assert counted.graph_launches == 3 and not counted.kernels
    assert len({float(loss) for loss in losses}) == 3, "a loss must outlive the next step"


def test_an_eager_step_moves_nothing_and_waits_for_nothing(on_standin: ModuleType) -> None:
    made = eagerly(model("norm", "adam"))
    ready = batches(3)
    made._step(*ready[0])
    standin.reset()
    made._step(*ready[1])
    counted = standin.counts()
    assert (counted.to_device, counted.to_host, counted.synchronisations) == (0, 0, 0)
    assert counted.kernels


@pytest.mark.parametrize("optimizer", ["nesterov", "amsgrad"])
def test_the_learning_rate_may_change_at_every_step(optimizer: str, on_standin: ModuleType) -> None:
    """A graph has its arguments baked in; these are read from memory."""
    recorded, eager = model(optimizer=optimizer), eagerly(model(optimizer=optimizer))
    for i, (x, t) in enumerate(batches(9)):
        for made in (recorded, eager):
            made.optimizer.lr = 0.01 * (i + 1)
            made.optimizer.groups[0]["weight_decay"] = 0.001 * i
        assert recorded.train_batch(x, t) == eager.train_batch(x, t)
    assert launched()
    assert all(np.array_equal(a, b) for a, b in zip(values(recorded), values(eager), strict=True))


def test_the_smaller_batch_at_the_end_of_an_epoch_is_taken_eagerly(on_standin: ModuleType) -> None:
    recorded, eager = model(), eagerly(model())
    epoch = [*batches(5), *batches(1, images=2)]
    graphs = []
    for _ in range(5):
        for x, t in epoch:
            expected = eager.train_batch(x, t)
            launched()
            assert recorded.train_batch(x, t) == expected
            graphs.append(launched())
    assert graphs == [0, 0, 0, 1, 1, 0] + [1, 1, 1, 1, 1, 0] * 4


@pytest.mark.parametrize("change", ["loss", "layer", "dtype", "values", "frozen", "eval", "momentum"])
def test_a_change_is_followed(change: str, on_standin: ModuleType) -> None:
    """Whatever the caller changes between steps changes what the next one does."""
    recorded, eager = model("norm"), eagerly(model("norm"))
    steps = batches(10)
    for i, (x, t) in enumerate(steps):
        if i == 5:
            for made in (recorded, eager):
                _change(made, change)
        if change == "dtype" and i >= 5:
            x, t = x.astype("float64"), t.astype("float64")
        assert recorded.train_batch(x, t) == eager.train_batch(x, t)
    assert all(np.array_equal(a, b) for a, b in zip(values(recorded), values(eager), strict=True))


def _change(made: nc.Model, what: str) -> None:
    if what == "loss":
        made.loss = nc.L1()
    elif what == "layer":
        made.network.append(nc.ReLU())
    elif what == "dtype":
        made.network.astype("float64")
    elif what == "values":
        made.network[0].weight.data = nc.asarray(np.full(made.network[0].weight.shape, 0.1, "float32"))
    elif what == "frozen":
        made.optimizer.groups[0]["params"] = made.optimizer.groups[0]["params"][1:]
        made.optimizer.state = made.optimizer.state[1:]
    elif what == "eval":
        made.network.eval()
    else:
        made.optimizer.groups[0]["momentum"] = 0.5


def test_other_work_between_steps_changes_nothing(on_standin: ModuleType) -> None:
    """A prediction uses the memory that a graph's own arrays would have, if they were not its own."""
    recorded, eager = model("joined"), eagerly(model("joined"))
    images = np.random.default_rng(3).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    for x, t in batches(8):
        assert recorded.train_batch(x, t) == eager.train_batch(x, t)
        assert np.array_equal(recorded.predict(images), eager.predict(images))


class Doubled(nc.Identity):
    """A module of one's own."""


@pytest.mark.parametrize("reason", ["draws numbers", "own module", "own loss", "own update", "waits", "switched off"])
def test_what_cannot_be_recorded_is_taken_eagerly(
    reason: str, on_standin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mine(nc.MSE):
        pass

    class Own(nc.SGD):
        def _update(self, parameter: Any, state: dict[str, Any], group: Any) -> None:
            parameter.data[...] -= 0.1 * parameter.grad

    made = model(loss=Mine() if reason == "own loss" else None)
    if reason == "draws numbers":
        made.network.append(nc.Dropout(0.5))
    elif reason == "own module":
        made.network.append(Doubled())
    elif reason == "own update":
        made.optimizer = Own(made.network.parameters())
    elif reason == "waits":
        made.network.append(nc.BatchNorm2d(3, momentum=None))  # its share of a batch is 1 / a number on the device
        made.optimizer = nc.SGD(made.network.parameters(), lr=0.1)
    elif reason == "switched off":
        monkeypatch.setattr(nc.backend(), "_graphs", False)
    before = values(made)
    launched()
    for x, t in batches(7):
        assert np.isfinite(made.train_batch(x, t))
    assert launched() == 0
    assert not any(np.array_equal(a, b) for a, b in zip(before[:2], values(made)[:2], strict=True))


def test_a_whole_training_reads_its_losses_now_and_then(on_standin: ModuleType) -> None:
    """Model.train: one upload for each input and target, and for a batch of losses one wait; the same history."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    seen: list[float] = []
    made = model()
    standin.reset()
    (epoch,) = made.train(images, images, 1, batch_size=4, seed=0, batch_callback=lambda *call: seen.append(call[2]))
    counted = standin.counts()
    assert seen[:9] == [seen[0]] * 9 and seen[0] != seen[9], "between the first and the last batch no loss is read"
    assert counted.to_device <= 2 * 10 + 12, counted
    with nc.use_backend("numpy"):
        (expected,) = model().train(images, images, 1, batch_size=4, seed=0)
    assert epoch.loss == pytest.approx(expected.loss, rel=1e-5)


def test_a_loss_that_is_not_a_number_stops_training(on_standin: ModuleType) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 8, 8), dtype=np.uint8)
    made = model()
    made.network[0].weight.data = nc.asarray(np.full(made.network[0].weight.shape, np.nan, "float32"))
    with pytest.raises(nc.TrainingCollapsed, match="the loss is nan"):
        made.train(images, images, 1, batch_size=4, seed=0)


@pytest.mark.parametrize(
    ("variable", "value"), [("NPCONV_GPU_GRAPHS", "2"), ("NPCONV_GPU_CONV", "fft"), ("NPCONV_TF32", "on")]
)
def test_a_wrong_setting_is_said_when_the_backend_is_made(
    variable: str, value: str, on_standin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from npconv.backends.gpu import CupyBackend

    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"{variable} .*{value}.* must be"):
        CupyBackend()


def test_two_models_may_share_a_network(on_standin: ModuleType) -> None:
    """The optimizer of one moves parameters that the other's graph knows under their old address."""
    pair, eager = ([model("nearest") for _ in range(2)] for _ in range(2))
    for made in (pair, eager):
        made[1].network = made[0].network
        parameters = list(made[0].network.parameters())
        made[0].optimizer = nc.SGD(parameters[:3], lr=0.1)
        made[1].optimizer = nc.SGD(parameters[3:], lr=0.1)
    for made in eager:
        eagerly(made)
    for i, (x, t) in enumerate(batches(14)):
        which = 1 if i in (6, 12) else 0
        assert pair[which].train_batch(x, t) == eager[which].train_batch(x, t)
    assert launched()
    assert all(np.array_equal(a, b) for a, b in zip(values(pair[0]), values(eager[0]), strict=True))


def test_a_new_learning_rate_is_no_transfer(on_standin: ModuleType) -> None:
    made = model(optimizer="adam")
    for x, t in batches(graph.EAGER_STEPS + 1):
        made._step(x, t)
    ready = batches(2)
    standin.reset()
    for i, (x, t) in enumerate(ready):
        made.optimizer.lr = 0.1 / (i + 1)
        made._step(x, t)
    counted = standin.counts()
    assert (counted.to_device, counted.to_host, counted.synchronisations) == (0, 0, 0)


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_a_batch_that_does_not_fit_is_no_step(optimizer: str, on_standin: ModuleType) -> None:
    made, other = model(optimizer=optimizer), model(optimizer=optimizer)
    wrong = tuple(nc.backend().images(nc.asarray(np.zeros((2, 4, 8, 8), "float32"))) for _ in range(2))
    for i, (x, t) in enumerate(batches(6)):
        if i in (0, 1, 5):
            with pytest.raises(ValueError, match="channels"):
                made.train_batch(*wrong)
        assert made.train_batch(x, t) == other.train_batch(x, t)
    assert all(np.array_equal(a, b) for a, b in zip(values(made), values(other), strict=True))


def test_a_step_of_ones_own_is_called(on_standin: ModuleType) -> None:
    class Clipped(nc.SGD):
        calls = 0

        def step(self) -> None:
            self.calls += 1
            super().step()

    made = model()
    made.optimizer = Clipped(made.network.parameters(), lr=0.1)
    for x, t in batches(6):
        made.train_batch(x, t)
    assert made.optimizer.calls == 6 and launched() == 0


def test_recordings_end_with_the_training(on_standin: ModuleType) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 8, 8), dtype=np.uint8)
    made = model()
    made.train(images, images, 1, batch_size=4, seed=0)
    assert launched() == 3 and made._crew._recorder is None


def test_tf32_is_refused_where_it_would_be_ignored(on_standin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from npconv.backends.gpu import CupyBackend

    monkeypatch.setenv("NPCONV_TF32", "1")
    CupyBackend()
    monkeypatch.setenv("NPCONV_GPU_CONV", "im2col")
    with pytest.raises(ValueError, match="must not be im2col"):
        CupyBackend()
    monkeypatch.setenv("NPCONV_GPU_CONV", "auto")
    monkeypatch.setattr(type(on_standin.cuda.Device()), "compute_capability", "75", raising=False)
    with pytest.raises(ValueError, match=r"8\.0 or later, this one has 7\.5"):
        CupyBackend()
