"""Architectures that a file of weights may claim: data that must never make anything but a small known network."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any


def conv(**changes: Any) -> dict[str, Any]:
    """A convolution with other arguments."""
    arguments = {"in_channels": 1, "out_channels": 4, "kernel_size": [3, 3], **changes}
    return {"type": "Conv2d", "arguments": arguments}


def _huge(rng: Random) -> Any:
    size = rng.choice((1 << 16, 1 << 20, 1 << 31, 1 << 62, 10**30))
    return rng.choice(
        (
            conv(in_channels=size, out_channels=size), conv(out_channels=size), conv(kernel_size=[size, size]),
            conv(kernel_size=size), conv(in_channels=size, out_channels=size, groups=size), conv(padding=[size, size]),
            {"type": "BatchNorm2d", "arguments": {"num_features": size}},
            {"type": "BatchNorm2d", "arguments": {"num_features": size, "affine": False, "track_running_stats": False}},
            {"type": "Linear", "arguments": {"in_features": size, "out_features": size}},
            {"type": "ConvTranspose2d", "arguments": {"in_channels": 1, "out_channels": size, "kernel_size": [2, 2]}},
            {"type": "Upsampling", "arguments": {"in_channels": size, "out_channels": 2, "kernel_size": [2, 2]}},
            {"type": "SelectChannels", "arguments": {"in_channels": size, "start": 0, "stop": size}},
            {"type": "MaxPool2d", "arguments": {"kernel_size": size}},
            {"type": "PixelShuffle", "arguments": {"upscale_factor": size}},
            {"type": "Upsample", "arguments": {"scale_factor": size}},
        )
    )  # fmt: skip


def _deep(rng: Random) -> str:
    depth = rng.choice((50, 900, 20_000))
    opening = '{"type": "Sequential", "children": [["0", '
    return opening * depth + '{"type": "ReLU", "arguments": {}}' + "]]}" * depth


def _wide(rng: Random) -> Any:
    count = rng.choice((100, 3000, 20_000))
    relu = {"type": "ReLU", "arguments": {}}
    return {"type": rng.choice(("Sequential", "Sum")), "children": [[str(i), relu] for i in range(count)]}


def _kernels(rng: Random) -> str:
    """Integers of thousands of digits, whose product nobody lives to see."""
    numbers = ",".join(["9" * 4000] * rng.choice((1, 2, 1500)))
    return json.dumps(conv()).replace("3, 3", numbers)


def _megabytes(rng: Random) -> str:
    part = rng.choice(("[],", "{},", '["0",{}],', "1,"))
    return '{"type": "Sequential", "children": [' + part * (rng.choice((8_000_000, 30_000_000)) // len(part)) + "[]]}"


def _odd(rng: Random) -> Any:
    value = rng.choice((None, -1, 0, 1.5, "4", [], {}, True, float("nan"), float("inf"), [1, 2, 3], "os.system", 1e308))
    name = rng.choice(
        ("in_channels", "kernel_size", "dtype", "rng", "groups", "stride", "padding_mode", "bias", "self")
    )
    return rng.choice(
        (
            conv(**{name: value}), {"type": value if isinstance(value, str) else "Module", "arguments": {}},
            {"type": "Sequential", "children": value}, {"type": "Sequential", "children": [[value, conv()]]},
            {"type": "Conv2d", "arguments": value}, {"type": "__import__", "arguments": {"name": "os"}}, value,
            {"type": "Scale", "arguments": {"factor": value}}, {"type": "Dropout", "arguments": {"p": value}},
        )
    )  # fmt: skip


ARCHITECTURES: dict[str, Callable[[Random], Any]] = {
    "huge": _huge,
    "deep": _deep,
    "wide": _wide,
    "odd": _odd,
    "kernels": _kernels,
    "megabytes": _megabytes,
    "brackets": lambda rng: "[" * rng.choice((10, 100_000)),
    "digits": lambda rng: json.dumps(conv()).replace("4", "9" * rng.choice((30, 5000, 100_000))),
    "no JSON": lambda rng: rng.choice(("", "nul", "{'type': 1}", "NaN", '{"type": "Conv2d"', "\\x00")),
}
