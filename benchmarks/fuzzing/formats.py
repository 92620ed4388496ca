"""All formats that are fuzzed."""

from __future__ import annotations

from . import archive_inputs, hdf5_inputs, png_inputs, tiff_inputs, torch_inputs
from .cases import Format


def formats() -> list[Format]:
    """Each with its valid files, made now."""
    return [
        hdf5_inputs.weights(),
        torch_inputs.zip_format(),
        torch_inputs.legacy_format(),
        archive_inputs.safetensors_format(),
        archive_inputs.npz_format(),
        hdf5_inputs.images(),
        png_inputs.png_format(),
        tiff_inputs.tiff_format(),
        archive_inputs.npy_format(),
    ]
