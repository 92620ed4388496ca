"""npconv on a GPU as a contender: with CUDA graphs, as it is by default, and without."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from library import DEVICE_STEPS, LEARNING_RATE, MOMENTUM, Arrays, Work, dropped, images
from with_npconv import Npconv

ARRAYS = "arrays alive at once on the device at the most, less those before the steps"


class Cupy(Npconv):
    """npconv with the cupy backend; NPCONV_TF32 and NPCONV_GPU_CONV are as they are in the environment."""

    graphs = True

    def __init__(self, threads: int) -> None:
        # Read when the backend is made, which is now.
        os.environ |= {"NPCONV_BACKEND": "cupy", "NPCONV_GPU_GRAPHS": str(int(self.graphs))}
        super().__init__(threads)
        self.cupy = self.nc.backend().xp

    def versions(self) -> dict[str, str]:
        runtime = self.cupy.cuda.runtime
        return {
            **super().versions(),
            "gpu": self.nc.backend().describe(),
            "cupy": self.cupy.__version__,
            "CUDA": f"{_version(runtime.runtimeGetVersion())}, the driver's {_version(runtime.driverGetVersion())}",
        }

    def wait(self) -> None:
        self.cupy.cuda.Device().synchronize()

    def release(self) -> None:
        self.nc.backend().release_memory()

    def extra_memory(self, work: Callable[[], object], times: int) -> tuple[int, str]:
        counter = Counter()
        with _hook(self.cupy, counter):
            for _ in range(max(times, DEVICE_STEPS)):
                work()
        return counter.most, ARRAYS

    def _step(self, layers: list[Any], shape: Sequence[int]) -> Work:
        x, target = self._images(images(shape, 2)), self._images(images(shape, 3))
        take, results = self._training(layers, lambda: (x, target))
        return Work(lambda: take(x, target), results, lambda n: take(x[:n], target[:n]))

    def _upload_step(self, layers: list[Any], shape: Sequence[int]) -> Work:
        """A training step with a batch from NumPy."""
        x, target = images(shape, 2), images(shape, 3)
        take, results = self._training(layers, lambda: (self._images(x), self._images(target)))
        return Work(lambda: take(self._images(x), self._images(target)), results)

    def _training(
        self, layers: list[Any], batch: Callable[[], tuple[Any, Any]]
    ) -> tuple[Callable[[Any, Any], Any], Callable[[], Arrays]]:
        """A step of a training, as Model.train takes it: the loss stays on the device; and what comes of some steps."""
        network = self.network(layers)
        sgd = self.nc.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        model = self.nc.Model(network, self.nc.MSE(), sgd)

        def results() -> Arrays:
            losses = [float(model._step(*batch())) for _ in range(DEVICE_STEPS)]
            with self.nc.no_grad():
                y = network.forward(batch()[0])
            return self._named(y, (grad for _, grad in network.param()), losses=np.array(losses))

        return model._step, results

    def _predict(self, layers: list[Any], shape: Sequence[int]) -> Work:
        model, x = self.nc.Model(self.network(layers)), self._images(images(shape, 2) * 255)
        return Work(lambda: dropped(model.predict(x)), lambda: self._named(model.predict(x), []))


class CupyEager(Cupy):
    """npconv with the cupy backend, every operation launched by itself."""

    title, graphs = "npconv eager", False


class Counter:
    """Bytes alive since it began, now and at the most: what is freed may have been there before."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def made(self, size: int) -> None:
        self.now += size
        self.most = max(self.most, self.now)

    def freed(self, size: int) -> None:
        self.now -= size


def _hook(cupy: Any, counter: Counter) -> Any:
    """A hook of all memory pools, a context manager."""

    class Hook(cupy.cuda.MemoryHook):  # type: ignore[misc]  # CuPy may be missing: its class is none to mypy
        name = "npconv's benchmark"

        def malloc_postprocess(self, **call: Any) -> None:
            counter.made(call["mem_size"])

        def free_postprocess(self, **call: Any) -> None:
            counter.freed(call["mem_size"])

    return Hook()


def _version(number: int) -> str:
    """CUDA's 13020 is 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"
