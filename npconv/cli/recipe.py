"""From options to a network, an optimizer and a schedule; the defaults depend on the first two."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from .. import networks
from ..model import Model
from ..module import Module
from ..optim import SGD, Adam, Optimizer
from ..random import manual_seed
from ..schedules import CosineAnnealingLR, OneCycleLR, Schedule, StepLR, TrapezoidLR


@dataclass(frozen=True)
class Preset:
    """What a network is trained with unless the options say otherwise; lr and momentum are SGD's."""

    upsampling: str
    channels: int
    lr: float
    momentum: float


# The mean over all elements makes gradients small, hence the large learning rates (without momentum: larger
# still).
NETWORKS = {
    "strided": Preset("nearest", channels=32, lr=0.5, momentum=0.9),
    "strided-transposed": Preset("transposed", channels=48, lr=5.0, momentum=0.0),
}
ADAM_LR = 1e-3
OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("none", "step", "cosine", "trapezoid", "one-cycle")
# After the default run, on photographs: 24.24 dB; cosine, which begins at the full rate, 23.58 dB.
SCHEDULE = "trapezoid"


def fill_in(args: argparse.Namespace) -> None:
    """Replace the options that were not given (None) by the defaults for the network and the optimizer.

    Raises ValueError for a momentum that Adam would ignore.
    """
    preset = NETWORKS[args.network]
    if args.channels is None:
        args.channels = preset.channels
    if args.optimizer == "adam" and args.momentum is not None:
        raise ValueError(f"--momentum (={args.momentum:g}) goes with --optimizer sgd only: adam has its own")
    if args.lr is None:
        args.lr = preset.lr if args.optimizer == "sgd" else ADAM_LR
    if args.momentum is None and args.optimizer == "sgd":
        args.momentum = preset.momentum


def make_model(args: argparse.Namespace, image_channels: int) -> Model:
    """The model that filled-in options describe, with random parameters from its seed.

    Raises ValueError for a learning rate or momentum that the optimizer does not take.
    """
    manual_seed(args.seed)
    upsampling = NETWORKS[args.network].upsampling
    network = networks.strided(args.channels, image_channels, upsampling)
    return Model(network, optimizer=_optimizer(args, network))


def _optimizer(args: argparse.Namespace, network: Module) -> Optimizer:
    if args.optimizer == "adam":
        return Adam(network.parameters(), lr=args.lr)
    return SGD(network.parameters(), lr=args.lr, momentum=args.momentum)


def make_schedule(name: str, optimizer: Optimizer | None, steps: int) -> Schedule | None:
    """The schedule called `name` over `steps` batches, to be stepped after each; None for "none"."""
    if optimizer is None:
        return None
    if name == "step":
        return StepLR(optimizer, max(1, -(-steps // 3)))
    if name == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    if name == "trapezoid":
        return TrapezoidLR(optimizer, steps)
    if name == "one-cycle":
        # Momentum stays what the options say: cycling it would overrule them.
        return OneCycleLR(optimizer, optimizer.lr, steps, cycle_momentum=False)
    return None


def parameter_count(network: Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.size for parameter in network.parameters())


def describe_network(args: argparse.Namespace, model: Model) -> str:
    """The network in a few words."""
    return f"{args.network}, {args.channels} channels: {parameter_count(model.network):,} parameters"


def describe_training(args: argparse.Namespace, model: Model) -> str:
    """Epochs, batches, optimizer and schedule in a few words."""
    schedule = "" if args.schedule == "none" else f", {args.schedule} schedule"
    sgd = args.optimizer == "sgd"
    optimizer = f"SGD, lr {args.lr:g}, momentum {args.momentum:g}" if sgd else f"Adam, lr {args.lr:g}"
    epochs = f"{args.epochs} epoch{'s' if args.epochs > 1 else ''}"
    return f"{epochs}, batches of {args.batch_size}, {optimizer}{schedule}, seed {args.seed}"
