"""The options of the command line that describe a network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from .. import networks

IMAGE_CHANNELS = "image_channels"  # which every network takes


def network_options(args: argparse.Namespace, offered: Sequence[str]) -> dict[str, Any]:
    """Those of the options `offered` by a command that were given, to be handed to `networks.make(args.network)`.

    Raises ValueError, in the command's words, for one that the network does not take and for a network that is none.
    """
    if args.network not in networks.NETWORKS:
        raise ValueError(f"--network (={args.network!r}) must be one of {', '.join(networks.NETWORKS)}")
    of_network = (IMAGE_CHANNELS, *networks.options_of(args.network))
    options = {name: getattr(args, name) for name in offered if getattr(args, name) is not None}
    other = [flag(name, value) for name, value in options.items() if name not in of_network]
    if other:
        taken = [flag(name) for name in offered if name in of_network]
        rule = f"only {', '.join(taken)}" if taken else "none of them"
        raise ValueError(f"{other[0]} is no option of --network {args.network}, which takes {rule}")
    return options


def flag(name: str, value: Any = None) -> str:
    """An option as it is written; False is what its opposite gives."""
    return f"--{'no-' if value is False else ''}{name.replace('_', '-')}"
