"""Parameters side by side in one array: the same bits as one by one, and nothing lost that the caller sees."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host

import npconv as nc
from npconv.backends import Array
from npconv.flat import FlatParameters, flattened, whole_arrays
from npconv.optim import Optimizer

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda parameters: nc.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: nc.SGD(parameters, lr=0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    "nesterov": lambda parameters: nc.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda parameters: nc.Adam(parameters, lr=0.01, weight_decay=0.02),
    "amsgrad": lambda parameters: nc.Adam(parameters, lr=0.01, amsgrad=True),
}


@pytest.fixture
def flat_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any backend, asking for what a device asks for."""
    backend = type(nc.backend())
    monkeypatch.setattr(backend, "updates_flat", property(lambda self: True))
    monkeypatch.setattr(backend, "shares_batch", property(lambda self: False))


def model(optimizer: str, seed: int = 0) -> nc.Model:
    nc.manual_seed(seed)
    network = nc.networks.strided(4)
    return nc.Model(network, nc.MSE(), OPTIMIZERS[optimizer](network.parameters()))


def batches(count: int) -> list[tuple[Array, Array]]:
    rng = np.random.default_rng(1)
    return on_device([tuple(rng.random((4, 3, 8, 8), dtype="float32") for _ in range(2)) for _ in range(count)])


def values(made: nc.Model) -> list[np.ndarray]:
    return [on_host(parameter.data.copy()) for parameter in made.network.parameters()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_gives_the_same_bits(
    name: str, request: pytest.FixtureRequest, set_workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_workers(1)  # as a device: one sum, in one order
    monkeypatch.setattr(type(nc.backend()), "updates_flat", property(lambda self: False))
    steps = batches(5)
    one_by_one = model(name)
    losses = [one_by_one.train_batch(x, t) for x, t in steps]
    request.getfixturevalue("flat_updates")
    together = model(name)
    assert losses == [together.train_batch(x, t) for x, t in steps]
    assert all(np.array_equal(a, b) for a, b in zip(values(one_by_one), values(together), strict=True))
    assert isinstance(together.optimizer._flat[0][0], FlatParameters) and len(together.optimizer._flat) == 1
    for mine, theirs in zip(together.optimizer.state, one_by_one.optimizer.state, strict=True):
        assert mine.keys() == theirs.keys() != set() or name == "sgd"
        assert all(np.array_equal(on_host(mine[key]), on_host(theirs[key])) for key in mine)


def test_parameters_become_parts_of_one_array_and_keep_their_order_in_memory(flat_updates: None) -> None:
    made = model("momentum")
    before, strides = values(made), [p.data.strides for p in made.network.parameters()]
    made.optimizer.updates()
    parameters = list(made.network.parameters())
    assert all(np.array_equal(a, on_host(p.data)) for a, p in zip(before, parameters, strict=True))
    assert [p.data.strides for p in parameters] == strides
    for arrays in ([p.data for p in parameters], [p.grad for p in parameters]):
        (whole,) = whole_arrays(arrays)
        assert whole.size == sum(p.size for p in parameters)
        assert all(np.shares_memory(whole, array) for array in arrays)


def test_what_is_not_whole_is_cleared_part_by_part() -> None:
    whole = on_device(np.zeros(10))
    parts = [whole[:4], whole[4:8]]
    assert whole_arrays(parts) is parts
    assert whole_arrays([whole[:4], on_device(np.zeros(6))])[0] is not whole
    assert whole_arrays([whole[:4], whole[4:]])[0] is whole


def test_groups_and_what_is_added_or_converted_stay_right(flat_updates: None, set_workers: Any) -> None:
    """Two learning rates; then the network becomes float64, and its parameters must lie anew."""
    made = model("sgd")
    parameters = list(made.network.parameters())
    made.optimizer = nc.SGD([{"params": parameters[:2], "lr": 0.0}, {"params": parameters[2:]}], lr=0.1)
    before = values(made)
    made.train_batch(*batches(1)[0])
    unchanged = [np.array_equal(a, b) for a, b in zip(before, values(made), strict=True)]
    assert unchanged[:2] == [True, True] and not any(unchanged[2:])
    made.network.astype("float64")
    made.train_batch(*(a.astype("float64") for a in batches(1)[0]))
    flats = [part for part, _, _ in made.optimizer._flat]
    assert [flat.data.dtype for flat in flats] == ["float64", "float64"]
    assert all(flat.is_current() for flat in flats)
    assert not any(np.array_equal(a, b) for a, b in zip(before[2:], values(made)[2:], strict=True))


def test_different_steps_do_not_go_together() -> None:
    parameters = [nc.Parameter(np.zeros(3, "float32")) for _ in range(3)]
    states: list[dict[str, Any]] = [{"step": 4}, {"step": 1}, {"step": 4}]
    sizes = sorted(part.size for part, _ in flattened(parameters, states))
    assert sizes == [3, 6]


def test_pairs_of_arrays_stay_where_they_are(flat_updates: None) -> None:
    data, grad = on_device((np.ones(4, "float32"), np.full(4, 2, "float32")))
    parameter = nc.Parameter(np.ones(2, "float32"))
    optimizer: Optimizer = nc.SGD([(data, grad), parameter], lr=0.5)
    parameter.grad[...] = 1
    optimizer.step()
    assert data.tolist() == [0] * 4 and parameter.data.tolist() == [0.5, 0.5]


def test_a_deep_copy_goes_its_own_way(flat_updates: None) -> None:
    first = model("momentum")
    first.train_batch(*batches(1)[0])
    second = copy.deepcopy(first)
    before = values(first)
    second.train_batch(*batches(2)[1])
    assert all(np.array_equal(a, b) for a, b in zip(before, values(first), strict=True))
    first.train_batch(*batches(2)[1])
    assert all(np.array_equal(a, b) for a, b in zip(values(second), values(first), strict=True))


@pytest.mark.parametrize("edit", ["cleared", "replaced", "step"])
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_what_the_caller_does_to_the_state_is_followed(
    name: str, edit: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, set_workers: Any
) -> None:
    """Momentum forgotten, a state list of one's own, another step count: the next step is that of one by one."""
    set_workers(1)
    monkeypatch.setattr(type(nc.backend()), "updates_flat", property(lambda self: False))
    trained = []
    for _ in range(2):
        made = model(name)
        for i, (x, t) in enumerate(batches(4)):
            if i == 2 and edit == "cleared":
                for state in made.optimizer.state:
                    state.clear()
            elif i == 2 and edit == "replaced":
                made.optimizer.state = [dict(state) for state in made.optimizer.state]
                made.optimizer.state[0].clear()
            elif i == 2 and name == "adam":
                made.optimizer.state[1]["step"] = 40
            made.train_batch(x, t)
        trained.append(values(made))
        request.getfixturevalue("flat_updates")
    assert all(np.array_equal(a, b) for a, b in zip(*trained, strict=True))


def test_an_optimizer_says_at_once_that_it_cannot_update() -> None:
    class Nothing(Optimizer):
        def _check(self, group: Any) -> None:
            """Any option will do."""

    with pytest.raises(TypeError, match="Nothing must define _update"):
        Nothing([nc.Parameter(np.zeros(2, "float32"))], {})


def test_state_is_as_it_was_when_a_prepared_step_fails() -> None:
    made = model("adam")
    made.optimizer.updates()
    before = [dict(state) for state in made.optimizer.state]
    with pytest.raises(KeyError), made.optimizer.restored_on_error():
        made.optimizer.updates()
        raise KeyError
    assert [state["step"] for state in made.optimizer.state] == [state["step"] for state in before] == [1] * len(before)
