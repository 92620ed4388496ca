"""PyTorch on a GPU as a contender: eager and as a CUDA graph, each in both memory layouts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from library import DEVICE_STEPS, LEARNING_RATE, MOMENTUM, Arrays, Work, images
from with_cupy import ARRAYS
from with_torch import Torch

Step = Callable[[Any, Any], Any]
WARM_UP = 3  # eager steps before a capture


class TorchCuda(Torch):
    """PyTorch on the GPU, eager, NCHW. cuDNN tries its algorithms (cudnn.benchmark); TF32 as NPCONV_TF32 says."""

    title = "CUDA NCHW"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if not self.torch.cuda.is_available():
            raise RuntimeError(f"PyTorch {self.torch.__version__} here has no CUDA, or finds no GPU")
        backends, tf32 = self.torch.backends, os.environ.get("NPCONV_TF32") == "1"
        backends.cudnn.benchmark = True
        backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = tf32

    def versions(self) -> dict[str, str]:
        cudnn = self.torch.backends.cudnn.version()
        return {**super().versions(), "torch's": f"CUDA {self.torch.version.cuda}, cuDNN {cudnn}"}

    def wait(self) -> None:
        self.torch.cuda.synchronize()

    def release(self) -> None:
        self.torch.cuda.empty_cache()

    def extra_memory(self, work: Callable[[], object], times: int) -> tuple[int, str]:
        cuda = self.torch.cuda
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        for _ in range(max(times, DEVICE_STEPS)):
            work()
        cuda.synchronize()
        return cuda.max_memory_allocated() - before, ARRAYS

    def network(self, layers: list[Any]) -> Any:
        return super().network(layers).to("cuda")

    def _tensor(self, x: Any) -> Any:
        tensor = self.torch.from_numpy(x).to("cuda")
        return tensor.to(memory_format=self.torch.channels_last) if self.channels_last else tensor

    def _step(self, layers: list[Any], shape: Sequence[int]) -> Work:
        x, target = self._tensor(images(shape, 2)), self._tensor(images(shape, 3))
        take, eager, results = self._training(layers, lambda: (x, target))
        return Work(lambda: take(x, target), results, lambda n: eager(x[:n], target[:n]))

    def _upload_step(self, layers: list[Any], shape: Sequence[int]) -> Work:
        """A training step with a batch from NumPy."""
        x, target = images(shape, 2), images(shape, 3)
        take, _, results = self._training(layers, lambda: (self._tensor(x), self._tensor(target)))
        return Work(lambda: take(self._tensor(x), self._tensor(target)), results)

    def _training(
        self, layers: list[Any], batch: Callable[[], tuple[Any, Any]]
    ) -> tuple[Step, Step, Callable[[], Arrays]]:
        """A step of a training, and an eager one, which leave the loss on the device; and what comes of some steps."""
        network = self.network(layers)
        sgd = self.torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)

        def eager(x: Any, target: Any) -> Any:
            sgd.zero_grad()
            loss = self._loss_of(network(x), target)
            loss.backward()
            sgd.step()
            return loss.detach()

        take = self._taken(eager, network, sgd)

        def results() -> Arrays:
            losses = [float(take(*batch())) for _ in range(DEVICE_STEPS)]
            with self.torch.no_grad():
                y = network(batch()[0])
            return self._results(y, network.parameters(), losses=np.array(losses))

        return take, eager, results

    def _taken(self, eager: Step, network: Any, sgd: Any) -> Step:
        """How steps are taken."""
        return eager


class TorchCudaChannelsLast(TorchCuda):
    """PyTorch on the GPU, eager, with images and weights in channels-last memory."""

    title, channels_last = "CUDA ch. last", True


class TorchCudaGraph(TorchCuda):
    """PyTorch with the whole training step in a CUDA graph."""

    title = "CUDA graph"

    def _taken(self, eager: Step, network: Any, sgd: Any) -> Step:
        """At the first step: warm up on a side stream, undo that, capture. Each step copies its batch and launches.

        As "CUDA semantics: whole-network capture" in PyTorch's documentation does it.
        """
        captured: list[Any] = []

        def take(x: Any, target: Any) -> Any:
            if not captured:
                captured.extend(self._captured(eager, network, sgd, x, target))
            graph, static_x, static_target, loss = captured
            static_x.copy_(x)
            static_target.copy_(target)
            graph.replay()
            return loss

        return take

    def _captured(self, eager: Step, network: Any, sgd: Any, x: Any, target: Any) -> tuple[Any, ...]:
        """The graph, where its batch lies, and where its loss will be."""
        cuda, before = self.torch.cuda, [p.detach().clone() for p in network.parameters()]
        static_x, static_target, side = x.clone(), target.clone(), self.torch.cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(WARM_UP):
                eager(static_x, static_target)
        cuda.current_stream().wait_stream(side)
        with self.torch.no_grad():
            for parameter, values in zip(network.parameters(), before, strict=True):
                parameter.copy_(values)
                sgd.state[parameter]["momentum_buffer"].zero_()  # the next step makes it the gradient, as the first did
        sgd.zero_grad()  # to None: the graph makes the gradients in memory of its own
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            loss = eager(static_x, static_target)
        return graph, static_x, static_target, loss


class TorchCudaGraphChannelsLast(TorchCudaGraph):
    """PyTorch's graph with images and weights in channels-last memory."""

    title, channels_last = "graph ch. last", True
