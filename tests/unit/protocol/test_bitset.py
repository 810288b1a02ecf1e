import random

import pytest

from meshsat.protocol import bitset


def test_full_and_span() -> None:
    assert bitset.full(0) == 0
    assert bitset.full(5) == 0b11111
    assert bitset.span(1, 4) == 0b1110
    assert bitset.span(4, 4) == bitset.span(5, 2) == 0


def test_lowest_of_none_is_no_index() -> None:
    assert bitset.lowest(0b1000) == 3
    assert bitset.lowest(0) == -1


def test_members_in_order() -> None:
    assert list(bitset.members(bitset.of([9, 0, 4096]))) == [0, 9, 4096]


def test_any_member_reaches_every_member() -> None:
    bits = bitset.of([0, 7, 300])
    assert {bitset.any_member(bits, random.Random(seed)) for seed in range(200)} == {0, 7, 300}


@pytest.mark.parametrize(
    ("step", "offset", "width", "expected"),
    [(1, 0, 3, {0, 1, 2}), (3, 1, 8, {1, 4, 7}), (3, 2, 2, set()), (4, 3, 4, {3}), (5, 0, 0, set())],
)
def test_every(step: int, offset: int, width: int, expected: set[int]) -> None:
    assert set(bitset.members(bitset.every(step, offset, width))) == expected


def test_bytes_are_little_endian() -> None:
    assert bitset.to_bytes(bitset.of([0, 9]), 10) == b"\x01\x02"
    assert bitset.to_bytes(0, 0) == b""
