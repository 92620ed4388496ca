"""MaskedMSE: its values, its gradient, how it adds up over the workers, and that blind spots teach the mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host

import npconv as nc
from npconv import data


def case(
    shape: tuple[int, ...] = (3, 2, 4, 5), dtype: str = "float64", seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A prediction, values and weights; the images have unequal numbers of weighted values."""
    rng = np.random.default_rng(seed)
    prediction, values = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    weights = rng.random(shape) * (rng.random(shape) < rng.random((shape[0], *[1] * (len(shape) - 1))))
    weights[0].flat[0] = 1
    return prediction, values, weights.astype(dtype)


def by_hand(prediction: np.ndarray, values: np.ndarray, weights: np.ndarray) -> float:
    """The definition, element by element."""
    total = 0.0
    for p, t, w in zip(prediction, values, weights, strict=True):
        above = below = 0.0
        for a, b, c in zip(p.ravel().tolist(), t.ravel().tolist(), w.ravel().tolist(), strict=True):
            above, below = above + c * (a - b) ** 2, below + c
        total += above / below if below else 0.0
    return total / len(prediction)


def loss_and_gradient(prediction: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    loss = nc.MaskedMSE()
    value = loss(*on_device([prediction, np.concatenate([values, weights], axis=1)]))
    return value, on_host(loss.backward())


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (1, 1, 1, 1), (4, 3, 8, 8), (5, 7)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_value_is_the_weighted_mean_of_each_image(shape: tuple[int, ...], dtype: str) -> None:
    arrays = case(shape, dtype)
    value, grad = loss_and_gradient(*arrays)
    assert isinstance(value, float)
    assert value == pytest.approx(by_hand(*arrays), rel=1e-5 if dtype == "float32" else 1e-13)
    assert grad.shape == shape and grad.dtype == dtype


def test_equal_masks_give_the_mean_over_all_weighted_values() -> None:
    prediction, values, _ = case()
    weights = np.zeros_like(values)
    weights[:, :, 1, 2:4] = 1
    hidden = weights == 1
    expected = np.mean((prediction[hidden] - values[hidden]) ** 2)
    assert loss_and_gradient(prediction, values, weights)[0] == pytest.approx(expected, rel=1e-13)
    everywhere = loss_and_gradient(prediction, values, np.ones_like(values))
    assert everywhere[0] == pytest.approx(nc.MSE()(*on_device([prediction, values])), rel=1e-13)


def test_the_gradient_is_that_of_the_value() -> None:
    prediction, values, weights = case()
    _, grad = loss_and_gradient(prediction, values, weights)
    step = 1e-6
    for place in np.ndindex(prediction.shape):
        moved = [prediction.copy(), prediction.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        slope = (by_hand(moved[0], values, weights) - by_hand(moved[1], values, weights)) / (2 * step)
        assert grad[place] == pytest.approx(slope, abs=1e-8)
        assert weights[place] or grad[place] == 0


def test_torch_agrees() -> None:
    torch = pytest.importorskip("torch")
    arrays = case((4, 3, 8, 8))
    p, t, w = (torch.tensor(a) for a in arrays)
    p.requires_grad_()
    expected = ((w * (p - t) ** 2).sum(dim=(1, 2, 3)) / w.sum(dim=(1, 2, 3))).mean()
    expected.backward()
    value, grad = loss_and_gradient(*arrays)
    assert value == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(grad, p.grad.numpy(), rtol=1e-12)


def test_images_without_weight_count_nothing() -> None:
    prediction, values, weights = case()
    weights[1] = 0
    value, grad = loss_and_gradient(prediction, values, weights)
    assert value == pytest.approx(by_hand(prediction, values, weights), rel=1e-13)
    assert (grad[1] == 0).all() and (grad[0] != 0).any()
    value, grad = loss_and_gradient(prediction, values, weights * 0)
    assert value == 0 and (grad == 0).all()


def test_values_without_weight_do_not_matter() -> None:
    prediction, values, weights = case()
    value, grad = loss_and_gradient(prediction, values, weights)
    changed = np.where(weights == 0, 1e6, values)
    assert loss_and_gradient(prediction, changed, weights)[0] == value
    np.testing.assert_array_equal(loss_and_gradient(prediction, changed, weights)[1], grad)


def test_the_scale_of_the_weights_does_not_matter() -> None:
    prediction, values, weights = case()
    value, grad = loss_and_gradient(prediction, values, weights)
    other, other_grad = loss_and_gradient(prediction, values, weights / 255)
    assert other == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(other_grad, grad, rtol=1e-12)


def test_shapes() -> None:
    loss = nc.MaskedMSE()
    assert loss.target_shape((4, 3, 8, 9)) == (4, 6, 8, 9)
    assert nc.MSE().target_shape((4, 3)) == (4, 3)
    p, t = on_device([np.zeros((2, 3, 4, 4)), np.zeros((2, 3, 4, 4))])
    with pytest.raises(ValueError, match=r"target of shape \(2, 3, 4, 4\) must have shapes .* target \(2, 6, 4, 4\)"):
        loss(p, t)
    with pytest.raises(ValueError, match=r"MaskedMSE: prediction of shape \(3,\) must be \(N, C, ...\)"):
        loss(p[0, 0, 0, :3], t)
    with pytest.raises(nc.BackwardError, match=r"MaskedMSE.backward was called before MaskedMSE.forward"):
        nc.MaskedMSE().backward()


# ---- in training ----
def pairs_of(noise: Any, target: str = "blind-spot", count: int = 32, **options: Any) -> data.PatchPairs:
    photos = data.ArrayPhotos(np.random.default_rng(0).integers(0, 256, (3, 3, 40, 40), dtype=np.uint8))
    return data.PatchPairs(photos, noise, count, 16, target, **options)


def small_network() -> nc.Module:
    return nc.Sequential(nc.Conv2d(3, 6, 3, padding=1), nc.ReLU(), nc.Conv2d(6, 3, 3, padding=1))


@pytest.mark.cpu
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_batch_over_workers_has_the_gradient_of_the_whole_batch(
    workers: int, set_workers: Any, monkeypatch: Any
) -> None:
    """With any masks, also of unequal numbers: each image has a mean of its own."""
    monkeypatch.setattr("npconv.training.THREAD_WORK", 1)
    monkeypatch.setattr("npconv.training.PROCESS_WORK", 1)
    monkeypatch.setattr("npconv.training.SLICE_MEMORY", 1)
    monkeypatch.setattr("npconv.training.SLICE_WORK", 1)
    set_workers(workers)
    prediction, values, weights = case((7, 3, 16, 16))
    network = nc.Sequential(nc.Conv2d(3, 3, 3, padding=1, dtype="float64"))
    target = np.concatenate([values, weights], axis=1)
    model = nc.Model(network, nc.MaskedMSE(), nc.SGD(network.parameters(), lr=0.0))
    value = model.train_batch(prediction, target)
    assert len(model._crew._replicas) == workers
    found = [parameter.grad.copy() for parameter in network.parameters()]
    network.zero_grad()
    loss = nc.MaskedMSE()
    expected = loss(network.forward(prediction), target)
    network.backward(loss.backward())
    assert value == pytest.approx(expected, rel=1e-12)
    for grad, parameter in zip(found, network.parameters(), strict=True):
        np.testing.assert_allclose(grad, parameter.grad, rtol=1e-10, atol=1e-15)


def test_models_train_with_it_and_are_saved_with_it(tmp_path: Any) -> None:
    network = small_network()
    model = nc.Model(network, nc.MaskedMSE())
    inputs, targets = (
        model.as_network_input(part) for part in pairs_of(data.Gaussian(25)).take(8, np.random.default_rng(0))
    )
    before = model.train_batch(inputs, targets)
    for _ in range(15):
        after = model.train_batch(inputs, targets)
    assert after < before
    model.save(tmp_path / "model.h5")
    assert isinstance(nc.Model.load(tmp_path / "model.h5").loss, nc.MaskedMSE)


def test_blind_spots_teach_the_mean_and_plain_targets_the_identity() -> None:
    """One convolution on flat pictures with noise: to say a hidden value, the best is the mean of what is around it.

    The network that sees the value which it is asked for learns to copy it, and leaves all the noise in.
    """
    rng = np.random.default_rng(0)
    flat = np.full((60, 1, 16, 16), 0.5) + rng.uniform(-0.3, 0.3, (60, 1, 1, 1))
    noisy = (255 * (flat + rng.normal(0, 0.1, flat.shape))).astype(np.float32)

    def error(target: str) -> float:
        """How far from the clean pictures the trained network is, in units of the noise."""
        photos = data.ArrayPhotos(noisy)
        pairs = data.PatchPairs(photos, data.NoNoise(), 60, 16, "blind-spot", masked_share=1 / 16)
        nc.manual_seed(0)
        network = nc.Sequential(nc.Conv2d(1, 1, 5, padding=2, padding_mode="reflect"))
        model = nc.Model(network, nc.MaskedMSE(), nc.Adam(network.parameters(), lr=0.02))
        draws = np.random.default_rng(1)
        for _ in range(60):
            for inputs, targets in pairs.batches(20, draws):
                if target == "seen":  # the same pairs, without the holes
                    inputs = targets[:, :1]
                model.train_batch(model.as_network_input(inputs), model.as_network_input(targets))
        return float(np.std(model.predict(noisy) / 255 - flat)) / 0.1

    blind, seen = error("blind-spot"), error("seen")
    assert blind < 0.45
    assert seen > 0.6
