"""The convolution algorithms of the active backend, and how a test asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from devices import FromHost

import npconv as nc
from npconv.backends.cpu import fold, phases, thin, unfold, winograd
from npconv.backends.cpu.choice import ALGORITHMS as ON_CPU

# On a GPU "direct" is the same rule as "auto".
ALGORITHMS: tuple[str, ...] = tuple(ON_CPU) if nc.backend().name == "numpy" else ("auto", "im2col", "implicit")

CONVOLVING = ("Conv2d", "ConvTranspose2d", "TransposeConv2d", "Upsampling")  # the layers that an algorithm computes


def algorithms_of(layer: str | nc.Module) -> tuple[str, ...]:
    """Those to test a module with, or a layer by the name of its class: one where none is used."""
    names = [layer] if isinstance(layer, str) else [type(module).__name__ for module in layer.modules()]
    return ALGORITHMS if set(names) & set(CONVOLVING) else ALGORITHMS[:1]


@contextmanager
def using(algorithm: str, block_bytes: int | None = None) -> Iterator[FromHost]:
    """The backend with this algorithm, for arrays of the host; its blocks made so small that there are several."""
    ops = nc.backend()
    if block_bytes is not None and ops.name != "numpy":
        pytest.skip("blocks of the CPU")
    with pytest.MonkeyPatch.context() as patch:
        if ops.name == "numpy":
            patch.setattr(ops, "algorithm", algorithm)
        else:
            patch.setattr(ops, "conv_settings", ops.conv_settings._replace(algorithm=algorithm))
        if block_bytes is not None:
            for module in (fold, phases, unfold):
                patch.setattr(module, "BLOCK_BYTES", block_bytes)
            patch.setattr(thin, "PLANE_BYTES", block_bytes)
            patch.setattr(winograd, "TILE_BYTES", block_bytes)
        yield FromHost(ops)
