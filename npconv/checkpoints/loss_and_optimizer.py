"""Loss and optimizer of a model as plain data, for its file, and back. Only the kinds known here are ever made."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .. import weights
from ..losses import L1, MSE, Loss, MaskedMSE
from ..module import Module
from ..optim import SGD, Adam, Optimizer
from ..weights import WeightsFileError

LOSSES: dict[str, type[Loss]] = {"MSE": MSE, "L1": L1, "MaskedMSE": MaskedMSE}
OPTIMIZERS: dict[str, type[Optimizer]] = {"SGD": SGD, "Adam": Adam}


def describe_loss_and_optimizer(network: Module, loss: Loss, optimizer: Optimizer | None) -> dict[str, Any]:
    """Loss and optimizer as plain data; None for those of one's own."""
    own_loss = LOSSES.get(type(loss).__name__) is not type(loss)
    known = optimizer is not None and OPTIMIZERS.get(type(optimizer).__name__) is type(optimizer)
    return {
        "loss": None if own_loss else describe_loss(loss),
        "optimizer": describe_optimizer(network, optimizer) if known else None,
    }


def describe_loss(loss: Loss) -> dict[str, Any]:
    """A loss as plain data."""
    return {"type": type(loss).__name__, "arguments": loss.arguments()}


def describe_optimizer(network: Module, optimizer: Optimizer | None) -> dict[str, Any] | None:
    """An optimizer over parameters of the network as plain data, without what it remembers."""
    if optimizer is None:
        return None
    names = {id(parameter.data): name for name, parameter in network.named_parameters()}
    groups = [
        {
            "parameters": [names[id(p.data)] for p in group["params"]],
            "arguments": {name: without_scalars(value) for name, value in optimizer.arguments(index).items()},
        }
        for index, group in enumerate(optimizer.groups)
    ]
    return {"type": type(optimizer).__name__, "groups": groups}


def without_scalars(value: Any) -> Any:
    """An option with plain numbers in place of NumPy's, which JSON has not."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_scalars, value))
    return value.item() if isinstance(value, np.generic) else value


def training_in(path: Any) -> dict[str, Any]:
    """A file's training attribute; empty for one of a network alone."""
    training = weights.read_training(path)
    if training is None:
        return {}
    if not isinstance(training, dict):
        raise WeightsFileError(f"{os.fspath(path)}: its training (={str(training)[:100]}) must be a JSON object")
    return training


def rebuild_loss(training: dict[str, Any], path: Any) -> Loss | None:
    """The loss of a file's training attribute; only the kinds known here are made."""
    if "loss" not in training:
        return None  # a file of a network alone
    if training["loss"] is None:
        raise WeightsFileError(f"{os.fspath(path)} was saved with a loss of one's own: give it as loss=")
    try:
        return LOSSES[training["loss"]["type"]](**training["loss"]["arguments"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WeightsFileError(f"{os.fspath(path)}: the loss cannot be rebuilt: {error!r}") from error


def rebuild_optimizer(training: dict[str, Any], network: Module, path: Any) -> Optimizer | None:
    """The optimizer of a file's training attribute, over the same groups of parameters."""
    if training.get("optimizer") is None:
        return None
    parameters = dict(network.named_parameters())
    try:
        kind: Any = OPTIMIZERS[training["optimizer"]["type"]]
        groups = [
            {"params": [parameters[name] for name in group["parameters"]], **group["arguments"]}
            for group in training["optimizer"]["groups"]
        ]
        return kind(groups)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WeightsFileError(f"{os.fspath(path)}: the optimizer cannot be rebuilt: {error!r}") from error
