"""npconv beside the stored arrays of PyTorch: the comparison for machines that do not have it."""

from __future__ import annotations

from typing import Any

import pytest
from comparison import assert_close
from convolutions import algorithms_of
from layer_cases import LAYER_CASES
from make_reference import PATH, STORED_CASES, load, torch_version

import npconv as nc

BOUNDS = {"float64": 1e-10, "float32": 1e-5}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    ("case", "algorithm"),
    [(case, name) for case in STORED_CASES for name in algorithms_of(getattr(case, "layer", "Conv2d"))],
    ids=lambda value: getattr(value, "name", None),
    indirect=["algorithm"],
)
def test_the_stored_arrays_agree(case: Any, dtype: str, algorithm: str) -> None:
    assert_close(case.ours(dtype), load(case), BOUNDS[dtype])


@pytest.mark.parametrize("case", STORED_CASES, ids=lambda case: case.name)
def test_the_stored_arrays_are_what_pytorch_gives(case: Any) -> None:
    torch = pytest.importorskip("torch")
    assert_close(load(case), case.theirs(torch, "float64"), 1e-12)


def test_the_file_is_small_and_says_which_pytorch_made_it() -> None:
    assert PATH.stat().st_size < 300_000
    assert torch_version().split(".")[0].isdecimal()


def test_every_layer_is_in_the_file() -> None:
    in_table = {case.layer for case in LAYER_CASES}
    stored = {case.layer for case in LAYER_CASES if case.stored}
    assert in_table == stored == set(nc.layers.__all__) - {"Activation"}
