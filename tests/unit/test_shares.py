"""Which entries stay: the youngest, and nobody's at the cost of others while there is room for all."""

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from meshsat.shares import Shares

Entry = tuple[str, int, str]
"""Key, version, owner."""


def filled(entries: Sequence[Entry], limit: int, share: int) -> tuple[Shares[str], dict[str, Entry]]:
    """The shares, and what stayed of the entries."""
    shares: Shares[str] = Shares(limit, share)
    stayed: dict[str, Entry] = {}
    for entry in entries:
        key, version, owner = entry
        stayed[key] = entry
        gone = shares.put(key, version, owner)
        if gone is not None:
            del stayed[gone]
    return shares, stayed


def test_the_oldest_of_whoever_has_more_than_a_share_goes() -> None:
    _, stayed = filled([("a", 5, "x"), ("b", 3, "y"), ("c", 6, "x"), ("d", 7, "x")], limit=10, share=2)
    assert set(stayed) == {"b", "c", "d"}


def test_else_the_oldest_of_all() -> None:
    _, stayed = filled([("a", 5, "x"), ("b", 3, "y"), ("c", 6, "z")], limit=2, share=2)
    assert set(stayed) == {"a", "c"}


def test_what_is_older_than_all_goes_at_once() -> None:
    shares: Shares[str] = Shares(2, 2)
    assert shares.put("a", 5, "x") is None
    assert shares.put("b", 6, "x") is None
    assert shares.put("c", 4, "x") == "c"
    assert shares.put("a", 9, "y") is None
    assert (shares.count("x"), shares.count("y"), len(shares)) == (1, 1, 2)


OWNERS = st.sampled_from(["x", "y", "z"])
KEYS = st.text("abcdefgh", min_size=1, max_size=2)
ENTRIES = st.lists(st.tuples(KEYS, st.integers(0, 1000), OWNERS), max_size=120)


@given(ENTRIES, st.integers(1, 40), st.integers(1, 20))
def test_it_is_what_it_says_whatever_comes(entries: list[Entry], limit: int, share: int) -> None:
    shares, stayed = filled(entries, limit, share)
    assert len(shares) == len(stayed) <= limit
    for owner in "xyz":
        assert shares.count(owner) == sum(entry[2] == owner for entry in stayed.values()) <= share
    assert len(shares._all) <= 2 * len(stayed) + 66
    assert shares._oldest.keys() == {entry[2] for entry in stayed.values()}


@given(ENTRIES, st.integers(1, 40), st.integers(1, 20), st.randoms())
def test_the_same_stay_in_whatever_order_they_come(
    entries: list[Entry], limit: int, share: int, rng: random.Random
) -> None:
    distinct = sorted({(f"{key} {version} {owner}", version, owner) for key, version, owner in entries})
    shuffled = distinct.copy()
    rng.shuffle(shuffled)
    assert filled(distinct, limit, share)[1] == filled(shuffled, limit, share)[1]


@given(ENTRIES, st.lists(st.integers(0, 2000), max_size=200), st.integers(1, 30))
def test_a_flood_displaces_nobody_elses(entries: list[Entry], flood: list[int], share: int) -> None:
    """Three others and one that floods: there is room for all four shares."""
    limit = 4 * share
    _, before = filled(entries, limit, share)
    mallory = [(f"flood {number}", version, "mallory") for number, version in enumerate(flood)]
    mixed = [*entries, *mallory]
    _, after = filled(mixed, limit, share)
    assert {key: entry for key, entry in after.items() if entry[2] != "mallory"} == before
    assert sum(entry[2] == "mallory" for entry in after.values()) == min(share, len(flood))
