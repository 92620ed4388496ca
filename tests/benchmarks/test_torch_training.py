"""PyTorch's version of a network, and the model that trains in PyTorch: the same outputs and the same steps as ours."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.cpu  # the benchmarks compare on the CPU

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

from torch_network import TorchNetwork  # noqa: E402  # the benchmarks are scripts, not a package
from torch_training import TorchModel  # noqa: E402

import npconv as nc  # noqa: E402


def skipping(channels: int = 8) -> nc.Module:
    """A network with a layer of every kind that the denoisers have."""
    low = nc.Sequential(
        nc.MaxPool2d(2),
        nc.Conv2d(channels, channels, 3, padding="same", padding_mode="reflect"),
        nc.LeakyReLU(0.1),
        nc.UpsamplingNearest2d(scale_factor=2),
    )
    body = nc.Sequential(
        nc.Conv2d(3, channels, 3, padding=1),
        nc.ReLU(),
        nc.Concat(nc.Identity(), low),
        nc.Conv2d(2 * channels, 12, 3, padding=1, bias=False),
        nc.PixelShuffle(2),
        nc.PixelUnshuffle(2),
        nc.BatchNorm2d(12),
        nc.AvgPool2d(2),
        nc.ConvTranspose2d(12, 6, 4, stride=2, padding=1),
        nc.Tanh(),
        nc.Conv2d(6, 3, 3, padding=1),
    )
    return nc.Sum(nc.Identity(), body)


def images(seed: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, 16, 20), dtype="float32")


@pytest.mark.parametrize("network", [skipping(), nc.networks.strided(8), nc.networks.strided(8, 3, "transposed")])
def test_the_networks_agree(network: nc.Module) -> None:
    x = images(0)
    with torch.no_grad():
        theirs = TorchNetwork(torch, network).module.train()(torch.from_numpy(x)).numpy()
    ours = nc.to_numpy(network.train().forward(nc.asarray(x)))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["Scale", "SelectChannels"])
def test_layers_without_a_name_of_their_own_in_pytorch(name: str) -> None:
    layer = nc.Scale(-0.5) if name == "Scale" else nc.SelectChannels(3, 1, 3)
    x = images(0)
    theirs = TorchNetwork(torch, layer).module(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(nc.to_numpy(layer.forward(nc.asarray(x))), theirs)


def test_a_layer_without_a_counterpart_is_named() -> None:
    with pytest.raises(TypeError, match=r"no counterpart of Flatten"):
        TorchNetwork(torch, nc.Sequential(nc.Conv2d(3, 3, 1), nc.Flatten()))


@pytest.mark.parametrize("batch_shape", [None, (2, 3, 16, 20)])
@pytest.mark.parametrize("optimizer", [nc.Adam, nc.SGD])
@pytest.mark.parametrize("loss", [nc.MSE, nc.L1])
def test_three_steps_agree(batch_shape: tuple[int, ...] | None, optimizer: type, loss: type) -> None:
    def made() -> nc.Model:
        nc.manual_seed(3)
        network = skipping()
        options = {"momentum": 0.9} if optimizer is nc.SGD else {}
        return nc.Model(network, loss(), optimizer(network.parameters(), lr=1e-2, **options))

    ours, theirs = made(), TorchModel(made(), threads=1, batch_shape=batch_shape)
    for step in range(3):
        for model in (ours, theirs):
            model.optimizer.lr = 0.01 / (step + 1)  # as a schedule does
        x, t = nc.asarray(images(step)), nc.asarray(images(100 + step))
        assert theirs.train_batch(x, t) == pytest.approx(ours.train_batch(x, t), rel=1e-4)
    theirs.write_back()
    pairs = list(zip(ours.network.named_parameters(), theirs.network.parameters(), strict=True))
    assert pairs
    for (name, mine), other in pairs:
        np.testing.assert_allclose(other.data, mine.data, atol=1e-4, err_msg=name)
    for name, values in ours.network.state_dict().items():  # BatchNorm's running statistics too
        np.testing.assert_allclose(theirs.network.state_dict()[name], values, atol=1e-4, err_msg=name)
    before = [parameter.data.copy() for parameter in made().network.parameters()]
    moved = [np.abs(p.data - old).max() for p, old in zip(ours.network.parameters(), before, strict=True)]
    assert max(moved) > 1e-3  # three steps that do nothing would agree too


def test_train_and_predict_are_those_of_any_model(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, t = (rng.uniform(0, 255, (24, 3, 16, 16)).astype("float32") for _ in range(2))

    def trained(kind: str) -> nc.Model:
        nc.manual_seed(1)
        network = nc.networks.strided(4)
        model = nc.Model(network, optimizer=nc.Adam(network.parameters()))
        model = TorchModel(model, threads=1) if kind == "torch" else model
        model.train(x, t, num_epochs=3, batch_size=8, validation=(x, t), seed=0)
        return model

    ours, theirs = trained("npconv"), trained("torch")
    for mine, other in zip(ours.history, theirs.history, strict=True):
        assert other.loss == pytest.approx(mine.loss, rel=1e-4)
        assert other.psnr == pytest.approx(mine.psnr, abs=1e-3)
    np.testing.assert_allclose(theirs.predict(x), ours.predict(x), atol=0.02)
    theirs.train_batch(theirs.as_network_input(x), theirs.as_network_input(t))
    theirs.save(tmp_path / "model.h5")
    np.testing.assert_array_equal(nc.Model.load(tmp_path / "model.h5").predict(x), theirs.predict(x))


def test_what_has_no_counterpart_in_training() -> None:
    class Other(nc.MSE):
        pass

    network = nc.networks.strided(4)
    with pytest.raises(TypeError, match="the loss .* has no counterpart here: MSE, L1"):
        TorchModel(nc.Model(network, Other()), threads=1)
    groups = [{"params": [p]} for p in network.parameters()]
    with pytest.raises(TypeError, match="Adam or SGD with one group"):
        TorchModel(nc.Model(network, optimizer=nc.Adam(groups)), threads=1)
