"""Copies are placed alike by all, spread over the site, and move only when they must."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from meshsat.fleet.placement import Candidate, holders
from meshsat.trust.keys import PeerId
from tests.brain import peer

PEERS = [peer(f"node {number}") for number in range(12)]
SOME = st.sets(st.sampled_from(PEERS), min_size=1)
NAMES = st.sampled_from([f"r.example/a:{tag}" for tag in range(20)])


def placed(name: str, peers: set[PeerId], copies: int) -> frozenset[PeerId]:
    return holders(name, [Candidate(one) for one in peers], roles=(), copies=copies)


@given(NAMES, SOME, st.integers(1, 15))
def test_there_are_as_many_as_asked_for_or_as_there_are(name: str, there: set[PeerId], copies: int) -> None:
    assert len(placed(name, there, copies)) == min(copies, len(there))
    assert placed(name, there, copies) <= there


@given(NAMES, SOME, st.integers(1, 5), st.sampled_from(PEERS))
def test_who_goes_or_comes_moves_its_own_copies_only(
    name: str, there: set[PeerId], copies: int, one: PeerId
) -> None:
    with_it, without = placed(name, there | {one}, copies), placed(name, there - {one}, copies)
    assert with_it - {one} <= without
    if one not in with_it:
        assert with_it == without


def test_names_are_spread_over_the_nodes() -> None:
    counts = Counter(
        holder for number in range(1200) for holder in placed(f"r.example/{number}:1", set(PEERS), 2)
    )
    assert len(counts) == 12
    assert min(counts.values()) > 140
    assert max(counts.values()) < 260


def test_roles_and_room() -> None:
    candidates = [
        Candidate(PEERS[0], frozenset({"cache", "node"})),
        Candidate(PEERS[1], frozenset({"cache"}), has_room=False),
        Candidate(PEERS[2], frozenset({"node"})),
    ]
    assert holders("x", candidates, roles=["cache"], copies=2) == {PEERS[0]}
    assert holders("x", candidates, roles=["cache"], copies="all") == {PEERS[0], PEERS[1]}
    assert holders("x", candidates, roles=(), copies="all") == set(PEERS[:3])
    assert holders("x", candidates, roles=["other"], copies="all") == frozenset()
