"""Padding on the device against the reference, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from kernels_on_host import DTYPES, KERNELS, LAYOUTS, agree, image, sprinkle

from npconv.backends.geometry import Sides

CASES = [
    ("zeros", ((1, 2), (3, 0)), (2, 4, 3, 5)),
    ("zeros", ((-1, 2), (2, -2)), (1, 3, 4, 5)),
    ("zeros", ((0, 0), (-2, -2)), (1, 4, 3, 5)),
    ("reflect", ((1, 2), (3, 0)), (2, 4, 3, 5)),
    ("reflect", ((3, 3), (1, 1)), (1, 3, 4, 2)),
    ("reflect", ((0, 0), (0, 1)), (1, 4, 1, 3)),
    ("replicate", ((1, 2), (3, 0)), (2, 4, 3, 5)),
    ("replicate", ((4, 5), (2, 7)), (2, 3, 1, 2)),
    ("circular", ((1, 2), (3, 0)), (2, 4, 3, 5)),
    ("circular", ((4, 4), (1, 1)), (1, 3, 4, 1)),
    ("circular", ((2, 0), (0, 0)), (0, 4, 3, 3)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("mode", "padding", "shape"), CASES)
def test_padding_is_the_references(
    mode: str, padding: Sides, shape: tuple[int, ...], layout: str, dtype: str, rng: np.random.Generator
) -> None:
    y = agree("pad2d_forward", sprinkle(rng, image(rng, shape, dtype, layout)), padding, mode)
    agree("pad2d_backward", image(rng, y.shape, dtype, layout), shape, padding, mode)
    agree("pad2d_backward", sprinkle(rng, image(rng, y.shape, dtype)), shape, padding, mode)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_every_amount_that_fits(mode: str, rng: np.random.Generator) -> None:
    """All paddings up to the limit of the mode, on both axes at once."""
    for length in (1, 2, 3, 5):
        most = {"reflect": length - 1, "circular": length}.get(mode, 4)
        for before in range(most + 1):
            for after in range(most + 1):
                padding = ((before, after), (after, before))
                if padding == ((0, 0), (0, 0)):
                    continue
                y = agree("pad2d_forward", image(rng, (1, 4, length, length), "float32"), padding, mode, lanes=4)
                agree("pad2d_backward", image(rng, y.shape, "float32"), (1, 4, length, length), padding, mode)


def test_no_padding_is_no_copy(rng: np.random.Generator) -> None:
    x = image(rng, (1, 4, 3, 3), "float32")
    assert KERNELS.pad2d_forward(x, ((0, 0), (0, 0)), "reflect") is x
    assert KERNELS.pad2d_backward(x, x.shape, ((0, 0), (0, 0)), "reflect") is x


def test_masks_take_the_reference() -> None:
    inside = KERNELS.pad2d_forward(np.ones((1, 1, 1, 2), bool), ((0, 1), (1, 0)), "zeros")
    assert inside[0, 0].tolist() == [[False, True, True], [False, False, False]]
