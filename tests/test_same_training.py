"""What must be the same where a training goes on: which photographs, which groups; and what only warns: the machine."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_cases import CASES, Case, images, result

import npconv as nc
from npconv import data
from npconv.checkpoints.same_training import describe, optimizer_misfits


# ---- what has computed it ----
@pytest.mark.cpu
def test_other_workers_are_allowed_and_said(tmp_path: Path, set_workers: Any) -> None:
    case = CASES["arrays"]
    case.train(case.model(), tmp_path, num_epochs=1, checkpoint=tmp_path / "a.h5")
    set_workers(nc.backend().workers + 1)
    with pytest.warns(UserWarning, match="was computed by the numpy backend, .* may not be the same bit for bit"):
        case.train(case.model(), tmp_path, num_epochs=2, resume_from=tmp_path / "a.h5")


@pytest.mark.cpu
def test_another_numpy_or_algorithm_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, path = CASES["arrays"], tmp_path / "c.h5"
    monkeypatch.delenv("NPCONV_CONV", raising=False)
    case.train(case.model(), tmp_path, checkpoint=path)
    monkeypatch.setenv("NPCONV_CONV", "auto")  # which it is where nothing is set
    case.train(case.model(), tmp_path, resume_from=path)
    monkeypatch.setenv("NPCONV_CONV", "im2col")
    with pytest.warns(UserWarning, match=r"was computed by .*BLAS: [^=]*, and goes on with .*, NPCONV_CONV=im2col: "):
        case.train(case.model(), tmp_path, resume_from=path)
    monkeypatch.delenv("NPCONV_CONV")
    monkeypatch.setattr(np, "__version__", "99.0")
    with pytest.warns(UserWarning, match=r"and goes on with the numpy backend, NumPy 99\.0 on Python"):
        case.train(case.model(), tmp_path, resume_from=path)


# ---- which photographs ----
def test_a_folder_may_move_but_must_have_the_same_files(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "more/c.png")):
        data.write_image(tmp_path / "photos" / name, images(1, number)[0].repeat(2, axis=1).repeat(2, axis=2))
    shutil.copytree(tmp_path / "photos", tmp_path / "moved")
    shutil.copytree(tmp_path / "photos", tmp_path / "renamed")
    (tmp_path / "renamed" / "b.png").rename(tmp_path / "renamed" / "d.png")

    def case(folder: str) -> Case:
        photos = data.FolderPhotos(tmp_path / folder).subset([0, 1, 2])  # as a split gives them
        return Case(source=lambda _: (data.PatchPairs(photos, data.Gaussian(9), 11, 8),))

    model, again = case("photos").model(), case("photos").model()
    case("photos").train(model, tmp_path, checkpoint=tmp_path / "c.h5")
    case("moved").train(again, tmp_path, resume_from=tmp_path / "c.h5")
    assert result(again) == result(model)
    with pytest.raises(ValueError, match="training data: CRC-32 of the photographs' names is '.*' here, '.*' in the"):
        case("renamed").train(case("renamed").model(), tmp_path, resume_from=tmp_path / "c.h5")


def test_names_in_memory_say_nothing() -> None:
    case = CASES["dropout"]
    pairs, probe = case.source(Path())[0], (images(1), images(1))
    options = {"num_epochs": 1, "seconds": None, "batch_size": 1, "schedule_every": "batch", "seed": 0}
    kept = describe(case.model(), pairs, probe, None, None, **options)["training data"]
    assert not any("CRC" in name for name in kept)


# ---- which groups ----
def test_groups_of_parameters_are_counted(tmp_path: Path) -> None:
    case = CASES["arrays"]
    case.train(case.model(), tmp_path, checkpoint=tmp_path / "c.h5")

    def halves(network: nc.Module) -> nc.Optimizer:
        parameters = list(network.parameters())
        return nc.Adam([{"params": parameters[:1]}, {"params": parameters[1:]}], lr=0.01)

    other = Case(optimizer=halves, **case.options)
    with pytest.raises(ValueError, match="optimizer: groups: their number is 2 here, 1 in the checkpoint"):
        other.train(other.model(), tmp_path, resume_from=tmp_path / "c.h5")
    optimizer = case.model().optimizer
    assert optimizer_misfits(optimizer, [], [{}] * 4, {}) == [
        "optimizer: number of groups of parameters is 1 here, 0 in the checkpoint"
    ]
    assert optimizer_misfits(optimizer, [{}], [{}] * 3, {}) == [
        "optimizer: number of parameters is 4 here, 3 in the checkpoint"
    ]


# ---- and then ----
def test_nothing_of_the_file_is_held_once_it_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be another copy of network and optimizer for as long as the training lasts."""
    case, path = CASES["arrays"], tmp_path / "c.h5"
    case.train(case.model(), tmp_path, num_epochs=1, checkpoint=path)
    read, held, alive = nc.checkpoints.file.read, [], []

    def watched(where: Any) -> nc.checkpoints.file.Checkpoint:
        contents = read(where)
        for group in ("parameters", "gradients", "optimizer"):
            held.extend(map(weakref.ref, contents.arrays[group].values()))
        return contents

    def count(*_: object) -> None:
        alive.append(sum(reference() is not None for reference in held))

    monkeypatch.setattr(nc.checkpoints.file, "read", watched)
    case.train(case.model(), tmp_path, resume_from=path, batch_callback=count)
    assert len(held) == 4 + 4 + 8 and alive == [0, 0, 0]
