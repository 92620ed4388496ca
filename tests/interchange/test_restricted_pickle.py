"""Hostile pickles: each is refused, and nothing in it happens."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch_files import legacy_file, state, tensor, text, zip_file

from npconv import FileFormatError, read_state

SENTINEL = "touched"


class Touches:
    """An object whose pickle calls `function` with `arguments` when Python reads it."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hostile(path: str) -> dict[str, Any]:
    command = f"open({path!r}, 'w').close()"
    return {
        "os.system": Touches(os.system, f"touch {path}"),
        "eval": Touches(eval, command),
        "exec": Touches(exec, command),
        "open": Touches(open, path, "w"),
        "getattr": Touches(getattr, Path, "touch"),
        "nested": {"state_dict": [{"a": (1, Touches(eval, command))}]},
        "key": {("a", Touches(eval, command)): 1},
    }


FORMS: dict[str, Callable[[Path, bytes], Path]] = {"zip": zip_file, "legacy": legacy_file}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", hostile(SENTINEL))
def test_nothing_is_called(name: str, protocol: int, form: str, tmp_path: Path) -> None:
    sentinel = tmp_path / SENTINEL
    pickled = pickle.dumps(hostile(str(sentinel))[name], protocol)
    path = FORMS[form](tmp_path / "evil.pth", pickled)
    with pytest.raises(FileFormatError, match=r"evil\.pth: pickle, .*refused: [\w.]+") as error:
        read_state(path)
    assert not sentinel.exists()
    if name == "os.system":
        assert f"refused: {os.system.__module__}.system" in str(error.value)


def test_the_sentinel_would_be_there_if_the_pickle_were_executed(tmp_path: Path) -> None:
    sentinel = tmp_path / SENTINEL
    pickle.loads(pickle.dumps(hostile(str(sentinel))["eval"]))
    assert sentinel.exists()


ADMITTED = b"ctorch._utils\n_rebuild_tensor_v2\n"
REFUSED = {
    "extension": (b"\x82\x01", "the instruction EXT1"),
    "object": (b"(ios\nsystem\n", "the instruction INST"),
    "old object": (b"(cbuiltins\neval\no", r"refused: builtins\.eval"),
    "new object of an admitted name": (b"ctorch\nSize\n)\x81", "the instruction NEWOBJ"),
    "new object, by keywords": (b"ctorch\nSize\n)}\x92", "the instruction NEWOBJ_EX"),
    "attribute of an admitted name": (b"ctorch\nSize.__class__\n", r"refused: torch\.Size\.__class__"),
    "attributes of a call": (ADMITTED + b"}b", "refused: attributes of a Call"),
    "items of a call": (ADMITTED + text("make") + text("x") + b"s", "sets an item of a Call"),
    "call of text": (text("eval") + b")R", "a call of what is not a function"),
    "call of a storage type": (b"ctorch\nFloatStorage\n)R", "a call of what is not a function"),
    "call of a tensor": (tensor("0", 4, (1,), (1,)) + b")R", "a call of what is not a function"),
    "call without a tuple": (ADMITTED + b"]R", "must be a tuple"),
    "tensor of text": (ADMITTED + b"(" + text("x") * 6 + b"tR", "must have a storage"),
    "persistent module": (b"(" + text("module") + b"NNNtQ", "persistent id of kind 'module'"),
    "persistent text": (b"Pmodule\n", "the instruction PERSID"),
    "append to text": (text("x") + b"Na", "must be a list"),
    "append to a tuple": (b")(NNe", "must be a list"),
    "empty stack": (b"R", "takes a value that is not there"),
    "no mark": (b"t", "no MARK"),
    "memo": (b"h\x07", "no value 7"),
    "unfinished": (b"(((", "values are left|no MARK|not there"),
    "huge integer": (b"\x8a\xff" + b"\x7f" * 255, "an integer of 2039 bits"),
    "tuple as a key": (b"}(NtNs", "a key is a tuple"),
    "list as a key": (b"}]Ns", "a key is a list"),
    "set": (b"\x8f", "the instruction EMPTY_SET"),
    "long text": (b"X\xff\xff\xff\x7fabc", "expected 2147483647 bytes"),
    "no instruction": (b"\xff", "opcode"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_each_way_to_more_than_data_is_closed(case: str, tmp_path: Path) -> None:
    code, message = REFUSED[case]
    with pytest.raises(FileFormatError, match=message):
        read_state(zip_file(tmp_path / "a.pth", b"\x80\x02" + code + b".", {"0": bytes(16)}))


def test_bombs_are_small(tmp_path: Path) -> None:
    doubled = b"N" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(100)) + b"."  # 2^100 values, if walked
    with pytest.raises(FileFormatError, match="the file holds a tuple of 2"):
        read_state(zip_file(tmp_path / "a", b"\x80\x02" + doubled))
    deep = b"]" * 200_000 + b"a" * 199_999 + b"."
    with pytest.raises(FileFormatError, match="the file holds a list of 1"):
        read_state(zip_file(tmp_path / "a", b"\x80\x02" + deep))
    itself = b"]q\x00h\x00a."
    with pytest.raises(FileFormatError, match="the file holds a list of 1"):
        read_state(zip_file(tmp_path / "a", b"\x80\x02" + itself))
    with pytest.raises(FileFormatError, match="more than 500,000 instructions"):
        read_state(zip_file(tmp_path / "a", b"\x80\x02" + b"N" * 500_001))
    shared = {f"w{i}": tensor("0", 4096, (4096,), (1,)) for i in range(1000)}
    with pytest.raises(FileFormatError, match="shared more than 8 times"):
        read_state(zip_file(tmp_path / "a", state(**shared), {"0": bytes(4096 * 4)}))
