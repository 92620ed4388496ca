"""Noise models from text, as `str` of a model writes it: `gaussian:25`, `poisson:10-50`, `none`."""

from __future__ import annotations

from .noise import Gaussian, Noise, NoNoise, Poisson
from .pixel_sampling import PixelSampling

__all__ = ["parse_noise"]


def parse_noise(text: str) -> Noise:
    """Makes a noise model from text: `pixel-sampling`, `pixel-sampling:5-8`, `gaussian:25`, `poisson:30` or `none`.

    The number of `gaussian` is its sigma in 8-bit steps, that of `poisson` the photons at value 255; both may
    be ranges, such as `gaussian:0-55`. Those of `pixel-sampling` are the smallest and the largest block.
    Raises ValueError that lists the choices for anything else.
    """
    name, colon, number = text.strip().partition(":")
    try:
        return _build(name, number if colon else None)
    except ValueError as error:
        raise ValueError(f"noise {text!r}: {error}; choices: {_CHOICES}") from None


_CHOICES = (
    "pixel-sampling or pixel-sampling:SMALLEST-LARGEST (block sides, as 5-8), "
    "gaussian:SIGMA (8-bit steps, as 25, or a range, as 0-55), "
    "poisson:PEAK (photons at value 255, as 30, or a range, as 10-50), "
    "none (the images are noisy as they are: for targets self and blind-spot)"
)


def _build(name: str, number: str | None) -> Noise:
    if name == "pixel-sampling":
        return PixelSampling() if number is None else PixelSampling(*_blocks(number))
    if name == "gaussian":
        return Gaussian(*_numbers("sigma", number))
    if name == "poisson":
        return Poisson(*_numbers("peak", number))
    if name == "none":
        if number is not None:
            raise ValueError("none takes no number")
        return NoNoise()
    raise ValueError(f"there is no noise named {name!r}")


def _numbers(name: str, text: str | None) -> tuple[float, ...]:
    """One number, or the two of a range."""
    if not text:
        raise ValueError(f"the number ({name}) is missing")
    # A number may have a dash of its own (1e-3), so the dash of a range is the one between two numbers.
    parts = [(text,)] + [(text[:i], text[i + 1 :]) for i, letter in enumerate(text) if letter == "-" and i > 0]
    for part in parts:
        try:
            return tuple(float(number) for number in part)
        except ValueError:
            continue
    raise ValueError(f"{name} (={text!r}) is not a number, and no range of two")


def _blocks(text: str) -> tuple[int, int]:
    smallest, dash, largest = text.partition("-")
    try:
        return int(smallest), int(largest if dash else smallest)
    except ValueError:
        raise ValueError(f"block sides (={text!r}) must be two whole numbers, as 5-8") from None
