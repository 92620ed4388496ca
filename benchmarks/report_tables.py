"""Tables I and II of report E: the difference of each module from PyTorch, forward and backward, ours beside theirs.

    python benchmarks/report_tables.py [--draws 100]

needs PyTorch. A difference is the mean over a tensor of |ours - PyTorch's|, and then the mean over the draws. Inputs
are (100, 3, 10, 10), float32 and standard normal, as are the targets; the backward figures are gradients of an MSE,
the mean over all elements, which is why they are small. The report does not say how many channels its convolutions
had: here 3 to 16, and 3 to 3 beside it.

Two more columns say what a figure is worth: how far PyTorch and npconv are from the same computed in float64. Where the
report has 0.00, it called PyTorch's own operation; PyTorch's rounding error is then the least difference that another
implementation can have.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import npconv as nc

SHAPE = (100, 3, 10, 10)
HALF_DIGIT = 0.005  # a printed 0.00 is less than this, times the unit of its column
QUANTITIES = {"Z": 1e-7, "dX": 1.0, "dW": 1e-8, "db": 1e-8}  # the report's columns and their units

# (row, quantity) -> the report's figure in units of 1.
REPORT = {
    ("ReLU", "Z"): HALF_DIGIT * 1e-7,
    ("Sigmoid", "Z"): HALF_DIGIT * 1e-7,
    ("MSE", "Z"): HALF_DIGIT * 1e-7,
    ("Conv2d", "Z"): 3.77e-7,
    ("Upsampling", "Z"): HALF_DIGIT * 1e-7,
    ("Sigmoid", "dX"): 1e-7,  # the report has 0.25, a bug; this is what we ask of ourselves
    ("MSE", "dX"): HALF_DIGIT,
    ("Conv2d", "dX"): 7.29e-10,
    ("Upsampling", "dX"): 6.15e-12,
    ("Conv2d", "dW"): 8.62e-8,
    ("Upsampling", "dW"): 18.95e-8,
    ("Conv2d", "db"): 1.25e-8,
    ("Upsampling", "db"): HALF_DIGIT * 1e-8,
}


class Figure(NamedTuple):
    """Mean absolute differences: ours from PyTorch, ours from float64, PyTorch's float32 from float64."""

    difference: float
    our_error: float
    torch_error: float


@dataclass(frozen=True)
class Row:
    """One line of the tables: `report` is the report's name for it, and the makers give ours and PyTorch's module."""

    name: str
    report: str
    ours: Callable[[], nc.Module]
    theirs: Callable[[Any], Any]  # from the module torch.nn


def _enlarged_conv(channels: int) -> Row:
    options = {"padding": 1, "transposeconvargs": False, "scale_factor": 2}
    return Row(
        f"Upsampling + Conv2d(3, {channels}, 3)",
        "Upsampling",
        lambda: nc.Upsampling(3, channels, 3, **options),
        lambda nn: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, channels, 3, padding=1)),
    )


def _conv(channels: int) -> Row:
    name = f"Conv2d(3, {channels}, 3)"
    return Row(name, "Conv2d", lambda: nc.Conv2d(3, channels, 3), lambda nn: nn.Conv2d(3, channels, 3))


ROWS = [
    Row("ReLU", "ReLU", nc.ReLU, lambda nn: nn.ReLU()),
    Row("Sigmoid", "Sigmoid", nc.Sigmoid, lambda nn: nn.Sigmoid()),
    Row("MSE", "MSE", nc.Identity, lambda nn: nn.Identity()),
    _conv(16),
    _conv(3),
    Row(
        "Upsampling, nearest",
        "Upsampling",
        lambda: nc.UpsamplingNearest2d(scale_factor=2),
        lambda nn: nn.Upsample(scale_factor=2),
    ),
    _enlarged_conv(16),
    _enlarged_conv(3),
]


def figures(torch: Any, row: Row, draws: int, seed: int = 0) -> dict[str, Figure]:
    """The figures of one row, by quantity: "Z", "dX" and, with parameters, "dW" and "db"."""
    rng = np.random.default_rng(seed)
    nc.manual_seed(seed)
    seen = [_one_draw(torch, row, rng) for _ in range(draws)]
    return {key: Figure(*np.mean([draw[key] for draw in seen], axis=0)) for key in seen[0]}


def _one_draw(torch: Any, row: Row, rng: np.random.Generator) -> dict[str, Figure]:
    module = row.ours()
    x = rng.standard_normal(SHAPE, dtype="float32")
    target = rng.standard_normal(module(x).shape, dtype="float32")
    state = [parameter.data.copy() for parameter in module.parameters()]
    ours = _run_ours(row, module, x, target)
    theirs = _run_torch(torch, row, state, x, target, "float32")
    exact = _run_torch(torch, row, state, x, target, "float64")
    return {
        key: Figure(_mean(ours[key], theirs[key]), _mean(ours[key], exact[key]), _mean(theirs[key], exact[key]))
        for key in exact
    }


def _mean(a: np.ndarray, b: np.ndarray) -> float:
    return float(abs(np.asarray(a, "float64") - np.asarray(b, "float64")).mean())


def _run_ours(row: Row, module: nc.Module, x: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    loss = nc.MSE()
    y = module(x)
    value = loss(y, target)
    results = {"Z": np.asarray(value) if row.report == "MSE" else y, "dX": module.backward(loss.backward())}
    results.update(zip(("dW", "db"), (grad for _, grad in module.param()), strict=False))
    return results


def _run_torch(
    torch: Any, row: Row, state: list[np.ndarray], x: np.ndarray, target: np.ndarray, dtype: str
) -> dict[str, np.ndarray]:
    module = row.theirs(torch.nn).to(getattr(torch, dtype))
    with torch.no_grad():
        for parameter, values in zip(module.parameters(), state, strict=True):
            parameter.copy_(torch.from_numpy(values))
    inputs = torch.from_numpy(x.astype(dtype)).requires_grad_()
    y = module(inputs)
    loss = torch.nn.functional.mse_loss(y, torch.from_numpy(target.astype(dtype)))
    loss.backward()
    output = loss if row.report == "MSE" else y
    results = {"Z": output.detach().numpy(), "dX": inputs.grad.numpy()}
    results.update(zip(("dW", "db"), (p.grad.numpy() for p in module.parameters()), strict=False))
    return results


def _print_row(row: Row, found: dict[str, Figure]) -> None:
    for quantity, figure in found.items():
        cell = REPORT.get((row.report, quantity))
        if cell is None:
            continue
        unit = QUANTITIES[quantity]
        if (row.report, quantity) == ("Sigmoid", "dX"):
            report = "0.25"
        else:
            report = "0.00" if cell in (HALF_DIGIT, HALF_DIGIT * unit) else f"{cell / unit:.3g}"
        scale = "" if unit == 1 else f" x {unit:g}"
        verdict = "" if figure.difference <= cell else "  above the report's"
        print(
            f"{row.name:32} {quantity + scale:12} {report:>9} {figure.difference / unit:10.3g} "
            f"{figure.torch_error / unit:12.3g} {figure.our_error / unit:12.3g}{verdict}"
        )


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=100, help="random inputs to average over (default: 100)")
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, {nc.backend().describe()}, {draws} draws")
    print(f"{'module':32} {'quantity':12} {'report':>9} {'ours':>10} {'PyTorch - 64':>12} {'ours - 64':>12}")
    for row in ROWS:
        _print_row(row, figures(torch, row, draws))


if __name__ == "__main__":
    main()
