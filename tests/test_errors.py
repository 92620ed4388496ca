"""Bad calls of layers, losses, containers and backends, each with the error that is promised.

Training, files and the rest are in the other test_errors files.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from devices import on_device

import npconv as nc
from npconv import networks
from npconv.backends import Array
from npconv.backends.cpu import NumpyBackend


def images(*shape: int, dtype: str = "float32") -> Array:
    return on_device(np.random.default_rng(0).random(shape).astype(dtype))


def net() -> nc.Sequential:
    return nc.Sequential(nc.Conv2d(3, 2, 3, padding=1), nc.ReLU(), nc.Conv2d(2, 3, 3, padding=1))


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def with_environment(call: Callable[[], object], **values: str) -> Callable[[], object]:
    def run() -> None:
        with environment(**values):
            call()

    return run


def no_grad_then_backward() -> None:
    layer = nc.Conv2d(1, 1, 3)
    with nc.no_grad():
        y = layer(images(1, 1, 5, 5))
    layer.backward(y)


def backward_with(module: nc.Module, x: Array, grad: Any) -> Callable[[], object]:
    def run() -> None:
        module.forward(x)
        module.backward(grad)

    return run


def twice() -> nc.Sequential:
    layer = nc.ReLU()
    return nc.Sequential(layer, layer)


def conv(*arguments: Any, **options: Any) -> Callable[[], object]:
    return lambda: nc.Conv2d(*arguments, **options)


def applied(module: nc.Module, *shape: int, dtype: str = "float32") -> Callable[[], object]:
    return lambda: module.forward(images(*shape, dtype=dtype))


x8 = images(4, 3, 8, 8)
FLAT = on_device(np.zeros(3, "float32"))

LAYERS = [
    ("conv in_channels 0", conv(0, 8, 3), ValueError, r"in_channels \(=0\) must be at least 1"),
    ("conv out_channels text", conv(3, "8", 3), TypeError, r"out_channels \(='8'\) must be an integer"),
    ("conv channels float", conv(3.0, 8, 3), TypeError, r"in_channels \(=3\.0\) must be an integer"),
    ("conv channels bool", conv(True, 8, 3), TypeError,
     r"in_channels \(=True\) must be an integer, not a bool"),
    ("conv kernel 0", conv(3, 8, 0), ValueError, r"kernel_size \(=0\) must be at least 1"),
    ("conv kernel triple", conv(3, 8, (3, 3, 3)), ValueError,
     r"kernel_size \(=\(3, 3, 3\)\) must be .* a pair"),
    ("conv zero stride", conv(3, 8, 3, stride=0), ValueError, r"stride \(=0\) must be at least 1"),
    ("conv stride pair", conv(3, 8, 3, stride=(1, 0)), ValueError,
     r"stride \(=0\) must be at least 1.*\(1, 0\)"),
    ("conv negative padding", conv(3, 8, 3, padding=-1), ValueError, r"padding \(=-1\) must be at least 0"),
    ("conv padding name", conv(3, 8, 3, padding="full"), ValueError,
     r"padding \(='full'\) must be 'same', 'valid'"),
    ("conv same with stride", conv(3, 8, 3, 2, "same"), ValueError,
     r"padding='same' needs stride 1, got.*\(2, 2\)"),
    ("conv zero dilation", conv(3, 8, 3, dilation=0), ValueError, r"dilation \(=0\) must be at least 1"),
    ("conv groups in", conv(3, 8, 3, groups=2), ValueError,
     r"in_channels \(=3\) must be divisible by groups \(=2\)"),
    ("conv groups out", conv(4, 7, 3, groups=2), ValueError,
     r"out_channels \(=7\) must be divisible by groups"),
    ("conv groups 0", conv(3, 8, 3, groups=0), ValueError, r"groups \(=0\) must be at least 1"),
    ("conv bias", conv(3, 8, 3, bias="no"), TypeError, r"bias \(='no'\) must be True or False"),
    ("conv padding mode", conv(3, 8, 3, padding_mode="mirror"), ValueError,
     r"padding_mode \(='mirror'\) must be one of zeros, reflect, replicate, circular"),
    ("conv dtype int", conv(3, 8, 3, dtype="int32"), TypeError,
     r"dtype \(='int32'\) must be float32 or float64"),
    ("conv dtype half", conv(3, 8, 3, dtype="float16"), TypeError,
     r"dtype \(='float16'\) must be float32 or float64"),
    ("conv rng", conv(3, 8, 3, rng=7), TypeError, r"rng \(=7\) must be a numpy.random.Generator"),
    ("conv channels of x", applied(nc.Conv2d(3, 8, 3), 2, 4, 9, 9), ValueError,
     r"in_channels \(=3\).*\(2, 4, 9, 9\)"),
    ("conv kernel larger", applied(nc.Conv2d(3, 8, 5, padding=1), 1, 3, 2, 9), ValueError,
     r"kernel_size \(=5x5, dilation 1x1\) must fit into the padded image: it spans 5x5.*has 4x11"),
    ("conv dilated kernel larger", applied(nc.Conv2d(3, 8, 3, dilation=4), 1, 3, 8, 8), ValueError,
     r"kernel_size \(=3x3, dilation 4x4\) must fit.*spans 9x9 pixels.*has 8x8"),
    ("conv reflect larger than image",
     applied(nc.Conv2d(1, 1, 7, padding=3, padding_mode="reflect"), 1, 1, 3, 9), ValueError,
     r"padding \(=3\) in mode 'reflect' must be at most 2 for an image of height 3"),
    ("conv integer input", lambda: nc.Conv2d(3, 8, 3)(images(1, 3, 9, 9, dtype="uint8")), TypeError,
     r"uint8.*x\.astype"),
    ("conv half input", applied(nc.Conv2d(3, 8, 3), 1, 3, 9, 9, dtype="float16"), TypeError,
     r"got float16.*x\.astype"),
    ("conv complex input", lambda: nc.ReLU()(images(3, dtype="complex64")), TypeError,
     r"must be float32.*got complex64"),
    ("conv list input", lambda: nc.Conv2d(3, 8, 3)([[1.0]]), TypeError, r"builtins\.list.*npconv\.asarray"),
    ("conv 2-D input", applied(nc.Conv2d(3, 8, 3), 9, 9), ValueError,
     r"\(9, 9\), must be \(N, C, H, W\) or \(C, H, W\)"),
    ("conv 5-D input", applied(nc.Conv2d(3, 8, 3), 1, 1, 3, 9, 9), ValueError,
     r"\(1, 1, 3, 9, 9\), must be \(N, C"),
    ("float32 on float64", applied(nc.Conv2d(3, 8, 3, dtype="float64"), 1, 3, 9, 9), TypeError,
     r"x\.astype\('float64'\)"),
    ("conv backward first", lambda: nc.Conv2d(3, 8, 3).backward(x8), nc.BackwardError,
     r"Conv2d\.backward.*before Conv2d"),
    ("backward after no_grad", no_grad_then_backward, nc.BackwardError,
     r"under no_grad, which keeps nothing"),
    ("grad_output shape", backward_with(nc.Conv2d(3, 8, 3), images(1, 3, 9, 9), images(1, 8, 9, 9)),
     ValueError,
     r"grad_output of Conv2d\.backward has shape \(1, 8, 9, 9\), it must have the output's shape \(1, 8, "
     r"7, 7\)"),
    ("grad_output integer", backward_with(nc.ReLU(), FLAT, images(3, dtype="int")), TypeError,
     r"grad_output of ReLU.*got int"),
    ("grad_output list", backward_with(nc.ReLU(), FLAT, [1, 1, 1]), TypeError,
     r"grad_output of ReLU.*builtins\.list"),
    ("transposed padding text", lambda: nc.ConvTranspose2d(1, 1, 3, padding="same"), ValueError,
     r"padding \(='same'\) of a"),
    ("transposed output_padding", lambda: nc.ConvTranspose2d(1, 1, 3, stride=2, output_padding=2), ValueError,
     r"output_padding \(=2\) must be less than stride \(=2\) or dilation \(=1\)"),
    ("transposed padding mode", lambda: nc.ConvTranspose2d(1, 1, 3, padding_mode="reflect"), ValueError,
     r"padding_mode \(='reflect'\) of a transposed convolution must be 'zeros'"),
    ("transposed nothing left", applied(nc.ConvTranspose2d(1, 1, 3, padding=3), 1, 1, 2, 9), ValueError,
     r"would be -2x5 for an image of 2x9: padding .*must leave at least 1x1"),
    ("transposed channels", applied(nc.ConvTranspose2d(2, 1, 3), 1, 3, 9, 9), ValueError,
     r"in_channels \(=2\).*with 3"),
    ("transposed groups", lambda: nc.ConvTranspose2d(4, 3, 3, groups=2), ValueError,
     r"out_channels \(=3\) must be div"),
    ("upsampling scale without", lambda: nc.Upsampling(1, 1, 3, transposeconvargs=False), ValueError,
     r"scale_factor must be given with transposeconvargs=False"),
    ("upsampling both", lambda: nc.Upsampling(1, 1, 3, scale_factor=2), ValueError,
     r"scale_factor \(=2\) needs transposeconvargs=False"),
    ("upsampling scale float", lambda: nc.Upsampling(1, 1, 3, transposeconvargs=False, scale_factor=1.5),
     TypeError, r"scale_factor \(=1\.5\) must be an integer"),
    ("upsampling flag", lambda: nc.Upsampling(1, 1, 3, transposeconvargs=1), TypeError,
     r"transposeconvargs \(=1\) must"),
    ("upsampling output_padding",
     lambda: nc.Upsampling(1, 1, 3, transposeconvargs=False, scale_factor=2, output_padding=1), ValueError,
     r"output_padding \(=1\) needs transposeconvargs=True"),
    ("upsampling padding text", lambda: nc.Upsampling(1, 1, 3, padding="same"), ValueError,
     r"padding \(='same'\) of a"),
    ("upsampling channels", applied(nc.Upsampling(2, 1, 3, 2, 1), 1, 3, 4, 4), ValueError,
     r"in_channels \(=2\).*with 3"),
    ("nearest none", lambda: nc.UpsamplingNearest2d(), ValueError,
     r"exactly one of size \(=None\) and scale_factor"),
    ("nearest both", lambda: nc.UpsamplingNearest2d(4, 2), ValueError,
     r"exactly one of size \(=4\) and scale_factor \(=2\)"),
    ("nearest size 0", lambda: nc.UpsamplingNearest2d(size=0), ValueError, r"size \(=0\) must be at least 1"),
    ("nearest scale 0", lambda: nc.UpsamplingNearest2d(scale_factor=0), ValueError,
     r"scale_factor \(=0\) must be greater"),
    ("nearest scale NaN", lambda: nc.UpsamplingNearest2d(scale_factor=math.nan), ValueError,
     r"scale_factor \(=nan\) must be finite"),
    ("nearest scale text", lambda: nc.UpsamplingNearest2d(scale_factor="2"), TypeError,
     r"scale_factor \(='2'\) must be"),
    ("nearest nothing left", applied(nc.UpsamplingNearest2d(scale_factor=0.25), 1, 1, 3, 8), ValueError,
     r"would be 0x2 for an image of 3x8"),
    ("pool padding", lambda: nc.MaxPool2d(3, padding=2), ValueError,
     r"padding \(=2\) must be at most half of kernel_size"),
    ("pool kernel 0", lambda: nc.AvgPool2d(0), ValueError, r"kernel_size \(=0\) must be at least 1"),
    ("pool stride 0", lambda: nc.MaxPool2d(2, 0), ValueError, r"stride \(=0\) must be at least 1"),
    ("pool padding text", lambda: nc.MaxPool2d(2, padding="same"), ValueError,
     r"padding \(='same'\) of a pooling"),
    ("pool ceil_mode", lambda: nc.MaxPool2d(2, ceil_mode="yes"), TypeError,
     r"ceil_mode \(='yes'\) must be True or False"),
    ("pool include pad", lambda: nc.AvgPool2d(2, count_include_pad=0), TypeError,
     r"count_include_pad \(=0\) must be"),
    ("pool divisor", lambda: nc.AvgPool2d(2, divisor_override=0), ValueError,
     r"divisor_override \(=0\) must be at least 1"),
    ("pool larger", applied(nc.MaxPool2d(3), 1, 1, 2, 9), ValueError,
     r"kernel_size \(=3x3.*must fit.*has 2x9"),
    ("norm features", lambda: nc.BatchNorm2d(0), ValueError, r"num_features \(=0\) must be at least 1"),
    ("norm eps", lambda: nc.BatchNorm2d(3, eps=-1.0), ValueError, r"eps \(=-1\.0\) must be at least 0"),
    ("norm momentum", lambda: nc.BatchNorm2d(3, momentum=1.5), ValueError,
     r"momentum \(=1\.5\) must be between 0 and 1"),
    ("norm affine", lambda: nc.BatchNorm2d(3, affine=1), TypeError, r"affine \(=1\) must be True or False"),
    ("norm channels", applied(nc.BatchNorm2d(3), 2, 4, 5, 5), ValueError,
     r"num_features \(=3\) channels, got.*\(2, 4, 5, 5\)"),
    ("norm one value", applied(nc.BatchNorm2d(3), 1, 3, 1, 1), ValueError,
     r"more than one value per channel.*\(1, 3, 1, 1\)"),
    ("norm backward first", lambda: nc.BatchNorm2d(3).backward(x8), nc.BackwardError,
     r"BatchNorm2d\.backward was called"),
    ("linear in", lambda: nc.Linear(0, 2), ValueError, r"in_features \(=0\) must be at least 1"),
    ("linear out", lambda: nc.Linear(2, 1.5), TypeError, r"out_features \(=1\.5\) must be an integer"),
    ("linear bias", lambda: nc.Linear(2, 1, bias=None), TypeError, r"bias \(=None\) must be True or False"),
    ("linear shape", applied(nc.Linear(5, 2), 3, 4), ValueError,
     r"in_features \(=5\) on the last axis, got.*\(3, 4\)"),
    ("flatten axes", applied(nc.Flatten(3, 1), 2, 3, 4, 4), ValueError,
     r"start_dim \(=3\) and end_dim \(=1\)"),
    ("flatten float", lambda: nc.Flatten(1.0), TypeError, r"start_dim \(=1\.0\) must be an integer"),
    ("flatten few axes", applied(nc.Flatten(1, 3), 2, 3), ValueError,
     r"must name axes of the input.*\(2, 3\)"),
    ("dropout p", lambda: nc.Dropout(1.5), ValueError, r"p \(=1\.5\) must be between 0 and 1"),
    ("dropout p NaN", lambda: nc.Dropout(math.nan), ValueError, r"p \(=nan\) must be finite"),
    ("dropout rng", lambda: nc.Dropout(0.5, rng=np.random), TypeError, r"must be a numpy.random.Generator"),
    ("leaky slope", lambda: nc.LeakyReLU("steep"), TypeError,
     r"negative_slope \(='steep'\) must be a number"),
    ("leaky slope inf", lambda: nc.LeakyReLU(math.inf), ValueError,
     r"negative_slope \(=inf\) must be finite"),
    ("shuffle factor", lambda: nc.PixelShuffle(0), ValueError, r"upscale_factor \(=0\) must be at least 1"),
    ("shuffle channels", applied(nc.PixelShuffle(2), 1, 6, 2, 2), ValueError,
     r"channels \(=6\) must be divisible.*\(=4\)"),
    ("unshuffle factor", lambda: nc.PixelUnshuffle("2"), TypeError,
     r"downscale_factor \(='2'\) must be an integer"),
    ("unshuffle size", applied(nc.PixelUnshuffle(2), 1, 1, 4, 5), ValueError,
     r"height and width \(=4x5\) must be divisible"),
    ("scale text", lambda: nc.Scale("half"), TypeError, r"factor \(='half'\) must be a number"),
    ("scale nan", lambda: nc.Scale(math.nan), ValueError, r"factor \(=nan\) must be finite"),
    ("select none", lambda: nc.SelectChannels(0, 0, 1), ValueError, r"in_channels \(=0\) must be at least 1"),
    ("select start", lambda: nc.SelectChannels(3, -1, 1), ValueError, r"start \(=-1\) must be at least 0"),
    ("select float", lambda: nc.SelectChannels(3, 0.5, 1), TypeError, r"start \(=0\.5\) must be an integer"),
    ("select empty", lambda: nc.SelectChannels(3, 1, 1), ValueError, r"stop \(=1\) must be greater than start \(=1\)"),
    ("select stop", lambda: nc.SelectChannels(3, 1, 4), ValueError, r"stop \(=4\) must be at most in_channels \(=3\)"),
    ("select channels", applied(nc.SelectChannels(3, 1, 3), 2, 4, 5, 5), ValueError,
     r"in_channels \(=3\) channels, got.*\(2, 4, 5, 5\) with 4"),
    ("own activation",
     backward_with(type("Cube", (nc.Activation,), {"function": lambda s, x: x**3})(), FLAT, FLAT), TypeError,
     r"Cube must define derivative\(x, y\)"),
]  # fmt: skip

LOSSES = [
    ("mse shapes", lambda: nc.MSE()(images(4, 1), images(4)), ValueError,
     r"MSE: prediction of shape \(4, 1\) and target of shape \(4,\) must have the same shape"),
    ("l1 shapes", lambda: nc.L1()(images(2, 3), images(2, 4)), ValueError,
     r"L1: .*\(2, 3\).*\(2, 4\) must have the same"),
    ("mse dtypes", lambda: nc.MSE()(images(2), images(2, dtype="float64")), TypeError,
     r"float32.*float64.*one dtype"),
    ("mse integers", lambda: nc.MSE()(images(2), images(2, dtype="int")), TypeError,
     r"the target of MSE must be float32.*got int"),
    ("mse list", lambda: nc.MSE()([1.0], images(1)), TypeError,
     r"the prediction of MSE must be an array.*builtins\.list"),
    ("mse empty", lambda: nc.MSE()(images(0, 3), images(0, 3)), ValueError,
     r"shape \(0, 3\) must have at least one element"),
    ("mse reduction", lambda: nc.MSE("none"), ValueError, r"reduction \(='none'\) must be 'mean' or 'sum'"),
    ("l1 backward first", lambda: nc.L1().backward(), nc.BackwardError,
     r"L1\.backward was called before L1\.forward"),
]  # fmt: skip

CONTAINERS = [
    ("not a module", lambda: nc.Sequential(nc.ReLU(), "ReLU"), TypeError,
     r"Sequential: '1' \(='ReLU'\) must be a Module"),
    ("a class", lambda: nc.Sequential(nc.ReLU), TypeError, r"Sequential: '0' \(=<class .*must be a Module"),
    ("dotted name", lambda: nc.Sequential({"a.b": nc.ReLU()}), ValueError,
     r"the name 'a\.b' must be.*no dot"),
    ("empty name", lambda: nc.Sequential({"": nc.ReLU()}), ValueError, r"the name '' must be.*not empty"),
    ("number as name", lambda: nc.Sequential({1: nc.ReLU()}), ValueError, r"the name 1 must be a text"),
    ("same twice", twice, ValueError, r"'1' \(=ReLU\(\)\) is in this container already"),
    ("index", lambda: net()[3], IndexError, r"index 3 is out of range for 3 modules"),
    ("negative index", lambda: net()[-4], IndexError, r"index -4 is out of range for 3 modules"),
    ("name", lambda: net()["head"], KeyError, r"'head' is not one of \['0', '1', '2'\]"),
    ("index float", lambda: net()[0.5], TypeError, r"index \(=0\.5\) must be an integer"),
    ("attribute", lambda: net().head, AttributeError, r"'Sequential' has no attribute 'head'"),
    ("append", lambda: net().append(None), TypeError, r"'3' \(=None\) must be a Module"),
    ("set", lambda: net().__setitem__(7, nc.ReLU()), IndexError, r"index 7 is out of range"),
    ("concat empty", lambda: nc.Concat(), ValueError, r"Concat must have at least one branch"),
    ("concat sizes", applied(nc.Concat(nc.Identity(), nc.MaxPool2d(2)), 1, 3, 8, 8), ValueError,
     r"Concat: the branches give shapes \[\(1, 3, 8, 8\), \(1, 3, 4, 4\)\]; they may differ in channels "
     r"only"),
    ("sum channels", applied(nc.Sum(nc.Identity(), nc.Conv2d(3, 1, 1)), 1, 3, 8, 8), ValueError,
     r"Sum: the branches give shapes \[\(1, 3, 8, 8\), \(1, 1, 8, 8\)\]; they must be equal"),
    ("sum backward first", lambda: nc.Sum(nc.Identity()).backward(x8), nc.BackwardError,
     r"Sum\.backward was called before"),
    ("concat grad",
     backward_with(nc.Concat(nc.Identity(), nc.Identity()), images(1, 2, 3, 3), images(1, 3, 3, 3)),
     ValueError,
     r"Concat\.backward has shape \(1, 3, 3, 3\), it must have the output's shape \(1, 4, 3, 3\)"),
    ("where it happened", applied(net(), 2, 4, 8, 8), ValueError,
     r"Sequential, layer 0: Conv2d\(3, 2.*input of shape \(2, 4, 8, 8\): Conv2d expects in_channels \(=3\)"),
    ("strided upsampling", lambda: networks.strided(upsampling="cubic"), ValueError,
     r"\(='cubic'\) must be one of nearest"),
    ("strided channels", lambda: networks.strided(channels=0), ValueError,
     r"channels \(=0\) must be at least 1"),
]  # fmt: skip

BACKENDS = [
    ("use unknown", lambda: nc.use_backend("jax"), ValueError,
     r"backend \(='jax'.*must be one of numpy, cupy, auto"),
    ("use number", lambda: nc.use_backend(3), ValueError, r"backend \(=3.*must be one of numpy, cupy, auto"),
    ("threads 0", with_environment(NumpyBackend, NPCONV_THREADS="0"), ValueError,
     r"NPCONV_THREADS \(='0'\) must be a whole number from 1 to 1024"),
    ("threads text", with_environment(NumpyBackend, NPCONV_THREADS="abc"), ValueError,
     r"NPCONV_THREADS \(='abc'\) must be"),
    ("threads negative", with_environment(NumpyBackend, NPCONV_THREADS="-2"), ValueError,
     r"NPCONV_THREADS \(='-2'\) must be"),
    ("conv algorithm",
     with_environment(NumpyBackend, NPCONV_CONV="foo"),
     ValueError, r"NPCONV_CONV \(='foo'\) must be one of auto, im2col"),
]  # fmt: skip

TABLE = [
    pytest.param(*row[1:], id=f"{group}: {row[0]}")
    for group, rows in (
        ("layer", LAYERS),
        ("loss", LOSSES),
        ("container", CONTAINERS),
        ("backend", BACKENDS),
    )
    for row in rows
]


@pytest.mark.parametrize(("call", "kind", "message"), TABLE)
def test_bad_call(call: Callable[[], object], kind: Any, message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert re.search(message, str(caught.value)), f"{message!r} is not in {str(caught.value)!r}"


def test_the_table_is_long_enough_and_has_no_row_twice() -> None:
    names = [row.id for row in TABLE]
    assert len(names) == len(set(names)) >= 80
