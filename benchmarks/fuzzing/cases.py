"""What a format brings to the fuzzing: an ending, valid files, and mutations of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

# A mutation: the bytes of a new file, of a generator and a valid file.
Mutation = Callable[[Random, bytes], bytes]


@dataclass(frozen=True)
class Format:
    """name: as in the table; kind: how `readers` reads it; seeds: valid files; mutations: by what they change."""

    name: str
    ending: str
    kind: str
    seeds: list[bytes]
    mutations: dict[str, Mutation]


@dataclass(frozen=True)
class Input:
    """One file to read: of which format, what was done to it, and its bytes."""

    format: Format
    mutation: str
    data: bytes


def draw(formats: list[Format], count: int, rng: Random, generic: dict[str, Mutation]) -> list[tuple[Format, str, int]]:
    """`count` choices of format, mutation and the seed of its generator: all mutations in turn, as many of each."""
    places = [(form, name) for form in formats for name in ("none", *generic, *form.mutations)]
    chosen = [places[i % len(places)] for i in range(count)]
    return [(form, name, rng.getrandbits(32)) for form, name in chosen]


def make(form: Format, name: str, seed: int, generic: dict[str, Mutation]) -> Input:
    """The input of a choice."""
    rng = Random(seed)
    data = rng.choice(form.seeds)
    if name != "none":
        data = {**generic, **form.mutations}[name](rng, data)
    return Input(form, name, data)
