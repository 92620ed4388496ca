"""`npconv evaluate`: the figures that it prints are those of npconv.metrics, computed here another way."""

from __future__ import annotations

import csv
import math
import re

import numpy as np
import pytest

import npconv
from npconv import data, metrics
from npconv.cli import main, scenes, scores, sources
from npconv.data.blur import gaussian_blur
from npconv.model import Model

pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """clean/: a wide and a tall picture; noisy/: the same with noise; model.h5."""
    folder = tmp_path_factory.mktemp("evaluate")
    rng = np.random.default_rng(0)
    for kind in ("clean", "noisy"):
        (folder / kind).mkdir()
    for name, height, width in (("a.png", 96, 130), ("b.png", 120, 88)):
        clean = data.dead_leaves(1, height, width, rng)[0]
        noisy = np.clip(np.rint(clean + rng.normal(0, 20, clean.shape)), 0, 255).astype(np.uint8)
        data.write_image(folder / "clean" / name, clean)
        data.write_image(folder / "noisy" / name, noisy)
    npconv.manual_seed(0)
    Model(npconv.networks.strided(4)).save(folder / "model.h5")
    return folder


@pytest.fixture
def evaluate(folder, monkeypatch):
    """Runs `npconv evaluate` in the folder."""
    monkeypatch.chdir(folder)
    return lambda *arguments: main(["evaluate", "--model", "model.h5", *map(str, arguments)])


def images(folder, kind: str) -> list[np.ndarray]:
    return [data.read_image(folder / kind / name) for name in ("a.png", "b.png")]


def numbers(text: str, start: str) -> list[float]:
    """The numbers of the line that starts so."""
    line = next(line for line in text.splitlines() if line.startswith(start))
    return [float(number) for number in re.findall(r"-?\d+\.\d+", line[len(start) :])]


def pooled(noisy: list[np.ndarray], clean: list[np.ndarray]) -> float:
    """The PSNR of the pooled MSE: all values of all images in one row."""
    differences = [(n.astype(float) - c).ravel() / 255 for n, c in zip(noisy, clean, strict=True)]
    return -10 * math.log10(np.mean(np.concatenate(differences) ** 2) + 1e-8)


def test_ready_noisy_versions(folder, evaluate, tmp_path, capsys):
    assert evaluate("clean", "--noisy", "noisy", "--csv", tmp_path / "figures.csv") == 0
    out = capsys.readouterr().out
    clean, noisy = images(folder, "clean"), images(folder, "noisy")
    denoised = [Model.load(folder / "model.h5").predict(image) for image in noisy]
    rows = []
    for c, n, d in zip(clean, noisy, denoised, strict=True):
        rows.append([metrics.psnr(n, c), metrics.psnr(d, c), metrics.ssim(n, c), metrics.ssim(d, c)])
    np.testing.assert_allclose([numbers(out, "a.png"), numbers(out, "b.png")], rows, atol=0.0051)
    mean = np.mean(rows, axis=0)
    np.testing.assert_allclose(numbers(out, "mean of images' PSNRs (dB)"), mean[:2], atol=0.0051)
    np.testing.assert_allclose(numbers(out, "mean of images' SSIMs"), mean[2:], atol=0.000051)
    expected = pooled(noisy, clean), pooled(denoised, clean)
    np.testing.assert_allclose(numbers(out, "PSNR of the pooled MSE (dB)"), expected, atol=0.0051)
    with open(tmp_path / "figures.csv", newline="") as file:
        table = list(csv.reader(file))
    assert table[0] == ["name", "psnr_noisy", "psnr_denoised", "ssim_noisy", "ssim_denoised"]
    assert [row[0] for row in table[1:]] == ["a.png", "b.png"]
    np.testing.assert_allclose(np.array([row[1:] for row in table[1:]], float), rows, rtol=1e-4)


def test_added_noise_has_the_strength_asked_for_and_follows_the_seed(evaluate, capsys):
    def noisy_psnr(*options) -> list[float]:
        assert evaluate("clean", *options) == 0
        return numbers(capsys.readouterr().out, "mean of images' PSNRs (dB)")

    first = noisy_psnr("--noise", "gaussian:25")
    assert first[0] == pytest.approx(20 * math.log10(255 / 25), abs=0.1)  # noise is not clipped
    assert noisy_psnr("--noise", "gaussian:25", "--seed", "0") == first
    assert noisy_psnr("--noise", "gaussian:25", "--seed", "1") != first


def test_pixel_sampling_compares_with_the_block_means(folder, evaluate, capsys):
    errors = []
    for seed in range(12):  # this noise has heavy tails
        assert evaluate("clean/a.png", "--noise", "pixel-sampling:5-5", "--seed", seed) == 0
        errors.append(10 ** (-numbers(capsys.readouterr().out, "a.png")[0] / 10))
    # The expected squared error of a random pixel of a block is the block's variance.
    image = images(folder, "clean")[0][:, :95, :130].astype(float) / 255
    blocks = image.reshape(3, 19, 5, 26, 5)
    assert np.mean(errors) == pytest.approx(blocks.var(axis=(2, 4)).mean(), rel=0.1)


def test_gray_images_stay_gray_as_in_denoise(folder, evaluate, tmp_path, capsys):
    gray = images(folder, "clean")[0][:1]
    data.write_image(tmp_path / "gray.png", gray)
    assert evaluate(tmp_path / "gray.png", "--noise", "gaussian:20") == 0
    (noisy,), _ = data.parse_noise("gaussian:20").corrupt(gray, np.random.default_rng([0, 0]), 1)
    denoised = Model.load(folder / "model.h5").predict(np.repeat(noisy, 3, axis=0)).mean(axis=0, keepdims=True)
    printed = numbers(capsys.readouterr().out, "gray.png")
    np.testing.assert_allclose(printed[:2], [metrics.psnr(noisy, gray), metrics.psnr(denoised, gray)], atol=0.0051)


def test_a_network_that_begins_with_pixel_unshuffle(evaluate, tmp_path, capsys):
    conv = npconv.Conv2d(12, 12, 3, padding=1)
    network = npconv.Sequential(npconv.PixelUnshuffle(2), conv, npconv.PixelShuffle(2))
    Model(network).save(tmp_path / "model.h5")
    for options in ((), ("--pairs", 3)):
        assert evaluate("clean", "--noise", "gaussian:25", *options, "--model", tmp_path / "model.h5") == 0
        assert "mean of images' PSNRs (dB)" in capsys.readouterr().out


def test_patches_are_those_that_training_validates_on(folder, evaluate, capsys):
    noise = "gaussian:25"
    assert evaluate("clean", "--noise", noise, "--pairs", 7, "--patch-size", 16) == 0
    out = capsys.readouterr().out
    assert "a.png" not in out and "7 images" in out
    photos = data.open_photos(folder / "clean")
    pairs = sources.validation_pairs(photos, data.parse_noise(noise), 16, 7, sources.VALIDATION_SEED)
    _, mean, pooled_psnr = Model.load(folder / "model.h5").validate(*pairs)
    assert numbers(out, "mean of images' PSNRs (dB)")[1] == pytest.approx(mean, abs=0.0051)
    assert numbers(out, "PSNR of the pooled MSE (dB)")[1] == pytest.approx(pooled_psnr, abs=0.0051)


def test_pairs_of_a_file(folder, evaluate, tmp_path, capsys, monkeypatch):
    clean = np.random.default_rng(0).uniform(0, 200, (5, 3, 16, 16)).astype(np.float32)
    data.write_pairs(tmp_path / "pairs.h5", clean + 25.5, clean)
    assert evaluate(tmp_path / "pairs.h5") == 0
    out = capsys.readouterr().out
    assert "5 images" in out and numbers(out, "mean of images' PSNRs (dB)")[0] == 20
    monkeypatch.setattr(scenes, "PAIRS_AT_A_TIME", 3)
    read, original = [], data.HDF5Pairs._read
    monkeypatch.setattr(data.HDF5Pairs, "_read", lambda self, some: (read.append(len(some)), original(self, some))[1])
    assert evaluate(tmp_path / "pairs.h5", "--csv", tmp_path / "pairs.csv") == 0
    assert max(read) == 3 and sum(read) == len(clean)  # never the whole file
    lines = (tmp_path / "pairs.csv").read_text(encoding="utf-8").splitlines()
    names = [row["name"] for row in csv.DictReader(lines)]
    assert names[: len(clean)] == [f"pair {i}" for i in range(len(clean))]
    assert evaluate(tmp_path / "pairs.h5", "--noise", "gaussian:5") == 2
    assert "--noise would have no effect with a file of pairs" in capsys.readouterr().err


def test_photos_of_a_file(folder, evaluate, tmp_path, capsys):
    data.write_images(tmp_path / "photos.h5", np.stack([image[:, :64, :64] for image in images(folder, "clean")]))
    assert evaluate(tmp_path / "photos.h5", "--noise", "gaussian:25") == 0
    assert numbers(capsys.readouterr().out, "photos.h5[1]")[0] == pytest.approx(20.17, abs=0.3)
    data.write_images(tmp_path / "gray.h5", images(folder, "clean")[0][np.newaxis, :1])
    assert evaluate(tmp_path / "gray.h5", "--noise", "gaussian:25") == 2
    assert "the images have 1 channel(s), and the model is for 3" in capsys.readouterr().err


def test_the_best_blur(folder, evaluate, capsys):
    assert evaluate("clean", "--noisy", "noisy", "--blur") == 0
    out = capsys.readouterr().out
    found = re.search(r"the best Gaussian blur, sigma ([\d.]+): ([\d.]+) dB mean of images, ([\d.]+) dB pooled", out)
    sigma, mean, pooled_psnr = map(float, found.groups())
    clean, noisy = images(folder, "clean"), images(folder, "noisy")

    def blurred(sigma: float) -> tuple[float, float]:
        results = [gaussian_blur(image, sigma) for image in noisy]
        each = [metrics.psnr(r, c) for r, c in zip(results, clean, strict=True)]
        return float(np.mean(each)), pooled(results, clean)

    np.testing.assert_allclose(blurred(sigma), (mean, pooled_psnr), atol=0.0051)
    assert scores.BLUR_SIGMAS[0] < sigma < scores.BLUR_SIGMAS[-1]
    assert blurred(sigma - 0.1)[0] < mean > blurred(sigma + 0.1)[0]
    assert mean > numbers(out, "mean of images' PSNRs (dB)")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("clean",), "give --noise, such as gaussian:25, or --noisy FOLDER, and not both"),
        (("clean", "--noise", "gaussian:5", "--noisy", "noisy"), "and not both"),
        (("clean", "--noise", "snow"), "there is no noise named 'snow'"),
        (("nothing", "--noise", "gaussian:5"), "there is no image file or folder 'nothing'"),
        (("clean", "--noisy", "nothing"), "there is no folder 'nothing'"),
        (("clean", "--noisy", "."), "'.' has no noisy version of 'a.png' (and 1 more)"),
        (("clean", "--noisy", "noisy", "--seed", "1"), "--seed would have no effect with --noisy"),
        (("clean", "--noisy", "noisy", "--pairs", "5"), "--pairs would have no effect with --noisy"),
        (
            ("clean", "--noise", "gaussian:5", "--patch-size", "16"),
            "--patch-size would have no effect with whole",
        ),
        (("clean", "--noise", "gaussian:5", "--pairs", "5", "--patch-size", "9"), "'9' must be at least 11"),
        (("clean", "--noise", "gaussian:5", "--csv", "clean"), "'clean' is a folder, not a file to write"),
        (("clean", "--noise", "gaussian:5", "--csv", "model.h5"), "'model.h5' exists already"),
        (("clean", "--noise", "gaussian:5", "--csv", "no/x.csv"), "there is no folder 'no' for the CSV file"),
        (("clean", "--noise", "gaussian:5", "--model", "no.h5"), "there is no model file 'no.h5'"),
    ],
)
def test_wrong_arguments_are_one_line(evaluate, capsys, arguments, message):
    assert evaluate(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("npconv evaluate: error: ") and message in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""


def test_sizes_that_differ_and_images_too_small_are_named(folder, evaluate, tmp_path, capsys):
    for name in ("a.png", "b.png"):
        data.write_image(tmp_path / name, np.zeros((3, 8, 8), np.uint8))
    assert evaluate("clean", "--noisy", tmp_path) == 1
    assert "a.png (8 x 8, 3 channel(s)) must have the size of the clean a.png (130 x 96" in capsys.readouterr().err
    assert evaluate(tmp_path / "a.png", "--noise", "gaussian:5") == 1
    assert "a.png: images (8 x 8) must be at least 11 x 11 pixels" in capsys.readouterr().err
