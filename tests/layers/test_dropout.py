"""Dropout draws as it says: how many, how large, the same in backward, and from the generator that it was given."""

from __future__ import annotations

import math

import numpy as np
import pytest
from devices import FromHost

import npconv as nc


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("shape", [(8, 16, 20, 20), (50_000,)])
def test_a_share_p_is_zero_and_the_rest_is_scaled(p: float, dtype: str, shape: tuple[int, ...]) -> None:
    layer = FromHost(nc.Dropout(p, rng=np.random.default_rng(1)))
    x = np.full(shape, 3.0, dtype)
    y = layer(x)
    assert y.dtype == dtype
    assert np.allclose(np.unique(y), [0, 3 / (1 - p)], rtol=1e-6)
    zeros = float((y == 0).mean())
    assert abs(zeros - p) < 5 * math.sqrt(p * (1 - p) / x.size)  # five standard deviations of the share
    assert float(y.mean()) == pytest.approx(3, rel=5 * math.sqrt(p / (1 - p) / x.size))


def test_backward_uses_the_mask_of_forward(rng: np.random.Generator) -> None:
    layer = FromHost(nc.Dropout(0.4, rng=rng))
    x, grad = rng.random((4, 3, 6, 5)) + 0.5, rng.standard_normal((4, 3, 6, 5))
    y = layer(x)
    assert np.allclose(layer.backward(grad), grad * (y / x), rtol=1e-12, atol=0)
    z = layer(x)
    assert not np.array_equal(y, z)  # a new mask each time
    assert np.allclose(layer.backward(grad), grad * (z / x), rtol=1e-12, atol=0)


def test_pixels_are_dropped_one_by_one(rng: np.random.Generator) -> None:
    """Neighbours, in space or among channels, are dropped independently: their correlation is noise."""
    mask = (FromHost(nc.Dropout(0.5, rng=rng))(np.ones((10, 16, 32, 32))) > 0) - 0.5
    for axis in (0, 1, 2, 3):
        neighbours = mask.take(range(mask.shape[axis] - 1), axis) * mask.take(range(1, mask.shape[axis]), axis)
        assert abs(4 * neighbours.mean()) < 5 / math.sqrt(neighbours.size)


def test_evaluation_is_the_identity_and_training_is_not(rng: np.random.Generator) -> None:
    layer, x, grad = FromHost(nc.Dropout(0.5)), rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 3, 4, 5))
    layer.eval()
    assert np.array_equal(layer(x), x) and np.array_equal(layer.backward(grad), grad)
    layer.train()
    assert not np.array_equal(layer(x), x)


def test_seeds_repeat_and_replicas_differ(rng: np.random.Generator) -> None:
    x = np.ones((4, 4, 8, 8))

    def masks(seed: int) -> list[bytes]:
        layer = nc.Dropout(0.5, rng=np.random.default_rng(seed))
        return [FromHost(module)(x).tobytes() for module in (layer, layer.replica(), layer.replica())]

    assert masks(1) == masks(1)
    assert masks(1) != masks(2)
    assert len(set(masks(1))) == 3


def test_manual_seed_governs_layers_without_a_generator() -> None:
    x = np.ones((4, 4, 8, 8))
    found = []
    for _ in range(2):
        nc.manual_seed(3)
        found.append(FromHost(nc.Dropout(0.5))(x))
    assert np.array_equal(*found)


def test_numpys_global_state_is_neither_read_nor_changed() -> None:
    before = np.random.get_state()[1].tobytes()  # noqa: NPY002
    x = np.ones((4, 4))
    first = FromHost(nc.Dropout(0.5, rng=np.random.default_rng(0)))(x)
    np.random.seed(7)  # noqa: NPY002
    seeded = np.random.get_state()[1].tobytes()  # noqa: NPY002
    assert np.array_equal(FromHost(nc.Dropout(0.5, rng=np.random.default_rng(0)))(x), first)
    assert np.random.get_state()[1].tobytes() == seeded  # noqa: NPY002
    assert before != seeded
