"""npconv as a contender."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from library import CURVE_STEPS, LEARNING_RATE, MOMENTUM, Arrays, Library, Work, dropped, images, named, normal, weights

CURVE_BATCHES = 8  # through which the training of `_curve` goes again and again


class Npconv(Library):
    """npconv, on the CPU."""

    title, module = "npconv", "npconv"

    def __init__(self, threads: int) -> None:
        import npconv

        self.nc: Any = npconv  # NPCONV_THREADS was set before this process began

    def versions(self) -> dict[str, str]:
        import threadpoolctl

        blas = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        described = [f"{pool['internal_api']} {pool['version']} ({pool.get('architecture')})" for pool in blas]
        return {**super().versions(), "numpy": np.__version__, "blas": ", ".join(described) or "unknown"}

    def network(self, layers: list[Any]) -> Any:
        """The network of this description (see architectures.py), with the common weights."""
        built = self._layers(layers)
        parameters = list(built.parameters())
        for parameter, values in zip(parameters, weights(p.data.shape for p in parameters), strict=True):
            parameter.data[...] = self.nc.asarray(values)
        return built

    def _layers(self, layers: list[Any]) -> Any:
        parts = [self._layer(*part) for part in layers]
        return parts[0] if len(parts) == 1 else self.nc.Sequential(*parts)

    def _layer(self, name: str, arguments: list[Any], options: dict[str, Any]) -> Any:
        if name == "Upsampling":
            return self.nc.Upsampling(*arguments, 3, padding=1, transposeconvargs=False, scale_factor=2)
        if name == "Concat":
            return self.nc.Concat(*(self._layers(branch) if branch else self.nc.Identity() for branch in arguments))
        return getattr(self.nc, name)(*arguments, **options)

    def _images(self, x: np.ndarray) -> Any:
        return self.nc.backend().images(self.nc.asarray(x))

    def _named(self, output: Any, grads: Iterable[Any], **others: Any) -> Arrays:
        """As `named`, of arrays of the active backend."""
        there = {name: self.nc.to_numpy(value) for name, value in others.items()}
        return named(self.nc.to_numpy(output), map(self.nc.to_numpy, grads), **there)

    def _forward(self, layers: list[Any], shape: Sequence[int]) -> Work:
        network, x = self.network(layers), self._images(normal(shape, 2))

        def forward() -> Any:
            with self.nc.no_grad():
                return network.forward(x)

        return Work(lambda: dropped(forward()), lambda: self._named(forward(), []))

    def _forward_backward(self, layers: list[Any], shape: Sequence[int]) -> Work:
        network, x = self.network(layers), self._images(normal(shape, 2))
        grad = self._images(normal(network.forward(x).shape, 3))

        def run() -> None:
            network.forward(x)
            network.backward(grad)

        def results() -> Arrays:
            network.zero_grad()
            y, dx = network.forward(x), network.backward(grad)
            return self._named(y, [dx, *(g for _, g in network.param())])

        return Work(run, results)

    def _loss_forward(self, layers: list[Any], shape: Sequence[int]) -> Work:
        loss, x, target = self.nc.MSE(), self._images(normal(shape, 2)), self._images(normal(shape, 3))

        def forward() -> float:
            with self.nc.no_grad():
                return float(loss.forward(x, target))

        return Work(forward, lambda: self._named(forward(), []))

    def _loss(self, layers: list[Any], shape: Sequence[int]) -> Work:
        loss, x, target = self.nc.MSE(), self._images(normal(shape, 2)), self._images(normal(shape, 3))

        def run() -> None:
            loss.forward(x, target)
            loss.backward()

        return Work(run, lambda: self._named(loss.forward(x, target), [loss.backward()]))

    def _objective(self, layers: list[Any], shape: Sequence[int]) -> Work:
        network, loss, x = self.network(layers), self.nc.MSE(), self._images(normal(shape, 2))
        target = self._images(normal(network.forward(x).shape, 3))

        def run() -> None:
            loss.forward(network.forward(x), target)
            network.backward(loss.backward())

        def results() -> Arrays:
            network.zero_grad()
            y = network.forward(x)
            value, dx = loss.forward(y, target), network.backward(loss.backward())
            return self._named(y, [dx, *(g for _, g in network.param())], loss=value)

        return Work(run, results)

    def _step(self, layers: list[Any], shape: Sequence[int]) -> Work:
        network = self.network(layers)
        sgd = self.nc.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        model = self.nc.Model(network, self.nc.MSE(), sgd)
        x, target = self._images(images(shape, 2)), self._images(images(shape, 3))

        def results() -> Arrays:
            with self.nc.no_grad():
                y = network.forward(x)
            value = model.train_batch(x, target)
            return self._named(y, (g for _, g in network.param()), loss=value)

        return Work(lambda: model.train_batch(x, target), results, lambda n: model.train_batch(x[:n], target[:n]))

    def _predict(self, layers: list[Any], shape: Sequence[int]) -> Work:
        model, x = self.nc.Model(self.network(layers)), images(shape, 2) * 255
        return Work(lambda: dropped(model.predict(x)), lambda: self._named(model.predict(x), []))

    def _curve(self, layers: list[Any], shape: Sequence[int]) -> Work:
        """A training from the common weights, as the reports train: the losses of its steps."""
        rng = np.random.default_rng(4)
        clean = self.nc.data.dead_leaves(shape[0] * CURVE_BATCHES, *shape[2:], rng).astype("float32") / 255
        noisy = (clean + rng.normal(0, 25 / 255, clean.shape)).astype("float32")
        batches = [
            (self._images(noisy[i : i + shape[0]]), self._images(clean[i : i + shape[0]]))
            for i in range(0, len(clean), shape[0])
        ]

        def train() -> list[Any]:
            network = self.network(layers)
            model = self.nc.Model(network, self.nc.MSE(), self.nc.SGD(network.parameters(), lr=0.5, momentum=0.9))
            return [model._step(*batches[step % CURVE_BATCHES]) for step in range(CURVE_STEPS)]

        return Work(lambda: train()[-1], lambda: {"losses": np.array([float(loss) for loss in train()])})
