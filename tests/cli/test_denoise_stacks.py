"""`npconv denoise` on large images and on stacks: in tiles, page by page, in bounded memory, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import npconv
from npconv import data
from npconv.cli import main
from npconv.model import Model

pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")

WITHIN = 0.51  # of a rounded value


@pytest.fixture
def denoise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `npconv denoise` in tmp_path with tmp_path/model.h5."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["denoise", "--model", "model.h5", *map(str, arguments)])


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return saved(npconv.networks.strided(4), tmp_path)


def saved(network: npconv.Module, folder: Path) -> Model:
    model = Model(network)
    for parameter in network.parameters():
        parameter.data[...] *= 3  # so that the output is far from one colour
    model.save(folder / "model.h5")
    return model


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype="uint8")


def of_gray(model: Model, pages: np.ndarray) -> np.ndarray:
    """(N, H, W) through an RGB model, page by page."""
    return model.predict(np.repeat(pages[:, None], 3, axis=1)).mean(axis=1)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.npy", "a.h5"])
def test_an_image_in_tiles_is_what_it_is_in_one_piece(tmp_path: Path, model: Model, denoise: Any, name: str) -> None:
    image = pixels(4, 131, 70)
    if name == "a.h5":
        data.write_images(tmp_path / name, image[None])
    else:
        data.write_image(tmp_path / name, image)
    assert denoise(name, "--tile", 24, "-o", name.replace("a.", "b.")) == 0
    assert denoise(name, "-o", name.replace("a.", "c.")) == 0
    results = []
    for letter in "bc":
        path = tmp_path / name.replace("a.", f"{letter}.")
        with h5py.File(path) if name == "a.h5" else open(path, "rb") as file:
            results.append(file["images"][0] if name == "a.h5" else data.read_image(path))
    np.testing.assert_allclose(results[0][:3], model.predict(image[:3]), atol=WITHIN)
    assert abs(results[0].astype(int) - results[1]).max() <= 1
    np.testing.assert_array_equal(results[0][3], image[3])


def test_a_tiff_stack_page_by_page(tmp_path: Path, model: Model, denoise: Any, capsys: Any) -> None:
    stack = pixels(7, 30, 41)
    options = {"imagej": True, "metadata": {"axes": "ZYX", "spacing": 2.5, "unit": "um"}, "resolution": (3, 3)}
    tifffile.imwrite(tmp_path / "a.tif", stack, **options)
    assert denoise("a.tif", "-o", "b.tif") == 0
    assert "7 pages, 41 x 30, 1 channel, uint8" in capsys.readouterr().out
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.series[0].axes == "ZYX" and file.imagej_metadata["spacing"] == 2.5
        np.testing.assert_allclose(file.series[0].asarray(), of_gray(model, stack), atol=WITHIN)


@pytest.mark.parametrize(("axes", "usual"), [("NHW", False), ("NHWC", True), ("NCHW", True)])
def test_npy_stacks_of_any_layout(tmp_path: Path, model: Model, denoise: Any, axes: str, usual: bool) -> None:
    stack = pixels(3, 21, 30) if axes == "NHW" else pixels(5, 3, 21, 30)
    stored = stack.transpose(0, 2, 3, 1) if axes == "NHWC" else stack
    np.save(tmp_path / "a.npy", stored)
    assert denoise("a.npy", "-o", "b.npy", *([] if usual else ["--axes", axes])) == 0
    expected = of_gray(model, stack) if axes == "NHW" else model.predict(stack)
    expected = expected.transpose(0, 2, 3, 1) if axes == "NHWC" else expected
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), expected, atol=WITHIN)


def test_an_hdf5_stack_of_floats_has_one_scale_for_all_pages(tmp_path: Path, model: Model, denoise: Any) -> None:
    stack = pixels(3, 3, 21, 30).astype("float32")
    stack[0] = 0  # alone, this page would be black of 0..1
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"], file["other"] = stack, stack[:1]
    assert denoise("a.h5", "--dataset", "raw", "-o", "b.h5") == 0
    with h5py.File(tmp_path / "b.h5") as file:
        assert list(file) == ["raw"] and file["raw"].dtype == np.float32
        np.testing.assert_allclose(file["raw"], model.predict(stack), atol=1e-3)


def test_rgb_with_alpha_through_a_gray_network_in_tiles(tmp_path: Path, denoise: Any) -> None:
    gray = saved(npconv.networks.strided(4, 1), tmp_path)
    image = pixels(4, 61, 50)
    data.write_image(tmp_path / "a.png", image)
    assert denoise("a.png", "-o", "b.tif", "--tile", 16) == 0
    result = data.read_image(tmp_path / "b.tif")
    np.testing.assert_allclose(result[:3], gray.predict(image[:3, None])[:, 0], atol=WITHIN)
    np.testing.assert_array_equal(result[3], image[3])


def test_sigma_for_networks_with_a_noise_level_map(tmp_path: Path, denoise: Any, capsys: Any) -> None:
    model = saved(npconv.Sequential(npconv.Conv2d(4, 3, 3, padding=1), npconv.Sigmoid()), tmp_path)
    image = pixels(3, 21, 30)
    data.write_image(tmp_path / "a.png", image)
    assert denoise("a.png", "--sigma", 25, "-o", "b.png") == 0
    expected = model.predict(image, noise_level=25)
    np.testing.assert_allclose(data.read_image(tmp_path / "b.png"), expected, atol=WITHIN)
    assert denoise("a.png", "-o", "c.png") == 1
    assert "takes a noise-level map" in (error := capsys.readouterr().err) and "noise_level is --sigma" in error
    saved(npconv.networks.strided(4), tmp_path)
    assert denoise("a.png", "--sigma", 25, "-o", "c.png") == 1
    assert "takes no noise-level map" in (error := capsys.readouterr().err) and "noise_level is --sigma" in error
    assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-memory", "much"), "must be a number of bytes, such as 500M"),
        (("--tile", "0"), "argument --tile: '0' must be at least 1"),
        (("--axes", "NN"), "axes (='NN') must name H and W"),
        (("--sigma", "-1"), "argument --sigma: '-1' must be a finite number of at least 0"),
    ],
)
def test_wrong_options_come_before_any_work(
    tmp_path: Path, model: Model, denoise: Any, capsys: Any, arguments: tuple[str, ...], message: str
) -> None:
    data.write_image(tmp_path / "a.png", pixels(3, 8, 8))
    assert denoise("a.png", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "denoised").exists()


def test_too_little_memory_says_how_much_is_enough(tmp_path: Path, model: Model, denoise: Any, capsys: Any) -> None:
    data.write_image(tmp_path / "a.png", pixels(3, 300, 300))
    assert denoise("a.png", "--max-memory", "1M") == 1
    assert "max_memory (=1M) is not enough for the smallest tile of this network: it needs" in capsys.readouterr().err
    assert list((tmp_path / "denoised").iterdir()) == []


def test_pages_that_do_not_fit_into_a_picture(tmp_path: Path, model: Model, denoise: Any, capsys: Any) -> None:
    np.save(tmp_path / "a.npy", pixels(5, 3, 8, 8))
    assert denoise("a.npy", "-o", "b.png") == 1
    assert ".png files hold one image, not 5 pages" in capsys.readouterr().err


def test_an_hdf5_file_of_a_folder_is_left_out(tmp_path: Path, model: Model, denoise: Any) -> None:
    data.write_image(tmp_path / "a.png", pixels(3, 8, 8))
    assert denoise(".") == 0  # model.h5 lies there too
    assert [path.name for path in (tmp_path / "denoised").iterdir()] == ["a.png"]


# Not ru_maxrss: that of a new process begins at what its parent had.
PEAK = """
import sys
from npconv.cli import main
if main(["denoise", *sys.argv[1:]]):
    raise SystemExit("failed")
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status is Linux's")
def test_memory_is_bounded_by_the_tile(tmp_path: Path) -> None:
    """A network of 32 channels needs more than 300 MB for 1600 x 1600 pixels in one piece."""
    conv = npconv.Conv2d
    network = npconv.Sequential(conv(1, 32, 3, padding=1), npconv.ReLU(), conv(32, 1, 3, padding=1))
    Model(network).save(tmp_path / "model.h5")
    np.save(tmp_path / "a.npy", pixels(1600, 1600))
    np.save(tmp_path / "small.npy", pixels(64, 64))

    def peak(name: str, memory: str, *more: str) -> float:
        options = ["--model", "model.h5", "--max-memory", memory, "-o", f"{name}.{memory}.npy", *more]
        environment = {**os.environ, "NPCONV_THREADS": "1", "NPCONV_BACKEND": "numpy"}
        run = subprocess.run(
            [sys.executable, "-c", PEAK, name, *options], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return int(run.stdout.split()[-1]) * 1024 / 1e6

    base = peak("small.npy", "2G")
    bounded, free = peak("a.npy", "60M") - base, peak("a.npy", "2G", "--tile", "1600") - base
    assert bounded < 60 < 300 < free
    tiled, whole = np.load(tmp_path / "a.npy.60M.npy"), np.load(tmp_path / "a.npy.2G.npy")
    assert abs(tiled.astype(int) - whole).max() <= 1
