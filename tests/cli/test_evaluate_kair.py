"""`npconv evaluate --protocol kair`: its noise, its rounding and its mean, each computed here another way."""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import on_host

import npconv as nc
from npconv import data, protocols
from npconv.cli import main
from npconv.model import Model

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

import published  # the benchmarks are scripts, not a package

pytest.importorskip("PIL.Image")

# Where the published images and weights lie, on machines that have them: they are no part of the project.
SHARED = Path(os.environ.get("NPCONV_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
SET12 = {"01": 30.2076, "03": 30.8202}  # dB, by PyTorch with the same arrays and noise


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/: a wide RGB picture and a tall gray one; same-gray.h5 and same-rgb.h5: networks that change nothing."""
    folder: Path = tmp_path_factory.mktemp("kair")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    data.write_image(folder / "images" / "a.png", data.dead_leaves(1, 40, 70, rng)[0])
    data.write_image(folder / "images" / "b.png", data.dead_leaves(1, 60, 33, rng, 1)[0])
    for name, channels in (("gray", 1), ("rgb", 3)):
        same = nc.Conv2d(channels, channels, 1, bias=False)
        same.weight.data[...] = nc.asarray(np.eye(channels, dtype="float32")[:, :, np.newaxis, np.newaxis])
        Model(same).save(folder / f"same-{name}.h5")
    return folder


@pytest.fixture
def evaluate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `npconv evaluate --protocol kair` in the folder."""
    monkeypatch.chdir(folder)
    return lambda *arguments: main(["evaluate", "--protocol", "kair", *map(str, arguments)])


def noise_of_the_protocol(image: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """An (H, W, C) uint8 image with noise as KAIR's scripts add it: float32, 0..1; the global state stays as it was."""
    state = np.random.get_state()  # noqa: NPY002
    try:
        np.random.seed(seed)  # noqa: NPY002
        values = np.float32(image / 255.0)
        values += np.random.normal(0, sigma / 255.0, image.shape)  # noqa: NPY002
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return values


def psnr_of_rounded(values: np.ndarray, clean: np.ndarray) -> float:
    """The PSNR of values of 0..1 after clamping and rounding to 8 bits."""
    eight_bits = np.uint8((np.clip(values, 0, 1) * 255.0).round())
    return float(20 * np.log10(255 / np.sqrt(np.mean((eight_bits.astype(float) - clean) ** 2))))


def denoised(out: str) -> list[float]:
    """The PSNRs of the denoised images, one a line, then their mean."""
    lines = [line for line in out.splitlines() if re.match(r"[ab0-9]+\.png|mean of images' PSNRs", line)]
    return [float(re.findall(r"(\d+\.\d+) dB", line)[1]) for line in lines]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", [0, 5])
def test_the_noise_has_the_bits_of_numpys_legacy_generator(channels: int, seed: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (channels, 37, 20), np.uint8)
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]  # noqa: NPY002
    found = protocols.noisy(image, 25, seed)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]  # noqa: NPY002
    expected = noise_of_the_protocol(image.transpose(1, 2, 0), 25, seed).transpose(2, 0, 1)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected * np.float32(255))
    assert found.min() < 0 and found.max() > 255  # not clipped


def test_rounding_is_to_the_nearest_and_halves_go_to_the_even() -> None:
    values = np.array([-3.0, 0.4, 0.5, 0.51, 1.5, 2.5, 254.5, 255.5, 300.0])
    assert protocols.rounded(values).tolist() == [0, 0, 0, 1, 2, 2, 254, 255, 255]
    assert protocols.rounded(values).dtype == np.uint8
    with pytest.raises(ValueError, match="not numbers"):
        protocols.rounded(np.array([1.0, np.nan]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros((1, 4, 4), np.float32), 25), TypeError, r"the image \(float32\) must be an array of uint8"),
        (([[0]], 25), TypeError, r"the image \(list\) must be an array of uint8"),
        ((np.zeros((4, 4), np.uint8), 25), ValueError, r"the image \(shape \(4, 4\)\) must be \(C, H, W\)"),
        ((np.zeros((1, 4, 4), np.uint8), -1), ValueError, r"sigma \(=-1\) must be at least 0"),
        ((np.zeros((1, 4, 4), np.uint8), 25, -1), ValueError, r"seed \(=-1\) must be at least 0"),
        ((np.zeros((1, 4, 4), np.uint8), 25, 2**32), ValueError, r"seed \(=4294967296\) must be below 2\*\*32"),
    ],
)
def test_errors_of_the_noise(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        protocols.noisy(*arguments)


@pytest.mark.parametrize(("model", "mode"), [("same-gray.h5", "L"), ("same-rgb.h5", "RGB")])
def test_images_are_read_as_the_network_needs_them(
    folder: Path, evaluate: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str, mode: str
) -> None:
    from PIL import Image

    table = tmp_path / "figures.csv"
    assert evaluate("images", "--noise", "gaussian:30", "--model", model, "--csv", table) == 0
    out = capsys.readouterr().out
    expected = []
    for name in ("a.png", "b.png"):
        with Image.open(folder / "images" / name) as image:
            clean = np.asarray(image.convert(mode)).reshape(image.height, image.width, -1)
        expected.append(psnr_of_rounded(noise_of_the_protocol(clean, 30), clean))
    np.testing.assert_allclose(denoised(out), [*expected, np.mean(expected)], atol=0.006)
    with open(table, newline="") as file:
        rows = [float(row[2]) for row in csv.reader(file) if row[0] != "name"]
    np.testing.assert_allclose(rows, expected, atol=2e-3)  # pillow and npconv may round a gray value otherwise
    assert out.startswith("protocol: kair (seed 0 before each image, noise not clipped, output rounded to 8 bits")


def test_every_image_has_the_same_noise_and_seed_changes_it(evaluate: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def psnrs(*options: object) -> list[float]:
        assert evaluate(*options, "--noise", "gaussian:25", "--model", "same-gray.h5") == 0
        return denoised(capsys.readouterr().out)

    alone, after = psnrs("images/b.png"), psnrs("images/a.png", "images/b.png")
    assert alone[0] == after[1]
    assert psnrs("images/b.png", "--seed", 0) == alone != psnrs("images/b.png", "--seed", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("images",), "--protocol kair needs --noise gaussian:SIGMA with one sigma"),
        (("images", "--noise", "poisson:30"), "with one sigma, not poisson:30"),
        (("images", "--noise", "pixel-sampling"), "with one sigma, not pixel-sampling:5-8"),
        (("images", "--noise", "gaussian:25", "--pairs", "5"), "--pairs contradicts --protocol kair"),
        (("images", "--noise", "gaussian:25", "--range", "255"), "--range contradicts --protocol kair"),
        (("images", "--noisy", "images"), "--noisy contradicts --protocol kair"),
        (("images", "--noise", "gaussian:25", "--seed", 2**32), "--seed (=4294967296) must be below 2**32"),
        (("images", "--noise", "gaussian:25", "--sigma", "25"), "--sigma would have no effect with a network without"),
        (("images", "--noise", "gaussian:25", "--model", "photos.h5"), "photos.h5"),
    ],
)
def test_what_contradicts_the_protocol_is_one_line(
    folder: Path, evaluate: Any, capsys: pytest.CaptureFixture[str], arguments: Any, message: str
) -> None:
    model = () if "--model" in arguments else ("--model", "same-gray.h5")
    assert evaluate(*arguments, *model) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("npconv evaluate: error: ") and message in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""


def test_hdf5_and_images_of_more_bits_are_refused(
    evaluate: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--noise", "gaussian:25", "--model", "same-gray.h5")
    data.write_images(tmp_path / "photos.h5", np.zeros((1, 1, 16, 16), np.uint8))
    assert evaluate(tmp_path / "photos.h5", *options) == 2
    assert "--protocol kair measures image files, not an HDF5 file" in capsys.readouterr().err
    data.write_image(tmp_path / "deep.png", np.zeros((1, 16, 16), np.uint16))
    assert evaluate(tmp_path / "deep.png", *options) == 1
    assert "deep.png (uint16) must have 8 bits a value for --protocol kair" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.cpu  # minutes on the stand-in for a GPU
@pytest.mark.skipif(not (SHARED / "Set12").is_dir(), reason=f"no published images and weights in {SHARED}")
def test_published_figures(evaluate: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    network = nc.networks.dncnn(batch_norm=False)
    nc.load_state(network, nc.read_state(SHARED / "weights" / "dncnn_25.pth"))
    for path in ("dncnn_25.pth", "dncnn_sigma25_gray.npz"):
        same = on_host(published.dncnn_s(SHARED / "weights" / path).state_dict())
        assert all(np.array_equal(same[name], value) for name, value in on_host(network.state_dict()).items())
    Model(network).save(tmp_path / "dncnn.h5")
    images = [SHARED / "Set12" / f"{name}.png" for name in SET12]
    assert evaluate(*images, "--noise", "gaussian:25", "--model", tmp_path / "dncnn.h5") == 0
    np.testing.assert_allclose(denoised(capsys.readouterr().out)[:-1], list(SET12.values()), atol=0.006)
