"""What is measured: every line of the table of aims, with its bar and its goal.

A ratio is PyTorch's best layout / npconv: times as fast, or times as little memory.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import architectures as nets
from architectures import Network, conv, layer

# On max |difference| / max |value|, before anything is timed.
NETWORK_BOUND, LAYER_BOUND = 1e-4, 5e-5
# Where a max-pooling or a LeakyReLU of a few pixels is tipped over by the last bit, a gradient moves by more than by
# rounding: of PyTorch's two layouts one is 6e-4 from float64 in the U-Net's deepest level, the other 1e-5.
UNET_GRADIENT_BOUND = 5e-3

# What is timed of a network, and whether it is compared as a network or as a layer.
KINDS = ("forward", "forward_backward", "loss_forward", "loss", "objective", "step", "predict")


@dataclasses.dataclass(frozen=True)
class Item:
    """Something to measure: `name` is group/name."""

    name: str
    title: str

    @property
    def group(self) -> str:
        return self.name.split("/")[0]


@dataclasses.dataclass(frozen=True)
class Case(Item):
    """A computation that every contender can do.

    kind: "forward" or "forward_backward" of a layer called by hand; "loss_forward" or "loss" (with its gradient) of
        the MSE alone; "objective" (forward, MSE, backward); "step" (a whole training step); "predict" (0..255).
    shape: of the input, (N, C, H, W). bar, goal: the ratios to reach, None where there is none.
    bound, gradient_bound: how far contenders may be apart in what comes out, and in gradients (None: the same).
    """

    kind: str = "step"
    network: Network = dataclasses.field(default_factory=list)
    shape: tuple[int, ...] = ()
    bar: float | None = None
    goal: float | None = None
    bound: float = NETWORK_BOUND
    gradient_bound: float | None = None

    def spec(self) -> dict[str, Any]:
        """What a worker needs to build it."""
        return {"kind": self.kind, "network": self.network, "shape": self.shape}


def step(
    name: str, title: str, network: Network, shape: tuple[int, ...], bar: float | None = None, goal: float | None = None
) -> Case:
    """A whole training step."""
    return Case(name, title, "step", network, shape, bar, goal)


def strided_step(channels: int, batch: int, bar: float, goal: float, upsampling: str = "nearest") -> Case:
    """A training step of the reports' network on 32x32 images."""
    kind = {"nearest": "nearest upsampling", "k4": "transposed k=4 s=2 p=1", "k2": "transposed k=2 s=2"}[upsampling]
    name = f"step/{upsampling if upsampling == 'nearest' else 'transposed-' + upsampling}-{channels}ch-b{batch}"
    title = f"training step, {kind}, {channels} channels, batch {batch}"
    return step(name, title, nets.strided(channels, upsampling), (batch, 3, 32, 32), bar, goal)


def single(
    name: str,
    title: str,
    part: nets.Layer,
    shape: tuple[int, ...],
    kind: str = "forward_backward",
    bar: float | None = None,
    goal: float | None = None,
) -> Case:
    """A layer called by hand."""
    words = "forward" if kind == "forward" else "forward + backward"
    size = "x".join(map(str, shape))
    return Case(name, f"{title}, ({size}), {words}", kind, [part], shape, bar, goal, LAYER_BOUND)


def _steps() -> list[Case]:
    nearest = [(16, 32, 2.0, 3.0), (32, 32, 2.0, 3.0), (64, 32, 2.0, 3.0), (48, 100, 2.0, 3.0), (32, 4, 1.2, 2.0)]
    transposed = [(32, 32, "k4"), (48, 100, "k4"), (32, 32, "k2")]
    return [strided_step(*row) for row in nearest] + [
        strided_step(channels, batch, 1.3, 2.0, kind) for channels, batch, kind in transposed
    ]


def _plain_convs() -> list[Case]:
    """3x3, stride 1: channels, (N, H, W), the bars and goals of forward and of forward + backward."""
    both, none = (1.4, 2.0), (None, None)
    rows: list[tuple[int, tuple[int, int, int], Any, Any]] = [
        (64, (16, 32, 32), both, both),
        (64, (4, 128, 128), both, both),
        (128, (16, 16, 16), both, both),
        (256, (4, 16, 16), (1.3, 2.0), (1.1, 1.7)),
        (32, (32, 32, 32), none, (0.9, 1.2)),
        (16, (32, 32, 32), none, (0.7, 1.0)),
    ]
    cases = []
    for channels, (n, height, width), forward, backward in rows:
        for kind, (bar, goal) in (("forward", forward), ("forward_backward", backward)):
            name = f"conv/{channels}ch-{n}x{height}x{width}-{kind.replace('_', '-')}"
            title = f"3x3 convolution, {channels} to {channels}"
            shape = (n, channels, height, width)
            cases.append(single(name, title, conv(channels, channels), shape, kind, bar, goal))
    return cases


def _other_convs() -> list[Case]:
    rows = [
        ("1x1", "1x1 convolution, 64 to 64", conv(64, 64, 1)),
        ("5x5", "5x5 convolution, 32 to 32", conv(32, 32, 5)),
        ("7x7", "7x7 convolution, 32 to 32", conv(32, 32, 7)),
        ("stride-2", "3x3 convolution, stride 2, 64 to 64", conv(64, 64, stride=2)),
        ("dilation-2", "3x3 convolution, dilation 2, 64 to 64", conv(64, 64, dilation=2, padding=2)),
        ("groups-4", "3x3 convolution, 4 groups, 64 to 64", conv(64, 64, groups=4)),
        ("depthwise", "3x3 convolution, 64 groups, 64 to 64", conv(64, 64, groups=64)),
        ("3-to-64", "3x3 convolution, 3 to 64", conv(3, 64)),
        ("64-to-3", "3x3 convolution, 64 to 3", conv(64, 3)),
    ]
    return [
        single(f"other/{name}", title, part, (16, part[1][0], 32, 32), bar=0.5, goal=1.0) for name, title, part in rows
    ]


def _networks() -> list[Case]:
    title, image = "DnCNN, 17 layers, 64 channels, predict one image of 321x481", (1, 3, 321, 481)
    unet = step("network/unet", "U-Net training step, 256x256, batch 4", nets.unet(), (4, 3, 256, 256), 1.2, 1.8)
    return [
        Case("network/dncnn", title, "predict", nets.dncnn(), image, 1.4, 2.0),
        dataclasses.replace(unet, gradient_bound=UNET_GRADIENT_BOUND),
    ]


def _layers() -> list[Case]:
    """About a million elements each, on the larger side."""
    shape = (16, 64, 32, 32)
    rows = [
        ("relu", layer("ReLU"), shape),
        ("leaky-relu", layer("LeakyReLU", 0.1), shape),
        ("sigmoid", layer("Sigmoid"), shape),
        ("max-pool", layer("MaxPool2d", 2), shape),
        ("avg-pool", layer("AvgPool2d", 2), shape),
        ("batch-norm", layer("BatchNorm2d", 64), shape),
        ("nearest", nets.ENLARGE, (16, 64, 16, 16)),
    ]
    parts = [single(f"layer/{name}", part[0], part, size, bar=0.7, goal=1.2) for name, part, size in rows]
    return [*parts, single("layer/mse", "MSE", layer("Identity"), shape, "loss", 0.7, 1.2)]


def _memory() -> list[Case]:
    rows = [
        ("step-32ch-b32", nets.strided(32), (32, 3, 32, 32)),
        ("step-48ch-b100", nets.strided(48), (100, 3, 32, 32)),
        ("unet", nets.unet(), (4, 3, 256, 256)),
    ]
    return [
        step(f"memory/{name}", f"extra memory of a training step, {name}", net, shape, 1.0, 2.0)
        for name, net, shape in rows
    ]


def _threads() -> list[Case]:
    return [
        step(f"threads/b{batch}", f"npconv's training step, all threads against one, 32 channels, batch {batch}",
             nets.strided(32), (batch, 3, 32, 32), 1.7, None)
        for batch in (32, 100)
    ]  # fmt: skip


TIMED = [*_steps(), *_plain_convs(), *_other_convs(), *_networks(), *_layers()]
THREADS = _threads()
MEMORY = _memory()
PEERS = [single("peers/conv-16ch", "3x3 convolution, 16 to 16", conv(16, 16), (8, 16, 64, 64))]
IMPORT = Item("import/npconv", "import npconv in a fresh process, median")
IMPORT_BAR, IMPORT_GOAL = 0.25, 0.15  # seconds
REPORTS = [
    Item("reports/c", "report C, tables I to IV: upsampling and Conv2d"),
    Item("reports/e-times", "report E, table III: forward times"),
    Item("reports/e-differences", "report E, tables I and II: differences from PyTorch"),
]
SLOW = ("memory/unet",)
GROWTH = [
    Item(f"growth/{what}-{along}", f"growth of a {title} with {along}")
    for what, title in (("conv", "3x3 convolution, forward + backward"), ("step", "training step"))
    for along in ("batch", "pixels", "channels")
]
LONG = [
    Item("long/b-sweep", "report B, table I: learning rates"),
    Item("long/d-curve", "report D, figures 2 and 3: 50 epochs"),
]


def everything() -> list[Item]:
    """All that can be measured, in the order in which it is."""
    return [*TIMED, *THREADS, *PEERS, IMPORT, *MEMORY, *REPORTS, *GROWTH, *LONG]


def chosen(only: list[str], with_long: bool, quick: bool = False) -> list[Item]:
    """The items whose group or beginning of the name is in `only`; without it, all but the long ones.

    `quick`: without `only`, what takes tens of seconds whatever one does is left out, too.

    Raises ValueError, with the names there are, for a name that fits nothing.
    """
    items = everything()
    for name in only:
        if not any(_fits(item, name) for item in items):
            groups = ", ".join(dict.fromkeys(item.group for item in items))
            names = "\n  ".join(item.name for item in items)
            raise ValueError(f"--only (={name!r}) must be a group ({groups}), or a name or its beginning:\n  {names}")
    if not only:
        left_out = ([] if with_long else LONG) + ([item for item in items if item.name in SLOW] if quick else [])
        return [item for item in items if item not in left_out]
    return [item for item in items if any(_fits(item, name) for name in only)]


def _fits(item: Item, name: str) -> bool:
    return bool(name) and item.name.startswith(name)
