"""Nearest upsampling and pixel shuffle on the device against the reference, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from kernels_on_host import DTYPES, KERNELS, LAYOUTS, agree, image, sprinkle

INDICES = [
    ([0], [0]),
    ([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]),  # whole factors
    ([0, 0, 1, 2, 2], [0, 1, 1, 2, 3, 3, 3]),
    ([0, 2], [1, 3]),  # smaller: some pixels have no copy
    ([2, 2, 2], [0, 0, 3]),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize(("rows", "columns"), INDICES)
def test_nearest_upsampling_is_the_references(
    rows: list[int], columns: list[int], channels: int, layout: str, dtype: str, rng: np.random.Generator
) -> None:
    x = sprinkle(rng, image(rng, (2, channels, 3, 4), dtype, layout))
    y = agree("upsample_nearest_forward", x, rows, columns)
    agree("upsample_nearest_backward", image(rng, y.shape, dtype, layout), x.shape, rows, columns)
    agree("upsample_nearest_backward", sprinkle(rng, image(rng, y.shape, dtype)), x.shape, rows, columns)


def test_vectors_and_empty_batches(rng: np.random.Generator) -> None:
    rows = [0, 0, 1, 1]
    agree("upsample_nearest_forward", image(rng, (1, 8, 2, 2), "float32"), rows, rows, lanes=4)
    agree("upsample_nearest_backward", image(rng, (1, 8, 4, 4), "float32"), (1, 8, 2, 2), rows, rows, lanes=4)
    agree("upsample_nearest_backward", image(rng, (1, 6, 4, 4), "float32"), (1, 6, 2, 2), rows, rows, lanes=1)
    agree("upsample_nearest_forward", image(rng, (0, 8, 2, 2), "float32"), rows, rows)
    agree("upsample_nearest_backward", image(rng, (0, 8, 4, 4), "float32"), (0, 8, 2, 2), rows, rows)


def test_tables_are_uploaded_once(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """A training step that is run before uploads nothing; a graph that holds a table's address finds it there."""
    rows, columns = [0, 0, 1, 1, 1], (0, 1, 1)
    x, grad = image(rng, (1, 4, 2, 2), "float32"), image(rng, (1, 4, 5, 3), "float32")
    KERNELS.upsample_nearest_forward(x, rows, columns)
    KERNELS.upsample_nearest_backward(grad, x.shape, rows, columns)

    def refuse(values: object) -> None:
        raise AssertionError(f"{values} are uploaded again")

    tables = {id(table) for table in KERNELS._tables.values()}
    monkeypatch.setattr(KERNELS, "xp", type("Xp", (), {"asarray": refuse, "empty": np.empty,
                                                       "ascontiguousarray": np.ascontiguousarray}))  # fmt: skip
    agree("upsample_nearest_forward", x, rows, columns)
    agree("upsample_nearest_backward", grad, x.shape, rows, columns)
    assert tables == {id(table) for table in KERNELS._tables.values()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("size", [(2, 1, 1, 1), (1, 3, 2, 5), (0, 4, 2, 2)])
def test_pixel_shuffle_is_the_references(
    size: tuple[int, int, int, int], factor: int, layout: str, dtype: str, rng: np.random.Generator
) -> None:
    n, c, h, w = size
    x = sprinkle(rng, image(rng, (n, c * factor**2, h, w), dtype, layout))
    y = agree("pixel_shuffle", x, factor)
    np.testing.assert_array_equal(KERNELS.pixel_unshuffle(y, factor), x)
    agree("pixel_unshuffle", image(rng, (n, c, h * factor, w * factor), dtype, layout), factor)


def test_integers_take_the_reference() -> None:
    x = np.arange(16).reshape(1, 4, 2, 2)
    assert KERNELS.pixel_shuffle(x, 2).ravel().tolist() == [0, 4, 1, 5, 8, 12, 9, 13, 2, 6, 3, 7, 10, 14, 11, 15]
    assert KERNELS.upsample_nearest_forward(x, [0, 1], [1]).ravel().tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
