"""`npconv evaluate` and networks with an input for the noise level: what they are told, and when that is unknown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npconv as nc
from npconv import data
from npconv.cli import denoiser, main
from npconv.model import Model

pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """gray.png; model.h5, of a network that takes gray images and a noise level; plain.h5, of one without."""
    data.write_image(tmp_path / "gray.png", data.dead_leaves(1, 40, 50, np.random.default_rng(0), 1)[0])
    Model(nc.Conv2d(2, 1, 3, padding=1)).save(tmp_path / "model.h5")
    Model(nc.Conv2d(1, 1, 3, padding=1)).save(tmp_path / "plain.h5")
    return tmp_path


@pytest.fixture
def told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float | None]]:
    """Runs the command, and gives the noise levels that predictions were asked for with."""

    def run(*arguments: str) -> list[float | None]:
        levels: list[float | None] = []

        def images(model: Model, x: np.ndarray, level: Any = None) -> np.ndarray:
            assert np.ptp(level) == 0 if level is not None and np.ndim(level) and len(x) == 1 else True
            levels.append(float(level[0].mean()) if np.ndim(level) else level)
            return x

        monkeypatch.setattr(denoiser, "denoised_colours", images)
        monkeypatch.setattr(denoiser, "predict", images)
        monkeypatch.chdir(folder)
        assert main(["evaluate", "gray.png", "--model", "model.h5", *arguments]) == 0
        return levels

    return run


@pytest.mark.parametrize("options", [("--protocol", "kair"), (), ("--pairs", "3", "--patch-size", "16")])
def test_the_network_is_told_the_noises_sigma_or_what_the_user_says(told: Any, options: tuple[str, ...]) -> None:
    assert told("--noise", "gaussian:25", *options) == [25]
    assert told("--noise", "gaussian:25", "--sigma", "10", *options) == [10]
    assert told("--noise", "gaussian:25", "--model", "plain.h5", *options) == [None]


def test_the_level_of_other_noise_must_be_given(told: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert told("--noise", "poisson:30", "--sigma", "12.5") == [12.5]
    assert told("--noise", "poisson:30", "--sigma", "0") == [0]
    assert told("--noisy", ".", "--sigma", "12.5") == [12.5]
    capsys.readouterr()
    for options, unknown in ((("--noise", "poisson:30"), ", which poisson:30 does not say"), (("--noisy", "."), "")):
        assert main(["evaluate", "gray.png", "--model", "model.h5", *options]) == 2
        error = f"the network takes the noise level{unknown}: give --sigma, such as --sigma 25"
        assert capsys.readouterr().err == f"npconv evaluate: error: {error}\n"


@pytest.mark.parametrize("sigma", ["-0.1", "-1", "nan", "much"])
def test_a_level_must_be_a_number_of_at_least_0(folder: Path, capsys: pytest.CaptureFixture[str], sigma: str) -> None:
    assert main(["evaluate", str(folder / "gray.png"), "--noise", "gaussian:25", f"--sigma={sigma}"]) == 2
    assert f"argument --sigma: {sigma!r} must be a" in capsys.readouterr().err


def test_noise_that_is_none_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(folder / "gray.png"), "--noise", "none"]) == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--pairs", "3", "--patch-size", "16")])
def test_each_image_of_a_range_of_noise_has_its_own_level(told: Any, options: tuple[str, ...]) -> None:
    (level,) = told("--noise", "gaussian:10-50", *options)
    assert 10 < level < 50 and told("--noise", "gaussian:10-50", *options) == [level]
    assert told("--noise", "gaussian:10-50", "--seed", "1", *options) != [level]
    assert told("--noise", "gaussian:10-50", "--sigma", "12.5", *options) == [12.5]


@pytest.mark.parametrize("options", [(), ("--pairs", "3", "--patch-size", "16"), ("--protocol", "kair")])
def test_a_network_that_takes_a_level_is_measured(
    folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    network = nc.networks.ffdnet(3, 4)
    network["model"][-1].bias.fill(0.5)  # so that not all is clipped
    Model(network).save(folder / "ffdnet.h5")
    arguments = ["evaluate", str(folder / "gray.png"), "--noise", "gaussian:25", "--model", str(folder / "ffdnet.h5")]
    assert main([*arguments, *options]) == 0
    own = capsys.readouterr().out
    assert main([*arguments, *options, "--sigma", "25"]) == 0
    assert capsys.readouterr().out == own
    assert main([*arguments, *options, "--sigma", "60"]) == 0
    assert capsys.readouterr().out != own


def test_the_level_is_that_of_the_noise(folder: Path) -> None:
    from npconv.cli.scenes import with_noise

    flat = np.full((1, 300, 300), 128, np.uint8)
    for scene in with_noise([(str(i), flat) for i in range(3)], data.Gaussian(5, 50), 0):
        assert (scene.noisy - 128).std() == pytest.approx(scene.noise_level, rel=0.02)
