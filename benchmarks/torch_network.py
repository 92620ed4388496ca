"""A network of npconv as one of PyTorch, layer by layer, with the same values in its parameters.

    theirs = TorchNetwork(torch, ours)      theirs.module(x), theirs.parameters, theirs.write_back()

Module by module: containers become Sequential, a concatenation or a sum of branches; the layers are looked up by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import npconv

PLAIN = (
    "Conv2d",
    "ConvTranspose2d",
    "ReLU",
    "LeakyReLU",
    "Sigmoid",
    "Tanh",
    "MaxPool2d",
    "AvgPool2d",
    "BatchNorm2d",
    "PixelShuffle",
    "PixelUnshuffle",
    "Identity",
)  # the same name and arguments in PyTorch


class TorchNetwork:
    """PyTorch's version of `network`: `module`, and `parameters` in the order of `network.parameters()`.

    Raises TypeError that names a layer for which there is no counterpart here.
    """

    def __init__(self, torch: Any, network: npconv.Module) -> None:
        self._torch = torch
        self._pairs: list[tuple[Any, Any]] = []
        self._statistics: list[tuple[Any, str, Any]] = []  # a layer of ours, the buffer's name, PyTorch's buffer
        self.module = self._converted(network)
        self.parameters = [theirs for _, theirs in self._pairs]

    def write_back(self) -> None:
        """Copy the values of PyTorch's parameters and running statistics into the network they came from."""
        for ours, theirs in self._pairs:
            ours.data = npconv.asarray(theirs.detach().cpu().numpy())
        for layer, name, theirs in self._statistics:
            getattr(layer, name)[...] = npconv.asarray(theirs.cpu().numpy())

    def _converted(self, ours: Any) -> Any:
        name, nn = type(ours).__name__, self._torch.nn
        if isinstance(ours, npconv.Sequential):
            return nn.Sequential(*map(self._converted, ours))
        if isinstance(ours, (npconv.Concat, npconv.Sum)):
            joined = self._torch.cat if isinstance(ours, npconv.Concat) else _added
            return _branches(nn, [self._converted(branch) for branch in ours], joined)
        if name in PLAIN:
            return self._with_values(ours, getattr(nn, name)(**_options(ours)))
        if name == "UpsamplingNearest2d":
            return nn.UpsamplingNearest2d(**_options(ours))
        if name == "Upsampling" and not ours.transposeconvargs:
            return nn.Sequential(nn.UpsamplingNearest2d(scale_factor=ours.factors), self._convolution(ours))
        if name == "Scale":
            return _function(nn, lambda x: ours.factor * x)
        if name == "SelectChannels":
            return _function(nn, lambda x: x[:, ours.start : ours.stop])
        raise TypeError(f"there is no counterpart of {ours!r} in PyTorch here")

    def _convolution(self, ours: Any) -> Any:
        """The convolution after the enlargement of an Upsampling."""
        options = {"padding": ours.padding, "dilation": ours.geometry.dilation, "bias": ours.bias is not None}
        made = self._torch.nn.Conv2d(ours.in_channels, ours.out_channels, ours.geometry.kernel, **options)
        return self._with_values(ours, made)

    def _with_values(self, ours: Any, theirs: Any) -> Any:
        for name, parameter in ours.named_parameters():
            self._pairs.append((parameter, self._copied(parameter.data, getattr(theirs, name))))
        for name, layer, key in ours.named_buffers():
            self._statistics.append((layer, key, self._copied(getattr(layer, key), getattr(theirs, name))))
        return theirs

    def _copied(self, values: Any, into: Any) -> Any:
        with self._torch.no_grad():
            return into.copy_(self._torch.from_numpy(npconv.to_numpy(values).copy()))


def _options(ours: Any) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in ours.arguments().items()}


def _added(outputs: list[Any], _: int) -> Any:
    total = outputs[0]
    for output in outputs[1:]:
        total = total + output
    return total


def _branches(nn: Any, branches: list[Any], joined: Callable[[list[Any], int], Any]) -> Any:
    class Branches(nn.Module):  # type: ignore[misc]  # torch may be missing: its Module is no class to mypy
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(branches)

        def forward(self, x: Any) -> Any:
            return joined([branch(x) for branch in self.branches], 1)

    return Branches()


def _function(nn: Any, function: Callable[[Any], Any]) -> Any:
    class Function(nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return function(x)

    return Function()
