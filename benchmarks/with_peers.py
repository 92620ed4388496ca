"""Chainer, DeZero and MyGrad as contenders, for the one convolution that all of them have."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from library import Library, Work, dropped, named, normal, weights

Found = tuple[np.ndarray, list[np.ndarray]]  # output; gradients of input, kernel and bias


class Arguments(NamedTuple):
    """Of a convolution with stride 1, and the gradient that arrives at its output."""

    x: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    padding: int
    grad: np.ndarray


class Peer(Library):
    """A library that does a Conv2d, forward and backward, by `convolve`."""

    def __init__(self, threads: int) -> None:
        # How many threads the BLAS may have was set before this process began.
        self.library: Any = importlib.import_module(self.module)

    @abstractmethod
    def convolve(self, a: Arguments) -> Found:
        """Forward and backward, once."""

    def _forward_backward(self, layers: list[Any], shape: Sequence[int]) -> Work:
        [(name, (in_channels, out_channels, size), options)] = layers
        if name != "Conv2d" or set(options) != {"padding"}:
            raise ValueError(f"{self.title} does a plain Conv2d only, not {layers}")
        kernel, bias = weights([(out_channels, in_channels, size, size), (out_channels,)])
        height, width = (length + 2 * options["padding"] - size + 1 for length in shape[2:])
        grad = normal((shape[0], out_channels, height, width), 3)
        arguments = Arguments(normal(shape, 2), kernel, bias, options["padding"], grad)
        return Work(lambda: dropped(self.convolve(arguments)), lambda: named(*self.convolve(arguments)))


class Chainer(Peer):
    """Chainer 7."""

    title, module = "Chainer", "chainer"

    def convolve(self, a: Arguments) -> Found:
        leaves = [self.library.Variable(array) for array in (a.x, a.kernel, a.bias)]
        y = self.library.functions.convolution_2d(*leaves, stride=1, pad=a.padding)
        y.grad = a.grad
        y.backward()
        return y.array, [leaf.grad for leaf in leaves]


class DeZero(Peer):
    """DeZero, of the book Deep Learning from Scratch 3."""

    title, module = "DeZero", "dezero"

    def convolve(self, a: Arguments) -> Found:
        leaves = [self.library.Variable(array) for array in (a.x, a.kernel, a.bias)]
        y = self.library.functions.conv2d(*leaves, stride=1, pad=a.padding)
        y.grad = self.library.Variable(a.grad)
        y.backward()
        return y.data, [leaf.grad.data for leaf in leaves]


class MyGrad(Peer):
    """MyGrad, whose convolution has no bias: it is added."""

    title, module = "MyGrad", "mygrad"

    def convolve(self, a: Arguments) -> Found:
        conv_nd = importlib.import_module("mygrad.nnet.layers").conv_nd
        x, kernel, bias = (self.library.tensor(array) for array in (a.x, a.kernel, a.bias))
        y = conv_nd(x, kernel, stride=1, padding=a.padding) + bias.reshape(1, -1, 1, 1)
        y.backward(a.grad)
        return y.data, [x.grad, kernel.grad, bias.grad]
