"""Who is measured: npconv, PyTorch in two memory layouts and compiled, and the peers; on a GPU, both with graphs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from library import Library
from with_cupy import Cupy, CupyEager
from with_npconv import Npconv
from with_peers import Chainer, DeZero, MyGrad
from with_torch import Torch, TorchChannelsLast, TorchCompiled
from with_torch_cuda import TorchCuda, TorchCudaChannelsLast, TorchCudaGraph, TorchCudaGraphChannelsLast

CONTENDERS: dict[str, type[Library]] = {
    "npconv": Npconv,
    "torch": Torch,
    "torch-channels-last": TorchChannelsLast,
    "torch-compile": TorchCompiled,
    "chainer": Chainer,
    "dezero": DeZero,
    "mygrad": MyGrad,
    "cupy": Cupy,
    "cupy-eager": CupyEager,
    "cuda": TorchCuda,
    "cuda-channels-last": TorchCudaChannelsLast,
    "cuda-graph": TorchCudaGraph,
    "cuda-graph-channels-last": TorchCudaGraphChannelsLast,
}
LAYOUTS = ("torch", "torch-channels-last")  # the better of the two is the one to beat
EAGER, GRAPHS = ("cuda", "cuda-channels-last"), ("cuda-graph", "cuda-graph-channels-last")  # likewise, on a GPU
PEERS = ("chainer", "dezero", "mygrad")


def installed(name: str) -> bool:
    """Whether this contender's library can be found; nothing is imported."""
    return importlib.util.find_spec(CONTENDERS[name].module) is not None


def titles(names: Iterable[str]) -> list[str]:
    """What the tables call these contenders."""
    return [CONTENDERS[name].title for name in names]
