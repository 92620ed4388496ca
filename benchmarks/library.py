"""What a contender is: a library that builds cases. The common weights and data are made here, by NumPy.

Every contender gets the same weights and the same data, from one seed. It is made in a worker process of its own, and
imports its library there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from memory import extra_memory

LEARNING_RATE, MOMENTUM = 1e-3, 0.9  # small, so that hundreds of steps on one batch stay near where they began
CURVE_STEPS = 100  # of the training whose losses are compared
DEVICE_STEPS = 6  # compared on a GPU: by the last, contenders with CUDA graphs launch theirs
Arrays = dict[str, np.ndarray]


class Work(NamedTuple):
    """A case, ready to be run.

    run: does it once, and returns the loss where there is one, which a device may still compute. results: does it
        once, or some steps of it, and returns what came out.
    small: the same on that many images only (a training step's).
    """

    run: Callable[[], Any]
    results: Callable[[], Arrays]
    small: Callable[[int], object] | None = None


def weights(shapes: Iterable[Sequence[int]]) -> list[np.ndarray]:
    """Values for parameters of these shapes: kernels Kaiming uniform, so that deep networks keep their scale.

    Vectors within the bound of the kernel before them, or within 1.
    """
    rng, bound, values = np.random.default_rng(1), 1.0, []
    for shape in shapes:
        if len(shape) == 4:
            bound = float(np.sqrt(6 / np.prod(shape[1:])))
        values.append(rng.uniform(-bound, bound, tuple(shape)).astype("float32"))
    return values


def images(shape: Sequence[int], seed: int) -> np.ndarray:
    """Values in [0, 1)."""
    return np.random.default_rng(seed).random(tuple(shape), dtype="float32")


def normal(shape: Sequence[int], seed: int) -> np.ndarray:
    """Standard normal: inputs and gradients of single layers."""
    return np.random.default_rng(seed).standard_normal(tuple(shape), dtype="float32")


def named(output: Any, grads: Iterable[Any], **others: Any) -> Arrays:
    named = {"output": output, **others, **{f"gradient {i}": grad for i, grad in enumerate(grads)}}
    return {name: np.asarray(value) for name, value in named.items()}


class Library(ABC):
    """A contender: `build` makes a case, by a method for each kind."""

    title = ""
    module = ""  # what must be installed

    @abstractmethod
    def __init__(self, threads: int) -> None:
        """Import the library and give it this many threads."""

    def build(self, spec: dict[str, Any]) -> Work:
        """The case of this description (`Case.spec`). Raises ValueError for a kind that this contender cannot do."""
        method = getattr(self, f"_{spec['kind']}", None)
        if method is None:
            raise ValueError(f"{self.title} cannot do a case of kind {spec['kind']!r}")
        work: Work = method(spec["network"], spec["shape"])
        return work

    def versions(self) -> dict[str, str]:
        """The versions that matter to its speed."""
        module = __import__(self.module)
        return {self.module: getattr(module, "__version__", "unknown version")}

    def wait(self) -> None:  # noqa: B027  # the CPU has nothing under way
        """Until nothing is under way: for a device, which computes while its caller goes on."""

    def release(self) -> None:  # noqa: B027  # nor memory that another would miss
        """Give back the memory that is kept of cases that are gone."""

    def extra_memory(self, work: Callable[[], object], times: int) -> tuple[int, str]:
        """(bytes, how they were found): how much more memory `work` takes at its peak than there was before."""
        return extra_memory(work, times)


def dropped(_: object) -> None:
    """Drops a result, so that the next run may have its memory."""
