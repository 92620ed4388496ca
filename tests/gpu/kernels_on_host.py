"""The wrappers of the memory-bound kernels over NumPy arrays, the kernels run by the emulator; and the reference.

`agree` is the test of nearly every kernel: the same bits whichever thread goes first, and the reference's values.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from standin.emulator import HOST, run_both_ways

from npconv.backends.gpu.activation import ActivationOps
from npconv.backends.gpu.launching import Kernel, Launcher
from npconv.backends.gpu.loss import LossOps
from npconv.backends.gpu.normalization import NormalizationOps
from npconv.backends.gpu.padding import PaddingOps
from npconv.backends.gpu.pooling import PoolingOps
from npconv.backends.gpu.resampling import ResamplingOps
from npconv.backends.gpu.update import UpdateOps
from npconv.backends.gpu.windows import WindowOps
from npconv.backends.reference import Reference

if shutil.which("g++") is None:
    pytest.skip("the kernels need g++ on this machine", allow_module_level=True)

DTYPES = ("float32", "float64")
LAYOUTS = ("channels-last", "C", "strided")


class Plain(Reference):
    """The reference over NumPy, without anything of the CPU backend."""

    name, xp, workers, can_fork = "plain", np, 1, False

    def owns(self, x: object) -> bool:
        return isinstance(x, np.ndarray)

    def asarray(self, x: Any, dtype: Any = None) -> Any:
        return np.asarray(x, dtype=dtype)

    def to_numpy(self, x: Any) -> Any:
        return x

    def images(self, x: Any, dtype: Any = None) -> Any:
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1), dtype=dtype).transpose(0, 3, 1, 2)

    def describe(self) -> str:
        return "NumPy"

    def run(self, tasks: Any) -> list[Any]:
        return [task() for task in tasks]

    def serially(self, task: Any) -> Any:
        return task()

    def release_memory(self) -> None:
        """Nothing is kept."""

    def paused(self) -> Any:
        return nullcontext()

    @property
    def idle(self) -> bool:
        return True

    def constant_weights(self) -> Any:
        return nullcontext()

    def training_step(self) -> Any:
        return nullcontext()


class Listening(Launcher):
    """A launcher that remembers which kernels were asked for, and with which constants."""

    def __init__(self) -> None:
        super().__init__(HOST)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def kernel(self, family: str, name: str, dtype: Any, **defines: int | str) -> Kernel:
        self.asked.append((name, defines))
        return super().kernel(family, name, dtype, **defines)


class KernelOps(
    WindowOps, PoolingOps, ResamplingOps, PaddingOps, ActivationOps, LossOps, NormalizationOps, UpdateOps, Plain
):
    """The kernels' wrappers; who makes one gives it `xp` and `launcher`."""


class Kernels(KernelOps):
    """The kernels' wrappers, over NumPy arrays."""

    name = "kernels"

    def __init__(self) -> None:
        self.launcher = Listening()

    def address(self, x: Any) -> int:
        return int(x.ctypes.data)


PLAIN, KERNELS = Plain(), Kernels()


def image(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, layout: str = "channels-last") -> Any:
    """Random numbers (N, C, H, W), in one of LAYOUTS in memory."""
    n, c, h, w = shape
    values = rng.standard_normal((n, h, w, c)).astype(dtype).transpose(0, 3, 1, 2)
    if layout == "C":
        return np.ascontiguousarray(values)
    if layout == "strided":
        wide = np.full((n, c, 2 * h, w), np.nan, dtype)
        wide[:, :, ::2] = values
        return wide[:, :, ::2]
    return values


def sprinkle(rng: np.random.Generator, x: Any, specials: tuple[float, ...] = (np.nan, np.inf, -np.inf, -0.0)) -> Any:
    """x with about a fifth of its elements replaced by special numbers, in its layout."""
    x[...] = np.where(rng.random(x.shape) < 0.2, rng.choice(specials, x.shape), x)
    return x


def asked_for() -> list[tuple[str, dict[str, Any]]]:
    """The kernels asked for since the last call."""
    asked, KERNELS.launcher.asked = KERNELS.launcher.asked, []
    return asked


def agree(operation: str, *args: Any, error: float = 0.0, lanes: int | None = None, **options: Any) -> Any:
    """Check an operation of the kernels against the reference; returns the kernels' result.

    Values are equal, or differ by at most `error` relative to the largest expected value; the same elements are NaN or
    infinite. `lanes`: what every kernel must have been compiled for. The arguments must stay as they are.
    """
    asked_for()
    before = [value.copy() if isinstance(value, np.ndarray) else value for value in args]
    with np.errstate(all="ignore"):
        expected = getattr(PLAIN, operation)(*args, **options)
        result = run_both_ways(lambda: getattr(KERNELS, operation)(*args, **options))
    asked = asked_for()
    pairs = list(zip(_several(result), _several(expected), strict=True))
    assert asked or not any(value.size for value, _ in pairs), "the reference ran, and no kernel"
    assert lanes is None or all(defines.get("LANES") == lanes for _, defines in asked), asked
    for value, other in zip(args, before, strict=True):
        np.testing.assert_array_equal(value, other)
    for value, other in pairs:
        assert value.shape == other.shape
        assert value.dtype == other.dtype or value.dtype.kind == "u"
        if value.ndim == 4:
            assert value.transpose(0, 2, 3, 1).flags.c_contiguous or value.flags.c_contiguous
        close(value, other, error)
    return result


def close(value: Any, expected: Any, error: float) -> None:
    """Equal, or within `error` of the largest expected value; NaN and infinities in the same places."""
    value, expected = np.asarray(value), np.asarray(expected)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(value[~finite], expected[~finite])
    scale = float(np.abs(expected[finite]).max(initial=0.0))
    if error == 0 or scale == 0:
        np.testing.assert_array_equal(value, expected)
    else:
        np.testing.assert_allclose(value[finite], expected[finite], rtol=0, atol=error * scale)


def _several(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)
