"""Layers, losses and optimizers with extreme numbers planted in what they compute with: ours, and PyTorch's twin.

What is compared is the class of each number of the result: finite, plus or minus infinity, or NaN. Numbers are planted
such that the class does not depend on the order in which an algorithm adds up: an infinity or NaN comes from one number
or from one product, and no sum of finite products comes near the largest number.
"""

from __future__ import annotations

import itertools
import warnings
import zlib
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from comparison import Results, uniform
from devices import on_device, on_host
from layer_cases import BATCHED_ONLY, LayerCase, twin

import npconv as nc

FINITE, PLUS, MINUS, NAN = range(4)  # what `classes` gives
DTYPES = ("float32", "float64")
VALUES: dict[str, dict[str, float]] = {
    "float32": {"denormal": 1e-40, "large": 1e30, "largest": 3e38},  # the square of `large` overflows
    "float64": {"denormal": 1e-310, "large": 1e200, "largest": 1.5e308},
}
for _values in VALUES.values():
    _values.update({"inf": np.inf, "-inf": -np.inf, "nan": np.nan, "zero": 0.0, "-0": -0.0})
SINGLE = ("denormal", "large", "largest", "inf", "-inf", "nan")
MIXED = ("inf", "-inf", "nan", "large", "denormal", "-0")  # each in a place of its own
DENSE = ("inf", "-inf", "nan", "denormal", "-0", "zero", "large")  # two of three places hold one of these
CONVOLUTIONS = ("Conv2d", "ConvTranspose2d", "Upsampling")
STATISTICS = {"running_mean", "running_var"}

# What is planted where: array -> names of values in single places, or one of the words that `_planted` knows.
Plant = dict[str, tuple[str, ...]]
SINGLES: list[Plant] = [{where: (value,)} for where in ("input", "upstream") for value in SINGLE]
SINGLES += [{"input": MIXED}, {"upstream": MIXED}, {"input": ("large",), "upstream": ("large",)}]
SINGLES += [{"input": ("all", value)} for value in ("denormal", "-0", "inf")]
SINGLES += [{"input": MIXED, "upstream": MIXED}, {"input": ("inf",), "upstream": ("zeros",)}]
DENSES: list[Plant] = [{"input": ("dense",)}, {"upstream": ("dense",)}, {"input": ("dense",), "upstream": ("dense",)}]
DENSES += [{"input": ("windows of -inf",), "upstream": upstream} for upstream in ((), ("inf",), ("nan",))]
WEIGHTS: list[Plant] = [{"weight": (value,)} for value in SINGLE]
WEIGHTS += [{"bias": (value,)} for value in ("inf", "nan", "largest")]
WEIGHTS += [{"weight": MIXED}, {"weight": ("large",), "input": ("large",)}, {"weight": ("zeros",), "input": ("inf",)}]
WEIGHTS += [{"weight": ("large",), "upstream": ("large",)}, {"weight": ("zeros",), "upstream": ("-inf",)}]
PAIRS: list[Plant] = [{"input": ("rows",), "upstream": ("columns",)}]
NORMALIZED: list[Plant] = [{"running_var": (value,)} for value in SINGLE]
NORMALIZED += [{"running_mean": (value,)} for value in SINGLE if value != "largest"]  # times each of the gradients
NORMALIZED += [{"running_var": ("zeros",)}, {"input": ("constant",)}, {"input": ("constant", "large")}]
NORMALIZED += [{"input": ("all", "large")}, {"input": ("large", "large")}, {"weight": ("zeros",), "input": ("inf",)}]
EVERY = ("denormal", "large", "largest", "inf", "-inf", "nan", "zero", "-0")


def classes(x: Any) -> np.ndarray:
    """FINITE, PLUS, MINUS or NAN for each number of x, as a flat array of bytes."""
    x = np.asarray(on_host(x)).reshape(-1)
    return np.select([np.isnan(x), x == np.inf, x == -np.inf], [NAN, PLUS, MINUS], FINITE).astype(np.uint8)


def every_value(dtype: str) -> np.ndarray:
    """The extreme values, of both signs, and some ordinary ones."""
    special = [VALUES[dtype][name] for name in EVERY]
    return np.array([*special, -special[0], -special[1], -special[2], 1.0, -1.0, 0.3, -20.0, 100.0])


def planted(values: np.ndarray, words: tuple[str, ...], dtype: str, label: str) -> np.ndarray:
    """`values` with extreme numbers in places that depend on `label` alone."""
    if not words:
        return values
    kind, numbers, values = words[0], VALUES[dtype], values.copy()
    flat = values.reshape(-1)
    draws = np.random.PCG64(zlib.crc32(label.encode())).random_raw(flat.size) % 2**32
    if kind == "rows":
        return np.broadcast_to(every_value(dtype)[:, None], values.shape).copy()
    if kind == "columns":
        return np.broadcast_to(every_value(dtype), values.shape).copy()
    if kind == "all":
        flat[:] = numbers[words[1]] if not np.isfinite(numbers[words[1]]) else flat * numbers[words[1]]
    elif kind == "constant":
        flat[:] = numbers[words[1]] if len(words) > 1 else 3.0
    elif kind == "zeros":
        flat[::2] = 0
    elif kind == "windows of -inf":
        flat[: flat.size * 3 // 4] = -np.inf
    elif kind == "dense":
        picked = np.array([numbers[name] for name in DENSE])[draws % len(DENSE)]
        flat[:] = np.where(draws // 100 % 3 > 0, picked, flat)
    else:
        for place, name in zip(np.argsort(draws, kind="stable"), words, strict=False):
            flat[place] = numbers[name]
    return values


@dataclass(frozen=True)
class LayerGroup:
    """One layer under several plants: what is stored as one entry."""

    layer: str
    arguments: tuple[tuple[str, Any], ...]
    shape: tuple[int, ...]
    plants: tuple[Any, ...]
    training: bool = True

    @property
    def name(self) -> str:
        return self._case.name

    @property
    def _case(self) -> LayerCase:
        return LayerCase(self.layer, dict(self.arguments), self.shape, training=self.training)

    def ours(self, dtype: str) -> list[Results]:
        layer = getattr(nc, self.layer)(**dict(self.arguments)).astype(dtype).train(self.training)
        state = {name: value.shape for name, value in layer.state_dict().items()}
        results = []
        for plant in self.plants:
            draw = partial(self._drawn, plant, dtype)
            values = {name: on_device(draw(name, shape)) for name, shape in state.items()}
            layer.load_state_dict(values)
            layer.zero_grad()
            y = layer(on_device(draw("input", self.shape)))
            found = {"output": y, "input": layer.backward(on_device(draw("upstream", y.shape)))}
            found |= {name: parameter.grad for name, parameter in layer.named_parameters()}
            results.append(_classified(found | {key: getattr(layer, key) for key in STATISTICS & set(state)}))
        return results

    def theirs(self, torch: Any, dtype: str, onednn: bool = False) -> list[Results]:
        """By PyTorch's own convolutions, which multiply the zeros of the padding as the definition does, or oneDNN's.

        oneDNN (float32, more than one image) has no product there: where a weight or a gradient is infinite, it gives
        a number and the definition NaN.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of padding="same" with even kernels; of settings for other devices
            with torch.backends.mkldnn.flags(enabled=onednn):
                return self._theirs(torch, dtype)

    def _theirs(self, torch: Any, dtype: str) -> list[Results]:
        layer = twin(torch, self.layer, dict(self.arguments)).to(getattr(torch, dtype)).train(self.training)
        lone = len(self.shape) == 3 and self.layer in BATCHED_ONLY
        results = []
        for plant in self.plants:
            draw = partial(self._drawn, plant, dtype)
            with torch.no_grad():
                for key, value in layer.state_dict().items():
                    value.copy_(torch.from_numpy(draw(key.rpartition(".")[2], tuple(value.shape))))
            layer.zero_grad()
            x = torch.from_numpy(draw("input", self.shape)).requires_grad_()
            y = layer(x[None])[0] if lone else layer(x)
            y.backward(torch.from_numpy(draw("upstream", tuple(y.shape))))
            found = {"output": y.detach(), "input": x.grad}
            found |= {key.rpartition(".")[2]: parameter.grad for key, parameter in layer.named_parameters()}
            results.append(
                _classified(found | {key: value for key, value in layer.named_buffers() if key in STATISTICS})
            )
        return results

    def _drawn(self, plant: Any, dtype: str, where: str, shape: tuple[int, ...]) -> np.ndarray:
        """The array `where`, with what is planted there."""
        if where == "num_batches_tracked":
            return np.zeros(shape, "int64")
        label = f"{self.name} {where}"
        values = self._base(where, shape, label)
        return planted(values, dict(plant).get(where, ()), dtype, label).astype(dtype)

    @lru_cache(maxsize=32)  # noqa: B019 - groups live as long as the tests
    def _base(self, where: str, shape: tuple[int, ...], label: str) -> np.ndarray:
        values = uniform(shape, label) if where in ("input", "upstream") else self._case.state(where, shape)
        # So small that the sum of all products of a window with the largest number is still a number.
        small = self.layer in CONVOLUTIONS and where in ("weight", "upstream")
        return values / 16 if small else values


def _classified(results: Results) -> Results:
    return {key: classes(value) for key, value in sorted(results.items())}


@dataclass(frozen=True)
class LossGroup:
    """A loss of every pair of extreme values: the gradient, and the value with two ordinary elements beside each."""

    loss: str
    reduction: str

    @property
    def name(self) -> str:
        return f"{self.loss} {self.reduction}"

    def pairs(self, dtype: str) -> list[list[np.ndarray]]:
        values = every_value(dtype)
        wholes = [np.array(list(column)) for column in zip(*itertools.product(values, values), strict=True)]
        alone = [[np.array([p, 0.5, 0.25]), np.array([t, 0.25, 0.5])] for p, t in itertools.product(values, values)]
        return [[a.astype(dtype) for a in pair] for pair in (wholes, *alone)]

    def ours(self, dtype: str) -> list[Results]:
        results = []
        for pair in self.pairs(dtype):
            loss = getattr(nc, self.loss)(self.reduction)
            value = loss(*on_device(pair))
            results.append({"gradient": classes(loss.backward()), "value": classes(value)})
        return results

    def theirs(self, torch: Any, dtype: str) -> list[Results]:
        results = []
        for pair in self.pairs(dtype):
            prediction, target = map(torch.from_numpy, pair)
            prediction.requires_grad_()
            value = getattr(torch.nn, self.loss + "Loss")(reduction=self.reduction)(prediction, target)
            value.backward()
            results.append({"gradient": classes(prediction.grad), "value": classes(value.detach())})
        return results


@dataclass(frozen=True)
class OptimizerGroup:
    """Parameters and gradients of every pair of extreme values, after each of three steps; `repeat`: so many times."""

    optimizer: str
    options: tuple[tuple[str, Any], ...]
    steps = 3

    @property
    def name(self) -> str:
        return f"{self.optimizer} {dict(self.options)}"

    def arrays(self, dtype: str, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Parameters, and gradients of this step."""
        values = every_value(dtype)
        pairs = np.array(list(itertools.product(values, values))).astype(dtype)
        return pairs[:, 0].copy(), np.roll(pairs[:, 1], 5 * step)

    def ours(self, dtype: str, repeat: int = 1) -> list[Results]:
        parameter = nc.Parameter(np.tile(self.arrays(dtype, 0)[0], repeat))
        optimizer = getattr(nc, self.optimizer)([parameter], **dict(self.options))
        results = []
        for step in range(self.steps):
            parameter.grad[...] = on_device(np.tile(self.arrays(dtype, step)[1], repeat))
            optimizer.step()
            results.append({"data": classes(parameter.data)})
        return results

    def theirs(self, torch: Any, dtype: str) -> list[Results]:
        parameter = torch.nn.Parameter(torch.from_numpy(self.arrays(dtype, 0)[0]))
        optimizer = getattr(torch.optim, self.optimizer)([parameter], **dict(self.options))
        results = []
        for step in range(self.steps):
            parameter.grad = torch.from_numpy(self.arrays(dtype, step)[1])
            optimizer.step()
            results.append({"data": classes(parameter.detach().clone())})
        return results
