"""Prediction in tiles: the same pixels as in one piece, for every kind of network and size, in bounded memory."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import npconv as nc
from npconv import footprint, networks, plans, prediction, tiles
from npconv.backends.cpu import memory

TOLERANCE = 1e-5 * 255  # rounding: algorithms for convolutions lie differently in a tile


def conv(c: int, o: int, k: int = 3, **options: Any) -> nc.Conv2d:
    return nc.Conv2d(c, o, k, **{"padding": k // 2, **options})


def unet() -> nc.Module:
    def level(below: nc.Module, c: int) -> nc.Module:
        inner = nc.Sequential(nc.MaxPool2d(2), below, nc.UpsamplingNearest2d(scale_factor=2))
        return nc.Sequential(conv(c, 6), nc.LeakyReLU(0.1), nc.Concat(nc.Identity(), inner), conv(12, 6), nc.ReLU())

    return nc.Sequential(level(level(conv(6, 6), 6), 3), conv(6, 3), nc.Sigmoid())


NETWORKS: dict[str, Callable[[], nc.Module]] = {
    "strided": lambda: networks.strided(4),
    "strided, transposed": lambda: networks.strided(4, upsampling="transposed"),
    "residual": lambda: nc.Sum(nc.Identity(), nc.Sequential(conv(3, 8), nc.BatchNorm2d(8), nc.ReLU(), conv(8, 3))),
    "unet": unet,
    "shuffle": lambda: nc.Sequential(nc.PixelUnshuffle(2), conv(12, 12), nc.ReLU(), nc.PixelShuffle(2)),
    "reflect": lambda: nc.Sequential(*(conv(3, 3, 5, padding_mode="reflect") for _ in range(3)), nc.Sigmoid()),
    "replicate": lambda: nc.Sequential(*(conv(3, 3, 7, padding_mode="replicate") for _ in range(2)), nc.Sigmoid()),
    "dilated": lambda: nc.Sequential(conv(3, 4, 3, padding=4, dilation=4), nc.ReLU(), conv(4, 3, 4, padding="same")),
    "twice as large": lambda: nc.Sequential(conv(3, 12), nc.PixelShuffle(2), conv(3, 3)),
    "half as large": lambda: nc.Sequential(conv(3, 4), nc.AvgPool2d(2), conv(4, 3), nc.Sigmoid()),
    "1.5 times as large": lambda: nc.Sequential(conv(3, 4), nc.UpsamplingNearest2d(scale_factor=1.5), conv(4, 3)),
    "valid": lambda: nc.Sequential(conv(3, 4, padding=0), nc.ReLU(), conv(4, 3, 2, padding=0)),
    "valid, strided": lambda: nc.Sequential(conv(3, 4, padding=0), nc.MaxPool2d(2), conv(4, 3)),
    "transposed, one more": lambda: nc.Sequential(nc.ConvTranspose2d(3, 4, 3, stride=2), conv(4, 3)),
}


@pytest.mark.parametrize("size", [(61, 70), (7, 101)])
@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_give_what_the_whole_image_gives(name: str, size: tuple[int, int]) -> None:
    nc.manual_seed(0)
    model = nc.Model(NETWORKS[name]())
    images = np.random.default_rng(1).integers(0, 256, (2, 3, *size), dtype="uint8")
    whole, seen = model.predict(images, tile=512), []
    tiled = model.predict(images, tile=(9, 16), progress=lambda done, total: seen.append((done, total)))
    assert tiled.shape == whole.shape and len(seen) == seen[-1][1] > 8
    assert whole.std() > 1  # not all clipped
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=TOLERANCE)


@pytest.mark.cpu
@settings(max_examples=40)
@given(
    st.sampled_from(sorted(NETWORKS)), st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
)  # fmt: skip
def test_any_size_in_any_tiles(name: str, size: tuple[int, int], tile: tuple[int, int]) -> None:
    nc.manual_seed(0)
    model = nc.Model(NETWORKS[name]())
    image = np.random.default_rng(1).integers(0, 256, (3, *size), dtype="uint8")
    try:
        whole = model.predict(image, tile=64)
    except ValueError:  # too small for the network's padding or its kernels
        return
    np.testing.assert_allclose(model.predict(image, tile=tile), whole, rtol=0, atol=TOLERANCE)


@pytest.mark.cpu
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_the_published_networks_in_tiles(name: str) -> None:
    """Of full width and depth: the roundings of many convolutions add up."""
    nc.manual_seed(0)
    model, level = nc.Model(networks.make(name)), 25 if name == "ffdnet" else None
    image = np.random.default_rng(1).integers(0, 256, (3, 160, 290), dtype="uint8")
    whole = model.predict(image, noise_level=level, tile=512)
    assert whole.std() > 1 and (whole > 0).mean() > 0.2
    np.testing.assert_allclose(model.predict(image, noise_level=level, tile=128), whole, rtol=0, atol=TOLERANCE)


def test_without_a_margin_there_would_be_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above can fail: it does where tiles see too little."""
    model = nc.Model(unet())
    image = np.random.default_rng(1).integers(0, 256, (3, 61, 70), dtype="uint8")
    whole = model.predict(image)
    monkeypatch.setattr(tiles, "margins", lambda network, axis: (0, 0))
    assert abs(model.predict(image, tile=16) - whole).max() > 100 * TOLERANCE


def test_tiles_of_many_workers_and_of_float64(set_workers: Callable[[int], None]) -> None:
    set_workers(3)
    network = nc.Sequential(conv(3, 4), nc.ReLU(), conv(4, 3)).double()
    image = np.random.default_rng(1).uniform(0, 255, (3, 50, 41))
    tiled = nc.Model(network).predict(image, tile=12)
    assert tiled.dtype == np.float64
    np.testing.assert_allclose(tiled, nc.Model(network).predict(image), rtol=0, atol=1e-9)


@pytest.mark.cpu
def test_large_images_are_cut_by_themselves_and_small_ones_are_not() -> None:
    network = networks.strided(4)
    assert not plans.make_plan(network, (1, 3, 1024, 1024)).is_tiled
    plan = plans.make_plan(network, (1, 3, 5000, 3000))
    assert (len(plan.rows), len(plan.columns)) == (10, 6)
    assert max(span.seen.stop - span.seen.start for span in plan.rows) <= 512 + tiles.edge(network, 0)
    covered = [i for span in plan.rows for i in range(*span.made.indices(5000))]
    assert covered == list(range(5000))


@pytest.mark.parametrize("size", [(31, 33), (321, 481), (1, 1), (1024, 1023)])
def test_a_size_that_strides_do_not_divide_is_no_reason_to_cut(size: tuple[int, int]) -> None:
    assert not plans.make_plan(unet(), (1, 3, *size)).is_tiled


def test_a_network_that_may_see_everything_is_never_cut() -> None:
    network = nc.Sequential(nc.UpsamplingNearest2d(size=8))
    assert not plans.make_plan(network, (1, 3, 5000, 5000)).is_tiled
    with pytest.raises(ValueError, match="may see the whole image: it cannot go through in tiles"):
        nc.Model(network).predict(np.zeros((3, 8, 8), "uint8"), tile=4)
    with pytest.raises(ValueError, match=r"not enough for the whole image, which this network may see: it needs 2.9G"):
        nc.Model(network).predict(np.zeros((3, 9999, 9999), "uint8"), max_memory="500M")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tile": 0}, ValueError, "tile (=0) must be at least 1"),
        ({"tile": 1.5}, TypeError, "tile (=1.5) must be an integer"),
        ({"max_memory": "2X"}, ValueError, "max_memory (='2X') must be a number of bytes, such as 500M, 1.5G or 2GiB"),
        ({"max_memory": 0}, ValueError, "max_memory (=0) must be at least 1"),
        ({"max_memory": "1M"}, ValueError, "max_memory (=1M) is not enough for the smallest tile of this network"),
        ({"max_memory": "13M", "tile": 256}, ValueError, "max_memory (=13M) is not enough for tiles of this size"),
    ],
)
def test_wrong_limits(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        nc.Model(networks.strided(4)).predict(np.zeros((3, 300, 300), "uint8"), **arguments)


@pytest.mark.cpu
def test_the_memory_that_an_error_asks_for_is_enough() -> None:
    model, image = nc.Model(unet()), np.random.default_rng(0).integers(0, 256, (3, 60, 60), dtype="uint8")
    with pytest.raises(ValueError, match="it needs") as caught:
        model.predict(image, max_memory=1000)
    amount = re.search(r"it needs ([0-9.]+[KMG])", str(caught.value))
    assert amount is not None
    np.testing.assert_allclose(model.predict(image, max_memory=amount[1]), model.predict(image), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500M", 500e6), ("1.5G", 1.5e9), ("800MB", 8e8), ("800 mb", 8e8), ("2GiB", 2**31), ("12", 12), (7.9, 7)],
)
def test_amounts_of_memory(text: Any, expected: float) -> None:
    assert footprint.parse_bytes(text) == expected


def test_less_memory_makes_smaller_tiles_and_the_footprint_grows_with_the_image() -> None:
    network = unet()
    need = footprint.footprint(network, 3)
    assert need.bytes(200**2) < need.bytes(400**2) < need.bytes(4000**2)
    made = [plans.make_plan(network, (1, 3, 1000, 1000), max_memory=m) for m in ("20M", "50M", "4G")]
    sides = [plan.rows[0].seen.stop for plan in made]
    assert sides[0] < sides[1] < sides[2] == 1000
    assert all(need.bytes(side**2) <= limit for side, limit in zip(sides, (20e6, 50e6, 4e9), strict=True))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_from_one_file_into_another(tmp_path: Any, dtype: str) -> None:
    model = nc.Model(networks.strided(4))
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 45, 33)).astype(dtype)
    np.save(tmp_path / "in.npy", images)
    source = np.load(tmp_path / "in.npy", mmap_mode="r")
    target = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", dtype, images.shape)
    prediction.predict_into(model.network, source, target, tile=16)
    expected = model.predict(images)
    expected = np.rint(expected) if dtype == "uint8" else expected
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=0, atol=1 if dtype == "uint8" else 1e-2)
    with pytest.raises(ValueError, match=re.escape("target of shape (2, 3, 45, 32) must have the output's shape")):
        prediction.predict_into(model.network, source, target[..., :32])
    with pytest.raises(ValueError, match=re.escape("must be (N, C, H, W)")):
        prediction.predict_into(model.network, source[0], target)
    with pytest.raises(ValueError, match="not finite"):
        prediction.predict_into(model.network, np.full(images.shape, np.nan), target)


@pytest.mark.parametrize("dtype", ["uint16", "int64", "bool"])
def test_files_of_other_integers_are_not_taken_for_8_bits(dtype: str) -> None:
    source = np.ones((1, 3, 8, 8), dtype)
    with pytest.raises(TypeError, match=rf"source \(dtype {dtype}\) must be uint8 or a float, with values of 0..255"):
        nc.predict_into(networks.strided(4), source, np.zeros((1, 3, 8, 8), "float32"))
    with pytest.raises(ValueError, match=re.escape("takes 3 channels, the images of shape (1, 4, 8, 8) have 4")):
        nc.predict_into(networks.strided(4), np.zeros((1, 4, 8, 8)), np.zeros((1, 4, 8, 8)))


# ---- how much memory ----
@pytest.mark.cpu
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_without_a_limit_all_workers_take_a_gigabyte(name: str, set_workers: Callable[[int], None]) -> None:
    network = networks.make(name)
    channels = 4 if name == "ffdnet" else 3
    need = footprint.footprint(network, channels)
    for workers in (1, 2, 16):
        set_workers(workers)
        for shape in ((1, channels, 10000, 10000), (40, channels, 512, 512), (1, channels, 1024, 1024)):
            plan = plans.make_plan(network, shape)
            rows, columns = (max(span.seen.stop - span.seen.start for span in s) for s in (plan.rows, plan.columns))
            assert plan.workers * need.bytes(plan.images * rows * columns, plan.keeps) <= 1e9


@pytest.mark.cpu
def test_little_memory_is_not_spent_on_what_is_kept(set_workers: Callable[[int], None]) -> None:
    set_workers(1)
    network = networks.make("noise2noise-unet")
    with pytest.warns(UserWarning, match=r"max_memory \(=300M\) allows tiles of .* overlaps so much that the work is"):
        plan = plans.make_plan(network, (1, 3, 3000, 3000), max_memory="300M")
    assert plan.keeps < memory.KEPT_BYTES
    sides = [max(span.seen.stop - span.seen.start for span in axis) for axis in (plan.rows, plan.columns)]
    assert min(sides) > 450  # with all that is kept usually: 350
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plans.make_plan(network, (1, 3, 3000, 3000), max_memory="2G")
        plans.make_plan(network, (1, 3, 3000, 3000))
        plans.make_plan(network, (1, 3, 400, 400), max_memory="2G")


@pytest.mark.cpu
def test_what_is_kept_is_bounded_while_predicting(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept() -> int:
        return sum(size * len(blocks) for size, blocks in memory._mine.free.items())

    def one_after_the_other() -> int:
        for size in (1 << 20, 1 << 21, 1 << 22):
            memory.empty((size,), "uint8")
        return kept()

    memory.release()
    with memory.keeping(0):
        assert one_after_the_other() == 1 << 22
    memory.release()
    assert one_after_the_other() == 7 << 20
    seen: list[int] = []

    class Recording(nc.Module):
        def forward(self, x: Any) -> Any:
            seen.append(memory._kept_bytes.get())
            return x

        def backward(self, grad: Any) -> Any:
            return grad

    plan = plans.make_plan(Recording(), (1, 3, 8, 8))
    small = dataclasses.replace(plan, keeps=5)
    monkeypatch.setattr(prediction, "make_plan", lambda *_: small)
    nc.Model(Recording()).predict(np.zeros((3, 8, 8), "uint8"))
    assert seen[-1] == 5 and kept() <= 5


# ---- noise-level maps ----
def with_map() -> nc.Module:
    """Takes three channels and a map, and gives image + map / 2 (in the units of both)."""
    network = nc.Sequential(nc.Conv2d(4, 3, 1))
    weight = np.zeros((3, 4, 1, 1), "float32")
    weight[range(3), range(3)], weight[:, 3] = 1, 0.5
    network[0].weight, network[0].bias = nc.asarray(weight), nc.asarray(np.zeros(3, "float32"))
    return network


@pytest.mark.parametrize("tile", [None, 8])
def test_a_noise_level_is_the_last_channel_in_the_images_units(tile: int | None) -> None:
    model, rng = nc.Model(with_map()), np.random.default_rng(0)
    images = rng.integers(0, 200, (2, 3, 20, 17), dtype="uint8")
    one, each = rng.uniform(0, 50, (20, 17)), rng.uniform(0, 50, (2, 1, 20, 17))
    for level, plane in ((30, 30), (one, one), (each, each)):
        expected = images + 0.5 * np.asarray(plane)
        np.testing.assert_allclose(model.predict(images, noise_level=level, tile=tile), expected, atol=1e-3)
    np.testing.assert_allclose(model.predict(images[0], noise_level=one, tile=tile), images[0] + one / 2, atol=1e-3)


def test_noise_levels_that_do_not_fit() -> None:
    image = np.full((3, 8, 8), 9, "uint8")
    model = nc.Model(with_map())
    for level, message in (
        (None, "the network takes a noise-level map besides the images' 3 channel(s): give noise_level"),
        (-1, "noise_level (=-1) must be at least 0"),
        (np.zeros((8, 7)), "noise_level of shape (8, 7) must be a number, (H, W) or (N, 1, H, W)"),
        (np.full((8, 8), np.nan), "noise_level must be finite"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            model.predict(image, noise_level=level)
    with pytest.raises(ValueError, match="noise_level is given, but the network takes no noise-level map"):
        nc.Model(networks.strided(4)).predict(image, noise_level=25)


@pytest.mark.cpu
def test_the_footprint_of_a_network_whose_kernels_need_a_large_image() -> None:
    network = nc.Sequential(*(conv(3, 3, 9, padding=0, dilation=2) for _ in range(6)))
    assert footprint.footprint(network, 3).bytes(100**2) > 0
    with pytest.raises(ValueError, match="expects in_channels"):
        footprint.footprint(network, 4)
