"""`npconv denoise`: dtypes and channels are kept, values pass on the model's scale, inputs are safe."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

import npconv
from npconv import data, noise_map
from npconv.cli import denoise as denoise_command
from npconv.cli import main
from npconv.model import Model

pytest.importorskip("PIL.Image")
pytest.importorskip("tifffile")


def save_model(path, image_channels: int = 3, seed: int = 0) -> Model:
    npconv.manual_seed(seed)
    model = Model(npconv.networks.strided(4, image_channels))
    for parameter in model.network.parameters():
        parameter.data[...] *= 3  # so that the output is far from one colour
    model.save(path)
    return model


@pytest.fixture
def rgb_model(tmp_path):
    return save_model(tmp_path / "model.h5")


@pytest.fixture
def gray_model(tmp_path):
    return save_model(tmp_path / "model.h5", 1)


@pytest.fixture
def denoise(tmp_path, monkeypatch):
    """Runs `npconv denoise` in tmp_path with tmp_path/model.h5."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["denoise", "--model", "model.h5", *map(str, arguments)])


def random_image(channels: int, dtype, height: int = 21, width: int = 30, white: float = 255) -> np.ndarray:
    image = np.random.default_rng(channels).uniform(0, white, (channels, height, width))
    return np.rint(image).astype(dtype) if np.dtype(dtype).kind == "u" else image.astype(dtype)


FORMATS = [
    *[("png", channels, "uint8", 255) for channels in (1, 2, 3, 4)],
    ("png", 1, "uint16", 65535),
    ("jpg", 1, "uint8", 255),
    ("jpeg", 3, "uint8", 255),
    *[(ending, c, "uint16", 65535) for ending in ("tif", "npy") for c in (1, 2, 3, 4)],
    ("tiff", 3, "float32", 255),
    ("npy", 3, "float64", 255),
    ("npy", 4, "float32", 1),
    ("npy", 1, "float16", 1),
]


@pytest.mark.filterwarnings("ignore:.*is read as gray and alpha")
@pytest.mark.parametrize(("ending", "channels", "dtype", "white"), FORMATS)
def test_dtype_channels_and_scale_are_kept(tmp_path, rgb_model, denoise, ending, channels, dtype, white):
    name = f"image.{ending}"
    data.write_image(tmp_path / name, random_image(channels, dtype, white=white))
    assert denoise(name) == 0
    source, result = data.read_image(tmp_path / name), data.read_image(tmp_path / "denoised" / name)
    assert (result.dtype, result.shape) == (source.dtype, source.shape)
    colours = 1 if channels <= 2 else 3
    np.testing.assert_array_equal(result[colours:], source[colours:])  # alpha
    scaled = np.repeat(source[:colours], 3 // colours, axis=0).astype("float64") * (255 / white)
    expected = rgb_model.predict(scaled) * (white / 255)
    expected = expected if colours == 3 else expected.mean(axis=0, keepdims=True)
    tolerance = {"float16": 2e-3, "float32": 1e-3, "float64": 1e-3}.get(dtype, 0.51)
    if ending.startswith("jp"):  # what a lossy file makes of the expected image
        data.write_image(tmp_path / f"expected.{ending}", np.rint(expected).astype("uint8"))
        expected, tolerance = data.read_image(tmp_path / f"expected.{ending}").astype("float64"), 5
    np.testing.assert_allclose(result[:colours], expected, atol=tolerance * max(1, white / 255))
    assert expected.std() > 0.02 * white


@pytest.mark.parametrize("dtype", [">u2", ">i4", ">f4", ">f8"])
def test_the_byte_order_is_kept(tmp_path, rgb_model, denoise, dtype):
    image = random_image(4, dtype)
    np.save(tmp_path / "big.npy", image)
    np.save(tmp_path / "native.npy", image.astype(np.dtype(dtype).newbyteorder("=")))
    assert denoise("big.npy", "native.npy", "--range", "255") == 0
    big, native = (np.load(tmp_path / "denoised" / f"{name}.npy") for name in ("big", "native"))
    assert big.dtype.str == dtype
    np.testing.assert_array_equal(big, native)


def unshuffled(channels: int) -> npconv.Sequential:
    """A denoiser that begins with pixels as channels, and ends with channels as pixels."""
    inside = npconv.Sequential(npconv.Conv2d(4 * channels, 4 * channels, 3, padding=1), npconv.Sigmoid())
    return npconv.Sequential(npconv.PixelUnshuffle(2), inside, npconv.PixelShuffle(2))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_begins_with_pixel_unshuffle(tmp_path, denoise, channels):
    npconv.manual_seed(0)
    model = Model(unshuffled(channels))
    model.save(tmp_path / "model.h5")
    image = random_image(3, "float32")
    data.write_image(tmp_path / "a.npy", image)
    assert denoise("a.npy", "-o", "b.npy") == 0
    expected = model.predict(image[np.newaxis] if channels == 3 else image[:, np.newaxis]).reshape(image.shape)
    np.testing.assert_allclose(data.read_image(tmp_path / "b.npy"), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("network", "channels"),
    [
        (npconv.Sequential(npconv.PixelUnshuffle(2), npconv.PixelUnshuffle(2), npconv.Conv2d(48, 8, 3)), 3),
        (npconv.Sequential(npconv.PixelShuffle(2), npconv.Conv2d(3, 8, 3)), 12),
        (npconv.Sequential(npconv.ReLU(), npconv.Conv2d(5, 8, 3), npconv.PixelUnshuffle(2)), 5),
        (npconv.Sum(npconv.Identity(), unshuffled(3)), 3),
        (npconv.Sequential(npconv.Concat(npconv.Identity(), npconv.ReLU()), npconv.Conv2d(6, 3, 3)), 3),
        (npconv.Sequential(npconv.Sum(npconv.Identity(), npconv.ReLU()), npconv.Conv2d(3, 3, 3)), 3),
        (npconv.Sequential(npconv.PixelUnshuffle(2), npconv.Conv2d(3, 8, 3)), None),  # no image has 3/4 channels
        (npconv.ReLU(), None),
    ],
)
def test_the_channels_of_images_follow_from_the_network(network, channels):
    assert noise_map.network_channels(network) == channels


def test_rgb_through_a_gray_network_goes_channel_by_channel(tmp_path, gray_model, denoise):
    image = random_image(3, "float32")
    data.write_image(tmp_path / "a.npy", image)
    assert denoise("a.npy", "-o", "b.tif") == 0
    expected = [gray_model.predict(channel[np.newaxis])[0] for channel in image]
    np.testing.assert_allclose(data.read_image(tmp_path / "b.tif"), expected, atol=1e-3)


def test_range_says_what_is_white(tmp_path, rgb_model, denoise):
    image = random_image(3, "uint16", white=4095)
    data.write_image(tmp_path / "a.npy", image)
    assert denoise("a.npy", "--range", "4095") == 0
    expected = rgb_model.predict(image * (255 / 4095)) * (4095 / 255)
    np.testing.assert_allclose(data.read_image(tmp_path / "denoised" / "a.npy"), expected, atol=0.6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.full((3, 8, 8), 1.2),
            "largest value (1.2) fits neither 0..1 nor 0..255: say what is white, such as white=4095 (--range 4095",
        ),
        (np.full((3, 8, 8), 3e4), "largest value (30000) fits neither"),
        (np.full((3, 8, 8), np.nan), "not finite"),
        (np.full((3, 8, 8), 9, np.int16), "int16 has no agreed value for white: say what is white"),
    ],
)
def test_an_unclear_scale_is_an_error(tmp_path, rgb_model, denoise, capsys, image, message):
    data.write_image(tmp_path / "a.npy", image)
    assert denoise("a.npy") == 1
    error = capsys.readouterr().err
    assert error.startswith("npconv denoise: error: a.npy: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "denoised" / "a.npy").exists()


def test_a_black_image_gives_no_warning(tmp_path, rgb_model, denoise, capsys):
    data.write_image(tmp_path / "a.png", np.ones((3, 8, 8), np.uint8))
    assert denoise("a.png") == 0
    assert capsys.readouterr().err == ""


def test_folders_in_and_out(tmp_path, rgb_model, denoise, capsys):
    (tmp_path / "in").mkdir()
    for name in ("b.png", "a.npy"):
        data.write_image(tmp_path / "in" / name, random_image(3, "uint8"))
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    (tmp_path / "in" / ".hidden.png").write_text("not an image")
    assert denoise("in", "-o", "out/deep") == 0
    assert sorted(p.name for p in (tmp_path / "out" / "deep").iterdir()) == ["a.npy", "b.png"]
    assert "b.png  (30 x 21, 3 channels, uint8, 0..255, " in capsys.readouterr().out


def test_one_image_to_a_file_to_a_folder_and_to_one_to_be_made(tmp_path, rgb_model, denoise):
    data.write_image(tmp_path / "a.png", random_image(3, "uint8"))
    (tmp_path / "there").mkdir()
    for output in ("new/b.tif", "there", "made/"):
        assert denoise("a.png", "-o", output) == 0
    assert (tmp_path / "new" / "b.tif").is_file()
    assert (tmp_path / "there" / "a.png").is_file() and (tmp_path / "made" / "a.png").is_file()


def test_a_broken_image_does_not_stop_the_others(tmp_path, rgb_model, denoise, capsys):
    (tmp_path / "a.png").write_bytes(b"not an image")
    data.write_image(tmp_path / "b.png", random_image(3, "uint8"))
    assert denoise("a.png", "b.png") == 1
    errors = capsys.readouterr().err.splitlines()
    assert "a.png" in errors[0] and errors[1] == "npconv denoise: 1 of 2 images failed"
    assert [p.name for p in (tmp_path / "denoised").iterdir()] == ["b.png"]


def test_nothing_is_overwritten_by_surprise(tmp_path, rgb_model, denoise, capsys):
    image = random_image(3, "uint8")
    data.write_image(tmp_path / "a.png", image)
    assert denoise("a.png", "-o", "b.png") == 0
    first = (tmp_path / "b.png").read_bytes()
    save_model(tmp_path / "model.h5", seed=1)
    assert denoise("a.png", "-o", "b.png") == 2
    assert "'b.png' exists already: choose another name, or give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "b.png").read_bytes() == first
    assert denoise("a.png", "-o", "b.png", "--overwrite") == 0
    assert (tmp_path / "b.png").read_bytes() != first
    for output in ("a.png", "."):
        assert denoise("a.png", "-o", output, "--overwrite") == 2
        assert "'a.png' is an input: choose another folder or name with -o" in capsys.readouterr().err
    np.testing.assert_array_equal(data.read_image(tmp_path / "a.png"), image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.png",), "there is no image file or folder 'missing.png'"),
        (("a.png", "missing.png"), "there is no image file or folder 'missing.png'"),
        (("notes.txt",), "the ending of 'notes.txt' must be one of .png"),
        (("a.png", "-o", "b.gif"), "the ending of 'b.gif' must be one of .png"),
        (("a.png", "other/a.png"), "would both become 'denoised/a.png'"),
        (("a.png", "b.png", "-o", "z.png"), "2 inputs cannot go into one file 'z.png': name a folder with -o"),
        (("a.png", "b.png", "-o", "a.png"), "2 inputs cannot go into one file 'a.png'"),
        (("other", "-o", "notes.txt"), "'notes.txt' is a file, not a folder to write to"),
        (("a.png", "-o", "notes.txt/"), "'notes.txt' is a file, not a folder to write to"),
        (("a.png", "-o", "notes.txt/deep/b.png"), "'notes.txt' is a file, not a folder to write to"),
        (("empty",), "no images in 'empty'"),
        (("a.png", "--range", "0"), "argument --range: '0' must be a finite number above 0"),
        (("a.png", "--model", "none.h5"), "there is no model file 'none.h5': npconv train writes one"),
        (("a.png", "--model", "a.png"), "a.png is damaged or not an HDF5 file"),
        (("a.png", "--model", "half.h5"), "the model of 'half.h5' changes the size of images by 1/2 x 1/2"),
    ],
)
def test_wrong_arguments_come_before_any_work(tmp_path, rgb_model, denoise, capsys, arguments, message):
    for folder in ("other", "empty"):
        (tmp_path / folder).mkdir()
    for name in ("a.png", "b.png", "other/a.png"):
        data.write_image(tmp_path / name, random_image(3, "uint8"))
    (tmp_path / "notes.txt").write_text("text")
    Model(npconv.Sequential(npconv.Conv2d(3, 3, 3, stride=2, padding=1))).save(tmp_path / "half.h5")
    assert denoise(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("npconv denoise: error: ") and error.count("\n") == 1
    assert message in error.replace("\\\\", "/")
    assert not (tmp_path / "denoised").exists() and not (tmp_path / "z.png").exists()


@pytest.mark.parametrize("names", [("Scan.png", "scan.png"), ("\u00c9.png", "e\u0301.png")])
def test_names_that_the_file_system_takes_for_one(tmp_path, rgb_model, denoise, capsys, monkeypatch, names):
    """As on macOS and Windows: by case, and by how an accent is written. Elsewhere these are two files."""
    for folder, name, seed in zip("ab", names, (1, 2), strict=True):
        (tmp_path / folder).mkdir()
        data.write_image(tmp_path / folder / name, random_image(3, "uint8", height=20 + seed))
    inputs, exists = [f"{folder}/{name}" for folder, name in zip("ab", names, strict=True)], Path.exists

    def folded(path: Path) -> str:
        return unicodedata.normalize("NFC", path.name).casefold()

    def exists_in_any_case(path: Path) -> bool:
        return exists(path) or (path.parent.is_dir() and folded(path) in map(folded, path.parent.iterdir()))

    there = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", exists_in_any_case)
        assert denoise(*inputs, "-o", "out/", "--overwrite") == 2
    message = f"{inputs[0]!r} and {inputs[1]!r} would both become {str(Path('out') / names[0])!r}: denoise them one"
    assert message in capsys.readouterr().err and sorted(tmp_path.iterdir()) == there
    (tmp_path / names[0]).touch()
    if exists(tmp_path / names[1]):
        pytest.skip("the file system is such a one")
    assert denoise(*inputs, "-o", "out/", "--overwrite") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)


def test_a_folder_of_one_image_may_become_a_file(tmp_path, rgb_model, denoise):
    (tmp_path / "in").mkdir()
    data.write_image(tmp_path / "in" / "a.png", random_image(3, "uint8"))
    assert denoise("in", "-o", "z.png") == 0
    assert (tmp_path / "z.png").is_file()


def test_ctrl_c_leaves_no_half_image(tmp_path, rgb_model, denoise, capsys, monkeypatch):
    data.write_image(tmp_path / "a.png", random_image(3, "uint8"))

    def interrupted(path, array, notes):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("npconv.data.stack_writers.write_picture", interrupted)
    assert denoise("a.png") == 130
    assert capsys.readouterr().err == "npconv denoise: interrupted\n"
    assert list((tmp_path / "denoised").iterdir()) == []


def test_whoever_reads_the_output_may_have_gone(tmp_path, rgb_model, denoise, capfd, monkeypatch):
    for name in ("a.png", "b.png"):
        data.write_image(tmp_path / name, random_image(3, "uint8"))

    def gone(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr("npconv.cli.denoise.show", gone)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    assert denoise("a.png", "b.png") == 1
    assert capfd.readouterr().err == ""  # no image has failed
    assert [path.name for path in (tmp_path / "denoised").iterdir()] == ["a.png"]


def test_an_image_that_memory_lacks_for_does_not_stop_the_others(tmp_path, rgb_model, denoise, capsys, monkeypatch):
    for name in ("a.png", "b.png"):
        data.write_image(tmp_path / name, random_image(3, "uint8"))
    works = denoise_command.denoise_file

    def first_fails(model, source, target, **options):
        if source.name == "a.png":
            raise MemoryError
        return works(model, source, target, **options)

    monkeypatch.setattr(denoise_command, "denoise_file", first_fails)
    assert denoise("a.png", "b.png") == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("npconv denoise: error: a.png: out of memory") and "1 of 2" in errors[1]
    assert [path.name for path in (tmp_path / "denoised").iterdir()] == ["b.png"]


def test_no_memory_for_the_model_is_one_line(tmp_path, rgb_model, denoise, capsys, monkeypatch):
    data.write_image(tmp_path / "a.png", random_image(3, "uint8"))

    def lacks(*_):
        raise MemoryError

    monkeypatch.setattr(denoise_command, "load_denoiser", lacks)
    assert denoise("a.png") == 2
    assert capsys.readouterr().err == "npconv denoise: error: out of memory\n"


@pytest.mark.parametrize("option", [("--axes", "NHW"), ("--dataset", "raw")])
def test_options_that_a_picture_has_no_use_for(tmp_path, rgb_model, denoise, capsys, option):
    data.write_image(tmp_path / "a.png", random_image(3, "uint8"))
    assert denoise("a.png", *option) != 0
    assert option[0].strip("-") in capsys.readouterr().err


def test_sigma_may_be_0(tmp_path, denoise):
    npconv.manual_seed(0)
    model = Model(npconv.networks.ffdnet(2, 4, 3))
    model.save(tmp_path / "model.h5")
    image = random_image(3, "uint8")
    data.write_image(tmp_path / "a.png", image)
    assert denoise("a.png", "--sigma", "0") == 0
    result = data.read_image(tmp_path / "denoised" / "a.png")
    np.testing.assert_allclose(result, model.predict(image, noise_level=0), atol=0.51)
    assert np.ptp(result) > 9
