"""What each module of a network makes of an input of a given shape: its output, multiply-adds, memory.

    trace(network, (3, 32, 32))  ->  [network, its first module, what is inside that, ...]        depth first

`summary` writes this down, `draw` draws it. The network runs once, on a stand-in that shares its parameters.
"""

from __future__ import annotations

import copy
import inspect
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import checks, layers
from .backends import backend
from .backends.base import Array
from .containers import Identity
from .layers import Activation, Conv2d, ConvTranspose2d, Linear, Upsampling
from .module import Module, no_grad

Shape = tuple[int, ...]
_IMPLIED = ("transposeconvargs",)  # its value shows in whether there is a scale_factor
_KNOWN: tuple[type[Module], ...] = (Identity, *(getattr(layers, name) for name in layers.__all__))


@dataclass(frozen=True)
class Node:
    """One module, with what it did to the input.

    `name` is its dotted name, "" for the network itself, whose `depth` is 0. The shapes are None if forward
    never called the module. `parameters` counts those inside it. `multiply_adds` is None for a module of
    one's own with nothing inside, whose work is not known. `output_bytes` is 0 for an output that exists
    already: that of a module inside, or the input itself.
    """

    name: str
    module: Module
    depth: int
    input_shape: Shape | None
    output_shape: Shape | None
    parameters: int
    multiply_adds: int | None
    output_bytes: int
    children: list[Node] = field(default_factory=list)

    def walk(self) -> Iterator[Node]:
        """This node and all inside it, depth first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class _Call:
    """One call of a forward; `new_bytes`: of its output, if no other module made it."""

    input_shape: Shape
    output_shape: Shape
    new_bytes: int


def trace(network: Module, input_shape: Sequence[int]) -> list[Node]:
    """What every module of `network` does to an input of `input_shape`, (C, H, W) or (N, C, H, W).

    The first node is the network itself, and the others are inside it, depth first. The network runs once in
    evaluation mode; its parameters, buffers, modes, kept activations and generators stay as they are.

    Raises TypeError or ValueError for anything else than a Module and such a shape, and the network's own
    error if it cannot take this input.
    """
    if not isinstance(network, Module):
        raise TypeError(f"network (={network!r}) must be a Module; of a Model, give its network")
    shape = _batch_shape(input_shape)
    calls: dict[int, list[_Call]] = {}
    twin = _stand_in(network)
    _record(twin, calls)
    dtype = network_dtype(network)
    with no_grad():
        twin.eval().forward(backend().images(backend().xp.full(shape, 0.5, dtype)))
    return list(_node("", network, twin, 0, calls).walk())


def network_dtype(network: Module) -> Any:
    """The dtype of the network's parameters; float32 if it has none."""
    return next((parameter.dtype for parameter in network.parameters()), backend().xp.dtype("float32"))


def multiply_adds(module: Module, input_shape: Shape, output_shape: Shape) -> int | None:
    """The multiplications, each with an addition, of one forward; None if it is not known.

    By the field's convention, convolutions and linear layers count; activations, normalization, pooling,
    copies and adding a bias count 0. A transposed convolution lays its kernel down once a pixel of the
    input, every other convolution once a pixel of its output.
    """
    if isinstance(module, ConvTranspose2d):
        return module.weight.size * input_shape[0] * math.prod(input_shape[2:])
    if isinstance(module, (Conv2d, Upsampling)):
        return module.weight.size * output_shape[0] * math.prod(output_shape[2:])
    if isinstance(module, Linear):
        return module.in_features * math.prod(output_shape)
    return 0 if isinstance(module, (Activation, *_KNOWN)) else None


def describe(module: Module) -> str:
    """The arguments of a module, short: those that have no default, then those that differ from it."""
    given = module.arguments()
    if not given:
        return module.extra_repr()
    parameters = inspect.signature(type(module)).parameters
    texts = []
    for name, value in given.items():
        default = parameters[name].default if name in parameters else inspect.Parameter.empty
        if default is inspect.Parameter.empty:
            texts.append(_plain(value))
        elif _plain(value) != _plain(default) and name not in _IMPLIED:
            texts.append(f"{name}={_plain(value)}")
    return ", ".join(texts)


def _plain(value: Any) -> str:
    """A pair of equal numbers as one, whole floats without their point."""
    if isinstance(value, (list, tuple)):
        return _plain(value[0]) if len(set(value)) == 1 else "(" + ", ".join(map(_plain, value)) + ")"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _batch_shape(input_shape: Any) -> Shape:
    if isinstance(input_shape, (str, bytes)) or not isinstance(input_shape, Sequence):
        raise TypeError(f"input_shape (={input_shape!r}) must be (C, H, W) or (N, C, H, W)")
    if len(input_shape) not in (3, 4):
        raise ValueError(f"input_shape (={input_shape!r}) must be (C, H, W) or (N, C, H, W)")
    lengths = tuple(checks.integer(length, "input_shape", 1) for length in input_shape)
    return lengths if len(lengths) == 4 else (1, *lengths)


def _stand_in(network: Module) -> Module:
    """A copy that shares the parameters and has no forward behind it.

    Not a replica: for that, a Dropout draws on its generator.
    """
    # Of a replica, which nobody else uses: while the network is copied, another thread's forward may add to it.
    replica = network.replica()
    pairs = zip(replica.parameters(), network.parameters(), strict=True)
    known: dict[int, Any] = {id(own): parameter for own, parameter in pairs}
    twin = copy.deepcopy(replica, known)
    for module in twin.modules():
        module.mark_as_copy()
    return twin


def _record(twin: Module, calls: dict[int, list[_Call]]) -> None:
    """Let each module inside `twin` note its calls, by its id."""
    outputs: list[list[weakref.ref[Any]]] = [[]]  # of the modules inside each forward that is under way
    for module in set(twin.modules()):
        vars(module)["forward"] = _recorded(module.forward, calls.setdefault(id(module), []), outputs)


def _recorded(
    forward: Callable[[Array], Array], calls: list[_Call], outputs: list[list[weakref.ref[Any]]]
) -> Callable[[Array], Array]:
    def run(x: Array) -> Array:
        outputs.append([])
        y = forward(x)
        seen = outputs.pop()
        outputs[-1].append(weakref.ref(y))
        known = y is x or any(y is other() for other in seen)
        calls.append(_Call(x.shape, y.shape, 0 if known else y.nbytes))
        return y

    return run


def _node(name: str, module: Module, twin: Module, depth: int, calls: dict[int, list[_Call]]) -> Node:
    made = calls.pop(id(twin), [])  # a module that is listed twice is counted once
    prefix = f"{name}." if name else ""
    pairs = zip(module.named_children(), twin.named_children(), strict=True)
    children = [_node(prefix + key, child, other, depth + 1, calls) for (key, child), (_, other) in pairs]
    if children:
        work = [child.multiply_adds for child in children]
    else:
        work = [multiply_adds(module, call.input_shape, call.output_shape) for call in made]
    return Node(
        name,
        module,
        depth,
        made[-1].input_shape if made else None,
        made[-1].output_shape if made else None,
        sum(parameter.size for parameter in module.parameters()),
        None if children == [] and None in work else sum(amount or 0 for amount in work),
        sum(call.new_bytes for call in made),
        children,
    )
