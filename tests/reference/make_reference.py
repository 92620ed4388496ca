"""Makes torch_reference.npz: what PyTorch gives, in float64, for the cases that are marked `stored`.

    python tests/reference/make_reference.py

needs PyTorch and npconv, and overwrites the file. Tests compare with it where PyTorch is not installed; where it is,
they also check that the file still is what PyTorch gives. The inputs are not in it: `comparison.uniform` draws them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from comparison import Results
from layer_cases import LAYER_CASES
from training_cases import LOSS_CASES, OPTIMIZER_CASES, SCHEDULE_CASES, TRAINING_CASES

PATH = Path(__file__).with_name("torch_reference.npz")
ALL_CASES = [*LAYER_CASES, *LOSS_CASES, *OPTIMIZER_CASES, *SCHEDULE_CASES, *TRAINING_CASES]
STORED_CASES = [case for case in ALL_CASES if case.stored]
SEPARATOR = " | "  # between the name of a case and that of one of its arrays


def load(case: Any) -> Results:
    """The stored arrays of one case."""
    with np.load(PATH) as file:
        prefix = case.name + SEPARATOR
        return {key[len(prefix) :]: file[key] for key in file.files if key.startswith(prefix)}


def torch_version() -> str:
    with np.load(PATH) as file:
        return str(file["torch version"])


def main() -> None:
    import torch

    arrays: dict[str, Any] = {"torch version": np.array(torch.__version__)}
    for case in STORED_CASES:
        results = case.theirs(torch, "float64")
        arrays.update({case.name + SEPARATOR + key: value for key, value in results.items()})
    np.savez_compressed(PATH, **arrays)
    print(f"{PATH.name}: {len(arrays)} arrays of {len(STORED_CASES)} cases, {PATH.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
