"""Checkpoints of `Model.train`: what was stopped anywhere and is resumed ends with the bits of one left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_cases import CASES, Case, Stopped, adam, every_checkpoint, images, plain, result, sgd
from devices import on_host

import npconv as nc
from npconv import epochs
from npconv.checkpoints import CheckpointFile, Every


# ---- the same bits ----
@pytest.mark.parametrize("name", CASES)
def test_resumed_anywhere_it_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    alone = case.model()
    case.train(alone, tmp_path)
    expected, copies = every_checkpoint(case, tmp_path)
    assert expected == result(alone)  # writing checkpoints changes nothing
    assert len(copies) == 6
    for copy in copies:
        resumed = case.model()
        nc.manual_seed(99)  # whatever the default generator is at, in a new process
        new = case.train(resumed, tmp_path, resume_from=copy)
        assert result(resumed) == expected and new == resumed.history, copy.name


@pytest.mark.parametrize("workers", [2, 3])
def test_with_several_workers(workers: int, tmp_path: Path, set_workers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    set_workers(workers)
    monkeypatch.setattr(nc.training, "THREAD_WORK", 1)
    monkeypatch.setattr(nc.training, "PROCESS_WORK", 1)
    monkeypatch.setattr(nc.training, "STEPS_BY_THREADS", 1)  # then, where that is possible, processes
    for name in ("dropout", "arrays"):
        alone = CASES[name].model()
        CASES[name].train(alone, tmp_path)
        expected, copies = every_checkpoint(CASES[name], tmp_path)
        assert expected == result(alone)
        for copy in copies[1::2]:
            resumed = CASES[name].model()
            CASES[name].train(resumed, tmp_path, resume_from=copy)
            assert result(resumed) == expected, (name, copy.name)


def test_stopped_again_and_again_in_one_process(tmp_path: Path) -> None:
    case, path = CASES["dropout"], tmp_path / "c.h5"
    alone, model = case.model(), case.model()
    case.train(alone, tmp_path)
    steps = 0

    def stop(*_: object) -> None:
        nonlocal steps
        steps += 1
        if steps % 2 == 0:
            raise Stopped

    for _ in range(3):
        with pytest.raises(Stopped):  # an error outside of a step leaves a checkpoint too
            going_on = {"resume_from": path} if path.exists() else {"checkpoint": path}
            case.train(model, tmp_path, batch_callback=stop, **going_on)
    assert steps == 6  # none of them twice
    case.train(model, tmp_path, resume_from=path)
    assert result(model) == result(alone) and steps == 6


def test_a_longer_training_goes_on_from_the_end(tmp_path: Path) -> None:
    case, path = CASES["dropout"], tmp_path / "c.h5"
    alone, model = case.model(), case.model()
    case.train(alone, tmp_path, num_epochs=4)
    case.train(model, tmp_path, num_epochs=2, checkpoint=path)
    new = case.train(case.model(), tmp_path, num_epochs=4, resume_from=path, checkpoint=tmp_path / "other.h5")
    assert [vars(e) | {"seconds": 0} for e in new] == [vars(e) | {"seconds": 0} for e in alone.history]
    again = case.model()
    case.train(again, tmp_path, num_epochs=4, resume_from=tmp_path / "other.h5")
    assert result(again) == result(alone)


def test_a_longer_training_may_have_a_longer_schedule(tmp_path: Path) -> None:
    case, rates = CASES["amsgrad, cosine"], []
    case.train(case.model(), tmp_path, checkpoint=tmp_path / "c.h5")
    case.schedule, kept = lambda optimizer: nc.CosineAnnealingLR(optimizer, 12), case.schedule
    try:
        model = case.model()
        note = lambda *_: rates.append(model.optimizer.lr)  # noqa: E731
        case.train(model, tmp_path, num_epochs=4, resume_from=tmp_path / "c.h5", batch_callback=note)
    finally:
        case.schedule = kept
    assert rates == pytest.approx([0.005 * (1 + np.cos(np.pi * step / 12)) for step in range(7, 13)])


def test_a_finished_training_is_not_begun_again(tmp_path: Path) -> None:
    case, path = CASES["arrays"], tmp_path / "c.h5"
    model = case.model()
    case.train(model, tmp_path, checkpoint=path)
    before = path.read_bytes()
    again = case.model()
    history = case.train(again, tmp_path, resume_from=path, batch_callback=lambda *_: pytest.fail("a step"))
    assert result(again) == result(model) and history == model.history and path.read_bytes() == before


def test_the_history_before_this_training_stays(tmp_path: Path) -> None:
    case, path = CASES["arrays"], tmp_path / "c.h5"
    alone, stopped = case.model(), case.model()
    for model in (alone, stopped):
        case.train(model, tmp_path, num_epochs=1, seed=1)
    case.train(alone, tmp_path)

    def stop(step: int, *_: object) -> None:
        if len(stopped.history) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        case.train(stopped, tmp_path, checkpoint=path, batch_callback=stop)
    resumed = case.model()
    assert [epoch.epoch for epoch in case.train(resumed, tmp_path, resume_from=path)] == [2, 3]
    assert result(resumed) == result(alone)


def test_the_best_network_is_kept(tmp_path: Path) -> None:
    case, path, states = Case(optimizer=sgd, validation=(images(4), images(4)), num_epochs=6), tmp_path / "c.h5", []
    model = case.model()
    case.train(model, tmp_path, checkpoint=path, callback=lambda _: states.append(model.network.state_dict()))
    best = max(range(6), key=lambda i: model.history[i].psnr or 0)
    contents = nc.checkpoints.file.read(path)
    assert contents.state["best_psnr"] == model.history[best].psnr
    for name, array in contents.arrays["best.parameters"].items():
        np.testing.assert_array_equal(array, on_host(states[best][name]))


def test_a_checkpoint_is_a_model_too(tmp_path: Path) -> None:
    case, path = CASES["batch normalisation"], tmp_path / "c.h5"
    model = case.model()
    case.train(model, tmp_path, checkpoint=path)
    loaded = nc.Model.load(path)
    assert result(loaded)["network"] == result(model)["network"] and type(loaded.optimizer) is nc.SGD
    case.train(model, tmp_path, num_epochs=1)
    model.save(tmp_path / "model.h5")
    with pytest.raises(nc.WeightsFileError, match=r"model\.h5 is a model, not a checkpoint of a training"):
        case.train(model, tmp_path, resume_from=tmp_path / "model.h5")


# ---- when they are written ----
def test_how_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, path = CASES["arrays"], tmp_path / "c.h5"
    written: list[tuple[int, int]] = []
    original = nc.checkpoints.file.write

    def note(where: Path, state: dict[str, Any], *rest: Any) -> None:
        epoch = state["progress"]["epoch"]
        written.append((state["progress"]["done"], 0 if epoch is None else epoch["steps"]))
        original(where, state, *rest)

    monkeypatch.setattr(nc.checkpoints.file, "write", note)
    for every, expected in (
        (None, [(0, 0), (1, 0), (2, 0), (3, 0), (3, 0)]),
        (2, [(0, 0), (2, 0), (3, 0)]),
        ("2 steps", [(0, 0), (0, 2), (1, 1), (1, 3), (2, 2), (3, 0)]),
        ("1h", [(0, 0), (3, 0)]),
    ):
        written.clear()
        case.train(case.model(), tmp_path, num_epochs=3, checkpoint=path, checkpoint_every=every)
        assert written == expected, every
    each_look_a_second_later = iter(range(1000)).__next__
    monkeypatch.setattr(nc.checkpoints.writing, "now", each_look_a_second_later)
    written.clear()
    case.train(case.model(), tmp_path, num_epochs=1, checkpoint=path, checkpoint_every="2s")
    assert written == [(0, 0), (0, 2), (1, 0)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, Every(epochs=3)),
        ("3", Every(epochs=3)),
        ("1 epoch", Every(epochs=1)),
        ("500 steps", Every(steps=500)),
        ("1step", Every(steps=1)),
        ("90s", Every(seconds=90)),
        ("1h30m", Every(seconds=5400)),
    ],
)
def test_every(value: Any, expected: Every) -> None:
    assert Every.of(value) == expected


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"checkpoint": "c.h5", "checkpoint_every": 0}, ValueError, r"checkpoint_every \(=0\) must be at least 1"),
        ({"checkpoint": "c.h5", "checkpoint_every": "-1"}, ValueError, "must be a number of epochs such as 1 or '5'"),
        ({"checkpoint": "c.h5", "checkpoint_every": "soon"}, ValueError, "or a time such as '90s', '10m', '1h30m'"),
        ({"checkpoint": "c.h5", "checkpoint_every": 1.5}, TypeError, r"checkpoint_every \(=1.5\) must be"),
        ({"checkpoint_every": 1}, ValueError, r"\(=1\) would have no effect without a checkpoint"),
        ({"checkpoint": 5}, TypeError, r"checkpoint \(=5\) must be the name of a file"),
        ({"checkpoint": "."}, ValueError, r"checkpoint \(='.'\) is a folder"),
        ({"checkpoint": "nowhere/c.h5"}, ValueError, "must be in a folder that exists"),
        ({"resume_from": 5}, TypeError, r"resume_from \(=5\) must be the name of a file"),
        ({"resume_from": "nowhere.h5"}, nc.FileFormatError, r"nowhere\.h5 is not a file"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path,
                         monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    model = CASES["arrays"].model()
    before = result(model)
    with pytest.raises(kind, match=message):
        CASES["arrays"].train(model, tmp_path, **options)
    assert result(model) == before


# ---- what does not fit ----
MISFITS: dict[str, tuple[dict[str, Any], str]] = {
    "batch size": ({"batch_size": 5}, "batch_size is 5 here, 4 in the checkpoint"),
    "seed": ({"seed": 6}, "seed is 6 here, 5 in the checkpoint"),
    "validation": ({"validation": 0.4}, "validation is {'input':"),
    "fewer epochs": ({"num_epochs": 1}, r"num_epochs \(=1\) must be at least the 2 of "),
    "a time": ({"num_epochs": None, "seconds": 9}, r"\(=9\) cannot go on with .*, a training by num_epochs \(=2\)"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "c.h5"
    case = CASES["amsgrad, cosine"]

    def stop(step: int, *_: object) -> None:
        if step == 2:
            raise Stopped

    with pytest.raises(Stopped):
        case.train(case.model(), path.parent, checkpoint=path, batch_callback=stop)
    return path


@pytest.mark.parametrize("name", MISFITS)
def test_another_training_is_refused(name: str, checkpoint: Path) -> None:
    options, message = MISFITS[name]
    refused(CASES["amsgrad, cosine"], checkpoint, message, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": lambda: plain(nc.ReLU())}, "network: children"),
        ({"network": lambda: plain().double()}, r"mismatched: parameters/0\.weight is float64 .* here, float32"),
        ({"optimizer": adam}, r"optimizer: groups\[0\]: arguments: amsgrad is False here, True in the checkpoint"),
        ({"optimizer": sgd}, "optimizer: type is 'SGD' here, 'Adam' in the checkpoint"),
        ({"loss": nc.L1}, "loss: type is 'L1' here, 'MSE' in the checkpoint"),
        ({"schedule": None}, "schedule is None here"),
        ({"schedule": lambda o: nc.CosineAnnealingLR(o, 7)}, "schedule: total_steps is 7 here, 6 in the checkpoint"),
        ({"source": lambda _: (images(12), images(12))}, "training data: number is 12 here, 11 in the checkpoint"),
        ({"source": lambda _: (images(seed=1), images())}, "training data: mean values are "),
    ],
)
def test_another_model_or_other_data_is_refused(change: dict[str, Any], message: str, checkpoint: Path) -> None:
    old = CASES["amsgrad, cosine"]
    made = {name: getattr(old, name) for name in ("network", "optimizer", "source", "schedule", "loss")}
    refused(Case(**{**made, **old.options, **change}), checkpoint, message)


def refused(case: Case, checkpoint: Path, message: str, **options: Any) -> None:
    model = case.model()
    before, contents = result(model), checkpoint.read_bytes()
    with pytest.raises(ValueError, match=message):
        case.train(model, checkpoint.parent, resume_from=checkpoint, **options)
    after = result(model)
    for each in (before, after):  # making a schedule is what notes an optimizer's first learning rate
        each["optimizer"] = each["optimizer"][0], [group["lr"] for group in each["optimizer"][1]]
    assert after == before and checkpoint.read_bytes() == contents


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    class Watching(nc.StepLR):
        def __init__(self, optimizer: nc.Optimizer) -> None:
            self.window = object()
            super().__init__(optimizer, 1)

    with pytest.raises(TypeError, match="a checkpoint cannot keep the object 'window' that Watching holds"):
        Case(schedule=Watching).train(CASES["arrays"].model(), tmp_path, checkpoint=tmp_path / "c.h5")
    assert list(tmp_path.iterdir()) == []


# ---- by time ----
class FakeClock:
    """What `time.perf_counter` is to a training: a step takes a second, a validated image a tenth of one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time, self.steps = 1000.0, 0
        monkeypatch.setattr(epochs, "now", lambda: self.time)
        step, validate = nc.Model.train_batch, nc.Model.validate

        def timed_step(model: nc.Model, x: Any, t: Any) -> float:
            self.time, self.steps = self.time + 1, self.steps + 1
            return step(model, x, t)

        def timed_validation(model: nc.Model, x: Any, t: Any) -> Any:
            self.time += 0.1 * len(x)
            return validate(model, x, t)

        monkeypatch.setattr(nc.Model, "train_batch", timed_step)
        monkeypatch.setattr(nc.Model, "validate", timed_validation)


@pytest.mark.cpu
def test_the_time_used_so_far_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock(monkeypatch)
    case = Case(
        num_epochs=None,
        seconds=40,
        validation=(images(40), images(40)),
        schedule=lambda optimizer: nc.RampDownLR(optimizer, 1000),
        schedule_every="batch",
    )
    expected, copies = every_checkpoint(case, tmp_path)
    taken = clock.steps
    assert len(copies) == taken > 25 and 4 < expected["history"][0]["validated"] < 40
    for number in (0, 1, 7, 20, taken - 1):
        clock.time, clock.steps = clock.time + 5000, 0  # nobody counts what passes between
        resumed = case.model()
        case.train(resumed, tmp_path, resume_from=copies[number])
        assert result(resumed) == expected and clock.steps == taken - number, number
    clock.steps = 0
    model = case.model()
    case.train(model, tmp_path, resume_from=tmp_path / "all.h5")
    assert clock.steps == 0 and result(model) == expected  # it is over
    started = clock.time
    case.train(model, tmp_path, resume_from=tmp_path / "all.h5", seconds=60)
    assert 15 < clock.steps <= 21 and clock.time - started <= 21 and len(model.history) > len(expected["history"])


# ---- generators ----
@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_generators_as_plain_data(kind: str) -> None:
    from npconv.checkpoints.generators import describe, rebuild

    generator = np.random.Generator(getattr(np.random, kind)([5, 2**70]))
    generator.standard_normal(3), generator.random(dtype="float32"), generator.spawn(2)
    twin = rebuild(json.loads(json.dumps(describe(generator))))
    for one, other in ((generator, twin), (generator.spawn(1)[0], twin.spawn(1)[0])):
        np.testing.assert_array_equal(one.standard_normal(9), other.standard_normal(9))
        np.testing.assert_array_equal(one.integers(9, size=9, dtype="int8"), other.integers(9, size=9, dtype="int8"))


def test_a_collapse_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    case, path = Case(optimizer=lambda network: nc.SGD(network.parameters(), lr=1e20)), tmp_path / "c.h5"
    with pytest.raises(nc.TrainingCollapsed):
        case.train(case.model(), tmp_path, checkpoint=path)
    assert nc.checkpoints.file.read(path).state["progress"]["epoch"] is None


def test_notes_are_kept(tmp_path: Path) -> None:
    case = CASES["arrays"]
    case.train(case.model(), tmp_path, checkpoint=CheckpointFile(tmp_path / "c.h5", {"who": "Müller"}))
    case.train(case.model(), tmp_path, num_epochs=3, resume_from=tmp_path / "c.h5")
    assert nc.checkpoints.file.read(tmp_path / "c.h5").state["notes"] == {"who": "Müller"}
