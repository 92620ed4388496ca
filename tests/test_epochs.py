"""Training for a time: where epochs end, what the schedule does, and that the time is kept to.

A clock of the test's own goes on by so much a step and so much a validated image, so that nothing waits.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devices import on_host

import npconv as nc
from npconv import epochs
from npconv.epochs import Clock, Losses
from npconv.schedules import RampDownLR

TOLERANCE = 1e-9


class FakeClock:
    """What `time.perf_counter` is to the module; it stands still between what is made to cost something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = 1000.0
        self.validations: list[tuple[float, float, int]] = []  # from, to, images
        self.steps: list[float] = []  # when each ended
        self._patch = monkeypatch
        monkeypatch.setattr(epochs, "now", lambda: self.time)

    def charge(self, model: nc.Model, step: float = 0.0, image: float = 0.0) -> None:
        """Let a step, and each image of a validation, take so many seconds."""
        train_batch, validate = model.train_batch, model.validate

        def timed_step(x: Any, t: Any) -> float:
            self.time += step
            self.steps.append(self.time)
            return train_batch(x, t)

        def timed_validation(x: Any, t: Any) -> Any:
            started = self.time
            self.time += image * len(x)
            self.validations.append((started, self.time, len(x)))
            return validate(x, t)

        self._patch.setattr(model, "train_batch", timed_step)
        self._patch.setattr(model, "validate", timed_validation)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    if nc.backend().name != "numpy":
        pytest.skip("hundreds of steps, to see what a clock does that is the same for every backend")
    return FakeClock(monkeypatch)


def model() -> nc.Model:
    nc.manual_seed(0)
    network = nc.Sequential(nc.Conv2d(3, 4, 3, padding=1), nc.ReLU(), nc.Conv2d(4, 3, 3, padding=1))
    return nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=0.1))


def photos(count: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


# ---- epochs ----
def test_twenty_epochs_fill_the_time(clock: FakeClock) -> None:
    trained, seen = model(), []
    clock.charge(trained, step=1.0)
    history = trained.train(photos(), photos(), seconds=100, batch_size=4, seed=0,
                            batch_callback=lambda *values: seen.append(values))  # fmt: skip
    assert clock.time == pytest.approx(1100)
    assert [epoch.epoch for epoch in history] == list(range(1, 21)) and len(clock.steps) == 100
    assert [epoch.seconds for epoch in history] == pytest.approx([5.0] * 20)
    assert [values[:2] for values in seen[:6]] == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (1, 0)]
    assert all(epoch.psnr is None for epoch in history)


def test_the_last_epoch_ends_before_a_step_that_would_take_too_long(clock: FakeClock) -> None:
    trained, losses = model(), []
    clock.charge(trained, step=3.0)
    history = trained.train(photos(), photos(), seconds=10, batch_size=4, seed=0,
                            batch_callback=lambda step, count, loss: losses.append((step, loss)))  # fmt: skip
    assert clock.time == 1009
    # An epoch's loss is the mean over what was done in it.
    means, steps = [], []
    for step, loss in losses:
        if step == 1:
            steps.append([])
        steps[-1].append(loss)
    means = [math.fsum(each) / len(each) for each in steps]
    assert [epoch.loss for epoch in history] == pytest.approx(means) and len(losses) == 3


def test_writing_a_checkpoint_is_no_part_of_a_step(
    clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the step after it would seem to take longer than what is left of the time."""
    write = nc.checkpoints.file.write

    def slow(*arguments: Any) -> None:
        clock.time += 4
        write(*arguments)

    monkeypatch.setattr(nc.checkpoints.file, "write", slow)
    options = {"seconds": 30, "batch_size": 4, "seed": 0, "checkpoint": tmp_path / "c.h5"}
    for every in range(16, 20):  # one at the beginning, and one in time
        trained, before = model(), len(clock.steps)
        clock.charge(trained, step=1.0)
        trained.train(photos(), photos(), checkpoint_every=f"{every} steps", **options)
        assert len(clock.steps) - before == 30 - 2 * 4, every


def test_an_epoch_cut_short_has_the_mean_over_its_images(clock: FakeClock) -> None:
    trained, losses = model(), []
    clock.charge(trained, step=1.0)
    # Batches of 4, 4 and 2, again and again; an epoch of 4 seconds ends after the first of the second round.
    history = trained.train(photos(10), photos(10), seconds=80, batch_size=4, seed=0,
                            batch_callback=lambda step, count, loss: losses.append(loss))  # fmt: skip
    first = (4 * losses[0] + 4 * losses[1] + 2 * losses[2] + 4 * losses[3]) / 14
    assert history[0].loss == pytest.approx(first)


def test_a_step_longer_than_the_time_is_taken_once(clock: FakeClock) -> None:
    trained = model()
    clock.charge(trained, step=50.0)
    (epoch,) = trained.train(photos(), photos(), seconds=10, seed=0)
    assert len(clock.steps) == 1 and epoch.seconds == 50 and math.isfinite(epoch.loss)


def test_a_step_longer_than_an_epoch_makes_epochs_of_one_step(clock: FakeClock) -> None:
    trained = model()
    clock.charge(trained, step=7.0)
    history = trained.train(photos(), photos(), seconds=50, seed=0)
    assert len(clock.steps) == 7 == len(history) and clock.time == 1049


def test_pairs_come_again_each_once_a_round(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, seen = model(), []
    clock.charge(trained, step=1.0)
    step, images = trained.train_batch, photos(9)
    monkeypatch.setattr(trained, "train_batch", lambda x, t: seen.extend(on_host(x[:, 0, 0, 0])) or step(x, t))
    trained.train(images, images, seconds=60, batch_size=4, seed=0)
    rounds = [sorted(seen[start : start + 9]) for start in range(0, len(seen), 9)]
    assert len(rounds) == 20 and all(each == rounds[0] for each in rounds)


def test_a_callback_stops_it(clock: FakeClock) -> None:
    trained = model()
    clock.charge(trained, step=1.0)
    history = trained.train(photos(), photos(), seconds=100, seed=0, callback=lambda epoch: epoch.epoch == 3)
    assert len(history) == 3 and clock.time == pytest.approx(1015)


def test_an_interrupt_keeps_the_history_so_far(clock: FakeClock) -> None:
    def interrupt(epoch: nc.Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    trained = model()
    clock.charge(trained, step=1.0)
    with pytest.raises(KeyboardInterrupt):
        trained.train(photos(), photos(), seconds=100, seed=0, callback=interrupt)
    assert [epoch.epoch for epoch in trained.history] == [1, 2]


# ---- validation within the time ----
@pytest.mark.parametrize("image", [0.0, 0.001, 0.02, 0.07])
def test_validation_takes_a_tenth_of_the_time_at_most(clock: FakeClock, image: float) -> None:
    trained, held_out = model(), photos(64)
    clock.charge(trained, step=0.1, image=image)
    history = trained.train(photos(), photos(), seconds=100, validation=(held_out, held_out), seed=0)
    whole = [end - start for start, end, images in clock.validations if images == 64]
    assert len(whole) == len(history) and all(epoch.psnr is not None for epoch in history)
    assert sum(whole) <= 10 + TOLERANCE
    assert 99.8 < clock.time - 1000 <= 100 + TOLERANCE
    assert len(history) == {0.0: 20, 0.001: 20, 0.02: 7, 0.07: 2}[image]


def test_a_validation_that_takes_too_long_has_fewer_images(clock: FakeClock) -> None:
    trained, held_out = model(), photos(64)
    clock.charge(trained, step=0.1, image=1.0)
    history = trained.train(photos(), photos(), seconds=100, validation=(held_out, held_out), seed=0)
    assert [images for _, _, images in clock.validations] == [1, 1, 16] and len(history) == 1
    assert history[0].validated == 16
    assert 99.8 < clock.time - 1000 <= 100 + TOLERANCE


@pytest.mark.parametrize(("image", "count"), [(0.21, 23), (1.0, 16), (3.0, 16), (5.0, 10), (60.0, 1)])
def test_there_are_16_images_or_as_many_as_half_of_the_time_allows(clock: FakeClock, image: float, count: int) -> None:
    trained, held_out = model(), photos(64)
    clock.charge(trained, step=0.1, image=image)
    history = trained.train(photos(), photos(), seconds=100, validation=(held_out, held_out), seed=0)
    assert {epoch.validated for epoch in history} == {count}


def test_the_images_are_a_random_part_always_the_same(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, held_out, seen = model(), photos(64), []
    clock.charge(trained, step=0.1, image=1.0)
    validate = trained.validate
    monkeypatch.setattr(trained, "validate", lambda x, t: seen.append((x, t)) or validate(x, t))
    trained.train(photos(), photos(), seconds=100, validation=(held_out, 255 - held_out), seed=0)
    part = epochs.part_to_validate(64, 16)
    np.testing.assert_array_equal(seen[-1][0], held_out[part])
    np.testing.assert_array_equal(seen[-1][1], 255 - held_out[part])
    assert len(set(part)) == 16 and sorted(part) == list(part) != list(range(16)) and max(part) > 32
    np.testing.assert_array_equal(epochs.part_to_validate(64, 16), part)
    assert epochs.part_to_validate(64, 64) == slice(None)


def test_a_validation_longer_than_its_share_is_not_timed_twice(clock: FakeClock) -> None:
    trained, held_out = model(), photos(4)
    clock.charge(trained, step=0.1, image=6.0)
    (epoch,) = trained.train(photos(), photos(), seconds=100, validation=(held_out, held_out), seed=0)
    assert [images for _, _, images in clock.validations] == [1, 4] and epoch.validated == 4
    assert 99.8 < clock.time - 1000 <= 100 + TOLERANCE


def test_one_image_is_validated_however_long_it_takes(clock: FakeClock) -> None:
    trained, held_out = model(), photos(4)
    clock.charge(trained, step=0.1, image=30.0)
    (epoch,) = trained.train(photos(), photos(), seconds=10, validation=(held_out, held_out), seed=0)
    assert epoch.psnr is not None and len(clock.steps) == 1 and epoch.validated == 1
    assert clock.time == pytest.approx(1000 + 30 + 0.1 + 30)  # timed once, a step, validated once


def test_the_time_of_callbacks_counts(clock: FakeClock) -> None:
    trained, ends = model(), []

    def slow(epoch: nc.Epoch) -> None:
        clock.time += 2.0
        ends.append(clock.time)

    clock.charge(trained, step=0.1)
    trained.train(photos(), photos(), seconds=100, seed=0, callback=slow)
    assert 99 < clock.time - 1000 < 100.2 and 2 * len(ends) <= 12  # the first one comes before it is known


# ---- the schedule ----
def test_the_schedule_follows_the_time(clock: FakeClock) -> None:
    trained, rates = model(), []
    clock.charge(trained, step=1.0)
    schedule = nc.TrapezoidLR(trained.optimizer, 1000, warmup=0.1, cooldown=0.5)
    history = trained.train(photos(), photos(), seconds=100, seed=0, schedule=schedule, schedule_every="batch",
                            batch_callback=lambda *_: rates.append(trained.optimizer.lr))  # fmt: skip
    expected = [0.1 * min(1, (10 * done + 1) / 101, (100 - done) / 50) for done in range(1, 101)]
    assert rates == pytest.approx(expected) and rates[-1] == 0
    assert [epoch.lr for epoch in history[1:]] == pytest.approx(expected[4::5][:-1])
    assert history[0].lr == pytest.approx(0.1 / 101)


def test_the_schedule_ends_before_the_last_validation(clock: FakeClock) -> None:
    trained, held_out = model(), photos(4)
    clock.charge(trained, step=1.0, image=1.0)
    schedule = nc.CosineAnnealingLR(trained.optimizer, 1000)
    trained.train(photos(), photos(), seconds=100, validation=(held_out, held_out), seed=0, schedule=schedule,
                  schedule_every="batch")  # fmt: skip
    assert schedule.count == 1000 and trained.optimizer.lr == 0


def test_by_epoch_it_moves_at_the_end_of_each(clock: FakeClock) -> None:
    trained, rates = model(), []
    clock.charge(trained, step=1.0)
    schedule = nc.CosineAnnealingLR(trained.optimizer, 20)
    history = trained.train(photos(), photos(), seconds=100, seed=0, schedule=schedule,
                            batch_callback=lambda *_: rates.append(trained.optimizer.lr))  # fmt: skip
    expected = [0.05 * (1 + math.cos(math.pi * done / 20)) for done in range(20)]
    assert [epoch.lr for epoch in history] == pytest.approx(expected)
    assert rates == pytest.approx(np.repeat(expected, 5))


def test_a_schedule_begins_anew_with_each_training(clock: FakeClock) -> None:
    trained = model()
    clock.charge(trained, step=1.0)
    schedule = RampDownLR(trained.optimizer, 1000)
    for _ in range(2):
        history = trained.train(photos(), photos(), seconds=100, seed=0, schedule=schedule, schedule_every="batch")
        assert history[0].lr == 0.1 and trained.optimizer.lr == 0


# ---- the real clock ----
@pytest.mark.parametrize("validation", [None, 0.25])
def test_next_to_no_time_is_one_step(validation: float | None) -> None:
    trained, images = model(), photos(16)
    before = on_host(trained.network[0].weight.data.copy())
    schedule = nc.TrapezoidLR(trained.optimizer, 1000)
    history = trained.train(images, images, seconds=1e-6, validation=validation, schedule=schedule,
                            schedule_every="batch")  # fmt: skip
    assert len(history) == 1 and math.isfinite(history[0].loss) and history[0].lr > 0
    assert (history[0].psnr is None) == (validation is None)
    assert not np.array_equal(before, on_host(trained.network[0].weight.data))


def test_the_time_is_kept_to() -> None:
    trained, images = model(), photos(64)
    trained.train(images, images, 1)  # whatever a device prepares
    started = time.perf_counter()
    history = trained.train(images, images, seconds=0.4, validation=0.5, seed=0)
    assert time.perf_counter() - started < 2.4  # that it is used up, the clock of the tests above says
    assert history[-1].epoch > 1 and history[-1].psnr is not None


# ---- losses that a device still computes ----
class Late:
    """A loss that the device has only when its turn has come: reading it waits."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def __float__(self) -> float:
        self.clock.time += self.seconds
        return 0.5


@pytest.mark.parametrize(("seconds", "behind"), [(0.2, 2), (2.0, 1), (1e-6, epochs.READ_EVERY)])
def test_a_device_is_never_far_behind_the_clock(clock: FakeClock, seconds: float, behind: int) -> None:
    losses, reads = Losses(timed=True), []
    for step in range(1, 121):
        before = clock.time
        losses.add(Late(clock, seconds), 4, step == 120)
        if clock.time > before:
            reads.append(round((clock.time - before) / seconds))
    assert max(reads) == behind and sum(reads) == 120 and losses.mean == 0.5


def test_without_a_clock_losses_are_read_by_number(clock: FakeClock) -> None:
    losses = Losses()
    for step in range(1, 2 + epochs.READ_EVERY):
        before = clock.time
        losses.add(Late(clock, 2.0), 4, False)
        assert (clock.time > before) == (step in (1, 1 + epochs.READ_EVERY))


# ---- errors ----
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"num_epochs": 3, "seconds": 5}, ValueError, r"num_epochs \(=3\) and seconds \(=5\) must not be given both"),
        ({"seconds": 0}, ValueError, r"seconds \(=0\) must be greater than 0"),
        ({"seconds": math.nan}, ValueError, r"seconds \(=nan\) must be finite"),
        ({"seconds": math.inf}, ValueError, r"seconds \(=inf\) must be finite"),
        ({"seconds": "10m"}, TypeError, r"seconds \(='10m'\) must be a number"),
        ({"seconds": 5, "schedule": nc.StepLR}, ValueError, r"StepLR must be made with total_steps to follow the time"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    trained = model()
    if "schedule" in options:
        options = {**options, "schedule": options["schedule"](trained.optimizer, 3)}
    with pytest.raises(kind, match=message):
        trained.train(photos(), photos(), **options)
    assert trained.history == []


def test_the_clock_says_how_much_of_the_time_for_training_is_over(clock: FakeClock) -> None:
    timed = Clock(10)
    timed.expect_report(2)
    clock.time += 4
    assert timed.share == 0.5
    timed.expect_report(0)
    assert timed.share == 0.5  # it never falls
    clock.time += 100
    assert timed.share == 1
