"""Denoising networks, built from the public layers by Sequential, Concat and Sum.

All take and give images (N, image_channels, H, W), or one without N, with values in [0, 1]; `Model` scales from and to
0..255, and pads any height and width to what a network divides.

    make("unet", image_channels=1)  ->  the network of that name, as the command line makes it
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from . import checks, init
from .containers import Concat, Identity, Sequential, Sum
from .layers import (
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    LeakyReLU,
    MaxPool2d,
    PixelShuffle,
    PixelUnshuffle,
    ReLU,
    Scale,
    SelectChannels,
    Sigmoid,
    Upsampling,
    UpsamplingNearest2d,
)
from .module import Module

UPSAMPLINGS = ("nearest", "transposed")
SLOPE = 0.1  # of the LeakyReLUs of the Noise2Noise U-Net
BLOCK_GAIN = 0.4  # of what a residual block adds, at the beginning
OPTIONS = ("channels", "depth", "batch_norm", "residual", "batch_norm_eps")  # of `make`, each where a network takes it
Parts = dict[str, Module]  # modules in a row, by name


def make(name: str, image_channels: int = 3, **options: Any) -> Module:
    """The network `name` of `NETWORKS`, for images of so many channels.

    `options` are those of `OPTIONS` that this network takes; any other is a ValueError that names those, as is a name
    that is not in `NETWORKS`.
    """
    if not isinstance(name, str) or name not in NETWORKS:
        raise ValueError(f"network (={name!r}) must be one of {', '.join(NETWORKS)}")
    taken = options_of(name)
    for option in options:
        if option not in taken:
            rule = f"takes {', '.join(taken)}" if taken else "takes no options"
            raise ValueError(f"{option} (={options[option]!r}) is not an option of the network {name}, which {rule}")
    return NETWORKS[name](image_channels=image_channels, **options)


def options_of(name: str) -> tuple[str, ...]:
    """Which options `make` takes for the network `name` of `NETWORKS`."""
    parameters = inspect.signature(NETWORKS[name]).parameters
    return tuple(option for option in OPTIONS if option in parameters)


def strided(
    channels: int = 32, image_channels: int = 3, upsampling: str = "nearest", dtype: Any = "float32"
) -> Sequential:
    """The denoiser of the five reports: two strided convolutions, two upsamplings.

        Conv(stride 2), ReLU, Conv(stride 2), ReLU, Upsampling, ReLU, Upsampling, Sigmoid

    Input and output are (N, image_channels, H, W) with values in [0, 1]; H and W multiples of 4 come out as they
    went in (`Model.predict` takes any). All convolutions are 3x3. `upsampling`: "nearest", enlarging twice and then
    a 3x3 convolution, or "transposed", a transposed convolution of kernel 4, stride 2, padding 1.
    """
    checks.integer(channels, "channels", 1)
    checks.integer(image_channels, "image_channels", 1)
    if upsampling not in UPSAMPLINGS:
        raise ValueError(f"upsampling (={upsampling!r}) must be one of {', '.join(UPSAMPLINGS)}")

    def enlarge(out_channels: int) -> Module:
        if upsampling == "transposed":
            return ConvTranspose2d(channels, out_channels, 4, stride=2, padding=1, dtype=dtype)
        return Upsampling(channels, out_channels, 3, padding=1, transposeconvargs=False, scale_factor=2, dtype=dtype)

    return Sequential(
        Conv2d(image_channels, channels, 3, stride=2, padding=1, dtype=dtype),
        ReLU(),
        Conv2d(channels, channels, 3, stride=2, padding=1, dtype=dtype),
        ReLU(),
        enlarge(channels),
        ReLU(),
        enlarge(image_channels),
        Sigmoid(),
    )


def dncnn(
    depth: int = 17,
    channels: int = 64,
    image_channels: int = 1,
    batch_norm: bool = True,
    residual: bool = True,
    dtype: Any = "float32",
    batch_norm_eps: float = 1e-4,
) -> Module:
    """DnCNN: Zhang, Zuo, Chen, Meng and Zhang, "Beyond a Gaussian denoiser", IEEE TIP 26(7), 2017.

        Conv, ReLU, (depth - 2) x [Conv, BatchNorm, ReLU], Conv

    All convolutions are 3x3 with padding 1, `channels` wide inside. With `residual` they estimate the noise, and the
    output is the input less that: Sum(Identity, Sequential(..., Scale(-1))). Input and output are
    (N, image_channels, H, W), of any H and W.

    `depth` is 17 for one known noise level (DnCNN-S), 20 for a range of them (DnCNN-B). Parameters have the names and
    the order of the files of KAIR, the authors' PyTorch library ("model.0.weight", ...), in which the convolutions
    before a BatchNorm have a bias too and BatchNorms have eps 1e-4; the published ones have the BatchNorms merged in:
    `batch_norm=False`. Other PyTorch versions of DnCNN have no bias before a BatchNorm, nor in the last convolution
    (`load_state` sets it to zero with `missing_bias="zero"`), and some leave eps at PyTorch's 1e-5, which a file of
    weights does not say: `batch_norm_eps`.

    He initialisation from a normal distribution and fan_in, zero bias (the authors' own is orthogonal). Raises
    TypeError or ValueError for a `depth` under 2, `channels` or `image_channels` under 1, a `batch_norm_eps` under 0,
    and other types.
    """
    batch_norm, residual = checks.flag(batch_norm, "batch_norm"), checks.flag(residual, "residual")
    norm = partial(BatchNorm2d, eps=batch_norm_eps, dtype=dtype) if batch_norm else None
    body = _plain_convolutions(image_channels, image_channels, channels, depth, norm, dtype)
    if not residual:
        return Sequential({"model": Sequential(*body)})
    return Sum({"image": Identity(), "model": Sequential(*body, Scale(-1))})


def ffdnet(
    depth: int | None = None, channels: int | None = None, image_channels: int = 1, dtype: Any = "float32"
) -> Sequential:
    """FFDNet: Zhang, Zuo and Zhang, "Toward a fast and flexible solution", IEEE TIP 27(9), 2018.

        image: PixelUnshuffle(2) \\
                                  Concat, Conv, ReLU, (depth - 2) x [Conv, ReLU], Conv, PixelShuffle(2)
        noise: AvgPool2d(2)      /

    Input: (N, image_channels + 1, H, W), whose last channel is the noise level of each pixel, a standard deviation in
    the image's units (25 / 255 for sigma 25 of 8 bits). Output: the image, (N, image_channels, H, W). H and W are even
    (`Model.predict` takes any). A level that is the same everywhere comes through the AvgPool2d as it is, so that the
    network is then the authors', which takes one number.

    `depth` and `channels` are the published 15 and 64 for one image channel, 12 and 96 for more, where they are None.
    PixelUnshuffle's output channel c r^2 + i r + j is pixel (i, j) of channel c: the authors' own function and
    PyTorch's agree in that. Parameters have the names and the order of the authors' PyTorch files ("model.0.weight").

    He initialisation from a normal distribution and fan_in, zero bias (the authors' own is orthogonal). Raises
    TypeError or ValueError for a `depth` under 2, `channels` or `image_channels` under 1, and other types.
    """
    c = checks.integer(image_channels, "image_channels", 1)
    depth = (15 if c == 1 else 12) if depth is None else depth
    channels = (64 if c == 1 else 96) if channels is None else channels
    image = Sequential(SelectChannels(c + 1, 0, c), PixelUnshuffle(2))
    noise = Sequential(SelectChannels(c + 1, c, c + 1), AvgPool2d(2))
    body = Sequential(*_plain_convolutions(4 * c + 1, 4 * c, channels, depth, None, dtype))
    return Sequential({"down": Concat({"image": image, "noise": noise}), "model": body, "up": PixelShuffle(2)})


def noise2noise_unet(image_channels: int = 3, dtype: Any = "float32") -> Sequential:
    """The U-Net of Noise2Noise: Lehtinen et al., "Learning image restoration without clean data", ICML 2018, table 2.

    3x3 convolutions with padding 1, each but the last with a LeakyReLU of slope 0.1; five 2x2 max-poolings down, and
    up again five times nearest x2 beside what went into the pooling there (pool4 to pool1, then the input):

        enc0 C->48, enc1 48->48, pool1; enc2, pool2; enc3, pool3; enc4, pool4; enc5, pool5; enc6      (48->48)
        dec5a, dec5b 96->96; dec4a, dec3a, dec2a 144->96 and their b 96->96; dec1a 96+C->64; dec1b 64->32; out 32->C

    Input and output are (N, image_channels, H, W), H and W multiples of 32 (`Model.predict` takes any). He
    initialisation (normal, fan_in), zero bias. Raises TypeError or ValueError for `image_channels` under 1.
    """
    c = checks.integer(image_channels, "image_channels", 1)
    deep: Parts = {**_leaky("enc5", 48, 48, dtype), "pool5": MaxPool2d(2), **_leaky("enc6", 48, 48, dtype)}
    # From the inside out: `deep` is what stands between the output of pool{level}, which skips it, and dec{level + 1}a.
    for level, joined in ((4, 96), (3, 144), (2, 144), (1, 144)):
        deep = {
            **(_leaky("enc0", c, 48, dtype) if level == 1 else {}),
            **_leaky(f"enc{level}", 48, 48, dtype),
            f"pool{level}": MaxPool2d(2),
            f"join{level + 1}": _beside_input(deep),
            **_leaky(f"dec{level + 1}a", joined, 96, dtype),
            **_leaky(f"dec{level + 1}b", 96, 96, dtype),
        }
    last = {
        **_leaky("dec1a", 96 + c, 64, dtype),
        **_leaky("dec1b", 64, 32, dtype),
        "out": _conv(32, c, "linear", dtype),
    }
    return Sequential({"join1": _beside_input(deep), **last})


def unet(
    channels: int = 32, image_channels: int = 3, depth: int = 1, residual: bool = True, dtype: Any = "float32"
) -> Module:
    """A small residual U-Net: the best quality that ten minutes of training on two cores reach, of what was tried.

    As DRUNet (Zhang et al., "Plug-and-play image restoration with deep denoiser prior", IEEE TPAMI 44(10), 2022), with
    residual blocks, 2x2 convolutions of stride 2 down and up, and skip connections that add; but smaller, and on pixels
    gathered 2x2 into channels (as FFDNet does), so that a layer costs a quarter:

        PixelUnshuffle(2), head, enc0, down1, enc1, ..., up1, dec0, out, PixelShuffle(2)

    `depth` times it halves the image and doubles the `channels`. enc and dec are x + Conv(ReLU(Conv(x))), all 3x3 with
    padding 1. With `residual` the output is added to the input. Input and output are (N, image_channels, H, W), H and
    W multiples of 2^(depth + 1) (`Model.predict` takes any).

    He initialisation (normal, fan_in), zero bias; less for what is added at the end of a block, and a tenth for the
    last convolution: the network begins near what it is given. Raises TypeError or ValueError for a `depth` under 0,
    `channels` or `image_channels` under 1.
    """
    c = checks.integer(image_channels, "image_channels", 1)
    checks.integer(channels, "channels", 1)
    checks.integer(depth, "depth", 0)
    residual = checks.flag(residual, "residual")
    deep = _block(f"enc{depth}", channels * 2**depth, dtype)
    for level in range(depth - 1, -1, -1):  # from the inside out, as above
        width = channels * 2**level
        below = {
            f"down{level + 1}": _resampling(Conv2d, width, 2 * width, 4 * width, dtype),
            **deep,
            f"up{level + 1}": _resampling(ConvTranspose2d, 2 * width, width, 2 * width, dtype),
        }
        joined = Sum({"skip": Identity(), "deep": Sequential(below)})
        deep = {
            **_block(f"enc{level}", width, dtype), f"join{level}": joined, **_block(f"dec{level}", width, dtype),
        }  # fmt: skip
    body: Parts = {
        "unshuffle": PixelUnshuffle(2),
        "head": _conv(4 * c, channels, "linear", dtype),
        **deep,
        "out": _conv(channels, 4 * c, "linear", dtype, gain=0.1),
        "shuffle": PixelShuffle(2),
    }
    return Sum({"image": Identity(), "body": Sequential(body)}) if residual else Sequential({"body": Sequential(body)})


NETWORKS: dict[str, Callable[..., Module]] = {
    "unet": unet,
    "noise2noise-unet": noise2noise_unet,
    "dncnn": dncnn,
    "ffdnet": ffdnet,
    "strided": strided,
    "strided-transposed": partial(strided, upsampling="transposed"),
}


# ---- the parts that several share ----
def _conv(in_channels: int, out_channels: int, nonlinearity: str, dtype: Any, gain: float = 1.0) -> Conv2d:
    """A 3x3 convolution that keeps height and width, with He's weights for what follows it, times `gain`; zero bias."""
    conv = Conv2d(in_channels, out_channels, 3, padding=1, dtype=dtype)
    init.kaiming_normal_(conv.weight, nonlinearity, negative_slope=SLOPE)
    conv.weight.fill(conv.weight.data * gain)
    if conv.bias is not None:
        conv.bias.fill(0)
    return conv


def _leaky(name: str, in_channels: int, out_channels: int, dtype: Any) -> Parts:
    """A convolution with its LeakyReLU."""
    return {name: _conv(in_channels, out_channels, "leaky_relu", dtype), f"{name}_leaky": LeakyReLU(SLOPE)}


def _beside_input(deep: Parts) -> Concat:
    """What `deep` makes of the input, enlarged to its size, and the input itself: a U-Net's skip connection."""
    up = UpsamplingNearest2d(scale_factor=2)
    return Concat({"deep": Sequential({**deep, "up": up}), "skip": Identity()})


def _block(name: str, width: int, dtype: Any) -> Parts:
    """A residual block: x + Conv(ReLU(Conv(x))), which begins near x."""
    first, second = _conv(width, width, "relu", dtype), _conv(width, width, "linear", dtype, gain=BLOCK_GAIN)
    body = Sequential({"conv1": first, "relu": ReLU(), "conv2": second})
    return {name: Sum({"skip": Identity(), "body": body})}


def _resampling(kind: Any, in_channels: int, out_channels: int, fan_in: int, dtype: Any) -> Module:
    """A convolution or transposed convolution of kernel 2 and stride 2; `fan_in`: how many values an output sums."""
    layer: Module = kind(in_channels, out_channels, 2, stride=2, dtype=dtype)
    for name, parameter in layer.named_parameters():
        init.normal_(parameter, std=fan_in**-0.5 if name == "weight" else 0.0)
    return layer


def _plain_convolutions(
    in_channels: int, out_channels: int, channels: int, depth: int, norm: Callable[[int], Module] | None, dtype: Any
) -> list[Module]:
    """`depth` convolutions with ReLUs between them, and a `norm` after each but the first and the last."""
    checks.integer(in_channels, "image_channels", 1)
    checks.integer(channels, "channels", 1)
    checks.integer(depth, "depth", 2)
    modules: list[Module] = [_conv(in_channels, channels, "relu", dtype), ReLU()]
    for _ in range(depth - 2):
        modules.append(_conv(channels, channels, "relu", dtype))
        modules += [] if norm is None else [norm(channels)]
        modules.append(ReLU())
    return [*modules, _conv(channels, out_channels, "linear", dtype)]
