"""Rendezvous hashing: a lease changes hands only when its holder goes, or when a better one comes."""

from hypothesis import given
from hypothesis import strategies as st

from meshsat.protocol import lease
from tests.brain import peer

PEERS = [peer(f"node {number}") for number in range(10)]
SOME = st.lists(st.sampled_from(PEERS), min_size=1, max_size=10, unique=True)
NAME = st.builds(lease.segment_lease, st.just("sha256:00"), st.integers(0, 10_000))


@given(NAME, SOME, st.data())
def test_when_one_leaves_only_its_own_leases_move(name: str, peers: list[str], data: st.DataObject) -> None:
    left = data.draw(st.sampled_from(peers))
    before = lease.holder(name, [one for one in PEERS if one in peers])
    after = lease.holder(name, [one for one in PEERS if one in peers and one != left])
    assert before in (after, left)


@given(NAME, SOME, st.sampled_from(PEERS))
def test_when_one_comes_leases_move_only_to_it(name: str, peers: list[str], comer: str) -> None:
    before = lease.holder(name, [one for one in PEERS if one in peers])
    after = lease.holder(name, [one for one in PEERS if one in peers or one == comer])
    assert after in (before, comer)


@given(NAME, SOME)
def test_somebody_holds_it(name: str, peers: list[str]) -> None:
    assert lease.holder(name, [one for one in PEERS if one in peers]) in peers
