"""Sets of chunk indexes as Python integers: bit i is chunk i. 4096 chunks are 512 bytes an operation."""

from collections.abc import Iterable, Iterator

from meshsat.protocol.rng import Rng


def full(width: int) -> int:
    return (1 << width) - 1


def of(members: Iterable[int]) -> int:
    bits = 0
    for member in members:
        bits |= 1 << member
    return bits


def span(start: int, stop: int) -> int:
    """The indexes from `start` up to, not including, `stop`."""
    return full(stop) & ~full(start) if stop > start else 0


def lowest(bits: int) -> int:
    """The smallest member; -1 for the empty set."""
    return (bits & -bits).bit_length() - 1


def members(bits: int) -> Iterator[int]:
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def any_member(bits: int, rng: Rng) -> int:
    """A member, at random: the first at or behind a random place. `bits` must not be empty."""
    start = rng.randrange(bits.bit_length())
    behind = bits >> start
    return start + lowest(behind) if behind else lowest(bits)


def every(step: int, offset: int, width: int) -> int:
    """The indexes below `width` that leave `offset` when divided by `step`."""
    if step == 1:
        return full(width)
    rows = -(-width // step)
    pattern, filled = 1 << offset, 1
    while filled < rows:  # double the pattern instead of setting bit by bit
        pattern |= pattern << (step * filled)
        filled *= 2
    return pattern & full(width)


def to_bytes(bits: int, width: int) -> bytes:
    return bits.to_bytes((width + 7) // 8, "little")
