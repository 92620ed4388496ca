"""A small training whose result is a few bytes: the same alone, beside others, in a thread and in another process."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

import npconv as nc
from npconv import training


def share_smallest() -> None:
    """Let workers share even the smallest batch, and processes take over after two steps."""
    training.THREAD_WORK = training.PROCESS_WORK = 1
    training.STEPS_BY_THREADS = 2


def network(kind: int) -> nc.Module:
    """Three kinds: of convolutions alone (worker processes may train it), with numbers drawn, with a batch's mean."""
    layers: list[nc.Module] = [nc.Conv2d(3, 6, 3, padding=1), nc.LeakyReLU()]
    if kind % 3 == 1:
        layers.append(nc.Dropout(0.3))
    elif kind % 3 == 2:
        layers.append(nc.BatchNorm2d(6))
    return nc.Sequential(*layers, nc.Conv2d(6, 3, 3, padding=1))


def batch(rng: np.random.Generator) -> tuple[Any, Any]:
    return rng.random((6, 3, 8, 8), dtype="float32"), rng.random((6, 3, 8, 8), dtype="float32")


def state(model: nc.Model) -> bytes:
    """The bytes of all parameters, their gradients and the buffers."""
    arrays = [array for p in model.network.parameters() for array in (p.data, p.grad)]
    arrays += [getattr(module, name) for _, module, name in model.network.named_buffers()]
    return b"".join(array.tobytes() for array in arrays)


def experiment(seed: int, steps: int = 6) -> str:
    """Everything that draws, shares work or keeps something: initial weights, steps, a training, prediction."""
    nc.manual_seed(seed)
    net = network(seed)
    model, rng = nc.Model(net, nc.MSE(), nc.Adam(net.parameters(), lr=0.01)), np.random.default_rng(seed)
    losses = [model.train_batch(*batch(rng)) for _ in range(steps)]
    images = (rng.random((8, 3, 8, 8)) * 255).astype("float32")
    model.train(images, images[::-1].copy(), 2, batch_size=4, validation=0.25)
    losses += [epoch.loss for epoch in model.history]
    seen = model.predict(rng.random((2, 3, 20, 13)) * 255, tile=12)
    return hashlib.sha256(np.array(losses).tobytes() + state(model) + seen.tobytes()).hexdigest()
