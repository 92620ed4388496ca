"""What is measured on a GPU: every line of the aims there, each with TF32 off and on.

A ratio is PyTorch's better layout / npconv, once against eager PyTorch and once against its CUDA graphs.
"""

from __future__ import annotations

import dataclasses

import architectures as nets
import cases
from architectures import conv
from cases import Case
from contenders import EAGER, GRAPHS

Aims = dict[str, tuple[float | None, float | None]]  # opponent -> bar, goal

OPPONENTS = {"eager": EAGER, "graphs": GRAPHS}
STEP_AIMS: Aims = {"eager": (1.5, 3.0), "graphs": (0.8, 1.2)}
NO_AIMS: Aims = {"eager": (None, None), "graphs": (None, None)}
CURVE_BOUND = 1e-3  # on the relative difference of the losses of two trainings, on the CPU and on the GPU

# cuDNN chooses among algorithms, some of which round more than a plain sum (Winograd); TF32 keeps 10 bits of each
# factor, and what falls to the other side of a ReLU or a max-pooling moves a gradient by more than by rounding.
BOUNDS = {False: {"step": (5e-4, 5e-3), "layer": (2e-4, 2e-4)}, True: {"step": (2e-2, 1e-1), "layer": (5e-3, 5e-3)}}


@dataclasses.dataclass(frozen=True)
class GpuCase(Case):
    """A case with the ratios to reach against each opponent."""

    aims: Aims = dataclasses.field(default_factory=lambda: NO_AIMS)
    tf32: bool = False

    def with_tf32(self, tf32: bool) -> GpuCase:
        """The same under this policy, with its bounds."""
        bound, gradient_bound = BOUNDS[tf32]["layer" if self.kind == "forward_backward" else "step"]
        return dataclasses.replace(self, tf32=tf32, bound=bound, gradient_bound=gradient_bound)

    @property
    def contenders(self) -> list[str]:
        """npconv first; graphs are of training steps."""
        if self.kind.endswith("step"):
            return ["cupy", "cupy-eager", *EAGER, *GRAPHS]
        return ["cupy", *EAGER]


def _gpu(case: Case, aims: Aims = NO_AIMS, kind: str = "") -> GpuCase:
    return GpuCase(case.name, case.title, kind or case.kind, case.network, case.shape, aims=aims)


def _step(channels: int, batch: int, upsampling: str = "nearest") -> Case:
    return cases.strided_step(channels, batch, 0.0, 0.0, upsampling)


def _uploaded() -> GpuCase:
    case = _step(32, 32)
    name, title = f"{case.name}-upload", f"{case.title}, batches from NumPy"
    return dataclasses.replace(_gpu(case, kind="upload_step"), name=name, title=title)


def _conv(name: str, title: str, part: nets.Layer, shape: tuple[int, ...], aims: Aims = NO_AIMS) -> GpuCase:
    return _gpu(cases.single(name, title, part, shape), aims)


def _memory(name: str, network: nets.Network, shape: tuple[int, ...]) -> GpuCase:
    return _gpu(cases.step(f"memory/{name}", f"extra memory of a training step, {name}", network, shape))


UNET = nets.unet(), (4, 3, 256, 256)
TIMED = [
    *(_gpu(_step(32, batch), STEP_AIMS) for batch in (4, 32, 100)),
    _gpu(_step(32, 32, "k4"), STEP_AIMS),
    _uploaded(),
    _conv("conv/64ch-512x32x32", "3x3 convolution, 64 to 64", conv(64, 64), (512, 64, 32, 32), {"eager": (0.5, 0.9)}),
    *(
        _conv(f"other/{name}", title, part, (128, part[1][0], 32, 32), {"eager": (None, None)})
        for name, title, part in (
            ("3-to-64", "3x3 convolution, 3 to 64", conv(3, 64)),
            ("64-to-3", "3x3 convolution, 64 to 3", conv(64, 3)),
            ("1x1", "1x1 convolution, 64 to 64", conv(64, 64, 1)),
            ("depthwise", "3x3 convolution, 64 groups, 64 to 64", conv(64, 64, groups=64)),
        )
    ),
    _gpu(cases.step("network/unet", "U-Net training step, 256x256, batch 4", *UNET),
         {"eager": (0.8, 1.5), "graphs": (None, None)}),
    GpuCase("network/dncnn", "DnCNN, 17 layers, 64 channels, predict one image of 321x481", "predict", nets.dncnn(),
            (1, 3, 321, 481), aims={"eager": (None, None)}),
]  # fmt: skip
MEMORY = [
    _memory("step-32ch-b32", nets.strided(32), (32, 3, 32, 32)),
    _memory("step-32ch-b100", nets.strided(32), (100, 3, 32, 32)),
    _memory("unet", *UNET),
]
CURVE = GpuCase("curve/nearest-32ch-b32", "100 losses of a training, on the CPU and on the GPU", "curve",
                nets.strided(32), (32, 3, 32, 32))  # fmt: skip


def everything() -> list[GpuCase]:
    """All that can be measured, in the order in which it is."""
    return [*TIMED, *MEMORY, CURVE]


def chosen(only: list[str]) -> list[GpuCase]:
    """Those whose group or beginning of the name is in `only`; without it, all. ValueError for what fits nothing."""
    items = everything()
    for name in only:
        if not name or not any(item.name.startswith(name) for item in items):
            names = "\n  ".join(item.name for item in items)
            raise ValueError(f"--only (={name!r}) must be a name or its beginning:\n  {names}")
    return [item for item in items if not only or item.name.startswith(tuple(only))]
