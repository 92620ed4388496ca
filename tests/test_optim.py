"""Optimizers and schedules: groups, state and what they change. Their formulas are compared elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from devices import on_device, on_host

import npconv as nc


def net() -> nc.Sequential:
    nc.manual_seed(0)
    return nc.Sequential(nc.Linear(3, 4), nc.Tanh(), nc.Linear(4, 2))


def with_gradients() -> nc.Sequential:
    network = net()
    rng = np.random.default_rng(0)
    for parameter in network.parameters():
        parameter.grad[...] = on_device(rng.standard_normal(parameter.shape))
    return network


def values(network: nc.Module) -> list[np.ndarray]:
    return [on_host(data.copy()) for data, _ in network.param()]


# ---- which parameters ----
def test_parameters_pairs_and_generators_are_the_same() -> None:
    results = []
    for make in (lambda n: n.parameters(), lambda n: list(n.parameters()), lambda n: n.param()):
        network = with_gradients()
        nc.SGD(make(network), lr=0.5).step()
        results.append(values(network))
    expected = [on_host(data - 0.5 * grad) for data, grad in with_gradients().param()]
    for result in results:
        for mine, theirs in zip(result, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-6)


def test_groups_override_the_common_options() -> None:
    network = with_gradients()
    before = values(network)
    groups = [{"params": network[0].parameters(), "lr": 1.0}, {"params": network[2].parameters()}]
    optimizer = nc.SGD(groups, lr=0.25)
    assert [group["lr"] for group in optimizer.groups] == [1.0, 0.25] and optimizer.lr == 1.0
    optimizer.step()
    rates = [1.0, 1.0, 0.25, 0.25]
    for old, (new, grad), lr in zip(before, network.param(), rates, strict=True):
        np.testing.assert_allclose(on_host(new), old - lr * on_host(grad), rtol=1e-5, atol=1e-7)


def test_setting_lr_sets_that_of_all_groups() -> None:
    optimizer = nc.SGD([{"params": [p], "lr": i} for i, p in enumerate(net().parameters())])
    optimizer.lr = 0.5
    assert [group["lr"] for group in optimizer.groups] == [0.5] * 4


def test_zero_grad_clears_in_place() -> None:
    network = with_gradients()
    grads = [grad for _, grad in network.param()]
    nc.Adam(network.parameters()).zero_grad()
    assert not any(grad.any() for grad in grads)
    assert all(a is b for a, (_, b) in zip(grads, network.param(), strict=True))


def test_a_step_changes_data_in_place_and_no_gradient() -> None:
    network = with_gradients()
    grads = [on_host(grad.copy()) for _, grad in network.param()]
    for kind in (nc.SGD, nc.Adam):
        optimizer = kind(network.parameters(), weight_decay=0.1)
        if nc.backend().updates_flat:
            optimizer.step()  # the first one lays the parameters side by side
        arrays = [data for data, _ in network.param()]
        optimizer.step()
        assert all(a is b for a, (b, _) in zip(arrays, network.param(), strict=True))
    assert all(np.array_equal(a, on_host(b)) for a, (_, b) in zip(grads, network.param(), strict=True))


def test_a_learning_rate_of_zero_changes_nothing() -> None:
    network = with_gradients()
    before = values(network)
    for kind in (nc.SGD, nc.Adam):
        kind(network.parameters(), lr=0).step()
    assert all(np.array_equal(a, b) for a, b in zip(before, values(network), strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [nc.SGD, nc.Adam])
def test_parameters_and_state_keep_their_dtype(kind: type, dtype: str) -> None:
    network = with_gradients().astype(dtype)
    optimizer = kind(network.parameters(), lr=np.float64(0.1), weight_decay=0.01)
    optimizer.groups[0].update({"momentum": 0.9} if kind is nc.SGD else {})
    optimizer.step()
    optimizer.step()
    assert {data.dtype.name for data, _ in network.param()} == {dtype}
    arrays = [value for state in optimizer.state for value in state.values() if nc.backend().owns(value)]
    assert arrays and {array.dtype.name for array in arrays} == {dtype}


# ---- state ----
def test_state_is_a_dictionary_per_parameter_and_belongs_to_it() -> None:
    network = with_gradients()
    sgd, adam = nc.SGD(network.parameters(), momentum=0.9), nc.Adam(network.parameters(), amsgrad=True)
    assert sgd.state == [{}] * 4 == adam.state
    sgd.step()
    adam.step()
    shapes = [parameter.shape for parameter in network.parameters()]
    assert [state["velocity"].shape for state in sgd.state] == shapes
    assert [sorted(state) for state in adam.state] == [["first", "largest", "second", "step"]] * 4
    assert [state["largest"].shape for state in adam.state] == shapes and adam.state[0]["step"] == 1


def test_without_momentum_nothing_is_remembered() -> None:
    optimizer = nc.SGD(with_gradients().parameters())
    optimizer.step()
    assert optimizer.state == [{}] * 4


def test_arguments_rebuild_the_optimizer() -> None:
    network = net()
    adam = nc.Adam(network.parameters(), 0.1, (0.8, 0.9), 1e-6, 0.2, True)
    nc.StepLR(adam, 3)  # leaves initial_lr in the groups: no argument
    again = nc.Adam(network.parameters(), **adam.arguments())
    assert again.arguments() == adam.arguments()
    assert repr(adam) == "Adam(lr=0.1, betas=[0.8, 0.9], eps=1e-06, weight_decay=0.2, amsgrad=True)"
    sgd = nc.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True)
    assert nc.SGD(network.parameters(), **sgd.arguments()).arguments() == sgd.arguments()


# ---- schedules ----
def test_step_lr() -> None:
    optimizer = nc.SGD(net().parameters(), lr=0.8)
    schedule, rates = nc.StepLR(optimizer, 2, gamma=0.5), []
    for _ in range(6):
        rates.append(schedule.lr)
        schedule.step()
    assert rates == pytest.approx([0.8, 0.8, 0.4, 0.4, 0.2, 0.2])


def test_cosine_starts_at_the_rate_and_ends_at_eta_min() -> None:
    optimizer = nc.SGD(net().parameters(), lr=1.0)
    schedule = nc.CosineAnnealingLR(optimizer, 4, eta_min=0.2)
    rates = [optimizer.lr]
    for _ in range(4):
        schedule.step()
        rates.append(optimizer.lr)
    root = 0.4 * math.sqrt(0.5)
    assert rates == pytest.approx([1.0, 0.6 + root, 0.6, 0.6 - root, 0.2])


def test_each_group_has_its_own_start() -> None:
    groups = [{"params": [p], "lr": lr} for p, lr in zip(net().parameters(), (1.0, 0.1, 0.5, 0.2), strict=True)]
    optimizer = nc.SGD(groups)
    nc.StepLR(optimizer, 1, gamma=0.1).step()
    assert [group["lr"] for group in optimizer.groups] == pytest.approx([0.1, 0.01, 0.05, 0.02])


def test_one_cycle_rises_falls_and_moves_momentum_the_other_way() -> None:
    optimizer = nc.SGD(net().parameters(), lr=0.1, momentum=0.9)
    schedule = nc.OneCycleLR(optimizer, 1.0, 11, pct_start=4 / 11, anneal_strategy="linear", div_factor=10,
                             final_div_factor=10)  # fmt: skip
    rates, momenta = [optimizer.lr], [optimizer.groups[0]["momentum"]]
    for _ in range(10):
        schedule.step()
        rates.append(optimizer.lr)
        momenta.append(optimizer.groups[0]["momentum"])
    # Up in 3 steps from 1/10 to 1, down in 7 from 1 to 1/100; momentum from 0.95 to 0.85 and back.
    assert rates == pytest.approx([0.1 + 0.3 * i for i in range(4)] + [1 - 0.99 * i / 7 for i in range(1, 8)])
    assert momenta == pytest.approx([0.95 - 0.1 * i / 3 for i in range(4)] + [0.85 + 0.1 * i / 7 for i in range(1, 8)])


def test_one_cycle_moves_the_first_beta_of_adam_or_nothing() -> None:
    adam, plain = nc.Adam(net().parameters()), nc.SGD(net().parameters())
    nc.OneCycleLR(adam, 1.0, 10)
    nc.OneCycleLR(plain, 1.0, 10, cycle_momentum=False)
    assert adam.groups[0]["betas"] == (0.95, 0.999) and plain.groups[0]["momentum"] == 0.0


def test_an_optimizer_of_ones_own() -> None:
    class Sign(nc.Optimizer):
        """p -= lr sign(grad)."""

        def __init__(self, parameters: object, lr: float) -> None:
            super().__init__(parameters, {"lr": lr})

        def _check(self, group: dict) -> None:
            assert group["lr"] > 0

        def _update(self, parameter: nc.Parameter, state: dict, group: dict) -> None:
            parameter.data[...] -= group["lr"] * nc.backend().xp.sign(parameter.grad)

    network = with_gradients()
    before = values(network)
    Sign(network.parameters(), 0.5).step()
    for old, (new, grad) in zip(before, network.param(), strict=True):
        np.testing.assert_allclose(on_host(new), old - 0.5 * np.sign(on_host(grad)), rtol=1e-6)


def test_arguments_give_the_learning_rate_before_any_schedule():
    optimizer = nc.SGD(net().parameters(), lr=0.5)
    schedule = nc.StepLR(optimizer, 1, gamma=0.1)
    schedule.step()
    assert optimizer.lr == pytest.approx(0.05)
    assert optimizer.arguments()["lr"] == 0.5


def test_trapezoid_rises_stays_and_falls():
    optimizer = nc.SGD(net().parameters(), lr=2.0)
    schedule = nc.TrapezoidLR(optimizer, 10, warmup=0.3, cooldown=0.4)
    rates = [schedule.lr]
    for _ in range(10):
        schedule.step()
        rates.append(schedule.lr)
    assert rates == pytest.approx([0.5, 1.0, 1.5, 2, 2, 2, 2, 1.5, 1.0, 0.5, 0.0])
    schedule.step()
    assert schedule.lr == 0


def test_trapezoid_without_slopes_is_constant():
    optimizer = nc.SGD(net().parameters(), lr=2.0)
    schedule = nc.TrapezoidLR(optimizer, 3, warmup=0, cooldown=0)
    for _ in range(3):
        assert schedule.lr == 2
        schedule.step()


def test_trapezoid_shares_must_fit():
    optimizer = nc.SGD(net().parameters(), lr=2.0)
    with pytest.raises(ValueError, match=r"warmup \(=0.6\) and cooldown \(=0.5\) must be at most 1 together"):
        nc.TrapezoidLR(optimizer, 3, warmup=0.6, cooldown=0.5)
