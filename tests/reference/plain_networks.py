"""The networks once more, as straight lines of NumPy: no layers, no containers, parameters taken in their order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from devices import on_host

Array = np.ndarray
Weights = Iterator[Array]


def run(network: Any, function: Any, x: Array, **options: Any) -> Array:
    """`function` of x (N, C, H, W), with the parameters of `network`, of which none may be left."""
    weights = iter([on_host(data) for data, _ in network.param()])
    y: Array = function(x, weights, **options)
    assert next(weights, None) is None
    return y


def conv(x: Array, weights: Weights) -> Array:
    """A 3x3 convolution of padding 1 with the next two parameters: the sum over nine shifted images."""
    weight, bias = next(weights), next(weights)
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y = np.zeros((len(x), len(weight), height, width), x.dtype)
    for i in range(3):
        for j in range(3):
            y += np.einsum("nchw,oc->nohw", padded[:, :, i : i + height, j : j + width], weight[:, :, i, j])
    return y + bias[:, None, None]


def leaky(x: Array) -> Array:
    return np.where(x > 0, x, 0.1 * x)


def pool(x: Array) -> Array:
    return np.maximum(
        np.maximum(x[:, :, ::2, ::2], x[:, :, 1::2, ::2]), np.maximum(x[:, :, ::2, 1::2], x[:, :, 1::2, 1::2])
    )


def up(x: Array) -> Array:
    return x.repeat(2, axis=2).repeat(2, axis=3)


def beside(*parts: Array) -> Array:
    return np.concatenate(parts, axis=1)


def unshuffled(x: Array) -> Array:
    """Each channel's four pixels of a 2x2 block, in reading order."""
    return np.stack([x[:, c, i::2, j::2] for c in range(x.shape[1]) for i in (0, 1) for j in (0, 1)], axis=1)


def shuffled(x: Array) -> Array:
    y = np.zeros((x.shape[0], x.shape[1] // 4, 2 * x.shape[2], 2 * x.shape[3]), x.dtype)
    for k in range(x.shape[1]):
        y[:, k // 4, k % 4 // 2 :: 2, k % 2 :: 2] = x[:, k]
    return y


def in_a_row(x: Array, weights: Weights, depth: int) -> Array:
    for _ in range(depth - 1):
        x = np.maximum(conv(x, weights), 0)
    return conv(x, weights)


def dncnn(x: Array, weights: Weights, depth: int, residual: bool = True) -> Array:
    """Without BatchNorm."""
    noise = in_a_row(x, weights, depth)
    return x - noise if residual else noise


def ffdnet(x: Array, weights: Weights, depth: int) -> Array:
    """x: the image, and a noise level for each 2x2 block as its last channel."""
    image, level = x[:, :-1], x[:, -1:]
    assert np.array_equal(level, up(level[:, :, ::2, ::2]))
    return shuffled(in_a_row(beside(unshuffled(image), level[:, :, ::2, ::2]), weights, depth))


def noise2noise_unet(x: Array, weights: Weights) -> Array:
    pooled = [x]
    y = leaky(conv(x, weights))
    for _ in range(5):
        y = pool(leaky(conv(y, weights)))
        pooled.append(y)
    y = leaky(conv(pooled.pop(), weights))
    while pooled:
        y = beside(up(y), pooled.pop())
        y = leaky(conv(y, weights))
        y = leaky(conv(y, weights))
    return conv(y, weights)


def unet(x: Array, weights: Weights, depth: int, residual: bool = True) -> Array:
    y, skips = conv(unshuffled(x), weights), []
    for _ in range(depth):
        skips.append(block(y, weights))
        y = halved(skips[-1], weights)
    y = block(y, weights)
    while skips:
        y = block(skips.pop() + doubled(y, weights), weights)
    y = shuffled(conv(y, weights))
    return x + y if residual else y


def block(x: Array, weights: Weights) -> Array:
    return x + conv(np.maximum(conv(x, weights), 0), weights)


def halved(x: Array, weights: Weights) -> Array:
    """A 2x2 convolution of stride 2, a tap after the other."""
    weight, bias = next(weights), next(weights)
    taps = [np.einsum("nchw,oc->nohw", x[:, :, i::2, j::2], weight[:, :, i, j]) for i in (0, 1) for j in (0, 1)]
    return sum(taps) + bias[:, None, None]


def doubled(x: Array, weights: Weights) -> Array:
    """Its transpose: every pixel makes four."""
    weight, bias = next(weights), next(weights)
    n, _, height, width = x.shape
    y = np.zeros((n, weight.shape[1], 2 * height, 2 * width), x.dtype)
    for i in (0, 1):
        for j in (0, 1):
            y[:, :, i::2, j::2] = np.einsum("nchw,co->nohw", x, weight[:, :, i, j])
    return y + bias[:, None, None]
