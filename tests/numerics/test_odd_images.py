"""Images of odd kinds in Model, denoise, predict_into and metrics: the result of a plain copy, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from devices import on_host
from odd_arrays import LAYOUTS, Subclass, on_disk, repeating

import npconv as nc
from npconv import metrics
from npconv.inputs import as_images

pytestmark = pytest.mark.cpu  # NumPy's arrays, bit for bit

SHAPE = (4, 1, 10, 9)
WHOLE = np.random.default_rng(11).integers(3, 250, SHAPE).astype("uint8")  # float16 has them all


def scalars(x: Any) -> Any:
    """Lists in lists, of numbers of NumPy's."""
    return [scalars(part) for part in x] if x.ndim else x


# The same whole numbers.
KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "nested lists": lambda x: x.tolist(),
    "list of arrays": list,
    "tuple of arrays": tuple,
    "int64": lambda x: x.astype("int64"),
    "uint16, big-endian": lambda x: x.astype(">u2"),
    "int32, little-endian": lambda x: x.astype("<i4"),
    "float16": lambda x: x.astype("float16"),
    "float32": lambda x: x.astype("float32"),
    "float32, big-endian": lambda x: x.astype(">f4"),
    "float32, little-endian": lambda x: x.astype("<f4"),
    "float64": lambda x: x.astype("float64"),
    "float64, big-endian": lambda x: x.astype(">f8"),
    "long double": lambda x: x.astype("longdouble"),
    "memory map": on_disk,
    "subclass": lambda x: x.view(Subclass),
    "array scalars": lambda x: scalars(x),
    **LAYOUTS,
    **{f"{name}, float64": (lambda x, lay=lay: lay(x.astype("float64"))) for name, lay in LAYOUTS.items()},
}
REFUSED: dict[str, tuple[Callable[[np.ndarray], Any], type[Exception], str]] = {
    "bool": (lambda x: x > 9, TypeError, "bool"),
    "complex": (lambda x: x.astype("complex64"), TypeError, "complex64"),
    "object": (lambda x: x.astype(object), TypeError, "object"),
    "text": (lambda x: x.astype("U3"), TypeError, "<U3|str"),
    "dates": (lambda x: x.astype("int64").astype("M8[s]"), TypeError, r"datetime64\[s\]"),
    "records": (lambda x: np.zeros(x.shape, [("red", "f4")]), TypeError, "red"),
    "masked array": (lambda x: np.ma.masked_array(x, x > 99), TypeError, r"masked array.*x\.filled\(number\)"),
    "None": (lambda x: None, TypeError, "object|None"),
    "dictionary": (lambda x: {"images": x}, TypeError, "object"),
    "list of unequal lengths": (lambda x: [[[[1, 2], [3]]]], ValueError, "must be an array"),
    "too large": (lambda x: x.astype("int16") * 9, TypeError, r"int16 must have values of 0\.\.255, got"),
    "no height": (lambda x: x[:, :, :0], ValueError, r"\(4, 1, 0, 9\)"),
    "no channels": (lambda x: x[:, :0], ValueError, r"\(4, 0, 10, 9\)"),
    "no axes": (lambda x: x[0, 0, 0, 0], ValueError, r"shape \(\)"),
    "two axes": (lambda x: x[0, 0], ValueError, r"shape \(10, 9\)"),
    "five axes": (lambda x: x[None], ValueError, r"shape \(1, 4, 1, 10, 9\)"),
}


@pytest.fixture
def model() -> nc.Model:
    network = nc.Sequential(nc.Conv2d(1, 4, 3, padding=1), nc.ReLU(), nc.Conv2d(4, 1, 3, padding=1))
    network[2].bias.fill(0.5)  # in the middle of 0..255, where nothing is clipped
    return nc.Model(network, optimizer=nc.Adam(network.parameters()))


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_gives_the_bits_of_a_plain_copy(kind: str, model: nc.Model) -> None:
    images = KINDS[kind](WHOLE)
    expected, found = model.predict(WHOLE.copy()), model.predict(images)
    assert found.dtype == (np.float64 if "float64" in kind else np.float32) and found.dtype.isnative
    assert np.array_equal(found.astype("float32"), expected) and 0 < expected.min() < expected.max() < 255
    first = KINDS[kind](WHOLE[0]) if kind != "channels last" else WHOLE[0]
    assert np.array_equal(model.predict(first).astype("float32"), expected[0])


@pytest.mark.parametrize("name", repeating(SHAPE, "float64"))
def test_prediction_of_images_whose_pixels_share_memory(name: str, model: nc.Model) -> None:
    shared = repeating(SHAPE, "float64")[name]
    kept = shared.copy()
    with pytest.warns(UserWarning, match="values of 0..255"):
        found, expected = model.predict(shared), model.predict(kept)
    assert np.array_equal(found, expected) and np.array_equal(shared, kept)


@pytest.mark.parametrize("kind", REFUSED)
def test_other_kinds_are_refused_by_name(kind: str, model: nc.Model) -> None:
    convert, error, message = REFUSED[kind]
    before = [on_host(data).copy() for data, _ in model.network.param()]
    calls = [lambda x: model.predict(x), lambda x: model.train(x, WHOLE), lambda x: model.train(WHOLE, x)]
    for call in calls[:2] if kind == "None" else calls:  # no target at all is another error
        with pytest.raises(error, match=message):
            call(convert(WHOLE))
    assert all(np.array_equal(on_host(a), b) for (a, _), b in zip(model.network.param(), before, strict=True))


def test_no_images(model: nc.Model) -> None:
    """A batch without images: predictions without images; nothing to train with."""
    assert model.predict(WHOLE[:0]).shape == (0, *SHAPE[1:])
    with pytest.raises(ValueError, match="0"):
        model.train(WHOLE[:0], WHOLE[:0])
    x = nc.asarray(np.zeros((0, 1, 8, 8), "float32"))
    with pytest.raises(ValueError, match=r"\(0, 1, 8, 8\).*at least one"):
        model.train_batch(x, x)


@pytest.mark.parametrize("kind", KINDS)
def test_training_gives_the_bits_of_a_plain_copy(kind: str) -> None:
    """The parameters after two epochs; or the kind is refused, by its dtype."""

    def trained(images: Any, targets: Any) -> list[np.ndarray]:
        nc.manual_seed(1)
        network = nc.Sequential(nc.Conv2d(1, 4, 3, padding=1), nc.ReLU(), nc.Conv2d(4, 1, 3, padding=1))
        model = nc.Model(network, optimizer=nc.SGD(network.parameters(), lr=0.01))
        model.train(images, targets, 2, batch_size=2, seed=3)
        return [on_host(data) for data, _ in network.param()]

    targets = WHOLE[::-1]
    if "int" in kind or kind == "nested lists":  # NumPy makes int64 of lists
        with pytest.raises(TypeError, match="dtype [<>]?u?int|dtype [<>][iu]"):
            trained(KINDS[kind](WHOLE), targets)
        return
    expected = trained(WHOLE.copy(), targets.copy())
    for found in (trained(KINDS[kind](WHOLE), targets), trained(WHOLE, KINDS[kind](targets))):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "list" not in kind and "tuple" not in kind])
def test_denoising_gives_the_bits_of_a_plain_copy(kind: str, model: nc.Model) -> None:
    """And the dtype that it is given, to the byte order."""
    images = KINDS[kind](WHOLE)
    plain = np.array(images)
    found = nc.denoise(model, images, white=255)
    assert type(found) is np.ndarray and found.dtype == plain.dtype
    expected = nc.denoise(model, WHOLE.astype("float64"), white=255)
    assert np.allclose(found.astype("float64"), expected, atol=0.51 if plain.dtype.kind in "iu" else 0.1)
    assert np.array_equal(found, nc.denoise(model, plain.astype(plain.dtype.newbyteorder("=")), white=255))
    target = np.zeros(SHAPE, "float32")
    if plain.dtype.kind == "f" or plain.dtype == np.uint8:
        nc.predict_into(model.network, plain, target)
        assert np.array_equal(target, model.predict(WHOLE))


@pytest.mark.parametrize("kind", [kind for kind in REFUSED if kind not in ("bool", "too large", "two axes")])
def test_denoising_refuses_by_name(kind: str, model: nc.Model) -> None:
    convert, error, _ = REFUSED[kind]
    with pytest.raises(error, match=r"dtype|shape|masked|axes|inhomogeneous|\(\)|must be"):
        nc.denoise(model, convert(WHOLE), white=255)


@pytest.mark.parametrize("kind", KINDS)
def test_metrics(kind: str) -> None:
    other = np.roll(WHOLE, 1)
    expected = metrics.psnr(WHOLE, other), metrics.psnr(WHOLE, other, definition="pooled")
    images = KINDS[kind](WHOLE)
    for a, b in ((images, other), (KINDS[kind](other), WHOLE)):
        assert (metrics.psnr(a, b), metrics.psnr(a, b, definition="pooled")) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(TypeError, match="target must not be a masked array"):
        metrics.psnr(WHOLE, np.ma.masked_array(other, other > 100))


def test_a_masked_image_is_refused_wherever_it_is_in_a_list() -> None:
    plain = np.zeros((3, 8, 8), "float32")
    with pytest.raises(TypeError, match="images must not be a masked array"):
        as_images([plain, np.ma.masked_array(plain, plain == 0)])
