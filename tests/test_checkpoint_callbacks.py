"""What callbacks change between two steps is in the checkpoint after them; and arguments that NumPy has made."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_cases import CASES, Case, Noisy, OwnPairs, images, plain, result
from devices import on_host

import npconv as nc
from npconv.checkpoints import CheckpointFile


def resumed_after_every_step(case: Case, folder: Path, **callbacks: Any) -> None:
    """`callbacks`: functions of the model and of what a callback gets."""

    def train(model: nc.Model, **options: Any) -> None:
        given = {name: partial(callback, model) for name, callback in callbacks.items()}
        case.train(model, folder, **{**given, **options})

    alone, copies = case.model(), []
    train(alone)
    model = case.model()  # not before: it seeds the default generator

    def keep(*arguments: Any) -> None:  # the file is that of the step before, with what its callbacks have changed
        copies.append(shutil.copy(folder / "all.h5", folder / f"copy{len(copies)}.h5"))
        if "batch_callback" in callbacks:
            callbacks["batch_callback"](model, *arguments)

    train(model, checkpoint=folder / "all.h5", checkpoint_every="1 step", batch_callback=keep)
    assert result(model) == result(alone) and len(copies) == 6
    for copy in copies:
        again = case.model()
        nc.manual_seed(99)
        train(again, resume_from=copy)
        assert result(again) == result(alone), copy


def test_what_a_batch_callback_changes_is_kept(tmp_path: Path) -> None:
    """A learning rate, as a warm-up of one's own would, and the place of the default generator."""

    def warm_up(model: nc.Model, step: int, *_: object) -> None:
        if step == 2:
            model.optimizer.lr = 0.5 * model.optimizer.lr
            model.optimizer.groups[0].update(eps=np.float32(1e-6), betas=(np.float32(0.5), 0.9))
        nc.random.generator_or_default().normal(size=step)

    resumed_after_every_step(Case(source=lambda _: (OwnPairs(),), seed=None), tmp_path, batch_callback=warm_up)


def test_a_layer_that_a_callback_freezes_stays_frozen(tmp_path: Path) -> None:
    case = Case(lambda: plain(nc.BatchNorm2d(4), nc.Dropout(0.3)), validation=(images(4), images(4)))

    def freeze(model: nc.Model, epoch: nc.Epoch) -> None:
        model.network[2].eval()

    resumed_after_every_step(case, tmp_path, callback=freeze)


def test_replicas_that_a_callback_has_put_out_of_date(tmp_path: Path) -> None:
    """After eval() and train() the next step makes new ones, which draw from new children of the generator."""
    case = Case(lambda: plain(nc.Dropout(0.3)))

    def look(model: nc.Model, step: int, *_: object) -> None:
        model.network.eval()
        model.network.train()

    resumed_after_every_step(case, tmp_path, batch_callback=look)


def test_modes_of_another_network_are_refused(tmp_path: Path) -> None:
    """Of modules of one's own, which the checkpoint knows by their number alone."""
    case = Case(lambda: plain(Noisy()))
    case.train(case.model(), tmp_path, checkpoint=tmp_path / "c.h5")
    other = Case(lambda: nc.Sequential(*plain(Noisy()), nc.Identity()))  # whose parameters have the same names
    with pytest.raises(ValueError, match="network: it has 6 modules here, 5 in the checkpoint"):
        other.train(other.model(), tmp_path, resume_from=tmp_path / "c.h5")


@pytest.mark.parametrize("checkpoint", ["c.h5", None])
def test_training_within_its_own_callback_is_refused(checkpoint: str | None, tmp_path: Path) -> None:
    case, model = CASES["arrays"], CASES["arrays"].model()
    other = case.model()
    where = None if checkpoint is None else tmp_path / checkpoint

    def train_again(*_: object) -> None:
        case.train(other, tmp_path)  # another model's is its own affair
        with pytest.raises(RuntimeError, match="train was called by a callback of this model's own training"):
            case.train(model, tmp_path)
        model.train_batch(nc.asarray(images(2) / 255, "float32"), nc.asarray(images(2) / 255, "float32"))

    case.train(model, tmp_path, num_epochs=1, callback=train_again, checkpoint=where)
    assert len(model.history) == 1 and len(other.history) == 2
    with pytest.raises(ZeroDivisionError):
        case.train(model, tmp_path, callback=lambda _: 1 / 0)
    case.train(model, tmp_path, num_epochs=1)  # it is free again, whatever has ended the last one


# ---- arguments ----
def test_numbers_of_numpy(tmp_path: Path) -> None:
    case, path = Case(optimizer=lambda network: nc.Adam(network.parameters(), np.float32(0.01))), tmp_path / "c.h5"
    numbers = {"batch_size": np.int64(4), "seed": np.int64(5), "num_epochs": np.int64(2)}
    model = case.model()
    case.train(model, tmp_path, **numbers, checkpoint=path, checkpoint_every=np.int64(1))
    assert json.loads(json.dumps(nc.checkpoints.file.read(path).state["fit"]))["batch_size"] == 4
    again = case.model()
    case.train(again, tmp_path, **numbers, resume_from=path)
    assert result(again) == result(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": "10m", "num_epochs": None}, r"seconds \(='10m'\) must be a number"),
        ({"num_epochs": "3"}, r"num_epochs \(='3'\) must be an integer"),
        ({"batch_size": 2.0}, r"batch_size \(=2.0\) must be an integer"),
    ],
)
def test_wrong_numbers_are_named_before_the_checkpoint_is_compared(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    CASES["arrays"].train(CASES["arrays"].model(), tmp_path, checkpoint=tmp_path / "c.h5")
    with pytest.raises(TypeError, match=message):
        CASES["arrays"].train(CASES["arrays"].model(), tmp_path, resume_from=tmp_path / "c.h5", **options)


def test_notes_that_are_no_plain_data(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="the notes of a checkpoint must be plain data, as JSON has it: .*int64"):
        CheckpointFile(tmp_path / "c.h5", {"when": np.int64(3)})


def test_a_finished_training_in_another_file(tmp_path: Path) -> None:
    """Nothing is left to train: the other file is as whole as the first."""
    case, path, other = CASES["dropout"], tmp_path / "c.h5", tmp_path / "other.h5"
    model = case.model()
    case.train(model, tmp_path, checkpoint=path)
    case.train(case.model(), tmp_path, resume_from=path, checkpoint=other)
    ours, theirs = (nc.checkpoints.file.read(each) for each in (path, other))
    assert theirs.state == ours.state and theirs.state["finished"]
    for name, array in ours.arrays["parameters"].items():
        np.testing.assert_array_equal(on_host(array), theirs.arrays["parameters"][name])
