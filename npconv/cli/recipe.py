"""From options to a network, a loss, an optimizer and a schedule; the defaults depend on the network."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import networks
from ..data import Noise, NoNoise, PixelSampling, parse_noise
from ..data.patches import SINGLE
from ..duration import in_words
from ..losses import MSE, Loss, MaskedMSE
from ..model import Model
from ..module import Module
from ..optim import SGD, Adam, Optimizer
from ..random import manual_seed
from ..schedules import (
    CosineAnnealingLR,
    ExponentialLR,
    MultiStepLR,
    OneCycleLR,
    RampDownLR,
    Schedule,
    StepLR,
    TrapezoidLR,
)
from .network_options import network_options
from .parser import DEFAULT_FOLDER

NETWORK = "unet"
OPTIMIZERS = ("adam", "sgd")
NETWORK_OPTIONS = ("channels", "depth", "batch_norm", "residual")  # those of networks.OPTIONS that train has
SCHEDULES = ("none", "step", "multistep", "exponential", "cosine", "rampdown", "trapezoid", "one-cycle")
NEVER = "never"
CHECKPOINT_EVERY = "5m"
EXPONENTIAL_END = 1e-3  # DnCNN's paper: from 1e-1 to 1e-4
TIME_STEPS = 1000  # of a schedule that follows the time


@dataclass(frozen=True)
class Preset:
    """What a network is trained with unless the options say otherwise.

    options: of the network, where not its own defaults. sgd: learning rate and momentum, should SGD train it; lr and
    betas are Adam's. multistep: after which shares of the run that schedule multiplies the rate, and by what. sampled:
    patch size and batch size for pixel sampling, where they are others: a patch is made of an area up to eight times as
    wide, which photographs of 321 pixels do not have for patches of more than 40. One of epochs and seconds is how long
    to train. noise_map: whether the input has the noise level as a channel.
    """

    options: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    sgd: tuple[float, float] = (0.1, 0.9)
    schedule: str = "trapezoid"
    multistep: tuple[tuple[float, ...], float] = ((0.6,), 0.2)
    noise: str = "pixel-sampling"
    patch_size: int = 64
    patches: int = 20000
    batch_size: int = 16
    sampled: tuple[int, int] | None = None
    validation_pairs: int = 250
    epochs: int | None = None
    seconds: float | None = 600
    noise_map: bool = False

    def sizes(self, noise: Noise, target: str | None) -> tuple[int, int]:
        """Patch size and batch size for this noise and target (None: not given).

        With "self" a patch is made of an area twice as wide: half the size, to an even number, and four of each.
        """
        usual = self.patch_size, self.batch_size
        size, batch = self.sampled if self.sampled is not None and isinstance(noise, PixelSampling) else usual
        return (-(-size // 4) * 2, 4 * batch) if target == "self" else (size, batch)


# The mean over all elements makes gradients small, hence the large learning rates of the reports' networks (without
# momentum: larger still). Trapezoid: after their default run, on photographs, 24.24 dB; cosine, which begins at the
# full rate, 23.58 dB.
_REPORTS = Preset(optimizer="sgd", patch_size=32, batch_size=32, validation_pairs=1000, epochs=15, seconds=None)
PRESETS = {
    # In ten minutes of Noise2Noise (Gaussian noise of 25) on two cores cosine was ahead of trapezoid at 1.5e-3 from the
    # beginning to the end. Small batches: there are more steps then, as long as a step's costs do not outweigh them.
    "unet": Preset(
        lr=2e-3,
        schedule="cosine",
        patch_size=48,
        batch_size=8,
        sampled=(40, 12),
        validation_pairs=1000,
        seconds=120,
    ),
    # Lehtinen et al. (2018), appendix A.1, but for smaller patches and more of them: 4 of 256 x 256 there.
    "noise2noise-unet": Preset(betas=(0.9, 0.99), schedule="rampdown", noise="gaussian:0-50"),
    # Zhang et al. (2017), and their PyTorch code, which divides the rate by 5 after 30 of 50 epochs; batches of 128.
    "dncnn": Preset(schedule="multistep", noise="gaussian:25", patch_size=40, batch_size=32),
    # Zhang, Zuo and Zhang (2018), where the rate falls to a tenth when the error stays the same; batches of 128.
    "ffdnet": Preset(
        schedule="multistep",
        multistep=((0.8,), 0.1),
        noise="gaussian:0-75",
        patch_size=50,
        batch_size=32,
        noise_map=True,
    ),
    "strided": replace(_REPORTS, options={"channels": 32}, sgd=(0.5, 0.9)),
    "strided-transposed": replace(_REPORTS, options={"channels": 48}, sgd=(5.0, 0.0)),
}


# Those that do not depend on the network.
_DEFAULTS = {"network": NETWORK, "seed": 0, "augment": True, "corrupt": "fail", "overwrite": False, "quiet": False}
_DEFAULTS |= {"checkpoint_every": CHECKPOINT_EVERY, "output": Path(DEFAULT_FOLDER)}


def noise_of(args: argparse.Namespace) -> Noise:
    """The noise that was asked for, or the network's; none for photographs that someone wants to learn from alone.

    (Those are noisy. Dead leaves are clean.)
    """
    if args.noise is not None:
        noise: Noise = args.noise
        return noise
    as_they_are = args.target in SINGLE and args.data is not None
    return NoNoise() if as_they_are else parse_noise(PRESETS[args.network].noise)


def fill_in(args: argparse.Namespace) -> None:
    """Replace the options of network, training and output that were not given (None) by the network's defaults.

    Raises ValueError for an option that another one leaves without effect.
    """
    _set_missing(args, _DEFAULTS)
    preset = PRESETS[args.network]
    if args.optimizer is None:
        args.optimizer = preset.optimizer
    _check_optimizer_options(args)
    rate, momentum = preset.sgd
    if args.optimizer == "sgd":
        defaults: dict[str, Any] = {"lr": rate, "momentum": momentum}
    else:
        defaults = {"lr": preset.lr, "betas": list(preset.betas)}
    defaults |= {"schedule": preset.schedule, "batch_size": preset.sizes(noise_of(args), args.target)[1]}
    defaults |= {"validation_pairs": preset.validation_pairs}
    if args.epochs is None and args.time is None:
        defaults |= {"epochs": preset.epochs, "time": preset.seconds}
    _set_missing(args, defaults | preset.options)
    args.noise_map = preset.noise_map


def _set_missing(args: argparse.Namespace, defaults: dict[str, Any]) -> None:
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def _check_optimizer_options(args: argparse.Namespace) -> None:
    if args.optimizer == "adam" and args.momentum is not None:
        raise ValueError(f"--momentum (={args.momentum:g}) goes with --optimizer sgd only: adam has its own")
    if args.optimizer == "sgd" and args.betas is not None:
        raise ValueError(f"--betas (={args.betas[0]:g} {args.betas[1]:g}) goes with --optimizer adam only")


def defaults_of(value: Callable[[Preset], Any]) -> str:
    """What `value` gives for the default network, and then for those for which it gives something else."""
    usual = str(value(PRESETS[NETWORK]))
    others: dict[str, list[str]] = {}
    for name, preset in PRESETS.items():
        if str(value(preset)) != usual:
            others.setdefault(str(value(preset)), []).append(name)
    return "; ".join([usual, *(f"{', '.join(names)}: {text}" for text, names in others.items())])


def size_of(index: int) -> Callable[[Preset], str]:
    """For `defaults_of`: the patch size (0) or the batch size (1) of a preset."""

    def text(preset: Preset) -> str:
        usual = str((preset.patch_size, preset.batch_size)[index])
        return usual if preset.sampled is None else f"{usual}, and {preset.sampled[index]} for pixel sampling"

    return text


def length_of(preset: Preset) -> str:
    """How long a network trains by default."""
    return f"{preset.epochs} epochs" if preset.seconds is None else in_words(preset.seconds)


# ---- what they make ----
def make_model(args: argparse.Namespace, image_channels: int) -> Model:
    """The model that filled-in options describe, with random parameters from its seed.

    Raises ValueError for an option that the network does not have, and for values that network or optimizer do not
    take.
    """
    manual_seed(args.seed)
    network = networks.make(args.network, image_channels, **network_options(args, NETWORK_OPTIONS))
    return Model(network, _loss(args), _optimizer(args, network))


def _loss(args: argparse.Namespace) -> Loss:
    return MaskedMSE() if args.target == "blind-spot" else MSE()


def _optimizer(args: argparse.Namespace, network: Module) -> Optimizer:
    if args.optimizer == "adam":
        return Adam(network.parameters(), lr=args.lr, betas=tuple(args.betas))
    return SGD(network.parameters(), lr=args.lr, momentum=args.momentum)


def make_schedule(
    name: str,
    optimizer: Optimizer | None,
    steps: int,
    multistep: tuple[tuple[float, ...], float] = Preset.multistep,
) -> Schedule | None:
    """The schedule called `name` over `steps` batches, to be stepped after each; None for "none".

    multistep: the shares of the steps after which that schedule multiplies the rate, and the factor.
    """
    if optimizer is None:
        return None
    if name == "step":
        return StepLR(optimizer, max(1, -(-steps // 3)), total_steps=steps)
    if name == "multistep":
        shares, factor = multistep
        return MultiStepLR(optimizer, [round(share * steps) for share in shares], factor, total_steps=steps)
    if name == "exponential":
        return ExponentialLR(optimizer, EXPONENTIAL_END ** (1 / steps), total_steps=steps)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    if name == "rampdown":
        return RampDownLR(optimizer, steps)
    if name == "trapezoid":
        return TrapezoidLR(optimizer, steps)
    if name == "one-cycle":
        # Momentum stays what the options say: cycling it would overrule them.
        return OneCycleLR(optimizer, optimizer.lr, steps, cycle_momentum=False)
    return None


def schedule_of(args: argparse.Namespace, optimizer: Optimizer | None, pairs: int) -> Schedule | None:
    """The schedule that filled-in options describe, for epochs of so many pairs, or for the time."""
    steps = TIME_STEPS if args.time is not None else args.epochs * -(-pairs // args.batch_size)
    return make_schedule(args.schedule, optimizer, steps, PRESETS[args.network].multistep)


# ---- what they are, in words ----
def parameter_count(network: Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.size for parameter in network.parameters())


def describe_network(args: argparse.Namespace, model: Model) -> str:
    """The network in a few words."""
    parts = [args.network]
    if args.channels is not None:
        parts.append(f"{args.channels} channels")
    if args.depth is not None:
        parts.append(f"depth {args.depth}")
    for flag, name in ((args.batch_norm, "batch normalisation"), (args.residual, "residual")):
        if flag is not None:
            parts.append(name if flag else f"not {name}" if name == "residual" else f"no {name}")
    return f"{', '.join(parts)}: {parameter_count(model.network):,} parameters"


def describe_options(args: argparse.Namespace) -> str:
    """Epochs or time, batches, optimizer and schedule in a few words."""
    schedule = "" if args.schedule == "none" else f", {args.schedule} schedule"
    sgd = args.optimizer == "sgd"
    optimizer = f"SGD, lr {args.lr:g}, momentum {args.momentum:g}" if sgd else f"Adam, lr {args.lr:g}"
    length = f"{args.epochs} epoch{'' if args.epochs == 1 else 's'}" if args.time is None else in_words(args.time)
    return f"{length}, batches of {args.batch_size}, {optimizer}{schedule}, seed {args.seed}"
