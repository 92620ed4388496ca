"""load_state for the files of other people: without biases before BatchNorms, kernels first, numbers that are none."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host

import npconv as nc
from npconv import load_state, networks

State = dict[str, np.ndarray]


def network() -> nc.Module:
    """A DnCNN whose every number is 7 before something is loaded."""
    net = networks.dncnn(depth=4, channels=3)
    for parameter in net.parameters():
        parameter.fill(7)
    return net


def without_biases(*left_out: str) -> State:
    """Weights for it, in PyTorch's order, without those named."""
    from npconv.interchange.mapping import own_arrays

    rng = np.random.default_rng(0)
    own = {name: on_host(array) for name, array in own_arrays(network()).items()}
    values = {name: np.asarray(rng.random(array.shape)).astype(array.dtype) for name, array in own.items()}
    return {name: array for name, array in values.items() if name not in left_out}


def renamed(state: State) -> State:
    """As the file of another program: net.c.weight, net.c.bias for model.2.weight, model.2.bias."""
    return {f"net.{chr(97 + int(name.split('.')[1]))}.{name.split('.')[2]}": value for name, value in state.items()}


BEFORE_NORMS = ("model.2.bias", "model.5.bias")
EVERY = ("model.0.bias", *BEFORE_NORMS, "model.8.bias")


@pytest.mark.parametrize("left_out", [BEFORE_NORMS, (*BEFORE_NORMS, "model.8.bias"), EVERY, ("model.5.bias",)])
@pytest.mark.parametrize("mapping", ["names", "order"])
def test_biases_that_the_file_lacks_are_zero_if_that_is_wanted(mapping: str, left_out: Any) -> None:
    state = without_biases(*left_out)
    theirs = state if mapping == "names" else renamed(state)
    net = network()
    with pytest.raises(ValueError, match="missing: "):
        load_state(net, theirs, mapping)
    assert all((on_host(p.data) == 7).all() for p in net.parameters())
    pairs = load_state(net, on_device(theirs), mapping, missing_bias="zero")
    assert [ours for ours, _ in pairs] == list(state)
    found = on_host(net.state_dict())
    for name in left_out:
        assert not found[name].any(), name
    for name, values in state.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_only_biases_of_convolutions_that_are_there_may_be_missing() -> None:
    for left_out, message in (
        (("model.3.bias",), "missing: model.3.bias"),
        (("model.8.weight", "model.8.bias"), r"missing: model.8.weight\n  missing: model.8.bias"),
    ):
        with pytest.raises(ValueError, match=message):
            load_state(network(), without_biases(*left_out), missing_bias="zero")
    for left_out in ("model.3.running_var", "model.3.bias", "model.3.weight"):
        with pytest.raises(ValueError, match="missing: the file has no array number"):
            load_state(network(), renamed(without_biases(left_out)), "order", missing_bias="zero")
    with pytest.raises(ValueError, match=r"missing_bias \(='none'\) must be 'zero' or 'error'"):
        load_state(network(), {}, missing_bias="none")


def test_eps_is_an_argument_of_dncnn() -> None:
    for options, eps in (({}, 1e-4), ({"batch_norm_eps": 1e-5}, 1e-5)):
        norms = [m for m in networks.make("dncnn", depth=4, **options).modules() if isinstance(m, nc.BatchNorm2d)]
        assert [norm.eps for norm in norms] == [eps, eps]
    with pytest.raises(ValueError, match=r"eps \(=-1\) must be at least 0"):
        networks.dncnn(depth=4, batch_norm_eps=-1)
    with pytest.raises(ValueError, match="batch_norm_eps .* is not an option of the network unet"):
        networks.make("unet", batch_norm_eps=1e-5)


# ---- kinds ----
def kernels_first(net: nc.Module, names: bool = False) -> tuple[State, State]:
    """The state of a network with random weights, and the same as w0, w1, ..., b0, b1, ..."""
    rng = np.random.default_rng(1)
    expected = {n: rng.random(p.shape, dtype="float32") for n, p in net.named_parameters()}
    weights = [values for name, values in expected.items() if name.endswith("weight")]
    biases = [values for name, values in expected.items() if name.endswith("bias")]
    return expected, {f"w{i}": v for i, v in enumerate(weights)} | {f"b{i}": v for i, v in enumerate(biases)}


def test_kernels_first_go_by_kinds() -> None:
    net = networks.dncnn(depth=13, channels=3, batch_norm=False)
    expected, theirs = kernels_first(net)
    for state in (theirs, dict(sorted(theirs.items()))):  # alphabetical: w0, w1, w10, w11, w12, w2
        for parameter in net.parameters():
            parameter.fill(0)
        pairs = load_state(net, state, "kinds")
        assert ("model.20.bias", "b10") in pairs and len(pairs) == 26
        for name, values in on_host(net.state_dict()).items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)
    unsorted = {f"{name[0]}x{9 - i}": value for i, (name, value) in enumerate(theirs.items())}
    load_state(net, unsorted, "kinds")  # no names that a writer sorted: as they stand
    np.testing.assert_array_equal(on_host(net.state_dict())["model.0.bias"], expected["model.0.bias"])


def test_kinds_that_do_not_fit() -> None:
    net = networks.dncnn(depth=3, channels=3, batch_norm=False)
    _, theirs = kernels_first(net)
    for changes, message in (
        ({"b2": None}, r"missing: the file has no vector number 3, for model\.4\.bias"),
        ({"b3": np.ones(1, "float32")}, "unexpected: b3, vector number 4"),
        ({"c": np.ones((1, 1, 1), "float32")}, "unexpected: c"),
        ({"w1": np.ones((3, 3, 5, 5), "float32")}, r"mismatched: model\.2\.weight = w1 has shape"),
    ):
        state = {name: value for name, value in (theirs | changes).items() if value is not None}
        with pytest.raises(ValueError, match=message):
            load_state(net, state, "kinds")
    with pytest.raises(ValueError, match=r"kinds do not tell which vector is model\.3\.running_mean"):
        load_state(networks.dncnn(depth=3, channels=3), theirs, "kinds")


# ---- numbers that are none ----
def test_nan_and_infinity_are_loaded_with_a_warning() -> None:
    net = nc.Sequential(nc.Conv2d(1, 1, 1), nc.Conv2d(1, 1, 1))
    state = {
        f"{i}.{kind}": np.ones(shape, "float32")
        for i in (0, 1)
        for kind, shape in (("weight", (1, 1, 1, 1)), ("bias", (1,)))
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_state(net, state)
    state["0.bias"][:] = np.nan
    with pytest.warns(UserWarning, match=r"the weights 0\.bias have NaN or infinite values$"):
        load_state(net, state)
    assert np.isnan(on_host(net.state_dict())["0.bias"]).all()
    state["1.weight"][:] = -np.inf
    with pytest.warns(UserWarning, match=r"the weights 0\.bias \(and 1 more\) have NaN or infinite values"):
        load_state(net, state)
