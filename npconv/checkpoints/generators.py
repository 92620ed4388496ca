"""Random generators as plain data, and back: where each is in its stream, and which children it has left to spawn.

A training draws from several: the one it was given, the default one, those of modules (Dropout), and the children of
these that the workers' replicas have. Some are one and the same object, and stay so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..module import Module

_BITS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
_MOST_POOL = 1024  # words of a seed sequence; NumPy's own have 4

Held = tuple[int, str]  # the number of a module in `network.modules()`, and its attribute


def describe(generator: np.random.Generator) -> dict[str, Any]:
    """A generator as plain data. Raises TypeError for one whose bits are none of NumPy's."""
    bits = generator.bit_generator
    if _BITS.get(type(bits).__name__) is not type(bits):
        raise TypeError(f"a checkpoint cannot keep a generator of {type(bits).__name__}, only of {', '.join(_BITS)}")
    return {"state": plain_state(bits.state), "seeds": _seeds(bits.seed_seq)}


def plain_state(state: Any) -> Any:
    """The `state` of a generator's bits with lists instead of arrays."""
    if isinstance(state, dict):
        return {name: plain_state(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, (np.ndarray, np.generic)) else state


def _seeds(sequence: Any) -> dict[str, Any] | None:
    if type(sequence) is not np.random.SeedSequence:
        return None  # it cannot spawn
    entropy: Any = sequence.entropy
    return {
        "entropy": entropy if isinstance(entropy, int) else [int(word) for word in np.atleast_1d(entropy)],
        "spawn_key": [int(word) for word in sequence.spawn_key],
        "pool_size": int(sequence.pool_size),
        "n_children_spawned": int(sequence.n_children_spawned),
    }


def rebuild(description: Any) -> np.random.Generator:
    """The generator that `describe` described. Raises ValueError for anything else."""
    try:
        state, seeds = description["state"], description["seeds"]
        kind = _BITS[state["bit_generator"]]
        bits = kind() if seeds is None else kind(_sequence(seeds))
        bits.state = _with_arrays(state, bits.state)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError) as error:
        raise ValueError(f"a generator cannot be rebuilt: {error!r}") from error
    return np.random.Generator(bits)


def state_of(description: Any) -> Any:
    """The state of the bits that `rebuild` would give."""
    return rebuild(description).bit_generator.state


def _sequence(seeds: Any) -> np.random.SeedSequence:
    if not 4 <= seeds["pool_size"] <= _MOST_POOL:
        raise ValueError(f"pool_size (={seeds['pool_size']}) must be 4 to {_MOST_POOL}")
    return np.random.SeedSequence(
        seeds["entropy"],
        spawn_key=seeds["spawn_key"],
        pool_size=seeds["pool_size"],
        n_children_spawned=seeds["n_children_spawned"],
    )


def _with_arrays(state: Any, own: Any) -> Any:
    """`state` with arrays where a generator's `own` has them, and only there: NumPy takes [1] for the number 1."""
    if isinstance(own, dict):
        return {name: _with_arrays(state[name], value) for name, value in own.items()}
    if isinstance(own, np.ndarray):
        return np.array(state, own.dtype)
    if isinstance(state, list):
        raise TypeError(f"{state!r} must be a number")
    return state


# ---- those that modules hold ----
def held(network: Module) -> dict[Held, np.random.Generator]:
    """The generators that are attributes of the modules of a network."""
    return {
        (number, name): value
        for number, module in enumerate(network.modules())
        for name, value in vars(module).items()
        if isinstance(value, np.random.Generator)
    }


class Table:
    """Generators as plain data, each once, however often it is held."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}
        self._known: list[np.random.Generator] = []  # kept, so that no other one gets the same id

    def number(self, generator: np.random.Generator, state: Any = None) -> int:
        """The row of a generator; `state`: of its bits, where that is to be an earlier one."""
        if id(generator) not in self._numbers:
            self._known.append(generator)
            self._numbers[id(generator)] = len(self.rows)
            row = describe(generator)
            self.rows.append(row if state is None else {**row, "state": plain_state(state)})
        return self._numbers[id(generator)]

    def modules(self, network: Module) -> list[list[Any]]:
        """[module, attribute, row] of all that a network's modules hold."""
        return [[module, name, self.number(each)] for (module, name), each in held(network).items()]


def modules_of(rows: Any, generators: Sequence[np.random.Generator]) -> dict[Held, np.random.Generator]:
    """What `Table.modules` gave, with the generators themselves. Raises ValueError for anything else."""
    try:
        return {(int(module), str(name)): _row(generators, number) for module, name, number in rows}
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(f"the generators of the modules are not what they should be: {error!r}") from error


def _row(generators: Sequence[np.random.Generator], number: Any) -> np.random.Generator:
    if not isinstance(number, int) or not 0 <= number < len(generators):
        raise ValueError(f"there is no generator {number!r}")
    return generators[number]


def check_held(network: Module, wanted: Iterable[Held]) -> None:
    """ValueError unless just these modules have generators of their own."""
    own, others = set(held(network)), set(wanted)
    if own != others:
        names = [name for name, _ in network.named_modules()]
        places = sorted(f"{names[number] if number < len(names) else number}.{name}" for number, name in own ^ others)
        raise ValueError(f"generators of their own must be held by the same modules, unlike {', '.join(places)}")


def check_room(network: Module, wanted: Iterable[Held]) -> None:
    """ValueError unless replicas of the network can draw from generators in these places."""
    modules = list(network.modules())
    for number, name in wanted:
        there = vars(modules[number]).get(name, "") if 0 <= number < len(modules) else ""
        if there is not None and not isinstance(there, np.random.Generator):
            raise ValueError(f"module {number} has no generator {name!r}")


def hand_out(network: Module, generators: dict[Held, np.random.Generator]) -> None:
    """Let the modules draw from these, which is no change of the network's structure."""
    modules = list(network.modules())
    for (number, name), generator in generators.items():
        vars(modules[number])[name] = generator
