"""Dead leaves: pictures made of random shapes that hide one another, with the statistics of photographs.

Natural images are, to a good approximation, opaque objects of all sizes in front of each other. Leaves whose
radii have a density proportional to r^-3 give scale-invariant pictures: the spectrum, the edges and the
heavy-tailed gradients of photographs (Lee, Mumford and Huang, "Occlusion Models for Natural Images: A
Statistical Study of a Scale-Invariant Dead Leaves Model", 2001). A denoiser can be trained on them where
there are no photographs.

    leaves (place, size, shape, depth)  ->  the leaf that each pixel shows (leaves.py)
    ->  colour + shading + texture of that leaf + light  ->  blur  ->  tones 0..255

The numbers below were chosen by measurement on photographs: spread and correlation of the colours, slope of
the spectrum, and strength and kurtosis of the noise of pixel sampling.
"""

from __future__ import annotations

import numpy as np

from ..checks import integer
from ..random import generator_or_default
from .leaves import Leaves, scatter_leaves, visible_leaves

__all__ = ["dead_leaves"]

_SMALLEST_RADIUS = (1.0, 20.0)  # pixels; an image's is log-uniform between these: busy scenes and plain ones
_BRIGHTNESS = (112.0, 25.0)  # mean and standard deviation over images, in 8-bit steps, as all that follow
_BRIGHTNESS_FIELD = 42.0  # standard deviation of the part of a leaf's brightness that neighbours share
_BRIGHTNESS_OWN = 28.0  # and of its own part
_CHROMA_FIELD = 13.0  # the same two for colour: warm against cool
_CHROMA_OWN = 11.0
_GREENNESS = 0.35  # green against purple varies less than warm against cool, by this factor
_TINT = 8.0  # the whole image's colour cast
_WARMTH = 9.0  # photographs are a little warm on average
_CONTRAST = 0.45  # standard deviation over images of the logarithm of their contrast
_LIGHT = 15.0  # smooth light and shade over everything
_SHADING = 10.0  # mean change of brightness from a leaf's middle to its edge
_TEXTURE = 11.0  # median standard deviation of a leaf's texture
_TEXTURE_SPREAD = (0.7, 1.0)  # standard deviations of its logarithm, over images and over leaves
_BLUR = (0.05, 0.2)  # weight of a pixel's neighbours, the same on both sides
_KNEE = 16.0  # tones nearer than this to 0 and 255 are compressed instead of cut off

_TEXTURES = 16
_TEXTURE_SIDE = 256  # pixels; a power of two, so that a bit mask wraps positions round


def dead_leaves(
    count: int, height: int, width: int, rng: np.random.Generator | None = None, channels: int = 3
) -> np.ndarray:
    """Makes pictures with the statistics of photographs: random leaves in front of each other (module docstring).

    count, height, width: how many pictures of which size in pixels; rng: None for the generator that
    `manual_seed` sets; channels: 3 (RGB) or 1 (gray). Returns (count, channels, height, width), uint8. Raises
    ValueError or TypeError for arguments out of range.
    """
    count, height, width = integer(count, "count", 1), integer(height, "height", 1), integer(width, "width", 1)
    rng = generator_or_default(rng)
    if channels not in (1, 3):
        raise ValueError(f"channels (={channels}) must be 1 (gray) or 3 (RGB)")
    textures = _textures(rng)
    pictures = np.empty((count, channels, height, width), np.uint8)
    for picture in pictures:
        colours = _picture(height, width, textures, rng)
        picture[...] = _toned(colours if channels == 3 else colours.mean(axis=0, keepdims=True))
    return pictures


def _picture(height: int, width: int, textures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One picture in linear tones, which may leave 0..255: (3, height, width), float32."""
    smallest, largest = np.log(_SMALLEST_RADIUS)
    r_min = float(np.exp(rng.uniform(smallest, largest)))
    leaves = scatter_leaves(height, width, r_min, max(0.6 * max(height, width), 2 * r_min), rng)
    shown = visible_leaves(leaves, height, width)  # (H, W), the number of a leaf
    colours = _colours(leaves, height, width, rng)  # (3, leaves)
    brightness = _textured(shown, _texture_strengths(colours, rng), textures, rng)
    brightness += _shading(shown, leaves, rng)
    brightness += _smooth_field(height, width, _LIGHT, rng)
    return _blurred(colours.take(shown, axis=1) + brightness, rng.uniform(*_BLUR))


def _colours(leaves: Leaves, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """The colour of each leaf: (3, leaves), float32; mostly brightness, so that R, G and B go together."""
    rows = np.clip(leaves.rows, 0, height - 1).astype(np.intp)
    columns = np.clip(leaves.columns, 0, width - 1).astype(np.intp)
    contrast = float(np.exp(rng.normal(0, _CONTRAST)))

    def varied(field: float, own: float) -> np.ndarray:
        """What a leaf shares with its neighbours, and what it has of its own (Laplacian: mostly little)."""
        shared = _smooth_field(height, width, field, rng)[rows, columns]
        return contrast * (shared + rng.laplace(0, own / np.sqrt(2), len(rows)))

    brightness = rng.normal(*_BRIGHTNESS) + varied(_BRIGHTNESS_FIELD, _BRIGHTNESS_OWN)
    warm = _WARMTH + rng.normal(0, _TINT) + varied(_CHROMA_FIELD, _CHROMA_OWN)
    green = rng.normal(0, 0.6 * _TINT) + _GREENNESS * varied(_CHROMA_FIELD, _CHROMA_OWN)
    vividness = np.clip(brightness / 110, 0.15, 1.6)  # dark colours are dull
    colours = [brightness + vividness * part for part in (warm - green, green, -warm - green)]
    return np.stack(colours).astype(np.float32)


def _texture_strengths(colours: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The standard deviation of each leaf's texture: log-normal over images and leaves, less if dark."""
    over_images, over_leaves = _TEXTURE_SPREAD
    strengths = _TEXTURE * np.exp(rng.normal(0, over_images) + rng.normal(0, over_leaves, colours.shape[1]))
    strengths *= np.clip(0.35 + 0.65 * colours.mean(axis=0) / 110, 0.4, 1.4)
    return strengths.astype(np.float32)


def _textured(shown: np.ndarray, strengths: np.ndarray, textures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The texture of the leaf that each pixel shows: one of the bank's, from a place of its own."""
    height, width = shown.shape
    which = rng.integers(_TEXTURES, size=len(strengths))
    down, across = rng.integers(_TEXTURE_SIDE, size=(2, len(strengths)))
    mask = _TEXTURE_SIDE - 1
    rows = (np.arange(height)[:, np.newaxis] + down[shown]) & mask
    columns = (np.arange(width) + across[shown]) & mask
    return strengths[shown] * textures[which[shown], rows, columns]


def _shading(shown: np.ndarray, leaves: Leaves, rng: np.random.Generator) -> np.ndarray:
    """A slope of brightness over each leaf, in a direction of its own."""
    steepness = rng.exponential(_SHADING, len(leaves.radii)) / leaves.radii
    direction = rng.uniform(0, 2 * np.pi, len(leaves.radii))
    down, across = steepness * np.sin(direction), steepness * np.cos(direction)
    middle = -down * leaves.rows - across * leaves.columns  # so that the slope is 0 in the leaf's middle
    down, across, middle = (part.astype(np.float32)[shown] for part in (down, across, middle))
    height, width = shown.shape
    down *= np.arange(height, dtype=np.float32)[:, np.newaxis]
    across *= np.arange(width, dtype=np.float32)
    return middle + down + across


def _smooth_field(height: int, width: int, std: float, rng: np.random.Generator) -> np.ndarray:
    """A random smooth surface, standard deviation about `std`: three coarse grids of noise, interpolated."""
    grid = sum(
        np.kron(rng.normal(0, std / np.sqrt(3), (side, side)), np.ones((8 // side, 8 // side))) for side in (2, 4, 8)
    )
    return _interpolated(_interpolated(np.asarray(grid), height).T, width).T.astype(np.float32)


def _interpolated(grid: np.ndarray, length: int) -> np.ndarray:
    """The rows of a grid, linearly interpolated to `length` rows."""
    places = np.linspace(0, len(grid) - 1, length)
    before = np.minimum(places.astype(np.intp), len(grid) - 2)
    part = (places - before)[:, np.newaxis]
    return grid[before] * (1 - part) + grid[before + 1] * part


def _blurred(image: np.ndarray, weight: float) -> np.ndarray:
    """The softness of a lens: a pixel takes this weight of each neighbour, down and then across."""
    down = image.copy()
    down[:, 1:-1] += weight * (image[:, :-2] + image[:, 2:] - 2 * image[:, 1:-1])
    across = down.copy()
    across[:, :, 1:-1] += weight * (down[:, :, :-2] + down[:, :, 2:] - 2 * down[:, :, 1:-1])
    return across


def _toned(image: np.ndarray) -> np.ndarray:
    """Into 0..255, uint8: tones that are too dark or too bright approach the ends smoothly."""
    dark = _KNEE * np.exp(np.minimum(image / _KNEE - 1, 0))
    image = np.where(image < _KNEE, dark, image)
    bright = 255 - _KNEE * np.exp(np.minimum((255 - image) / _KNEE - 1, 0))
    image = np.where(image > 255 - _KNEE, bright, image)
    return np.rint(image).astype(np.uint8)


def _textures(rng: np.random.Generator) -> np.ndarray:
    """The bank of textures: (textures, side, side), float32, periodic, mean 0 and standard deviation 1."""
    return np.stack([_grating(rng) if rng.random() < 0.2 else _power_law(rng) for _ in range(_TEXTURES)])


def _power_law(rng: np.random.Generator) -> np.ndarray:
    """Noise with amplitudes f^-0.7 to f^-1.6, often stretched in one direction (bark, grass)."""
    along, across = _frequencies(rng)
    stretch = np.exp(rng.normal(0, 0.6))
    frequency = np.hypot(along * stretch, across / stretch)
    frequency[0, 0] = np.inf  # no mean
    return _noise_of(frequency ** -rng.uniform(0.7, 1.6), rng)


def _grating(rng: np.random.Generator) -> np.ndarray:
    """Uneven parallel stripes (feathers, fabrics, fences), 4 to 32 pixels apart."""
    along, across = _frequencies(rng)
    centre = np.exp(rng.uniform(np.log(1 / 32), np.log(1 / 4)))
    off = (np.abs(along) - centre) / (0.2 * centre)
    return _noise_of(np.exp(-0.5 * (off**2 + (across / (0.25 * centre)) ** 2)), rng)


def _frequencies(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The frequencies of `rfft2`, in cycles a pixel, along a random direction and across it."""
    down, across = np.fft.fftfreq(_TEXTURE_SIDE)[:, np.newaxis], np.fft.rfftfreq(_TEXTURE_SIDE)
    angle = rng.uniform(0, np.pi)
    return across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)


def _noise_of(amplitudes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise with these amplitudes at the frequencies of `rfft2`, scaled to standard deviation 1."""
    real, imaginary = rng.normal(size=(2, *amplitudes.shape))
    noise = np.fft.irfft2(amplitudes * (real + 1j * imaginary), (_TEXTURE_SIDE, _TEXTURE_SIDE))
    noise -= noise.mean()
    return (noise / noise.std()).astype(np.float32)
