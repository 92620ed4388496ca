"""im2col and col2im on the device, and the index arithmetic under all memory-bound kernels."""

from __future__ import annotations

from typing import Any

import draws
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels_on_host import DTYPES, KERNELS, LAYOUTS, agree, asked_for, image, sprinkle
from standin.emulator import Module

from npconv.backends import ConvGeometry
from npconv.backends.gpu import grid
from npconv.backends.gpu.launching import KERNELS as FOLDER

GEOMETRIES = [
    (ConvGeometry((1, 1)), (1, 4, 1, 1)),
    (ConvGeometry((3, 3), padding=((1, 1), (1, 1))), (2, 8, 7, 5)),
    (ConvGeometry((2, 3), stride=(3, 4), padding=((0, 2), (3, 1))), (2, 3, 9, 11)),  # pixels that no window sees
    (ConvGeometry((3, 2), dilation=(2, 3), padding=((2, 0), (1, 4))), (1, 5, 6, 7)),
    (ConvGeometry((2, 2), padding=((-1, 2), (1, -2))), (3, 4, 5, 6)),  # crops
    (ConvGeometry((4, 4), stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(2, 2)), (2, 4, 9, 9)),
    (ConvGeometry((5, 1), stride=(1, 2), padding=((2, 2), (0, 0))), (0, 4, 4, 4)),  # an empty batch
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("geometry", "shape"), GEOMETRIES)
def test_windows_are_the_references(
    geometry: ConvGeometry, shape: tuple[int, ...], layout: str, dtype: str, rng: np.random.Generator
) -> None:
    x = sprinkle(rng, image(rng, shape, dtype, layout))
    agree("im2col", x, geometry)
    columns = rng.standard_normal(KERNELS.im2col(x, geometry).shape).astype(dtype)
    agree("col2im", sprinkle(rng, columns), shape, geometry)


@settings(max_examples=60)
@given(draws.windows(cropping=True), st.sampled_from([1, 2, 4]), draws.seeds)
def test_any_geometry(window: Any, channels: int, seed: int) -> None:
    geometry, (n, c, h, w) = window
    rng = np.random.default_rng(seed)
    shape = n, c * channels, h, w
    columns = agree("im2col", image(rng, shape, "float32"), geometry)
    agree("col2im", rng.standard_normal(columns.shape).astype("float32"), shape, geometry)


@pytest.mark.parametrize(("dtype", "channels", "lanes"), [("float32", 8, 4), ("float32", 6, 1), ("float64", 6, 2)])
def test_channels_go_in_vectors_of_16_bytes(dtype: str, channels: int, lanes: int, rng: np.random.Generator) -> None:
    geometry = ConvGeometry((3, 3), padding=((1, 1), (1, 1)))
    x = image(rng, (1, channels, 4, 4), dtype)
    columns = agree("im2col", x, geometry, lanes=lanes)
    agree("col2im", columns, x.shape, geometry, lanes=lanes)


def test_an_address_that_suits_no_vector(rng: np.random.Generator) -> None:
    memory = rng.standard_normal(1 + 4 * 4 * 4).astype("float32")
    x = memory[1:].reshape(1, 4, 4, 4).transpose(0, 3, 1, 2)
    agree("im2col", x, ConvGeometry((2, 2)), lanes=1)


def test_columns_of_another_layout(rng: np.random.Generator) -> None:
    geometry, shape = ConvGeometry((2, 2)), (2, 4, 3, 3)
    columns = rng.standard_normal((16, 8)).astype("float32").T
    agree("col2im", np.ascontiguousarray(columns.T).reshape(8, 16, order="F"), shape, geometry)


def test_integers_take_the_reference() -> None:
    x = np.arange(16).reshape(1, 1, 4, 4)
    asked_for()
    assert KERNELS.im2col(x, ConvGeometry((2, 2))).dtype == x.dtype
    assert not asked_for()


def test_more_rows_than_the_grid_has(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """Threads loop over rows; with a small bound on the grid, a small image makes them."""
    monkeypatch.setattr(grid, "MOST_BLOCKS", 2)
    x, geometry = image(rng, (3, 4, 40, 16), "float32"), ConvGeometry((3, 3))
    columns = agree("im2col", x, geometry)
    agree("col2im", columns, x.shape, geometry)


PROBE = """
extern "C" __global__ void probe(int count, const long long *images, const int *places, int height, int width,
                                 int channels, long long *offsets, long long *rows) {
    const int i = threadIdx.x;
    if (i >= count) return;
    const int line = places[3 * i], x = places[3 * i + 1], channel = places[3 * i + 2];
    offsets[i] = vector_at(images[i], line, x, channel, height, width, channels);
    const Row row = split_row(images[i] * height + line, height);
    rows[2 * i] = row.image;
    rows[2 * i + 1] = row.line;
}
"""


@pytest.mark.parametrize("size", [(3, 5, 1), (1080, 1920, 64), (30000, 40000, 512), (2**20 - 1, 7, 3)])
def test_index_arithmetic_beyond_32_bits(size: tuple[int, int, int], rng: np.random.Generator) -> None:
    """Flat offsets and rows near and past 2^31 and 2^32, against Python's integers."""
    height, width, channels = size
    images = [0, 1, 1000, *(limit // height + step for limit in (2**31, 2**32, 2**36) for step in (-1, 0, 1))]
    places = [[int(rng.integers(bound)) for bound in size] for _ in images]
    places[-1] = [bound - 1 for bound in size]
    text = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in ("common.cuh", "grid.cuh"))
    probe = Module(text + PROBE, ("-DREAL=float",)).get_function("probe")
    offsets, rows = np.zeros(len(images), np.int64), np.zeros((len(images), 2), np.int64)
    arguments = (np.array(images), np.array(places, np.int32), *map(np.int32, size), offsets, rows)
    probe((1, 1, 1), (32, 1, 1), (np.int32(len(images)), *arguments))
    for i, (n, (y, x, c)) in enumerate(zip(images, places, strict=True)):
        assert int(offsets[i]) == ((n * height + y) * width + x) * channels + c
        assert rows[i].tolist() == [n, y]
