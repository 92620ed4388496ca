"""The recipes of `npconv train`: what each network is trained with, for how long, and which options go together."""

from __future__ import annotations

import csv
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import on_host

import npconv
from npconv import data, epochs, networks, pictures
from npconv.cli import build_parser, main, sources
from npconv.cli.progress import TimeBar
from npconv.cli.recipe import PRESETS, defaults_of, fill_in, size_of
from npconv.cli.run_folder import RunFolder
from npconv.model import Model
from npconv.validation import figures

pytest.importorskip("matplotlib")

STEP = "train_batch" if npconv.backend().shares_batch else "_step"  # a device need not wait for the loss
TINY = ("--patches", "64", "--validation-pairs", "8", "--patch-size", "32", "--batch-size", "32")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three small pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for i, image in enumerate(data.dead_leaves(3, 96, 100, np.random.default_rng(0))):
        data.write_image(folder / f"{i}.png", image)
    return folder


@pytest.fixture
def train_and_draw(photos, tmp_path):
    """Runs `npconv train` on the photos with small sizes, into tmp_path/run; returns the exit status."""

    def run(*options: str) -> int:
        length = () if "--time" in options or "--epochs" in options else ("--epochs", "1")
        return main(["train", "--data", str(photos), *TINY, *length, "-o", str(tmp_path / "run"), *options])

    return run


@pytest.fixture
def train(train_and_draw, blank_pictures):
    return train_and_draw


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "options.json").read_text())


def only_error(capsys, status: int) -> str:
    """The one line on stderr of a command whose arguments are wrong."""
    lines = capsys.readouterr().err.splitlines()
    assert status == 2 and len(lines) == 1, lines
    return lines[0]


# ---- each network ----
# Lehtinen et al. (2018), appendix A.1: Adam, 0.001, beta2 0.99. Zhang et al. (2017): patches of 40, sigma 25. Zhang,
# Zuo and Zhang (2018): sigma 0 to 75, colour patches of 50. The reports' two.
SMALL = {
    "unet": ("--channels", "4", "--depth", "1"),
    "noise2noise-unet": (),
    "dncnn": ("--channels", "4", "--depth", "3"),
    "ffdnet": ("--channels", "4", "--depth", "3"),
    "strided": ("--channels", "4"),
    "strided-transposed": ("--channels", "4"),
}
EXPECTED = {
    "unet": {"optimizer": "adam", "lr": 2e-3, "betas": [0.9, 0.999], "schedule": "cosine",
             "noise": "pixel-sampling:5-8", "momentum": None},
    "noise2noise-unet": {"optimizer": "adam", "lr": 1e-3, "betas": [0.9, 0.99], "schedule": "rampdown",
                         "noise": "gaussian:0-50"},
    "dncnn": {"optimizer": "adam", "lr": 1e-3, "schedule": "multistep", "noise": "gaussian:25"},
    "ffdnet": {"optimizer": "adam", "lr": 1e-3, "schedule": "multistep", "noise": "gaussian:0-75", "noise_map": True},
    "strided": {"optimizer": "sgd", "lr": 0.5, "momentum": 0.9, "schedule": "trapezoid", "noise": "pixel-sampling:5-8",
                "betas": None},
    "strided-transposed": {"optimizer": "sgd", "lr": 5.0, "momentum": 0.0, "schedule": "trapezoid",
                           "noise": "pixel-sampling:5-8"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ((), (40, 12)),  # pixel sampling: of an area of 320 pixels, and photographs of 321 are usual
        (("--noise", "pixel-sampling:3"), (40, 12)),
        (("--noise", "gaussian:25"), (48, 8)),
        (("--data", "photos", "--target", "self"), (24, 32)),  # of an area of 48
        (("--target", "self"), (20, 48)),
        (("--target", "blind-spot"), (40, 12)),
        (("--target", "self", "--network", "ffdnet"), (26, 128)),  # of 50
        (("--data", "photos", "--target", "self", "--patch-size", "48"), (48, 32)),
        (("--noise", "gaussian:25", "--patch-size", "20", "--batch-size", "3"), (20, 3)),
        (("--network", "dncnn", "--noise", "pixel-sampling"), (40, 32)),
    ],
)
def test_patch_and_batch_size_fit_the_noise(options: tuple[str, ...], sizes: tuple[int, int]) -> None:
    args = build_parser().parse_args(["train", *options])
    fill_in(args)
    sources._fill_in(args)
    assert (args.patch_size, args.batch_size) == sizes


# 48 channels through the emulated threads of a GPU would take minutes.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.cpu] if name == "noise2noise-unet" else []) for name in PRESETS]
)
def test_each_network_trains_as_published(train, tmp_path, name):
    few = ("--patches", "8", "--batch-size", "4") if name == "noise2noise-unet" else ()  # 48 channels, always
    # Pixel sampling of the small photos: no room for patches of 32 and blocks of 8.
    room = ("--patch-size", "16") if "pixel" in EXPECTED[name]["noise"] else ()
    assert train("--network", name, *SMALL[name], *few, *room) == 0
    options = written(tmp_path / "run")
    assert {key: options[key] for key in EXPECTED[name]} == EXPECTED[name]
    model = Model.load(tmp_path / "run" / "model.h5")
    assert (model.optimizer.lr, type(model.optimizer).__name__.lower()) == (options["lr"], options["optimizer"])
    assert len(rows(tmp_path / "run")) == 1 and float(rows(tmp_path / "run")[0]["psnr_mean"]) > 3


def test_the_names_are_the_networks():
    assert list(PRESETS) == list(networks.NETWORKS)


def test_patches_batches_and_lengths():
    found = {name: (p.patch_size, p.batch_size, p.epochs, p.seconds) for name, p in PRESETS.items()}
    assert found["strided"] == found["strided-transposed"] == (32, 32, 15, None)
    assert found["unet"] == (48, 8, None, 120) and PRESETS["unet"].sampled == (40, 12)
    assert all((epochs is None) != (seconds is None) for _, _, epochs, seconds in found.values())
    for name, preset in PRESETS.items():
        network = networks.make(name, 3, **preset.options)
        sizes = [preset.patch_size, *(preset.sampled or ())[:1]]
        sizes += [preset.sizes(noise, "self")[0] for noise in (data.Gaussian(25), data.PixelSampling())]
        assert all(size % part == 0 for size in sizes for part in network.size_multiple), name


def test_the_help_names_the_defaults(capsys):
    assert main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for value in (size_of(0), size_of(1), lambda p: p.optimizer, lambda p: p.schedule):
        assert f"({defaults_of(value)})".replace(" ", "") in text.replace(" ", "")  # lines may end at a hyphen
    assert "48, and 40 for pixel sampling; noise2noise-unet: 64; dncnn: 40" in defaults_of(size_of(0))
    assert defaults_of(size_of(1)).startswith("8, and 12 for pixel sampling; noise2noise-unet: 16; ")
    assert "(2m; noise2noise-unet, dncnn, ffdnet: 10m; strided, strided-transposed: 15 epochs)" in text


def test_depth_batch_norm_and_residual_make_the_network(train, tmp_path, capsys):
    options = ("--network", "dncnn", "--depth", "4", "--channels", "5", "--no-batch-norm", "--no-residual")
    assert train(*options, "--image-channels", "1") == 0
    modules = list(Model.load(tmp_path / "run" / "model.h5").network.modules())
    convolutions = [module for module in modules if isinstance(module, npconv.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == [5, 5, 5, 1]
    assert not any(isinstance(module, (npconv.BatchNorm2d, npconv.Sum)) for module in modules)
    assert "dncnn, 5 channels, depth 4, no batch normalisation, not residual: " in capsys.readouterr().out


def test_options_overrule_the_recipe(train, tmp_path):
    options = ("--network", "dncnn", "--depth", "3", "--channels", "4", "--betas", "0.8", "0.95", "--lr", "0.002")
    assert train(*options, "--schedule", "none", "--noise", "gaussian:5") == 0
    model = Model.load(tmp_path / "run" / "model.h5")
    assert tuple(model.optimizer.groups[0]["betas"]) == (0.8, 0.95) and model.optimizer.lr == 0.002
    assert (
        train("--network", "unet", "--channels", "4", "--optimizer", "sgd", "--noise", "gaussian:5", "--overwrite") == 0
    )
    options = written(tmp_path / "run")
    assert (options["lr"], options["momentum"], options["betas"]) == (0.1, 0.9, None)


@pytest.mark.parametrize(
    ("target", "noise", "loss", "compared"),
    [
        ("self", "none", npconv.losses.MSE, "pixels against noisy neighbours"),
        ("self", "gaussian:25", npconv.losses.MSE, "pixels against noisy neighbours"),
        ("blind-spot", "none", npconv.losses.MaskedMSE, "hidden pixels against their noisy values"),
    ],
)
def test_noisy_images_alone(train_and_draw, tmp_path, capsys, monkeypatch, target, noise, loss, compared):
    captions, drawn = [], pictures.examples
    monkeypatch.setattr(pictures, "examples", lambda *a, **k: captions.append(k["captions"]) or drawn(*a, **k))
    assert train_and_draw("--target", target, "--noise", noise, "--channels", "4", "--depth", "1") == 0
    assert captions == [False]  # nothing clean to compare whole pictures with
    assert type(Model.load(tmp_path / "run" / "model.h5").loss) is loss
    (row,) = rows(tmp_path / "run")
    pooled = -10 * np.log10(float(row["validation_mse"]) + 1e-8)
    assert float(row["psnr_pooled"]) == pytest.approx(pooled, abs=1e-4)
    assert (tmp_path / "run" / "examples.png").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "noisy input" not in out and f"PSNRs below  of {compared}, on 8 vali" in out
    assert f" dB pooled (of {compared})" in out


def test_no_augment_reaches_the_patches(train, monkeypatch):
    seen = []
    original = data.PatchPairs.__init__

    def look(self, *args, **options):
        original(self, *args, **options)
        seen.append(self._augment)

    monkeypatch.setattr(data.PatchPairs, "__init__", look)
    assert train("--channels", "4", "--noise", "gaussian:25") == 0 and any(seen)
    seen.clear()
    assert train("--channels", "4", "--noise", "gaussian:25", "--no-augment", "--overwrite") == 0 and not any(seen)


def test_strided_is_trained_as_ever(train, photos, tmp_path):
    """Bit for bit what these lines do, which use nothing of the command's."""
    options = ("--network", "strided", "--channels", "4", "--patch-size", "16", "--seed", "3", "--epochs", "2")
    assert train(*options, "--noise", "gaussian:25") == 0
    npconv.manual_seed(3)
    network = networks.strided(4)
    optimizer = npconv.SGD(network.parameters(), lr=0.5, momentum=0.9)
    model = Model(network, optimizer=optimizer)
    schedule = npconv.TrapezoidLR(optimizer, 4)
    kept, _ = data.open_photos(photos).split(sources.HELD_OUT, np.random.default_rng(0))
    pairs = data.PatchPairs(kept, data.parse_noise("gaussian:25"), 64, 16)
    rng, losses, weights = np.random.default_rng(3), [], []
    for _ in range(2):
        epoch = []
        for x, target in pairs.batches(32, rng):
            epoch.append(model.train_batch(model.as_network_input(x), model.as_network_input(target)))
            schedule.step()
        losses.append(sum(epoch) / 2)
        weights.append([on_host(weight.copy()) for weight, _ in network.param()])
    found = rows(tmp_path / "run")
    assert [float(row["loss"]) for row in found] == losses
    best = max(range(2), key=lambda i: float(found[i]["psnr_mean"]))
    stored = Model.load(tmp_path / "run" / "model.h5").network.param()
    assert all(np.array_equal(on_host(mine), theirs) for (mine, _), theirs in zip(stored, weights[best], strict=True))


# ---- the time ----
def test_training_for_a_time(train, tmp_path, capsys):
    started = time.perf_counter()
    assert train("--time", "1s", "--channels", "4", "--depth", "1", "--noise", "gaussian:25") == 0
    assert time.perf_counter() - started < 10
    history = rows(tmp_path / "run")
    assert 1 <= len(history) <= 20 and [row["epoch"] for row in history] == [str(i + 1) for i in range(len(history))]
    out = capsys.readouterr().out
    assert "1s, batches of 32, Adam, lr 0.002, cosine schedule, seed 0" in out and "best epoch: " in out
    options = written(tmp_path / "run")
    assert (options["time"], options["epochs"]) == (1.0, None)
    # The bar of a terminal is not there: a line an epoch is.
    assert len([line for line in out.splitlines() if line.endswith((" *", "  ")) or " dB  " in line]) >= len(history)


def test_what_a_short_training_validates_on_is_said(train, tmp_path, capsys, monkeypatch):
    """A second is enough to validate 16 of the 40 pairs, on a clock by which an image takes 50 ms."""
    time_now, given = [0.0], []
    monkeypatch.setattr(epochs, "now", lambda: time_now[0])
    validate, step, record = Model.validate, getattr(Model, STEP), RunFolder.record

    def timed_validation(self, inputs, targets):
        time_now[0] += 0.05 * len(inputs)
        return validate(self, inputs, targets)

    def timed_step(self, x, target):
        time_now[0] += 0.1
        return step(self, x, target)

    def look(self, epoch, model, validation, noisy):
        given.append((validation, noisy))
        return record(self, epoch, model, validation, noisy)

    monkeypatch.setattr(Model, "validate", timed_validation)
    monkeypatch.setattr(Model, STEP, timed_step)
    monkeypatch.setattr(RunFolder, "record", look)
    options = ("--time", "2s", "--network", "strided", "--channels", "4", "--noise", "gaussian:25")
    assert train(*options, "--validation-pairs", "40") == 0
    out = capsys.readouterr().out
    (inputs, targets), noisy = given[0]
    assert len(inputs) == len(targets) == 16 and noisy == pytest.approx(figures(inputs, targets)[1:])
    said = f"noisy input: PSNR {noisy[0]:.2f} dB mean of images, {noisy[1]:.2f} dB pooled"
    assert out.count(f"validation is on 16 of the 40 pairs, drawn at random: all would take too long; {said}") == 1
    assert f" dB pooled ({said})" in out and "on 40 validation pairs" in out
    (row,) = rows(tmp_path / "run")
    assert float(row["psnr_mean"]) == pytest.approx(
        validate(Model.load(tmp_path / "run" / "model.h5"), inputs, targets)[1], abs=1e-4
    )


def test_a_bar_that_goes_with_the_clock(train, capsys, monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, mininterval=0))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "150")
    assert train("--time", "0.5", "--channels", "4", "--depth", "1", "--noise", "gaussian:25") == 0
    captured = capsys.readouterr()
    assert "0.5s, loss 0." in captured.err and "%|" in captured.err
    assert "epoch     loss" in captured.out and " dB" in captured.out


def test_the_time_bar_shows_elapsed_and_remaining(capsys, monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    monkeypatch.setattr(tqdm, "tqdm", functools.partial(tqdm.tqdm, mininterval=0))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("npconv.cli.progress.now", lambda: 130.0)
    with TimeBar("2m", 120, started=100.0) as bar:
        bar.advance(note="loss 0.01234, PSNR 24.52 dB")
        bar.advance(note="loss 0.01234, PSNR 24.52 dB")  # the clock stands still: no further
        monkeypatch.setattr("npconv.cli.progress.now", lambda: 500.0)
        bar.advance(note="loss 0.01234, PSNR 24.52 dB")
    shown = capsys.readouterr().err.split("\r")
    assert any(line.startswith("2m, loss 0.01234, PSNR 24.52 dB  25%|") for line in shown)
    assert any(line.startswith("2m, loss 0.01234, PSNR 24.52 dB 100%|") for line in shown)
    assert all(len(line) < 80 and "150%" not in line for line in shown)


# ---- what does not go together ----
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "2", "--time", "10m"), "argument --time: not allowed with argument --epochs"),
        (("--time", "ten"), "argument --time: 'ten' must be a time such as 90s, 10m, 1h30m, or a number of seconds"),
        (("--time", "0"), "argument --time: '0' must be longer than 0"),
        (
            ("--network", "strided", "--depth", "3"),
            "--depth is no option of --network strided, which takes only",
        ),
        (("--network", "ffdnet", "--no-residual"), "--no-residual is no option of --network ffdnet"),
        (("--network", "noise2noise-unet", "--channels", "8"), "noise2noise-unet, which takes none of them"),
        (("--batch-norm",), "error: --batch-norm is no option of --network unet"),
        (("--no-batch-norm",), "error: --no-batch-norm is no option of --network unet"),
        (("--network", "dncnn", "--depth", "1"), "depth (=1) must be at least 2"),
        (("--network", "dncnn", "--momentum", "0.5"), "--momentum (=0.5) goes with --optimizer sgd only"),
        (("--optimizer", "sgd", "--betas", "0.9", "0.99"), "--betas (=0.9 0.99) goes with --optimizer adam only"),
        (("--network", "strided", "--betas", "0.9", "0.99"), "--betas (=0.9 0.99) goes with --optimizer adam only"),
        (("--betas", "0.9", "1"), "betas (=(0.9, 1.0)) must be at least 0 and less than 1"),
        (("--network", "ffdnet", "--noise", "poisson:30"), "must be Gaussian"),
        (
            ("--network", "unet", "--patch-size", "30", "--noise", "gaussian:5"),
            "divisible by 4 for --network unet: choose",
        ),
        (("--noise", "none"), "must be 'self' or 'blind-spot' for noise 'none'"),
    ],
)
def test_wrong_combinations_are_one_line(train, tmp_path, capsys, options, message):
    error = only_error(capsys, train("--noise", "gaussian:5", *options))
    assert error.startswith("npconv train: error: ") and message in error
    assert not (tmp_path / "run").exists()


def test_ready_made_pairs_of_a_size_that_does_not_fit_are_named(tmp_path, capsys):
    pairs = np.random.default_rng(0).integers(0, 255, (2, 40, 3, 12, 10), dtype=np.uint8)
    data.write_pairs(tmp_path / "pairs.h5", *pairs)
    status = main(["train", "--data", str(tmp_path / "pairs.h5"), "-o", str(tmp_path / "run")])
    expected = (
        f"the sides of the images of {tmp_path / 'pairs.h5'} (=12 x 10) must be divisible by 4 for --network unet"
    )
    assert expected in only_error(capsys, status)


def test_a_time_that_is_given_takes_the_place_of_the_recipes_epochs():
    for options, expected in (
        ((), (None, 120.0)),
        (("--time", "1h30m"), (None, 5400.0)),
        (("--epochs", "3"), (3, None)),
        (("--network", "strided"), (15, None)),
        (("--network", "strided", "--time", "90s"), (None, 90.0)),
    ):
        args = build_parser().parse_args(["train", *options])
        fill_in(args)
        assert (args.epochs, args.time) == expected
