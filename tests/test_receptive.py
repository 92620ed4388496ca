"""Module.input_range: what is said is what a change of single pixels shows, for layers and for random networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host
from hypothesis import given
from hypothesis import strategies as st

import npconv as nc
from npconv import layers, receptive

LENGTH = 48  # of the line of pixels that is probed; other sides are short


def seen(network: nc.Module, axis: int, length: int = LENGTH) -> dict[int, set[int]]:
    """Which inputs along `axis` each output changes with, found by changing one line of pixels at a time.

    One image of a batch for each line, in float64.
    """
    shape = (4, length, 12) if axis == 0 else (4, 12, length)
    image = np.random.default_rng(0).uniform(1, 2, shape)
    batch = np.repeat(image[None], length + 1, axis=0)
    for i in range(length):
        batch[(i + 1, slice(None), *((i,) if axis == 0 else (slice(None), i)))] += 30.0
    with nc.no_grad():
        outputs = on_host(network.eval().forward(on_device(batch)))
    difference = np.abs(outputs[1:] - outputs[0]).max(axis=(1, 3 - axis))  # (inputs, outputs)
    changed = difference > 1e-9  # a product may round images of one batch differently
    return {j: set(np.flatnonzero(changed[:, j]).tolist()) for j in range(changed.shape[1])}


def assert_said_is_seen(network: nc.Module, axis: int, tight: bool, run: int = 4) -> None:
    """Runs of outputs depend on nothing outside what input_range says; if `tight`, on both of its ends."""
    found = seen(network, axis)
    for start in range(len(found) - run + 1):
        interval = receptive.input_range(network, axis, start, start + run)
        assert interval is not None
        lo, hi = max(0, interval[0]), min(LENGTH, interval[1])
        inputs = set().union(*(found[j] for j in range(start, start + run)))
        assert inputs <= set(range(lo, hi)), (start, interval)
        inside = interval[0] >= 0 and interval[1] <= LENGTH
        if tight and inside:
            assert (min(inputs), max(inputs) + 1) == interval, start


def conv(**options: Any) -> nc.Conv2d:
    return nc.Conv2d(4, 4, dtype="float64", **options)


EXACT = {
    "kernel 3": lambda: conv(kernel_size=3, padding=1),
    "valid, even kernel": lambda: conv(kernel_size=(4, 2)),
    "stride and dilation": lambda: conv(kernel_size=3, stride=2, dilation=(2, 3), padding=(2, 1)),
    "stride over kernel": lambda: conv(kernel_size=2, stride=3),
    "same": lambda: conv(kernel_size=4, dilation=2, padding="same"),
    "depthwise": lambda: conv(kernel_size=5, padding=2, groups=4),
    "reflect": lambda: conv(kernel_size=5, padding=2, padding_mode="reflect"),
    "replicate": lambda: conv(kernel_size=3, padding=1, padding_mode="replicate"),
    "circular, not padded": lambda: conv(kernel_size=3, padding_mode="circular"),
    "transposed 4/2": lambda: nc.ConvTranspose2d(4, 4, 4, stride=2, padding=1, dtype="float64"),
    "transposed 3/2": lambda: nc.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1, dtype="float64"),
    "transposed 5/3": lambda: nc.ConvTranspose2d(4, 4, 5, 3, dtype="float64"),
    "transposed, dilated": lambda: nc.ConvTranspose2d(4, 4, 3, dilation=2, dtype="float64"),
    "nearest 2": lambda: nc.UpsamplingNearest2d(scale_factor=2),
    "nearest 3 and 1": lambda: nc.UpsamplingNearest2d(scale_factor=(3, 1)),
    "nearest 1.5": lambda: nc.UpsamplingNearest2d(scale_factor=1.5),
    "nearest 1/2": lambda: nc.UpsamplingNearest2d(scale_factor=0.5),
    "upsampling": lambda: nc.Upsampling(4, 4, 3, padding=1, transposeconvargs=False, scale_factor=2, dtype="float64"),
    "upsampling, stride": lambda: nc.Upsampling(
        4, 4, 3, stride=2, padding=1, transposeconvargs=False, scale_factor=3, dtype="float64"
    ),
    "upsampling as transposed": lambda: nc.Upsampling(4, 4, 4, stride=2, padding=1, dtype="float64"),
    "upsampling as transposed, dilated": lambda: nc.Upsampling(4, 4, 3, 2, 1, 2, output_padding=1, dtype="float64"),
    "average": lambda: nc.AvgPool2d(3, 2, 1),
    "average, ceil": lambda: nc.AvgPool2d((2, 3), (2, 3), ceil_mode=True),
    "shuffle": lambda: nc.PixelShuffle(2),
    "unshuffle": lambda: nc.PixelUnshuffle(2),
    "batch norm": lambda: nc.BatchNorm2d(4, dtype="float64"),
    "relu": nc.ReLU,
    "dropout": nc.Dropout,
    "concat": lambda: nc.Concat(nc.Identity(), conv(kernel_size=5, padding=2)),
    "sum": lambda: nc.Sum(conv(kernel_size=(3, 5), padding=(1, 2)), conv(kernel_size=(7, 1), padding=(3, 0))),
}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("make", EXACT.values(), ids=EXACT.keys())
def test_layers_see_what_they_say_and_no_less(make: Any, axis: int) -> None:
    # Six outputs in a row: fewer may miss an end of the interval where a kernel has holes.
    assert_said_is_seen(make(), axis, tight=True, run=6)


@pytest.mark.parametrize("axis", [0, 1])
def test_max_pooling_sees_no_more_than_it_says(axis: int) -> None:
    for pool in (nc.MaxPool2d(2), nc.MaxPool2d(3, 2, 1, dilation=2), nc.MaxPool2d(3, 2, ceil_mode=True)):
        assert_said_is_seen(pool, axis, tight=False)


def test_padding_that_repeats_pixels_outside_the_window_is_counted_in() -> None:
    layer = conv(kernel_size=1, padding=2, padding_mode="reflect")
    assert receptive.input_range(layer, 0, 0, 1) == (-6, 3)  # output 0 is input 2
    for axis in (0, 1):
        assert_said_is_seen(layer, axis, tight=False, run=1)


def drawn_layer() -> st.SearchStrategy[Any]:
    """A function that makes a layer of 4 channels in and out."""
    small = st.integers(1, 3)
    modes = st.sampled_from(["zeros", "reflect", "replicate"])
    convs = st.builds(
        lambda k, s, p, d, mode: lambda: conv(kernel_size=k, stride=s, padding=p, dilation=d, padding_mode=mode),
        *(small, st.integers(1, 2), st.integers(0, 2), st.integers(1, 2), modes),
    )
    transposed = st.builds(
        lambda k, s, d: lambda: nc.ConvTranspose2d(4, 4, k, s, min(1, k - 1), dilation=d, dtype="float64"),
        *(small, small, st.integers(1, 2)),
    )
    pools = st.builds(lambda k, s, c: lambda: nc.MaxPool2d(k, s, k // 2, ceil_mode=c), small, small, st.booleans())
    fixed = st.sampled_from([EXACT[name] for name in ("nearest 2", "nearest 1/2", "upsampling", "relu", "batch norm")])
    return st.one_of(convs, transposed, pools, fixed)


@pytest.mark.cpu
@given(st.lists(drawn_layer(), min_size=1, max_size=4), st.booleans(), st.sampled_from([0, 1]))
def test_random_networks_see_no_more_than_they_say(makers: list[Any], skip: bool, axis: int) -> None:
    nc.manual_seed(1)
    network: nc.Module = nc.Sequential(*(make() for make in makers))
    if skip:
        network = nc.Sequential(nc.Concat(nc.Identity(), conv(kernel_size=3, padding=1)), conv8(), network)
    try:
        network.forward(on_device(np.zeros((1, 4, 12, 12))))
    except ValueError:  # too small for these kernels: nothing to see
        return
    assert_said_is_seen(network, axis, tight=False)


def conv8() -> nc.Conv2d:
    return nc.Conv2d(8, 4, 1, dtype="float64")


class Own(nc.Module):
    def forward(self, x: Any) -> Any:
        return x

    def backward(self, grad_output: Any) -> Any:
        return grad_output


class OwnConv(nc.Conv2d):
    def _forward(self, x: Any, **fusion: Any) -> Any:
        return super()._forward(x[:, :, ::-1], **fusion)


class OwnRow(nc.Sequential):
    def forward(self, x: Any) -> Any:
        return super().forward(x - x.mean())


class Local(Own):
    def input_range(self, axis: int, start: int, stop: int) -> tuple[int, int]:
        return start, stop


NOT_LOCAL = {
    "circular": lambda: conv(kernel_size=3, padding=1, padding_mode="circular"),
    "linear": lambda: nc.Linear(12, 12),
    "flatten": nc.Flatten,
    "size": lambda: nc.UpsamplingNearest2d(size=8),
    "irregular indices": lambda: nc.UpsamplingNearest2d(scale_factor=2.3),
    "irregular sizes": lambda: nc.UpsamplingNearest2d(scale_factor=0.29),
    "statistics of the image": lambda: nc.BatchNorm2d(4, track_running_stats=False),
    "one's own": Own,
    "one's own convolution": lambda: OwnConv(4, 4, 3),
    "one's own row": lambda: OwnRow(nc.ReLU()),
}


@pytest.mark.parametrize("make", NOT_LOCAL.values(), ids=NOT_LOCAL.keys())
def test_what_may_see_everything_says_so_within_networks_too(make: Any) -> None:
    assert not receptive.is_local(make())
    assert not receptive.is_local(nc.Sequential(nc.ReLU(), nc.Sum(nc.Identity(), make())))


def test_a_module_of_ones_own_may_say_what_it_sees() -> None:
    assert receptive.input_range(nc.Sequential(Local(), nc.Conv2d(1, 1, 3)), 1, 5, 7) == (5, 9)


def test_a_forward_that_was_put_on_an_object_is_not_trusted() -> None:
    layer = nc.ReLU()
    vars(layer)["forward"] = lambda x: x[:, :, ::-1]
    assert receptive.input_range(layer, 0, 0, 1) is None


def test_every_layer_but_the_two_that_join_pixels_is_local() -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "AvgPool2d": (2,), "MaxPool2d": (2,), "BatchNorm2d": (3,), "Conv2d": (1, 1, 3), "ConvTranspose2d": (1, 1, 3),
        "Upsampling": (1, 1, 3), "PixelShuffle": (2,), "PixelUnshuffle": (2,), "UpsamplingNearest2d": (None, 2),
        "Linear": (3, 3), "Scale": (2.0,), "SelectChannels": (3, 0, 2),
    }  # fmt: skip
    made = {name: getattr(layers, name)(*arguments.get(name, ())) for name in layers.__all__ if name != "Activation"}
    assert {name for name, layer in made.items() if not receptive.is_local(layer)} == {"Linear", "Flatten"}
