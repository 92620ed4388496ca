"""Extreme numbers in every layer, loss and optimizer: each number of the result is of the class that PyTorch's is.

Denormal, 1e30, 3e38 (1e200 and 1.5e308 in float64), -0.0, infinities and NaN, in single places of the input, of the
parameters and of the upstream gradient, together, and everywhere. Expected classes are stored (extreme_classes.npz);
where PyTorch is installed, they are compared with what it gives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from extreme_cases import DTYPES, NAN
from extreme_table import CONVOLUTIONS, GROUPS, LAYERS, LOSSES, OPTIMIZERS
from make_extremes import assert_classes, joined, key, stored

# A device's kernels multiply with padding, and overflow, in an order of their own.
pytestmark = pytest.mark.cpu


def named(groups: list[Any]) -> Any:
    return pytest.mark.parametrize("group", groups, ids=lambda group: group.name)


@pytest.mark.parametrize("dtype", DTYPES)
@named(CONVOLUTIONS)
def test_convolutions_by_every_algorithm(group: Any, dtype: str, algorithm: str) -> None:
    assert_classes(group, dtype, group.ours(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@named(LAYERS + LOSSES + OPTIMIZERS)
def test_layers_losses_and_optimizers(group: Any, dtype: str) -> None:
    assert_classes(group, dtype, group.ours(dtype))


@pytest.mark.parametrize("kernel_threads", [3], indirect=True)
@named(CONVOLUTIONS + LAYERS)
def test_threads_that_share_an_operation_change_nothing(group: Any, kernel_threads: int) -> None:
    assert_classes(group, "float32", group.ours("float32"))


@pytest.mark.parametrize("dtype", DTYPES)
@named(OPTIMIZERS)
def test_optimizers_of_large_parameters(group: Any, dtype: str) -> None:
    """As many as go over flat memory in blocks."""
    repeat = 300
    found = group.ours(dtype, repeat)
    for result in found:
        rows = result["data"].reshape(repeat, -1)
        assert (rows == rows[0]).all()
        result["data"] = rows[0]
    assert_classes(group, dtype, found)


@pytest.mark.parametrize("dtype", DTYPES)
@named(GROUPS)
def test_the_stored_classes_are_what_pytorch_gives(group: Any, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    assert np.array_equal(stored()[key(group, dtype)], joined(group.theirs(torch, dtype)))


@named(CONVOLUTIONS)
def test_where_pytorch_differs_from_itself_we_give_nan(group: Any) -> None:
    """oneDNN leaves out the products with padding, of which an infinity makes NaN: nothing else differs."""
    torch = pytest.importorskip("torch")
    theirs = group.theirs(torch, "float32", onednn=True)
    for ours, other in zip(group.ours("float32"), theirs, strict=True):
        for name, values in ours.items():
            assert (values[values != other[name]] == NAN).all(), name


def test_nothing_else_is_stored() -> None:
    assert set(stored()) == {key(group, dtype) for group in GROUPS for dtype in DTYPES}
