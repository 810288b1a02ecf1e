"""Bitsets obey the laws of sets."""

import random

from hypothesis import given
from hypothesis import strategies as st

from meshsat.protocol import bitset

MEMBERS = st.sets(st.integers(0, 300), max_size=40)
WIDTH = st.integers(0, 300)


@given(MEMBERS, MEMBERS)
def test_operations_are_those_of_sets(one: set[int], other: set[int]) -> None:
    left, right = bitset.of(one), bitset.of(other)
    assert list(bitset.members(left)) == sorted(one)
    assert set(bitset.members(left | right)) == one | other
    assert set(bitset.members(left & right)) == one & other
    assert set(bitset.members(left & ~right)) == one - other
    assert left.bit_count() == len(one)
    assert bitset.lowest(left) == min(one, default=-1)


@given(WIDTH, WIDTH, WIDTH)
def test_span_and_full_are_ranges(width: int, start: int, stop: int) -> None:
    assert set(bitset.members(bitset.full(width))) == set(range(width))
    assert set(bitset.members(bitset.span(start, stop))) == set(range(start, stop))


@given(st.integers(1, 40), st.data(), WIDTH)
def test_every_is_a_range_with_a_step(step: int, data: st.DataObject, width: int) -> None:
    offset = data.draw(st.integers(0, step - 1))
    assert set(bitset.members(bitset.every(step, offset, width))) == set(range(offset, width, step))


@given(st.integers(1, 12), WIDTH)
def test_the_shares_of_all_takers_are_the_whole_and_do_not_overlap(step: int, width: int) -> None:
    shares = [bitset.every(step, offset, width) for offset in range(step)]
    assert sum(shares) == bitset.full(width)


@given(MEMBERS.filter(bool), st.integers())
def test_any_member_is_one(members: set[int], seed: int) -> None:
    assert bitset.any_member(bitset.of(members), random.Random(seed)) in members


@given(MEMBERS)
def test_bytes_and_back(members: set[int]) -> None:
    data = bitset.to_bytes(bitset.of(members), 301)
    assert len(data) == 38
    assert int.from_bytes(data, "little") == bitset.of(members)
