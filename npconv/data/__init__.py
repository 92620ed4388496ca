"""Photographs, noise, and the training pairs that they make.

    photos (a folder, an array, an HDF5 file, dead leaves)  +  noise  ->  PatchPairs  ->  batches
    arrays or HDF5 files of pairs                           ->  ArrayPairs, HDF5Pairs  ->  batches

Memory is bounded whatever the size of a folder or a file: photographs are read when they are drawn from, and
remembered up to a number of bytes.

All of it is NumPy arrays on the host, (C, H, W) or (N, C, H, W), values 0..255; the model moves batches to
its backend.
"""

from .blind_spot import BlindSpot
from .dead_leaves import dead_leaves
from .folder import FolderPhotos
from .hdf5 import HDF5Pairs, HDF5Photos, write_images, write_pairs
from .images import read_image, write_image
from .noise import Gaussian, Noise, NoNoise, Poisson
from .noise_text import parse_noise
from .opening import open_data, open_photos
from .pairs import ArrayPairs, Pairs
from .patches import PatchPairs
from .photos import ArrayPhotos, Photos
from .pixel_sampling import PixelSampling

__all__ = [
    "ArrayPairs",
    "ArrayPhotos",
    "BlindSpot",
    "FolderPhotos",
    "Gaussian",
    "HDF5Pairs",
    "HDF5Photos",
    "NoNoise",
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
