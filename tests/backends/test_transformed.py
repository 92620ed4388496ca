"""What Winograd's forward keeps for the kernel's gradient: the same bits as without it, and no more than has room."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import npconv as nc
from npconv.backends import backend
from npconv.backends.cpu import conv, transformed, winograd
from npconv.backends.geometry import ConvGeometry

pytestmark = pytest.mark.cpu
GEOMETRY = ConvGeometry.parse(3, 1, 1)


@pytest.fixture
def inputs_made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The shapes of the inputs that were transformed."""
    made: list[tuple[int, ...]] = []
    plain = winograd.Winograd._inputs

    def counting(self: Any, x: np.ndarray, *others: Any) -> np.ndarray:
        made.append(x.shape)
        return plain(self, x, *others)

    monkeypatch.setattr(winograd.Winograd, "_inputs", counting)
    yield made


@pytest.fixture(params=("winograd2", "winograd4"))
def winograd_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(backend(), "algorithm", request.param)
    return backend()


def arrays(rng: np.random.Generator, n: int = 3, side: int = 13) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x, grad = (nc.asarray(rng.standard_normal((n, c, side, side)), "float32") for c in (5, 6))
    return x, grad, nc.asarray(rng.standard_normal((6, 5, 3, 3)), "float32")


def test_a_step_transforms_its_input_once_and_gives_the_same_bits(
    rng: np.random.Generator, inputs_made: list[Any], winograd_backend: Any
) -> None:
    x, grad, weight = arrays(rng)
    expected = winograd_backend.conv2d_backward(grad, x, weight, GEOMETRY, False)[1]
    inputs_made.clear()
    with winograd_backend.training_step():
        winograd_backend.conv2d_forward(x, weight, None, GEOMETRY)
        once = len(inputs_made)
        found = winograd_backend.conv2d_backward(grad, x, weight, GEOMETRY, False)[1]
    assert once > 0 and len(inputs_made) == once
    assert np.array_equal(found, expected)


def test_groups_are_transformed_once_too(
    rng: np.random.Generator, inputs_made: list[Any], winograd_backend: Any
) -> None:
    geometry = ConvGeometry.parse(3, 1, 1, groups=2)
    x, grad = (nc.asarray(rng.standard_normal((3, 8, 13, 13)), "float32") for _ in range(2))
    weight = nc.asarray(rng.standard_normal((8, 4, 3, 3)), "float32")
    expected = winograd_backend.conv2d_backward(grad, x, weight, geometry, False)[1]
    inputs_made.clear()
    with winograd_backend.training_step():
        winograd_backend.conv2d_forward(x, weight, None, geometry)
        once = len(inputs_made)
        found = winograd_backend.conv2d_backward(grad, x, weight, geometry, False)[1]
    assert once > 0 and len(inputs_made) == once
    assert np.array_equal(found, expected)


def test_nothing_is_kept_outside_a_training_step(
    rng: np.random.Generator, inputs_made: list[Any], winograd_backend: Any
) -> None:
    x, grad, weight = arrays(rng)
    with winograd_backend.constant_weights():
        winograd_backend.conv2d_forward(x, weight, None, GEOMETRY)
        once = len(inputs_made)
        winograd_backend.conv2d_backward(grad, x, weight, GEOMETRY, False)
    assert len(inputs_made) == 2 * once
    assert transformed.begin(x) is None and transformed.take(x) is None


def test_an_array_that_holds_other_values_since_is_transformed_again(
    rng: np.random.Generator, winograd_backend: Any
) -> None:
    """One array for the inputs of two forwards: the kernel's gradient is that of what the array holds now."""
    x, grad, weight = arrays(rng)
    other = x.copy()
    with winograd_backend.training_step():
        x *= 2
        winograd_backend.conv2d_forward(x, weight, None, GEOMETRY)
        x[...] = other
        winograd_backend.conv2d_forward(x, weight, None, GEOMETRY)
        found = winograd_backend.conv2d_backward(grad, x, weight, GEOMETRY, False)[1]
    assert np.array_equal(found, winograd_backend.conv2d_backward(grad, other, weight, GEOMETRY, False)[1])


def test_other_padding_makes_other_tiles(rng: np.random.Generator, winograd_backend: Any) -> None:
    """The same input to two convolutions whose outputs are of one size: each gradient is that of its own."""
    x, grad, weight = arrays(rng)
    below = replace(GEOMETRY, padding=((0, 2), (0, 2)))
    for first, second in ((GEOMETRY, below), (below, GEOMETRY)):
        with winograd_backend.training_step():
            winograd_backend.conv2d_forward(x, weight, None, first)
            found = winograd_backend.conv2d_backward(grad, x, weight, second, False)[1]
        assert np.array_equal(found, winograd_backend.conv2d_backward(grad, x, weight, second, False)[1])


def test_what_does_not_fit_is_transformed_again(
    rng: np.random.Generator, inputs_made: list[Any], winograd_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformed, "ROOM_BYTES", 1000)
    x, grad, weight = arrays(rng)
    expected = winograd_backend.conv2d_backward(grad, x, weight, GEOMETRY, False)[1]
    inputs_made.clear()
    with winograd_backend.training_step():
        winograd_backend.conv2d_forward(x, weight, None, GEOMETRY)
        once = len(inputs_made)
        found = winograd_backend.conv2d_backward(grad, x, weight, GEOMETRY, False)[1]
    assert len(inputs_made) == 2 * once and np.array_equal(found, expected)


def test_nothing_is_kept_where_the_kernel_s_gradient_takes_another_way(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, grad, weight = arrays(rng)
    active = backend()
    monkeypatch.setattr(conv.choice, "for_output", lambda *_: "winograd2")
    monkeypatch.setattr(conv.choice, "for_kernel", lambda *_: "unfold")
    conv.of_groups.cache_clear()
    try:
        with active.training_step():
            room = transformed._room.get()
            active.conv2d_forward(x, weight, None, GEOMETRY)
            assert room is not None and room.bytes == transformed.ROOM_BYTES
            active.conv2d_backward(grad, x, weight, GEOMETRY, False)
    finally:
        conv.of_groups.cache_clear()


def test_a_backward_gives_all_room_back(rng: np.random.Generator, winograd_backend: Any) -> None:
    x, grad, weight = arrays(rng)
    with winograd_backend.training_step():
        room = transformed._room.get()
        winograd_backend.conv2d_forward(x, weight, None, GEOMETRY)
        assert room is not None and room.bytes < transformed.ROOM_BYTES
        winograd_backend.conv2d_backward(grad, x, weight, GEOMETRY, False)
        assert room.bytes == transformed.ROOM_BYTES


def test_room_comes_back(rng: np.random.Generator) -> None:
    x, v = np.zeros(3), np.zeros(100)
    with transformed.training_step():
        room = transformed._room.get()
        assert room is not None
        for _ in range(2):  # the second begin forgets the first
            kept = transformed.begin(x)
            assert kept is not None
            kept.put("a", v)
            kept.put("b", v)
            assert room.bytes == transformed.ROOM_BYTES - 2 * v.nbytes
        taken = transformed.take(x)
        assert taken is kept and transformed.take(x) is None
        assert taken.pop("a") is v and taken.pop("a") is None
        taken.clear()
        assert room.bytes == transformed.ROOM_BYTES
