"""The pictures of a run: files that open, of a sensible size, for ordinary and for sparse histories."""

from __future__ import annotations

import numpy as np
import pytest

from npconv import pictures
from npconv.model import Epoch

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("matplotlib")


def history(count: int, validated: bool = True) -> list[Epoch]:
    figures = (0.01, 20.0, 19.2) if validated else (None, None, None)
    return [Epoch(i + 1, 0.02 / (i + 1), *figures, seconds=1.0, lr=0.5) for i in range(count)]


def opened(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(("epochs", "validated", "noisy"), [(5, True, (18.0, 17.2)), (1, True, None), (3, False, None)])
def test_curves_are_drawn(tmp_path, epochs, validated, noisy):
    pictures.curves(history(epochs, validated), tmp_path / "curves.png", noisy)
    drawn = opened(tmp_path / "curves.png")
    assert drawn.shape[0] > 300 and drawn.shape[1] > 2 * drawn.shape[0]
    blue = (drawn == (31, 119, 180)).all(axis=2).sum()  # the colour of the validation curves
    assert (blue > 20) == validated
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_curves_show_both_panels_with_units(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: figures.append(figure))
    pictures.curves(history(4), tmp_path / "curves.png", (18.0, 17.2))
    errors, decibels = figures[0].axes
    assert (errors.get_xlabel(), errors.get_ylabel()) == ("epoch", "MSE (values in 0..1)")
    assert (decibels.get_xlabel(), decibels.get_ylabel()) == ("epoch", "PSNR (dB)")
    labels = [line.get_label() for line in decibels.lines]
    assert labels == [
        "mean of the images' PSNRs",
        "PSNR of the pooled MSE",
        "noisy input, mean",
        "noisy input, pooled",
    ]
    np.testing.assert_allclose(errors.lines[0].get_ydata(), [0.02, 0.01, 0.02 / 3, 0.005])
    np.testing.assert_allclose(decibels.lines[1].get_ydata(), [19.2] * 4)


def test_curves_need_an_epoch(tmp_path):
    with pytest.raises(ValueError, match=r"history \(=\[\]\) must have at least one epoch"):
        pictures.curves([], tmp_path / "curves.png")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_examples_show_the_pixels(tmp_path, channels):
    rng = np.random.default_rng(0)
    noisy, clean = rng.uniform(-20, 275, (2, 4, channels, 8, 12)).astype("float32")
    pictures.examples(noisy, clean, clean, tmp_path / "sheet.png", count=2)
    sheet = opened(tmp_path / "sheet.png")
    assert sheet.shape[1] > 3 * 12 * 10  # a pixel of the images is many pixels of the sheet
    assert (len(np.unique(sheet.reshape(-1, 3), axis=0)) > 30) and sheet.std() > 20
    gray = (sheet[..., 0] == sheet[..., 1]).mean()
    assert (gray == 1) == (channels != 3)


def test_examples_write_the_psnr_under_input_and_prediction(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "_save", lambda figure, path: figures.append(figure))
    clean = np.full((1, 3, 4, 4), 100.0)
    pictures.examples(clean + 25.5, clean, clean, tmp_path / "sheet.png")  # an error of a tenth: 20 dB
    assert [axes.get_title() for axes in figures[0].axes] == ["input", "prediction", "target"]
    assert [axes.get_xlabel() for axes in figures[0].axes] == ["20.00 dB", "identical", ""]
    pictures.examples(clean + 25.5, clean, clean, tmp_path / "sheet.png", captions=False)
    assert [axes.get_xlabel() for axes in figures[1].axes] == ["", "", ""]


def test_examples_refuse_what_does_not_match(tmp_path):
    images = np.zeros((2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"must be \(N, C, H, W\) of one shape, got .*\(1, 3, 4, 4\)"):
        pictures.examples(images, images[:1], images, tmp_path / "sheet.png")
    with pytest.raises(ValueError, match=r"count \(=0\) must be at least 1"):
        pictures.examples(images, images, images, tmp_path / "sheet.png", count=0)
    assert not list(tmp_path.iterdir())
