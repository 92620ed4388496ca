"""npconv: convolutional networks trained and run with NumPy alone, and on a GPU through CuPy.

    import npconv
    network = npconv.Sequential(npconv.Conv2d(3, 16, 3, padding="same"), npconv.ReLU())

NPCONV_BACKEND=cupy computes on the GPU; see `npconv.backends`.
"""

from __future__ import annotations

from . import data, init, losses, metrics, networks, optim
from ._version import __version__
from .backends import asarray, backend, backend_reason, to_numpy, use_backend
from .containers import Concat, Identity, Sequential, Sum
from .denoising import denoise, denoise_file
from .drawing import draw
from .errors import FileFormatError
from .folding import fold_batchnorm
from .functional import col2im, im2col
from .interchange import export_onnx, load_state, read_state, write_state
from .layer import Layer
from .layers import (
    Activation,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Flatten,
    LeakyReLU,
    Linear,
    MaxPool2d,
    PixelShuffle,
    PixelUnshuffle,
    ReLU,
    Scale,
    SelectChannels,
    Sigmoid,
    Tanh,
    Upsampling,
    UpsamplingNearest2d,
)
from .losses import L1, MSE, Loss, MaskedMSE
from .model import Epoch, Model
from .module import BackwardError, Module, Parameter, is_grad_enabled, no_grad
from .optim import SGD, Adam, Optimizer
from .prediction import predict_into
from .random import manual_seed
from .schedules import (
    CosineAnnealingLR,
    ExponentialLR,
    MultiStepLR,
    OneCycleLR,
    RampDownLR,
    Schedule,
    StepLR,
    TrapezoidLR,
)
from .summary import summary
from .testing import check_gradients, check_module
from .training import TrainingCollapsed
from .weights import WeightsFileError, load, load_into, save

# The reports' names, and PyTorch's longer ones.
TransposeConv2d = ConvTranspose2d
NearestUpsampling = UpsamplingNearest2d
MSELoss = MSE
L1Loss = L1

__all__ = [
    "L1",
    "MSE",
    "SGD",
    "Activation",
    "Adam",
    "AvgPool2d",
    "BackwardError",
    "BatchNorm2d",
    "Concat",
    "Conv2d",
    "ConvTranspose2d",
    "CosineAnnealingLR",
    "Dropout",
    "Epoch",
    "ExponentialLR",
    "FileFormatError",
    "Flatten",
    "Identity",
    "L1Loss",
    "Layer",
    "LeakyReLU",
    "Linear",
    "Loss",
    "MSELoss",
    "MaskedMSE",
    "MaxPool2d",
    "Model",
    "Module",
    "MultiStepLR",
    "NearestUpsampling",
    "OneCycleLR",
    "Optimizer",
    "Parameter",
    "PixelShuffle",
    "PixelUnshuffle",
    "RampDownLR",
    "ReLU",
    "Scale",
    "Schedule",
    "SelectChannels",
    "Sequential",
    "Sigmoid",
    "StepLR",
    "Sum",
    "Tanh",
    "TrainingCollapsed",
    "TransposeConv2d",
    "TrapezoidLR",
    "Upsampling",
    "UpsamplingNearest2d",
    "WeightsFileError",
    "__version__",
    "asarray",
    "backend",
    "backend_reason",
    "check_gradients",
    "check_module",
    "col2im",
    "data",
    "denoise",
    "denoise_file",
    "draw",
    "fold_batchnorm",
    "export_onnx",
    "im2col",
    "init",
    "is_grad_enabled",
    "load",
    "load_into",
    "load_state",
    "losses",
    "manual_seed",
    "metrics",
    "networks",
    "no_grad",
    "optim",
    "predict_into",
    "read_state",
    "save",
    "summary",
    "to_numpy",
    "use_backend",
    "write_state",
]
