"""Makes the small weights files in tests/reference/weights, with PyTorch and its safetensors.

    python tests/reference/make_weights.py

Each holds an asymmetric convolution, an input and what PyTorch makes of it, and tensors that are stored in other ways
than plainly. Tests read them where PyTorch is not installed; their values are `VALUES`, so nothing else is stored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).with_name("weights")
ZIP, LEGACY, SAFETENSORS = FOLDER / "zip.pth", FOLDER / "legacy.pth", FOLDER / "tiny.safetensors"
CONV = {"in_channels": 2, "out_channels": 2, "kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 0)}


def ramp(*shape: int) -> np.ndarray:
    """Different eighths, that every dtype here holds exactly."""
    return ((np.arange(np.prod(shape)) * 7 % 61 - 20) / 8).reshape(shape).astype("float32")


VALUES: dict[str, np.ndarray] = {
    "conv.weight": ramp(2, 2, 2, 3),
    "conv.bias": ramp(2),
    "images": ramp(1, 2, 3, 5),
    "transposed": ramp(3, 2).T,
    "slice": ramp(6)[2:5],
    "half": ramp(3).astype("float16"),
    "brain": ramp(4),
    "double": ramp(2).astype("float64"),
    "count": np.array(5),
    "flags": np.array([True, False, True]),
    "empty": np.zeros((0, 3), "float32"),
    "expanded": np.repeat(ramp(1, 3), 2, axis=0),
}


def tensors(torch: Any) -> dict[str, Any]:
    """VALUES as PyTorch's tensors, with views, bfloat16 and a Parameter, and the convolution's output."""
    made = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in VALUES.items()}
    made["count"] = torch.tensor(5)
    made["conv.weight"] = torch.nn.Parameter(made["conv.weight"])
    made["transposed"] = torch.from_numpy(ramp(3, 2)).t()
    made["slice"] = torch.from_numpy(ramp(6))[2:5]
    made["brain"] = made["brain"].bfloat16()
    made["expanded"] = torch.from_numpy(ramp(1, 3)).expand(2, 3)
    conv = torch.nn.Conv2d(**CONV)
    conv.load_state_dict({"weight": made["conv.weight"], "bias": made["conv.bias"]})
    made["output"] = conv(made["images"]).detach()
    return made


def main() -> None:
    import torch
    from safetensors.torch import save_file

    FOLDER.mkdir(exist_ok=True)
    state = tensors(torch)
    torch.save(state, ZIP)
    torch.save(state, LEGACY, _use_new_zipfile_serialization=False)
    save_file({name: value.detach().contiguous() for name, value in state.items()}, SAFETENSORS)
    print(*(f"{path.name}: {path.stat().st_size} bytes" for path in (ZIP, LEGACY, SAFETENSORS)), sep="\n")


if __name__ == "__main__":
    main()
