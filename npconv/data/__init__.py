"""Photographs, noise, and the training pairs that they make.

    photos (a folder, an array, an HDF5 file, dead leaves)  +  noise  ->  PatchPairs  ->  batches
    arrays or HDF5 files of pairs                           ->  ArrayPairs, HDF5Pairs  ->  batches

All of it is NumPy arrays on the host, (C, H, W) or (N, C, H, W), values 0..255; the model moves batches to
its backend.
"""

from .dead_leaves import dead_leaves
from .hdf5 import HDF5Pairs, HDF5Photos, write_images, write_pairs
from .images import read_image, write_image
from .noise import Gaussian, Noise, PixelSampling, Poisson, parse_noise
from .opening import open_data, open_photos
from .pairs import ArrayPairs, Pairs, PatchPairs
from .photos import ArrayPhotos, FolderPhotos, Photos

__all__ = [
    "ArrayPairs",
    "ArrayPhotos",
    "FolderPhotos",
    "Gaussian",
    "HDF5Pairs",
    "HDF5Photos",
    "Noise",
    "Pairs",
    "PatchPairs",
    "Photos",
    "PixelSampling",
    "Poisson",
    "dead_leaves",
    "open_data",
    "open_photos",
    "parse_noise",
    "read_image",
    "write_image",
    "write_images",
    "write_pairs",
]
