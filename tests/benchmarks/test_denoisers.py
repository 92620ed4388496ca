"""The table of denoisers: its filters against other ways to compute them, its rows, and its trained methods."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("skimage")
pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.cpu  # the benchmarks compare on the CPU

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

import classical  # noqa: E402  # the benchmarks are scripts, not a package
import comparison_rows  # noqa: E402
import denoisers  # noqa: E402
import trained  # noqa: E402

import npconv as nc  # noqa: E402
from npconv import data, metrics  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small photographs, which are dead leaves."""
    folder: Path = tmp_path_factory.mktemp("dev")
    for i, leaves in enumerate(data.dead_leaves(3, 100, 90, np.random.default_rng(0))):
        data.write_image(folder / f"{i}.png", leaves)
    return folder


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(1)
    clean = data.dead_leaves(4, 40, 36, rng).astype("float32")
    return [(image + rng.normal(0, 25, image.shape).astype("float32"), image) for image in clean]


def test_each_filter_is_better_than_nothing_and_best_of_its_settings(scenes: Any) -> None:
    noisy = classical.mean_psnr([noisy for noisy, _ in scenes], scenes)
    assert noisy == pytest.approx(20 * np.log10(255 / 25), abs=0.2)
    for name, settings in classical.METHODS.items():
        found = classical.best_of(name, scenes, everywhere=True)
        best = classical.mean_psnr(found.denoised, scenes)
        assert best > noisy + 2, name
        assert all(image.min() >= 0 and image.max() <= 255 for image in found.denoised)
        tried = list(settings(classical.noise_levels(scenes, True)))
        assert found.setting in [setting.text for setting in tried]
        for setting in tried[:: max(1, len(tried) // 4)]:
            images = [np.clip(setting.filter(x / np.float32(255)) * 255, 0, 255) for x, _ in scenes]
            assert classical.mean_psnr(images, scenes) <= best + 1e-9, (name, setting.text)


def test_the_filters_are_the_libraries_own(scenes: Any) -> None:
    from scipy import ndimage
    from skimage import restoration

    noisy = scenes[0][0] / np.float32(255)
    levels = classical.noise_levels(scenes, True)
    sigma = levels[0][1](noisy)
    assert sigma * 255 == pytest.approx(25, rel=0.03)
    made = {name: {s.text: s.filter(noisy) for s in settings(levels)} for name, settings in classical.METHODS.items()}
    blurred = ndimage.gaussian_filter(noisy, (0, 1, 1), mode="reflect", truncate=4.0)
    np.testing.assert_allclose(made["blur"]["sigma 1.0"], blurred, atol=1e-5)
    windows = np.lib.stride_tricks.sliding_window_view(noisy, (3, 3), (1, 2))
    np.testing.assert_array_equal(made["median"]["3 x 3"][:, 1:-1, 1:-1], np.median(windows, (-1, -2)))
    last = noisy.transpose(1, 2, 0)
    nlm = restoration.denoise_nl_means(last, 5, 6, h=0.6 * sigma, sigma=sigma, channel_axis=2).transpose(2, 0, 1)
    np.testing.assert_allclose(made["nlm"]["patch 5, distance 6, h 0.6 x true level, sigma given"], nlm, atol=1e-5)
    tv = restoration.denoise_tv_chambolle(last, weight=sigma, eps=1e-5, channel_axis=2).transpose(2, 0, 1)
    np.testing.assert_allclose(made["tv"]["weight 1 x true level"], tv, atol=1e-5)


def test_the_noise_level_is_estimated_without_the_clean_image() -> None:
    image = np.linspace(0, 1, 200, dtype="float32") + np.random.default_rng(0).normal(0, 0.1, (3, 201, 200))
    assert classical.estimated_sigma(image) == pytest.approx(0.1, rel=0.02)
    assert classical.estimated_sigma(np.ones((1, 8, 8))) == 0


def test_classical_rows_add_up_in_the_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> None:
        options = ["--dev", str(folder), "--json", str(tmp_path / "rows.json"), "--pairs", "6", "--patch-size", "16"]
        monkeypatch.setattr(sys, "argv", ["denoisers.py", *options, *arguments])
        assert denoisers.main() == 0

    run("--methods", "noisy", "median", "--noise", "gaussian:25")
    run("--methods", "blur", "blur", "--noise", "gaussian:25", "--noise", "pixel-sampling", "--photographs", "2")
    rows = json.loads((tmp_path / "rows.json").read_text())
    gaussian, sampled = "gaussian:25", "pixel-sampling:5-8"
    made = [(row["noise"], row["method"]) for row in rows]
    assert made == [(gaussian, "noisy"), (gaussian, "median"), (gaussian, "blur"), (sampled, "blur")]
    assert [row["figures"].get("photographs", {}).get("images") for row in rows] == [3, 3, 2, None]
    assert all(row["figures"]["pairs"]["images"] == 6 for row in rows)
    # the noisy row, computed from the same draws another way
    pairs = data.PatchPairs(data.FolderPhotos(folder), data.Gaussian(25), 6, 16, target="clean", augment=False)
    inputs, targets = pairs.take(6, np.random.default_rng(0))
    assert rows[0]["figures"]["pairs"]["psnr"] == pytest.approx(metrics.psnr(inputs, targets))
    assert rows[0]["figures"]["pairs"]["ssim"] == pytest.approx(metrics.ssim(inputs, targets))
    out = capsys.readouterr().out
    assert "2 or 3 photographs" in out and out.count("pixel-sampling:5-8") == 1
    line = next(line for line in out.splitlines() if line.startswith("median"))
    assert (
        f"{rows[1]['figures']['pairs']['psnr']:.2f} dB" in line and f"{rows[1]['figures']['pairs']['ssim']:.4f}" in line
    )


def test_a_later_row_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    assert comparison_rows.read_rows(None) == comparison_rows.read_rows(path) == []
    figures = [{"pairs": {"images": 1, "psnr": p, "ssim": 0.5, "seconds": 1.0, "setting": ""}} for p in (20.0, 25.0)]
    old, new = (comparison_rows.Row("blur", "gaussian:25", figure, {}) for figure in figures)
    assert comparison_rows.write_rows(path, [old, new]) == comparison_rows.read_rows(path) == [new]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "npconv"], "trained methods need --train FOLDER"),
        (["--noise", "snow"], "there is no noise named 'snow'"),
        (["--methods", "magic"], "invalid choice: 'magic'"),
    ],
)
def test_wrong_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        denoisers.parse(["--dev", "photos", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("method", ["npconv", "torch", "self"])
def test_trained_methods_are_the_command_of_that_name(
    method: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is replaced by one that notes its arguments and writes a model made by `make_model`."""
    if method == "torch":
        pytest.importorskip("torch")
    noted: list[list[str]] = []
    kinds: list[str] = []

    def command(arguments: list[str]) -> int:
        noted.append(arguments)
        args = SimpleNamespace(batch_size=2, patch_size=16)
        model = trained.train.make_model(args, 3)
        kinds.append(type(model).__name__)
        output = Path(arguments[arguments.index("-o") + 1])
        output.mkdir(parents=True)
        model.save(output / "model.h5")
        (output / "history.csv").write_text("epoch,loss\n1,0.5\n")
        return 0

    monkeypatch.setattr(trained, "npconv_command", command)
    monkeypatch.setattr(trained.train, "make_model", lambda args, channels: nc.Model(nc.networks.unet(4, channels)))
    made = trained.train.make_model
    model, facts = trained.trained_model(method, folder, folder, "gaussian:25", "3s", 1, tmp_path)
    assert kinds == ["TorchModel" if method == "torch" else "Model"]
    assert trained.train.make_model is made  # nothing stays replaced
    expected = ["--data", str(folder), "--validation", str(folder), "--noise", "gaussian:25", "--time", "3s"]
    assert noted[0][1:9] == expected and ("self" in noted[0]) == (method == "self")
    assert model.predict(np.zeros((3, 16, 16))).shape == (3, 16, 16)
    assert facts["history"] == ["epoch,loss", "1,0.5"] and facts["training"].startswith("npconv train --data")


def test_a_training_that_fails_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "npconv_command", lambda arguments: 2)
    with pytest.raises(RuntimeError, match="npconv train ended with status 2"):
        trained.trained_model("npconv", folder, folder, "gaussian:25", "3s", 1)
