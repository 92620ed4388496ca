"""The convolutions of the GPU backend over NumPy arrays, their kernels run by the emulator; and the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from kernels_on_host import Listening, Plain, close
from standin.emulator import run_both_ways

from npconv.backends import ConvGeometry
from npconv.backends.gpu.activation import ActivationOps
from npconv.backends.gpu.conv import ConvOps, Settings
from npconv.backends.gpu.normalization import NormalizationOps
from npconv.backends.gpu.resampling import ResamplingOps
from npconv.backends.gpu.windows import WindowOps

PLAIN = Plain()
BOUNDS = {"float32": 2e-6, "float64": 4e-15}  # of the largest expected value, for a sum of 16 terms
Arrays = tuple[Any, ...]


class Convolutions(ConvOps, WindowOps, ResamplingOps, ActivationOps, NormalizationOps, Plain):
    """The convolutions with one algorithm."""

    def __init__(self, algorithm: str = "auto", tf32: bool = False) -> None:
        self.launcher = Listening()
        self.conv_settings = Settings(algorithm, tf32)

    def address(self, x: Any) -> int:
        return int(x.ctypes.data)

    def families(self) -> set[str]:
        """The kernels asked for since the last call: names."""
        asked, self.launcher.asked = self.launcher.asked, []
        return {name for name, _ in asked}

    def defines(self) -> list[dict[str, Any]]:
        """The constants of the kernels asked for since the last call."""
        asked, self.launcher.asked = self.launcher.asked, []
        return [defines for _, defines in asked]


def image(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Random numbers (N, C, H, W), channels-last in memory."""
    n, c, h, w = shape
    return rng.standard_normal((n, h, w, c)).astype(dtype).transpose(0, 3, 1, 2)


def kernel(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Random weights (O, C / groups, KH, KW), in memory as our layers have them."""
    o, c, kh, kw = shape
    return rng.standard_normal((kh, kw, c, o)).astype(dtype).transpose(3, 2, 0, 1)


def agree(
    convolutions: Convolutions,
    geometry: ConvGeometry,
    shape: tuple[int, int, int, int],
    out_channels: int,
    dtype: str,
    transposed: bool = False,
    seed: int = 0,
) -> None:
    """Check forward and all gradients against the reference, and that the threads' order does not change a bit."""
    rng = np.random.default_rng(seed)
    x, bias = image(rng, shape, dtype), rng.standard_normal(out_channels).astype(dtype)
    name = "conv_transpose2d" if transposed else "conv2d"
    many, few = (shape[1], out_channels) if transposed else (out_channels, shape[1])
    weight = kernel(rng, (many, few // geometry.groups, *geometry.kernel), dtype)
    y = run_both_ways(lambda: getattr(convolutions, f"{name}_forward")(x, weight, bias, geometry))
    same(y, getattr(PLAIN, f"{name}_forward")(x, weight, bias, geometry), weight[0].size)
    assert y.transpose(0, 2, 3, 1).flags.c_contiguous
    grad = image(rng, y.shape, dtype)
    found = run_both_ways(lambda: getattr(convolutions, f"{name}_backward")(grad, x, weight, geometry))
    expected = getattr(PLAIN, f"{name}_backward")(grad, x, weight, geometry)
    pixels = grad.size // max(1, grad.shape[1])
    for value, other, terms in zip(found, expected, (weight.size, pixels, pixels), strict=True):
        same(value, other, terms)


def same(value: Any, expected: Any, terms: int) -> None:
    """Equal but for the rounding of a sum of so many terms."""
    assert value.shape == expected.shape
    assert value.dtype == expected.dtype
    close(value, expected, BOUNDS[value.dtype.name] * max(1.0, terms / 16) ** 0.5)
