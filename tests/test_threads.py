"""Several threads of the caller at once: the bits of each alone, one trainer a network, and no state between them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_training
from concurrently import at_once, hasty_threads
from small_training import batch, experiment, state

import npconv as nc
from npconv import backends, training
from npconv.data.photos import LRUCache

pytestmark = pytest.mark.cpu


@pytest.fixture(autouse=True)
def shared_work(monkeypatch: pytest.MonkeyPatch, set_workers: Callable[[int], None]) -> None:
    set_workers(2)
    for name in ("THREAD_WORK", "PROCESS_WORK", "STEPS_BY_THREADS"):
        monkeypatch.setattr(training, name, getattr(training, name))  # put back at the end
    small_training.share_smallest()


@pytest.fixture
def hasty() -> Iterator[None]:
    with hasty_threads():
        yield


# ---- networks of their own ----
def test_networks_that_train_and_predict_at_once_end_with_the_bits_of_each_alone() -> None:
    alone = [experiment(seed) for seed in range(6)]
    assert len(set(alone)) == 6
    assert at_once(*(lambda seed=seed: experiment(seed) for seed in range(6))) == alone


def test_what_other_threads_build_does_not_start_a_training_anew() -> None:
    """A network with Dropout draws from generators that its replicas were given: new ones would draw otherwise."""

    def run(between: Callable[[], Any]) -> tuple[bytes, int]:
        nc.manual_seed(1)
        model, rng, replicas = nc.Model(small_training.network(1)), np.random.default_rng(0), set()
        for _ in range(4):
            model.train_batch(*batch(rng))
            replicas.add(id(model._crew._replicas[0]))
            between()
        return state(model), len(replicas)

    def build() -> None:
        small_training.network(2).eval().train()

    assert run(lambda: None) == run(lambda: at_once(build)) == run(build)
    assert run(build)[1] == 1


def test_no_change_of_a_network_is_missed_beside_changes_of_others(hasty: None) -> None:
    networks = [small_training.network(0) for _ in range(4)]

    def change(network: nc.Module) -> list[int]:
        numbers = [network.structure_number()]
        for _ in range(300):
            network.train(not network.training)
            numbers.append(network.structure_number())
        return numbers

    found = at_once(*(lambda network=network: change(network) for network in networks))
    assert all(numbers == sorted(set(numbers)) for numbers in found)
    assert len({number for numbers in found for number in numbers}) == 4 * 301


def test_a_seed_set_in_a_thread_is_that_threads_and_one_of_the_main_thread_everybodys() -> None:
    def drawn() -> float:
        return float(nc.random.generator_or_default().random())

    def seeded(seed: int) -> list[float]:
        nc.manual_seed(seed)
        ours = nc.backend().run([nc.random.generator_or_default] * 3)
        assert all(generator is nc.random.generator_or_default() for generator in ours)  # workers draw from it too
        return [drawn() for _ in range(50)]

    expected = [list(np.random.default_rng(seed).random(50)) for seed in (1, 2, 3)]
    nc.manual_seed(9)
    assert at_once(*(lambda seed=seed: seeded(seed) for seed in (1, 2, 3))) == expected
    assert [drawn(), *at_once(drawn)] == list(np.random.default_rng(9).random(2))


# ---- one network for several threads ----
def test_a_shared_model_predicts_right_in_eight_threads() -> None:
    """Images of several sizes, whole and in tiles, also for a network that takes a noise level."""
    model, ffdnet = nc.Model(nc.networks.unet(4)), nc.Model(nc.networks.ffdnet(3, 8, 3))
    rng = np.random.default_rng(0)
    images = [rng.random((1 + i % 3, 3, 16 + 4 * i, 21)) * 255 for i in range(8)]

    def predictions(i: int) -> list[bytes]:
        whole, tiled = model.predict(images[i]), model.predict(images[i], tile=(16, 16))
        level = ffdnet.predict(images[i], noise_level=5.0 * i)
        return [x.tobytes() for x in (whole, tiled, level)]

    alone = [predictions(i) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(predictions, list(range(8)) * 3))
    assert found == alone * 3


def test_forward_by_hand_in_evaluation_is_right_in_every_thread(hasty: None) -> None:
    """Beside predict, replicas and tracing, which look at the modules while forward leaves there what it keeps."""
    rng = np.random.default_rng(0)
    x, images = rng.random((2, 3, 8, 8), dtype="float32"), rng.random((2, 3, 8, 8)) * 255
    for _ in range(15):
        network = nc.networks.unet(2).eval()
        model = nc.Model(network)
        expected = network.replica().forward(x).tobytes()
        found = at_once(
            *[lambda network=network: network.forward(x).tobytes()] * 3,
            *[lambda model=model: model.predict(images).tobytes()] * 2,
            lambda network=network: len(nc.summary(network, (3, 8, 8))),
        )
        assert found[:3] == [expected] * 3
        assert found[3] == found[4] == model.predict(images).tobytes()


@pytest.mark.parametrize("second", ["train", "train_batch", "another model"])
def test_a_second_thread_that_trains_a_network_is_refused_and_may_predict(second: str) -> None:
    model, rng = nc.Model(nc.networks.strided(4)), np.random.default_rng(0)
    images = (rng.random((8, 3, 8, 8)) * 255).astype("float32")
    begun, go_on = threading.Event(), threading.Event()

    def hold(*_: Any) -> None:
        begun.set()
        assert go_on.wait(20)

    with ThreadPoolExecutor(1, thread_name_prefix="first") as pool:
        first = pool.submit(model.train, images, images, 1, batch_size=4, batch_callback=hold)
        assert begun.wait(20)
        other = nc.Model(model.network) if second == "another model" else model
        with pytest.raises(RuntimeError, match=r"is being trained in the thread 'first_0' already, and one thread"):
            other.train(images, images, 1) if second == "train" else other.train_batch(*batch(rng))
        assert np.isfinite(model.predict(images)).all()
        nc.Model(nc.networks.strided(4)).train_batch(*batch(rng))  # another network: nobody minds
        go_on.set()
        assert len(first.result(20)) == 1
    other.train_batch(*batch(rng))


def test_after_an_error_another_thread_may_train() -> None:
    model, rng = nc.Model(nc.networks.strided(4)), np.random.default_rng(0)
    with pytest.raises(ValueError, match="channels"):
        at_once(lambda: model.train_batch(np.zeros((4, 2, 8, 8), "float32"), np.zeros((4, 2, 8, 8), "float32")))
    assert np.isfinite(model.train_batch(*batch(rng)))


# ---- state of the library ----
def test_threads_that_need_the_first_backend_at_once_get_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    make = backends._make

    def slowly(name: str) -> Any:
        time.sleep(0.05)
        return make(name)

    monkeypatch.setattr(backends, "_active", None)
    monkeypatch.setattr(backends, "_made", {})
    monkeypatch.setattr(backends, "_make", slowly)
    assert len(set(map(id, at_once(*[nc.backend] * 8)))) == 1


def test_no_grad_and_prepared_weights_are_of_the_thread_that_asked() -> None:
    inside, over = threading.Event(), threading.Event()

    def without() -> None:
        with nc.no_grad(), nc.backend().constant_weights():
            inside.set()
            assert over.wait(20)

    def beside() -> tuple[bool, int]:
        assert inside.wait(20)
        layer, x = nc.Conv2d(8, 8, 3, padding=1), np.ones((1, 8, 16, 16), "float32")
        first = layer(x).copy()
        layer.weight.data *= 2
        layer.bias.data *= 2
        changed = np.allclose(layer(x), 2 * first, rtol=1e-4)  # not from weights that were prepared before
        over.set()
        return nc.is_grad_enabled(), changed

    assert at_once(without, beside)[1] == (True, True)


def test_a_cache_that_threads_share_keeps_to_its_size(hasty: None) -> None:
    cache, arrays = LRUCache(1000), [np.full(100 + 10 * i, i, "uint8") for i in range(12)]

    def read(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        return all(cache.get(i, arrays.__getitem__)[0] == i for i in map(int, rng.integers(12, size=1500)))

    assert at_once(*(lambda seed=seed: read(seed) for seed in range(4))) == [True] * 4
    assert cache.nbytes == sum(array.nbytes for array in cache._arrays.values()) <= 1000


def test_threads_that_save_to_one_file_leave_one_of_the_models(tmp_path: Path) -> None:
    models = [nc.Model(nc.Conv2d(1, 1, 3)) for _ in range(4)]
    weights = [model.network.weight.data.tobytes() for model in models]

    def save(model: nc.Model) -> None:
        for _ in range(8):
            model.save(tmp_path / "model.h5")

    at_once(*(lambda model=model: save(model) for model in models))
    assert nc.Model.load(tmp_path / "model.h5").network.weight.data.tobytes() in weights
    assert [path.name for path in tmp_path.iterdir()] == ["model.h5"]


def test_networks_are_drawn_by_several_threads_at_once_as_by_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made: list[tuple[nc.Module, int]] = [(nc.networks.strided(2), 3), (nc.networks.unet(2), 3)]
    made += [(nc.networks.dncnn(4, 4), 1), (nc.networks.ffdnet(4, 4), 2)]

    def drawn(index: int) -> bytes:
        path = tmp_path / f"{threading.get_ident()}.png"
        nc.draw(made[index][0], (made[index][1], 16, 16), path)
        return path.read_bytes()

    alone = [drawn(index) for index in range(4)]
    assert at_once(*(lambda index=index: drawn(index) for index in range(4))) == alone
