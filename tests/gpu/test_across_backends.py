"""The two backends against each other: files, training, what is given to Model; and NumPy alone, without CuPy."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import standin

import npconv as nc
from npconv import inputs
from npconv.backends import Array

BOTH_WAYS = [("numpy", "cupy"), ("cupy", "numpy")]


def branched() -> nc.Sequential:
    """Convolutions both ways and grouped, and batch norm: several memory orders, and all buffers."""
    return nc.Sequential(
        nc.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"),
        nc.BatchNorm2d(4),
        nc.Concat({"skip": nc.Identity(), "deep": nc.Sequential(nc.MaxPool2d(2), nc.Upsampling(4, 2, 4, 2, 1))}),
        nc.Sum(nc.Conv2d(6, 4, 1), nc.Sequential(nc.LeakyReLU(0.3), nc.Conv2d(6, 4, 3, padding=1, groups=2))),
        nc.Upsampling(4, 4, 3, padding=1, transposeconvargs=False, scale_factor=2),
        nc.AvgPool2d(2),
        nc.Conv2d(4, 3, 3, padding=1),
        nc.Sigmoid(),
    )


def classifier() -> nc.Sequential:
    return nc.Sequential(nc.Conv2d(3, 4, 3), nc.Tanh(), nc.Flatten(), nc.Linear(4 * 6 * 6, 5))


def batch(dtype: str, seed: int = 0) -> Array:
    return nc.asarray(np.random.default_rng(seed).random((4, 3, 8, 8)).astype(dtype))


def stored(network: nc.Module) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Dtype, shape and bits of all that a file keeps of a network."""
    arrays: dict[str, Any] = {f"buffer {name}": getattr(m, key) for name, m, key in network.named_buffers()}
    for name, parameter in network.named_parameters():
        arrays.update({f"data {name}": parameter.data, f"grad {name}": parameter.grad})
    host = {name: nc.to_numpy(array) for name, array in arrays.items()}
    return {name: (array.dtype.name, array.shape, array.tobytes()) for name, array in host.items()}


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make", [branched, classifier])
def test_weights_saved_on_one_backend_load_on_the_other_bit_for_bit(
    on_standin: ModuleType, tmp_path: Path, make: Callable[[], nc.Module], dtype: str, first: str, second: str
) -> None:
    path = tmp_path / "net.h5"
    with nc.use_backend(first):
        network = make().astype(dtype)
        network.backward(network.forward(batch(dtype)))
        expected = stored(network)
        nc.save(network, path)
    assert all(np.frombuffer(bits, kind).any() for name, (kind, _, bits) in expected.items() if name[:4] == "grad")
    with nc.use_backend(second) as other:
        nc.manual_seed(7)
        loaded, into = nc.load(path), make().astype(dtype)
        nc.load_into(into, path)
        assert stored(loaded) == stored(into) == expected
        assert all(other.owns(array) for pair in loaded.param() for array in pair)
        nc.save(loaded, path)
    with nc.use_backend(first):
        assert stored(nc.load(path)) == expected


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
def test_a_state_dict_of_one_backend_loads_on_the_other(on_standin: ModuleType, first: str, second: str) -> None:
    with nc.use_backend(first):
        state = branched().state_dict()
        expected = {name: nc.to_numpy(array).tobytes() for name, array in state.items()}
    with nc.use_backend(second):
        network = branched()
        network.load_state_dict(state)
        assert {name: nc.to_numpy(array).tobytes() for name, array in network.state_dict().items()} == expected


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("make", [branched, lambda: nc.networks.strided(4)], ids=["branched", "strided"])
def test_training_steps_give_the_losses_of_the_numpy_backend(
    on_standin: ModuleType, make: Callable[[], nc.Module], optimizer: str, dtype: str, bound: float
) -> None:
    """Seven steps: the first three are taken one by one, the others by a graph."""
    losses = {}
    for name in ("numpy", "cupy"):
        with nc.use_backend(name):
            nc.manual_seed(1)
            network = make().astype(dtype)
            options = {"lr": 0.1, "momentum": 0.9} if optimizer == "SGD" else {"lr": 1e-3}
            model = nc.Model(network, nc.MSE(), getattr(nc, optimizer)(network.parameters(), **options))
            losses[name] = [model.train_batch(batch(dtype, i), batch(dtype, i + 9)) for i in range(7)]
    assert len(set(losses["numpy"])) == 7  # it does learn
    np.testing.assert_allclose(losses["cupy"], losses["numpy"], rtol=bound)


def trained(images: np.ndarray, seen: list[float]) -> tuple[list[nc.Epoch], Any]:
    nc.manual_seed(1)
    network = branched()
    model = nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=0.1))
    history = model.train(images, images, 2, batch_size=4, validation=0.25, seed=3,
                          batch_callback=lambda step, count, loss: seen.append(loss))  # fmt: skip
    return history, model.predict(images)


def test_a_run_gives_the_history_and_the_pictures_of_the_numpy_backend(on_standin: ModuleType) -> None:
    images = np.random.default_rng(0).integers(0, 256, (24, 3, 8, 8), dtype=np.uint8)
    seen: dict[str, list[float]] = {"numpy": [], "cupy": []}
    with nc.use_backend("numpy"):
        expected, pictures = trained(images, seen["numpy"])
    history, ours = trained(images, seen["cupy"])
    assert isinstance(ours, np.ndarray)
    np.testing.assert_allclose(ours, pictures, atol=1e-3)
    for mine, theirs in zip(history, expected, strict=True):
        for name in ("loss", "validation_mse", "psnr", "psnr_pooled", "lr"):
            assert getattr(mine, name) == pytest.approx(getattr(theirs, name), rel=1e-5)
    # A device's callback has the loss of the first and of the last batch, and between them the first one's.
    assert len(seen["numpy"]) == len(seen["cupy"]) == 10
    for start in (0, 5):
        first, *between, last = seen["cupy"][start : start + 5]
        assert first == pytest.approx(seen["numpy"][start], rel=1e-5) and between == [first] * 3
        assert last == pytest.approx(seen["numpy"][start + 4], rel=1e-5)


def test_images_of_the_host_are_looked_at_there(on_standin: ModuleType) -> None:
    """Training images stay on the host, and go to the device batch by batch."""
    images = np.random.default_rng(0).uniform(0, 255, (4, 3, 8, 8)).astype("float32")
    inputs.as_pairs(images, images)
    assert standin.counts().to_device == standin.counts().synchronisations == 0
    x, from_host = inputs.as_images(images)
    assert from_host and nc.backend().owns(x) and standin.counts().to_device == 1
    assert standin.counts().synchronisations == 0
    model = nc.Model(nc.networks.strided(4))
    assert nc.backend().owns(model.predict(x)) and isinstance(model.predict([x[0], x[1]]), np.ndarray)


@pytest.mark.parametrize(
    "images", ["photo.png", np.array([None]), [[[1.0], [1.0, 2.0]]]], ids=["text", "None", "ragged"]
)
def test_what_are_no_images_is_the_error_that_is_promised(on_standin: ModuleType, images: Any) -> None:
    model, errors = nc.Model(nc.networks.strided(4)), []
    for name in ("numpy", "cupy"):
        with nc.use_backend(name), pytest.raises((TypeError, ValueError), match="images must be") as caught:
            model.predict(images)
        errors.append((caught.type, str(caught.value)))
    assert errors[0] == errors[1]


def test_the_numpy_backend_never_asks_for_cupy(tmp_path: Path) -> None:
    """Neither imported nor looked for, although it is installed: so it cannot take time either."""
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text("raise AssertionError('cupy was imported')\n")
    program = textwrap.dedent("""
        import sys
        from importlib.abc import MetaPathFinder

        class Seen(MetaPathFinder):
            names = []
            def find_spec(self, name, path=None, target=None):
                self.names.append(name)

        sys.meta_path.insert(0, Seen())
        import npconv
        import numpy as np
        images = np.random.default_rng(0).uniform(0, 255, (8, 3, 8, 8)).astype("float32")
        model = npconv.Model(npconv.networks.strided(4))
        model.train(images, images, 2, batch_size=4, validation=0.25, seed=0)
        assert model.predict(images).shape == images.shape
        assert npconv.backend().name == "numpy" and "npconv.backends.cpu" in Seen.names
        wrong = [n for n in {*Seen.names, *sys.modules} if n.startswith(("cupy", "npconv.backends.gpu"))]
        assert not wrong, wrong
    """)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NPCONV_")}
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
