"""Files of weights with some bytes changed: read_state gives arrays, or raises FileFormatError that names the file."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from devices import on_host
from hypothesis import given
from hypothesis import strategies as st

import npconv as nc

pytestmark = pytest.mark.cpu
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

from fuzzing import archive_inputs, readers, torch_inputs  # noqa: E402  # the benchmarks are scripts, not a package

FORMATS = {
    form.name: form
    for form in (
        torch_inputs.zip_format(), torch_inputs.legacy_format(), archive_inputs.npz_format(),
        archive_inputs.safetensors_format(),
    )
}  # fmt: skip
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=16)),
        st.tuples(st.just("remove"), st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(b"")),
    ),
    min_size=1,
    max_size=4,
)


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    """The bytes with each edit at a share of their length; of a removal, its bytes say only how many."""
    for kind, share, new in edits:
        at = int(share * len(data))
        if kind == "set":
            data = data[:at] + new + data[at + len(new) :]
        elif kind == "insert":
            data = data[:at] + new + data[at:]
        elif kind == "remove":
            data = data[:at] + data[at + len(new) :]
        else:
            data = data[: max(1, at)]
    return data


@pytest.mark.parametrize("name", FORMATS)
@given(edits=EDITS, which=st.integers(0, 1))
def test_changed_bytes(name: str, tmp_path_factory: pytest.TempPathFactory, edits: list, which: int) -> None:
    form = FORMATS[name]
    path = tmp_path_factory.getbasetemp() / f"changed{form.ending}"
    path.write_bytes(edited(form.seeds[which % len(form.seeds)], edits))
    network = readers.network()
    before = on_host(network.state_dict())
    try:
        state = nc.read_state(path)
    except nc.FileFormatError as error:
        assert str(error).startswith(str(path))
        return
    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in state.values())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NaN
            nc.load_state(network, state)
    except ValueError:
        for key, values in on_host(network.state_dict()).items():
            np.testing.assert_array_equal(values, before[key])


@pytest.mark.parametrize("name", FORMATS)
def test_the_files_themselves_are_read(name: str, tmp_path: Path) -> None:
    expected = {key: np.asarray(value) for key, value in on_host(readers.network().state_dict()).items()}
    for seed in FORMATS[name].seeds:
        (tmp_path / "a").write_bytes(seed)
        state = nc.read_state(tmp_path / "a")
        assert set(state) == set(expected)
        for key, array in state.items():
            np.testing.assert_array_equal(array, expected[key])
