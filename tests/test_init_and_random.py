"""Initial weights and the default generator."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import numpy as np
import pytest
from devices import on_host

import npconv as nc
from npconv import init
from npconv.checkpoints import generators
from npconv.random import generator_or_default

SHAPE = (64, 32, 5, 5)
FAN_IN, FAN_OUT = 32 * 25, 64 * 25


def drawn(function: Any, *arguments: Any, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    parameter = nc.Parameter(np.zeros(shape, "float32"))
    function(parameter, *arguments, rng=np.random.default_rng(0))
    assert parameter.dtype == np.float32
    return on_host(parameter.data).astype("float64")


def assert_uniform(values: np.ndarray, bound: float) -> None:
    """Within the bound and nearly at it; mean 0 and variance bound^2 / 3."""
    assert 0.999 * bound < np.abs(values).max() <= bound * (1 + 1e-6)
    assert abs(values.mean()) < 5 * bound / math.sqrt(3 * values.size)
    assert values.var() == pytest.approx(bound**2 / 3, rel=0.02)


def assert_normal(values: np.ndarray, std: float) -> None:
    assert values.std() == pytest.approx(std, rel=0.02)
    assert np.mean(np.abs(values) < std) == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.01)


def test_uniform_and_normal() -> None:
    assert_uniform(drawn(init.uniform_, 0.3), 0.3)
    assert_normal(drawn(init.normal_, 0.2), 0.2)


def test_fans_count_the_taps() -> None:
    assert init.fans(nc.Parameter(np.zeros(SHAPE, "float32"))) == (FAN_IN, FAN_OUT)
    assert init.fans(nc.Linear(7, 3).weight) == (7, 3)


@pytest.mark.parametrize(
    ("nonlinearity", "gain"), [("linear", 1), ("relu", math.sqrt(2)), ("tanh", 5 / 3), ("sigmoid", 1)]
)
def test_kaiming_and_xavier(nonlinearity: str, gain: float) -> None:
    assert_uniform(drawn(init.kaiming_uniform_, nonlinearity), gain * math.sqrt(3 / FAN_IN))
    assert_normal(drawn(init.kaiming_normal_, nonlinearity), gain / math.sqrt(FAN_IN))
    assert_uniform(drawn(init.xavier_uniform_, nonlinearity), gain * math.sqrt(6 / (FAN_IN + FAN_OUT)))


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0, -0.5])
def test_kaiming_before_a_leaky_relu(slope: float) -> None:
    """The mean square of LeakyReLU(x) is (1 + slope^2) / 2 that of x, for x symmetric about 0."""
    gain = math.sqrt(2 / (1 + slope**2))
    assert init.gain("leaky_relu", slope) == pytest.approx(gain)
    uniform = functools.partial(init.kaiming_uniform_, negative_slope=slope)
    normal = functools.partial(init.kaiming_normal_, negative_slope=slope)
    assert_uniform(drawn(uniform, "leaky_relu"), gain * math.sqrt(3 / FAN_IN))
    assert_normal(drawn(normal, "leaky_relu"), gain / math.sqrt(FAN_IN))
    assert init.gain("relu", slope) == math.sqrt(2)  # no other has a slope


def test_the_slope_of_a_leaky_relu_is_001_if_none_is_given() -> None:
    assert_normal(drawn(init.kaiming_normal_, "leaky_relu"), math.sqrt(2 / 1.0001 / FAN_IN))
    with pytest.raises(TypeError, match=r"negative_slope \(='steep'\) must be a number"):
        init.gain("leaky_relu", "steep")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [
        (nc.Conv2d(32, 64, 5), 32 * 25),
        (nc.Conv2d(32, 64, 5, groups=4), 8 * 25),
        (nc.ConvTranspose2d(32, 64, 5), 64 * 25),
        (nc.Linear(300, 200), 300),
        (nc.Upsampling(32, 64, 4, 2, 1), 32 * 16),
    ],
    ids=["conv", "grouped", "transposed", "linear", "upsampling"],
)
def test_layers_start_as_pytorchs_do(layer: Any, fan_in: int) -> None:
    bound = math.sqrt(1 / fan_in)
    assert_uniform(on_host(layer.weight.data).astype("float64"), bound)
    assert 0.8 * bound < float(np.abs(layer.bias.data).max()) <= bound


def test_batch_norm_starts_with_ones_and_zeros() -> None:
    norm = nc.BatchNorm2d(3)
    assert (norm.weight.data == 1).all() and (norm.running_var == 1).all()
    assert not norm.bias.data.any() and not norm.running_mean.any()


def test_a_seed_repeats_all_initial_weights() -> None:
    states = []
    for seed in (1, 1, 2):
        nc.manual_seed(seed)
        states.append(nc.Sequential(nc.Conv2d(3, 4, 3), nc.Linear(4, 5), nc.Upsampling(4, 3, 4, 2, 1)).state_dict())
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert not any(np.array_equal(states[0][name], states[2][name]) for name in states[0])


def test_a_generator_of_ones_own_leaves_the_default_alone() -> None:
    nc.manual_seed(3)
    first = nc.Linear(4, 4).weight.data
    nc.manual_seed(3)
    own = nc.Linear(4, 4, rng=np.random.default_rng(5))
    assert np.array_equal(nc.Linear(4, 4).weight.data, first)
    assert np.array_equal(own.weight.data, nc.Linear(4, 4, rng=np.random.default_rng(5)).weight.data)


def test_numpys_global_state_is_neither_used_nor_changed() -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    nc.manual_seed(0)
    first = nc.Conv2d(3, 4, 3).weight.data
    np.random.seed(99)  # noqa: NPY002
    nc.manual_seed(0)
    assert np.array_equal(nc.Conv2d(3, 4, 3).weight.data, first)
    after = np.random.get_state()[1].copy()  # noqa: NPY002
    nc.Model(nc.Sequential(nc.Conv2d(1, 1, 1), nc.Dropout())).train(
        np.full((2, 1, 4, 4), 9.0), np.full((2, 1, 4, 4), 9.0), 1
    )
    assert np.array_equal(np.random.get_state()[1], after)  # noqa: NPY002
    assert not np.array_equal(before, after)


def test_the_default_generator() -> None:
    nc.manual_seed(np.int64(4))
    drawn_now = generator_or_default().random()
    assert drawn_now == np.random.default_rng(4).random()
    own = np.random.default_rng(0)
    assert generator_or_default(own) is own


@pytest.mark.parametrize("kind", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_a_stored_generator_has_arrays_only_where_it_had_some(kind: Any) -> None:
    generator = np.random.Generator(kind(1))
    generator.random(3, "float32")
    described = json.loads(json.dumps(generators.describe(generator)))
    again = generators.rebuild(described)
    assert (again.random(5, "float32") == generator.random(5, "float32")).all()
    name = "pos" if kind is np.random.MT19937 else "has_uint32"
    place = described["state"]["state"] if name == "pos" else described["state"]
    place[name] = [place[name]]
    with pytest.raises(ValueError, match=r"a generator cannot be rebuilt: TypeError.*must be a number"):
        generators.rebuild(described)
