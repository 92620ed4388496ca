"""npconv.denoise and denoise_file: every form of image that the command takes, as arrays and files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import npconv as nc
from npconv import networks
from npconv.model import Model


def made(channels: int = 3, seed: int = 0) -> Model:
    nc.manual_seed(seed)
    model = Model(networks.strided(4, channels))
    for parameter in model.network.parameters():
        parameter.data[...] *= 3  # so that the output is far from one colour
    return model


def random(shape: tuple[int, ...], dtype: str = "uint8", white: float = 255) -> np.ndarray:
    values = np.random.default_rng(0).uniform(0, white, shape)
    return np.rint(values).astype(dtype) if np.dtype(dtype).kind in "ui" else values.astype(dtype)


def predicted(model: Model, image: np.ndarray, white: float) -> np.ndarray:
    """What the network makes of (1 or 3, H, W), by other ways: gray thrice, RGB one by one."""
    x, takes = image.astype("float64") * (255 / white), 1 if model.network[0].in_channels == 1 else 3
    if takes == len(image):
        y = model.predict(x)
    elif takes == 1:
        y = np.concatenate([model.predict(channel[None]) for channel in x])
    else:
        y = model.predict(np.repeat(x, 3, axis=0)).mean(axis=0, keepdims=True)
    return np.asarray(y) * (white / 255)


@pytest.mark.parametrize(
    ("dtype", "white"),
    [("uint8", 255), ("uint16", 65535), ("float32", 255), ("float64", 1), ("float16", 1), (">u2", 65535)],
)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("takes", [1, 3])
def test_dtype_and_alpha_are_kept(dtype: str, white: float, channels: int, takes: int) -> None:
    model, image = made(takes), random((channels, 21, 30), dtype, white)
    before, colours = image.copy(), 1 if channels <= 2 else 3
    result = nc.denoise(model, image)
    assert (result.dtype.str, result.shape) == (image.dtype.str, image.shape)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(result[colours:], image[colours:])
    tolerance = 2e-3 if dtype == "float16" else 0.51 if np.dtype(dtype).kind == "u" else 1e-5 * white
    expected = predicted(model, image[:colours], white)
    np.testing.assert_allclose(result[:colours], expected, rtol=0, atol=tolerance)
    assert expected.std() > 0.02 * white


def test_layouts() -> None:
    model = made()
    stack = random((5, 3, 21, 30))
    expected = nc.denoise(model, stack)
    np.testing.assert_allclose(expected, model.predict(stack), atol=0.51)
    np.testing.assert_array_equal(nc.denoise(model, stack.transpose(0, 2, 3, 1)), expected.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(nc.denoise(model, stack[0].transpose(1, 2, 0)), expected[0].transpose(1, 2, 0))
    gray = nc.denoise(model, stack[0, 0])
    assert gray.shape == (21, 30)
    pages = nc.denoise(model, stack[0], axes="NHW")
    np.testing.assert_array_equal(pages[0], gray)
    np.testing.assert_array_equal(nc.denoise(model, stack[:, 0]), [nc.denoise(model, page) for page in stack[:, 0]])
    as_list = nc.denoise(model, stack[0].tolist(), white=255)
    np.testing.assert_array_equal(as_list, np.rint(nc.denoise(model, stack[0] * 1.0)))
    assert nc.denoise(model, stack[0] > 127).dtype == np.uint8


def test_white_tiles_and_progress() -> None:
    model, image = made(), random((3, 61, 50), "uint16", 4095)
    seen: list[tuple[int, int]] = []
    result = nc.denoise(model, image, white=4095, tile=16, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_allclose(result, predicted(model, image, 4095), atol=0.51)
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1)) and len(seen) > 8
    np.testing.assert_allclose(nc.denoise(model, image, white=4095, max_memory="30M"), result, atol=1)


def test_a_noise_level_is_a_number_or_one_for_each_pixel() -> None:
    network = nc.Sequential(nc.Conv2d(4, 3, 1))
    weight = np.zeros((3, 4, 1, 1), "float32")
    weight[range(3), range(3)], weight[:, 3] = 1, 0.5
    network[0].weight, network[0].bias = nc.asarray(weight), nc.asarray(np.zeros(3, "float32"))
    image, levels = random((3, 8, 9), "uint16", 40000), np.random.default_rng(1).uniform(0, 50, (8, 9))
    for level in (0, 30, levels):
        result = nc.denoise(Model(network), image, noise_level=level)
        np.testing.assert_allclose(result, image + 0.5 * 257 * np.asarray(level), atol=1)
    with pytest.raises(ValueError, match=r"give noise_level.*--sigma on the command line"):
        nc.denoise(Model(network), image)


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (np.full((3, 8, 8), 1.2), {}, ValueError, "the image's largest value (1.2) fits neither 0..1 nor 0..255"),
        (np.full((3, 8, 8), np.nan), {"white": 1}, ValueError, "the image has values that are not finite"),
        (np.full((3, 8, 8), 9, "int16"), {}, ValueError, "int16 has no agreed value for white: say what is white"),
        (np.zeros((3, 8, 8), "uint8"), {"white": 0}, ValueError, "white (=0) must be greater than 0"),
        (np.zeros((3, 8, 8), "uint8"), {"axes": "HWN"}, None, ""),
        (np.zeros((3, 8, 8), "uint8"), {"axes": "HW"}, ValueError, "of shape (3, 8, 8) is not of the axes HW"),
        (np.zeros((9, 8, 8, 9), "uint8"), {}, ValueError, "is neither an image nor a stack of images"),
        (np.zeros((3, 0, 8), "uint8"), {}, ValueError, "of shape (3, 0, 8) is not of the axes"),
        ("photo.png", {}, TypeError, "image (dtype <U9) must be numbers"),
        (np.zeros((3, 8, 8), "uint8"), {"noise_level": 5}, ValueError, "the network takes no noise-level map"),
    ],
)
def test_what_is_no_image(image: Any, options: dict[str, Any], error: Any, message: str) -> None:
    if error is None:
        assert nc.denoise(made(), image, **options).shape == image.shape
        return
    with pytest.raises(error, match=re.escape(message)):
        nc.denoise(made(), image, **options)


def test_models_that_denoise_nothing(tmp_path: Path) -> None:
    image = np.zeros((3, 8, 8), "uint8")
    half = Model(nc.Sequential(nc.Conv2d(3, 3, 3, stride=2, padding=1)))
    np.save(tmp_path / "a.npy", image)
    for call in (lambda m: nc.denoise(m, image), lambda m: nc.denoise_file(m, tmp_path / "a.npy", tmp_path / "b.npy")):
        with pytest.raises(TypeError, match=r"model \(Sequential\) must be a Model"):
            call(networks.strided(4))
        with pytest.raises(ValueError, match="changes the size of images by 1/2 x 1/2: it is not a denoiser"):
            call(half)
    with pytest.raises(ValueError, match="the image's 3 channels do not fit a network for 5 channels"):
        nc.denoise(Model(nc.Conv2d(5, 5, 1)), image)
    with pytest.raises(ValueError, match=re.escape("the model makes (5, 8, 8) of an image of shape (3, 8, 8)")):
        nc.denoise(Model(nc.Conv2d(3, 5, 1)), image)


# ---- files ----
def test_from_file_to_file(tmp_path: Path) -> None:
    model, stack = made(), random((2, 4, 45, 33), "uint16", 65535)
    np.save(tmp_path / "a.npy", stack)
    done = nc.denoise_file(model, tmp_path / "a.npy", tmp_path / "b.npy", tile=16)
    assert (done.shape, done.dtype, done.white) == ((2, 4, 45, 33), np.uint16, 65535)
    result = np.load(tmp_path / "b.npy")
    np.testing.assert_allclose(result.astype(float), nc.denoise(model, stack), atol=1)
    np.testing.assert_array_equal(result[:, 3], stack[:, 3])
    nc.denoise_file(model, str(tmp_path / "a.npy"), str(tmp_path / "c.npy"), white=4095 * 16, axes="NCHW")
    assert abs(np.load(tmp_path / "c.npy").astype(int) - result).max() > 1


def test_no_file_is_overwritten_by_surprise(tmp_path: Path) -> None:
    model, image = made(), random((3, 8, 8))
    source, target = tmp_path / "a.npy", tmp_path / "b.npy"
    np.save(source, image)
    nc.denoise_file(model, source, target)
    first = target.read_bytes()
    with pytest.raises(FileExistsError, match="exists already: choose another name, or overwrite=True"):
        nc.denoise_file(made(seed=1), source, target)
    assert target.read_bytes() == first
    nc.denoise_file(made(seed=1), source, target, overwrite=True)
    assert target.read_bytes() != first
    with pytest.raises(ValueError, match="must be another file than the source"):
        nc.denoise_file(model, source, source, overwrite=True)
    np.testing.assert_array_equal(np.load(source), image)
    with pytest.raises(FileNotFoundError):
        nc.denoise_file(model, tmp_path / "none.npy", tmp_path / "c.npy")
    np.save(source, np.full((3, 8, 8), np.inf))
    with pytest.raises(ValueError, match="not finite"):
        nc.denoise_file(model, source, tmp_path / "c.npy", white=1)
    assert not (tmp_path / "c.npy").exists() and len(list(tmp_path.iterdir())) == 2
