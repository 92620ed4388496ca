"""Arrays of odd kinds in every layer: those that work give the bits of a plain copy, all others are refused by name."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from odd_arrays import LAYOUTS, REFUSED, repeating
from odd_layers import IMAGES, LAYERS, title

import npconv as nc

pytestmark = pytest.mark.cpu  # NumPy's arrays

each_layer = pytest.mark.parametrize(("make", "shape"), LAYERS, ids=title)
Case = Callable[[], nc.Module]


def outcome(module: nc.Module, x: Any, grad: Any) -> list[bytes]:
    """Output and gradients, bit for bit, of a copy of `module`."""
    twin = copy.deepcopy(module)
    nc.manual_seed(3)
    y = twin(x)
    x_grad = twin.backward(grad)
    return [y.tobytes(), x_grad.tobytes(), *(parameter.grad.tobytes() for parameter in twin.parameters())]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@each_layer
def test_the_layout_of_an_array_changes_no_bit(make: Case, shape: Any, dtype: str, rng: np.random.Generator) -> None:
    module = make().astype(dtype)
    x = rng.standard_normal(shape).astype(dtype)
    grad = rng.standard_normal(copy.deepcopy(module)(x).shape).astype(dtype)
    expected = outcome(module, x.copy(), grad.copy())
    for name, lay in LAYOUTS.items():
        assert outcome(module, lay(x), grad.copy()) == expected, f"input: {name}"
        assert outcome(module, x.copy(), lay(grad)) == expected, f"grad_output: {name}"
    for name, odd in repeating(shape, dtype).items():
        assert outcome(module, odd, grad) == outcome(module, odd.copy(), grad), f"input: {name}"
    for name, odd in repeating(grad.shape, dtype).items():
        assert outcome(module, x, odd) == outcome(module, x, odd.copy()), f"grad_output: {name}"


@each_layer
def test_other_kinds_are_refused_by_name(make: Case, shape: Any, rng: np.random.Generator) -> None:
    """By forward and by backward, with what it is and what it must be; the module is as usable as before."""
    x = rng.uniform(0.2, 0.9, shape).astype("float32")
    if "Identity" in title(make):
        pytest.skip("hands on whatever it gets")
    for name, (convert, message) in REFUSED.items():
        module = make()
        with pytest.raises(TypeError, match=message):
            module(convert(x))
        y = module(x)
        grad = np.ones_like(y)
        with pytest.raises(TypeError, match=message):
            module.backward(convert(grad))
        assert module.backward(grad).shape == x.shape, name


@pytest.mark.parametrize("make", [nc.MSE, nc.L1, nc.MaskedMSE])
def test_losses(make: Callable[[], nc.Loss], rng: np.random.Generator) -> None:
    """The gradient to the bit; the value but for the order of a sum in float64."""
    prediction = rng.standard_normal(IMAGES).astype("float32")
    target = abs(rng.standard_normal(IMAGES)).astype("float32")
    target = np.concatenate([target, target], axis=1) if make is nc.MaskedMSE else target
    loss = make()
    value, grad = loss(prediction, target), loss.backward()
    for lay in LAYOUTS.values():
        for pair in ((lay(prediction), target), (prediction, lay(target)), (lay(prediction), lay(target))):
            assert loss(*pair) == pytest.approx(value, rel=1e-12)
            assert loss.backward().tobytes() == grad.tobytes()
    for convert, message in REFUSED.values():
        with pytest.raises(TypeError, match=f"the prediction of {make.__name__} must .*{message}"):
            loss(convert(prediction), target)
        with pytest.raises(TypeError, match=f"the target of {make.__name__} must .*{message}"):
            loss(prediction, convert(target))


@pytest.mark.parametrize("make", [lambda p: nc.SGD(p, momentum=0.9), nc.Adam])
def test_optimizers_of_pairs_of_arrays(make: Any, rng: np.random.Generator) -> None:
    """What `Module.param()` lists, or someone's own arrays."""
    data, grad = (rng.standard_normal((30, 40)).astype("float32") for _ in range(2))
    expected = data.copy()
    make([(expected, grad)]).step()
    for name, lay in LAYOUTS.items():
        if name not in ("read-only", "from a memory map"):
            found = lay(data)
            if np.shares_memory(found, data):
                found = found.copy(order="K")
            make([(found, lay(grad))]).step()
            assert found.tobytes() == expected.tobytes(), name
    with pytest.raises(ValueError, match="the parameter of a pair must not be read-only"):
        make([(LAYOUTS["read-only"](data), grad)])
    with pytest.raises(ValueError, match=r"the gradient of a pair, of shape \(40,\), must have the parameter"):
        make([(data, grad[0])])
    with pytest.raises(TypeError, match=r"the gradient of a pair \(float64\) must have the parameter's dtype float32"):
        make([(data, grad.astype("float64"))])
    for convert, message in REFUSED.values():
        if isinstance(odd := convert(data), np.ndarray):
            with pytest.raises(TypeError, match=f"the parameter of a pair must .*{message}"):
                make([(odd, grad)])
            with pytest.raises(TypeError, match=f"the gradient of a pair must .*{message}"):
                make([(data, convert(grad))])


def test_parameters(rng: np.random.Generator) -> None:
    values = rng.standard_normal((2, 3, 4, 5)).astype("float32")
    for lay in LAYOUTS.values():
        parameter = nc.Parameter(lay(values))
        assert parameter.data.tobytes() == values.tobytes() and parameter.data.flags.writeable
        assert not np.shares_memory(parameter.data, values)
        parameter.data = lay(values * 2)
        assert parameter.data.tobytes() == (values * 2).tobytes()
    for name in ("big-endian", "float16", "complex", "object", "text", "int64", "bool"):
        convert, message = REFUSED[name]
        with pytest.raises(TypeError, match=f"Parameter must be .*{message}"):
            nc.Parameter(convert(values))
        with pytest.raises(TypeError, match=rf"Parameter\.data must be .*{message}"):
            parameter.data = convert(values)


def test_im2col_and_col2im(rng: np.random.Generator) -> None:
    x = rng.standard_normal(IMAGES).astype("float32")
    columns = nc.im2col(x, 3)
    image = nc.col2im(columns, x.shape, 3)
    for lay in LAYOUTS.values():
        assert nc.im2col(lay(x), 3).tobytes() == columns.tobytes()
        assert nc.col2im(lay(columns), x.shape, 3).tobytes() == image.tobytes()
    for convert, message in REFUSED.values():
        with pytest.raises(TypeError, match=f"the input of im2col must .*{message}"):
            nc.im2col(convert(x), 3)
        with pytest.raises(TypeError, match=f"the columns of col2im must .*{message}"):
            nc.col2im(convert(columns), x.shape, 3)


@each_layer
def test_axes_without_length(make: Case, shape: Any) -> None:
    """No images: an output without images, gradients of zero. No height, width or channels: the same, or refused."""
    for axis in range(len(shape)):
        empty = np.zeros([0 if i == axis else length for i, length in enumerate(shape)], "float32")
        module = make()
        try:
            y = module(empty)
        except ValueError as error:
            assert re.search(r"\d", str(error)) and ("shape" in str(error) or "image" in str(error)), error
            # Without images only the statistics of a batch are refused.
            assert axis > 0 or (module.training and "BatchNorm" in repr(module))
            continue
        x_grad = module.backward(np.zeros_like(y))
        assert x_grad.shape == empty.shape and x_grad.dtype == empty.dtype
        assert y.dtype == empty.dtype and (y.size == 0 or (axis and "Linear" in repr(module)))
        assert all(not parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize(("make", "shape"), LAYERS, ids=title)
def test_arrays_without_axes(make: Case, shape: Any) -> None:
    module = make()
    x = np.array(0.5, "float32")
    try:
        y = module(x)
    except ValueError as error:
        assert "shape ()" in str(error)
        return
    assert y.shape == () and module.backward(x).shape == ()
    assert not {type(m) for m in module.modules()} & {nc.Conv2d, nc.Linear, nc.MaxPool2d, nc.BatchNorm2d, nc.Flatten}
