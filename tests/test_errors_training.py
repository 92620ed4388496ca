"""Bad calls of modules, optimizers, schedules, Model, summary and draw, each with its promised error."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from devices import on_device, on_host

import npconv as nc
from npconv.backends import ConvGeometry
from npconv.data import ArrayPairs
from npconv.schedules import Schedule


def images(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(dtype)


def net() -> nc.Sequential:
    return nc.Sequential(nc.Conv2d(3, 2, 3, padding=1), nc.ReLU(), nc.Conv2d(2, 3, 3, padding=1))


def params() -> list[nc.Parameter]:
    return list(net().parameters())


def model() -> nc.Model:
    return nc.Model(net())


def noisy(*shape: int) -> np.ndarray:
    """Images of 0..255."""
    return images(*shape) * 255


def steps(schedule: Schedule, count: int) -> None:
    for _ in range(count):
        schedule.step()


def unloadable(change: Callable[[dict[str, Any]], object]) -> None:
    network = net()
    state = network.state_dict()
    change(state)
    network.load_state_dict(state)


def lr_changed_to(value: Any) -> None:
    optimizer = nc.SGD(params())
    optimizer.groups[0]["lr"] = value
    optimizer.step()


def sgd(**options: Any) -> Callable[[], object]:
    return lambda: nc.SGD(params(), **options)


def adam(**options: Any) -> Callable[[], object]:
    return lambda: nc.Adam(params(), **options)


def trained(*arguments: Any, **options: Any) -> Callable[[], object]:
    return lambda: model().train(*arguments, **options)


x8 = noisy(4, 3, 8, 8)
FLAT = np.zeros(3, "float32")

MODULES = [
    ("missing", lambda: unloadable(lambda s: s.pop("0.bias")), ValueError,
     r"does not fit Sequential:\s+missing: 0\.bias"),
    ("unexpected", lambda: unloadable(lambda s: s.update(x=1)), ValueError, r"unexpected: x"),
    ("mismatched shape", lambda: unloadable(lambda s: s.update({"0.bias": images(5)})), ValueError,
     r"mismatched: 0\.bias is float32 \(2,\), the state has float32 \(5,\)"),
    ("mismatched dtype", lambda: unloadable(lambda s: s.update({"0.bias": images(2, dtype="float64")})),
     ValueError, r"mismatched: 0\.bias is float32 \(2,\), the state has float64 \(2,\)"),
    ("state list", lambda: net().load_state_dict([1, 2]), TypeError,
     r"state \(=\[1, 2\]\) must be a mapping"),
    ("update none", lambda: net().update_param(), ValueError, r"either values or lr, and exactly one"),
    ("update both", lambda: net().update_param([1], lr=1), ValueError,
     r"either values or lr, and exactly one"),
    ("update NaN", lambda: net().update_param(lr=math.nan), ValueError, r"lr \(=nan\) must be finite"),
    ("update number", lambda: net().update_param([images(1)]), ValueError,
     r"must have the parameters' shapes"),
    ("weight shape", lambda: setattr(net()[0], "weight", images(2, 3)), ValueError,
     r"shape \(2, 3\) must have.*\(2, 3, 3, 3\)"),
    ("weight integers", lambda: setattr(net()[0], "bias", np.ones(2, int)), TypeError,
     r"Parameter\.data must be float32"),
    ("weight list", lambda: setattr(net()[0], "bias", [1, 2]), TypeError, r"Parameter\.data must be float32"),
    ("train mode", lambda: net().train("yes"), TypeError, r"mode \(='yes'\) must be True or False"),
    ("astype int", lambda: net().astype("int32"), TypeError,
     r"dtype \(='int32'\) must be float32 or float64"),
    ("astype text", lambda: net().astype("image"), TypeError,
     r"dtype \(='image'\) must be float32 or float64"),
    ("abstract", lambda: nc.Module(), TypeError, r"abstract"),
    ("init fans", lambda: nc.init.kaiming_normal_(nc.Parameter(FLAT)), ValueError,
     r"shape \(3,\) has no fans"),
    ("init gain", lambda: nc.init.gain("swish"), ValueError,
     r"nonlinearity \(='swish'\) must be one of linear"),
    ("init bound", lambda: nc.init.uniform_(params()[0], -1), ValueError,
     r"bound \(=-1\) must be at least 0"),
    ("init std", lambda: nc.init.normal_(params()[0], math.nan), ValueError, r"std \(=nan\) must be finite"),
    ("seed negative", lambda: nc.manual_seed(-1), ValueError, r"seed \(=-1\) must be at least 0"),
    ("seed float", lambda: nc.manual_seed(1.5), TypeError, r"seed \(=1\.5\) must be an integer"),
    ("seed bool", lambda: nc.manual_seed(True), TypeError, r"seed \(=True\) must be an integer"),
    ("im2col 2-D", lambda: nc.im2col(on_device(images(4, 4)), 3), ValueError,
     r"im2col, of shape \(4, 4\), must be \(N, C, H, W\)"),
    ("im2col integers", lambda: nc.im2col(on_device(np.ones((1, 4, 4), int)), 3), TypeError,
     r"input of im2col must be float32"),
    ("im2col kernel", lambda: nc.im2col(on_device(images(1, 4, 4)), 5), ValueError, r"kernel_size \(=5x5.*must fit"),
    ("col2im columns", lambda: nc.col2im(on_device(images(4, 8)), (1, 4, 4), 3), ValueError,
     r"\(4, 8\) must have the shape \(4, 9\)"),
    ("col2im shape", lambda: nc.col2im(on_device(images(4, 9)), (4, 4), 3), ValueError,
     r"input_shape \(=\(4, 4\)\) must be \(N, C"),
    ("geometry", lambda: ConvGeometry.parse(3).output_size((0, 5)), ValueError,
     r"the image is 0x5: .*at least 1"),
    ("summary network", lambda: nc.summary(model(), (3, 8, 8)), TypeError,
     r"must be a Module; of a Model, give its network"),
    ("summary text", lambda: nc.summary(net(), "3x8x8"), TypeError,
     r"input_shape \(='3x8x8'\) must be \(C, H, W\)"),
    ("summary number", lambda: nc.summary(net(), 8), TypeError, r"input_shape \(=8\) must be \(C, H, W\)"),
    ("summary axes", lambda: nc.summary(net(), (8, 8)), ValueError,
     r"input_shape \(=\(8, 8\)\) must be \(C, H, W\)"),
    ("summary negative", lambda: nc.summary(net(), (3, -8, 8)), ValueError,
     r"input_shape \(=-8\) must be at least 1"),
    ("summary float", lambda: nc.summary(net(), (3, 8.0, 8)), TypeError,
     r"input_shape \(=8\.0\) must be an integer"),
    ("summary channels", lambda: nc.summary(net(), (4, 8, 8)), ValueError,
     r"layer 0: Conv2d.*in_channels \(=3\)"),
    ("draw ending", lambda: nc.draw(net(), (3, 8, 8), "net.gif"), ValueError,
     r"'net\.gif'\) must end in one of \.png, \.pdf, \.svg"),
    ("draw folder", lambda: nc.draw(net(), (3, 8, 8), "no/such/net.png"), FileNotFoundError,
     r"no/such/net\.png.*a folder that"),
    ("draw path", lambda: nc.draw(net(), (3, 8, 8), 5), TypeError, r"path \(=5\) must be the name of a file"),
    ("draw network", lambda: nc.draw("net", (3, 8, 8), "net.png"), TypeError,
     r"network \(='net'\) must be a Module"),
]  # fmt: skip

OPTIMIZERS = [
    ("lr NaN", sgd(lr=math.nan), ValueError, r"lr \(=nan\) must be finite"),
    ("lr inf", adam(lr=math.inf), ValueError, r"lr \(=inf\) must be finite"),
    ("lr negative", sgd(lr=-0.1), ValueError, r"lr \(=-0\.1\) must be at least 0"),
    ("lr text", sgd(lr="0.1"), TypeError, r"lr \(='0\.1'\) must be a number"),
    ("lr None", adam(lr=None), TypeError, r"lr \(=None\) must be a number"),
    ("lr array", adam(lr=np.ones(2)), TypeError, r"lr \(=array\(\[1\., 1\.\]\)\) must be a number"),
    ("lr NaN later", lambda: lr_changed_to(math.nan), ValueError, r"lr \(=nan\) must be finite"),
    ("lr attribute", lambda: setattr(nc.SGD(params()), "lr", -1), ValueError,
     r"lr \(=-1\) must be at least 0"),
    ("momentum", sgd(momentum=-1), ValueError, r"momentum \(=-1\) must be at least 0"),
    ("weight decay", sgd(weight_decay=-1), ValueError, r"weight_decay \(=-1\) must be at least 0"),
    ("dampening", sgd(dampening=math.nan), ValueError, r"dampening \(=nan\) must be finite"),
    ("nesterov plain", sgd(nesterov=True), ValueError, r"nesterov needs momentum \(=0\.0\) above 0"),
    ("nesterov dampened", sgd(nesterov=True, momentum=0.9, dampening=0.1), ValueError,
     r"dampening \(=0\.1\) 0"),
    ("nesterov text", sgd(nesterov="yes"), TypeError, r"nesterov \(='yes'\) must be True or False"),
    ("betas 1", adam(betas=(0.9, 1.0)), ValueError,
     r"betas \(=\(0\.9, 1\.0\)\) must be at least 0 and less than 1"),
    ("betas negative", adam(betas=(-0.1, 0.9)), ValueError, r"betas \(=\(-0\.1, 0\.9\)\) must be at least 0"),
    ("betas number", adam(betas=0.9), TypeError, r"betas \(=0\.9\) must be a pair of numbers"),
    ("eps", adam(eps=-1e-8), ValueError, r"eps \(=-1e-08\) must be at least 0"),
    ("amsgrad", adam(amsgrad=1), TypeError, r"amsgrad \(=1\) must be True or False"),
    ("no parameters", lambda: nc.SGD([]), ValueError, r"the optimizer got no parameters"),
    ("used up generator", lambda: nc.SGD(nc.ReLU().parameters()), ValueError,
     r"the optimizer got no parameters"),
    ("one parameter", lambda: nc.SGD(params()[0]), TypeError, r"an iterable of Parameter.*not one Parameter"),
    ("a module", lambda: nc.SGD(net()), TypeError, r"Parameters or .*pairs of arrays, got Conv2d"),
    ("a number", lambda: nc.SGD(3), TypeError, r"parameters \(=3\) must be an iterable of Parameter"),
    ("bare arrays", lambda: nc.Adam([np.ones(3)]), TypeError,
     r"Parameters or .*pairs of arrays, got ndarray"),
    ("twice", lambda: nc.SGD(2 * params()), ValueError,
     r"SGD: a parameter of shape \(2, 3, 3, 3\) is listed twice"),
    ("twice in groups", lambda: (lambda p: nc.SGD([{"params": p}, {"params": p[:1]}]))(params()), ValueError,
     r"listed twice"),
    ("group option", lambda: nc.SGD([{"params": params(), "speed": 1}]), ValueError,
     r"unknown option\(s\) \['speed'\]"),
    ("group without params", lambda: nc.SGD([{"lr": 1}]), TypeError, r"must be a dictionary with 'params'"),
    ("group lr", lambda: nc.Adam([{"params": params(), "lr": -1}]), ValueError,
     r"lr \(=-1\) must be at least 0"),
    ("group empty", lambda: nc.SGD([{"params": []}]), ValueError, r"the optimizer got no parameters"),
    ("schedule without", lambda: nc.StepLR(0.1, 5), TypeError,
     r"optimizer \(=0\.1\) must be an Optimizer"),
    ("step size", lambda: nc.StepLR(nc.SGD(params()), 0), ValueError, r"step_size \(=0\) must be at least 1"),
    ("gamma", lambda: nc.StepLR(nc.SGD(params()), 2, gamma=-1), ValueError,
     r"gamma \(=-1\) must be at least 0"),
    ("T_max", lambda: nc.CosineAnnealingLR(nc.SGD(params()), 2.5), TypeError,
     r"T_max \(=2\.5\) must be an integer"),
    ("eta_min", lambda: nc.CosineAnnealingLR(nc.SGD(params()), 2, math.nan), ValueError,
     r"eta_min \(=nan\) must be finite"),
    ("max_lr", lambda: nc.OneCycleLR(nc.Adam(params()), 0, 5), ValueError,
     r"max_lr \(=0\) must be greater than 0"),
    ("pct_start", lambda: nc.OneCycleLR(nc.Adam(params()), 1, 5, 1.5), ValueError,
     r"pct_start \(=1\.5\) must be between"),
    ("anneal", lambda: nc.OneCycleLR(nc.Adam(params()), 1, 5, anneal_strategy="exp"), ValueError,
     r"\(='exp'\) must be 'cos'"),
    ("cycle", lambda: nc.OneCycleLR(nc.SGD(params()), 1, 5), ValueError,
     r"cycle_momentum needs an optimizer with momentum"),
    ("too many steps", lambda: steps(nc.OneCycleLR(nc.Adam(params()), 1, 5), 6), ValueError,
     r"step \(=6\) must be at most total"),
]  # fmt: skip

MODELS = [
    ("network", lambda: nc.Model("strided"), TypeError, r"network \(='strided'\) must be a Module, or None"),
    ("loss", lambda: nc.Model(net(), "MSE"), TypeError, r"loss \(='MSE'\) must be a Loss, or None"),
    ("optimizer", lambda: nc.Model(net(), None, nc.Adam), TypeError,
     r"optimizer \(=<class.*must be a Optimizer, or None"),
    ("other optimizer", lambda: nc.Model(net(), None, nc.SGD(params())), ValueError,
     r"network's parameters only"),
    ("train shapes", trained(x8, noisy(4, 3, 8, 9)), ValueError,
     r"\(4, 3, 8, 8\) and targets \(4, 3, 8, 9\) must be equal"),
    ("train counts", trained(x8, x8[:3]), ValueError,
     r"\(4, 3, 8, 8\) and targets \(3, 3, 8, 8\) must be equal"),
    ("train NaN", trained(np.full((2, 3, 8, 8), np.nan), x8[:2]), ValueError, r"must be finite"),
    ("train empty", trained(noisy(0, 3, 8, 8), noisy(0, 3, 8, 8)), ValueError,
     r"\(0, 3, 8, 8\)\) must not be empty"),
    ("train one image", trained(x8[0], x8[0]), ValueError, r"\(3, 8, 8\)\) must be \(N, C, H, W\)"),
    ("train text", trained("images", "targets"), TypeError, r"images must be numbers"),
    ("train no target", trained(x8), ValueError, r"train_target must be given"),
    ("train pairs and target", trained(ArrayPairs(x8, x8), x8), ValueError,
     r"train_target must be None where"),
    ("train 16-bit", trained(x8.astype("uint16"), x8), TypeError, r"dtype uint16\) must be uint8 or a float"),
    ("epochs 0", trained(x8, x8, 0), ValueError, r"num_epochs \(=0\) must be at least 1"),
    ("epochs float", trained(x8, x8, 1.5), TypeError, r"num_epochs \(=1\.5\) must be an integer"),
    ("batch size 0", trained(x8, x8, batch_size=0), ValueError, r"batch_size \(=0\) must be at least 1"),
    ("validation 1", trained(x8, x8, validation=1.0), ValueError,
     r"validation \(=1\.0\) must be less than 1"),
    ("validation 0", trained(x8, x8, validation=0), ValueError, r"validation \(=0\) must be greater than 0"),
    ("validation text", trained(x8, x8, validation="some"), TypeError,
     r"validation \(='some'\) must be a number"),
    ("validation triple", trained(x8, x8, validation=(x8, x8, x8)), ValueError,
     r"\(input, target\), got 3 things"),
    ("validation shapes", trained(x8, x8, validation=(x8, x8[:1])), ValueError,
     r"\(1, 3, 8, 8\) must be equal"),
    ("schedule every", trained(x8, x8, schedule_every="step"), ValueError,
     r"schedule_every \(='step'\) must be 'epoch'"),
    ("schedule", trained(x8, x8, schedule=0.1), TypeError, r"schedule \(=0\.1\) must be a Schedule"),
    ("callback", trained(x8, x8, callback="print"), TypeError, r"callback \(='print'\) must be a function"),
    ("seed", trained(x8, x8, seed=-1), ValueError, r"seed \(=-1\) must be at least 0"),
    ("train channels", trained(noisy(2, 4, 8, 8), noisy(2, 4, 8, 8)), ValueError,
     r"in_channels \(=3\).*with 4"),
    ("train batch list", lambda: model().train_batch([1], x8), TypeError,
     r"x of train_batch must be an array"),
    ("train batch counts", lambda: model().train_batch(*on_device((x8, x8[:2]))), ValueError,
     r"as many images, at least one"),
    ("train batch shapes", lambda: model().train_batch(*on_device((x8, x8[:, :2]))), ValueError,
     r"MSE: prediction of shape"),
    ("nothing to train", lambda: nc.Model(nc.ReLU()).train(x8, x8, 1), ValueError, r"no parameters to train"),
    ("predict 2-D", lambda: model().predict(noisy(8, 8)), ValueError,
     r"\(8, 8\) must be \(N, C, H, W\) or \(C, H, W\)"),
    ("predict text", lambda: model().predict("photo.png"), TypeError,
     r"images must be numbers \(uint8 or float\), got <U9"),
    ("predict bool", lambda: model().predict(np.ones((3, 8, 8), bool)), TypeError, r"got bool"),
    ("predict complex", lambda: model().predict(np.ones((3, 8, 8), complex)), TypeError, r"got complex128"),
    ("predict NaN", lambda: model().predict(np.full((3, 8, 8), np.nan)), ValueError,
     r"images must be finite, got NaN"),
    ("predict channels", lambda: model().predict(noisy(1, 8, 8)), ValueError,
     r"takes 3 channels, the images of shape \(1, 8, 8\) have 1$"),
    ("predict no pixels", lambda: model().predict(noisy(3, 0, 8)), ValueError, r"C, H and W at least 1"),
    ("predict ragged", lambda: model().predict([[[1.0], [1.0, 2.0]]]), (TypeError, ValueError),
     r"images must be"),
]  # fmt: skip

TABLE = [
    pytest.param(*row[1:], id=f"{group}: {row[0]}")
    for group, rows in (
        ("module", MODULES),
        ("optimizer", OPTIMIZERS),
        ("model", MODELS),
    )
    for row in rows
]


@pytest.mark.parametrize(("call", "kind", "message"), TABLE)
def test_bad_call(call: Callable[[], object], kind: Any, message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert re.search(message, str(caught.value)), f"{message!r} is not in {str(caught.value)!r}"


def test_the_table_is_long_enough_and_has_no_row_twice() -> None:
    names = [row.id for row in TABLE]
    assert len(names) == len(set(names)) >= 80


def test_load_state_dict_lists_all_problems_at_once_and_changes_nothing() -> None:
    network = net()
    before, state = on_host(network.state_dict()), network.state_dict()
    del state["0.bias"]
    state.update({"3.bias": images(1), "2.bias": images(9), "2.weight": state["2.weight"].astype("float64")})
    state["0.weight"] += 1
    with pytest.raises(ValueError) as caught:
        network.load_state_dict(state)
    for line in (
        "missing: 0.bias",
        "unexpected: 3.bias",
        "mismatched: 2.bias is float32 (3,), the state has float32 (9,)",
        "mismatched: 2.weight is float32 (3, 2, 3, 3), the state has float64 (3, 2, 3, 3)",
    ):
        assert line in str(caught.value)
    assert all(np.array_equal(before[name], value) for name, value in on_host(network.state_dict()).items())


def test_a_bad_step_changes_no_parameter() -> None:
    network = net()
    optimizer = nc.SGD([{"params": [p]} for p in network.parameters()], lr=1.0)
    for parameter in network.parameters():
        parameter.grad.fill(1)
    before = on_host(network.state_dict())
    optimizer.groups[-1]["lr"] = math.nan
    with pytest.raises(ValueError, match=r"lr \(=nan\) must be finite"):
        optimizer.step()
    assert all(np.array_equal(before[name], value) for name, value in on_host(network.state_dict()).items())
