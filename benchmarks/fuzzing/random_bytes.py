"""Mutations that know nothing of the format: what bad disks, bad lines and blind fuzzers do."""

from __future__ import annotations

from random import Random

from .cases import Mutation

NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62)
LARGEST = (1 << 64) - 1


def place(rng: Random, data: bytes | bytearray) -> int:
    """A position, mostly one whose byte is not zero: much of some formats is empty."""
    for _ in range(20):
        at = rng.randrange(len(data))
        if data[at] or rng.random() < 0.1:
            return at
    return rng.randrange(len(data))


def bit_flips(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        changed[place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_bytes(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 16))):
        changed[place(rng, data)] = rng.randrange(256)
    return bytes(changed)


def numbers(rng: Random, data: bytes) -> bytes:
    """Numbers of 1 to 8 bytes, in either order, where a limit may lie."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, width = place(rng, data), rng.choice((1, 2, 4, 8))
        value = rng.choice((*NUMBERS, LARGEST, len(data), rng.randrange(len(data)))) & ((1 << 8 * width) - 1)
        changed[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
    return bytes(changed[: len(data)])


def nudged(rng: Random, data: bytes) -> bytes:
    """Numbers a little larger or smaller."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        at, width = place(rng, data), rng.choice((1, 2, 4, 8))
        order = rng.choice(("little", "big"))
        value = int.from_bytes(changed[at : at + width], order) + rng.choice((-8, -1, 1, 8, 4096))
        changed[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, order)
    return bytes(changed[: len(data)])


def truncated(rng: Random, data: bytes) -> bytes:
    return data[: rng.choice((0, 1, 8, rng.randrange(len(data)), len(data) - 1, len(data) - rng.randrange(1, 64)))]


def inserted(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, 8, 100))) + data[at:]


def removed(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 4, 8, 100)) :]


def repeated(rng: Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data)), rng.choice((8, 40, 512))
    return data[: start + length] + data[start : start + length] * rng.choice((1, 3)) + data[start + length :]


def copied_over(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2))):
        source, target, length = place(rng, data), place(rng, data), rng.choice((4, 8, 16, 40, 128))
        changed[target : target + length] = data[source : source + length]
    return bytes(changed)


def zeroed(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    at, length = place(rng, data), rng.choice((1, 8, 64, 512))
    changed[at : at + length] = bytes(min(length, len(data) - at))
    return bytes(changed)


def noise(rng: Random, data: bytes) -> bytes:
    """The beginning as it is, so that the format is known, and then anything."""
    kept = rng.choice((8, 16, 64, len(data) // 2))
    return data[:kept] + rng.randbytes(max(16, len(data) - kept))


GENERIC: dict[str, Mutation] = {
    "bit flips": bit_flips,
    "bytes set": set_bytes,
    "limits": numbers,
    "nudged numbers": nudged,
    "truncated": truncated,
    "inserted": inserted,
    "removed": removed,
    "repeated": repeated,
    "copied over": copied_over,
    "zeroed": zeroed,
    "noise": noise,
}
