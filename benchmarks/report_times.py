"""The reports' tables of times, C's I to IV and E's III, beside today's figures.

Theirs are from other machines and are printed for scale: C's from a 2 GB Intel GPU, E's from a CPU without a name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import architectures as nets
from cases import LAYER_BOUND, Case
from contenders import LAYOUTS
from crew import Crew
from timing import Measurement, Plan, measure

Told = Callable[[Measurement], None]

C_NOTE = (
    "Report C gives neither image nor kernel size. Taken here: 32x32 inputs, C to C channels, 3x3 kernels, padding 1;\n"
    "upsampling is nearest x2 and then that convolution. As there, forward + backward has the loss (MSE) in it."
)
# (layer, what is timed) -> ms of (matmul, loop) for (10 samples, C=8), (10, 16), (100, 16).
C_COLUMNS = ((10, 8), (10, 16), (100, 16))
C_TABLES: dict[tuple[str, str], tuple[tuple[float, float], ...]] = {
    ("upsampling", "forward"): ((5.72, 45.94), (22.85, 213.29), (238.99, 4956.49)),
    ("upsampling", "objective"): ((10.45, 287.19), (42.99, 1143.90), (427.89, 19028.43)),
    ("Conv2d", "forward"): ((15.72, 50.11), (60.06, 280.2), (613.49, 14478.34)),
    ("Conv2d", "objective"): ((22.53, 332.87), (93.12, 2252.92), (1148.99, 39813.14)),
}
WORDS = {"forward": "forward", "objective": "forward + backward"}

E_NOTE = (
    "Inputs are (100, 3, 10, 10), as there. It does not give the convolution; taken here: 3 to 16 channels, 3x3, and\n"
    "upsampling is nearest x2 and then that, padding 1."
)
# layer -> the report's microseconds (theirs, their PyTorch's)
E_TABLE: dict[str, tuple[float, float]] = {
    "ReLU": (17.8, 4.5),
    "Sigmoid": (35.8, 3.2),
    "MSE": (25.8, 44.2),
    "Conv2d": (121.8, 48.4),
    "Upsampling": (353.9, 73.3),
}
E_SHAPE = (100, 3, 10, 10)


def c_case(layer: str, kind: str, samples: int, channels: int) -> Case:
    """A cell of report C's tables."""
    part = nets.layer("Upsampling", channels, channels) if layer == "upsampling" else nets.conv(channels, channels)
    name = f"reports/c {layer} {WORDS[kind]}, {samples} samples, C={channels}"
    return Case(name, name, kind, [part], (samples, channels, 32, 32), bound=LAYER_BOUND)


def e_case(layer: str) -> Case:
    """A line of report E's table III."""
    parts = {
        "MSE": nets.layer("Identity"),
        "Conv2d": nets.conv(3, 16, padding=0),
        "Upsampling": nets.layer("Upsampling", 3, 16),
    }
    kind = "loss_forward" if layer == "MSE" else "forward"
    name = f"reports/e-times {layer}"
    return Case(name, name, kind, [parts.get(layer, nets.layer(layer))], E_SHAPE, bound=LAYER_BOUND)


def report_c(crew: Crew, names: Sequence[str], plan: Plan, told: Told) -> dict[str, Any]:
    """Measures and prints tables I to IV; returns their figures."""
    print(f"\nReport C, tables I to IV, ms (median)\n{C_NOTE}")
    print(f"{'':44} {'loop':>10} {'matmul':>9} {'npconv':>8} {'PyTorch':>8}  matmul/npconv  PyTorch/npconv")
    figures = {}
    for (layer, kind), cells in C_TABLES.items():
        for (samples, channels), (matmul, loop) in zip(C_COLUMNS, cells, strict=True):
            case = c_case(layer, kind, samples, channels)
            found = measure(crew, names, case, plan)
            told(found)
            ours, torch = _scaled(found.median("npconv"), 1e3), _scaled(found.best(LAYOUTS), 1e3)
            label = case.name.removeprefix("reports/c ")
            print(
                f"{label:44} {loop:10.2f} {matmul:9.2f} {_number(ours):>8} {_number(torch):>8}"
                f"  {_ratio(matmul, ours):>13}  {_ratio(torch, ours):>14}",
                flush=True,
            )
            figures[label] = {"loop": loop, "matmul": matmul, "npconv": ours, "torch": torch}
    return figures


def report_e(crew: Crew, names: Sequence[str], plan: Plan, told: Told) -> dict[str, Any]:
    """Measures and prints table III; returns its figures."""
    print(f"\nReport E, table III, forward, microseconds (median)\n{E_NOTE}")
    print(f"{'':12} {'report':>8} {'its PyTorch':>12} {'npconv':>9} {'PyTorch':>9}  PyTorch/npconv: report's, ours")
    figures = {}
    for layer, (theirs, their_torch) in E_TABLE.items():
        found = measure(crew, names, e_case(layer), plan)
        told(found)
        ours, torch = _scaled(found.median("npconv"), 1e6), _scaled(found.best(LAYOUTS), 1e6)
        print(
            f"{layer:12} {theirs:8.1f} {their_torch:12.1f} {_number(ours):>9} {_number(torch):>9}"
            f"  {_ratio(their_torch, theirs):>22}, {_ratio(torch, ours)}",
            flush=True,
        )
        figures[layer] = {"report": theirs, "report's PyTorch": their_torch, "npconv": ours, "torch": torch}
    return figures


def _scaled(seconds: float | None, factor: float) -> float | None:
    return None if seconds is None else seconds * factor


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _ratio(theirs: float | None, ours: float | None) -> str:
    return "-" if theirs is None or not ours else f"{theirs / ours:.2f}"
