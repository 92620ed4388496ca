"""Where `npconv train` gets its pairs: blind spots, noise maps, and photographs that cannot be used."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npconv import data
from npconv.cli import sources, usable
from npconv.cli.sources import open_source

pytest.importorskip("PIL")


def options(**given: Any) -> argparse.Namespace:
    """What the parser gives, with small sizes."""
    defaults: dict[str, Any] = {
        "network": "strided",
        "data": None,
        "validation": None,
        "noise": None,
        "target": None,
        "patch_size": 16,
        "patches": 24,
        "image_channels": None,
        "validation_pairs": 6,
        "seed": 0,
        "quiet": True,
    }
    given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    return argparse.Namespace(**defaults | given)


@pytest.fixture
def folder(tmp_path):
    """A folder of six pictures of 160 x 170."""
    path = tmp_path / "photos"
    path.mkdir()
    for i, image in enumerate(data.dead_leaves(6, 160, 170, np.random.default_rng(0))):
        data.write_image(path / f"{i}.png", image)
    return path


def test_blind_spots_take_the_images_as_noisy_as_they_are(folder):
    args = options(data=folder, target="blind-spot")
    source = open_source(args)
    assert args.noise == data.NoNoise()
    assert "none added: the images are noisy as they are" in source.facts["noise"]
    assert "their own hidden pixels as targets" in source.facts["noise"]
    assert source.facts["validation"].endswith("held out; hidden pixels against their noisy values")
    assert (source.image_shape, source.input_shape, source.target_shape) == ((3, 16, 16), (3, 16, 16), (6, 16, 16))
    pairs, (inputs, targets) = source.load()
    assert (pairs.input_shape, pairs.target_shape) == (source.input_shape, source.target_shape)
    assert inputs.shape == (6, 3, 16, 16) and targets.shape == (6, 6, 16, 16)
    hidden = targets[:, 3:] == 255
    np.testing.assert_array_equal(inputs[~hidden], targets[:, :3][~hidden])
    again = open_source(options(data=folder, target="blind-spot")).load()[1]
    np.testing.assert_array_equal(again[0], inputs)


def flat_folder(path: Path, count: int) -> Path:
    """So many pictures of one gray: what differs in their patches is noise."""
    path.mkdir()
    for i in range(count):
        data.write_image(path / f"{i}.png", np.full((3, 160, 160), 100, np.uint8))
    return path


def values_seen(pairs: Any) -> set[float]:
    """All noisy values that an epoch shows."""
    return {value for _, targets in pairs.batches(8, np.random.default_rng(1)) for value in targets[:, :3].ravel()}


def test_blind_spots_with_noise_are_single_noisy_images(tmp_path):
    """In training and in validation: each photograph has as many noisy values as it has pixels, in all of an epoch."""
    args = options(data=flat_folder(tmp_path / "flat", 3), target="blind-spot", noise=data.Gaussian(25), patches=1000)
    source = open_source(args)
    pairs, (inputs, targets) = source.load()
    assert source.target_shape == (6, 16, 16) and targets.shape == (6, 6, 16, 16)
    assert "gaussian:25, once for each image; 1,000 patches" in source.facts["noise"]
    assert source.facts["validation"].endswith("held out; hidden pixels against their noisy values")
    assert np.std(targets[:, :3]) == pytest.approx(25, rel=0.1)
    seen = values_seen(pairs)
    assert 100_000 < len(seen) <= 2 * 3 * 160 * 160  # of 768,000 that are shown; nearly every pixel has a value alone
    values_again = values_seen(open_source(args).load()[0])
    assert values_again == seen
    args.seed = 1
    other = values_seen(open_source(args).load()[0])
    assert len(other & seen) < 0.4 * len(seen)  # those that are equal by chance
    held_out = set(targets[:, :3].ravel().tolist())
    assert len(held_out & seen) < 0.4 * len(held_out)


def test_one_image_with_noise_is_validated_on_that_noise(tmp_path):
    args = options(data=flat_folder(tmp_path / "flat", 1), target="blind-spot", noise=data.Gaussian(25), patches=4000)
    source = open_source(args)
    pairs, (_, targets) = source.load()
    assert source.facts["validation"].startswith("the same image; hidden pixels")
    assert set(targets[:, :3].ravel().tolist()) <= values_seen(pairs) and len(values_seen(pairs)) <= 3 * 160 * 160


def test_blind_spots_validate_on_given_pairs(folder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    data.write_pairs(tmp_path / "pairs.h5", images, images)
    source = open_source(options(data=folder, target="blind-spot", validation=tmp_path / "pairs.h5"))
    assert "hidden" not in source.facts["validation"] and source.compared == ""
    inputs, targets = source.load()[1]
    assert inputs.shape == targets.shape == (5, 3, 16, 16)


def test_dead_leaves_get_noise_with_target_self(monkeypatch):
    for name, value in {"LEAVES": 8, "LEAVES_TO_VALIDATE": 8, "LEAVES_SIDE": 128}.items():
        monkeypatch.setattr(sources, name, value)
    args = options(target="self")
    source = open_source(args)
    assert args.noise == data.PixelSampling()
    assert source.target_shape == (3, 16, 16)
    pairs, (inputs, targets) = source.load()
    assert pairs.target_shape == source.target_shape == targets.shape[1:] and inputs.shape == (6, 3, 16, 16)
    compared = "pixels against noisy neighbours"
    assert source.facts["validation"].endswith(f"the same in every run; {compared}") and source.compared == compared
    with pytest.raises(ValueError, match=r"dead leaves images \(no --data\) are clean: give --noise"):
        open_source(options(target="self", noise=data.NoNoise()))
    with pytest.raises(ValueError, match="--corrupt skip would have no effect without --data"):
        open_source(options(corrupt="skip"))


@pytest.mark.parametrize("given", ["nothing", "noise", "pairs", "folder", "gray"])
def test_target_self_is_pairs_of_neighbours(folder: Path, tmp_path: Path, given: str) -> None:
    more: dict[str, Any] = {"noise": {"noise": data.Gaussian(25)}, "gray": {"image_channels": 1}}.get(given, {})
    if given == "pairs":
        images = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)
        data.write_pairs(tmp_path / "pairs.h5", images, images)
        more = {"validation": tmp_path / "pairs.h5"}
    if given == "folder":
        more = {"validation": flat_folder(tmp_path / "flat", 2)}
    args = options(**{"data": folder, "target": "self"} | more)
    source = open_source(args)
    assert args.noise == (data.Gaussian(25) if given == "noise" else data.NoNoise())
    assert source.compared == ("" if given == "pairs" else "pixels against noisy neighbours")
    assert "neighbours of their pixels as targets" in source.facts["noise"]
    channels = 1 if given == "gray" else 3
    assert source.image_shape == source.input_shape == source.target_shape == (channels, 16, 16)
    pairs, (inputs, targets) = source.load()
    assert inputs.shape == targets.shape == (6, *source.image_shape)
    assert (inputs == targets).all() == (given in ("pairs", "folder"))  # a flat picture's neighbours are alike
    (batch, aims), *_ = pairs.batches(4, np.random.default_rng(0))
    assert batch.shape[1:] == aims.shape[1:] == source.image_shape and (batch != aims).any()


def test_neighbours_need_twice_the_area(folder: Path, tmp_path: Path) -> None:
    small = flat_folder(tmp_path / "flat", 2)
    for path in small.iterdir():
        data.write_image(path, np.zeros((3, 150, 150), np.uint8))
    with pytest.raises(ValueError, match="of .*flat must be at least 160 x 160 pixels for patches of 80, each of an a"):
        open_source(options(data=folder, validation=small, target="self", patch_size=80))
    rule = "pixels for patches of 81, each of an area twice as wide, with none noise"
    with pytest.raises(ValueError, match=f"'0.png' and 5 more of .* must be at least 162 x 162 {rule}: .* smaller --p"):
        open_source(options(data=folder, target="self", patch_size=81))
    with pytest.raises(ValueError, match=rf"0.png \(160 x 170\) must be at least 162 x 162 {rule}"):
        open_source(options(data=folder / "0.png", target="self", patch_size=81))
    open_source(options(data=folder, target="self", patch_size=80)).load()


@pytest.mark.parametrize("target", [None, "noisy", "clean"])
def test_no_noise_is_for_target_self(folder, target):
    with pytest.raises(ValueError, match=r"target \(='(noisy|clean)'\) must be 'self' or 'blind-spot' for"):
        open_source(options(data=folder, noise=data.NoNoise(), target=target))


def test_noise_maps(folder, tmp_path):
    source = open_source(options(data=folder, noise=data.Gaussian(0, 55), noise_map=True))
    assert (source.image_shape, source.input_shape, source.target_shape) == ((3, 16, 16), (4, 16, 16), (3, 16, 16))
    pairs, (inputs, targets) = source.load()
    assert pairs.input_shape == source.input_shape
    assert inputs.shape == (6, 4, 16, 16) and targets.shape == (6, 3, 16, 16)
    np.testing.assert_allclose((inputs[:, :3] - targets).std(axis=(1, 2, 3)), inputs[:, 3, 0, 0], rtol=0.2)
    with pytest.raises(ValueError, match=r"noise \(='poisson:30'\) must be Gaussian"):
        open_source(options(data=folder, noise=data.Poisson(30), noise_map=True))
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    data.write_pairs(tmp_path / "pairs.h5", images, images)
    ready = options(data=tmp_path / "pairs.h5", patch_size=None, patches=None, noise_map=True)
    with pytest.raises(ValueError, match="pairs.h5 holds ready-made pairs, without the noise level"):
        open_source(ready)
    with pytest.raises(ValueError, match="pairs.h5 holds pairs, without the noise level"):
        open_source(options(data=folder, noise=data.Gaussian(5), noise_map=True, validation=tmp_path / "pairs.h5"))
    ready = options(data=tmp_path / "pairs.h5", patch_size=None, patches=None, corrupt="skip")
    with pytest.raises(ValueError, match="--corrupt skip would have no effect"):
        open_source(ready)


def test_augmentation_can_be_left_out(folder):
    for photo in folder.iterdir():
        data.write_image(
            photo, np.repeat(np.arange(170, dtype=np.uint8)[np.newaxis, np.newaxis], 160, axis=1).repeat(3, 0)
        )
    straight = open_source(options(data=folder, noise=data.Gaussian(0), augment=False)).load()[0]
    inputs, _ = straight.take(20, np.random.default_rng(0))
    assert (np.diff(inputs, axis=3) == 1).all()


# ---- photographs that cannot be used ----
def damage(folder: Path) -> None:
    """1.png has no header, 3.png is too small, the pixels of 5.png cannot be unpacked."""
    (folder / "1.png").write_text("no image")
    data.write_image(folder / "3.png", np.zeros((3, 20, 20), np.uint8))
    late = folder / "5.png"
    content = bytearray(late.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 100] = bytes(100)
    late.write_bytes(content)


def test_damage_is_an_error_or_passed_over(folder):
    damage(folder)
    with pytest.raises(ValueError, match=r"cannot read .*1\.png"):
        open_source(options(data=folder))
    with pytest.warns(UserWarning) as seen:
        source = open_source(options(data=folder, corrupt="skip"))
        pairs, _ = source.load()
        for _ in range(2):
            for _ in pairs.batches(8, np.random.default_rng(0)):
                pass
    named = [str(warning.message) for warning in seen]
    assert "left out: cannot read" in named[0] and "1.png" in named[0]
    assert named[1].startswith("left out: '3.png' of ") and "must be at least 80 x 80 pixels" in named[1]
    assert "skipped, since it cannot be used: cannot read" in named[2] and "5.png" in named[2]
    assert len(named) == 3
    assert source.facts["data"].startswith("3 images of ") and source.facts["validation"].startswith("1 image of ")


def test_small_photos_are_named_all_at_once(folder):
    for name in ("2.png", "4.png"):
        data.write_image(folder / name, np.zeros((3, 20, 20), np.uint8))
    with pytest.raises(
        ValueError, match=r"'2\.png' and 1 more of .* must be at least 80 x 80 pixels for patches of 16"
    ):
        open_source(options(data=folder))


def test_nothing_that_can_be_used(folder):
    for photo in folder.iterdir():
        photo.write_text("no image")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of the 6 images of .* can be used"):
        open_source(options(data=folder, corrupt="skip"))


def test_validation_folders_are_looked_at_too(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.png").write_text("no image")
    data.write_image(other / "b.png", np.zeros((3, 160, 160), np.uint8))
    with pytest.raises(ValueError, match=r"cannot read .*a\.png"):
        open_source(options(data=folder, validation=other))
    with pytest.warns(UserWarning, match=r"left out: cannot read .*a\.png"):
        source = open_source(options(data=folder, validation=other, corrupt="skip"))
    assert source.facts["validation"] == f"1 image of {other}"


def test_of_a_large_folder_some_headers_are_read(folder, monkeypatch):
    read: list[str] = []
    original = usable.header
    monkeypatch.setattr(usable, "header", lambda path: (read.append(path.name), original(path))[1])
    monkeypatch.setattr(usable, "HEADERS", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_source(options(data=folder))
    assert read == ["0.png", "2.png", "5.png"]


def test_one_noisy_image_is_enough_to_learn_from(folder: Path, tmp_path: Path) -> None:
    only = tmp_path / "one"
    only.mkdir()
    (folder / "0.png").rename(only / "0.png")
    source = open_source(options(data=str(only), target="blind-spot"))
    pairs, (inputs, targets) = source.load()
    assert len(pairs) == 24 and inputs.shape == (6, 3, 16, 16) and targets.shape == (6, 6, 16, 16)
    assert source.facts["validation"].startswith("the same image; hidden pixels")
    with pytest.raises(ValueError, match="has one photo only: give others to validate on with --validation"):
        open_source(options(data=str(only), noise=data.Gaussian(25)))


# ---- one image file ----
def test_one_image_file(folder: Path, tmp_path: Path) -> None:
    image = data.read_image(folder / "0.png")
    np.save(tmp_path / "one.npy", image.astype(np.float32))
    for path in (folder / "0.png", tmp_path / "one.npy"):
        source = open_source(options(data=path, target="blind-spot"))
        pairs, (inputs, targets) = source.load()
        assert source.facts["data"] == f"1 image of {path}"
        assert source.facts["validation"].startswith("the same image; hidden pixels")
        assert targets.shape == (6, 6, 16, 16) and np.isin(inputs, image).all()
    gray = open_source(options(data=folder / "0.png", target="self", image_channels=1))
    assert gray.image_shape == (1, 16, 16)
    source = open_source(options(data=folder, noise=data.Gaussian(5), validation=folder / "1.png"))
    assert source.facts["validation"] == f"1 image of {folder / '1.png'}"
    assert source.load()[1][1].shape == (6, 3, 16, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise": data.Gaussian(5), "target": "noisy"}, "0.png has one photo only: give others to validate on"),
        ({"corrupt": "skip"}, "--corrupt skip would have no effect with the one image"),
        ({"patch_size": 200}, r"0\.png \(160 x 170\) must be at least 200 x 200 pixels"),
        ({"data": "text.png"}, r"cannot read '.*text\.png'"),
        ({"data": "missing.png"}, r"there is no folder or file '.*missing\.png'"),
    ],
)
def test_one_image_file_that_is_none(folder: Path, change: dict[str, Any], message: str) -> None:
    (folder / "text.png").write_text("no image")
    given = {"target": "blind-spot"} | change
    with pytest.raises((ValueError, OSError), match=message):
        open_source(options(**given | {"data": folder / given.pop("data", "0.png")}))


# ---- a run's own pictures ----
def test_pictures_of_the_output_folder_are_not_learned_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder / "runs" / "first"
    run.mkdir(parents=True)
    for name in ("curves.png", "examples.png"):
        data.write_image(run / name, np.zeros((3, 170, 170), np.uint8))
    noise = data.Gaussian(5)
    monkeypatch.chdir(folder)

    def opened(where: str | Path, output: Path) -> sources.Source:
        args = options(data=where, noise=noise)
        args.output = output
        return open_source(args)

    for where, output in ((folder, run), (".", Path("runs/first")), (folder, Path("runs/../runs/first")), (".", run)):
        source = opened(where, output)
        assert source.facts["data"] == f"5 images of {where}"  # and one to validate on
    # The output folder may be that of the photographs.
    for name in ("curves.png", "examples.png"):
        (run / name).rename(folder / name)
    assert opened(".", Path(".")).facts["data"] == "5 images of ."
    assert opened(".", Path("elsewhere")).facts["data"] == "7 images of ."
    (run / "a.png").write_bytes((folder / "0.png").read_bytes())
    with pytest.raises(ValueError, match="has no images but those of the output folder"):
        opened(run.parent, run)


def test_a_network_that_is_told_the_noise_level_needs_one(folder: Path) -> None:
    for noise in (None, data.NoNoise()):
        with pytest.raises(ValueError, match="--network ffdnet takes the noise level, and --target self takes the im"):
            open_source(options(network="ffdnet", noise_map=True, data=folder, target="self", noise=noise))
    source = open_source(options(network="ffdnet", noise_map=True, data=folder, target="self", noise=data.Gaussian(25)))
    assert (source.input_shape, source.target_shape) == ((4, 16, 16), (3, 16, 16))
