"""The trained methods of denoisers.py: `npconv train --time`, with npconv's steps or with PyTorch's."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import npconv
from npconv.cli import main as npconv_command
from npconv.cli import train
from npconv.noise_map import network_channels

TRAINED = ("npconv", "torch", "self")


def trained_model(
    method: str, photos: Path, validation: Path, noise: str, time: str, threads: int, runs: Path | None = None
) -> tuple[npconv.Model, dict[str, Any]]:
    """The model that the command wrote, and facts about its training.

    method: of TRAINED; photos, validation: folders; noise, time: as the command takes them; threads: PyTorch's; runs:
    the folder to keep the command's output in. Raises RuntimeError if the command fails.
    """
    with ExitStack() as stack:
        folder = runs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        output = folder / f"{method}-{noise.replace(':', '-')}"
        arguments = ["--data", str(photos), "--validation", str(validation), "--noise", noise, "--time", time]
        arguments += ["--target", "self"] if method == "self" else []
        if method == "torch":
            stack.enter_context(mock.patch.object(train, "make_model", _in_torch(train.make_model, threads)))
        status = npconv_command(["train", *arguments, "-o", str(output), "--overwrite"])
        if status != 0:
            raise RuntimeError(f"npconv train ended with status {status}: its message stands above")
        model = npconv.Model.load(output / "model.h5")
        history = (output / "history.csv").read_text(encoding="utf-8").splitlines()
        return model, {"training": " ".join(["npconv train", *arguments]), "history": history}


def _in_torch(make_model: Callable[..., npconv.Model], threads: int) -> Callable[..., npconv.Model]:
    """`make_model` of npconv train, with PyTorch taking the steps of what it makes."""

    def made(args: argparse.Namespace, *others: Any) -> npconv.Model:
        from torch_training import TorchModel  # PyTorch is needed for this alone

        model = make_model(args, *others)
        channels = network_channels(model.network) or 3
        side = args.patch_size
        return TorchModel(model, threads, (args.batch_size, channels, side, side))

    return made
