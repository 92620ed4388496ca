"""Convolutions on a GPU: three operations, each by the kernels that suit its shape.

    gather            y = conv(x, W), or the adjoint of conv      implicit_gemm.py, direct.py
    kernel gradient   dW from x and dY                            likewise

A convolution's input gradient is the adjoint of dY. A transposed convolution is the adjoint of x, and its gradients are
a convolution and a kernel gradient with x and dY exchanged. A nearest upsampling followed by a convolution is one
transposed convolution with an enlarged kernel (backends/cpu/upsample.py): for a scale of 2 and 3x3 taps that is 16
products for 4 output pixels, where reading x at (row / 2, column / 2) inside the convolution would take 36.

The algorithm, unless NPCONV_GPU_CONV names one:

    a group for each channel                         direct    (depthwise.cu: bound by memory)
    one group, at most 4 channels in or 8 out        direct    (direct.cu: a tile would be mostly padding)
    anything else                                    implicit  (on tensor cores if NPCONV_TF32=1, from 16 channels up)

NPCONV_GPU_CONV=direct is the same rule; implicit is implicit for everything; im2col stores the columns and leaves the
product to cuBLAS, which cannot be captured into a CUDA graph, as all others can.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import NamedTuple

from ..base import Array
from ..cpu.upsample import transposed_geometry
from ..geometry import ConvGeometry, Pair
from .conv_work import Finish, Work
from .direct import Depthwise, Direct
from .grid import Grid, images
from .implicit_gemm import ImplicitGemm

ALGORITHMS = ("auto", "im2col", "implicit", "direct")
FUSED = {"none": 0, "relu": 1, "leaky_relu": 2}  # activations as kernels/elements.cuh numbers them


class Settings(NamedTuple):
    """What the environment says of convolutions."""

    algorithm: str = "auto"
    tf32: bool = False

    @classmethod
    def read(cls) -> Settings:
        """NPCONV_GPU_CONV and NPCONV_TF32; ValueError for what they cannot be."""
        algorithm, tf32 = os.environ.get("NPCONV_GPU_CONV") or "auto", os.environ.get("NPCONV_TF32") or "0"
        if algorithm not in ALGORITHMS:
            raise ValueError(f"NPCONV_GPU_CONV (={algorithm!r}) must be one of {', '.join(ALGORITHMS)}")
        if tf32 not in ("0", "1"):
            raise ValueError(f"NPCONV_TF32 (={tf32!r}) must be 0 or 1")
        return cls(algorithm, tf32 == "1")


class ConvOps(Grid):
    """conv2d, conv_transpose2d and upsample_conv2d."""

    @cached_property
    def conv_settings(self) -> Settings:
        """Read once, at the first convolution or when the backend is made."""
        return Settings.read()

    def conv2d_forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        geometry: ConvGeometry,
        activation: str = "none",
        slope: float = 0.0,
    ) -> Array:
        """Also in one go with what follows: `activation` is one of FUSED, `slope` that of leaky_relu."""
        work = self._work(x, weight, geometry)
        if not self._takes(work, x, weight, bias):
            return self._activated(super().conv2d_forward(x, weight, bias, geometry), activation, slope)
        return self._convolved(x, _kernel(self, weight), self._finish(bias, activation, slope), work, adjoint=False)

    def conv2d_backward(
        self, grad: Array, x: Array, weight: Array, geometry: ConvGeometry, input_gradient: bool = True
    ) -> tuple[Array | None, Array, Array]:
        work = self._work(x, weight, geometry)
        if not self._takes(work, x, weight, grad):
            return super().conv2d_backward(grad, x, weight, geometry, input_gradient)
        return self._gradients(images(self.pixels(grad)), x, weight, work, input_gradient, adjoint=True)

    def conv_transpose2d_forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        geometry: ConvGeometry,
        activation: str = "none",
        slope: float = 0.0,
    ) -> Array:
        """`activation` and `slope` as for conv2d_forward."""
        work = self._transposed_work(x, weight, geometry)
        if not self._takes(work, x, weight, bias):
            return self._activated(super().conv_transpose2d_forward(x, weight, bias, geometry), activation, slope)
        return self._convolved(x, _kernel(self, weight), self._finish(bias, activation, slope), work, adjoint=True)

    def conv_transpose2d_backward(
        self, grad: Array, x: Array, weight: Array, geometry: ConvGeometry, input_gradient: bool = True
    ) -> tuple[Array | None, Array, Array]:
        work = self._transposed_work(x, weight, geometry)
        if not self._takes(work, x, weight, grad):
            return super().conv_transpose2d_backward(grad, x, weight, geometry, input_gradient)
        return self._gradients(images(self.pixels(grad)), x, weight, work, input_gradient, adjoint=False)

    def upsample_conv2d_forward(
        self,
        x: Array,
        weight: Array,
        bias: Array | None,
        scale: Pair,
        geometry: ConvGeometry,
        activation: str = "none",
        slope: float = 0.0,
    ) -> Array:
        """`activation` and `slope` as for conv2d_forward."""
        size = geometry.output_size((x.shape[2] * scale[0], x.shape[3] * scale[1]))
        work = _upsampling_work(x, weight, scale, geometry, size)
        if geometry.stride != (1, 1) or not self._takes(work, x, weight, bias):
            return self._activated(super().upsample_conv2d_forward(x, weight, bias, scale, geometry), activation, slope)
        large = self._enlarged(weight, scale, geometry, work)
        return self._convolved(x, large, self._finish(bias, activation, slope), work, adjoint=True)

    def upsample_conv2d_backward(
        self,
        grad: Array,
        x: Array,
        weight: Array,
        scale: Pair,
        geometry: ConvGeometry,
        input_gradient: bool = True,
    ) -> tuple[Array | None, Array, Array]:
        work = _upsampling_work(x, weight, scale, geometry, (grad.shape[2], grad.shape[3]))
        if geometry.stride != (1, 1) or not self._takes(work, x, weight, grad):
            return super().upsample_conv2d_backward(grad, x, weight, scale, geometry, input_gradient)
        grad, x_grad = images(self.pixels(grad)), None
        if input_gradient:
            x_grad = self._convolved(grad, self._enlarged(weight, scale, geometry, work), Finish(), work, adjoint=False)
        large_grad = self._kernel_gradient(grad, x, work)
        # (MH, MW, O, C) -> (KH, KW, C, O)
        small = self.xp.empty((*geometry.kernel, weight.shape[1], weight.shape[0]), dtype=x.dtype)
        self._run_enlarged("enlarge_backward", large_grad, small, weight, scale, geometry)
        return x_grad, small.transpose(3, 2, 0, 1), self._bias_gradient(grad)

    # ---- the two operations ----
    def _convolved(self, source: Array, kernel: Array, finish: Finish, work: Work, adjoint: bool) -> Array:
        algorithm = self._for_gather(work, source.dtype.itemsize, adjoint)
        return images(algorithm.gather(self.pixels(source), kernel, work, finish, adjoint))

    def _gradients(
        self, grad: Array, x: Array, weight: Array, work: Work, input_gradient: bool, adjoint: bool
    ) -> tuple[Array | None, Array, Array]:
        """Of a convolution, whose input gradient is the `adjoint`, or of a transposed one: there all is exchanged."""
        x_grad = self._convolved(grad, _kernel(self, weight), Finish(), work, adjoint) if input_gradient else None
        weight_grad = self._kernel_gradient(*((x, grad) if adjoint else (grad, x)), work)
        return x_grad, weight_grad.transpose(3, 2, 0, 1), self._bias_gradient(grad)

    def _kernel_gradient(self, x: Array, grad: Array, work: Work) -> Array:
        return self._for_kernel(work).kernel_gradient(self.pixels(x), self.pixels(grad), work)

    def _bias_gradient(self, grad: Array) -> Array:
        return self.channel_sum(grad)

    # ---- which algorithm ----
    def _takes(self, work: Work, x: Array, *others: Array | None) -> bool:
        """Whether the kernels take these arrays and sizes, and are not to leave the reference alone."""
        alike = x.dtype.char in "fd" and all(other is None or other.dtype == x.dtype for other in others)
        if not alike or not self._implicit.applies(work):
            return False
        return self.conv_settings.algorithm != "im2col" or work.geometry.groups == 1

    def _for_gather(self, work: Work, itemsize: int, adjoint: bool) -> Im2col | ImplicitGemm | Direct | Depthwise:
        forced = self._forced(work)
        if forced is not None:
            return forced
        return self._direct if self._direct.applies_to_gather(work, itemsize, adjoint) else self._implicit

    def _for_kernel(self, work: Work) -> Im2col | ImplicitGemm | Direct | Depthwise:
        forced = self._forced(work)
        if forced is not None:
            return forced
        return self._direct if self._direct.applies_to_kernel(work) else self._implicit

    def _forced(self, work: Work) -> Im2col | ImplicitGemm | Depthwise | None:
        """What the setting says, or a group for each channel; None where channels decide."""
        if self.conv_settings.algorithm == "im2col":
            return self._im2col
        if self.conv_settings.algorithm == "implicit":
            return self._implicit
        return self._depthwise if self._depthwise.applies(work) else None

    @cached_property
    def _implicit(self) -> ImplicitGemm:
        return ImplicitGemm(self, self.conv_settings.tf32)

    @cached_property
    def _direct(self) -> Direct:
        return Direct(self)

    @cached_property
    def _depthwise(self) -> Depthwise:
        return Depthwise(self)

    @cached_property
    def _im2col(self) -> Im2col:
        return Im2col(self)

    # ---- sizes, kernels, what follows ----
    def _work(self, x: Array, weight: Array, geometry: ConvGeometry) -> Work:
        n, c, h, w = x.shape
        return Work(n, (h, w), c, geometry.output_size((h, w)), weight.shape[0], geometry)

    def _transposed_work(self, x: Array, weight: Array, geometry: ConvGeometry) -> Work:
        n, c, h, w = x.shape
        return Work(n, geometry.transposed_size((h, w)), weight.shape[1] * geometry.groups, (h, w), c, geometry)

    def _finish(self, bias: Array | None, activation: str, slope: float) -> Finish:
        return Finish(None if bias is None else self.xp.ascontiguousarray(bias), _fused(activation), slope)

    def _activated(self, y: Array, activation: str, slope: float) -> Array:
        """The same, after a sum that is there already."""
        number = _fused(activation)
        if number == 0:
            return y
        return self.relu_forward(y, out=y) if number == 1 else self.leaky_relu_forward(y, slope, out=y)

    def _enlarged(self, weight: Array, scale: Pair, geometry: ConvGeometry, work: Work) -> Array:
        large = self.xp.empty(work.kernel_shape, dtype=weight.dtype)
        self._run_enlarged("enlarge", _kernel(self, weight), large, weight, scale, geometry)
        return large

    def _run_enlarged(
        self, name: str, given: Array, made: Array, weight: Array, scale: Pair, geometry: ConvGeometry
    ) -> None:
        kernel = self.launcher.kernel("enlarged", name, weight.dtype)
        sizes = (weight.shape[1], weight.shape[0], *geometry.kernel, *scale, *geometry.dilation)
        self.launcher.over(kernel, made.size, given, made, *sizes)


class Im2col:
    """The reference's products, of one group, as 2-D products: cuBLAS takes their transposes as they are."""

    def __init__(self, grid: ConvOps) -> None:
        self.grid = grid

    def gather(self, source: Array, kernel: Array, work: Work, finish: Finish, adjoint: bool) -> Array:
        """The convolution of `source` (N, H, W, C), or its adjoint; kernel (KH, KW, C, O)."""
        xp, matrix, gather = self.grid.xp, kernel.reshape(-1, work.out_channels), work.gather(adjoint)
        if adjoint:
            # (P, O) @ (O, K C) -> (P, K C)
            columns = xp.matmul(source.reshape(-1, work.out_channels), matrix.T)
            target = self.grid.col2im(columns, (work.images, work.channels, *work.size), work.geometry)
            target = self.grid.pixels(target)
        else:
            # (P, K C) @ (K C, O) -> (P, O)
            target = xp.matmul(self.grid.im2col(images(source), work.geometry), matrix).reshape(gather.shape)
        names = {number: name for name, number in FUSED.items()}
        target = self.grid.bias_activation(images(target), finish.bias, names[finish.activation], finish.slope)
        return self.grid.pixels(target)

    def kernel_gradient(self, x: Array, grad: Array, work: Work) -> Array:
        """dW (KH, KW, C, O)."""
        columns = self.grid.im2col(images(x), work.geometry)
        # (K C, P) @ (P, O) -> (K C, O)
        product = self.grid.xp.matmul(columns.T, grad.reshape(-1, work.out_channels))
        return product.reshape(work.kernel_shape)


def _fused(activation: str) -> int:
    if activation not in FUSED:
        raise ValueError(f"activation (={activation!r}) must be one of {', '.join(FUSED)}")
    return FUSED[activation]


def _kernel(grid: Grid, weight: Array) -> Array:
    """(O, C / groups, KH, KW) as a contiguous (KH, KW, C / groups, O): our layers' weights lie so already."""
    return grid.xp.ascontiguousarray(weight.transpose(2, 3, 1, 0))


def _upsampling_work(x: Array, weight: Array, scale: Pair, geometry: ConvGeometry, size: Pair) -> Work:
    """The convolution whose adjoint is the upsampling and the convolution of `geometry` (of stride 1) in one."""
    large = transposed_geometry(x.shape, scale, geometry, size)
    return Work(x.shape[0], size, weight.shape[0], (x.shape[2], x.shape[3]), x.shape[1], large)
