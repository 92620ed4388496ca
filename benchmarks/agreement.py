"""How closely every layer agrees with PyTorch, over the cases and the convolution algorithms of the tests.

    python benchmarks/agreement.py

needs PyTorch, and the tests beside it. A figure is the largest of max |ours - PyTorch's| / max |PyTorch's| over all
cases of a layer; backward is the worst of the gradients of input, weight and bias.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import npconv as nc
from npconv.backends.cpu.choice import ALGORITHMS

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "reference"))

DTYPES = ("float64", "float32")


def main() -> None:
    import torch
    from comparison import relative_difference
    from layer_cases import LAYER_CASES

    torch.set_num_threads(1)
    worst: dict[tuple[str, str, str], float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for case in LAYER_CASES:
        counts[case.layer] += 1
        for dtype in DTYPES:
            theirs = case.theirs(torch, dtype)
            for algorithm in ALGORITHMS:
                nc.backend().algorithm = algorithm
                for name, array in case.ours(dtype).items():
                    key = (case.layer, dtype, "forward" if name == "output" else "backward")
                    worst[key] = max(worst[key], relative_difference(array, theirs[name]))
    print(f"{'layer':20s} cases  " + "  ".join(f"{d} {way:8s}" for d in DTYPES for way in ("forward", "backward")))
    for layer, count in counts.items():
        found = [worst[layer, dtype, way] for dtype in DTYPES for way in ("forward", "backward")]
        print(f"{layer:20s} {count:5d}  " + "  ".join(f"{value:16.1e}" for value in found))


if __name__ == "__main__":
    main()
