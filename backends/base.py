"""Backend: the contract between npconv and the arrays it computes with, and nothing else.

Arrays are (N, C, H, W) in shape. A backend may keep them channels-last in memory (the strides of an (N, H, W, C)
array seen as (N, C, H, W)); `images` brings an array into the order that the backend likes best. Every operation is
a forward and a backward; backward functions take the gradient of the loss with respect to the output (`grad`) first
and return gradients in the order of forward's array arguments. No operation changes its arguments, except where it
says so. Shapes are checked by the layers, before a backend sees them.

`reference/` has every operation once, plainly; `cpu/` and `gpu/` override what they do better.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any, TypeVar

from .geometry import ConvGeometry, Pair, Sides

Array = Any  # numpy.ndarray or cupy.ndarray, whichever the backend's xp makes
Result = TypeVar("Result")


class Backend(ABC):
    """What a backend does. `xp` is its array module: numpy or cupy."""

    name: str
    xp: ModuleType

    # ---- arrays ----
    @abstractmethod
    def owns(self, x: object) -> bool:
        """Whether `x` is an array of this backend."""

    @abstractmethod
    def asarray(self, x: Any, dtype: Any = None) -> Array:
        """`x` (an array of any backend, or nested lists) as an array of this backend."""

    @abstractmethod
    def to_numpy(self, x: Array) -> Any:
        """`x` as a NumPy array on the host."""

    @abstractmethod
    def images(self, x: Array, dtype: Any = None) -> Array:
        """`x` (N, C, H, W) in the memory order this backend computes in; a copy only if one is needed."""

    @abstractmethod
    def constant(self, key: Hashable, make: Callable[[], Any]) -> Array:
        """What `make()` gives, a NumPy array that `key` determines, as one of this backend: not to be changed.

        A device keeps it, so that a step uploads nothing that another one had.
        """

    @abstractmethod
    def describe(self) -> str:
        """The device and the libraries in use, in one line."""

    # ---- workers ----
    @property
    @abstractmethod
    def workers(self) -> int:
        """How many workers share a batch."""

    @abstractmethod
    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run the tasks, one a worker, at the same time; their results in the order of the tasks."""

    @abstractmethod
    def serially(self, task: Callable[[], Result]) -> Result:
        """Run a task in this thread as one worker does, without sharing its operations out."""

    @abstractmethod
    def release_memory(self) -> None:
        """Give memory that is kept for later use, and is not in use, back to the system."""

    @property
    @abstractmethod
    def shares_batch(self) -> bool:
        """Whether a batch is cut into slices that stay in a cache; what is parallel by itself takes it whole."""

    @property
    @abstractmethod
    def updates_flat(self) -> bool:
        """Whether an optimizer should lay its parameters side by side and update all in one operation."""

    @abstractmethod
    def step_recorder(self) -> Any | None:
        """What records a training step and repeats it, None if there is nothing to gain; see gpu/graph.py."""

    @property
    @abstractmethod
    def can_fork(self) -> bool:
        """Whether a process forked from this one may compute with arrays of this backend."""

    @abstractmethod
    def paused(self) -> AbstractContextManager[object]:
        """Within this context no other thread begins to compute."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether no thread computes, as far as is known; it stays so only within `paused`."""

    @abstractmethod
    def constant_weights(self) -> AbstractContextManager[None]:
        """Within this context no weight changes: what is computed from weights alone may be computed once."""

    @abstractmethod
    def training_step(self) -> AbstractContextManager[None]:
        """As `constant_weights`; and each forward in it is followed by its backward, with the same array as its input.

        So an operation may keep what it has made of its input.
        """

    # ---- windows ----
    @abstractmethod
    def im2col(self, x: Array, geometry: ConvGeometry) -> Array:
        """(N, C, H, W) -> (N OH OW, KH KW C): a row per output pixel, a column per tap and channel."""

    @abstractmethod
    def col2im(self, columns: Array, shape: tuple[int, ...], geometry: ConvGeometry) -> Array:
        """The adjoint of `im2col`: columns are added up where windows overlap, into an array of `shape`."""

    @abstractmethod
    def pad2d_forward(self, x: Array, padding: Sides, mode: str) -> Array:
        """Pad height and width: mode "zeros", "reflect", "replicate" or "circular"; zeros also crops (negative)."""

    @abstractmethod
    def pad2d_backward(self, grad: Array, shape: tuple[int, ...], padding: Sides, mode: str) -> Array:
        """The adjoint of `pad2d_forward` for an input of `shape`."""

    # ---- convolutions: weight (O, C / groups, KH, KW), bias (O,) or None ----
    # Where `fused_activations` names an activation, the three forwards also take it as `activation`, and `slope`.
    @property
    @abstractmethod
    def fused_activations(self) -> frozenset[str]:
        """Activations ("relu", "leaky_relu") that a convolution's forward can apply to what it has just summed up."""

    @abstractmethod
    def conv2d_forward(self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry) -> Array:
        """Cross-correlation of x (N, C, H, W) with weight -> (N, O, OH, OW)."""

    @abstractmethod
    def conv2d_backward(
        self, grad: Array, x: Array, weight: Array, geometry: ConvGeometry, input_gradient: bool = True
    ) -> tuple[Array | None, Array, Array]:
        """Gradients of x (None unless `input_gradient`), weight and bias."""

    @abstractmethod
    def conv_transpose2d_forward(self, x: Array, weight: Array, bias: Array | None, geometry: ConvGeometry) -> Array:
        """The adjoint of a convolution: x (N, C, H, W), weight (C, O / groups, KH, KW) -> (N, O, OH, OW)."""

    @abstractmethod
    def conv_transpose2d_backward(
        self, grad: Array, x: Array, weight: Array, geometry: ConvGeometry, input_gradient: bool = True
    ) -> tuple[Array | None, Array, Array]:
        """Gradients of x (None unless `input_gradient`), weight and bias."""

    @abstractmethod
    def upsample_conv2d_forward(
        self, x: Array, weight: Array, bias: Array | None, scale: Pair, geometry: ConvGeometry
    ) -> Array:
        """Nearest upsampling by the integers `scale`, then a convolution of one group."""

    @abstractmethod
    def upsample_conv2d_backward(
        self,
        grad: Array,
        x: Array,
        weight: Array,
        scale: Pair,
        geometry: ConvGeometry,
        input_gradient: bool = True,
    ) -> tuple[Array | None, Array, Array]:
        """Gradients of x (None unless `input_gradient`), weight and bias."""

    # ---- resampling ----
    @abstractmethod
    def upsample_nearest_forward(self, x: Array, rows: Sequence[int], columns: Sequence[int]) -> Array:
        """Output pixel (i, j) is input pixel (rows[i], columns[j]); both never decrease."""

    @abstractmethod
    def upsample_nearest_backward(
        self, grad: Array, shape: tuple[int, ...], rows: Sequence[int], columns: Sequence[int]
    ) -> Array:
        """The adjoint of `upsample_nearest_forward` for an input of `shape`."""

    @abstractmethod
    def pixel_shuffle(self, x: Array, factor: int) -> Array:
        """(N, C r^2, H, W) -> (N, C, H r, W r), r = factor."""

    @abstractmethod
    def pixel_unshuffle(self, x: Array, factor: int) -> Array:
        """(N, C, H r, W r) -> (N, C r^2, H, W): the inverse, and the adjoint, of `pixel_shuffle`."""

    # ---- pooling ----
    @abstractmethod
    def max_pool2d_forward(self, x: Array, geometry: ConvGeometry) -> tuple[Array, Array]:
        """The largest value of each window, and the number of the tap it came from (the first of equals)."""

    @abstractmethod
    def max_pool2d_backward(self, grad: Array, winners: Array, shape: tuple[int, ...], geometry: ConvGeometry) -> Array:
        """The gradient goes to the tap that won."""

    @abstractmethod
    def avg_pool2d_forward(self, x: Array, divisor: Array, geometry: ConvGeometry) -> Array:
        """The sum of each window, padding counted as 0, over `divisor` (broadcast to (OH, OW))."""

    @abstractmethod
    def avg_pool2d_backward(self, grad: Array, divisor: Array, shape: tuple[int, ...], geometry: ConvGeometry) -> Array:
        """The adjoint of `avg_pool2d_forward` for an input of `shape`."""

    # ---- activations: the result is written to `out`, which may be the first argument; None is a new array ----
    @abstractmethod
    def relu_forward(self, x: Array, out: Array | None = None) -> Array:
        """max(0, x)."""

    @abstractmethod
    def relu_backward(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        """0 where forward's output is 0, else grad: also where it is NaN."""

    @abstractmethod
    def leaky_relu_forward(self, x: Array, slope: float, out: Array | None = None) -> Array:
        """x where x > 0, else slope x."""

    @abstractmethod
    def leaky_relu_backward(self, grad: Array, x: Array, slope: float, out: Array | None = None) -> Array:
        """grad where x > 0, else slope grad; for a slope of at least 0, forward's output serves as well as x."""

    @abstractmethod
    def sigmoid_forward(self, x: Array, out: Array | None = None) -> Array:
        """1 / (1 + exp(-x)), without overflow."""

    @abstractmethod
    def sigmoid_backward(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        """grad output (1 - output), of forward's output."""

    @abstractmethod
    def tanh_forward(self, x: Array, out: Array | None = None) -> Array:
        """tanh(x)."""

    @abstractmethod
    def tanh_backward(self, grad: Array, output: Array, out: Array | None = None) -> Array:
        """grad (1 - output^2), of forward's output."""

    # ---- joining ----
    @abstractmethod
    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """a + b, of one shape; written to `out`, which may be either, or a new array."""

    @abstractmethod
    def scaled(self, x: Array, factor: float) -> Array:
        """x times a number, as a new array."""

    @abstractmethod
    def concatenate(self, arrays: Sequence[Array], axis: int) -> Array:
        """The arrays one after the other along `axis`, always in a new array."""

    # ---- normalization, dense, dropout ----
    @abstractmethod
    def batch_norm_statistics(self, x: Array) -> tuple[Array, Array]:
        """Mean and biased variance of each channel (axis 1) of x."""

    @abstractmethod
    def batch_norm_forward(
        self, x: Array, mean: Array, var: Array, weight: Array | None, bias: Array | None, eps: float
    ) -> Array:
        """(x - mean) / sqrt(var + eps) * weight + bias, per channel."""

    @abstractmethod
    def batch_norm_backward(
        self, grad: Array, x: Array, mean: Array, var: Array, weight: Array | None, eps: float, batch: bool
    ) -> tuple[Array, Array, Array]:
        """Gradients of x, weight and bias; `batch`: mean and variance are those of x, and move with it."""

    @abstractmethod
    def linear_forward(self, x: Array, weight: Array, bias: Array | None) -> Array:
        """x (..., in) and weight (out, in) -> (..., out)."""

    @abstractmethod
    def linear_backward(self, grad: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
        """Gradients of x, weight and bias."""

    @abstractmethod
    def keep_mask(self, x: Array, probability: float, generator: Any) -> Array:
        """A random mask like x: 1 / probability with that probability, else 0."""

    # ---- losses: the mean over every element, a number or an array without axes, which may still be on its way ----
    @abstractmethod
    def mse_forward(self, prediction: Array, target: Array) -> Any:
        """sum((prediction - target)^2) / number of elements."""

    @abstractmethod
    def mse_backward(self, prediction: Array, target: Array) -> Array:
        """2 (prediction - target) / number of elements."""

    @abstractmethod
    def l1_forward(self, prediction: Array, target: Array) -> Any:
        """sum(|prediction - target|) / number of elements."""

    @abstractmethod
    def l1_backward(self, prediction: Array, target: Array) -> Array:
        """sign(prediction - target) / number of elements."""

    @abstractmethod
    def masked_mse_forward(self, prediction: Array, target: Array, weight: Array) -> Any:
        """The mean over images of sum(weight (prediction - target)^2) / sum(weight); an image without weight counts 0.

        The mean of a batch is so that of its parts, each weighted by its images, whatever the weights are.
        """

    @abstractmethod
    def masked_mse_backward(self, prediction: Array, target: Array, weight: Array) -> Array:
        """2 weight (prediction - target) / (sum(weight) of the image) / images."""

    # ---- optimizer updates: these change `data` and the state arrays in place ----
    @abstractmethod
    def sgd_update(
        self,
        data: Array,
        grad: Array,
        velocity: Array | None,
        *,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
    ) -> None:
        """One step of stochastic gradient descent; `velocity` is None without momentum."""

    @abstractmethod
    def adam_update(
        self,
        data: Array,
        grad: Array,
        first: Array,
        second: Array,
        largest: Array | None,
        *,
        step: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        """One step of Adam; `largest` (AMSGrad) is the running maximum of the second moment, or None."""
