"""The convolutions on device arrays: which algorithm, no transfer, no wait, and captured into a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import standin
from kernels_on_host import Plain

from npconv.backends import ConvGeometry
from npconv.backends.gpu import CupyBackend
from npconv.backends.gpu.conv import ALGORITHMS, Settings
from npconv.backends.gpu.launching import Kernel, Launcher

SAME = ((1, 1), (1, 1))
THREE, PLAIN = ConvGeometry((3, 3), padding=SAME), Plain()


class Noting(Launcher):
    """A launcher that notes the families of kernels."""

    def __init__(self, xp: ModuleType) -> None:
        super().__init__(xp)
        self.families: list[str] = []

    def kernel(self, family: str, name: str, dtype: Any, **defines: int | str) -> Kernel:
        self.families.append(family)
        return super().kernel(family, name, dtype, **defines)


class Device(CupyBackend):
    """The backend with these settings, and a launcher that notes."""

    def __init__(self, settings: Settings | None = None) -> None:
        super().__init__()
        self.launcher = Noting(self.xp)
        if settings is not None:
            self.conv_settings = settings

    def used(self) -> set[str]:
        """The families of kernels since the last call."""
        families, self.launcher.families = set(self.launcher.families), []
        return families - {"partial_sums", "normalization"}  # the sums that follow


@pytest.fixture
def device(cupy_standin: ModuleType) -> Iterator[Callable[..., Device]]:
    return lambda algorithm="auto", tf32=False: Device(Settings(algorithm, tf32))


def arrays(
    seed: int, channels: int, out_channels: int, groups: int, size: tuple[int, int] = (6, 5), dtype: str = "float32"
) -> tuple[Any, Any, Any]:
    """x, weight and bias of a 3x3 convolution of two images."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, channels, *size)).astype(dtype)
    weight = rng.standard_normal((out_channels, channels // groups, 3, 3)).astype(dtype)
    return x, weight, rng.standard_normal(out_channels).astype(dtype)


def near(value: Any, expected: Any) -> None:
    np.testing.assert_allclose(value.get(), expected, rtol=0, atol=2e-5 * max(1.0, abs(expected).max()))


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NPCONV_GPU_CONV", "NPCONV_TF32"):
        monkeypatch.delenv(name, raising=False)
    assert Settings.read() == ("auto", False)
    monkeypatch.setenv("NPCONV_GPU_CONV", "")
    assert Settings.read() == ("auto", False)
    monkeypatch.setenv("NPCONV_GPU_CONV", "direct")
    monkeypatch.setenv("NPCONV_TF32", "1")
    assert Settings.read() == ("direct", True)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "NPCONV_GPU_CONV",
            "winograd",
            r"NPCONV_GPU_CONV \(='winograd'\) must be one of auto, im2col, implicit, direct",
        ),
        ("NPCONV_TF32", "yes", r"NPCONV_TF32 \(='yes'\) must be 0 or 1"),
    ],
)
def test_wrong_settings(variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        Settings.read()


def test_settings_are_read_once(cupy_standin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPCONV_GPU_CONV", "implicit")
    backend = Device()
    assert backend.conv_settings.algorithm == "implicit"
    monkeypatch.setenv("NPCONV_GPU_CONV", "im2col")
    assert backend.conv_settings.algorithm == "implicit"


@pytest.mark.parametrize(
    ("algorithm", "tf32", "channels", "out_channels", "groups", "families"),
    [
        ("auto", False, 16, 16, 1, {"implicit_gemm"}),
        ("auto", True, 16, 16, 1, {"implicit_gemm_tf32"}),
        ("auto", True, 15, 16, 1, {"implicit_gemm"}),
        ("auto", False, 3, 16, 1, {"direct"}),
        ("auto", True, 16, 3, 1, {"direct"}),
        ("auto", False, 8, 8, 8, {"depthwise"}),
        ("auto", False, 8, 16, 4, {"implicit_gemm"}),
        ("direct", False, 16, 16, 1, {"implicit_gemm"}),
        ("direct", False, 3, 16, 1, {"direct"}),
        ("implicit", False, 3, 16, 1, {"implicit_gemm"}),
        ("implicit", False, 8, 8, 8, {"implicit_gemm"}),
        ("im2col", True, 16, 16, 1, {"windows", "activation"}),
        ("im2col", False, 8, 8, 8, {"windows"}),
    ],
)
def test_which_kernels(
    algorithm: str, tf32: bool, channels: int, out_channels: int, groups: int, families: set[str], device: Any
) -> None:
    backend = device(algorithm, tf32)
    geometry = ConvGeometry((3, 3), padding=SAME, groups=groups)
    x, weight, bias = arrays(0, channels, out_channels, groups)
    moved = [backend.asarray(array) for array in (x, weight, bias)]
    y = backend.conv2d_forward(*moved, geometry)
    if not tf32:
        near(y, PLAIN.conv2d_forward(x, weight, bias, geometry))
    assert backend.used() == families
    backend.conv2d_backward(y, *moved[:2], geometry)
    assert backend.used() == families


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("channels", "out_channels", "groups"), [(5, 12, 1), (3, 16, 1), (12, 3, 1), (8, 8, 8), (8, 4, 2)]
)
def test_no_transfer_and_no_wait(channels: int, out_channels: int, groups: int, algorithm: str, device: Any) -> None:
    backend = device(algorithm)
    geometry = ConvGeometry((3, 3), (2, 1), SAME, groups=groups)
    x, weight, bias = arrays(1, channels, out_channels, groups)
    moved = [backend.asarray(array) for array in (x, weight, bias)]
    backend.launcher.families.clear()
    standin.reset()
    y = backend.conv2d_forward(*moved, geometry)
    x_grad, weight_grad, bias_grad = backend.conv2d_backward(y, *moved[:2], geometry)
    counts = standin.counts()
    assert (counts.to_device, counts.to_host, counts.synchronisations) == (0, 0, 0)
    assert counts.launches > 0
    expected = PLAIN.conv2d_forward(x, weight, bias, geometry)
    near(y, expected)
    for value, other in zip(
        (x_grad, weight_grad, bias_grad), PLAIN.conv2d_backward(expected, x, weight, geometry), strict=True
    ):
        near(value, other)
    if algorithm != "im2col":
        for image in (y, x_grad):
            assert image.transpose(0, 2, 3, 1).flags.c_contiguous


def results(backend: Device, x: Any, kernels: tuple[Any, Any, Any], geometry: ConvGeometry, fused: bool) -> list[Any]:
    """Everything that can be computed with these arrays."""
    weight, turned, bias = kernels
    found = [backend.conv2d_forward(x, weight, bias, geometry)]
    found += backend.conv2d_backward(found[0], x, weight, geometry)
    found.append(backend.conv_transpose2d_forward(x, turned, bias, geometry))
    found += backend.conv_transpose2d_backward(found[-1], x, turned, geometry)
    if fused:
        found.append(backend.upsample_conv2d_forward(x, weight, bias, (2, 2), THREE, "leaky_relu", 0.1))
        found += backend.upsample_conv2d_backward(found[-1], x, weight, (2, 2), THREE)
    return found


@pytest.mark.parametrize(("tf32", "channels", "out_channels", "groups"), [
    (False, 5, 12, 1), (True, 16, 16, 1), (False, 3, 16, 1), (False, 12, 3, 1), (False, 8, 8, 8),
])  # fmt: skip
def test_captured_into_a_graph(
    tf32: bool, channels: int, out_channels: int, groups: int, device: Any, cupy_standin: ModuleType
) -> None:
    """A graph of all operations gives, for new numbers in the same arrays, the bits of the operations one by one."""
    backend, cupy = device("auto", tf32), cupy_standin
    geometry = ConvGeometry((3, 3), (2, 1), SAME, groups=groups)
    x, weight, bias = (backend.asarray(array) for array in arrays(2, channels, out_channels, groups))
    turned = backend.asarray(arrays(3, out_channels, channels, groups)[1])
    kernels = weight, turned, bias
    fused = groups == 1
    results(backend, x, kernels, geometry, fused)  # compiles
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.Stream(non_blocking=True) as stream, cupy.cuda.using_allocator(pool.malloc):
        stream.begin_capture()
        captured = results(backend, x, kernels, geometry, fused)
        graph = stream.end_capture()
    x.set(arrays(4, channels, out_channels, groups)[0])
    graph.launch()
    expected = results(backend, x, kernels, geometry, fused)
    for value, other in zip(captured, expected, strict=True):
        np.testing.assert_array_equal(value.get(), other.get())
        assert np.isfinite(other.get()).all()


@pytest.mark.parametrize("algorithm", ["auto", "im2col"])
def test_arrays_of_two_types_are_the_references(algorithm: str, device: Any) -> None:
    backend = device(algorithm)
    x, weight, bias = arrays(5, 4, 12, 1)
    moved = backend.asarray(x), backend.asarray(weight.astype("float64")), backend.asarray(bias)
    y = backend.conv2d_forward(*moved, THREE)
    assert y.dtype == np.float64
    near(y, PLAIN.conv2d_forward(x, weight.astype("float64"), bias, THREE))
    near(backend.conv2d_backward(y, *moved[:2], THREE)[1], PLAIN.conv2d_backward(y.get(), x, weight, THREE)[1])


def test_more_phases_than_a_grid_has_room_for(device: Any) -> None:
    """A stride of 300 both ways: 90000 phases, of which nearly all are empty."""
    backend = device()
    geometry = ConvGeometry((3, 3), (300, 300), SAME)
    x, weight, bias = arrays(6, 5, 12, 1, size=(4, 3))
    moved = [backend.asarray(array) for array in (x, weight, bias)]
    y = backend.conv2d_forward(*moved, geometry)
    near(y, PLAIN.conv2d_forward(x, weight, bias, geometry))
    for value, other in zip(
        backend.conv2d_backward(y, *moved[:2], geometry),
        PLAIN.conv2d_backward(y.get(), x, weight, geometry),
        strict=True,
    ):
        near(value, other)
    assert backend.used() == {"windows"}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_unknown_activations(algorithm: str, device: Any) -> None:
    backend = device(algorithm)
    moved = [backend.asarray(array) for array in arrays(7, 5, 12, 1)]
    with pytest.raises(ValueError, match=r"activation \(='swish'\) must be one of none, relu, leaky_relu"):
        backend.conv2d_forward(*moved, THREE, "swish")


@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu"])
def test_activations_after_the_references_sum(activation: str, device: Any) -> None:
    """Arrays of two types go to the reference; what follows must not be lost there."""
    backend = device()
    x, weight, bias = arrays(8, 4, 12, 1)
    y = backend.conv2d_forward(
        backend.asarray(x), backend.asarray(weight.astype("float64")), None, THREE, activation, 0.5
    )
    plain = PLAIN.conv2d_forward(x, weight.astype("float64"), None, THREE)
    near(y, plain * np.where(plain > 0, 1, {"none": 1, "relu": 0, "leaky_relu": 0.5}[activation]))
