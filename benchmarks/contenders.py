"""Who is measured: npconv, PyTorch in two memory layouts and compiled, and the peers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from library import Library
from with_npconv import Npconv
from with_peers import Chainer, DeZero, MyGrad
from with_torch import Torch, TorchChannelsLast, TorchCompiled

CONTENDERS: dict[str, type[Library]] = {
    "npconv": Npconv,
    "torch": Torch,
    "torch-channels-last": TorchChannelsLast,
    "torch-compile": TorchCompiled,
    "chainer": Chainer,
    "dezero": DeZero,
    "mygrad": MyGrad,
}
LAYOUTS = ("torch", "torch-channels-last")  # the better of the two is the one to beat
PEERS = ("chainer", "dezero", "mygrad")


def installed(name: str) -> bool:
    """Whether this contender's library can be found; nothing is imported."""
    return importlib.util.find_spec(CONTENDERS[name].module) is not None


def titles(names: Iterable[str]) -> list[str]:
    """What the tables call these contenders."""
    return [CONTENDERS[name].title for name in names]
