"""load_state: names, order and tables; one list of all that does not fit; nothing changes before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host

import npconv as nc
from npconv import FileFormatError, load_state


def network(dtype: str = "float32") -> nc.Sequential:
    return nc.Sequential(nc.Conv2d(1, 2, (1, 3)), nc.BatchNorm2d(2), nc.Conv2d(2, 1, 1)).astype(dtype)


def state(**changes: Any) -> dict[str, np.ndarray]:
    """Weights for `network` in PyTorch's order, in which parameters and buffers of a module stand together."""
    values: dict[str, Any] = {
        "0.weight": np.arange(6.0).reshape(2, 1, 1, 3),
        "0.bias": np.array([6.0, 7.0]),
        "1.weight": np.array([8.0, 9.0]),
        "1.bias": np.array([10.0, 11.0]),
        "1.running_mean": np.array([12.0, 13.0]),
        "1.running_var": np.array([14.0, 15.0]),
        "1.num_batches_tracked": np.array(16),
        "2.weight": np.array([17.0, 18.0]).reshape(1, 2, 1, 1),
        "2.bias": np.array([19.0]),
    }
    values = {name: value.astype("float32") if value.dtype.kind == "f" else value for name, value in values.items()}
    values.update({name.replace("_", ".", 1): value for name, value in changes.items()})
    return {name: value for name, value in values.items() if value is not None}


def values_of(network: nc.Module) -> dict[str, np.ndarray]:
    return on_host(network.state_dict())


def renamed(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"net.{chr(ord('a') + i)}": value for i, value in enumerate(values.values())}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_names_order_and_tables_give_the_same(dtype: str, tmp_path: Path) -> None:
    expected, other = state(), renamed(state())
    table = dict(zip(expected, other, strict=True))
    text = tmp_path / "table.txt"
    lines = [f"{ours} = {theirs}" for ours, theirs in table.items()]
    text.write_text("# ours = theirs\n\n" + "\n".join(reversed(lines)) + "\n", encoding="utf-8")
    for weights, mapping in ((expected, "names"), (other, "order"), (other, table), (other, text), (other, str(text))):
        net = network(dtype)
        pairs = load_state(net, on_device(weights), mapping)
        assert sorted(pairs) == sorted((ours, ours if mapping == "names" else table[ours]) for ours in expected)
        for name, value in values_of(net).items():
            assert value.dtype == (expected[name].dtype if name.endswith("tracked") else dtype)
            np.testing.assert_array_equal(value, expected[name])


def test_the_counter_of_batches_may_be_missing_on_either_side() -> None:
    old = state(**{"1_num_batches_tracked": None})
    for mapping, weights in (("names", old), ("order", renamed(old))):
        net = network()
        assert len(load_state(net, weights, mapping)) == 8
        assert values_of(net)["1.num_batches_tracked"] == 0 and values_of(net)["2.bias"] == 19
    plain = nc.Sequential(nc.Conv2d(1, 2, (1, 3)))
    weights = {name: value for name, value in state().items() if name[0] == "0" or name.endswith("tracked")}
    assert [ours for ours, _ in load_state(plain, weights, "names")] == ["0.weight", "0.bias"]
    assert [ours for ours, _ in load_state(plain, weights, "order")] == ["0.weight", "0.bias"]


def test_one_error_lists_all_and_nothing_has_changed() -> None:
    net, before = network(), values_of(network())
    for name, value in before.items():
        net.load_state_dict({name: on_device(value)}, strict=False)
    wrong = state(
        **{"0_bias": None, "1_weight": np.ones(3, "float32"), "2_bias": np.ones(1, "int32"), "9_x": np.ones(1)}
    )
    with pytest.raises(ValueError, match="the weights do not fit Sequential") as error:
        load_state(net, wrong)
    assert str(error.value).splitlines()[1:] == [
        "  missing: 0.bias",
        "  unexpected: 9.x",
        "  mismatched: 1.weight has shape (2,) in the network, (3,) in the file",
        "  mismatched: 2.bias is float32 in the network, int32 in the file",
    ]
    for name, value in values_of(net).items():
        np.testing.assert_array_equal(value, before[name])


def test_what_does_not_fit_by_order_or_by_table(tmp_path: Path) -> None:
    net, weights = network(), renamed(state())
    with pytest.raises(ValueError, match=r"missing: the file has no array number 9, for 2\.bias"):
        load_state(net, {name: value for name, value in weights.items() if name != "net.i"}, "order")
    with pytest.raises(ValueError, match=r"unexpected: net\.z, array number 10; the network has 9"):
        load_state(net, {**weights, "net.z": np.ones(1)}, "order")
    with pytest.raises(ValueError, match=r"mismatched: 0\.weight = net\.a has shape \(2, 1, 1, 3\) .* \(2, 1, 3, 1\)"):
        load_state(net, {**weights, "net.a": np.ones((2, 1, 3, 1), "float32")}, "order")
    table = dict(zip(state(), weights, strict=True))
    del table["0.bias"]
    table.update({"2.bias": "net.q", "7.bias": "net.i"})
    with pytest.raises(
        ValueError, match=r"missing: 0\.bias is not in the table(.|\n)*unexpected: 7\.bias of the table"
    ):
        load_state(net, weights, table)
    with pytest.raises(ValueError, match=r"missing: net\.q \(for 2\.bias\)(.|\n)*unexpected: net\.b"):
        load_state(net, weights, table)


def test_floats_too_large_for_the_network_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2\.bias has values up to 1e\+300, too large for float32"):
        load_state(network(), state(**{"2_bias": np.array([1e300])}))
    net = network()
    load_state(net, state(**{"2_bias": np.array([0.5], "float16")}))
    assert values_of(net)["2.bias"] == 0.5


def test_tables_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    for text, message in (
        ("a = b\nc d\n", r"table\.txt, line 2 \('c d'\): it must be `ours = theirs`"),
        ("a =\n", "line 1"),
        ("a = b\na = c\n", "line 2.*a name is there twice"),
        ("a = b\nc = b\n", "line 2.*a name is there twice"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(FileFormatError, match=message):
            load_state(network(), state(), path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(FileFormatError, match="is not a table of names"):
        load_state(network(), state(), path)
    with pytest.raises(FileNotFoundError):
        load_state(network(), state(), tmp_path / "none.txt")


def test_wrong_arguments() -> None:
    with pytest.raises(TypeError, match="must be a Module; of a Model, give its network"):
        load_state(nc.Model(network()), state())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a mapping of names to arrays"):
        load_state(network(), [1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"mapping \(=3\) must be"):
        load_state(network(), state(), 3)
