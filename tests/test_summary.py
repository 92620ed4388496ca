"""summary and trace: shapes, counts, and that nothing is changed by looking."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host

import npconv as nc
from npconv import networks
from npconv.random import generator_or_default
from npconv.summary import readable_bytes
from npconv.tracing import Node, describe, trace

STRIDED = """\
Sequential for an input of 1 x 3 x 32 x 32, float32

name  layer                                             output            parameters  multiply-adds    memory
-------------------------------------------------------------------------------------------------------------
0     Conv2d(3, 32, 3, stride=2, padding=1)             1 x 32 x 16 x 16         896        221,184  32.0 KiB
1     ReLU()                                            1 x 32 x 16 x 16           0              0  32.0 KiB
2     Conv2d(32, 32, 3, stride=2, padding=1)            1 x 32 x 8 x 8         9,248        589,824   8.0 KiB
3     ReLU()                                            1 x 32 x 8 x 8             0              0   8.0 KiB
4     Upsampling(32, 32, 3, padding=1, scale_factor=2)  1 x 32 x 16 x 16       9,248      2,359,296  32.0 KiB
5     ReLU()                                            1 x 32 x 16 x 16           0              0  32.0 KiB
6     Upsampling(32, 3, 3, padding=1, scale_factor=2)   1 x 3 x 32 x 32          867        884,736  12.0 KiB
7     Sigmoid()                                         1 x 3 x 32 x 32            0              0  12.0 KiB
-------------------------------------------------------------------------------------------------------------
parameters     20,259, all trained: 79.1 KiB, and 79.1 KiB for their gradients
multiply-adds  4,055,040 for 1 image
activations    180.0 KiB: the input and all outputs, kept for backward in training"""


def branched() -> nc.Sequential:
    return nc.Sequential(
        nc.Conv2d(3, 4, 3, padding=1),
        nc.Concat({"skip": nc.Identity(), "deep": nc.Sequential(nc.MaxPool2d(2), nc.Upsampling(4, 2, 4, 2, 1))}),
        nc.Sum(nc.Identity(), nc.Sequential(nc.BatchNorm2d(6), nc.Dropout(0.5))),
    )


def line(text: str, name: str) -> list[str]:
    """The cells of the line that begins with `name`."""
    row = next(row for row in text.splitlines() if row.split() and row.split()[0] == name)
    return re.split(r"\s{2,}", row.strip())


# ---- the text ----
def test_the_reports_network() -> None:
    assert nc.summary(networks.strided(), (3, 32, 32)) == STRIDED


def test_containers_are_a_tree_and_branches_show() -> None:
    text = nc.summary(branched(), (2, 3, 8, 8))
    names = [row.rstrip().split("  ")[0] if row[:1] != " " else row for row in text.splitlines()[4:-4]]
    starts = [
        "0",
        "1",
        "  1.skip",
        "  1.deep",
        "    1.deep.0",
        "    1.deep.1",
        "2",
        "  2.0",
        "  2.1",
        "    2.1.0",
    ]
    assert [row.startswith(start) for row, start in zip(names, starts, strict=False)] == [True] * len(starts)
    assert line(text, "1") == ["1", "Concat of 2", "2 x 6 x 8 x 8", "3.0 KiB"]
    assert line(text, "1.deep") == ["1.deep", "Sequential of 2", "2 x 2 x 8 x 8"]
    assert line(text, "2.1.1") == ["2.1.1", "Dropout()", "2 x 6 x 8 x 8", "0", "0", "0 B"]
    assert "for 2 images" in text


def test_a_single_layer_a_long_one_and_an_own_one() -> None:
    assert "LeakyReLU(negative_slope=0.2)" in nc.summary(nc.LeakyReLU(0.2), (3, 4, 4))

    class Own(nc.Layer):
        def __init__(self) -> None:
            self.weight = nc.Parameter(np.ones(3, "float32"))

        def _forward(self, x: Any) -> Any:
            return x * self.weight.data[:, None, None], x

        def _backward(self, grad: Any, saved: Any) -> Any:
            return grad

    text = nc.summary(nc.Sequential({"own": Own(), "conv": nc.Conv2d(3, 1, 1)}), (3, 4, 4))
    assert line(text, "own") == ["own", "Own()", "1 x 3 x 4 x 4", "3", "?", "192 B"]
    assert "multiply-adds  48 for 1 image, without those of Own" in text
    assert "\nparameters     7, all trained: 28 B, and 28 B" in text
    long = nc.Conv2d(8, 8, (3, 5), (1, 2), (2, 3), (2, 1), 4, False, "replicate")
    cells = line(nc.summary(nc.Sequential(long), (8, 9, 9)), "0")
    assert cells[1] == "Conv2d(8, 8, (3, 5), stride=(1, 2), padding=(2, 3), dilat..." and len(cells[1]) == 60


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 30, "3.0 GiB"),
        (1 << 41, "2.0 TiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert readable_bytes(count) == text


def test_a_float64_network_takes_twice_the_memory() -> None:
    text = nc.summary(networks.strided(dtype="float64"), (3, 32, 32))
    assert "float64" in text.splitlines()[0] and "activations    360.0 KiB" in text and "158.3 KiB" in text


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nc.Conv2d(3, 8, (3, 5), padding="same"), "3, 8, (3, 5), padding='same'"),
        (nc.ConvTranspose2d(3, 8, 4, 2, 1, bias=False), "3, 8, 4, stride=2, padding=1, bias=False"),
        (nc.MaxPool2d(2), "2, stride=2"),
        (nc.BatchNorm2d(7), "7"),
        (nc.Linear(4, 5), "4, 5"),
        (nc.UpsamplingNearest2d(scale_factor=2), "scale_factor=2"),
        (nc.Dropout(), ""),
        (nc.Flatten(), ""),
    ],
)
def test_arguments_are_described_briefly(layer: nc.Module, text: str) -> None:
    assert describe(layer) == text


# ---- the counts ----
def products(layer: Any, shape: tuple[int, ...]) -> int:
    """The multiplications of a convolution, counted: one for every output pixel, tap and pair of channels."""
    groups = getattr(layer.geometry, "groups", 1)
    if isinstance(layer, nc.ConvTranspose2d):
        places = shape[0] * shape[2] * shape[3]
    else:
        output = layer(on_device(np.zeros(shape, "float32")))
        places = sum(1 for _ in itertools.product(*(range(n) for n in (output[:, 0].shape))))
    taps = layer.geometry.kernel[0] * layer.geometry.kernel[1]
    return (
        places
        * taps
        * sum(
            1
            for i in range(layer.in_channels)
            for o in range(layer.out_channels)
            if i * groups // layer.in_channels == o * groups // layer.out_channels
        )
    )


@pytest.mark.parametrize(
    "layer",
    [
        nc.Conv2d(4, 6, 3, stride=2, padding=1),
        nc.Conv2d(4, 6, (1, 3), groups=2, dilation=2),
        nc.ConvTranspose2d(4, 6, 4, stride=2, padding=1),
        nc.ConvTranspose2d(4, 6, 3, groups=2, output_padding=0),
        nc.Upsampling(4, 6, 4, stride=2, padding=1),
        nc.Upsampling(4, 3, 3, padding=1, transposeconvargs=False, scale_factor=3),
    ],
    ids=repr,
)
def test_multiply_adds_of_convolutions(layer: nc.Module) -> None:
    assert trace(layer, (2, 4, 7, 8))[0].multiply_adds == products(layer, (2, 4, 7, 8))


def test_multiply_adds_of_linear_layers_and_of_the_rest() -> None:
    nodes = trace(nc.Sequential(nc.AvgPool2d(2), nc.Flatten(), nc.Linear(12, 5), nc.Tanh()), (3, 3, 4, 4))
    assert [node.multiply_adds for node in nodes] == [3 * 12 * 5, 0, 0, 3 * 12 * 5, 0]


def test_parameters_count_a_shared_one_once() -> None:
    network = nc.Sequential(nc.Linear(4, 4, bias=False), nc.Linear(4, 4, bias=False))
    network[1].weight = network[0].weight
    nodes = trace(network, (3, 4, 4))
    assert [node.parameters for node in nodes] == [16, 16, 16]


# ---- trace ----
def test_nodes_come_depth_first_with_their_children() -> None:
    nodes = trace(branched(), (3, 8, 8))
    assert [node.name for node in nodes] == [
        "",
        "0",
        "1",
        "1.skip",
        "1.deep",
        "1.deep.0",
        "1.deep.1",
        "2",
        "2.0",
        "2.1",
        "2.1.0",
        "2.1.1",
    ]
    assert [node.depth for node in nodes] == [0, 1, 1, 2, 2, 3, 3, 1, 2, 2, 3, 3]
    root: Node = nodes[0]
    assert [child.name for child in root.children] == ["0", "1", "2"] and list(root.walk()) == nodes
    assert (root.input_shape, root.output_shape) == ((1, 3, 8, 8), (1, 6, 8, 8))
    assert (nodes[6].input_shape, nodes[6].output_shape) == ((1, 4, 4, 4), (1, 2, 8, 8))


def test_nodes_hold_the_networks_own_modules() -> None:
    network = branched()
    assert all(node.module is module for node, module in zip(trace(network, (3, 8, 8)), network.modules(), strict=True))


def test_a_module_that_is_not_called_says_so() -> None:
    class Unused(nc.Module):
        def __init__(self) -> None:
            self.used, self.unused = nc.ReLU(), nc.Linear(2, 2)

        def forward(self, x: Any) -> Any:
            return self.used(self.used(x))

        def backward(self, grad_output: Any) -> Any:
            return grad_output

    nodes = trace(Unused(), (3, 4, 4))
    assert nodes[2].output_shape is None and nodes[1].output_bytes == 2 * 3 * 4 * 4 * 4
    assert line(nc.summary(Unused(), (3, 4, 4)), "unused")[2] == "not called"


def test_looking_changes_nothing() -> None:
    network = branched()
    network[2][1][1].rng = own = np.random.default_rng(1)
    y = network(on_device(np.ones((2, 3, 8, 8), "float32")))
    network[1].eval()
    before, modes = on_host(network.state_dict()), [module.training for module in network.modules()]
    nc.manual_seed(5)
    default = generator_or_default()
    states = [(rng.bit_generator.state, rng.bit_generator.seed_seq.n_children_spawned) for rng in (own, default)]
    nc.summary(network, (3, 16, 16))
    assert states == [
        (rng.bit_generator.state, rng.bit_generator.seed_seq.n_children_spawned) for rng in (own, default)
    ]
    assert modes == [module.training for module in network.modules()]
    assert all(np.array_equal(before[name], value) for name, value in on_host(network.state_dict()).items())
    assert network.backward(y).shape == (2, 3, 8, 8)  # what its forward kept is still there
    assert not any("forward" in vars(module) for module in network.modules())


def test_looking_under_no_grad_and_at_a_batch_of_one() -> None:
    with nc.no_grad():
        nc.summary(branched(), (3, 8, 8))
        assert not nc.is_grad_enabled()
    nc.summary(nc.BatchNorm2d(3), (3, 1, 1))  # in training, one value a channel is an error


def test_the_networks_own_error_comes_through() -> None:
    with pytest.raises(ValueError, match=r"^Sequential, layer 0: Conv2d\(3, 4.*\(1, 5, 8, 8\)"):
        nc.summary(branched(), (5, 8, 8))
