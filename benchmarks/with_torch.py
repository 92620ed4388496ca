"""PyTorch as a contender: NCHW, channels_last, and through torch.compile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from library import LEARNING_RATE, MOMENTUM, Arrays, Library, Work, dropped, images, named, normal, weights


class Torch(Library):
    """PyTorch on the CPU, eager, NCHW."""

    title, module = "PyTorch NCHW", "torch"
    channels_last = compiled = False

    def __init__(self, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch: Any = torch

    def network(self, layers: list[Any]) -> Any:
        """The network of this description (see architectures.py), with the common weights."""
        built = self._layers(layers)
        parameters = list(built.parameters())
        with self.torch.no_grad():
            for parameter, values in zip(parameters, weights(p.shape for p in parameters), strict=True):
                parameter.copy_(self.torch.from_numpy(values))
        if self.channels_last:
            built = built.to(memory_format=self.torch.channels_last)
        return self.torch.compile(built) if self.compiled else built

    def _layers(self, layers: list[Any]) -> Any:
        parts = [self._layer(*part) for part in layers]
        return parts[0] if len(parts) == 1 else self.torch.nn.Sequential(*parts)

    def _layer(self, name: str, arguments: list[Any], options: dict[str, Any]) -> Any:
        nn = self.torch.nn
        if name == "Upsampling":
            return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(*arguments, 3, padding=1))
        if name == "Concat":
            return _concat(self.torch, [self._layers(branch) if branch else nn.Identity() for branch in arguments])
        return getattr(nn, name)(*arguments, **options)

    def _tensor(self, x: np.ndarray) -> Any:
        tensor = self.torch.from_numpy(x)
        return tensor.to(memory_format=self.torch.channels_last) if self.channels_last else tensor

    def _loss_of(self, y: Any, target: Any) -> Any:
        return self.torch.nn.functional.mse_loss(y, target)

    def _results(self, y: Any, leaves: Iterable[Any], **others: Any) -> Arrays:
        return named(y.detach().cpu().numpy(), (leaf.grad.cpu().numpy() for leaf in leaves), **others)

    def _forward(self, layers: list[Any], shape: Sequence[int]) -> Work:
        network, x = self.network(layers), self._tensor(normal(shape, 2))

        def forward() -> Any:
            with self.torch.inference_mode():
                return network(x)

        return Work(lambda: dropped(forward()), lambda: named(forward().cpu().numpy(), []))

    def _forward_backward(self, layers: list[Any], shape: Sequence[int]) -> Work:
        network, x = self.network(layers), self._tensor(normal(shape, 2)).requires_grad_()
        grad = self._tensor(normal(network(x).shape, 3))

        def run() -> None:
            x.grad = None
            network(x).backward(grad)

        def results() -> Arrays:
            x.grad = None
            network.zero_grad()
            y = network(x)
            y.backward(grad)
            return self._results(y, [x, *network.parameters()])

        return Work(run, results)

    def _loss_forward(self, layers: list[Any], shape: Sequence[int]) -> Work:
        x, target = self._tensor(normal(shape, 2)), self._tensor(normal(shape, 3))

        def forward() -> float:
            with self.torch.inference_mode():
                return float(self._loss_of(x, target).item())

        return Work(forward, lambda: named(forward(), []))

    def _loss(self, layers: list[Any], shape: Sequence[int]) -> Work:
        x, target = self._tensor(normal(shape, 2)).requires_grad_(), self._tensor(normal(shape, 3))

        def run() -> None:
            x.grad = None
            self._loss_of(x, target).backward()

        def results() -> Arrays:
            run()
            return self._results(self._loss_of(x, target), [x])

        return Work(run, results)

    def _objective(self, layers: list[Any], shape: Sequence[int]) -> Work:
        network, x = self.network(layers), self._tensor(normal(shape, 2)).requires_grad_()
        target = self._tensor(normal(network(x).shape, 3))

        def run() -> None:
            x.grad = None
            self._loss_of(network(x), target).backward()

        def results() -> Arrays:
            x.grad = None
            network.zero_grad()
            y = network(x)
            value = self._loss_of(y, target)
            value.backward()
            return self._results(y, [x, *network.parameters()], loss=value.item())

        return Work(run, results)

    def _step(self, layers: list[Any], shape: Sequence[int]) -> Work:
        network = self.network(layers)
        sgd = self.torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        x, target = self._tensor(images(shape, 2)), self._tensor(images(shape, 3))

        def train(x: Any, target: Any) -> float:
            sgd.zero_grad()
            loss = self._loss_of(network(x), target)
            loss.backward()
            sgd.step()
            return float(loss.item())

        def results() -> Arrays:
            with self.torch.no_grad():
                y = network(x)
            value = train(x, target)
            return self._results(y, network.parameters(), loss=value)

        return Work(lambda: train(x, target), results, lambda n: train(x[:n], target[:n]))

    def _predict(self, layers: list[Any], shape: Sequence[int]) -> Work:
        network, x = self.network(layers), self._tensor(images(shape, 2) * 255)

        def predict() -> Any:
            with self.torch.inference_mode():
                return (network(x * (1 / 255)) * 255).clamp_(0, 255)

        return Work(lambda: dropped(predict()), lambda: named(predict().cpu().numpy(), []))


def _concat(torch: Any, branches: list[Any]) -> Any:
    class Concat(torch.nn.Module):  # type: ignore[misc]  # torch may be missing: its Module is no class to mypy
        def __init__(self) -> None:
            super().__init__()
            self.branches = torch.nn.ModuleList(branches)

        def forward(self, x: Any) -> Any:
            return torch.cat([branch(x) for branch in self.branches], 1)

    return Concat()


class TorchChannelsLast(Torch):
    """PyTorch with images and weights in channels-last memory."""

    title, channels_last = "channels_last", True


class TorchCompiled(Torch):
    """PyTorch through torch.compile, which chooses layouts itself."""

    title, compiled = "compile", True
