"""Loss and optimizer of a model as plain data, for its file, and back. Only the kinds known here are ever made."""

from __future__ import annotations

import os
from typing import Any

from .losses import L1, MSE, Loss, MaskedMSE
from .module import Module
from .optim import SGD, Adam, Optimizer
from .weights import WeightsFileError

LOSSES: dict[str, type[Loss]] = {"MSE": MSE, "L1": L1, "MaskedMSE": MaskedMSE}
OPTIMIZERS: dict[str, type[Optimizer]] = {"SGD": SGD, "Adam": Adam}


def describe_training(network: Module, loss: Loss, optimizer: Optimizer | None) -> dict[str, Any]:
    """Loss and optimizer as plain data; None for those of one's own."""
    described: dict[str, Any] = {"loss": None, "optimizer": None}
    if LOSSES.get(type(loss).__name__) is type(loss):
        described["loss"] = {"type": type(loss).__name__, "arguments": loss.arguments()}
    if optimizer is not None and OPTIMIZERS.get(type(optimizer).__name__) is type(optimizer):
        names = {id(parameter.data): name for name, parameter in network.named_parameters()}
        groups = [
            {"parameters": [names[id(p.data)] for p in group["params"]], "arguments": optimizer.arguments(index)}
            for index, group in enumerate(optimizer.groups)
        ]
        described["optimizer"] = {"type": type(optimizer).__name__, "groups": groups}
    return described


def rebuild_loss(training: dict[str, Any], path: Any) -> Loss | None:
    """The loss of a file's training attribute; only the kinds known here are made."""
    if "loss" not in training:
        return None  # a file of a network alone
    if training["loss"] is None:
        raise WeightsFileError(f"{os.fspath(path)} was saved with a loss of one's own: give it as loss=")
    try:
        return LOSSES[training["loss"]["type"]](**training["loss"]["arguments"])
    except (KeyError, TypeError, ValueError) as error:
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
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsFileError(f"{os.fspath(path)}: the optimizer cannot be rebuilt: {error!r}") from error
